//! Environment variables that give values to flags, such as `LLAMA_ARG_CTX_SIZE`.
//!
//! A message about such a value names the variable, which the user may have exported long ago.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::ContextKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// Characters of a value that a message shows: a template can be long.
const MAX_SHOWN: usize = 80;

/// A flag whose value comes from an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    /// The long name of the flag.
    flag: String,
    name: String,
    value: String,
}

/// The environment variables that gave values to a command line.
#[derive(Clone, Debug, Default)]
pub struct Variables(Vec<Variable>);

impl Variables {
    /// The variables that gave values to flags of the chosen command.
    #[must_use]
    pub fn of(command: &Command, matches: &ArgMatches) -> Variables {
        let (mut command, mut matches) = (command, matches);
        let mut all = Vec::new();
        loop {
            let is_from_variable = |arg: &&Arg| {
                let id = arg.get_id().as_str();
                matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::EnvVariable)
            };
            all.extend(command.get_arguments().filter(is_from_variable).filter_map(variable));
            let Some((name, deeper)) = matches.subcommand() else { return Variables(all) };
            let Some(subcommand) = command.find_subcommand(name) else { return Variables(all) };
            (command, matches) = (subcommand, deeper);
        }
    }

    /// `NAME=VALUE` of the variable that gave a flag its value.
    #[must_use]
    pub fn origin(&self, flag: &str) -> Option<String> {
        let Variable { name, value, .. } = self.0.iter().find(|variable| variable.flag == flag)?;
        let line = value.lines().next().unwrap_or_default();
        let start: String = line.chars().take(MAX_SHOWN).collect();
        Some(format!("{name}={start}{}", if start == *value { "" } else { "..." }))
    }
}

/// Ignores variables that do not count: empty ones, as in `NAME= chaski`, and those whose flag conflicts with a given
/// one.
#[must_use]
pub fn counting(command: Command, arguments: &[OsString]) -> Command {
    counting_where(command, arguments, &|name| std::env::var_os(name))
}

fn counting_where(command: Command, arguments: &[OsString], get: &dyn Fn(&OsStr) -> Option<OsString>) -> Command {
    let is_set = |arg: &Arg| arg.get_env().and_then(get).is_some_and(|value| !value.is_empty());
    let conflicts = |command: &Command, arg: &Arg| {
        let against = |other: &&Arg| {
            let is_against = |one: &Arg, two: &Arg| {
                command.get_arg_conflicts_with(one).iter().any(|known| known.get_id() == two.get_id())
            };
            is_against(arg, other) || is_against(other, arg)
        };
        let others: Vec<&Arg> = command.get_arguments().filter(against).collect();
        // If two variables conflict, the first one gives way, as in llama.cpp.
        others.iter().any(|other| is_given(other, arguments))
            || !is_given(arg, arguments)
                && others.iter().any(|other| is_set(other) && command.get_arg_conflicts_with(arg).is_empty())
    };
    let silent: Vec<String> = command
        .get_arguments()
        .filter(|arg| arg.get_env().is_some() && (!is_set(arg) || conflicts(&command, arg)))
        .map(|arg| arg.get_id().to_string())
        .collect();
    let command = command.mut_args(|arg| match silent.iter().any(|id| arg.get_id() == id.as_str()) {
        true => arg.env(Resettable::Reset),
        false => arg,
    });
    command.mut_subcommands(|subcommand| counting_where(subcommand, arguments, get))
}

/// Hint for a value that clap rejected, if a variable gave it.
#[must_use]
pub fn hint(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Option<String> {
    let context = |kind| error.context().find(|(known, _)| *known == kind).map(|(_, value)| value.to_string());
    let (flag, refused) = (context(ContextKind::InvalidArg)?, context(ContextKind::InvalidValue)?);
    let long = flag.strip_prefix("--")?.split([' ', '=']).next()?;
    let arg = find(command, long)?;
    let Variable { name, value, .. } = variable(arg)?;
    (value == refused && !is_given(arg, arguments))
        .then(|| format!("this value comes from the environment variable {name}: unset it, or give --{long}"))
}

/// Finds a flag in any command; flags of the same name have the same variable.
fn find<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    let here = command.get_arguments().find(|arg| arg.get_long() == Some(long) && arg.get_env().is_some());
    here.or_else(|| command.get_subcommands().find_map(|subcommand| find(subcommand, long)))
}

fn variable(arg: &Arg) -> Option<Variable> {
    let name = arg.get_env()?.to_str()?.to_owned();
    let value = std::env::var(&name).ok()?;
    Some(Variable { flag: arg.get_long()?.to_owned(), name, value })
}

/// Whether the command line gives a flag.
fn is_given(arg: &Arg, arguments: &[OsString]) -> bool {
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let is_it = |argument: &OsString| {
        let text = argument.to_string_lossy();
        let is_long = long.as_ref().is_some_and(|long| {
            text.strip_prefix(long.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        });
        is_long || short.as_ref().is_some_and(|short| text.starts_with(short.as_str()))
    };
    arguments.iter().take_while(|argument| *argument != "--").any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::command;

    fn chosen(line: &[&str], set: &[(&str, &str)]) -> Vec<String> {
        let arguments: Vec<OsString> = ["chaski", "run"].iter().chain(line).map(OsString::from).collect();
        let get = |name: &OsStr| set.iter().find(|(known, _)| name == *known).map(|(_, value)| value.into());
        let command = counting_where(command(), &arguments, &get);
        let run = command.find_subcommand("run").unwrap();
        let heard = run.get_arguments().filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned));
        heard.filter(|name| set.iter().any(|(known, _)| known == name)).collect()
    }

    #[test]
    fn issue_13_8_empty_variables_and_those_against_a_flag_do_not_count() {
        let both = [("LLAMA_ARG_CHAT_TEMPLATE", "chatml"), ("LLAMA_ARG_CHAT_TEMPLATE_FILE", "a.jinja")];
        assert_eq!(chosen(&[], &[("LLAMA_ARG_CTX_SIZE", "")]), [""; 0]);
        assert_eq!(chosen(&[], &[("LLAMA_ARG_CTX_SIZE", "0")]), ["LLAMA_ARG_CTX_SIZE"]);
        assert_eq!(chosen(&["--chat-template", "chatml"], &both[1..]), [""; 0]);
        assert_eq!(chosen(&["--chat-template-file=x"], &both[..1]), [""; 0]);
        assert_eq!(chosen(&[], &both), ["LLAMA_ARG_CHAT_TEMPLATE_FILE"]);
    }
}
