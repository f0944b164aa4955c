//! Writes to stdout and stderr: results to stdout, everything else to stderr.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::failure::{ExitCode, Failure};
use crate::llama::{gpus, logs, system_info};
use crate::stats::Stats;
use crate::text::sanitize_for_terminal;

/// Whether stdout's last byte, as far as this process knows, is inside a line.
static IS_WITHIN_LINE: AtomicBool = AtomicBool::new(false);

/// Writes a line to stderr, without the control sequences that file names, metadata or model text may contain. If
/// stdout goes to the same place and is inside a line, starts a new line. Ignores a closed stderr.
pub fn stderr_line(line: &str) {
    let break_before = if IS_WITHIN_LINE.load(Ordering::Relaxed) && are_streams_merged() {
        IS_WITHIN_LINE.store(false, Ordering::Relaxed);
        "\n"
    } else {
        ""
    };
    let _ = writeln!(io::stderr(), "{break_before}{}", sanitize_for_terminal(line));
}

/// Writes a piece of the model's thinking to stderr, dimmed on a terminal.
pub fn stderr_text(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = match stderr.is_terminal() {
        true => write!(stderr, "\x1b[2m{}\x1b[0m", sanitize_for_terminal(text)),
        false => write!(stderr, "{text}"),
    };
}

/// Call it after another process wrote to stdout and may have left its line open.
pub fn expect_text_of_others() {
    IS_WITHIN_LINE.store(true, Ordering::Relaxed);
}

/// Whether stdout and stderr are the same file, pipe or terminal, as after `2>&1`.
#[cfg(unix)]
fn are_streams_merged() -> bool {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let (out, err) = (rustix::fs::fstat(io::stdout()).map(identity), rustix::fs::fstat(io::stderr()).map(identity));
    matches!((out, err), (Ok(out), Ok(err)) if out == err)
}

#[cfg(not(unix))]
fn are_streams_merged() -> bool {
    io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Notice for an answer with nothing to show.
pub const THINKING_ONLY: &str = "notice: the answer ended within the model's thinking, which is hidden; hint: use a larger -n, or \
     --reasoning show";

/// The output of an answer, written as it arrives.
#[derive(Debug)]
pub struct TextOutput {
    is_terminal: bool,
}

impl Default for TextOutput {
    fn default() -> TextOutput {
        TextOutput { is_terminal: io::stdout().is_terminal() }
    }
}

impl TextOutput {
    /// Writes a piece of text and flushes.
    ///
    /// # Errors
    /// If stdout fails; a closed pipe fails silently.
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        let shown = if self.is_terminal { sanitize_for_terminal(text) } else { text.into() };
        write_stdout(&shown)
    }

    /// On a terminal, ends an open line. Files and pipes get only the text.
    ///
    /// # Errors
    /// As [`TextOutput::write`].
    pub fn finish(&mut self) -> Result<(), Failure> {
        if self.is_terminal && IS_WITHIN_LINE.load(Ordering::Relaxed) { self.write("\n") } else { Ok(()) }
    }
}

/// Writes to stdout and flushes.
///
/// # Errors
/// If stdout fails; a closed pipe fails silently.
pub fn write_stdout(text: &str) -> Result<(), Failure> {
    if let Some(last) = text.bytes().last() {
        IS_WITHIN_LINE.store(last != b'\n', Ordering::Relaxed);
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| Failure::stdout(&error))
}

/// Whether both paths lead to the same file, links resolved.
#[must_use]
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    let identity = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    };
    #[cfg(not(unix))]
    let identity = |path: &Path| fs::canonicalize(path);
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

/// `chaski --version`.
///
/// # Errors
/// If stdout fails.
pub fn print_version() -> Result<ExitCode, Failure> {
    // A GPU driver's messages do not belong here.
    logs::capture(false);
    let info = system_info();
    let gpus: String = gpus(None).iter().map(|gpu| format!("GPU: {gpu}\n")).collect();
    write_stdout(&format!(
        "chaski {}\nllama.cpp: ggml {}, llama-cpp-2 {}\nCPU features: {}\n{gpus}",
        env!("CARGO_PKG_VERSION"),
        info.ggml_version,
        LLAMA_CPP_2_VERSION,
        info.features.join(" ")
    ))?;
    Ok(ExitCode::Success)
}

/// Pinned in Cargo.toml; a test compares them.
const LLAMA_CPP_2_VERSION: &str = "0.1.160";

/// Progress bars on stderr, if it is a terminal; one at a time.
#[derive(Debug, Default)]
pub struct Bars {
    bar: Option<(&'static str, ProgressBar)>,
}

impl Bars {
    fn show(&mut self, what: &'static str, template: &str, done: u64, total: u64) {
        if self.bar.as_ref().is_none_or(|(shown, _)| *shown != what) {
            self.clear();
            let style = ProgressStyle::with_template(template).expect("a constant template");
            let bar = ProgressBar::new(total).with_style(style).with_message(what);
            // The starting position must not count as speed.
            bar.set_position(done);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some((what, bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Shows the share of the model that is loaded, from 0 to 1.
    pub fn loading(&mut self, share: f32) {
        self.show("loading the model", "{msg} {wide_bar} {percent}%", (share * 1000.0) as u64, 1000);
    }

    /// Shows the share of the draft model that is loaded, from 0 to 1.
    pub fn loading_draft_model(&mut self, share: f32) {
        self.show("loading the draft model", "{msg} {wide_bar} {percent}%", (share * 1000.0) as u64, 1000);
    }

    /// Shows how many prompt tokens are decoded.
    pub fn prefill(&mut self, done: usize, total: usize) {
        let template = "{msg} {wide_bar} {pos}/{len} tokens, {eta} left";
        self.show("reading the prompt", template, done as u64, total as u64);
    }

    /// Shows how many bytes of text are done; `total` is 0 if unknown.
    pub fn bytes(&mut self, what: &'static str, done: u64, total: u64) {
        match total {
            0 => self.show(what, "{spinner} {msg}: {bytes}", done, total),
            _ => self.show(what, "{msg} {wide_bar} {bytes}/{total_bytes}, {eta} left", done, total),
        }
    }

    /// Shows a share of some work, from 0 to 1.
    pub fn share(&mut self, what: &'static str, share: f64) {
        self.show(what, "{msg} {wide_bar} {percent}%, {eta} left", (share * 1000.0) as u64, 1000);
    }

    /// Shows that the cost curve is being measured.
    pub fn measuring(&mut self) {
        self.show("measuring this machine (only the first time)", "{spinner} {msg}", 0, 1);
    }

    /// Shows the share of the time used, and the settings being measured.
    pub fn tuning(&mut self, share: f32, what: String) {
        let template = "{msg} {wide_bar} {eta} left: {prefix}";
        self.show("measuring settings", template, (share * 1000.0) as u64, 1000);
        if let Some((_, bar)) = &self.bar {
            bar.set_prefix(what);
        }
    }

    /// Shows the steps of a measurement.
    pub fn steps(&mut self, done: usize, total: usize) {
        self.show("measuring", "{msg} {wide_bar} {pos}/{len}", done as u64, total as u64);
    }

    /// Shows the lines of a batch that are done, with details.
    pub fn lines(&mut self, done: u64, total: u64, details: String) {
        self.show("answering", "{msg} {wide_bar} {pos}/{len} lines: {prefix}", done, total);
        if let Some((_, bar)) = &self.bar {
            bar.set_prefix(details);
        }
    }

    /// Shows how many tokens are written.
    pub fn writing(&mut self, done: u64, total: u64) {
        self.show("writing", "{msg} {wide_bar} {pos}/{len} tokens, {per_sec}, {eta} left", done, total);
    }

    /// Runs `write` while the bar is hidden.
    pub fn suspend(&self, write: impl FnOnce()) {
        match &self.bar {
            Some((_, bar)) => bar.suspend(write),
            None => write(),
        }
    }

    /// Removes the bar.
    pub fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The statistics of an answer, in one line.
#[must_use]
pub fn stats_line(stats: &Stats, seed: Option<u32>) -> String {
    let mut line = format!(
        "{} tokens in {:.2} s: {:.1} tokens/s (prompt: {} ",
        stats.n_predicted,
        stats.predicted_ms / 1e3,
        stats.tokens_per_second(),
        stats.n_prompt,
    );
    line += &match stats.n_cached {
        0 => format!("at {:.0}/s)", stats.prompt_per_second()),
        // If most of the time went into loading the cache, a rate would mislead.
        n => format!("in {:.2} s, {n} cached)", stats.prompt_ms / 1e3),
    };
    line += &format!(
        "; {:.2} tokens/step; drafted {}, accepted {}",
        stats.tokens_per_step(),
        stats.n_drafted,
        percent(stats.n_accepted, stats.n_drafted),
    );
    if let Some(speedup) = stats.speedup() {
        line += &format!("; {speedup:.2}x plain decoding (estimated)");
    }
    if let Some(seed) = seed {
        line += &format!("; seed {seed}");
    }
    line
}

fn percent(part: usize, whole: usize) -> String {
    match whole {
        0 => part.to_string(),
        _ => format!("{part} ({:.0}%)", part as f64 * 100.0 / whole as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_shown_is_the_version_pinned() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("llama-cpp-2 = {{ version = \"={LLAMA_CPP_2_VERSION}\"")));
    }

    #[test]
    fn the_statistics_say_what_happened() {
        let stats = Stats {
            n_prompt: 30,
            n_cached: 9,
            prompt_ms: 100.0,
            n_predicted: 40,
            predicted_ms: 2000.0,
            n_steps: 20,
            n_drafted_steps: 10,
            n_drafted: 50,
            n_accepted: 20,
            draft_ms: 1.0,
            verify_ms: 1900.0,
            plain_ms: Some(2901.0),
        };
        assert_eq!(
            stats_line(&stats, Some(7)),
            "40 tokens in 2.00 s: 20.0 tokens/s (prompt: 30 in 0.10 s, 9 cached); 2.00 tokens/step; drafted 50, accepted 20 (40%); \
             1.50x plain decoding (estimated); seed 7"
        );
    }
}
