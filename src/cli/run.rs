//! `chaski run`: answers one prompt.

pub mod args;
pub mod json;
mod output;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::chat::template::{Message, Segment, TemplateValue};
use crate::chat::thinking::{Opening, Reasoning};
use crate::cli::args::DraftingArgs;
use crate::cli::context_size::{self, PickedBy};
use crate::cli::engine::{check_prompting, confine, drafters, engine_config, max_tokens, open_model, sampling, start};
use crate::cli::escape::unescaped;
use crate::cli::events::json_line;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::files::refuse_overwrite;
use crate::cli::hidden_log::HiddenLog;
use crate::cli::input::stdin::{LateStdin, Stdin};
use crate::cli::input::{Sources, read_prompt};
use crate::cli::output::{Bars, THINKING_ONLY, stats_line, stderr_line, write_stdout};
use crate::cli::prompt::{MERGED_SYSTEM, Prompter};
use crate::cli::run::args::RunArgs;
use crate::cli::run::json::{LastLine, to_json};
use crate::cli::run::output::{AnswerOutput, AnswerText, ThinkingPlan};
use crate::cli::sampling::check_biases;
use crate::cli::{draft_model, explain, interrupt};
use crate::engine::{Alone, Answer, DEFAULT_MAX_TOKENS, Details, DrafterKind, End, Event, Request};
use crate::llama::engine::{Engine, Mode};
use crate::llama::logprobs::MAX_LOGPROBS;
use crate::replay::trace::Trace;
use crate::structure::Constraint;

/// Advice for repeating a text in a context that is not exact: there, the seed alone is not enough.
const SAME_TEXT: &str = "for the same text again add --drafter none --no-prompt-cache";

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let Prepared { engine, request, mut bars, trace_file, hidden_log, late, thinking } = prepare(args)?;
    let sampling = &request.sampling;
    let (seed, is_random, form) = (sampling.seed, sampling.temperature > 0.0, request.constraint.clone());
    engine.submit(request);
    let (said, answer) = receive_text(args, &engine, &mut bars, thinking)?;
    let details = details(&answer)?;
    if let (Some(path), Some(file), Some(trace)) = (&args.trace, trace_file, &details.trace) {
        append_trace(path, file, &Trace { id: args.trace_id.clone(), ..trace.clone() })?;
    }
    if let Some(mut log) = hidden_log {
        log.keep(details);
    }
    let json = || to_json(&said, &answer, details, seed, args);
    if args.json {
        write_stdout(&json_line(&json()))?;
    }
    if args.jsonl {
        write_stdout(&json_line(&LastLine { event: "end", answer: json() }))?;
    }
    if !args.quiet {
        let line = stats_line(&answer.stats, is_random.then_some(seed));
        // The drafter learns, and measured times decide how many rows are verified. In a context that is not exact,
        // both can turn a near-tie. The seed stays at the end of the line.
        let may_differ = args.drafting.drafter != DrafterKind::None && !details.exactness.is_exact();
        stderr_line(&match line.rsplit_once("; seed ") {
            Some((before, seed)) if may_differ => format!("{before}; {SAME_TEXT}; seed {seed}"),
            _ => line,
        });
    }
    if let Some(cut_off) = cut_off(&answer.end) {
        stderr_line(&cut_off_notice(cut_off));
    }
    if said.is_cut && !thinking.is_shown {
        stderr_line(THINKING_ONLY);
    }
    late.tell();
    draft_model::tell(details, args.engine.verbose);
    args.exact.check(&details.exactness, args.engine.verbose)?;
    if let Some(form) = &form {
        check_whole(form, &answer)?;
    }
    Ok(if answer.end == End::Interrupted { ExitCode::Interrupted } else { ExitCode::Success })
}

/// A loaded model and the request for it.
struct Prepared {
    engine: Engine,
    request: Request,
    bars: Bars,
    trace_file: Option<File>,
    hidden_log: Option<HiddenLog>,
    late: LateStdin,
    thinking: ThinkingPlan,
}

/// Texts of the command line, with escapes replaced if asked for.
struct Words {
    text: Option<String>,
    system: Option<String>,
    stops: Vec<String>,
}

fn words(args: &RunArgs) -> Result<Words, Failure> {
    let read = |flag: &str, text: &String| if args.escape { unescaped(flag, text) } else { Ok(text.clone()) };
    let text = args.text.as_ref().map(|text| read("PROMPT", text));
    let text = text.or_else(|| args.prompt.as_ref().map(|text| read("-p", text))).transpose()?;
    let system = args.system_prompt.as_ref().map(|text| read("-sys", text)).transpose()?;
    let stops = args.reverse_prompt.iter().map(|text| read("-r", text)).collect::<Result<_, _>>()?;
    Ok(Words { text, system, stops })
}

/// Checks everything that can be checked before loading the model, then loads it.
fn prepare(args: &RunArgs) -> Result<Prepared, Failure> {
    let sampling = sampling(&args.sampling)?;
    let max_tokens = max_tokens(args.n_predict)?;
    let Words { text, system, stops } = words(args)?;
    check_prompting(&stops, args.raw, system.as_deref())?;
    let constraint = form(args)?;
    if args.logprobs.is_some_and(|n| n > MAX_LOGPROBS) {
        return Err(Failure::usage(format!("--logprobs must be from 0 to {MAX_LOGPROBS}")));
    }
    check_trace(args)?;
    args.exact.demand();
    let mut config = engine_config(&args.engine)?;
    let gguf = open_model(&args.engine.model)?;
    let n_answer = max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    let draft = draft_model::add(&args.drafting, &gguf, &mut config)?;
    let n_ctx = context_size::n_ctx(&args.engine, &gguf, draft.as_ref(), &mut config, n_answer, PickedBy::Text)?;
    config.drafters = drafters(&args.engine, &args.drafting, &gguf, draft.as_ref());
    check_biases(&sampling, &gguf)?;
    let mut variables = args.template.variables()?;
    if args.reasoning == Some(Reasoning::Off) {
        variables.insert("enable_thinking".to_owned(), TemplateValue::from(false));
    }
    let template = if args.raw { None } else { Some(args.template.needed(&gguf)?) };
    // Open these before the sandbox: open files stay writable, and the engine need not write there.
    let hidden_log = HiddenLog::open(&args.engine, &args.drafting, &config, &gguf);
    drop((gguf, draft));
    let trace_file = args.trace.as_deref().map(open_trace).transpose()?;
    let stdin = (!args.no_stdin).then(Stdin::now);
    confine(&args.engine, &config, &[]);
    let sources = Sources { file: args.file.as_deref(), text: text.as_deref(), stdin, is_quiet: args.quiet };
    let (prompt, late) = read_prompt(sources)?;
    // From here on Ctrl-C ends cleanly; before, there was nothing to clean up.
    let interrupt = interrupt::flag()?;
    let mut bars = Bars::default();
    let (engine, loaded) = start(config, Mode::OneText, interrupt, &mut bars)?;
    let (prompt, opening) = match template {
        // The author of a raw prompt writes its special tokens too.
        None => {
            let opening = raw_opening(args, &prompt);
            (vec![Segment { text: prompt, parse_special: true }], opening)
        }
        Some(source) => {
            let prompter = Prompter::new(&args.engine.model, &source, loaded)?;
            segments(&prompter, system.as_deref(), &prompt, variables)?
        }
    };
    let thinking = thinking_plan(args, opening);
    let constraint = constraint.map(|form| form.after(opening, args.reasoning == Some(Reasoning::Off)));
    let alone = Alone {
        n_ctx,
        drafter: args.drafting.drafter,
        curve_budget: Duration::from_millis(args.engine.curve_budget),
        record: args.trace.is_some(),
        n_states: hidden_log.as_ref().map_or(0, HiddenLog::n_wanted),
        learns: true,
        explain: args.explain,
        prompt_cache: args.prompt_cache.config(),
        state_file: None,
    };
    let request = Request {
        prompt,
        max_tokens,
        sampling,
        stop: stops,
        constraint,
        n_logprobs: args.logprobs,
        alone,
        ..Request::default()
    };
    Ok(Prepared { engine, request, bars, trace_file, hidden_log, late, thinking })
}

/// Receives the answer and writes it as it arrives: as text, or as events.
fn receive_text(
    args: &RunArgs,
    engine: &Engine,
    bars: &mut Bars,
    thinking: ThinkingPlan,
) -> Result<(AnswerText, Answer), Failure> {
    let mut saying = AnswerOutput::new(args, thinking);
    let answer = follow(engine, bars, &mut |told| saying.take(&told));
    let said = saying.finish()?;
    Ok((said, answer?))
}

/// Hint for the user after the engine crashed.
#[must_use]
pub fn on_crash() -> String {
    "see llama.cpp's log with -v; either the model file is damaged, or this is a bug: please report it".to_owned()
}

/// Checks that the trace file does not overwrite an input.
fn check_trace(args: &RunArgs) -> Result<(), Failure> {
    let Some(trace) = &args.trace else { return Ok(()) };
    let DraftingArgs { base, draft_model, .. } = &args.drafting;
    let inputs = [Some(&args.engine.model), args.file.as_ref(), base.as_ref(), draft_model.as_ref()];
    refuse_overwrite(trace, inputs.into_iter().flatten().map(AsRef::as_ref))
        .map_err(|failure| failure.with_hint("give another file with --trace"))
}

/// The constraint on the answer. Fails if another flag could break it.
fn form(args: &RunArgs) -> Result<Option<Constraint>, Failure> {
    let form = args.form.constraint()?;
    let against = [("-r", !args.reverse_prompt.is_empty()), ("--ignore-eos", args.sampling.ignore_eos)];
    match (&form, against.iter().find(|(_, is_given)| *is_given)) {
        (Some(form), Some((flag, _))) => Err(Failure::usage(format!(
            "{flag} cannot be used together with {}: the answer might not match",
            form.what()
        ))
        .with_hint("remove one of them")),
        _ => Ok(form),
    }
}

/// Fails if the answer was cut off: it then does not match its constraint.
fn check_whole(form: &Constraint, answer: &Answer) -> Result<(), Failure> {
    let hint = match (&answer.end, cut_off(&answer.end)) {
        (_, Some((_, hint))) => hint,
        (End::Limit, None) => "use a larger -n".to_owned(),
        (_, None) => return Ok(()),
    };
    let n = details(answer)?.tokens.len();
    Err(Failure::new(format!("the answer was cut off after {n} tokens, so it does not match {}", form.what()))
        .with_hint(format!("{hint}, or limit the length in the constraint, as with maxLength and maxItems")))
}

/// Renders the prompt with the chat template.
fn segments(
    prompter: &Prompter,
    system: Option<&str>,
    prompt: &str,
    variables: BTreeMap<String, TemplateValue>,
) -> Result<(Vec<Segment>, Opening), Failure> {
    let system = system.iter().map(|&text| Message::new("system", text));
    let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
    let rendered = prompter.render(&messages, true, variables)?;
    if rendered.merged_system {
        stderr_line(MERGED_SYSTEM);
    }
    let opening = Opening::after(&rendered.text(), prompter.knows_thinking());
    Ok((rendered.segments, opening))
}

/// Whether a raw prompt opens thinking. Looks only if `--reasoning` is given: the text belongs to its author.
fn raw_opening(args: &RunArgs, prompt: &str) -> Opening {
    if args.reasoning.is_some() { Opening::after(prompt, true) } else { Opening::Never }
}

fn thinking_plan(args: &RunArgs, opening: Opening) -> ThinkingPlan {
    let is_read = !args.raw || opening != Opening::Never;
    let is_shown = match args.reasoning {
        Some(reasoning) => reasoning == Reasoning::Show,
        None => !args.quiet,
    };
    ThinkingPlan { is_open: is_read.then_some(opening == Opening::Open), is_shown }
}

/// Opens a trace file for appending.
fn open_trace(path: &Path) -> Result<File, Failure> {
    File::options().create(true).append(true).open(path).map_err(|error| Failure::io(path, &error))
}

/// Appends a trace to the file, as one line.
fn append_trace(path: &Path, mut file: File, trace: &Trace) -> Result<(), Failure> {
    let mut line = serde_json::to_string(trace).expect("strings and numbers serialize");
    line.push('\n');
    file.write_all(line.as_bytes()).map_err(|error| Failure::io(path, &error))
}

/// Why a full context cut off an answer, and a hint.
#[must_use]
pub fn context_full(n_ctx: usize) -> (String, String) {
    (format!("the context of {n_ctx} tokens is full"), "use a larger -c".to_owned())
}

/// Why an answer ended before anybody asked for that, and a hint; `None` if it did not.
fn cut_off(end: &End) -> Option<(String, String)> {
    match *end {
        End::Context { n_ctx } => Some(context_full(n_ctx)),
        End::DefaultLimit => Some((
            format!("without -n and -c, an answer has at most {DEFAULT_MAX_TOKENS} tokens"),
            format!("use -n {}", 4 * DEFAULT_MAX_TOKENS),
        )),
        End::Eos | End::Word(_) | End::Limit | End::Interrupted => None,
    }
}

/// The details of an answer, which an engine of one text always gives.
///
/// # Errors
/// If there are none.
pub fn details(answer: &Answer) -> Result<&Details, Failure> {
    answer.details.as_deref().ok_or_else(|| Failure::new("the engine reported no details of the answer"))
}

/// The notice for a cut-off answer.
#[must_use]
pub fn cut_off_notice((why, hint): (String, String)) -> String {
    format!("notice: the answer was cut off: {why}; hint: {hint}")
}

/// Events of a job that the caller shows.
#[derive(Clone, Copy, Debug)]
pub enum AnswerEvent<'a> {
    /// Prompt tokens done, and in total.
    Prefill(usize, usize),
    /// The next piece of the answer.
    Text(&'a str),
    /// The next piece of the thinking, if it is separated from the answer.
    Thinking(&'a str),
}

/// Waits for a job to end. Passes each piece of the answer to `text`.
///
/// # Errors
/// The failure of the job or of `text`.
pub fn receive(
    engine: &Engine,
    bars: &mut Bars,
    mut text: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<Answer, Failure> {
    follow(engine, bars, &mut |told| if let AnswerEvent::Text(piece) = told { text(piece) } else { Ok(()) })
}

/// Like [`receive`], but passes all events to `tell`.
fn follow(
    engine: &Engine,
    bars: &mut Bars,
    tell: &mut dyn FnMut(AnswerEvent<'_>) -> Result<(), Failure>,
) -> Result<Answer, Failure> {
    loop {
        match engine.next()? {
            Event::Prefill(done, total) => {
                bars.prefill(done, total);
                tell(AnswerEvent::Prefill(done, total))?;
            }
            Event::Measuring => bars.measuring(),
            Event::Text(piece) => {
                bars.clear();
                tell(AnswerEvent::Text(&piece))?;
            }
            Event::Step(step) => bars.suspend(|| stderr_line(&explain::describe(&step))),
            Event::Notice { text, .. } => bars.suspend(|| stderr_line(&format!("notice: {text}"))),
            Event::Done(answer) => {
                bars.clear();
                return Ok(*answer);
            }
            Event::Refused { error, .. } => {
                bars.clear();
                return Err(error.into());
            }
            // Of an engine of many texts.
            Event::Taken { .. } | Event::Begun { .. } | Event::Prompt { .. } | Event::Token(_) | Event::Progress(_) => {
            }
        }
    }
}
