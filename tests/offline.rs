//! Chaski has no network code: the binary imports nothing that opens a connection, and it works without sockets.
//!
//! It does import `socketpair`, `send`, `recv` and the like. The standard library starts processes with them, and
//! signals wake threads through them. Such socket pairs connect only the process and its children.

#![cfg(feature = "llama")]

#[cfg(target_os = "linux")]
mod support;

use std::fs;

use object::Object as _;

/// Without any of these functions no connection can be opened.
const NETWORK: [&str; 15] = [
    "socket",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "getaddrinfo",
    "getnameinfo",
    "gethostbyname",
    "gethostbyname_r",
    "res_query",
    "res_search",
    "getifaddrs",
    "if_nametoindex",
    "WSASocketW",
];

#[test]
fn nothing_is_imported_that_connects() {
    let binary = fs::read(env!("CARGO_BIN_EXE_chaski")).unwrap();
    let binary = object::File::parse(&*binary).unwrap();
    let imports = binary.imports().unwrap();
    let names: Vec<String> = imports
        .iter()
        .map(|import| String::from_utf8_lossy(import.name()).trim_start_matches('_').to_owned())
        .collect();
    // Guards against a parser that finds no imports.
    assert!(names.iter().any(|name| name == "read") && names.len() > 50, "{names:?}");
    let found: Vec<&String> = names.iter().filter(|name| NETWORK.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[cfg(target_os = "linux")]
mod banned {
    use std::collections::BTreeMap;
    use std::fs;
    use std::net::TcpListener;
    use std::process::{Command, Output};
    use std::thread;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    const CALLS: [i64; 6] = [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept4,
        libc::SYS_io_uring_setup,
    ];

    /// Runs a command that is killed as soon as it or a child makes one of these system calls.
    fn run(command: &mut Command) -> Output {
        let in_a_thread = || {
            let rules: BTreeMap<i64, _> = CALLS.into_iter().map(|call| (call, Vec::new())).collect();
            let machine = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, machine);
            let program: BpfProgram = filter.unwrap().try_into().unwrap();
            seccompiler::apply_filter(&program).unwrap();
            command.output().unwrap()
        };
        thread::scope(|scope| scope.spawn(in_a_thread).join().unwrap())
    }

    #[test]
    fn commands_work_where_sockets_are_deadly() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(place.path().join(name), bytes).unwrap();
        write("model.gguf", &crate::support::tiny::tiny_llama(3));
        write("prompts.txt", b"the rain\nin the station\n");
        write("text.txt", b"the rain in the station");
        // Without the sandbox too: the program itself must be offline.
        for line in [
            "run -m model.gguf -p rain -n 8 --no-sandbox",
            "run -m model.gguf -p rain -n 8",
            "batch -m model.gguf -i prompts.txt -o results.jsonl -n 8 --no-sandbox",
            "bench -m model.gguf --rows --no-sandbox",
            "drafter build -m model.gguf -o base.chaski text.txt",
            "--version",
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_chaski"));
            command.args(line.split(' ')).current_dir(place.path()).env_clear().env("HOME", place.path());
            let output = run(command.env("XDG_CACHE_HOME", place.path().join("cache")));
            assert!(output.status.success(), "{line}: {output:?}");
        }
    }

    #[test]
    #[ignore = "a process for the other test"]
    fn child() {
        drop(TcpListener::bind("127.0.0.1:0"));
    }

    #[test]
    fn the_ban_is_one() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = run(command.args(["--ignored", "--exact", "banned::child"]));
        assert!(output.status.code().is_none(), "{output:?}");
    }
}
