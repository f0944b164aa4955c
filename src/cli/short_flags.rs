//! Expands llama.cpp's short flags of several letters, which clap would split into letters.

use std::ffi::OsString;

use crate::cli::failure::Failure;

/// Flags that chaski has too.
const KNOWN: [(&str, &str); 8] = [
    ("-sys", "--system-prompt"),
    ("-tb", "--threads-batch"),
    ("-ngl", "--n-gpu-layers"),
    ("-np", "--parallel"),
    ("-md", "--draft-model"),
    ("-fa", "--flash-attn"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
];

/// Flags that chaski lacks, with a hint.
const UNKNOWN: [(&[&str], &str); 5] = [
    (
        &["-hf", "-hfr", "-hff", "-hft", "-mu", "-dr"],
        "chaski does not download models: give -m FILE.gguf, or -m NAME from chaski models list; \
         scripts/get-model.sh downloads one",
    ),
    (&["-hfd", "-hfrd"], "chaski does not download models: give the file of the draft model with -md FILE"),
    (&["-cnv", "-no-cnv", "-st"], "for a chat use chaski chat, for one answer chaski run"),
    (&["-sysf"], "use -sys \"$(cat FILE)\""),
    (&["-jf"], "use --json-schema-file FILE"),
];

/// The argument after one of these flags is a text, whatever it looks like.
const BEFORE_TEXTS: [&str; 3] = ["-r", "--reverse-prompt", "--regex"];

/// Replaces the short flags by long ones.
///
/// # Errors
/// At a flag of llama.cpp that chaski lacks.
pub fn expand(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, Failure> {
    let mut expanded: Vec<OsString> = Vec::new();
    let mut is_rest = false;
    for argument in arguments {
        let is_text = is_rest || expanded.last().is_some_and(|last| BEFORE_TEXTS.iter().any(|flag| last == flag));
        is_rest |= !is_text && argument == "--";
        let known = KNOWN.iter().find(|(short, _)| !is_text && argument == *short);
        let unknown = UNKNOWN.iter().find(|(flags, _)| !is_text && flags.iter().any(|flag| argument == *flag));
        if let Some((_, hint)) = unknown {
            return Err(Failure::usage(format!("unknown flag {}", argument.display())).with_hint(*hint));
        }
        expanded.push(known.map_or(argument, |(_, long)| (*long).into()));
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::GpuLayers;
    use crate::cli::commands::{Args, Command};
    use crate::cli::run::args::RunArgs;

    fn expanded(line: &[&str]) -> Result<Vec<OsString>, Failure> {
        expand(line.iter().map(OsString::from))
    }

    fn run(line: &[&str]) -> RunArgs {
        let line = [&["chaski", "run", "-m", "x"], line].concat();
        let args = Args::try_parse_from(expanded(&line).unwrap()).unwrap();
        let Some(Command::Run(run)) = args.command else { panic!("run") };
        *run
    }

    #[test]
    fn llama_cpps_short_flags_are_understood() {
        let run = run(&["-sys", "be brief", "-tb", "3", "-ngl", "0", "-fa", "off", "-s", "-1", "-md", "d.gguf"]);
        assert_eq!(run.system_prompt.as_deref(), Some("be brief"));
        assert_eq!(
            (run.engine.threads_batch, run.engine.n_gpu_layers(), run.sampling.seed),
            (Some(3), GpuLayers::Number(0), -1)
        );
        assert_eq!(run.drafting.draft_model, Some("d.gguf".into()));
    }

    #[test]
    fn those_that_are_none_are_not_taken_apart() {
        for flag in UNKNOWN.iter().flat_map(|(flags, _)| *flags) {
            let failure = expanded(&["chaski", "run", flag, "x"]).unwrap_err().to_string();
            assert!(failure.contains(flag) && failure.contains("hint: "), "{failure}");
        }
    }

    #[test]
    fn texts_may_look_like_flags() {
        assert_eq!(run(&["-r", "-hf", "-r", "-sys", "-r", "--"]).reverse_prompt, ["-hf", "-sys", "--"]);
        let rest = ["chaski", "run", "--", "-hf", "-sys"];
        assert_eq!(expanded(&rest).unwrap(), rest);
    }
}
