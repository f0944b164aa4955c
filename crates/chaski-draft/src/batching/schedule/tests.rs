//! The schedule must plan rows that pay and give up drafts that do not.

use super::*;
use proptest::prelude::*;

/// A 0.5B model on two cores, in units of one plain step.
fn curve() -> CostCurve {
    CostCurve::exact([(1, 1.0), (2, 1.05), (4, 1.4), (8, 2.25), (16, 3.7), (32, 6.7), (64, 11.1)])
}

fn roots(n: usize) -> Vec<Wish> {
    vec![Wish { n_pending: 1, p: Vec::new() }; n]
}

fn prompt(n_pending: usize) -> Wish {
    Wish { n_pending, p: Vec::new() }
}

fn draft(p: &[f32]) -> Wish {
    Wish { n_pending: 1, p: p.to_vec() }
}

fn plan(wishes: &[Wish]) -> Vec<usize> {
    BatchSchedule::new(curve()).plan(wishes, 0)
}

#[test]
fn a_batch_is_decoded_in_parts_of_equal_rows() {
    assert_eq!(parts(&[1, 1, 1]), [3]);
    assert_eq!(parts(&[1, 0, 1, 1]), [1, 2], "a gap");
    assert_eq!(parts(&[1, 33, 1]), [3, 32], "a prompt beside roots");
    assert_eq!(parts(&[3, 3, 3]), [9]);
    assert_eq!(parts(&[1, 5, 3, 1]), [4, 4, 2], "uneven rows");
    assert_eq!(parts(&[]), Vec::<usize>::new());
}

#[test]
fn prompts_are_read_beside_roots_and_neighbours_together() {
    assert_eq!(plan(&[roots(3), vec![prompt(100)]].concat()), [1, 1, 1, 100]);
    assert_eq!(plan(&[prompt(40), prompt(43), prompt(41)]), [40, 40, 40], "the uneven rest waits for its turn");
    assert_eq!(plan(&[prompt(1000)]), [257], "no more than a batch holds");
    let slow = BatchSchedule::new(CostCurve::exact([(1, 300.0), (64, 3000.0)]));
    let rows = slow.plan(&[roots(3), vec![prompt(100)]].concat(), 0);
    assert!((20..40).contains(&rows[3]), "a step takes two seconds at most: {rows:?}");
    assert_eq!(plan(&vec![prompt(100); 64]).into_iter().sum::<usize>(), 64 + 256);
    assert_eq!(plan(&[prompt(0), prompt(1)]), [0, 1]);
}

#[test]
fn drafts_pay_for_few_texts_and_not_for_many() {
    let sure = [0.97f32; 8];
    assert_eq!(plan(&[draft(&sure)]), [9]);
    assert_eq!(plan(&vec![draft(&sure); 64]), vec![1; 64]);
    assert_eq!(plan(&[draft(&[0.3, 0.1]), draft(&[0.3, 0.1])]), [1, 1], "doubtful ones never");
    let schedule = BatchSchedule::new(curve());
    assert!(schedule.can_draft(1, 0) && schedule.can_draft(8, 0) && !schedule.can_draft(64, 0));
    assert!(!BatchSchedule::new(CostCurve::default()).can_draft(1, 0), "nothing is known of the cost");
}

fn step<'a>(rows: &'a [usize], drafted: &'a [usize], n_logits: usize) -> StepRecord<'a> {
    StepRecord { rows, drafted, n_logits, n_past: 0, n_emitted: n_logits, draft_ms: 0.0, decode_ms: 9.0 }
}

#[test]
fn only_whole_parts_refine_the_curve() {
    let mut schedule = BatchSchedule::new(CostCurve::default());
    schedule.record(&step(&[1, 0, 1], &[0; 3], 2));
    schedule.record(&step(&[2, 2], &[0; 2], 2));
    assert_eq!(schedule.curve(), &CostCurve::default());
    schedule.record(&step(&[0, 1, 1], &[0; 3], 2));
    assert_eq!(schedule.curve().at(0), BTreeMap::from([(2, 8.1)]), "less what one sample may be wrong by");
}

#[test]
fn what_brings_nothing_is_given_up_beside_prompts_too() {
    let given_up_after = |of: &dyn Fn(&mut BatchSchedule)| {
        let mut schedule = BatchSchedule::new(curve());
        (1..100).find(|_| {
            of(&mut schedule);
            !schedule.can_draft(2, 0)
        })
    };
    let (reading, drafted) = ([1, 33, 1], [3, 33, 3]);
    let slow_drafter = |schedule: &mut BatchSchedule| {
        schedule.record(&StepRecord { draft_ms: 0.5, ..step(&reading, &[0; 3], 2) });
    };
    assert_eq!(given_up_after(&slow_drafter), Some(3), "half a step, for each of two texts");
    let rejected = |schedule: &mut BatchSchedule| {
        schedule.record(&StepRecord { n_emitted: 2, ..step(&drafted, &[2, 0, 2], 6) });
    };
    assert_eq!(given_up_after(&rejected), Some(2), "four rows more in a part of their own");
    let accepted = |schedule: &mut BatchSchedule| schedule.record(&step(&drafted, &[2, 0, 2], 6));
    assert_eq!(given_up_after(&accepted), None);
    let only_reading = |schedule: &mut BatchSchedule| schedule.record(&step(&[33, 40], &[0; 2], 0));
    assert_eq!(given_up_after(&only_reading), None);
}

fn value(wishes: &[Wish], rows: &[usize]) -> f64 {
    let of = |(wish, &n): (&Wish, &usize)| match wish.p.len() {
        0 => n as f64,
        _ => 1.0 + wish.p[..n - 1].iter().map(|&p| f64::from(p)).sum::<f64>(),
    };
    wishes.iter().zip(rows).map(of).sum()
}

fn ms(rows: &[usize]) -> f64 {
    Times::new(&curve().at(0), rows.iter().sum::<usize>() + 1).of_batch(rows)
}

fn wish() -> impl Strategy<Value = Wish> {
    let p = prop::collection::vec(0.0f32..1.0, 0..5).prop_map(|mut p| {
        p.sort_by(|a, b| b.total_cmp(a));
        p
    });
    prop_oneof![(0usize..2).prop_map(prompt), (2usize..60).prop_map(prompt), p.prop_map(|p| Wish { n_pending: 1, p }),]
}

proptest! {
    #[test]
    fn nobody_starves_and_nobody_gets_what_it_cannot_use(
        wishes in prop::collection::vec(wish(), 1..24), max_more in 0usize..80,
    ) {
        let schedule = BatchSchedule::new(curve()).with_max_more(max_more);
        let rows = schedule.plan(&wishes, 0);
        for (wish, &n_rows) in wishes.iter().zip(&rows) {
            prop_assert!(n_rows >= wish.n_pending.min(1) && n_rows <= wish.n_pending + wish.p.len());
        }
        let n_more: usize = rows.iter().map(|n| n.saturating_sub(1)).sum();
        prop_assert!(n_more <= max_more);
        let single: Vec<usize> = wishes.iter().map(|wish| wish.n_pending.min(1)).collect();
        if single.contains(&1) {
            let rate = |rows: &[usize]| value(&wishes, rows) / ms(rows);
            prop_assert!(rate(&rows) >= rate(&single) * LEAST_READING * (1.0 - 1e-9), "{rows:?}");
        }
    }

    /// Compares the plan with every single block, using the parts llama.cpp would really decode.
    #[test]
    fn no_single_block_does_better(mut wishes in prop::collection::vec(wish(), 1..6), only_drafts: bool) {
        if only_drafts {
            wishes.iter_mut().for_each(|wish| wish.n_pending = wish.n_pending.min(1));
        }
        let tolerance = LEAST_GAIN / if only_drafts { 1.0 } else { LEAST_READING };
        let rows = plan(&wishes);
        let single: Vec<usize> = wishes.iter().map(|wish| wish.n_pending.min(1)).collect();
        let rate = |rows: &[usize]| value(&wishes, rows) / ms(rows);
        let n_more = |lane_id: usize| wishes[lane_id].n_pending.saturating_sub(1) + wishes[lane_id].p.len();
        for from in 0..wishes.len() {
            for to in from + 1..=wishes.len() {
                let most = (from..to).map(n_more).min().unwrap_or(0).min(256 / (to - from));
                for n_rows in 1..=most {
                    let mut tried = single.clone();
                    tried[from..to].iter_mut().for_each(|n| *n += n_rows);
                    prop_assert!(rate(&tried) <= rate(&rows) * tolerance + 1e-9, "{tried:?} beats {rows:?}");
                }
            }
        }
    }
}
