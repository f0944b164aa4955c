use super::*;
use proptest::prelude::*;

fn times(ms: &[(usize, f64)]) -> Times {
    Times { ms: ms.iter().copied().collect(), spread: 0.01, n_samples: 5 }
}

const DEFAULT: Settings =
    Settings { flash_attention: FlashAttention::Off, n_threads: 2, n_threads_batch: 2, kv_type: KvType::F16 };
const ON: Settings = Settings { flash_attention: FlashAttention::On, ..DEFAULT };

/// Measured: the 1.5B at 2k positions, 2 threads.
fn flash_on() -> Times {
    times(&[(1, 83.0), (4, 173.0), (16, 454.0)])
}

fn flash_off() -> Times {
    times(&[(1, 78.0), (4, 142.0), (16, 320.0)])
}

#[test]
fn flash_attention_goes_where_it_costs() {
    let (on, off) = (flash_on(), flash_off());
    assert_eq!(choose(&[Some(&on), Some(&off)]), 1);
    assert_eq!(choose(&[Some(&off), Some(&on)]), 0);
    // The 0.5B at 8k.
    let on = times(&[(1, 80.0), (4, 191.0), (16, 633.0)]);
    let off = times(&[(1, 65.0), (4, 115.0), (16, 327.0)]);
    assert_eq!(choose(&[Some(&on), Some(&off)]), 1);
    assert!((off.ms_per_token() / on.ms_per_token() - 0.75).abs() < 0.05);
}

#[test]
fn plain_decoding_is_never_given_away() {
    let default = times(&[(1, 60.0), (16, 240.0)]);
    let wide = times(&[(1, 62.0), (16, 60.0)]);
    assert_eq!(choose(&[Some(&default), Some(&wide)]), 0, "whatever it saves on several rows");
    let plain = times(&[(1, 50.0), (16, 600.0)]);
    assert_eq!(choose(&[Some(&default), Some(&plain)]), 1, "and the default goes if it is slower");
}

#[test]
fn what_differs_by_less_than_the_noise_does_not_replace_the_default() {
    let default = times(&[(1, 60.0), (16, 240.0)]);
    let better = times(&[(1, 59.5), (16, 236.0)]);
    assert_eq!(choose(&[Some(&default), Some(&better)]), 0);
    let much_better = times(&[(1, 59.5), (16, 200.0)]);
    assert_eq!(choose(&[Some(&default), Some(&much_better)]), 1);
    let noisy = Times { spread: 0.3, ..much_better };
    assert_eq!(choose(&[Some(&default), Some(&noisy)]), 0);
    // Measured, the 1.5B at 4k: f16 against f32, on a machine with other things to do.
    let f16 = Times { spread: 0.028, ..times(&[(1, 98.9), (4, 170.7), (8, 305.1), (12, 383.8), (16, 402.4)]) };
    let f32 = Times { spread: 0.015, ..times(&[(1, 96.1), (4, 175.2), (8, 309.9), (12, 400.8), (16, 451.2)]) };
    assert_eq!(choose(&[Some(&f16), Some(&f32)]), 0);
    assert_eq!(choose(&[None, Some(&noisy)]), 1, "a default that cannot be measured is none");
    assert_eq!(choose(&[]), 0);
}

#[test]
fn a_machine_that_slows_down_changes_nothing() {
    let baseline = flash_off();
    let slowed = |times: Times| Times { ms: times.ms.iter().map(|(&w, ms)| (w, ms * 1.5)).collect(), ..times };
    let corrected = slowed(flash_on()).corrected(&baseline, &slowed(flash_off()));
    assert!((corrected.plain_ms() - 83.0).abs() < 1e-9);
}

#[test]
fn the_mixture_is_the_documented_one() {
    let flat = times(&[(1, 10.0), (16, 10.0)]);
    let n_expected = (1.0 - 0.9f64.powi(16)) / 0.1;
    assert!((flat.ms_per_token() - (5.0 + 5.0 / n_expected)).abs() < 1e-9);
    let steep = times(&[(1, 10.0), (16, 160.0)]);
    assert!((steep.ms_per_token() - 10.0).abs() < 1e-9, "plain decoding is a chain of one");
}

#[test]
fn times_need_one_row_and_several() {
    let samples = |list: &[(usize, &[f64])]| list.iter().map(|(w, ms)| (*w, ms.to_vec())).collect();
    let all = Times::from_samples(&samples(&[(1, &[11.0, 10.0, 30.0]), (4, &[20.0, 20.0])])).unwrap();
    assert_eq!((all.plain_ms(), all.ms[&4], all.n_samples), (11.0, 20.0, 2));
    assert_eq!(Times::from_samples(&samples(&[(1, &[11.0])])), None);
    assert_eq!(Times::from_samples(&samples(&[(4, &[11.0]), (8, &[1.0])])), None);
    assert_eq!(Times::from_samples(&samples(&[(1, &[f64::NAN]), (8, &[1.0])])), None);
}

#[test]
fn lossy_caches_are_chosen_only_if_asked_for() {
    let q8 = Settings { kv_type: KvType { k: CacheType::Q8_0, v: CacheType::F16 }, ..DEFAULT };
    let trial =
        |settings, times: Times| Trial { settings, times: BySpan { short: Some(times.clone()), long: Some(times) } };
    let trials = [trial(DEFAULT, times(&[(1, 60.0), (16, 240.0)])), trial(q8, times(&[(1, 50.0), (16, 100.0)]))];
    assert_eq!(chosen(&trials, false), Some(BySpan { short: DEFAULT, long: DEFAULT }));
    assert_eq!(chosen(&trials, true), Some(BySpan { short: q8, long: q8 }));
    assert_eq!(chosen(&[], true), None);
}

#[test]
fn settings_read_as_flags_and_survive_json() {
    assert_eq!(DEFAULT.to_string(), "-fa off -t 2 -tb 2 -ctk f16 -ctv f16");
    let json = serde_json::to_string(&DEFAULT).unwrap();
    assert_eq!(json, r#"{"flash_attn":"off","threads":2,"threads_batch":2,"cache_type_k":"f16","cache_type_v":"f16"}"#);
    assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), DEFAULT);
    let q8 = KvType { k: CacheType::F16, v: CacheType::Q8_0 };
    assert!(!Settings { kv_type: q8, ..DEFAULT }.is_sound() && Settings { kv_type: q8, ..ON }.is_sound());
    assert!(!Settings { n_threads: 0, ..DEFAULT }.is_sound());
}

#[test]
fn the_nearer_length_of_context_counts() {
    let both = BySpan { short: 'S', long: 'L' };
    assert_eq!([1, 256, 1023, 1024, 4096, usize::MAX].map(|n| *both.at(n)), ['S', 'S', 'S', 'L', 'L', 'L']);
}

/// All that a plan measures on a machine where `ms(settings, width, is_long)` takes that long.
fn measure_all(plan: &Plan, ms: impl Fn(&Settings, usize, bool) -> f64) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    while let Some(settings) = plan.next(&trials) {
        let at = |is_long| times(&WIDTHS.map(|width| (width, ms(&settings, width, is_long))));
        trials.push(Trial { settings, times: BySpan { short: Some(at(false)), long: Some(at(true)) } });
        assert!(trials.len() < 40, "a plan ends: {trials:?}");
    }
    trials
}

#[test]
fn a_plan_finds_each_things_best() {
    let plan = Plan { default: ON, threads: vec![8, 4, 16], allow_lossy: false };
    // One row is bound by memory: 4 threads have it all. Several rows use 16. Flash attention is dear when long.
    let ms = |settings: &Settings, width: usize, is_long: bool| {
        let n = if width == 1 { settings.n_threads } else { settings.n_threads_batch };
        let rows = width as f64 * 40.0 / n as f64;
        let memory = if n > 4 { 50.0 + n as f64 } else { 50.0 + 4.0 * (4 - n) as f64 };
        let attention =
            if settings.flash_attention == FlashAttention::On && is_long { 3.0 * width as f64 } else { 0.0 };
        rows.max(memory) + attention
    };
    let trials = measure_all(&plan, ms);
    let best = chosen(&trials, false).unwrap();
    assert_eq!(best.long, Settings { flash_attention: FlashAttention::Off, n_threads: 4, n_threads_batch: 16, ..ON });
    assert_eq!(best.short, Settings { n_threads: 4, n_threads_batch: 16, ..ON });
    assert!(trials.len() > plan.n_expected(), "short and long go different ways");
    assert!(trials.iter().any(|trial| trial.settings.kv_type.is_lossy()), "measured, though not chosen");
}

proptest! {
    #[test]
    fn the_choice_never_slows_plain_decoding(ms in prop::collection::vec((10.0f64..200.0, 10.0f64..900.0), 1..8)) {
        let all: Vec<Times> = ms.iter().map(|&(one, wide)| times(&[(1, one), (16, wide)])).collect();
        let list: Vec<Option<&Times>> = all.iter().map(Some).collect();
        let place = choose(&list);
        let fastest = all.iter().map(Times::plain_ms).fold(f64::INFINITY, f64::min);
        let doubt = if place == 0 { 1.0 + LEAST_DIFFERENCE } else { 1.0 };
        prop_assert!(all[place].plain_ms() <= fastest * (1.0 + LEAST_DIFFERENCE) * doubt + 1e-9);
        let eligible = all.iter().filter(|times| times.plain_ms() <= fastest * (1.0 + LEAST_DIFFERENCE));
        let least = eligible.map(Times::ms_per_token).fold(f64::INFINITY, f64::min);
        let got = all[place].ms_per_token();
        prop_assert!(got <= least * (1.0 + 1e-9) || place == 0 && got <= least * (1.0 + LEAST_DIFFERENCE));
    }
}
