//! Settings that can change during a chat and are saved with its session: the same flags on the command line and in
//! `/set`.
//!
//! A session stores them as given, by long flag name, and the same code parses them each time. So defaults, settings
//! files and environment variables stay in effect, and a flag added to [`SamplingArgs`] needs no code here.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args as ClapArgs, Command, FromArgMatches};

use crate::chat::overflow::OnOverflow;
use crate::chat::thinking::Reasoning;
use crate::cli::engine::{check_prompting, max_tokens, sampling};
use crate::cli::failure::Failure;
use crate::cli::sampling::SamplingArgs;
use crate::llama::sampler::Sampling;

/// Value that removes a setting.
const DEFAULT: &str = "default";

#[derive(Debug, ClapArgs)]
struct SettingArgs {
    /// Stop an answer after N tokens (-1: until the context is full)
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "LLAMA_ARG_N_PREDICT", hide_env = true)]
    n_predict: i64,

    /// End an answer before this text (repeatable)
    #[arg(short, long, value_name = "STOP", allow_hyphen_values = true)]
    reverse_prompt: Vec<String>,

    /// Show, hide or turn off the model's thinking
    #[arg(long, value_name = "WHAT", default_value = "show")]
    reasoning: Reasoning,

    /// What to do when the chat no longer fits into the context
    #[arg(long, value_name = "WHAT", default_value = "drop-oldest")]
    on_overflow: OnOverflow,

    /// How tokens are chosen.
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Settings by the long names of their flags.
pub type Given = BTreeMap<String, Vec<String>>;

/// The settings of the command line, and the defaults of the others.
#[derive(Debug, Default)]
pub struct GivenArgs {
    /// Settings that the command line gives.
    pub given: Given,
    /// Defaults of all other settings, from the flag or from a settings file.
    pub defaults: Given,
}

impl ClapArgs for GivenArgs {
    fn augment_args(command: Command) -> Command {
        SettingArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingArgs::augment_args_for_update(command)
    }
}

impl FromArgMatches for GivenArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<GivenArgs, clap::Error> {
        let from = |source| values(matches, |id| matches.value_source(id) == Some(source));
        Ok(GivenArgs { given: from(ValueSource::CommandLine), defaults: from(ValueSource::DefaultValue) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let GivenArgs { given, defaults } = GivenArgs::from_arg_matches(matches)?;
        self.given.extend(given);
        self.defaults.extend(defaults);
        Ok(())
    }
}

/// The settings of a chat: as given, and parsed.
#[derive(Debug)]
pub struct Settings {
    given: Given,
    defaults: Given,
    /// Every setting with its value, for `/set`.
    pub shown: Given,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Whether the seed was chosen at random here.
    pub is_seed_random: bool,
    /// Token limit of an answer.
    pub max_tokens: Option<usize>,
    /// Stop strings.
    pub stops: Vec<String>,
    /// Whether to show, hide or turn off thinking.
    pub reasoning: Reasoning,
    /// What to do if the chat no longer fits into the context.
    pub on_overflow: OnOverflow,
}

impl Settings {
    /// Parses `given` over `defaults`. Replaces a random seed by a number, which becomes a given setting.
    ///
    /// # Errors
    /// If a name or a value is invalid.
    pub fn new(mut given: Given, defaults: Given) -> Result<Settings, Failure> {
        let args = parse(&given, &defaults)?.1;
        let sampling = sampling(&args.sampling)?;
        let max_tokens = max_tokens(args.n_predict)?;
        check_prompting(&args.reverse_prompt, false, None)?;
        given.insert("seed".to_owned(), vec![sampling.seed.to_string()]);
        let shown = values(&parse(&given, &defaults)?.0, |_| true);
        let is_seed_random = args.sampling.seed == -1;
        let SettingArgs { reverse_prompt: stops, reasoning, on_overflow, .. } = args;
        Ok(Settings { given, defaults, shown, sampling, is_seed_random, max_tokens, stops, reasoning, on_overflow })
    }

    /// The given settings, to be saved.
    #[must_use]
    pub fn given(&self) -> &Given {
        &self.given
    }

    /// Copies the settings with one more; the value `default` removes a setting.
    ///
    /// # Errors
    /// If the name or the value is invalid.
    pub fn with(&self, key: &str, value: &str) -> Result<Settings, Failure> {
        let mut given = self.given.clone();
        given.remove(key);
        if value != DEFAULT || !keys().iter().any(|known| known == key) {
            given.insert(key.to_owned(), vec![value.to_owned()]);
        }
        self.of_other(given)
    }

    /// The settings of another chat, with the same defaults.
    ///
    /// # Errors
    /// If a name or a value is invalid.
    pub fn of_other(&self, given: Given) -> Result<Settings, Failure> {
        Settings::new(given, self.defaults.clone())
    }
}

/// The names of all settings.
#[must_use]
pub fn keys() -> Vec<String> {
    command().get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

fn command() -> Command {
    SettingArgs::augment_args(Command::new("set").no_binary_name(true).disable_help_flag(true))
}

fn parse(given: &Given, defaults: &Given) -> Result<(ArgMatches, SettingArgs), Failure> {
    let command = command().mut_args(|arg| match arg.get_long().and_then(|long| defaults.get(long)) {
        Some(values) => arg.default_values(values.clone()),
        None => arg,
    });
    let mut words: Vec<OsString> = Vec::new();
    for (key, values) in given {
        let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(key)) else {
            return Err(Failure::usage(format!("there is no setting {key:?}"))
                .with_hint(format!("the settings are {}", keys().join(", "))));
        };
        for value in values {
            match (arg.get_action().takes_values(), value.as_str()) {
                (true, _) => words.push(format!("--{key}={value}").into()),
                (false, "true") => words.push(format!("--{key}").into()),
                (false, "false") => {}
                (false, _) => return Err(Failure::usage(format!("{key} must be true or false, not {value:?}"))),
            }
        }
    }
    let reason = |error: clap::Error| {
        // Only clap's first line says what is wrong; the rest is about the command line.
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        let failure = Failure::usage(line.strip_prefix("error: ").unwrap_or(line));
        let choices = text.lines().find_map(|line| line.trim().strip_prefix("[possible values: "));
        match (error.kind(), choices) {
            (ErrorKind::InvalidValue, Some(choices)) => {
                failure.with_hint(format!("choose from {}", choices.trim_end_matches(']')))
            }
            _ => failure,
        }
    };
    let matches = command.clone().try_get_matches_from(words).map_err(reason)?;
    let args = SettingArgs::from_arg_matches(&matches).map_err(reason)?;
    Ok((matches, args))
}

/// The raw values of the settings that `is_wanted` selects.
fn values(matches: &ArgMatches, is_wanted: impl Fn(&str) -> bool) -> Given {
    let mut values = Given::new();
    for arg in command().get_arguments() {
        let id = arg.get_id().as_str();
        let (true, Some(name), Some(raw)) = (is_wanted(id), arg.get_long(), matches.get_raw(id)) else { continue };
        values.insert(name.to_owned(), raw.map(|value| value.to_string_lossy().into_owned()).collect());
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Given {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect()
    }

    fn new(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(given(pairs), Given::new()).unwrap()
    }

    #[test]
    fn what_is_given_is_understood_and_kept() {
        let settings = new(&[("temp", "0.5"), ("seed", "7"), ("reverse-prompt", "-x")]);
        assert_eq!((settings.sampling.temperature, settings.sampling.seed), (0.5, 7));
        assert_eq!((settings.stops.as_slice(), settings.reasoning), (&["-x".to_owned()][..], Reasoning::Show));
        let changed = settings.with("reasoning", "off").unwrap().with("temp", "default").unwrap();
        assert_eq!(*changed.given(), given(&[("reasoning", "off"), ("reverse-prompt", "-x"), ("seed", "7")]));
        assert_eq!(changed.shown["on-overflow"], ["drop-oldest"]);
    }

    #[test]
    fn a_random_seed_is_settled_once() {
        let settings = new(&[]);
        let seed = settings.sampling.seed;
        assert_eq!(settings.with("temp", "1").unwrap().sampling.seed, seed);
        assert_eq!((settings.is_seed_random, &settings.given()["seed"]), (true, &vec![seed.to_string()]));
    }

    #[test]
    fn what_a_file_says_holds_where_nothing_is_given_and_is_not_kept() {
        let file = given(&[("temp", "0.1"), ("seed", "3"), ("ignore-eos", "true"), ("reverse-prompt", "-x")]);
        let settings = Settings::new(given(&[("temp", "0.5")]), file).unwrap();
        assert_eq!((settings.sampling.temperature, settings.sampling.seed, settings.is_seed_random), (0.5, 3, false));
        assert_eq!((settings.sampling.ignore_eos, settings.stops.as_slice()), (true, &["-x".to_owned()][..]));
        let back = settings.with("temp", "default").unwrap();
        assert_eq!((back.sampling.temperature, back.shown["temp"].as_slice()), (0.1, &["0.1".to_owned()][..]));
        assert_eq!(*back.given(), given(&[("seed", "3")]));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let told = |key, value| new(&[("seed", "7")]).with(key, value).unwrap_err().to_string();
        assert!(
            told("warmth", "1")
                .starts_with("error: there is no setting \"warmth\"\nhint: the settings are n-predict, ")
        );
        assert!(told("model", "default").contains("there is no setting"));
        assert!(told("temp", "hot").contains("invalid value 'hot' for '--temp <T>'"), "{}", told("temp", "hot"));
        assert!(told("top-p", "2").contains("--top-p must be a number from 0 to 1"));
        assert!(
            told("reasoning", "loud").ends_with("hint: choose from show, hide, off"),
            "{}",
            told("reasoning", "loud")
        );
        assert!(told("n-predict", "0").contains("-n must be"));
    }
}
