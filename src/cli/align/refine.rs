//! `chaski drafter refine`: trains a drafter on hidden states further, on the answers that `--hidden-learn` recorded.

use std::fs;
use std::path::PathBuf;

use chaski_hidden::{self as hidden, Net, Settings, Text};
use clap::Args as ClapArgs;

use crate::cli::align::hidden::{
    Rows, Work, answers, check_memory, held_out, hidden_failure, share, verdicts, with_bars, with_net,
};
use crate::cli::align::log_path;
use crate::cli::engine::{hidden_path, model_id, open_model};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::hidden_log;
use crate::cli::interrupt;
use crate::cli::output::stderr_line;
use crate::cli::settings::physical_cores;
use crate::llama::hidden::{TargetMatrices, dequantize};
use crate::llama::logs;
use crate::store::hidden_file::HiddenFile;

/// A third of the rate of a new network: this one knows most of what is in the texts.
const RATE: f32 = 1e-4;

/// Passes over the texts.
const N_EPOCHS: usize = 4;

/// Arguments of `drafter refine`.
#[derive(Debug, ClapArgs)]
pub struct RefineArgs {
    /// GGUF file or model name
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// File to train further [default: MODEL.hidden beside the model]
    #[arg(long, value_name = "FILE")]
    pub hidden: Option<PathBuf>,

    /// Train on FILE instead of the recorded answers: a log of `chaski drafter align --hidden --keep-log`. It is not deleted
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// Keep the recorded answers
    #[arg(long)]
    pub keep_log: bool,

    /// Threads [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,

    /// Seed of the training
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u32,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn refine(args: &RefineArgs) -> Result<ExitCode, Failure> {
    logs::capture(false);
    let gguf = open_model(&args.model)?;
    let file_path = hidden_path(args.hidden.as_deref(), &gguf).ok_or_else(|| {
        Failure::usage("there is no drafter on hidden states beside the model").about("hidden").with_hint(
            "name one with --hidden; chaski drafter align -m MODEL -o MODEL.chaski --hidden MODEL.hidden trains one",
        )
    })?;
    let file = HiddenFile::open(&file_path, &model_id(gguf.path()))?;
    let recorded = log_path(&file_path);
    // Kept open to the end: nobody may record what would then be deleted.
    let (_lock, log) = match &args.log {
        Some(log) => (None, log.clone()),
        None if recorded.exists() => {
            let (lock, log) = hidden_log::open(&file_path, gguf.path())?;
            (Some(lock), log)
        }
        None => {
            return Err(Failure::new(format!("{}: nothing is recorded", recorded.display()))
                .with_hint("record answers first: chaski chat -m MODEL --hidden-learn"));
        }
    };
    let interrupt = interrupt::flag()?;
    let n_threads = args.threads.map_or_else(physical_cores, usize::from);
    let work = Work { gguf: &gguf, log: &log, seed: args.seed, n_threads, interrupt: &interrupt };
    let (answers, texts) = answers(&work).map_err(|failure| match &args.log {
        Some(_) => failure.with_hint("--log takes a log of chaski drafter align --hidden --keep-log for this model"),
        None => failure,
    })?;
    check_memory(&texts)?;
    let held_out = held_out(&answers, &texts);
    let before = verdicts(&work, &file, &held_out)?;
    let net = train(&work, &file, &texts)?;
    let n_tokens: usize = texts.iter().map(|text| text.said.len()).sum();
    let mut refined = with_net(&file, &net)?;
    refined.n_trained_tokens += n_tokens as u64;
    let after = verdicts(&work, &refined, &held_out)?;
    let (path, percent) = (file_path.display(), |verdicts: &[bool]| 100.0 * share(verdicts));
    let told = format!(
        "right for {:.1}% of {} held-out tokens ({:.1}% before); the log has {n_tokens} tokens",
        percent(&after),
        after.len(),
        percent(&before)
    );
    if !is_clearly_better(&before, &after) {
        let hint = match &args.log {
            Some(_) => "use a longer log",
            None => "record more answers; if the log is full, delete it first",
        };
        stderr_line(&format!("notice: {path} is unchanged: {told}, which may be chance; hint: {hint}"));
        return Ok(ExitCode::Success);
    }
    refined.write(&file_path)?;
    stderr_line(&format!("{path}: {told}"));
    if args.log.is_none() && !args.keep_log {
        fs::remove_file(&log).map_err(|error| Failure::io(&log, &error))?;
    }
    Ok(ExitCode::Success)
}

/// Whether more rows became right than wrong, by more than twice the standard deviation of chance. The best pass was chosen on
/// the same rows, so a smaller gain says little.
fn is_clearly_better(before: &[bool], after: &[bool]) -> bool {
    let changed = || before.iter().zip(after).filter(|(before, after)| before != after);
    let n_gained = changed().filter(|(_, after)| **after).count();
    let n_lost = changed().count() - n_gained;
    n_gained as f64 - n_lost as f64 > 2.0 * ((n_gained + n_lost) as f64).sqrt()
}

fn train(work: &Work<'_>, file: &HiddenFile, texts: &[Text]) -> Result<Net, Failure> {
    let net = Net {
        n_embd: file.n_embd(),
        n_hidden: file.n_hidden(),
        mean: file.mean.clone(),
        std: file.std.clone(),
        first: dequantize(&file.first).map_err(hidden_failure)?,
        first_bias: file.first_bias.clone(),
        second: dequantize(&file.second).map_err(hidden_failure)?,
        scale: file.scale,
    };
    let matrices = Rows(TargetMatrices::open(work.gguf.path()).map_err(hidden_failure)?);
    let settings = Settings {
        n_hidden: net.n_hidden,
        n_epochs: N_EPOCHS,
        rate: RATE,
        seed: work.seed.into(),
        n_threads: work.n_threads,
        ..Settings::default()
    };
    let refined = with_bars(work, "record more answers with --hidden-learn, or use a longer --log", |progress| {
        hidden::refine(texts, &matrices, &settings, (net, &file.tokens), progress)
    })?;
    Ok(refined.net)
}

#[cfg(test)]
mod tests {
    use super::is_clearly_better;

    #[test]
    fn a_gain_within_chance_is_none() {
        let rows = |n_right: usize| (0..100).map(|row| row < n_right).collect::<Vec<bool>>();
        assert!(!is_clearly_better(&rows(50), &rows(50)));
        assert!(!is_clearly_better(&rows(50), &rows(54)), "4 gained: 4 = 2 * sqrt(4)");
        assert!(is_clearly_better(&rows(50), &rows(55)));
        assert!(!is_clearly_better(&rows(55), &rows(50)));
        // 10 gained and 5 lost.
        let mut mixed = rows(60);
        mixed[..5].fill(false);
        assert!(!is_clearly_better(&rows(50), &mixed));
        assert!(!is_clearly_better(&[], &[]));
    }
}
