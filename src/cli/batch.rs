//! `chaski batch`: answers every line of a file and resumes after interruptions.
//!
//! A job runs in two processes. One works; the other watches it, so a line that crashes the engine does not end the
//! job. This module turns arguments into a job and an engine; [`crate::batch`] runs the job.

pub mod args;
mod claiming;
mod failures;
mod show;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;

use crate::batch::claims::{Plan, journal_of};
use crate::batch::disk::Files;
use crate::batch::input::parameters::Defaults;
use crate::batch::input::shard::{Shard, Share};
use crate::batch::input::source::Survey;
use crate::batch::job::{Job, Output, Prepared, summary};
use crate::batch::ledger::{is_running, journal_path, read_journal};
use crate::batch::merge::{MergeError, claimed_parts, merge, parts_of};
use crate::batch::pipeline::{Ended, OutputShape};
use crate::batch::render::Renderer;
use crate::batch::status::Status;
use crate::batch::supervise::{Fate, stop_with_parent, supervise};
use crate::chat::overflow::OnOverflow;
use crate::chat::template::{ChatTemplate, LocalTime};
use crate::chat::thinking::Reasoning;
use crate::cli::args::{CacheTypeArg, MODEL_HINT};
use crate::cli::batch::args::{BatchArgs, BatchCommand, MergeArgs, StatusFormat};
use crate::cli::batch::show::Show;
use crate::cli::context_size::{self, PickedBy, given_n_ctx};
use crate::cli::engine::{
    check_prompting, confine, engine_config, max_tokens, model_id, open_base, open_model, sampling, start,
};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::files::refuse_overwrite;
use crate::cli::input::read_file;
use crate::cli::interrupt;
use crate::cli::lora::lora_key;
use crate::cli::output::{Bars, stderr_line, write_stdout};
use crate::cli::prompt::local;
use crate::cli::sandbox::folder_of;
use crate::cli::supervisor::{self, CrashMessage};
use crate::gguf::Gguf;
use crate::llama::engine::{Engine, EngineConfig, Loaded, ManyTexts, Mode};
use crate::llama::exact;
use crate::llama::parallel::MAX_LANES;

/// Environment variable of a worker process. Its value says whether the worker before it crashed.
const WORKER: &str = "CHASKI_BATCH_WORKER";
const AFTER_CRASH: &str = "after-crash";

/// Size limit of a template, in bytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Most shards that `merge` looks for.
const MAX_PARTS: u64 = 10_000;

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn batch(args: &BatchArgs) -> Result<ExitCode, Failure> {
    if let Some(BatchCommand::Merge(args)) = &args.command {
        return join(args);
    }
    let share = match &args.shard {
        Some(share) => Share::parse(share, |name| std::env::var(name).ok()).map_err(|message| {
            Failure::usage(format!("--shard {share}: {message}")).with_hint("as in --shard 2/4 or --shard claim/40")
        })?,
        None => Share::One(Shard::ALL),
    };
    if args.lease.is_given && !matches!(share, Share::Claim(_)) {
        return Err(
            Failure::usage("--lease goes only with --shard claim").with_hint("add --shard claim, or omit --lease")
        );
    }
    let given = args.output_file.as_deref().ok_or_else(|| Failure::usage("no output file given"))?;
    let output = share.shard().output(given);
    if let Some(format) = args.status {
        // The user may leave out --shard. Once the shards are joined, the output has a journal of its own.
        let is_claimed =
            share == Share::One(Shard::ALL) && !journal_path(&output).exists() && Plan::path(&output).exists();
        return match share {
            Share::One(_) if !is_claimed => status(&output, format),
            _ => claiming::status(&output, format),
        };
    }
    let work = Work { args, share, output };
    if let Share::Claim(_) = share {
        work.check_claim()?;
    }
    if work.is_stream() {
        return work.run(None);
    }
    match std::env::var(WORKER) {
        Ok(worker) => work.run(Some(worker == AFTER_CRASH)),
        Err(_) => work.supervise(),
    }
}

/// The arguments of a job, with its share and output path.
struct Work<'a> {
    args: &'a BatchArgs,
    share: Share,
    output: PathBuf,
}

impl Work<'_> {
    /// Whether the output is not a regular file. A stream has no journal and no second process, and cannot resume.
    fn is_stream(&self) -> bool {
        self.output == Path::new("-") || fs::metadata(&self.output).is_ok_and(|metadata| !metadata.is_file())
    }

    /// Spawns worker processes and restarts them after crashes.
    fn supervise(&self) -> Result<ExitCode, Failure> {
        let interrupt = interrupt::flag()?;
        let program = std::env::current_exe().map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let crash_message = RefCell::new(CrashMessage::default());
        let owner = claiming::owner_id();
        let spawn = |after_crash: bool| -> io::Result<Child> {
            let worker = if after_crash { AFTER_CRASH } else { "first" };
            let mut command = Command::new(&program);
            let (child, words) = supervisor::spawn(
                command.args(&arguments).env(WORKER, worker).env(claiming::OWNER, &owner).stdin(Stdio::piped()),
            )?;
            crash_message.replace(words);
            Ok(child)
        };
        let notice = |notice: &str| {
            let words = crash_message.borrow_mut().take().map(|words| format!("; {words}"));
            stderr_line(&format!("notice: {notice}{}", words.unwrap_or_default()));
        };
        let n_at_work = || {
            let journal = match self.share {
                Share::One(_) => Some(journal_path(&self.output)),
                Share::Claim(_) => journal_of(&Files, &self.output, &owner).ok().flatten(),
            };
            let read = journal.and_then(|journal| read_journal(&Files, &journal).ok().flatten());
            read.map_or(0, |(journal, _)| journal.n_at_work())
        };
        let fate = supervise(spawn, &interrupt, n_at_work, notice);
        match fate.map_err(|error| Failure::new(format!("the engine's process failed: {error}")))? {
            Fate::Ended(status) => match status.code().map(ExitCode::from_number) {
                Some(code) => Ok(code),
                None => Err(self.ended(&format!("the process was killed ({status})"))),
            },
            Fate::Crashed(status) => {
                let words = crash_message.take().take().unwrap_or_else(|| status.to_string());
                Err(self.ended(&format!("the engine stopped while no line was running: {words}")))
            }
        }
    }

    fn ended(&self, what: &str) -> Failure {
        if let Share::Claim(_) = self.share {
            return failures::claims_ended(what);
        }
        let safe = failures::safe(&self.output).unwrap_or_else(|| "no line is done".to_owned());
        Failure::new(what).with_hint(format!("{safe}; run the same command again to continue"))
    }

    /// Runs the job in this process. `worker` says whether the previous worker crashed; it is `None` for a stream.
    fn run(&self, worker: Option<bool>) -> Result<ExitCode, Failure> {
        let args = self.args;
        let job = self.job(worker == Some(true))?;
        args.exact.demand();
        let mut engine = engine_config(&args.engine.0)?;
        let gguf = open_model(&args.engine.0.model)?;
        context_size::n_ctx(&args.engine.0, &gguf, None, &mut engine, context_size::LEAST_N_CTX, PickedBy::Length)?;
        let interrupt = interrupt::flag()?;
        if worker.is_some() {
            supervisor::begin_work();
            let listening = stop_with_parent(interrupt.clone());
            listening.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        }
        if let Share::Claim(n_shards) = self.share {
            return self.claim(&job, n_shards, engine, &gguf, interrupt);
        }
        let prepared = job.prepare(self.open_output()?).map_err(|error| failures::of_job(error, &self.output))?;
        self.tell(&prepared);
        let seed = prepared.seed();
        let settings = *engine.settings.at(0);
        let (ended, exactness) = match prepared.n_left() {
            0 => (prepared.finish().map_err(|error| failures::of_job(error, &self.output))?, None),
            _ => (self.answer(prepared, engine, &gguf, interrupt)?, Some(exact::of_work(&settings))),
        };
        if !args.quiet {
            stderr_line(&show::summary(&ended, seed, exactness.as_ref()));
        }
        if let Some(exactness) = exactness {
            args.exact.check(&exactness, args.engine.0.verbose)?;
        }
        match ended.progress.totals.n_failed {
            _ if ended.is_interrupted => Err(failures::interrupted(&self.output, ended.n_lost)),
            0 => Ok(ExitCode::Success),
            _ => Ok(ExitCode::LinesFailed),
        }
    }

    fn answer(
        &self,
        prepared: Prepared<'_>,
        config: EngineConfig,
        gguf: &Gguf,
        interrupt: Arc<AtomicBool>,
    ) -> Result<Ended, Failure> {
        let (engine, renderer) = self.start(config, gguf, local(prepared.now().unix_s), interrupt.clone())?;
        let mut show = Show::new(Bars::default(), self.args.quiet);
        let (path, survey) = (prepared.path().to_owned(), prepared.survey().clone());
        let ended = prepared.run(Box::new(engine), renderer, &interrupt, &mut show);
        show.clear();
        tell_appended(&survey, &path);
        ended.map_err(|error| failures::of_job(error, &self.output))
    }

    /// Starts the engine. `now`: the time that templates see.
    fn start(
        &self,
        mut config: EngineConfig,
        gguf: &Gguf,
        now: LocalTime,
        interrupt: Arc<AtomicBool>,
    ) -> Result<(Engine, Renderer), Failure> {
        config.drafters.base = open_base(self.args.base.as_deref(), gguf);
        confine(&self.args.engine.0, &config, &[self.rewritten()]);
        let mut bars = Bars::default();
        let mode = Mode::ManyTexts(ManyTexts {
            n_parallel: self.args.parallel(),
            n_ctx: given_n_ctx(&self.args.engine.0)?,
            drafts: !self.args.no_drafts,
            states: false,
            prompt_cache: self.args.prompt_cache.config(),
        });
        let (engine, loaded) = start(config, mode, interrupt, &mut bars)?;
        Ok((engine, self.renderer(gguf, loaded, now)?))
    }

    /// The folder that the sandbox must allow for rewriting output and journal, or for those of further shards. Only
    /// ordered results are rewritten; otherwise both files stay open.
    fn rewritten(&self) -> Option<PathBuf> {
        let is_ordered = self.args.ordered || self.args.text;
        let is_claimed = matches!(self.share, Share::Claim(_));
        ((is_ordered || is_claimed) && !self.is_stream()).then(|| folder_of(&self.output))
    }

    fn open_output(&self) -> Result<Output<'_>, Failure> {
        if self.output == Path::new("-") {
            return Ok(Output::Stream(Box::new(io::BufWriter::new(io::stdout()))));
        }
        if !self.is_stream() {
            return Ok(Output::File(&Files, &self.output));
        }
        let file = fs::File::options().write(true).open(&self.output);
        let file = file.map_err(|error| Failure::io(&self.output, &error))?;
        Ok(Output::Stream(Box::new(io::BufWriter::new(file))))
    }

    fn tell(&self, prepared: &Prepared<'_>) {
        let notice = |text: String| stderr_line(&format!("notice: {text}"));
        match prepared.survey().n_blank {
            0 => {}
            1 => notice("1 blank line is skipped".to_owned()),
            n => notice(format!("{n} blank lines are skipped")),
        }
        if let Some(journal) = prepared.journal()
            && journal.totals().n_done() > 0
        {
            notice(format!("{} of {} lines were already done", journal.totals().n_done(), journal.key().n_own));
        }
        if prepared.n_dropped_bytes() > 0 {
            notice(format!(
                "the last {} bytes of the journal were incomplete or damaged; they are deleted, and their lines run \
                 again",
                prepared.n_dropped_bytes()
            ));
        }
    }

    fn job(&self, after_crash: bool) -> Result<Job, Failure> {
        let (args, engine) = (self.args, &self.args.engine.0);
        let no_input = || Failure::usage("no input file given").with_hint("give one, as in -i prompts.jsonl");
        let input = args.input_file.clone().ok_or_else(no_input)?;
        if engine.model.as_os_str().is_empty() {
            return Err(Failure::usage("no model given").with_hint(MODEL_HINT));
        }
        self.check_files(&input)?;
        given_n_ctx(engine)?;
        let mut sampling = sampling(&args.sampling)?;
        let mut has_seed = args.sampling.seed != -1;
        let shard = self.share.shard();
        if shard != Shard::ALL && !has_seed {
            if sampling.temperature > 0.0 {
                return Err(Failure::usage("the shards of a job need the same seed")
                    .with_hint("give --seed to all of them, as in --seed 1"));
            }
            (sampling.seed, has_seed) = (0, true);
        }
        let max_tokens = max_tokens(args.n_predict)?;
        check_prompting(&args.reverse_prompt, args.raw, args.system_prompt.as_deref())?;
        if args.on_overflow == OnOverflow::Summarize {
            return Err(Failure::usage("--on-overflow summarize works in chats only")
                .with_hint("use --on-overflow drop-oldest or --on-overflow error"));
        }
        if args.parallel().is_some_and(|n| !(1..=MAX_LANES).contains(&n)) {
            return Err(Failure::usage(format!("--parallel must be from 1 to {MAX_LANES}, or -1")).about("parallel"));
        }
        let none = || "none".to_owned();
        let cache_type = |given: Option<CacheTypeArg>| given.map_or_else(|| "default".to_owned(), name_of);
        let mut parameters = BTreeMap::from([
            ("--ctx-size".to_owned(), engine.ctx_size.map_or_else(none, |n| n.to_string())),
            ("--system-prompt".to_owned(), args.system_prompt.as_deref().map_or_else(none, summary)),
            ("--raw".to_owned(), args.raw.to_string()),
            ("--on-overflow".to_owned(), name_of(args.on_overflow)),
            ("--lora".to_owned(), lora_key(engine)),
            ("--chat-template".to_owned(), args.chat_template.key()),
            ("--cache-type-k".to_owned(), cache_type(engine.cache_type_k)),
            ("--cache-type-v".to_owned(), cache_type(engine.cache_type_v)),
        ]);
        // `--exact` changes how some matrix types are computed.
        if args.exact.exact {
            parameters.insert("--exact".to_owned(), true.to_string());
        }
        // `show` and `hide` give the same results.
        if args.reasoning == Reasoning::Off {
            parameters.insert("--reasoning".to_owned(), name_of(args.reasoning));
        }
        Ok(Job {
            input,
            format: args.format.map(Into::into),
            template: self.template()?,
            shard,
            // Text output has no ids, so it must be in input order.
            form: OutputShape { is_text: args.text, is_ordered: args.ordered || args.text },
            defaults: Defaults { sampling, max_tokens, stop: args.reverse_prompt.clone() },
            has_seed,
            model: model_id(&engine.model),
            model_name: engine.model.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            parameters,
            // Otherwise lines that fail again in this run would be retried forever.
            retry_failed: args.retry_failed && !after_crash,
            after_crash,
            created_ms: None,
        })
    }

    /// Rejects an input that is not a regular file (it is read twice), or that the output would overwrite.
    fn check_files(&self, input: &Path) -> Result<(), Failure> {
        let not_regular = |what: &str| {
            Failure::usage(format!("{what}: not a regular file"))
                .with_hint("chaski batch reads its input twice: save it to a file, and give that with -i")
        };
        if input == Path::new("-") {
            return Err(not_regular("stdin"));
        }
        let metadata = fs::metadata(input).map_err(|error| Failure::io(input, &error))?;
        if !metadata.is_file() {
            return Err(not_regular(&input.display().to_string()));
        }
        let args = self.args;
        let files =
            [Some(input), Some(args.engine.0.model.as_path()), args.template_file.as_deref(), args.base.as_deref()];
        let files = files.into_iter().flatten();
        refuse_overwrite(&self.output, files.clone())?;
        refuse_overwrite(&journal_path(&self.output), files)
    }

    fn template(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.args.template_file else { return Ok(self.args.template.clone()) };
        read_file(path, MAX_TEMPLATE_BYTES, "a template").map(Some)
    }

    fn renderer(&self, gguf: &Gguf, loaded: Loaded, now: LocalTime) -> Result<Renderer, Failure> {
        let Loaded { specials, guard, .. } = loaded;
        let source = self.args.chat_template.source(gguf)?;
        let variables = self.args.chat_template.variables()?;
        let template = source.map(|source| ChatTemplate::parse(&source, specials)).transpose();
        let template = template
            .map_err(|error| Failure::new(format!("{}: {error}", gguf.path().display())).with_hint(error.hint()))
            .map_err(|failure| failure.about("chat-template").about("chat-template-file"))?;
        if template.is_none() && !self.args.raw {
            stderr_line(
                "notice: the model has no chat template; prompts are used as they are; hint: give --chat-template, \
                 or --raw to hide this notice",
            );
        }
        let system = self.args.system_prompt.clone();
        let drops_oldest = self.args.on_overflow == OnOverflow::DropOldest;
        let is_thinking_unwanted = self.args.reasoning == Reasoning::Off;
        Ok(Renderer {
            template,
            guard,
            system,
            is_raw: self.args.raw,
            now,
            variables,
            drops_oldest,
            is_thinking_unwanted,
        })
    }
}

/// Tells that lines were added to the input while the job ran.
fn tell_appended(survey: &Survey, path: &Path) {
    match survey.n_appended(path) {
        0 => {}
        n => stderr_line(&format!(
            "notice: {}: {n} lines were added while the job ran; they are not answered; hint: put them into a \
             separate file, and run it with another -o",
            path.display()
        )),
    }
}

/// The name of a value on the command line.
fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn status(output: &Path, format: StatusFormat) -> Result<ExitCode, Failure> {
    let path = journal_path(output);
    let is_running = is_running(output)?;
    let read = read_journal(&Files, &path)?;
    let (Some(is_running), Some((journal, _))) = (is_running, read) else {
        return Err(Failure::new(format!("{}: no such journal", path.display()))
            .with_hint("give the job's output file with -o; its journal is beside it"));
    };
    let status = Status::of(&journal, is_running);
    match format {
        StatusFormat::Text => write_stdout(&status.text())?,
        StatusFormat::Json => {
            write_stdout(&(serde_json::to_string(&status).expect("strings and numbers serialize") + "\n"))?;
        }
    }
    Ok(ExitCode::Success)
}

fn join(args: &MergeArgs) -> Result<ExitCode, Failure> {
    let output = &args.output_file;
    let parts = match args.parts.is_empty() {
        true => match claimed_parts(&Files, output)? {
            Some(parts) => parts,
            None => parts_of(output, Path::exists, MAX_PARTS),
        },
        false => args.parts.clone(),
    };
    if parts.is_empty() {
        return Err(Failure::from(MergeError::NoJournal(Shard { number: 1, n_shards: 2 }.output(output))));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let totals = merge(&Files, output, &parts, u64::try_from(since.as_millis()).unwrap_or(u64::MAX))?;
    stderr_line(&format!("{} ok + {} failed = {} lines", totals.n_ok, totals.n_failed, totals.n_done()));
    Ok(if totals.n_failed == 0 { ExitCode::Success } else { ExitCode::LinesFailed })
}

#[cfg(test)]
mod tests;
