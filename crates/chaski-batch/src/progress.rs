//! Progress of a job, as counts and as text. Pure: the time is passed in.

use crate::engine;
use crate::journal::Totals;

/// The state of a running job.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Lines of this shard.
    pub n_lines: u64,
    /// Sums over all runs of the job.
    pub totals: Totals,
    /// Lines done in this run.
    pub n_done_now: u64,
    /// Lines answered in this run.
    pub n_ok_now: u64,
    /// The engine's latest counts.
    pub engine: engine::Progress,
    /// Seconds since this run began.
    pub seconds: f64,
}

impl Progress {
    /// Tokens emitted per second in this run.
    #[must_use]
    pub fn predicted_per_second(&self) -> f64 {
        per(self.engine.n_predicted as f64, self.seconds)
    }

    /// Prompt tokens decoded per second in this run.
    #[must_use]
    pub fn prompt_per_second(&self) -> f64 {
        per(self.engine.n_prompt as f64, self.seconds)
    }

    /// Tokens emitted per step of one request.
    #[must_use]
    pub fn tokens_per_step(&self) -> f64 {
        per(self.engine.n_predicted as f64, self.engine.n_steps as f64)
    }

    /// Estimated seconds until all lines are done, at this run's rate of answers; `None` before the first answer.
    /// Refused lines take no time, so they do not count for the rate.
    #[must_use]
    pub fn seconds_left(&self) -> Option<f64> {
        let n_left = self.n_lines.saturating_sub(self.totals.n_done());
        (self.n_ok_now > 0).then(|| n_left as f64 * self.seconds / self.n_ok_now as f64)
    }

    /// Progress without the number of lines, for a progress bar.
    #[must_use]
    pub fn details(&self) -> String {
        let engine = &self.engine;
        let mut words =
            format!("{:.1} tokens/s (prompts: {:.0} tokens/s)", self.predicted_per_second(), self.prompt_per_second());
        words += &format!(", {} lanes, {:.2} tokens/step", engine.n_running, self.tokens_per_step());
        if self.totals.n_failed > 0 {
            words += &format!(", {} failed", self.totals.n_failed);
        }
        match self.seconds_left() {
            Some(seconds) => format!("{words}, {} left", duration(seconds)),
            None => words,
        }
    }

    /// The progress as one line of text.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}/{} lines: {}", self.totals.n_done(), self.n_lines, self.details())
    }
}

fn per(n: f64, of: f64) -> f64 {
    if of > 0.0 { n / of } else { 0.0 }
}

/// A duration in its two largest units.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_it_goes() {
        let engine = engine::Progress { n_running: 16, n_prompt: 2000, n_predicted: 500, n_steps: 250 };
        let totals = Totals { n_ok: 37, n_failed: 3, ..Totals::default() };
        let progress = Progress { n_lines: 100, totals, n_done_now: 22, n_ok_now: 20, engine, seconds: 10.0 };
        assert_eq!(
            progress.line(),
            "40/100 lines: 50.0 tokens/s (prompts: 200 tokens/s), 16 lanes, 2.00 tokens/step, 3 failed, 30s left"
        );
        assert_eq!(
            Progress::default().line(),
            "0/0 lines: 0.0 tokens/s (prompts: 0 tokens/s), 0 lanes, 0.00 tokens/step"
        );
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([0.4, 59.6, 3599.0, 7260.0, 90000.0].map(duration), ["0s", "1m00s", "59m59s", "2h01m", "1d01h"]);
    }
}
