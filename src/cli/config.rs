//! Settings from a file: what flags say where they are not given.
//!
//! ```toml
//! model = "~/models/some.gguf"        # keys are the names of long flags; ~ is the user's folder
//! temp = 0.2
//!
//! [profiles.draft]                     # chosen by --profile draft, or CHASKI_PROFILE
//! temp = 1.0
//! reverse-prompt = ["###", "END"]      # flags that can be repeated take lists
//! ```
//!
//! A setting is a default of its flag: what the command line says wins, then the environment, then the profile, then the
//! top of the file. It holds in the commands that answer ([`ConfigArgs`] is among their flags), wherever they have such a
//! flag. A key that none has is an error, and so is a value that the flag would not take, in profiles not
//! chosen as well; whether a number is in its range is looked at when it is used.

pub mod show;

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args as ClapArgs, Command};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::cli::failure::Failure;
use crate::cli::folders;
use crate::cli::input::MAX_BYTES;
use crate::cli::lora::LoraArg;
use crate::cli::output::stderr_line;
use crate::cli::variables::Variables;
use crate::encoding::read_text;

/// Names the profile.
const VARIABLE: &str = "CHASKI_PROFILE";

/// The table of profiles.
const PROFILES: &str = "profiles";

/// Flags that say which settings to take are none themselves.
const NO_SETTINGS: [&str; 4] = ["config", "profile", "help", "version"];

/// Names farther from all flags than this are like none of them (Jaro-Winkler).
const LEAST_LIKENESS: f64 = 0.8;

/// Which settings a command takes.
#[derive(Clone, Debug, Default, ClapArgs)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// Read settings from this file [default: ~/.config/chaski/config.toml]
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Use a profile of the settings file
    #[arg(hide_short_help = true, long, value_name = "NAME", env = VARIABLE, hide_env = true)]
    pub profile: Option<String>,
}

/// A setting of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As the flag's values.
    pub values: Vec<String>,
    /// Where it stands, from 1.
    pub line: usize,
    /// In this profile.
    pub profile: Option<String>,
}

/// Settings by the long names of their flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The file they come from, if there is one.
    pub path: Option<PathBuf>,
    /// Those in force.
    pub settings: BTreeMap<String, Setting>,
}

impl Config {
    /// Reads the file given, or else the usual one, if it is there.
    ///
    /// # Errors
    /// When it cannot be read, or anything in it is wrong.
    pub fn read(args: &ConfigArgs, command: &Command) -> Result<Config, Failure> {
        let path = args.config.clone().or_else(usual_path);
        let text = path.as_deref().map(|path| File::open(path).and_then(|file| read_text(file, MAX_BYTES)));
        let is_missing = |error: &io::Error| {
            let kinds = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
            args.config.is_none() && kinds.contains(&error.kind())
        };
        // Of a home that this user may not look into, nobody knows whether there is one.
        let is_hidden = |error: &io::Error| {
            args.config.is_none() && args.profile.is_none() && error.kind() == io::ErrorKind::PermissionDenied
        };
        match (path, text) {
            (Some(path), Some(Err(error))) if is_hidden(&error) => {
                stderr_line(&format!("notice: {}: permission denied; the settings file is not used", path.display()));
                Ok(Config::default())
            }
            (Some(path), Some(Ok(text))) => Config::parse(&path, &text, args.profile.as_deref(), command),
            (Some(path), Some(Err(error))) if !is_missing(&error) => Err(Failure::io(&path, &error)),
            (path, _) => match &args.profile {
                None => Ok(Config::default()),
                Some(name) => {
                    Err(Failure::usage(format!("there is no profile '{name}', because there is no settings file"))
                        .about("profile")
                        .with_hint(format!("create the file {}", path.unwrap_or_default().display())))
                }
            },
        }
    }

    /// Reads the text of the file `path`; `command` has the flags.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub fn parse(path: &Path, text: &str, profile: Option<&str>, command: &Command) -> Result<Config, Failure> {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
        let wrong = |at, message: &str| Failure::usage(format!("{}:{}: {message}", path.display(), line(at)));
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, &error.message().replace('\n', ", "))
        })?;
        let flags = flags(command);
        let mut all: Vec<(String, Setting)> = Vec::new();
        let mut add = |profile: Option<&str>, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>| {
            let name: &str = key.get_ref();
            let at = key.span().start;
            let flag = flags.get(name).ok_or_else(|| {
                let failure = wrong(at, &format!("there is no setting '{name}'"));
                match nearest(name, flags.keys()) {
                    Some(like) => failure.with_hint(format!("did you mean {like}?")),
                    None => failure.with_hint("settings have the names of long flags; chaski run --help lists them"),
                }
            })?;
            let values = values(value.get_ref())
                .ok_or_else(|| wrong(at, &format!("'{name}' must be a text, a number, true or false, or a list")))?;
            let values =
                if flag.iter().any(is_path) { values.iter().map(|path| at_home(path)).collect() } else { values };
            check(flag, &values).map_err(|message| wrong(at, &format!("'{name}': {message}")))?;
            let profile = profile.map(str::to_owned);
            all.push((name.to_owned(), Setting { values, line: line(at), profile }));
            Ok::<(), Failure>(())
        };
        let (tables, settings): (Vec<_>, Vec<_>) =
            table.get_ref().iter().partition(|(key, _)| *key.get_ref() == PROFILES);
        settings.into_iter().try_for_each(|(key, value)| add(None, key, value))?;
        let mut names = Vec::new();
        for (key, profiles) in tables {
            let no_table = || wrong(key.span().start, "profiles must be tables, as in [profiles.NAME]");
            for (name, settings) in profiles.get_ref().as_table().ok_or_else(no_table)? {
                names.push(name.get_ref().to_string());
                let settings = settings.get_ref().as_table().ok_or_else(no_table)?;
                let name: &str = name.get_ref();
                settings.iter().try_for_each(|(key, value)| add(Some(name), key, value))?;
            }
        }
        if let Some(name) = profile.filter(|&name| !names.iter().any(|known| known == name)) {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Failure::usage(format!("{}: there is no profile '{name}'", path.display()))
                .about("profile")
                .with_hint(format!("the profiles in this file: {known}")));
        }
        // The profile's come last, and win.
        let (chosen, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, setting)| setting.profile.is_some());
        let chosen = chosen.into_iter().filter(|(_, setting)| setting.profile.as_deref() == profile);
        let settings = others.into_iter().chain(chosen).collect();
        Ok(Config { path: Some(path.to_owned()), settings })
    }

    /// The same commands with these settings as their defaults.
    #[must_use]
    pub fn apply(&self, mut command: Command) -> Command {
        for name in names(&command) {
            command = command.mut_subcommand(name, |answering| {
                answering.mut_args(|arg| match arg.get_long().and_then(|long| self.settings.get(long)) {
                    // It is no longer missing where it is not given.
                    Some(setting) => arg.required(false).default_values(setting.values.clone()),
                    None => arg,
                })
            });
        }
        command
    }
}

/// The command with the settings of the file that `arguments` name, or of the usual one.
///
/// # Errors
/// When there is something wrong with it.
pub fn configured(command: Command, arguments: &[OsString]) -> Result<Command, Failure> {
    // Mistakes are told when all is parsed.
    let given = command.clone().ignore_errors(true).try_get_matches_from(arguments);
    let Ok(all) = given else { return Ok(command) };
    let Some((name, given)) = all.subcommand() else { return Ok(command) };
    if !names(&command).iter().any(|answering| answering == name) {
        return Ok(command);
    }
    let args = ConfigArgs {
        config: given.get_one::<PathBuf>("config").cloned(),
        profile: given.get_one::<String>("profile").cloned(),
    };
    let read = Config::read(&args, &command);
    Ok(read.map_err(|failure| failure.with_variables(&Variables::of(&command, &all)))?.apply(command))
}

/// Where the file is if none is given.
fn usual_path() -> Option<PathBuf> {
    Some(folders::config()?.join("chaski").join("config.toml"))
}

/// The commands that settings are for.
fn names(command: &Command) -> Vec<String> {
    let takes = |command: &&Command| command.get_arguments().any(|arg| arg.get_id() == "profile");
    command.get_subcommands().filter(takes).map(|command| command.get_name().to_owned()).collect()
}

/// All that can be set, by its name.
fn flags(command: &Command) -> BTreeMap<String, Vec<Arg>> {
    let names = names(command);
    let answering = command.get_subcommands().filter(|command| names.iter().any(|name| name == command.get_name()));
    let mut flags: BTreeMap<String, Vec<Arg>> = BTreeMap::new();
    for arg in answering.flat_map(Command::get_arguments) {
        if let Some(long) = arg.get_long().filter(|long| !NO_SETTINGS.contains(long)) {
            flags.entry(long.to_owned()).or_default().push(arg.clone());
        }
    }
    flags
}

/// A value as texts; `None` for what no flag takes.
fn values(value: &DeValue<'_>) -> Option<Vec<String>> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(n) if n.radix() == 10 => Some(n.as_str().to_owned()),
        DeValue::Float(n) => Some(n.as_str().to_owned()),
        DeValue::Boolean(is_on) => Some(is_on.to_string()),
        _ => None,
    };
    match value {
        DeValue::Array(values) => values.iter().map(|value| one(value.get_ref())).collect(),
        value => Some(vec![one(value)?]),
    }
}

/// Whether a flag takes a path.
fn is_path(flag: &Arg) -> bool {
    let type_id = flag.get_value_parser().type_id();
    type_id == TypeId::of::<PathBuf>() || type_id == TypeId::of::<LoraArg>()
}

/// A path in which `~` is the user's folder, as in a shell, which reads no file of settings.
fn at_home(path: &str) -> String {
    let home = || Some(etcetera::home_dir().ok()?.to_str()?.to_owned());
    let rest = path.strip_prefix('~').filter(|rest| rest.starts_with('/'));
    rest.and_then(|rest| Some(home()? + rest)).unwrap_or_else(|| path.to_owned())
}

/// Whether all flags of a name would take these values.
fn check(flags: &[Arg], values: &[String]) -> Result<(), String> {
    let takes = |flag: &Arg| {
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            let is_bool = matches!(values, [value] if value == "true" || value == "false");
            return if is_bool { Ok(()) } else { Err("expected true or false".to_owned()) };
        }
        if values.len() != 1 && !matches!(flag.get_action(), ArgAction::Append) {
            return Err("expected one value".to_owned());
        }
        // The flag alone, so that nothing else can be wrong.
        let alone = Arg::new("flag")
            .long("flag")
            .action(flag.get_action().clone())
            .value_parser(flag.get_value_parser().clone());
        let arguments = values.iter().map(|value| format!("--flag={value}"));
        let parsed = Command::new("check").no_binary_name(true).arg(alone).try_get_matches_from(arguments);
        parsed.map(drop).map_err(|error| what_is_wrong(&error))
    };
    flags.iter().try_for_each(takes)
}

/// What clap says of a value, without the command line that there was none of.
fn what_is_wrong(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(|line| line.trim().trim_start_matches("error: "));
    let told: Vec<&str> =
        lines.take_while(|line| !line.starts_with("For more")).filter(|line| !line.is_empty()).collect();
    told.join(" ").replace(" for '--flag <flag>'", "")
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let alike = known.map(|known| (strsim::jaro_winkler(name, known), known.as_str()));
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))?;
    (best.0 >= LEAST_LIKENESS).then_some(best.1)
}

#[cfg(test)]
mod tests;
