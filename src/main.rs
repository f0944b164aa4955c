//! The `chaski` command.

fn main() -> std::process::ExitCode {
    chaski::cli::main(std::env::args_os()).into()
}
