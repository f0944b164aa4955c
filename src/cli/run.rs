//! `chaski run`: one prompt, one answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::batch::record::{ChatToken, chat_logprobs};
use crate::chat::template::{ChatTemplate, LocalTime, Message, RenderOptions, Segment, TemplateValue};
use crate::cli::args::RunArgs;
use crate::cli::engine::{check_prompting, max_tokens, open_base, open_model, sampling, start, worker_config};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::{Bars, TextOutput, stats_line, stderr_line, write_stdout};
use crate::cli::sampling::check_biases;
use crate::cli::{explain, input, interrupt, learn};
use crate::gguf::Gguf;
use crate::llama::logprobs::MAX_LOGPROBS;
use crate::llama::worker::drafters::DraftersConfig;
use crate::llama::worker::{Answer, DrafterKind, Event, Job, Loaded, StopType, Worker};
use crate::replay::trace::Trace;
use crate::stats::Stats;
use crate::store::learned::{LearnPolicy, LearnedKey};
use crate::structure::Constraint;
use crate::tune::Settings;

/// Runs the command.
///
/// # Errors
/// What the user should read.
pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let sampling = sampling(&args.sampling)?;
    let max_tokens = max_tokens(args.n_predict)?;
    check_prompting(&args.reverse_prompt, args.raw, args.system_prompt.as_deref())?;
    let form = form(args)?;
    if args.logprobs.is_some_and(|n| n > MAX_LOGPROBS) {
        return Err(Failure::usage(format!("--logprobs must be from 0 to {MAX_LOGPROBS}")));
    }
    let mut config = worker_config(&args.engine)?;
    let gguf = open_model(&args.engine.model)?;
    if args.drafter == DrafterKind::Auto {
        config.drafters =
            DraftersConfig { base: open_base(args.base.as_deref(), &gguf), learned: learned(args, &gguf) };
    }
    check_biases(&sampling, &gguf)?;
    let variables = args.template.variables()?;
    let template = if args.raw { None } else { Some((args.template.needed(&gguf)?, variables)) };
    drop(gguf);
    let prompt = input::read_prompt(args.file.as_deref(), args.prompt.as_deref())?;
    // From here on Ctrl-C ends cleanly; before there was nothing to clean up.
    let interrupt = interrupt::flag()?;
    let mut bars = Bars::default();
    let (worker, loaded) = start(config, interrupt, &mut bars)?;
    let job = Job {
        prompt: segments(args, template.as_ref(), &loaded, &prompt)?,
        max_tokens,
        n_ctx: args.engine.ctx_size,
        sampling: sampling.clone(),
        stops: args.reverse_prompt.clone(),
        constraint: form.clone(),
        n_logprobs: args.logprobs,
        drafter: args.drafter,
        curve_budget: Duration::from_millis(args.engine.curve_budget),
        record: args.trace.is_some(),
        learns: true,
        explain: args.explain,
    };
    worker.submit(job);
    let mut text = String::new();
    let mut output = TextOutput::default();
    let answer = receive(&worker, &mut bars, |piece| {
        text.push_str(piece);
        if args.json || args.explain { Ok(()) } else { output.write(piece) }
    });
    if args.explain && !args.json {
        output.write(&text)?;
    }
    output.finish()?;
    let answer = answer?;
    if let (Some(path), Some(trace)) = (&args.trace, &answer.trace) {
        append_trace(path, &Trace { id: args.trace_id.clone(), ..Trace::clone(trace) })?;
    }
    if args.json {
        write_stdout(&to_json(&text, &answer, sampling.seed, args.logprobs.is_some()))?;
    }
    if !args.quiet {
        let seed = (sampling.temperature > 0.0).then_some(sampling.seed);
        stderr_line(&stats_line(&answer.stats, seed));
        if answer.stop == StopType::Context {
            stderr_line(&format!(
                "notice: the answer was cut off: the context of {} positions is full; hint: a larger -c",
                answer.n_ctx
            ));
        }
    }
    if let Some(form) = &form {
        check_whole(form, &answer)?;
    }
    Ok(if answer.stop == StopType::Interrupted { ExitCode::Interrupted } else { ExitCode::Success })
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

/// Where what is learned is kept, if it may be.
fn learned(args: &RunArgs, gguf: &Gguf) -> Option<(PathBuf, LearnedKey)> {
    let (folder, key) = (learn::folder()?, learn::learned_key(gguf)?);
    let is_on = learn::policy(&folder, &key, args.no_learn) == LearnPolicy::On;
    is_on.then_some((folder, key))
}

/// The prompt as the model wants it.
fn segments(
    args: &RunArgs,
    template: Option<&(String, BTreeMap<String, TemplateValue>)>,
    loaded: &Loaded,
    prompt: &str,
) -> Result<Vec<Segment>, Failure> {
    let Some((source, extra)) = template else {
        // Whoever writes the template writes its special tokens.
        return Ok(vec![Segment { text: prompt.to_owned(), parse_special: true }]);
    };
    let message = |role: &str, content: &str| Message::new(role, content);
    let system = args.system_prompt.iter().map(|text| message("system", text));
    let messages: Vec<Message> = system.chain([message("user", prompt)]).collect();
    let options = RenderOptions { add_generation_prompt: true, now: now(), extra: extra.clone() };
    let template = ChatTemplate::parse(source, loaded.specials.clone());
    let rendered = template.and_then(|template| template.render(&messages, &options, &loaded.guard));
    let rendered = rendered
        .map_err(|error| Failure::new(format!("{}: {error}", args.engine.model.display())).with_hint(error.hint()))?;
    if rendered.merged_system {
        stderr_line("notice: this model's template has no system role; the system prompt begins the user's message");
    }
    Ok(rendered.segments)
}

/// Adds a line to a file of traces.
fn append_trace(path: &Path, trace: &Trace) -> Result<(), Failure> {
    let mut line = serde_json::to_string(trace).expect("strings and numbers serialize");
    line.push('\n');
    let file = File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| Failure::io(path, &error))
}

/// Templates may print the date. Without a time zone library it is that of UTC.
fn now() -> LocalTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    LocalTime { unix_s: i64::try_from(since_epoch.as_secs()).unwrap_or(0), utc_offset_s: 0 }
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
    while let Some(event) = worker.next_event() {
        match event {
            Event::Prefill(done, total) => bars.prefill(done, total),
            Event::Measuring => bars.measuring(),
            Event::Text(piece) => {
                bars.clear();
                text(&piece)?;
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
            | Event::Tuning(..)
            | Event::Tuned(_) => {}
        }
    }
    Err(Failure::new("the engine stopped without an answer"))
}

/// Names are llama-server's, where it has one.
#[derive(Serialize)]
struct JsonAnswer<'a> {
    text: &'a str,
    tokens: Vec<i32>,
    stop_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopping_word: Option<&'a str>,
    seed: u32,
    settings: Settings,
    timings: JsonTimings,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<JsonLogprobs>,
}

/// As in OpenAI's chat completions.
#[derive(Serialize)]
struct JsonLogprobs {
    content: Vec<ChatToken>,
}

/// Counts and times of an answer, as `--json` and `bench` write them.
#[derive(Clone, Debug, Serialize)]
pub struct JsonTimings {
    prompt_n: usize,
    cache_n: usize,
    prompt_ms: f64,
    prompt_per_second: f64,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_second: f64,
    steps: usize,
    tokens_per_step: f64,
    draft_n: usize,
    draft_n_accepted: usize,
    draft_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    speedup_estimated: Option<f64>,
}

impl From<&Stats> for JsonTimings {
    fn from(stats: &Stats) -> JsonTimings {
        JsonTimings {
            prompt_n: stats.n_prompt - stats.n_cached,
            cache_n: stats.n_cached,
            prompt_ms: stats.prompt_ms,
            prompt_per_second: stats.prompt_per_second(),
            predicted_n: stats.n_predicted,
            predicted_ms: stats.predicted_ms,
            predicted_per_second: stats.tokens_per_second(),
            steps: stats.n_steps,
            tokens_per_step: stats.tokens_per_step(),
            draft_n: stats.n_drafted,
            draft_n_accepted: stats.n_accepted,
            draft_ms: stats.draft_ms,
            speedup_estimated: stats.speedup(),
        }
    }
}

fn to_json(text: &str, answer: &Answer, seed: u32, with_logprobs: bool) -> String {
    let (stop_type, stopping_word) = match &answer.stop {
        StopType::Eos => ("eos", None),
        StopType::Word(word) => ("word", Some(word.as_str())),
        // llama-server knows one limit only.
        StopType::Limit | StopType::Context => ("limit", None),
        StopType::Interrupted => ("interrupted", None),
    };
    let object = JsonAnswer {
        text,
        tokens: answer.tokens.iter().map(|token| token.0).collect(),
        stop_type,
        stopping_word,
        seed,
        settings: answer.settings,
        timings: JsonTimings::from(&answer.stats),
        logprobs: with_logprobs.then(|| JsonLogprobs { content: chat_logprobs(&answer.logprobs) }),
    };
    let mut json = serde_json::to_string(&object).expect("strings and numbers serialize");
    json.push('\n');
    json
}
