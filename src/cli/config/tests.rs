use clap::{CommandFactory as _, FromArgMatches as _};

use super::show::table;
use super::*;
use crate::cli::args::When;
use crate::cli::commands::{self, Args};
use crate::cli::run::args::RunArgs;
use crate::cli::short_flags;

fn parse(text: &str, profile: Option<&str>) -> Result<Config, Failure> {
    Config::parse(Path::new("c.toml"), text, profile, &Args::command())
}

fn run(config: &Config, arguments: &[&str]) -> RunArgs {
    let arguments = ["chaski", "run"].iter().chain(arguments).map(OsString::from);
    let matches = config.apply(Args::command()).try_get_matches_from(short_flags::expand(arguments).unwrap()).unwrap();
    match Args::from_arg_matches(&matches).unwrap().command {
        Some(commands::Command::Run(run)) => *run,
        other => panic!("{other:?}"),
    }
}

const TEXT: &str = r####"
model = "m.gguf"
temp = 0.25
n-predict = 11
quiet = true
reverse-prompt = ["###", "--end"]
flash-attn = "on"

[profiles.cold]
temp = 0
[profiles.other]
n-predict = 12
quiet = false
"####;

#[test]
fn settings_are_defaults_of_their_flags() {
    let run_with = |profile, arguments: &[&str]| run(&parse(TEXT, profile).unwrap(), arguments);
    let found = run_with(None, &[]);
    assert_eq!((found.engine.model.as_path(), found.sampling.temp, found.quiet), (Path::new("m.gguf"), 0.25, true));
    assert_eq!(found.reverse_prompt, ["###", "--end"]);
    assert!(matches!(found.engine.flash_attn, Some(When::On)));
    assert_eq!(run_with(Some("cold"), &[]).sampling.temp, 0.0);
    assert!(!run_with(Some("other"), &[]).quiet);
    let given = run_with(Some("other"), &["-m", "x", "-r", "stop", "-fa", "off"]);
    assert_eq!((given.engine.model.as_path(), given.reverse_prompt), (Path::new("x"), vec!["stop".to_owned()]));
}

#[test]
fn a_path_may_begin_at_home() {
    let home = etcetera::home_dir().unwrap();
    let given = |text: &str| parse(text, None).unwrap().settings.into_values().next().unwrap().values;
    assert_eq!(given("model = '~/a.gguf'"), [home.join("a.gguf").to_str().unwrap()]);
    assert_eq!(given("lora = '~/a.gguf=0.5'"), [home.join("a.gguf=0.5").to_str().unwrap()]);
    assert_eq!(given("system-prompt = '~/a'"), ["~/a"]);
    assert_eq!(given("file = '~a/b'"), ["~a/b"]);
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (text, profile, message) in [
        ("x = 1\n\ntemp = ", None, "c.toml:3: "),
        ("\ntempp = 1", None, "c.toml:2: there is no setting 'tempp'\nhint: did you mean temp?"),
        ("zzz = 1", None, "c.toml:1: there is no setting 'zzz'\nhint: settings have"),
        ("config = 'x'", None, "c.toml:1: there is no setting 'config'"),
        ("temp = 'hot'", None, "c.toml:1: 'temp': invalid value 'hot'"),
        ("flash-attn = 'of'", None, "c.toml:1: 'flash-attn': invalid value 'of'"),
        ("quiet = 1", None, "c.toml:1: 'quiet': expected true or false"),
        ("temp = [1, 2]", None, "c.toml:1: 'temp': expected one value"),
        ("temp = { a = 1 }", None, "c.toml:1: 'temp' must be a text"),
        ("temp = 0x10", None, "c.toml:1: 'temp' must be a text"),
        ("[profiles]\na = 1", None, "c.toml:1: profiles must be tables"),
        ("[profiles.a]\ntemp = 1\nseedd = 2", None, "c.toml:3: there is no setting 'seedd'\nhint: did you mean seed?"),
        (TEXT, Some("hot"), "c.toml: there is no profile 'hot'\nhint: the profiles in this file: cold, other"),
    ] {
        let failure = parse(text, profile).unwrap_err().to_string();
        assert!(failure.contains(message), "{text:?}: {failure}");
    }
}

#[test]
fn what_is_shown_is_a_file_that_says_the_same() {
    let config = parse(TEXT, Some("cold")).unwrap();
    let shown = table(&config, &Args::command(), &|name| (name == "LLAMA_ARG_N_PREDICT").then(|| "7".to_owned()));
    for line in
        ["temp = 0  # profile cold, line 10", "n-predict = 7  # LLAMA_ARG_N_PREDICT", "model = \"m.gguf\"  # line 2"]
    {
        assert!(shown.lines().any(|found| found == line), "{line:?} is not in:\n{shown}");
    }
    let text = "temp = 1.5\nsystem-prompt = '007'\ngrammar = '0x1'\nregex = '1.'";
    let written = table(&parse(text, None).unwrap(), &Args::command(), &|_| None);
    assert!(written.contains("temp = 1.5  #") && written.contains("system-prompt = \"007\"  #"), "{written}");
    assert_eq!(parse(&written, None).unwrap().settings.len(), 4);
    let again = parse(&shown, None).unwrap();
    assert_eq!(again.settings["temp"].values, ["0"]);
    assert_eq!(again.settings["reverse-prompt"].values, ["###", "--end"]);
    assert_eq!(again.settings.len(), config.settings.len());
}
