//! Failures of `chaski batch` as messages for the user.

use std::io;
use std::path::Path;

use crate::batch::disk::Files;
use crate::batch::input::source::SourceError;
use crate::batch::ledger::{LedgerError, journal_path, read_journal};
use crate::batch::merge::MergeError;
use crate::batch::pipeline::BatchError;
use crate::cli::failure::{ExitCode, Failure};

/// Hint: rerunning the command resumes the job.
const GOES_ON: &str = "run the same command again to continue";

/// The failure of a job that writes to `output`.
pub(super) fn of_job(error: BatchError, output: &Path) -> Failure {
    match error {
        BatchError::Ledger(LedgerError::Io { .. }) | BatchError::Engine(_) => match safe(output) {
            Some(safe) => Failure::from(error).with_hint(format!("{safe}; {GOES_ON}")),
            None => error.into(),
        },
        BatchError::Stream(error) if output != Path::new("-") && error.kind() != io::ErrorKind::BrokenPipe => {
            Failure::io(output, &error)
        }
        error => error.into(),
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Failure {
        match error {
            BatchError::Source(error) => error.into(),
            BatchError::Ledger(error) => error.into(),
            BatchError::Stream(error) => Failure::stdout(&error),
            BatchError::Engine(message) => Failure::new(message),
            BatchError::Thread(error) => Failure::new(format!("cannot start: {error}")),
        }
    }
}

/// The failure for an interrupt of a process that claims shards.
pub(super) fn claims_interrupted(n_lost: usize) -> Failure {
    lost(n_lost).with_hint(format!("its shard is free for other processes; {GOES_ON}"))
}

/// The failure of a process that claims shards and was ended by `what`.
pub(super) fn claims_ended(what: &str) -> Failure {
    let hint = "finished answers are safe, and other processes take over the shard when its lease expires";
    Failure::new(what).with_hint(format!("{hint}; {GOES_ON}"))
}

fn lost(n_lost: usize) -> Failure {
    let failure = match n_lost {
        0 => Failure::interrupted(),
        1 => Failure::new("interrupted; 1 unfinished answer is lost"),
        n => Failure::new(format!("interrupted; {n} unfinished answers are lost")),
    };
    failure.with_code(ExitCode::Interrupted)
}

/// The failure for an interrupt that lost `n_lost` unfinished answers.
pub(super) fn interrupted(output: &Path, n_lost: usize) -> Failure {
    let failure = lost(n_lost);
    match safe(output) {
        Some(safe) => failure.with_hint(format!("{safe}; {GOES_ON}")),
        None => failure,
    }
}

/// A phrase that says how many lines of the output are safe; `None` if there is no journal.
pub(super) fn safe(output: &Path) -> Option<String> {
    let (journal, _) = read_journal(&Files, &journal_path(output)).ok()??;
    let (totals, key) = (journal.totals(), journal.key());
    let latest = journal.latest().map(|line| format!(", most recently line {}", line + 1)).unwrap_or_default();
    Some(format!("{} of {} lines are safe in {}{latest}", totals.n_done(), key.n_own, output.display()))
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Failure {
        match &error {
            SourceError::Io { path, error } => Failure::io(path, error),
            SourceError::Changed(_) => Failure::new(error.to_string())
                .with_hint("do not change the input while the job runs; to answer the changed file, give another -o"),
            SourceError::Array(path) => {
                let path = path.display();
                Failure::usage(error.to_string())
                    .with_hint(format!("convert it with jq -c '.[]' {path} > lines.jsonl, and give -i lines.jsonl"))
            }
            SourceError::Spread(path) => {
                let path = path.display();
                Failure::usage(error.to_string())
                    .with_hint(format!("convert it with jq -c . {path} > lines.jsonl, and give -i lines.jsonl"))
            }
            SourceError::NoTemplate(_) => Failure::usage(error.to_string())
                .with_hint("give one, as in --template 'Summarize: {{text}}' for a column named text"),
            SourceError::Template { .. } => Failure::usage(error.to_string()).with_hint(
                "--template takes Jinja: {{name}} is the field `name`; if a name contains spaces, write \
                            {{row[\"first name\"]}}",
            ),
            SourceError::Header { .. } => {
                Failure::new(error.to_string()).with_hint("the first line of a table must name its columns")
            }
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Failure {
        let hint = match &error {
            LedgerError::Io { path, error } => return Failure::io(path, error),
            LedgerError::NoJournal(_) => "give another -o, or move the file",
            LedgerError::Foreign(_) => "give another -o, or move the output and its journal",
            LedgerError::OtherKey { .. } => "use the same arguments as before, or give another -o",
            LedgerError::BadPlan(_) => {
                "if no process is at work on the job, delete the file, and run the command again"
            }
            LedgerError::Exists(_) => "if the job is merged already, nothing is left to do; otherwise give another -o",
            LedgerError::PlanDeleted(_) => {
                "if the job is merged already, nothing is left to do; otherwise run the same command again"
            }
            LedgerError::Busy(_) => "wait until it is done; --status shows its progress",
            LedgerError::Shortened { .. } => "restore the file; or move it and its journal to start again",
        };
        Failure::new(error.to_string()).with_hint(hint)
    }
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Failure {
        let hint = match error {
            MergeError::Ledger(error) => return error.into(),
            MergeError::NoJournal(_) => "give the outputs of chaski batch --shard; their journals must be beside them",
            MergeError::OtherJob { .. } => "all shards of a job need the same input, model and parameters",
            MergeError::Twice(_) => "give each part once",
            MergeError::Incomplete { .. } => "run that shard's command again until it is done",
            MergeError::Unfinished { .. } => {
                "run chaski batch --shard claim until they are; --status shows their owners"
            }
            MergeError::Missing { .. } => "give the outputs of all shards",
            MergeError::Exists(_) => "move it, or give another -o",
        };
        Failure::new(error.to_string()).with_hint(hint)
    }
}
