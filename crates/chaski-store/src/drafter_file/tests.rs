//! Compares files with the rows they were made from, and damages them in every way.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::draft::base::Base;
use crate::draft::table::{MAX_SUCCESSORS, Successor};
use crate::token::Token;
use crate::vocabulary::Vocabulary;

fn vocabulary(n_tokens: u32) -> Vocabulary {
    Vocabulary { hash: 0x1234_5678_9abc_def0, n_tokens }
}

fn row(context: &[i32], total: f32, successors: &[(i32, f32)]) -> BaseRow {
    let tokens: Vec<Token> = context.iter().copied().map(Token).collect();
    let successors = successors.iter().map(|&(id, weight)| Successor { token: Token(id), weight }).collect();
    BaseRow { context: Context::new(&tokens).unwrap(), total, successors }
}

fn write(path: &Path, n_tokens: u32, rows: &[BaseRow]) -> u64 {
    let mut writer = DrafterWriter::create(path, vocabulary(n_tokens)).unwrap();
    let mut rows: Vec<BaseRow> = rows.to_vec();
    let keys = KeySpace::new(n_tokens);
    rows.sort_by_key(|row| keys.key(row.context.tokens()));
    rows.iter_mut().for_each(|row| writer.push(row).unwrap());
    let foreseen = writer.file_bytes();
    let bytes = writer.finish().unwrap();
    assert_eq!((bytes, bytes), (foreseen, fs::metadata(path).unwrap().len()));
    bytes
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// The total and the shares.
type Found = (f32, Vec<Successor>);

fn look_up(file: &DrafterFile, context: &Context) -> Option<Found> {
    let mut row = vec![Successor { token: Token(7), weight: 7.0 }];
    let total = file.row(context.tokens(), &mut row);
    assert!(total.is_some() || row.is_empty(), "an unknown row is empty");
    total.map(|total| (total, row))
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Rows of at most `n_contexts` contexts, distributed as in a text: few frequent tokens, many rare ones.
fn random_rows(n_tokens: u32, n_contexts: usize, seed: u64) -> Vec<BaseRow> {
    let mut state = seed;
    let mut token = || {
        let uniform = (random(&mut state) >> 11) as f64 / (1_u64 << 53) as f64;
        (f64::from(n_tokens).powf(uniform) - 1.0) as i32
    };
    let mut contexts: Vec<Vec<i32>> = vec![vec![]];
    contexts.extend((0..n_contexts / 8).map(|_| vec![token()]));
    contexts.extend((0..n_contexts).map(|_| vec![token(), token()]));
    let mut rows: Vec<BaseRow> = contexts
        .iter()
        .map(|context| {
            // Half have one successor, a quarter have two, ...
            let n = 1 + (token() as u32 | 1 << 11).trailing_zeros();
            let mut ids: Vec<i32> = (0..n).map(|_| token()).collect();
            ids.sort_unstable();
            ids.dedup();
            let counts: Vec<(i32, f32)> = ids.iter().map(|&id| (id, 1.0 + (token() % 20) as f32)).collect();
            row(context, counts.iter().map(|one| one.1).sum::<f32>() + (token() % 3) as f32, &counts)
        })
        .collect();
    let keys = KeySpace::new(n_tokens);
    rows.sort_by_key(|row| keys.key(row.context.tokens()));
    rows.dedup_by_key(|row| row.context);
    rows
}

/// A file returns the rows that were written, as exactly as the codes allow.
fn assert_equal(found: Option<Found>, written: &BaseRow) {
    let mut written = written.clone();
    written.keep_top(MAX_SUCCESSORS, 0.0);
    let (total, shares) = found.expect("the row is there");
    assert!((total / written.total - 1.0).abs() < 0.052, "{total} {written:?}");
    let tokens = |successors: &[Successor]| -> Vec<i32> { successors.iter().map(|one| one.token.0).collect() };
    assert_eq!(tokens(&shares), tokens(&written.successors));
    for (found, one) in shares.iter().zip(&written.successors) {
        let share = one.weight / written.total;
        assert!((found.weight / share - 1.0).abs() < 0.045, "{found:?} {share}");
    }
    assert!(shares.iter().map(|one| one.weight).sum::<f32>() <= 1.0 + 1e-5, "{shares:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn rows_come_back(
        n_tokens in prop::sample::select(vec![1_u32, 2, 300, 49_152, 151_936, 1 << 21]),
        n_contexts in prop::sample::select(vec![0, 1, 30, 3000]),
        seed: u64,
    ) {
        let place = Place::new();
        let rows = random_rows(n_tokens, n_contexts, seed);
        write(&place.path("x"), n_tokens, &rows);
        let file = DrafterFile::open(&place.path("x"), &vocabulary(n_tokens)).unwrap();
        rows.iter().for_each(|row| assert_equal(look_up(&file, &row.context), row));
        // And no other rows.
        let mut state = seed;
        for _ in 0..100 {
            let mut token = || Token((random(&mut state) % u64::from(n_tokens)) as i32);
            let context = Context::new(&[token(), token()]).unwrap();
            let is_known = rows.iter().any(|row| row.context == context);
            prop_assert_eq!(look_up(&file, &context).is_some(), is_known);
        }
        let walked: Vec<BaseRow> = file.rows().map(Result::unwrap).collect();
        prop_assert_eq!(walked.len(), rows.len());
        for (walked, row) in walked.iter().zip(&rows) {
            prop_assert_eq!(walked.context, row.context);
            prop_assert_eq!(look_up(&file, &row.context).unwrap().0, walked.total);
        }
        let n_successors: usize = walked.iter().map(|row| row.successors.len()).sum();
        prop_assert_eq!(file.totals().n_successors.iter().sum::<u64>(), n_successors as u64);
        prop_assert!(!file.is_damaged());
    }
}

#[test]
fn contexts_that_cannot_be_are_unknown() {
    let place = Place::new();
    write(
        &place.path("x"),
        5,
        &[row(&[], 3.0, &[(1, 3.0)]), row(&[4], 3.0, &[(1, 3.0)]), row(&[4, 4], 1.0, &[(0, 1.0)])],
    );
    let file = DrafterFile::open_any(&place.path("x")).unwrap();
    let mut row = Vec::new();
    for context in [&[5][..], &[-1], &[i32::MIN, 0], &[0, i32::MAX], &[4, 4, 4]] {
        let context: Vec<Token> = context.iter().copied().map(Token).collect();
        assert_eq!(file.row(&context, &mut row), None, "{context:?}");
    }
    assert!(file.row(&[Token(4), Token(4)], &mut row).is_some() && file.row(&[], &mut row).is_some());
    assert!(!file.is_damaged());
}

#[test]
fn the_likeliest_are_kept_and_empty_rows_left_out() {
    let place = Place::new();
    let many: Vec<(i32, f32)> = (0..20).map(|id| (id, 1.0 + id as f32)).collect();
    write(&place.path("x"), 30, &[row(&[0], 400.0, &many), row(&[1], 4.0, &[]), row(&[2], 4.0, &[(1, 0.0)])]);
    let file = DrafterFile::open_any(&place.path("x")).unwrap();
    let (_, found) = look_up(&file, &Context::new(&[Token(0)]).unwrap()).unwrap();
    assert_eq!(found.iter().map(|one| one.token.0).collect::<Vec<_>>(), (8..20).rev().collect::<Vec<_>>());
    assert_eq!(file.totals().n_rows, [0, 1, 0]);
}

#[test]
fn what_does_not_fit_the_format_is_not_written() {
    let place = Place::new();
    let path = place.path("x");
    for n_tokens in [0, (1 << 21) + 1] {
        assert!(matches!(DrafterWriter::create(&path, vocabulary(n_tokens)), Err(DrafterFileError::Unwritable { .. })));
    }
    let good = row(&[2, 2], 1.0, &[(2, 1.0)]);
    for bad in [row(&[2, 2], 1.0, &[(1, 1.0)]), row(&[9], 1.0, &[(1, 1.0)]), row(&[2, 3], 1.0, &[(9, 1.0)])] {
        let mut writer = DrafterWriter::create(&path, vocabulary(5)).unwrap();
        writer.push(&mut good.clone()).unwrap();
        assert!(matches!(writer.push(&mut bad.clone()), Err(DrafterFileError::Unwritable { .. })), "{bad:?}");
    }
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0, "nothing half written is left");
    assert!(matches!(DrafterWriter::create(&place.path("no/x"), vocabulary(5)), Err(DrafterFileError::Io { .. })));
}

/// A file of a few blocks, with the expected result for each row.
fn small_file(place: &Place) -> (PathBuf, Vec<(Context, Found)>) {
    let path = place.path("small");
    let rows = random_rows(500, 700, 1);
    write(&path, 500, &rows);
    let file = DrafterFile::open_any(&path).unwrap();
    let rows = rows.iter().map(|row| (row.context, look_up(&file, &row.context).unwrap())).collect();
    (path, rows)
}

#[test]
fn every_flipped_byte_is_found() {
    let place = Place::new();
    let (path, rows) = small_file(&place);
    let good = fs::read(&path).unwrap();
    assert!((3 * 4096..6 * 4096).contains(&good.len()), "{}", good.len());
    let bad_path = place.path("bad");
    let mut n_opened = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&bad_path, &bad).unwrap();
        let file = match DrafterFile::open(&bad_path, &vocabulary(500)) {
            Err(DrafterFileError::NotADrafterFile { .. }) if at < 8 => continue,
            Err(DrafterFileError::Damaged { .. }) => continue,
            Err(error) => panic!("byte {at}: {error}"),
            Ok(file) => file,
        };
        n_opened += 1;
        let mut n_unknown = 0;
        for (context, right) in &rows {
            match look_up(&file, context) {
                Some(found) => assert_eq!(&found, right, "byte {at}"),
                None => n_unknown += 1,
            }
        }
        assert!(n_unknown > 0 && n_unknown < rows.len() && file.is_damaged(), "byte {at}: {n_unknown} rows unknown");
        assert_eq!(file.rows().filter(Result::is_err).count(), 1, "byte {at}");
    }
    assert_eq!(n_opened % 4096, 0, "flips in blocks are found when they are touched");
    assert!(n_opened > 0);
}

#[test]
fn every_cut_is_found() {
    let place = Place::new();
    let (path, _) = small_file(&place);
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(place.path("cut"), &good[..length]).unwrap();
        match DrafterFile::open_any(&place.path("cut")) {
            Err(DrafterFileError::NotADrafterFile { .. }) if length == 0 => {}
            Err(DrafterFileError::CutShort { found, .. }) => assert_eq!(found, length as u64),
            other => panic!("{length}: {other:?}"),
        }
    }
    fs::write(place.path("long"), [&good[..], b"x"].concat()).unwrap();
    assert!(matches!(DrafterFile::open_any(&place.path("long")), Err(DrafterFileError::Damaged { .. })));
}

/// Recomputes the checksum of a changed header or index.
fn forge(mut bytes: Vec<u8>, change: impl Fn(&mut [u8])) -> Vec<u8> {
    change(&mut bytes);
    let checksum = header::checksum(&bytes[..4088]);
    bytes[4088..4096].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn each_defect_has_its_error_and_a_hint() {
    let place = Place::new();
    let (path, _) = small_file(&place);
    let good = fs::read(&path).unwrap();
    let open = |name: &str, bytes: &[u8]| {
        fs::write(place.path(name), bytes).unwrap();
        let error = DrafterFile::open(&place.path(name), &vocabulary(500)).unwrap_err();
        assert!(error.to_string().contains(name) && error.hint().is_some(), "{error}");
        error
    };
    let newer = open("newer", &forge(good.clone(), |bytes| bytes[8] = 2));
    assert!(matches!(newer, DrafterFileError::Newer { found: 2, .. }));
    let foreign = open("foreign", &forge(good.clone(), |bytes| bytes[16] ^= 1));
    assert!(matches!(foreign, DrafterFileError::ForeignVocabulary { .. }));
    let smaller = open("smaller", &forge(good.clone(), |bytes| bytes[12] -= 1));
    assert!(matches!(smaller, DrafterFileError::ForeignVocabulary { .. }));
    assert!(matches!(open("other", b"GGUF"), DrafterFileError::NotADrafterFile { .. }));
    assert!(matches!(open("cut", &good[..5000]), DrafterFileError::CutShort { .. }));
    let senseless = open("senseless", &forge(good, |bytes| bytes[24..32].fill(0xff)));
    assert!(matches!(senseless, DrafterFileError::Damaged { .. }));
    let folder = DrafterFile::open_any(place.0.path()).unwrap_err();
    assert!(matches!(folder, DrafterFileError::NotAFile { .. }));
    let none = DrafterFile::open_any(&place.path("none")).unwrap_err();
    assert!(matches!(none, DrafterFileError::Io { .. }) && none.hint().is_some());
}

#[test]
fn forged_blocks_do_no_harm() {
    let place = Place::new();
    let (path, rows) = small_file(&place);
    let good = fs::read(&path).unwrap();
    let n_blocks = (good.len() - 4096) / (4096 + index::ENTRY_BYTES);
    let index_at = 4096 * (1 + n_blocks);
    let mut state = 5;
    for _ in 0..2000 {
        let mut bad = good.clone();
        // Any bytes, most often in the index and the first rows, with correct checksums.
        for _ in 0..=random(&mut state) % 4 {
            let at = match random(&mut state) % 3 {
                0 => 4096 + random(&mut state) as usize % 64,
                1 => index_at + random(&mut state) as usize % (index::ENTRY_BYTES * n_blocks),
                _ => 4096 + random(&mut state) as usize % (4096 * n_blocks),
            };
            bad[at] = random(&mut state) as u8;
        }
        for block in 0..n_blocks {
            let checksum = header::checksum(&bad[4096 * (1 + block)..][..4096]);
            bad[index_at + index::ENTRY_BYTES * block + 16..][..8].copy_from_slice(&checksum.to_le_bytes());
        }
        let checksum = header::checksum(&bad[index_at..]);
        let bad = forge(bad, |bytes| bytes[32..40].copy_from_slice(&checksum.to_le_bytes()));
        fs::write(place.path("forged"), &bad).unwrap();
        let file = DrafterFile::open(&place.path("forged"), &vocabulary(500)).unwrap();
        for (context, _) in &rows {
            if let Some((total, shares)) = look_up(&file, context) {
                assert!(total.is_finite() && (1..=MAX_SUCCESSORS).contains(&shares.len()));
                assert!(shares.iter().all(|one| (0..500).contains(&one.token.0)));
                assert!(shares.iter().map(|one| one.weight).sum::<f32>() <= 1.0 + 1e-5);
            }
        }
        assert!(file.rows().count() <= 4096 * n_blocks);
    }
}

#[test]
fn merged_counts_are_added() {
    let place = Place::new();
    write(&place.path("a"), 9, &[row(&[1], 8.0, &[(1, 4.0), (2, 2.0)]), row(&[1, 1], 2.0, &[(3, 2.0)])]);
    write(&place.path("b"), 9, &[row(&[], 1.0, &[(5, 1.0)]), row(&[1], 16.0, &[(2, 16.0)])]);
    let [a, b] = ["a", "b"].map(|name| DrafterFile::open_any(&place.path(name)).unwrap());
    let mut merged: Vec<BaseRow> = merge(&[(&a, 1.0), (&b, 0.5)]).map(Result::unwrap).collect();
    assert!(merged.is_sorted_by_key(|row| KeySpace::new(9).key(row.context.tokens())));
    merged.sort_by_key(|row| row.context);
    let contexts: Vec<usize> = merged.iter().map(|row| row.context.tokens().len()).collect();
    assert_eq!(contexts, [0, 1, 2]);
    assert!((merged[0].total - 0.5).abs() < 0.05, "{merged:?}");
    let [one, two] = [0, 1].map(|at| merged[1].successors[at]);
    assert_eq!((one.token, two.token), (Token(1), Token(2)));
    assert!((one.weight - 4.0).abs() < 0.3 && (two.weight - 10.0).abs() < 0.7, "{merged:?}");
}

#[test]
fn a_damaged_file_is_not_merged() {
    let place = Place::new();
    let (path, rows) = small_file(&place);
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * 4096 + 5] ^= 1;
    fs::write(&path, bytes).unwrap();
    let file = DrafterFile::open_any(&path).unwrap();
    let merged: Result<Vec<BaseRow>, DrafterFileError> = merge(&[(&file, 1.0)]).take(rows.len()).collect();
    assert!(matches!(merged, Err(DrafterFileError::Damaged { .. })));
    let pruned = prune(&file, &place.path("out"), 1 << 20, || true);
    assert!(matches!(pruned, Err(DrafterFileError::Damaged { .. })) && !place.path("out").exists());
}

#[test]
fn a_pruned_file_has_the_size_asked_for_and_the_most_frequent() {
    let place = Place::new();
    let rows = random_rows(5000, 20_000, 3);
    let whole = write(&place.path("whole"), 5000, &rows);
    let file = DrafterFile::open_any(&place.path("whole")).unwrap();
    for max_bytes in [whole, whole * 3 / 4, whole / 3, whole / 20, 4096 * 3, 4096] {
        let path = place.path("pruned");
        let bytes = prune(&file, &path, max_bytes, || true).unwrap();
        assert!(bytes <= max_bytes && bytes + 2 * 4120 >= max_bytes * 95 / 100, "{max_bytes}: {bytes}");
        let pruned = DrafterFile::open_any(&path).unwrap();
        let kept: Vec<f32> = pruned.rows().flat_map(|row| row.unwrap().successors).map(|one| one.weight).collect();
        let least = kept.iter().copied().fold(f32::INFINITY, f32::min);
        let n_above = file.rows().flat_map(|row| row.unwrap().successors).filter(|one| one.weight > least * 1.1);
        assert!(kept.len() >= n_above.count(), "{max_bytes}: everything above the least is kept");
    }
    assert!(matches!(prune(&file, &place.path("x"), 4095, || true), Err(DrafterFileError::Unwritable { .. })));
    assert!(matches!(prune(&file, &place.path("x"), whole, || false), Err(DrafterFileError::Interrupted)));
    assert!(!place.path("x").exists());
}

/// The target: at most 12 bytes per tri-gram, everything included.
#[test]
fn a_trigram_takes_twelve_bytes_at_most() {
    let place = Place::new();
    for (n_tokens, n_contexts) in [(49_152, 20_000), (151_936, 20_000), (151_936, 200_000)] {
        let bytes = write(&place.path("x"), n_tokens, &random_rows(n_tokens, n_contexts, 9));
        let file = DrafterFile::open_any(&place.path("x")).unwrap();
        let n_trigrams = file.totals().n_successors[2];
        let each = bytes as f64 / n_trigrams as f64;
        assert!(each <= 12.0, "{each:.2} bytes for each of {n_trigrams}");
    }
}

/// `cargo test --release --no-default-features --lib drafter_file -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it prints what it measures")]
fn speed() {
    let place = Place::new();
    let rows = random_rows(151_936, 3_000_000, 9);
    let bytes = write(&place.path("x"), 151_936, &rows);
    let opening = || {
        let start = std::time::Instant::now();
        let file = DrafterFile::open_any(&place.path("x")).unwrap();
        (start.elapsed(), file)
    };
    let opened = (0..20).map(|_| opening().0).min().unwrap();
    let (_, file) = opening();
    let n_trigrams = file.totals().n_successors[2];
    let each = bytes as f64 / n_trigrams as f64;
    eprintln!("{n_trigrams} tri-grams, {bytes} bytes, {each:.2} each; opened in {opened:.2?}, the best of 20");
    let mut state = 1;
    let contexts: Vec<Context> =
        (0..2_000_000).map(|_| rows[random(&mut state) as usize % rows.len()].context).collect();
    let mut row = Vec::new();
    for round in ["first touch", "warm", "warm"] {
        // Other processes disturb some of the short runs, but not the median.
        let mut times: Vec<f64> = contexts
            .chunks(1000)
            .map(|contexts| {
                let start = std::time::Instant::now();
                let n_found = contexts.iter().filter(|context| file.row(context.tokens(), &mut row).is_some()).count();
                assert_eq!(n_found, contexts.len());
                start.elapsed().as_secs_f64() * 1e9 / contexts.len() as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        eprintln!("{round}: {:.0} ns a lookup in the median, {:.0} at least", times[times.len() / 2], times[0]);
    }
}
