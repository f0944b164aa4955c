//! `chaski config`: shows the settings in effect, and where each comes from.

use clap::{Args as ClapArgs, Command, Subcommand};
use toml::de::DeValue;

use crate::cli::config::{Config, ConfigArgs, flags};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::write_stdout;

/// Arguments of `config`.
#[derive(Debug, ClapArgs)]
pub struct ShowArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ShowCommand,
}

/// A command of `config`.
#[derive(Debug, Subcommand)]
pub enum ShowCommand {
    /// Print the settings in use, and where each comes from, in the format of the settings file
    #[command(mut_args(|arg| arg.hide_short_help(false)))]
    Show(ConfigArgs),
}

/// Runs the command. `command` has the flags.
///
/// # Errors
/// The failure to show to the user.
pub fn show(args: &ShowArgs, command: &Command) -> Result<ExitCode, Failure> {
    let ShowCommand::Show(args) = &args.command;
    let config = Config::read(args, command)?;
    let variable = |name: &str| std::env::var(name).ok();
    write_stdout(&table(&config, command, &variable))?;
    Ok(ExitCode::Success)
}

/// The settings in effect, in the format of a settings file. Settings left at their flag's default are omitted.
pub(super) fn table(config: &Config, command: &Command, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let path = config.path.as_deref().map_or_else(|| "no settings file".to_owned(), |path| path.display().to_string());
    let mut text = format!("# {path}; all other settings have the defaults that --help shows\n");
    for (name, flags) in flags(command) {
        let from_variable = flags.iter().find_map(|flag| {
            let name = flag.get_env()?.to_str()?;
            Some((vec![variable(name)?], name.to_owned()))
        });
        let from_file = config.settings.get(&name).map(|setting| {
            let profile = setting.profile.iter().map(|name| format!("profile {name}, "));
            let source: String = profile.chain([format!("line {}", setting.line)]).collect();
            (setting.values.clone(), source)
        });
        if let Some((values, source)) = from_variable.or(from_file) {
            text += &format!("{name} = {}  # {source}\n", toml_value(&values));
        }
    }
    text
}

fn toml_value(values: &[String]) -> String {
    // Every JSON string is also a TOML string.
    let quoted = |value: &String| serde_json::to_string(value).expect("a string serializes");
    let is_plain = |text: &str| {
        let parsed = DeValue::parse(text).ok().filter(|value| !value.get_ref().is_str());
        parsed.and_then(|value| super::values(value.get_ref())).is_some_and(|values| values == [text])
    };
    match values {
        [value] if is_plain(value) => value.clone(),
        [value] => quoted(value),
        values => format!("[{}]", values.iter().map(quoted).collect::<Vec<String>>().join(", ")),
    }
}
