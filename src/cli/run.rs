//! `chaski run`: one prompt, one answer.

pub mod json;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::chat::template::{Message, Segment, TemplateValue};
use crate::cli::args::RunArgs;
use crate::cli::drafter::refuse_overwrite;
use crate::cli::engine::{check_prompting, confine, drafters, max_tokens, open_model, sampling, start, worker_config};
use crate::cli::events::{EventLines, json_line};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::input::stdin::{LateStdin, Stdin};
use crate::cli::input::{Sources, read_prompt};
use crate::cli::memory::{self, PickedBy};
use crate::cli::output::{Bars, TextOutput, stats_line, stderr_line, write_stdout};
use crate::cli::prompt::{MERGED_SYSTEM, Prompter};
use crate::cli::run::json::{End, to_json};
use crate::cli::sampling::check_biases;
use crate::cli::{explain, interrupt};
use crate::llama::logprobs::MAX_LOGPROBS;
use crate::llama::worker::{Answer, DEFAULT_MAX_TOKENS, Event, Job, StopType, Worker};
use crate::replay::trace::Trace;
use crate::structure::Constraint;

/// Runs the command.
///
/// # Errors
/// What the user should read.
pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let Prepared { worker, job, mut bars, trace_file, late } = prepare(args)?;
    let (seed, is_random, form) = (job.sampling.seed, job.sampling.temperature > 0.0, job.constraint.clone());
    worker.submit(job);
    let (text, answer) = receive_text(args, &worker, &mut bars)?;
    if let (Some(path), Some(file), Some(trace)) = (&args.trace, trace_file, &answer.trace) {
        append_trace(path, file, &Trace { id: args.trace_id.clone(), ..Trace::clone(trace) })?;
    }
    let json = || to_json(&text, &answer, seed, args.logprobs.is_some());
    if args.json {
        write_stdout(&json_line(&json()))?;
    }
    if args.jsonl {
        write_stdout(&json_line(&End { event: "end", answer: json() }))?;
    }
    if !args.quiet {
        stderr_line(&stats_line(&answer.stats, is_random.then_some(seed)));
    }
    if answer.stop == StopType::Context {
        stderr_line(&context_full(answer.n_ctx));
    }
    late.tell();
    if let Some(form) = &form {
        check_whole(form, &answer)?;
    }
    Ok(if answer.stop == StopType::Interrupted { ExitCode::Interrupted } else { ExitCode::Success })
}

/// An answer to be made.
struct Prepared {
    worker: Worker,
    job: Job,
    bars: Bars,
    trace_file: Option<File>,
    late: LateStdin,
}

/// Finds all mistakes that can be found before the model is loaded, and loads it.
fn prepare(args: &RunArgs) -> Result<Prepared, Failure> {
    let sampling = sampling(&args.sampling)?;
    let max_tokens = max_tokens(args.n_predict)?;
    check_prompting(&args.reverse_prompt, args.raw, args.system_prompt.as_deref())?;
    let constraint = form(args)?;
    if args.logprobs.is_some_and(|n| n > MAX_LOGPROBS) {
        return Err(Failure::usage(format!("--logprobs must be from 0 to {MAX_LOGPROBS}")));
    }
    check_trace(args)?;
    let mut config = worker_config(&args.engine)?;
    let gguf = open_model(&args.engine.model)?;
    let n_answer = max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    let n_ctx = memory::n_ctx(&args.engine, &gguf, &mut config, n_answer, PickedBy::Text)?;
    config.drafters = drafters(&args.drafting, &gguf);
    check_biases(&sampling, &gguf)?;
    let variables = args.template.variables()?;
    let template = if args.raw { None } else { Some(args.template.needed(&gguf)?) };
    drop(gguf);
    // What is open stays open: the engine itself need not write there.
    let trace_file = args.trace.as_deref().map(open_trace).transpose()?;
    let stdin = (!args.no_stdin).then(Stdin::now);
    confine(&args.engine, &config, &[]);
    let text = args.text.as_deref().or(args.prompt.as_deref());
    let (prompt, late) = read_prompt(Sources { file: args.file.as_deref(), text, stdin, is_quiet: args.quiet })?;
    // From here on Ctrl-C ends cleanly; before there was nothing to clean up.
    let interrupt = interrupt::flag()?;
    let mut bars = Bars::default();
    let (worker, loaded) = start(config, interrupt, &mut bars)?;
    let job = Job {
        prompt: match template {
            // Whoever writes the template writes its special tokens.
            None => vec![Segment { text: prompt, parse_special: true }],
            Some(source) => {
                let prompter = Prompter::new(&args.engine.model, &source, loaded)?;
                segments(&prompter, args.system_prompt.as_deref(), &prompt, variables)?
            }
        },
        max_tokens,
        n_ctx,
        sampling,
        stops: args.reverse_prompt.clone(),
        constraint,
        n_logprobs: args.logprobs,
        drafter: args.drafting.drafter,
        curve_budget: Duration::from_millis(args.engine.curve_budget),
        record: args.trace.is_some(),
        learns: true,
        explain: args.explain,
        prompt_cache: args.prompt_cache.config(),
        state_file: None,
    };
    Ok(Prepared { worker, job, bars, trace_file, late })
}

/// The answer and its text, which is printed on the way, or as events.
fn receive_text(args: &RunArgs, worker: &Worker, bars: &mut Bars) -> Result<(String, Answer), Failure> {
    let mut text = String::new();
    let mut output = TextOutput::default();
    let mut events = args.jsonl.then(EventLines::default);
    let is_text_due = !(args.json || args.jsonl || args.explain);
    let answer = follow(worker, bars, &mut |told| {
        if let Some(events) = &mut events {
            events.tell(&told)?;
        }
        let Told::Text(piece) = told else { return Ok(()) };
        text.push_str(piece);
        if is_text_due { output.write(piece) } else { Ok(()) }
    });
    if args.explain && !(args.json || args.jsonl) {
        output.write(&text)?;
    }
    output.finish()?;
    Ok((text, answer?))
}

/// What to do about an engine that crashed.
#[must_use]
pub fn on_crash() -> String {
    "-v shows llama.cpp's log; the model file is broken in a way that no check finds, or this is a defect to report"
        .to_owned()
}

/// A trace is a file of its own.
fn check_trace(args: &RunArgs) -> Result<(), Failure> {
    let Some(trace) = &args.trace else { return Ok(()) };
    let inputs = [Some(&args.engine.model), args.file.as_ref(), args.drafting.base.as_ref()];
    refuse_overwrite(trace, inputs.into_iter().flatten().map(AsRef::as_ref))
        .map_err(|failure| failure.with_hint("--trace takes a file of its own"))
}

/// What the answer must be, if that can be had.
fn form(args: &RunArgs) -> Result<Option<Constraint>, Failure> {
    let form = args.form.constraint()?;
    let against = [("-r", !args.reverse_prompt.is_empty()), ("--ignore-eos", args.sampling.ignore_eos)];
    match (&form, against.iter().find(|(_, is_given)| *is_given)) {
        (Some(form), Some((flag, _))) => {
            Err(Failure::usage(format!("{flag} would break off what {} asks for", form.what()))
                .with_hint("give one of them"))
        }
        _ => Ok(form),
    }
}

/// An answer that was cut off is not of its form.
fn check_whole(form: &Constraint, answer: &Answer) -> Result<(), Failure> {
    let hint = match answer.stop {
        StopType::Eos | StopType::Interrupted | StopType::Word(_) => return Ok(()),
        StopType::Limit => "a larger -n, or bounds in it, as maxLength and maxItems",
        StopType::Context => "a larger -c",
    };
    let n = answer.tokens.len();
    Err(Failure::new(format!("the answer was cut off after {n} tokens and is not yet what {} asks for", form.what()))
        .with_hint(hint))
}

/// The prompt as the model wants it.
fn segments(
    prompter: &Prompter,
    system: Option<&str>,
    prompt: &str,
    variables: BTreeMap<String, TemplateValue>,
) -> Result<Vec<Segment>, Failure> {
    let system = system.iter().map(|&text| Message::new("system", text));
    let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
    let rendered = prompter.render(&messages, true, variables)?;
    if rendered.merged_system {
        stderr_line(MERGED_SYSTEM);
    }
    Ok(rendered.segments)
}

/// The end of a file of traces.
fn open_trace(path: &Path) -> Result<File, Failure> {
    File::options().create(true).append(true).open(path).map_err(|error| Failure::io(path, &error))
}

/// Adds a line to a file of traces.
fn append_trace(path: &Path, mut file: File, trace: &Trace) -> Result<(), Failure> {
    let mut line = serde_json::to_string(trace).expect("strings and numbers serialize");
    line.push('\n');
    file.write_all(line.as_bytes()).map_err(|error| Failure::io(path, &error))
}

/// What is told of an answer that the context has no more room for.
#[must_use]
pub fn context_full(n_ctx: usize) -> String {
    format!("notice: the answer was cut off: the context of {n_ctx} positions is full; hint: a larger -c")
}

/// What of a job's events is not told on the spot.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// Prompt tokens done, and in all.
    Prefill(usize, usize),
    /// The next piece of the answer.
    Text(&'a str),
}

/// Follows a job to its end. `text` is given each piece of the answer.
///
/// # Errors
/// What the job or `text` fails with.
pub fn receive(
    worker: &Worker,
    bars: &mut Bars,
    mut text: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<Answer, Failure> {
    follow(worker, bars, &mut |told| if let Told::Text(piece) = told { text(piece) } else { Ok(()) })
}

/// The same, with all that can be told.
fn follow(
    worker: &Worker,
    bars: &mut Bars,
    tell: &mut dyn FnMut(Told<'_>) -> Result<(), Failure>,
) -> Result<Answer, Failure> {
    while let Some(event) = worker.next_event() {
        match event {
            Event::Prefill(done, total) => {
                bars.prefill(done, total);
                tell(Told::Prefill(done, total))?;
            }
            Event::Measuring => bars.measuring(),
            Event::Text(piece) => {
                bars.clear();
                tell(Told::Text(&piece))?;
            }
            Event::Step(step) => bars.suspend(|| stderr_line(&explain::told(&step))),
            Event::Notice(notice) => bars.suspend(|| stderr_line(&format!("notice: {notice}"))),
            Event::Done(answer) => {
                bars.clear();
                return Ok(*answer);
            }
            Event::Failed(failure) => {
                bars.clear();
                return Err(failure.into());
            }
            Event::Loading(_)
            | Event::Loaded(_)
            | Event::Progress(..)
            | Event::Measured(_)
            | Event::Counted(_)
            | Event::Tuning(..)
            | Event::Tuned(_) => {}
        }
    }
    Err(Failure::new("the engine stopped without an answer"))
}
