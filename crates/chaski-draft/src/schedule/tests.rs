use super::*;
use crate::token::Token;
use crate::tree::TokenTree;
use proptest::prelude::*;

/// The cost curve of a 1.5B Q4_K_M on two AVX-512 cores.
fn staircase() -> CostCurve {
    let mut curve = CostCurve::default();
    for (n_rows, c) in [(1, 1.0), (2, 1.55), (3, 1.94), (4, 1.73), (5, 2.25), (8, 3.08), (12, 3.85), (16, 3.70)] {
        curve.observe(n_rows, 0, 62.0 * c);
    }
    curve
}

/// A chain with the probabilities `p`, root first.
fn chain(p: &[f32]) -> Draft {
    let tokens: Vec<Token> = (1..).take(p.len() - 1).map(Token).collect();
    Draft { tree: TokenTree::chain(Token(0), &tokens).unwrap(), p: p.to_vec(), asked: Asked::default() }
}

/// The size chosen without a loss budget.
fn best_size(p: &[f32]) -> usize {
    let ledger = Ledger { loss_budget: LossBudget { credit: f64::INFINITY }, ..Ledger::default() };
    Schedule::cost_aware(staircase()).best_size(&chain(p), 0, 0, &ledger)
}

fn step(n_rows: usize, n_emitted: usize, verify_ms: f64) -> StepRecord {
    let asked = Asked::default();
    StepRecord { n_past: 0, n_rows, n_redone: 0, n_emitted, asked, draft_ms: 0.0, verify_ms }
}

#[test]
fn a_doubtful_draft_is_not_verified() {
    assert_eq!(best_size(&[1.0]), 1);
    assert_eq!(best_size(&[1.0, 0.4, 0.1, 0.05]), 1);
}

#[test]
fn widths_that_never_pay_are_skipped() {
    // 3 rows cost more than 4, so the fourth row is free.
    assert_eq!(best_size(&[1.0, 0.9, 0.8, 0.1]), 4);
    assert_eq!(best_size(&[0.95; 16]), 16);
    assert_eq!(best_size(&[0.95; 32]), 16, "nothing is known about more rows");
}

#[test]
fn without_a_curve_there_is_no_draft() {
    assert_eq!(Schedule::cost_aware(CostCurve::default()).choose(&chain(&[1.0, 1.0]), 0, 0), 1);
}

#[test]
fn what_was_lost_must_be_earned_again() {
    let mut schedule = Schedule::cost_aware(staircase());
    let (sure, fair) = (chain(&[0.98; 16]), chain(&[0.75; 16]));
    assert_eq!((schedule.choose(&sure, 0, 0), schedule.choose(&fair, 0, 0)), (16, 8));
    schedule.record(&step(4, 1, 107.0));
    let narrowed = (schedule.choose(&sure, 0, 0), schedule.choose(&fair, 0, 0));
    assert_eq!(narrowed, (8, 5), "a failure costs width");
    schedule.record(&step(16, 1, 229.0));
    assert_eq!(schedule.choose(&sure, 0, 0), 1, "overdrawn");
    assert_eq!(schedule.limits(TreeLimits::TREE, 0), TreeLimits::PLAIN, "and nothing is drafted in vain");
}

#[test]
fn tokens_decoded_again_are_part_of_the_price() {
    let ledger = Ledger { loss_budget: LossBudget { credit: f64::INFINITY }, ..Ledger::default() };
    let schedule = |redoes| Schedule::cost_aware(staircase()).with_redone_tokens(redoes);
    let size = |redoes, p: &[f32]| schedule(redoes).best_size(&chain(p), 0, 0, &ledger);
    let doubtful = [1.0, 0.4, 0.3, 0.1];
    assert_eq!((size(false, &doubtful), size(true, &doubtful)), (4, 1));
    assert_eq!(size(true, &[1.0; 16]), 16, "a draft that is surely accepted costs nothing more");
    let seen = schedule(true).explain(&chain(&doubtful), 0, 0).widths;
    // If the first drafted token is rejected, the next step has 2 rows, and so on.
    let at = schedule(true).curve().at(0);
    let redone = [(2, 0.6), (3, 0.1), (4, 0.2)].map(|(n_rows, p)| p * (at[&n_rows] - at[&1])).iter().sum::<f64>();
    assert!((seen[2].n_plain - (at[&4] + redone) / at[&1]).abs() < 1e-6, "{seen:?}");

    // Beside rows that are decoded anyway, further ones cost less.
    let beside = |n_redone, p: &[f32]| schedule(true).best_size(&chain(p), 0, n_redone, &ledger);
    assert_eq!([0, 11].map(|n_redone| beside(n_redone, &[1.0, 0.5])), [1, 2]);
    assert_eq!([0, 3].map(|n_redone| beside(n_redone, &[1.0, 0.7, 0.5, 0.35, 0.3])), [4, 5]);
    assert_eq!(beside(16, &[1.0; 4]), 1, "nothing is known about more rows");

    // A step that decodes them is neither a sample of plain decoding nor free.
    let mut schedule = schedule(true);
    let before = schedule.curve().at(0)[&1];
    let credit = |schedule: &Schedule| match &schedule.policy {
        Policy::CostAware(ledger) => (ledger.loss_budget.credit, ledger.n_plain),
        Policy::Everything => unreachable!("made cost-aware"),
    };
    let (at_first, _) = credit(&schedule);
    schedule.record(&StepRecord { n_redone: 3, ..step(1, 1, 107.0) });
    assert_eq!(schedule.curve().at(0)[&1], before);
    let (left, n_plain) = credit(&schedule);
    assert!(n_plain == 0 && at_first - left > 0.7, "{at_first} {left}");
}

#[test]
fn plain_steps_come_first_and_again() {
    let mut schedule = Schedule::cost_aware(staircase());
    let mut n_drafted_runs = Vec::new();
    let mut n_drafted = 0;
    for _ in 0..200 {
        if schedule.limits(TreeLimits::TREE, 0) == TreeLimits::PLAIN {
            schedule.record(&step(1, 1, 62.0));
            n_drafted_runs.push(std::mem::take(&mut n_drafted));
        } else {
            schedule.record(&step(4, 4, 107.0));
            n_drafted += 1;
        }
    }
    assert_eq!(n_drafted_runs, [0, 8, 16, 24, 32, 40, 48]);
}

#[test]
fn a_plain_step_that_looked_too_slow_does_not_hide_a_loss() {
    // Measured while another process used the memory bus: plain steps look 1.5 times as slow as they are.
    let mut curve = staircase();
    for _ in 0..50 {
        curve.observe(1, 0, 93.0);
    }
    let mut schedule = Schedule::cost_aware(curve);
    schedule.record(&step(1, 1, 62.0));
    let before = schedule.clone();
    schedule.record(&step(8, 3, 191.0));
    let credit = |schedule: &Schedule| match &schedule.policy {
        Policy::CostAware(ledger) => ledger.loss_budget.credit,
        Policy::Everything => f64::NAN,
    };
    assert!(credit(&schedule) < credit(&before), "three tokens in the time of 3.08");
}

#[test]
fn a_curve_of_a_busy_machine_is_believed_for_one_plain_step() {
    // Measured while the tests were being compiled: one row takes 20 times as long as it should, wider ones hardly
    // longer.
    let busy = [(1, 172.9), (2, 87.8), (4, 142.5), (8, 184.8), (16, 262.9), (32, 601.7)];
    let mut curve = CostCurve::default();
    busy.into_iter().for_each(|(n_rows, ms)| curve.put(n_rows, 0, ms, 3));
    let mut schedule = Schedule::cost_aware(curve);
    assert_eq!(schedule.choose(&chain(&[0.5; 16]), 0, 0), 16, "it looks free");
    schedule.record(&step(1, 1, 8.8));
    assert_eq!(schedule.curve().plain_ms(0), Some(8.8));
    assert_eq!(schedule.choose(&chain(&[0.99; 16]), 0, 0), 1);
    assert!(!schedule.curve().is_complete(0, 32), "it will be measured anew");

    let mut idle = Schedule::cost_aware(staircase());
    idle.record(&step(1, 1, 300.0));
    assert!(idle.curve().at(0).contains_key(&16), "a machine that is busy now does not make the past worse");
}

#[test]
fn predictions_are_spent_whatever_is_verified() {
    let asked = |ms| Asked { n: 1, ms, invested_ms: 0.0 };
    let mut schedule = Schedule::cost_aware(staircase());
    let draft = Draft { asked: asked(30.0), ..chain(&[1.0, 0.35]) };
    // 1.35 tokens in 1.4 steps do not pay. In 1.4 + 0.48 steps they do, against one token in 1 + 0.48.
    assert_eq!((schedule.choose(&chain(&[1.0, 0.35]), 0, 0), schedule.choose(&draft, 0, 0)), (1, 2));
    // Such times are no drafting time of later steps, but they are a loss.
    let credit = |schedule: &Schedule| match &schedule.policy {
        Policy::CostAware(ledger) => (ledger.draft_ms, ledger.loss_budget.credit),
        Policy::Everything => (f64::NAN, f64::NAN),
    };
    let before = credit(&schedule);
    schedule.record(&StepRecord { asked: asked(30.0), draft_ms: 31.0, ..step(1, 1, 62.0) });
    let after = credit(&schedule);
    assert_eq!(after.0, before.0);
    assert!((after.1 - (before.1 + LossBudget::INCOME - 0.5)).abs() < 1e-9, "{before:?} {after:?}");
    // An investment is not counted, but what a prediction takes beyond it is.
    let invested = Asked { n: 1, ms: 0.0, invested_ms: 300.0 };
    schedule.record(&StepRecord { asked: invested, draft_ms: 300.0, ..step(1, 1, 62.0) });
    assert!((credit(&schedule).1 - (after.1 + LossBudget::INCOME)).abs() < 1e-9);
    schedule.record(&StepRecord { asked: invested, draft_ms: 362.0, ..step(1, 1, 62.0) });
    assert!((credit(&schedule).1 - (after.1 + 2.0 * LossBudget::INCOME - 1.0)).abs() < 1e-9);
}

#[test]
fn a_token_is_worth_what_it_takes_lately() {
    let mut schedule = Schedule::cost_aware(staircase());
    assert_eq!(schedule.limits(TreeLimits::TREE, 0).token_ms, 0.0, "the first step is plain");
    schedule.record(&step(1, 1, 62.0));
    let limits = schedule.limits(TreeLimits::TREE, 0);
    assert!(limits.token_ms == 62.0 && limits.row_ms > 20.0, "{limits:?}");
    (0..8).for_each(|_| schedule.record(&step(4, 4, 107.0)));
    schedule.record(&step(1, 1, 62.0));
    let limits = schedule.limits(TreeLimits::TREE, 0);
    assert!(limits.token_ms < 45.0 && limits.row_ms < 20.0, "{limits:?}");
}

#[test]
fn explains_what_it_does() {
    let schedule = Schedule::cost_aware(staircase());
    let explained = |schedule: &Schedule, p: &[f32]| {
        let explanation = schedule.explain(&chain(p), 0, 0);
        (explanation.n_rows, explanation.reason)
    };
    assert_eq!(explained(&schedule, &[1.0]), (1, Reason::PlainStepDue), "the first one is");
    assert_eq!(explained(&schedule, &[1.0, 0.9, 0.8, 0.1]), (4, Reason::Pays));
    assert_eq!(explained(&schedule, &[1.0, 0.4]), (1, Reason::TooLittleGain));
    let widths = schedule.explain(&chain(&[1.0, 0.9, 0.8, 0.1]), 0, 0).widths;
    assert_eq!(widths.iter().map(|width| width.n_rows).collect::<Vec<_>>(), [2, 3, 4]);
    assert!((widths[2].n_expected - 2.8).abs() < 1e-6 && widths[2].verdict == Verdict::Better, "{widths:?}");
    assert_eq!(widths[2].gain(), widths[2].n_expected / widths[2].n_plain);

    let mut lost = schedule.clone();
    lost.record(&step(1, 1, 62.0));
    assert_eq!(explained(&lost, &[1.0]), (1, Reason::NothingDrafted));
    lost.record(&step(8, 1, 191.0));
    assert_eq!(explained(&lost, &[0.6; 16]), (1, Reason::NotCovered));
    lost.record(&step(16, 1, 229.0));
    assert_eq!(explained(&lost, &[1.0]), (1, Reason::BudgetUsedUp));
    let mut long = schedule.clone();
    long.record(&step(1, 1, 62.0));
    (0..8).for_each(|_| long.record(&step(4, 4, 107.0)));
    assert_eq!(explained(&long, &[1.0]), (1, Reason::PlainStepDue));
    let curve = CostCurve::default();
    assert_eq!(explained(&Schedule::cost_aware(curve.clone()), &[1.0, 1.0]), (1, Reason::UnknownCost));
    assert_eq!(explained(&Schedule::everything(curve), &[1.0, 0.1]), (2, Reason::Everything));
}

#[test]
fn memory_bounds_the_width() {
    let row = RowMemory { n_vocab: 151_936, n_heads: 12, n_ctx: 4096 };
    assert_eq!(row.max_rows(8 << 30), MAX_ROWS);
    assert_eq!(row.max_rows(1 << 30), 11, "16 MiB at 1.4 MB a row");
    assert_eq!(row.max_rows(0), 1);
    assert_eq!(RowMemory { n_vocab: usize::MAX, ..row }.max_rows(u64::MAX), 1);
    let schedule = Schedule::cost_aware(staircase()).with_max_rows(5);
    assert_eq!(schedule.with_max_rows(0).policy.max_rows(), 1);
    let mut schedule = Schedule::cost_aware(staircase()).with_max_rows(5);
    schedule.record(&step(1, 1, 62.0));
    assert_eq!(schedule.limits(TreeLimits::TREE, 0).max_nodes, 5);
}

impl Policy {
    fn max_rows(&self) -> usize {
        match self {
            Policy::CostAware(ledger) => ledger.max_rows,
            Policy::Everything => MAX_NODES,
        }
    }
}

/// Generates at least 160 tokens with a drafter that claims `p` for each node of a chain; `accepts` decides what is
/// accepted. Predictions take the share `spent` of what they may. If the target `redoes`, it loses tokens with each
/// rejected one. Returns the tokens and the time taken, in plain steps.
fn answer(p: f32, spent: f64, redoes: bool, mut accepts: impl FnMut() -> bool) -> (usize, f64) {
    let curve = staircase();
    let mut schedule = Schedule::cost_aware(curve.clone()).with_redone_tokens(redoes);
    let claims: Vec<f32> = (0..16).map(|depth| p.powi(depth)).collect();
    let (mut ms, mut n_tokens, mut n_redone) = (0.0, 0, 0);
    while n_tokens < 160 {
        let limits = schedule.limits(TreeLimits::TREE, 0);
        let draft_ms = spent * limits.spend_ms;
        let asked = Asked { n: usize::from(draft_ms > 0.0), ms: draft_ms, invested_ms: 0.0 };
        let draft = Draft { asked, ..chain(&claims) };
        let n_rows = if limits == TreeLimits::PLAIN { 1 } else { schedule.choose(&draft, 0, n_redone) };
        let n_emitted = 1 + (1..n_rows).take_while(|_| accepts()).count();
        let at = curve.at(0);
        let (_, &verify_ms) = at.range(n_rows + n_redone..).next().expect("no batch is wider than the curve");
        schedule.record(&StepRecord { n_redone, asked, draft_ms, ..step(n_rows, n_emitted, verify_ms) });
        n_redone = if redoes && n_emitted < n_rows { n_redone + n_emitted } else { 0 };
        ms += draft_ms + verify_ms;
        n_tokens += n_emitted;
    }
    (n_tokens, ms / curve.plain_ms(0).unwrap())
}

proptest! {
    #[test]
    fn the_loss_is_bounded_whatever_the_drafter_says(p in 0.0f32..1.0, spent in prop_oneof![Just(0.0), 0.0f64..1.0, Just(1.0)], redoes: bool, dice in prop::collection::vec(0.0f32..1.0, 400), luck in 0.0f32..1.0) {
        let mut dice = dice.into_iter().cycle();
        let (n_tokens, n_plain) = answer(p, spent, redoes, || dice.next().is_some_and(|die| die < luck));
        let income = n_tokens as f64 * (1.0 + LossBudget::INCOME);
        prop_assert!(n_plain <= income + LossBudget::RESERVE + LossBudget::OVERDRAFT + 1e-6);
        if p < 0.5 {
            prop_assert!(n_plain <= income + LossBudget::RESERVE + 1e-6, "a doubtful draft overdraws nothing");
        }
    }

    #[test]
    fn a_calibrated_drafter_loses_nothing_to_speak_of(p in 0.0f32..1.0, redoes: bool, seed in 1u64..1 << 40) {
        let mut state = seed;
        let mut die = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let runs: Vec<(usize, f64)> = (0..100).map(|_| answer(p, 0.0, redoes, || die() < p)).collect();
        let loss: f64 = runs.iter().map(|&(n_tokens, n_plain)| n_plain / n_tokens as f64 - 1.0).sum();
        prop_assert!(loss / 100.0 < 0.01, "{loss}% on average");
    }

    #[test]
    fn the_choice_is_the_best_of_all(p in prop::collection::vec(0.0f32..1.0, 0..20)) {
        let mut p = p;
        p.push(1.0);
        p.sort_by(|a, b| b.total_cmp(a));
        let rate = |n: usize| {
            let tokens: f64 = p[..n].iter().map(|&p| f64::from(p)).sum();
            staircase().at(0).range(n..).next().map_or(0.0, |(_, ms)| tokens / ms)
        };
        let chosen = best_size(&p);
        let schedule = Schedule::cost_aware(staircase());
        prop_assert_eq!(schedule.explain(&chain(&p), 0, 0).n_rows, schedule.choose(&chain(&p), 0, 0));
        let best = (2..=p.len()).map(rate).fold(0.0, f64::max);
        if chosen == 1 {
            prop_assert!(best <= rate(1) * LEAST_GAIN * (1.0 + 1e-9));
        } else {
            prop_assert!(rate(chosen) == best && best > rate(1) * LEAST_GAIN);
        }
    }
}
