//! Tests lines that crash the process.

use std::sync::atomic::AtomicBool;

use chaski::batch::supervise::{Fate, supervise};

use crate::place::{Place, Setup};

fn run(setup: &Setup) -> (Fate, Vec<String>) {
    let mut notices = Vec::new();
    let spawn = |after_crash| Setup { after_crash, ..setup.clone() }.spawn();
    let n_at_work = || setup.journal().n_at_work();
    let fate = supervise(spawn, &AtomicBool::new(false), n_at_work, |notice| notices.push(notice.to_owned()));
    (fate.unwrap(), notices)
}

#[test]
fn it_is_found_recorded_and_skipped() {
    let place = Place::new();
    let line = |n: usize| match n {
        30 | 31 | 77 => format!("ABORT {n}\n"),
        _ => format!("line {n}\n"),
    };
    let mut setup = place.setup("a.txt", (0..100).map(line).collect::<String>());
    (setup.n_lanes, setup.step_us) = (8, 100);
    let (fate, notices) = run(&setup);
    assert!(matches!(fate, Fate::Ended(status) if status.success()), "{fate:?} {notices:?}");
    assert!(notices[0].contains("crashed (abort)"), "{notices:?}");
    // Each of the three lines crashes at most once beside others, and once alone.
    assert!((4..=6).contains(&notices.len()), "{notices:?}");
    assert_eq!(setup.records().len(), 100);
    let records = setup.record_list();
    let blamed = records.iter().filter(|record| record["error"]["code"] == "engine_crashed");
    let mut blamed: Vec<u64> = blamed.map(|record| record["error"]["line"].as_u64().unwrap()).collect();
    blamed.sort_unstable();
    assert_eq!(blamed, [31, 32, 78]);
    assert_eq!(records.iter().filter(|record| record["error"].is_null()).count(), 97);
    // Failed lines can be tried again, and are found again.
    setup.retry_failed = true;
    let mut is_first = true;
    let spawn = |after_crash| {
        let retry_failed = std::mem::replace(&mut is_first, false);
        Setup { after_crash, retry_failed, ..setup.clone() }.spawn()
    };
    let fate = supervise(spawn, &AtomicBool::new(false), || setup.journal().n_at_work(), |_| ()).unwrap();
    assert!(matches!(fate, Fate::Ended(status) if status.success()), "{fate:?}");
    assert_eq!((setup.journal().totals().n_ok, setup.journal().totals().n_failed), (97, 3));
}

#[test]
fn a_crash_with_no_line_at_work_is_the_end() {
    let place = Place::new();
    let setup = place.setup("a.txt", "ABORT\n");
    let spawn = |after_crash| Setup { after_crash, ..setup.clone() }.spawn();
    let fate = supervise(spawn, &AtomicBool::new(false), || 0, |_| ()).unwrap();
    assert!(matches!(fate, Fate::Crashed(_)), "{fate:?}");
}
