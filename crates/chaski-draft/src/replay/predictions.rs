//! Recorded predictions of a source with a price, as JSON lines: one line for each trace, matched by id.
//!
//! ```json
//! {"id":"code-1","model":"NAME","n_depths":1,"rows":[[[[9707,0.91],[13048,0.04]]],[[[11,0.88]]]]}
//! ```
//!
//! The source is not asked where the free sources are surer than `most_confidence` (1 if it is missing).
//!
//! `rows[i][d]` is what the source predicts after the prompt and `tokens[..i + d]` of the trace, when the target has
//! emitted `tokens[..i]` and `tokens[i..i + d]` are drafted: pairs of a token and its probability, likeliest first.
//! A model that reads along predicts the same wherever the draft begins, so it has one depth, and the prediction at
//! `(i, d)` is `rows[i + d][0]`. With more depths, the source starts from the target's state at `i`: its predictions are
//! `rows[i][d]`, and it has none at `d >= n_depths`. Where a list is empty or missing there is no prediction to ask for.
//!
//! Off the recorded path nothing was recorded. A prediction there can win nothing: the target rejects the path. It still
//! has a price, and its probabilities must look real, so it is the one of the recorded path at the same depth.
//!
//! Left out: the time in which a draft model reads the prompt (`catch_up_ms` is 0).

use serde::{Deserialize, Serialize};

use crate::cost::CostCurve;
use crate::draft::draft_model::DraftModel;
use crate::draft::table::Successor;
use crate::replay::target::SimulatedClock;
use crate::replay::trace::{Trace, TraceError, lines};
use crate::token::Token;

/// What a source predicts along one recorded answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predictions {
    /// The id of the trace.
    pub id: String,
    /// The name of the source.
    pub model: String,
    /// How far behind the last emitted token the source predicts; 1 for a source that reads the draft along.
    pub n_depths: usize,
    /// See [`DraftModel::most_confidence`].
    #[serde(default = "one")]
    pub most_confidence: f32,
    /// For each emitted token and each depth, the likeliest tokens and their probabilities, likeliest first.
    pub rows: Vec<Vec<Vec<(i32, f32)>>>,
}

fn one() -> f32 {
    1.0
}

impl Predictions {
    /// Parses a file of predictions. Skips empty lines.
    ///
    /// # Errors
    /// The first line that is no valid prediction, or that has the id of an earlier line.
    pub fn parse_all(text: &str) -> Result<Vec<Predictions>, TraceError> {
        let mut all: Vec<Predictions> = Vec::new();
        for (line, json) in lines(text) {
            let one: Predictions = serde_json::from_str(json)
                .map_err(|error| TraceError::Malformed { line, reason: error.to_string() })?;
            let what = if all.iter().any(|known| known.id == one.id) {
                Err("an earlier line has the same id")
            } else {
                one.check()
            };
            what.map_err(|what| TraceError::Unsound { line, what })?;
            all.push(one);
        }
        Ok(all)
    }

    fn check(&self) -> Result<(), &'static str> {
        let lists = || self.rows.iter().flatten();
        let top = || lists().flatten();
        match () {
            () if self.n_depths == 0 => Err("n_depths must be at least 1"),
            () if !(0.0..=1.0).contains(&self.most_confidence) => Err("most_confidence is not from 0 to 1"),
            () if self.rows.iter().any(|row| row.len() > self.n_depths) => Err("a row has more lists than n_depths"),
            () if !top().all(|(id, _)| *id >= 0) => Err("a token is negative"),
            () if !top().all(|(_, p)| (0.0..=1.0).contains(p)) => Err("a probability is not from 0 to 1"),
            () if !lists().all(|list| list.is_sorted_by(|a, b| a.1 >= b.1)) => {
                Err("a list does not have its likeliest token first")
            }
            () => Ok(()),
        }
    }

    /// Checks that these are predictions for `trace`.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_against(&self, trace: &Trace) -> Result<(), String> {
        let (n_rows, n_tokens) = (self.rows.len(), trace.tokens.len());
        let all = self.rows.iter().flatten().flatten();
        match all.map(|(id, _)| *id).find(|&id| Token(id).index() >= trace.n_vocab) {
            _ if self.id != trace.id => Err(format!("predictions for {}, not for {}", self.id, trace.id)),
            _ if n_rows != n_tokens => Err(format!("{n_rows} rows of predictions for {n_tokens} tokens")),
            Some(id) => Err(format!("the predicted token {id} is outside the vocabulary of {}", trace.n_vocab)),
            None => Ok(()),
        }
    }

    /// What the source predicts after `i` emitted and `d` drafted tokens; empty if it has no prediction.
    fn at(&self, i: usize, d: usize) -> &[(i32, f32)] {
        let (i, d) = if self.n_depths == 1 { (i + d, 0) } else { (i, d) };
        self.rows.get(i).and_then(|row| row.get(d)).map_or(&[], Vec::as_slice)
    }
}

/// A source with a price that repeats recorded predictions, each of which advances the clock.
pub struct RecordedSource<'a> {
    predictions: &'a Predictions,
    n_prompt: usize,
    /// The time of a prediction as a share of the time of one row.
    price: f64,
    curve: &'a CostCurve,
    clock: &'a SimulatedClock,
    top: Vec<Successor>,
}

impl<'a> RecordedSource<'a> {
    /// A source along `trace` that takes `price` times as long for a prediction as `curve` for one row.
    ///
    /// # Errors
    /// If the predictions do not fit the trace.
    pub fn new(
        predictions: &'a Predictions,
        trace: &Trace,
        price: f64,
        curve: &'a CostCurve,
        clock: &'a SimulatedClock,
    ) -> Result<RecordedSource<'a>, String> {
        predictions.check_against(trace)?;
        Ok(RecordedSource { predictions, n_prompt: trace.prompt.len(), price, curve, clock, top: Vec::new() })
    }

    fn recorded(&self, text: &[Token], path: &[Token]) -> &'a [(i32, f32)] {
        let n_emitted = text.len().checked_sub(self.n_prompt);
        n_emitted.map_or(&[], |n_emitted| self.predictions.at(n_emitted, path.len()))
    }
}

impl DraftModel for RecordedSource<'_> {
    fn most_confidence(&self) -> f32 {
        self.predictions.most_confidence
    }

    fn price_ms(&self, text: &[Token], path: &[Token]) -> f64 {
        match self.recorded(text, path) {
            [] => f64::INFINITY,
            _ => self.curve.plain_ms(text.len()).map_or(f64::INFINITY, |plain_ms| self.price * plain_ms),
        }
    }

    fn catch_up_ms(&self, _text: &[Token]) -> f64 {
        0.0
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        let price_ms = self.price_ms(text, path);
        if price_ms.is_finite() {
            self.clock.advance(price_ms);
        }
        let recorded = self.recorded(text, path).iter();
        self.top.clear();
        self.top.extend(recorded.map(|&(id, weight)| Successor { token: Token(id), weight }));
        &self.top
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Clock as _;
    use crate::draft::auto::Auto;
    use crate::replay::score::{Score, replay, replay_with_source};
    use crate::replay::trace::tests::trace;
    use crate::replay::trace::tokens;
    use crate::schedule::Schedule;

    fn predictions(n_depths: usize, rows: Vec<Vec<Vec<(i32, f32)>>>) -> Predictions {
        Predictions { id: "edit-3".into(), model: "small".into(), n_depths, most_confidence: 1.0, rows }
    }

    fn curve() -> CostCurve {
        CostCurve::exact((1..=64).map(|n| (n, 100.0 + 2.0 * (n - 1) as f64)))
    }

    /// The best token predicted after `text` and `path`, and what that takes in plain steps.
    fn asked(predictions: &Predictions, text: &[i32], path: &[i32]) -> Option<(i32, f64)> {
        let (trace, curve, clock) = (trace(&[1, 2], &[3, 4, 5, 6], 0.5), curve(), SimulatedClock::default());
        let mut source = RecordedSource::new(predictions, &trace, 0.1, &curve, &clock).unwrap();
        let (text, path) = (tokens(text), tokens(path));
        let price_ms = source.price_ms(&text, &path);
        assert_eq!(source.catch_up_ms(&text), 0.0);
        let best = source.predict(&text, &path).first().map(|best| best.token.0);
        assert_eq!(best.is_some(), price_ms.is_finite(), "only what there is has a price");
        let took_ms = clock.now().as_secs_f64() * 1e3;
        assert!((took_ms - if best.is_some() { price_ms } else { 0.0 }).abs() < 1e-6);
        best.map(|best| (best, took_ms / 100.0))
    }

    #[test]
    fn a_model_that_reads_along_depends_on_the_place_alone() {
        let read = predictions(1, (13..17).map(|id| vec![vec![(id, 0.5)]]).collect());
        assert_eq!(asked(&read, &[1, 2], &[]).unwrap().0, 13);
        assert_eq!(asked(&read, &[1, 2, 3], &[4]).unwrap().0, 15);
        assert_eq!(asked(&read, &[1, 2], &[3, 4]).unwrap().0, 15);
        assert_eq!(asked(&read, &[1, 2, 3], &[9]).unwrap().0, 15, "off the path, that of the path");
        assert_eq!(asked(&read, &[1, 2, 3], &[4, 5, 6]), None, "beyond the end");
        assert!((asked(&read, &[1, 2], &[]).unwrap().1 - 0.1).abs() < 1e-6);
        assert_eq!(asked(&read, &[1], &[]), None, "inside the prompt");
    }

    #[test]
    fn a_source_that_starts_from_the_target_has_some_depths() {
        let row = |id: i32| vec![vec![(id, 0.5)], vec![(id + 10, 0.5)]];
        let hidden = predictions(2, vec![row(11), row(12), vec![vec![], vec![(23, 0.2)]], vec![]]);
        assert_eq!(asked(&hidden, &[1, 2], &[]).unwrap().0, 11);
        assert_eq!(asked(&hidden, &[1, 2], &[3]).unwrap().0, 21);
        assert_eq!(asked(&hidden, &[1, 2], &[9]).unwrap().0, 21, "off the path, that of the path");
        assert_eq!(asked(&hidden, &[1, 2, 3], &[]).unwrap().0, 12);
        assert_eq!(asked(&hidden, &[1, 2], &[3, 4]), None, "too deep");
        assert_eq!(asked(&hidden, &[1, 2, 3, 4], &[]), None, "an empty list");
        assert_eq!(asked(&hidden, &[1, 2, 3, 4], &[5]).unwrap().0, 23);
        assert_eq!(asked(&hidden, &[1, 2, 3, 4, 5], &[]), None, "a missing list");
    }

    /// An answer in which nothing repeats, and a source that is always right about it.
    fn foreign() -> (Trace, Predictions) {
        let ids: Vec<i32> = (0..120).map(|at| (at * at * 31 + at * 7) % 997).collect();
        let mut trace = trace(&[1, 2], &ids, 0.5);
        trace.n_vocab = 1000;
        (trace, predictions(1, ids.iter().map(|&id| vec![vec![(id, 0.9)]]).collect()))
    }

    fn assisted(trace: &Trace, predictions: &Predictions, price: f64) -> Score {
        let (mut auto, wall) = (Auto::default(), SimulatedClock::default());
        let schedule = Schedule::cost_aware(curve());
        replay_with_source(trace, &curve(), &mut auto, (predictions, price), schedule, &wall).unwrap()
    }

    #[test]
    fn a_source_that_knows_pays_its_price() {
        let (trace, predictions) = foreign();
        let alone =
            replay(&trace, &curve(), &mut Auto::default(), Schedule::cost_aware(curve()), &SimulatedClock::default());
        let (alone, free, cheap) =
            (alone.unwrap(), assisted(&trace, &predictions, 0.0), assisted(&trace, &predictions, 0.2));
        assert_eq!((alone.n_predictions, alone.stats.n_predicted, cheap.stats.n_predicted), (0, 120, 120));
        assert!(free.n_predictions >= 100 && cheap.n_predictions >= 80);
        assert!(free.speedup() > 1.2 * cheap.speedup() && cheap.speedup() > 1.5 * alone.speedup());
        let never = assisted(&trace, &predictions, 2.0);
        assert_eq!((never.n_predictions, never.stats.predicted_ms), (0, alone.stats.predicted_ms), "too expensive");
        let shy = Predictions { most_confidence: 0.0, ..predictions };
        assert!(assisted(&trace, &shy, 0.0).n_predictions < free.n_predictions, "not asked where a source is surer");
        let mut both = free;
        both.merge(&cheap);
        assert_eq!(both.n_predictions, free.n_predictions + cheap.n_predictions);
    }

    #[test]
    fn what_was_written_is_read_and_contradictions_are_told() {
        let sound = predictions(2, vec![vec![vec![(3, 0.5), (4, 0.25)], vec![]], vec![vec![(5, 1.0)]]]);
        let parsed = |change: fn(&mut Predictions)| {
            let mut changed = sound.clone();
            change(&mut changed);
            let json = format!("\n{}\n", serde_json::to_string(&changed).unwrap());
            Predictions::parse_all(&json).map_err(|error| error.to_string())
        };
        assert_eq!(parsed(|_| ()).unwrap(), std::slice::from_ref(&sound));
        let missing = r#"{"id":"edit-3","model":"small","n_depths":1,"rows":[]}"#;
        assert!((Predictions::parse_all(missing).unwrap()[0].most_confidence - 1.0).abs() < f32::EPSILON);
        let fails = |change: fn(&mut Predictions), message: &str| {
            let error = parsed(change).unwrap_err();
            assert!(error.starts_with("line 2: ") && error.contains(message), "{error}");
        };
        fails(|it| it.n_depths = 0, "n_depths must be");
        fails(|it| it.n_depths = 1, "more lists than n_depths");
        fails(|it| it.most_confidence = 1.5, "most_confidence is not");
        fails(|it| it.rows[0][0][0].0 = -1, "negative");
        fails(|it| it.rows[0][0][0].1 = 1.5, "a probability");
        fails(|it| it.rows[0][0][0].1 = 0.1, "likeliest token first");
        let twice = format!("{0}\n{0}\n", serde_json::to_string(&sound).unwrap());
        assert!(Predictions::parse_all(&twice).unwrap_err().to_string().starts_with("line 2: an earlier line"));
        assert!(Predictions::parse_all("{}").unwrap_err().to_string().starts_with("line 1: missing field"));

        let trace = trace(&[1, 2], &[3, 4], 0.5);
        assert_eq!(sound.check_against(&trace), Ok(()));
        let wrong = |change: fn(&mut Predictions)| {
            let mut changed = sound.clone();
            change(&mut changed);
            changed.check_against(&trace).unwrap_err()
        };
        assert_eq!(wrong(|it| it.id = "code-1".into()), "predictions for code-1, not for edit-3");
        assert_eq!(wrong(|it| _ = it.rows.pop()), "1 rows of predictions for 2 tokens");
        assert_eq!(wrong(|it| it.rows[0][0][0].0 = 32), "the predicted token 32 is outside the vocabulary of 32");
    }
}
