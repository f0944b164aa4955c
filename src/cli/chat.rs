//! `chaski chat`: a conversation on a terminal, or over a pipe.

pub mod commands;
pub mod conversation;
pub mod editor;
pub mod make_room;
pub mod screen;
pub mod settings;

use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::chat::session::Session;
use crate::cli::args::{ContextSize, DraftingArgs, EngineArgs};
use crate::cli::cache::PromptCacheArgs;
use crate::cli::chat::commands::{Chat, Flow, no_folder, tell, tell_other_model};
use crate::cli::chat::conversation::{Conversation, Engine};
use crate::cli::chat::editor::{Source, Typed};
use crate::cli::chat::screen::{ColorWhen, Screen};
use crate::cli::chat::settings::{GivenArgs, Settings};
use crate::cli::config::ConfigArgs;
use crate::cli::context_size::{self, PickedBy};
use crate::cli::draft_model;
use crate::cli::engine::{confine, drafters, engine_config, model_id, open_model, start};
use crate::cli::exact::ExactArg;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::folders;
use crate::cli::hidden_log::HiddenLog;
use crate::cli::interrupt::Signals;
use crate::cli::output::Bars;
use crate::cli::prompt::Prompter;
use crate::cli::sampling::check_biases;
use crate::cli::template::TemplateArgs;
use crate::gguf::Gguf;
use crate::llama::engine::{EngineConfig, Mode};
use crate::store::sessions::{Place, SessionError, Sessions};

/// Default context size in tokens, or the trained length if that is shorter.
const DEFAULT_N_CTX: usize = 4096;

/// Arguments of `chat`.
#[derive(Debug, ClapArgs)]
#[command(mut_arg("ctx_size", |arg| {
    let help = "Context size in tokens for the whole chat [default: 4096]";
    let values = "`auto` is as much as fits into memory, 0 as much as the model was trained with.";
    arg.help(help).long_help(format!("{help}\n\n{values}"))
}))]
pub struct ChatArgs {
    /// Start or continue the saved chat of this name [default: a chat that is not saved]
    pub name: Option<String>,

    /// System prompt [short: -sys]
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,

    /// Use colors and styles
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorWhen,

    /// Do not read or write the input history (arrow keys, Ctrl-R)
    #[arg(long)]
    pub no_history: bool,

    /// Whether the text must be exact.
    #[command(flatten)]
    pub exact: ExactArg,

    /// What may change during a chat.
    #[command(flatten)]
    pub settings: GivenArgs,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// What drafts, and from what.
    #[command(flatten)]
    pub drafting: DraftingArgs,

    /// Prompts on disk.
    #[command(flatten)]
    pub prompt_cache: PromptCacheArgs,

    /// How messages are put into words.
    #[command(flatten)]
    pub template: TemplateArgs,

    /// The settings file.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn chat(args: &ChatArgs) -> Result<ExitCode, Failure> {
    let sessions = folders::sessions().map(Sessions::new);
    let (place, session) = open_session(args, sessions.as_ref())?;
    let mut given = session.settings.clone();
    given.extend(args.settings.given.clone());
    let settings = Settings::new(given, args.settings.defaults.clone())?;
    args.exact.demand();
    let mut config = engine_config(&args.engine)?;
    let gguf = open_model(&args.engine.model)?;
    check_biases(&settings.sampling, &gguf)?;
    let draft = draft_model::add(&args.drafting, &gguf, &mut config)?;
    config.drafters = drafters(&args.engine, &args.drafting, &gguf, draft.as_ref());
    let n_ctx = n_ctx(args, &gguf, draft.as_ref(), &mut config)?;
    let hidden_log = HiddenLog::open(&args.engine, &args.drafting, &config, &gguf);
    let (template, variables) = (args.template.needed(&gguf)?, args.template.variables()?);
    // Open the input before loading the model: without input there is nothing to load it for.
    let mut source = Source::of_stdin(sessions.clone(), !args.no_history)?;
    let signals = Signals::new()?;
    let state_folder = folders::sessions();
    // Confine only the engine's threads: an editor that `/edit` starts stays free.
    let (engine, loaded) = thread::scope(|scope| {
        let start = || {
            confine(&args.engine, &config, &[state_folder]);
            start(config, Mode::OneText, signals.raised.clone(), &mut Bars::default())
        };
        scope.spawn(start).join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    let prompter = Prompter::new(&args.engine.model, &template, loaded)?;
    let engine = Engine {
        engine,
        prompter,
        variables,
        model: model_id(gguf.path()),
        n_ctx,
        n_ctx_train: gguf.context_length().map(|n| n as usize),
        drafter: args.drafting.drafter,
        curve_budget: Duration::from_millis(args.engine.curve_budget),
        prompt_cache: args.prompt_cache.config(),
        hidden_log,
        exact: args.exact,
        is_verbose: args.engine.verbose,
        signals: signals.clone(),
        screen: Screen::of_stdout(args.color),
    };
    drop((gguf, draft));
    let (is_terminal, seed, is_seed_random) = (source.is_terminal(), settings.sampling.seed, settings.is_seed_random);
    if is_terminal {
        let name = place.as_ref().map(|place| format!("{}: {} messages; ", place.name(), 2 * session.turns.len()));
        tell(&format!("{}seed {seed}; type /help for the commands, Ctrl-D to leave", name.unwrap_or_default()));
    } else if is_seed_random {
        tell(&format!("seed {seed}"));
    }
    tell_other_model(&session, &engine.model);
    let mut conversation = Conversation::new(engine, session, settings, place);
    conversation.recall()?;
    let mut chat = Chat { conversation, sessions, is_terminal, reading: Vec::new() };
    converse(&mut chat, &mut source, &signals)
}

/// Hint for the user after the engine crashed.
#[must_use]
pub fn on_crash(args: &ChatArgs) -> String {
    match &args.name {
        Some(name) => format!("to continue after the last answer: chaski chat {name}"),
        None => "if you saved the chat with /save NAME, continue after its last answer: chaski chat NAME".to_owned(),
    }
}

/// Opens the session named on the command line, or a new one.
fn open_session(args: &ChatArgs, sessions: Option<&Sessions>) -> Result<(Option<Place>, Session), Failure> {
    let (place, session) = match &args.name {
        None => (None, None),
        Some(name) => {
            let (place, session) = sessions.ok_or_else(no_folder)?.open(name)?;
            (Some(place), session)
        }
    };
    let mut session = session.unwrap_or_default();
    if let Some(text) = &args.system_prompt {
        session.system = Some(text.clone()).filter(|text| !text.is_empty());
    }
    Ok((place, session))
}

/// Reads and runs messages and commands until the user leaves.
fn converse(chat: &mut Chat, source: &mut Source, signals: &Signals) -> Result<ExitCode, Failure> {
    loop {
        let n_used = if chat.is_terminal { chat.conversation.n_used() } else { 0 };
        let prompt = format!("[{n_used}/{}] > ", chat.conversation.engine.n_ctx);
        // A signal can arrive just as an answer ends.
        if signals.take() && !chat.is_terminal || signals.is_terminated() {
            return Ok(ExitCode::Interrupted);
        }
        let Some(typed) = signals.idle(|| source.next(&prompt)) else { continue };
        let taken = match typed? {
            Typed::End => return Ok(ExitCode::Success),
            Typed::Interrupt => {
                tell("hint: press Ctrl-D or type /exit to leave");
                continue;
            }
            Typed::Text(text) => chat.take(&text),
        };
        match taken {
            Ok(Flow::GoOn) => {}
            Ok(Flow::Leave) => return Ok(ExitCode::Success),
            // A script must not continue as if it had its answer.
            Err(failure) if !chat.is_terminal || failure.is_silent() => return Err(failure),
            Err(failure) if failure.code == ExitCode::Interrupted => {
                tell("notice: interrupted before the answer began")
            }
            Err(failure) => tell(&failure.to_string()),
        }
        if signals.is_terminated() || chat.conversation.was_interrupted && !chat.is_terminal {
            return Ok(ExitCode::Interrupted);
        }
    }
}

/// Context size of the chat, in tokens. It is fixed at the start: a larger context would have to decode the whole chat
/// again.
fn n_ctx(args: &ChatArgs, gguf: &Gguf, draft: Option<&Gguf>, config: &mut EngineConfig) -> Result<usize, Failure> {
    let known = gguf.context_length().map_or(DEFAULT_N_CTX, |n| n as usize);
    let size = args.engine.ctx_size.unwrap_or(ContextSize::Positions(DEFAULT_N_CTX.min(known)));
    let engine = EngineArgs { ctx_size: Some(size), ..args.engine.clone() };
    let n_ctx = context_size::n_ctx(&engine, gguf, draft, config, context_size::LEAST_N_CTX, PickedBy::Text)?;
    Ok(n_ctx.unwrap_or_else(|| DEFAULT_N_CTX.min(known)))
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        let failure = Failure::new(error.to_string());
        match (&error, error.hint()) {
            (SessionError::Name(_), _) => failure.with_code(ExitCode::Usage),
            (_, Some(hint)) => failure.with_hint(hint),
            (_, None) => failure,
        }
    }
}
