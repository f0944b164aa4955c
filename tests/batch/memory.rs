//! Tests that memory does not grow with the input.

use std::fmt::Write as _;
use std::fs;
use std::process::Child;

use crate::place::Place;

/// Lines of the largest input. A million take half a minute in a release build.
fn n_lines() -> u64 {
    std::env::var("CHASKI_BATCH_LINES").map_or(100_000, |n| n.parse().unwrap())
}

/// Runs a job over `n` lines in a child process, and returns its peak memory in KiB.
fn peak_kib(name: &str, n: u64, line: fn(u64) -> String) -> u64 {
    let place = Place::new();
    let mut text = String::new();
    (0..n).for_each(|n| writeln!(text, "{}", line(n)).unwrap());
    let mut setup = place.setup(name, text);
    setup.n_lanes = 64;
    let start = std::time::Instant::now();
    let mut child = setup.spawn().unwrap();
    let peak = watch(&mut child);
    assert!(child.wait().unwrap().success());
    let journal = setup.journal();
    assert_eq!((journal.totals().n_ok, journal.n_left()), (n, 0));
    assert_eq!(fs::read(&setup.output).unwrap().iter().filter(|&&byte| byte == b'\n').count() as u64, n);
    // Shown with `--nocapture`.
    let mut told = String::new();
    writeln!(told, "{n} lines of {name}: {peak} KiB, {:.1} s", start.elapsed().as_secs_f64()).unwrap();
    std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).unwrap();
    peak
}

/// Waits for a child, and returns its peak resident set in KiB.
fn watch(child: &mut Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    peak
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_flat() {
    let text: fn(u64) -> String = |n| format!("What comes after {n}, and what before it?");
    let few = peak_kib("a.txt", n_lines() / 4, text);
    let many = peak_kib("a.txt", n_lines(), text);
    // One bit per line, and noise.
    assert!(many < few + 2048 + n_lines() / 8 / 1024, "{few} KiB and {many} KiB");
    let named: fn(u64) -> String = |n| format!("{{\"custom_id\": \"q{n}\", \"prompt\": \"What comes after {n}?\"}}");
    let few = peak_kib("a.jsonl", n_lines() / 4, named);
    let many = peak_kib("a.jsonl", n_lines(), named);
    // Ids take up to 18 bytes per line, and one and a half times that while their table grows.
    assert!(many < few + 2048 + n_lines() * 27 / 1024, "{few} KiB and {many} KiB");
}
