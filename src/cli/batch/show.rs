//! Progress of a batch on stderr: a bar on a terminal, otherwise a line every 10 seconds.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use crate::batch::journal::Totals;
use crate::batch::pipeline::{Doubt, Ended, Watcher};
use crate::batch::progress::{Progress, duration};
use crate::batch::refuse::Refusal;
use crate::cli::output::{Bars, stderr_line};
use crate::exactness::Exactness;
use crate::text::sanitize_for_terminal;

/// Time between two progress lines if stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Number of notices of each kind to print. The output file has all of them.
const MAX_TOLD: usize = 10;

/// Prints progress and notices.
#[derive(Debug)]
pub(super) struct Show {
    bars: Bars,
    is_quiet: bool,
    is_terminal: bool,
    told: Instant,
    n_failed: usize,
    n_doubtful: usize,
}

impl Show {
    pub(super) fn new(bars: Bars, is_quiet: bool) -> Show {
        Show {
            bars,
            is_quiet,
            is_terminal: io::stderr().is_terminal(),
            told: Instant::now(),
            n_failed: 0,
            n_doubtful: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bars.clear();
    }

    /// Prints a notice about a line. `n_th` counts the notices of its kind.
    fn line(&self, number: u64, n_th: usize, what: &str) {
        if n_th > MAX_TOLD {
            return;
        }
        let more = if n_th == MAX_TOLD { "; no more such notices will be shown" } else { "" };
        self.bars.suspend(|| stderr_line(&format!("notice: line {number}: {what}{more}")));
    }
}

impl Watcher for Show {
    fn progress(&mut self, progress: &Progress) {
        if self.is_quiet {
            return;
        }
        if self.is_terminal {
            self.bars.lines(progress.totals.n_done(), progress.n_lines, progress.details());
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            stderr_line(&progress.line());
        }
    }

    /// Notices are printed even with `-q`: no failure is silent.
    fn failed(&mut self, number: u64, refusal: &Refusal) {
        self.n_failed += 1;
        self.line(number, self.n_failed, &format!("{} ({})", refusal.message, refusal.code));
    }

    fn doubtful(&mut self, number: u64, doubt: Doubt) {
        self.n_doubtful += 1;
        self.line(number, self.n_doubtful, &doubt.to_string());
    }

    fn notice(&mut self, text: &str) {
        self.bars.suspend(|| stderr_line(&format!("notice: {}", sanitize_for_terminal(text))));
    }
}

/// One line that summarizes the finished batch.
pub(super) fn summary(ended: &Ended, seed: u32, exactness: Option<&Exactness>) -> String {
    let progress = &ended.progress;
    let Totals { n_ok, n_failed, .. } = progress.totals;
    let is_whole = n_ok + n_failed == progress.n_lines;
    let lines = match is_whole {
        true => format!("{n_ok} ok + {n_failed} failed = {} lines", progress.n_lines),
        false => format!("{n_ok} ok + {n_failed} failed of {} lines", progress.n_lines),
    };
    let exact = exactness.map(|exactness| format!("exact: {exactness}; ")).unwrap_or_default();
    if progress.n_done_now == 0 {
        return format!("{lines}; seed {seed}");
    }
    format!(
        "{lines}; {} now in {}: {:.1} tokens/s (prompts: {:.0} tokens/s), {:.2} tokens/step; {exact}seed {seed}",
        progress.n_done_now,
        duration(progress.seconds),
        progress.predicted_per_second(),
        progress.prompt_per_second(),
        progress.tokens_per_step(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine;

    #[test]
    fn the_sum_is_told() {
        let engine = engine::Progress { n_running: 0, n_prompt: 100, n_predicted: 50, n_steps: 25 };
        let totals = Totals { n_ok: 61, n_failed: 3, ..Totals::default() };
        let progress = Progress { n_lines: 64, totals, n_done_now: 20, n_ok_now: 20, engine, seconds: 10.0 };
        let ended = Ended { progress, is_interrupted: false, n_lost: 0 };
        let expected =
            "61 ok + 3 failed = 64 lines; 20 now in 10s: 5.0 tokens/s (prompts: 10 tokens/s), 2.00 tokens/step; seed 7";
        assert_eq!(summary(&ended, 7, None), expected);
        let exact = summary(&ended, 7, Some(&Exactness::default()));
        assert_eq!(exact, expected.replace("seed", "exact: yes; seed"));
        let stopped = Ended { progress: Progress { n_lines: 70, n_done_now: 0, ..progress }, ..ended };
        assert_eq!(summary(&stopped, 7, None), "61 ok + 3 failed of 70 lines; seed 7");
    }
}
