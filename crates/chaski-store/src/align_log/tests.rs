use std::fs;

use super::*;

fn key() -> LogKey {
    LogKey { model: "m.gguf 7a".to_owned().into(), prompts: "shipped".into(), settings: "s=1".into() }
}

fn piece(text: u64, n: i32) -> Piece {
    let likely = |token: i32, weight| Successor { token: Token(token), weight };
    let state = |i: i32| if text == 4 { vec![f16::from_f32(i as f32), f16::NEG_ONE] } else { vec![] };
    let said = |i| LoggedToken { token: Token(i), top: vec![likely(i, 0.75), likely(i + 1, 0.125)], state: state(i) };
    Piece { text, before: vec![Token(7), Token(8)], said: (0..n).map(said).collect() }
}

fn pieces(path: &Path) -> Vec<Piece> {
    let mut pieces = Vec::new();
    read(path, |piece| {
        pieces.push(piece.clone());
        Ok(())
    })
    .unwrap();
    pieces
}

#[test]
fn what_is_appended_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let written = [piece(3, 4), piece(4, 1), Piece { text: 5, before: vec![], said: vec![] }];
    for (done, piece) in written.iter().enumerate() {
        let mut log = AlignLog::open(&path, &key()).unwrap();
        assert_eq!(log.n_tokens(), [0, 4, 5][done]);
        log.append(piece).unwrap();
    }
    assert_eq!(pieces(&path), written);
    let log = AlignLog::open(&path, &key()).unwrap();
    assert!(log.has(3) && log.has(5) && !log.has(2));
    log.sync().unwrap();
}

/// As logs from before December 2026 have them.
#[test]
fn a_probability_above_1_is_read_as_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let mut piece = piece(3, 2);
    piece.said[0].top[0].weight = 1.25;
    AlignLog::open(&path, &key()).unwrap().append(&piece).unwrap();
    assert_eq!(AlignLog::open(&path, &key()).unwrap().n_tokens(), 2);
    piece.said[0].top[0].weight = 1.0;
    assert_eq!(pieces(&path), [piece]);
}

#[test]
fn a_log_cut_anywhere_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let mut log = AlignLog::open(&path, &key()).unwrap();
    let mut ends = vec![(fs::metadata(&path).unwrap().len(), 0)];
    for text in 0..3 {
        log.append(&piece(text, 2)).unwrap();
        ends.push((fs::metadata(&path).unwrap().len(), text + 1));
    }
    drop(log);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let n_left = ends.iter().rev().find(|(end, _)| *end <= length as u64).map_or(0, |(_, n)| *n);
        let mut log = AlignLog::open(&path, &key()).unwrap();
        assert_eq!(log.n_tokens(), 2 * n_left, "cut at {length}");
        log.append(&piece(9, 1)).unwrap();
        drop(log);
        let read = pieces(&path);
        assert_eq!((read.len() as u64, read.last()), (n_left + 1, Some(&piece(9, 1))), "cut at {length}");
    }
}

#[test]
fn damage_ends_a_log_and_is_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let mut log = AlignLog::open(&path, &key()).unwrap();
    let n_head = fs::metadata(&path).unwrap().len();
    (0..3).for_each(|text| log.append(&piece(text, 2)).unwrap());
    drop(log);
    let whole = fs::read(&path).unwrap();
    let good = pieces(&path);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&path, &damaged).unwrap();
        if (at as u64) < n_head {
            assert!(read(&path, |_| Ok(())).is_err(), "byte {at}");
            assert!(AlignLog::open(&path, &key()).is_err(), "byte {at}");
            assert_eq!(fs::read(&path).unwrap(), damaged, "byte {at}");
        } else {
            let found = pieces(&path);
            assert!(found.len() < good.len() && good.starts_with(&found), "byte {at}");
        }
    }
}

#[test]
fn another_key_and_another_file_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    AlignLog::open(&path, &key()).unwrap().append(&piece(0, 1)).unwrap();
    let before = fs::read(&path).unwrap();
    let other = LogKey { model: "m.gguf 7b".to_owned().into(), ..key() };
    let error = AlignLog::open(&path, &other).unwrap_err().to_string();
    assert!(error.contains("another model: \"m.gguf 7a\" then, \"m.gguf 7b\" now"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);

    fs::write(&path, "a file of someone else").unwrap();
    assert!(matches!(AlignLog::open(&path, &key()), Err(LogError::Foreign(_))));
    assert_eq!(fs::read(&path).unwrap(), b"a file of someone else");
    assert!(matches!(AlignLog::open(folder.path(), &key()), Err(LogError::Io { .. })));
}

#[test]
fn one_writer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let first = AlignLog::open(&path, &key()).unwrap();
    assert!(matches!(AlignLog::open(&path, &key()), Err(LogError::Busy(_))));
    drop(first);
    AlignLog::open(&path, &key()).unwrap();
}
