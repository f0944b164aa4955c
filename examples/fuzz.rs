//! Fuzzes on stable Rust, without coverage: `cargo run --release --no-default-features --example fuzz -- TARGET --seconds N
//! [--seed S]`. A finding is written to `fuzz/artifacts/TARGET-SEED-RUN`, and ends the run with code 1; the same seed
//! finds it again.

#[path = "../fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use mutate::{Rng, mutate};
use targets::{TARGETS, Target};

/// No input takes longer.
const LONGEST: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match fuzz() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            say(&format!("error: {message}"));
            ExitCode::from(2)
        }
    }
}

fn fuzz() -> Result<bool, String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |flag: &str, default: u64| {
        let given = arguments.iter().position(|argument| argument == flag).and_then(|at| arguments.get(at + 1));
        given.map_or(Ok(default), |text| text.parse().map_err(|_| format!("{flag} {text}: no number")))
    };
    let (seconds, seed) = (number("--seconds", 10)?, number("--seed", 1)?);
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let name = arguments.first().ok_or(format!("give a target: {}", names.join(", ")))?;
    let target = TARGETS.iter().find(|(known, _)| known == name);
    let target = target.ok_or(format!("{name}: no such target; there are {}", names.join(", ")))?;
    run(target, Duration::from_secs(seconds), seed).map_err(|error| error.to_string())
}

/// Whether nothing was found.
fn run((name, check): &Target, time: Duration, seed: u64) -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut files: Vec<PathBuf> =
        fs::read_dir(root.join("corpus").join(name))?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort_unstable();
    let corpus: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<io::Result<_>>()?;
    let (start, mut rng, mut n_runs) = (Instant::now(), Rng(seed), 0_u64);
    let mut slowest = Duration::ZERO;
    while start.elapsed() < time {
        let input = mutate(&mut rng, &corpus);
        let begun = Instant::now();
        let is_sound = catch_unwind(AssertUnwindSafe(|| check(&input))).is_ok();
        slowest = slowest.max(begun.elapsed());
        if !is_sound || begun.elapsed() > LONGEST {
            let path = root.join("artifacts").join(format!("{name}-{seed}-{n_runs}"));
            fs::create_dir_all(root.join("artifacts"))?;
            fs::write(&path, input)?;
            say(&format!("found after {n_runs} runs: {}", path.display()));
            return Ok(false);
        }
        n_runs += 1;
    }
    say(&format!("{name}: {n_runs} runs in {:.0} s, slowest {slowest:.0?}, seed {seed}: nothing", time.as_secs_f64()));
    Ok(true)
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
