//! Settings file: default values for flags.
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
//! A setting is a default of its flag. Precedence: command line, environment, profile, top of the file. Settings apply
//! to every command that has [`ConfigArgs`], if it has the flag. An unknown key is an error, and so is a value that the
//! flag rejects, even in profiles that are not chosen. Ranges of numbers are checked when the command uses them.

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

/// Environment variable that names the profile.
const VARIABLE: &str = "CHASKI_PROFILE";

/// Name of the table of profiles.
const PROFILES: &str = "profiles";

/// Flags that are not settings.
const NO_SETTINGS: [&str; 4] = ["config", "profile", "help", "version"];

/// Least Jaro-Winkler similarity of a name suggested for a typo.
const LEAST_LIKENESS: f64 = 0.8;

/// Flags that choose the settings file and the profile.
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

/// A setting from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The values, as the flag takes them.
    pub values: Vec<String>,
    /// Line in the file, from 1.
    pub line: usize,
    /// The profile that contains it.
    pub profile: Option<String>,
}

/// Settings by the long names of their flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The file that was read, if any.
    pub path: Option<PathBuf>,
    /// The settings in effect.
    pub settings: BTreeMap<String, Setting>,
}

impl Config {
    /// Reads the given file, or the usual one if it exists.
    ///
    /// # Errors
    /// If it cannot be read, or contains a mistake.
    pub fn read(args: &ConfigArgs, command: &Command) -> Result<Config, Failure> {
        let path = args.config.clone().or_else(usual_path);
        let text = path.as_deref().map(|path| File::open(path).and_then(|file| read_text(file, MAX_BYTES)));
        let is_missing = |error: &io::Error| {
            let kinds = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
            args.config.is_none() && kinds.contains(&error.kind())
        };
        // In a home folder that this user may not read, the file may or may not exist.
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

    /// Parses the text of the file `path`. `command` has the flags.
    ///
    /// # Errors
    /// If it contains a mistake.
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
        // The profile's settings come last, so they win.
        let (chosen, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, setting)| setting.profile.is_some());
        let chosen = chosen.into_iter().filter(|(_, setting)| setting.profile.as_deref() == profile);
        let settings = others.into_iter().chain(chosen).collect();
        Ok(Config { path: Some(path.to_owned()), settings })
    }

    /// Makes these settings the defaults of the commands' flags.
    #[must_use]
    pub fn apply(&self, mut command: Command) -> Command {
        for name in names(&command) {
            command = command.mut_subcommand(name, |answering| {
                answering.mut_args(|arg| match arg.get_long().and_then(|long| self.settings.get(long)) {
                    // A required flag is no longer missing.
                    Some(setting) => arg.required(false).default_values(setting.values.clone()),
                    None => arg,
                })
            });
        }
        command
    }
}

/// Applies the settings of the file that `arguments` name, or of the usual one.
///
/// # Errors
/// If the file contains a mistake.
pub fn configured(command: Command, arguments: &[OsString]) -> Result<Command, Failure> {
    // Wrong arguments are reported later, by the full parse.
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

/// Default path of the file.
fn usual_path() -> Option<PathBuf> {
    Some(folders::config()?.join("chaski").join("config.toml"))
}

/// Names of the commands that take settings.
fn names(command: &Command) -> Vec<String> {
    let takes = |command: &&Command| command.get_arguments().any(|arg| arg.get_id() == "profile");
    command.get_subcommands().filter(takes).map(|command| command.get_name().to_owned()).collect()
}

/// All flags that can be settings, by long name.
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

/// A TOML value as texts; `None` if no flag takes its type.
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

/// Expands `~` at the start of a path: no shell does it in a settings file.
fn at_home(path: &str) -> String {
    let home = || Some(etcetera::home_dir().ok()?.to_str()?.to_owned());
    let rest = path.strip_prefix('~').filter(|rest| rest.starts_with('/'));
    rest.and_then(|rest| Some(home()? + rest)).unwrap_or_else(|| path.to_owned())
}

/// Checks that every flag of this name accepts these values.
fn check(flags: &[Arg], values: &[String]) -> Result<(), String> {
    let takes = |flag: &Arg| {
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            let is_bool = matches!(values, [value] if value == "true" || value == "false");
            return if is_bool { Ok(()) } else { Err("expected true or false".to_owned()) };
        }
        if values.len() != 1 && !matches!(flag.get_action(), ArgAction::Append) {
            return Err("expected one value".to_owned());
        }
        // Parse the flag alone, so that nothing else can be wrong.
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

/// clap's message about a value, without the parts about a command line.
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
