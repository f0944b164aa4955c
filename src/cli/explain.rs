//! `run --explain`: describes one step in text, safe for terminals.

use std::fmt::Write as _;

use crate::engine::{Fate, NodeReport, StepReport};
use crate::schedule::{Explanation, Reason, Verdict, Width};

/// Number of other widths shown beside the chosen one.
const N_OTHERS: usize = 3;

/// A plain step as one line; a drafted step as a line, the widths considered, and the tree.
#[must_use]
pub fn describe(step: &StepReport) -> String {
    let choice = &step.choice;
    let said = step.emitted.iter().map(|bytes| quoted(bytes)).collect::<Vec<_>>().join(" ");
    let mut out = format!("step at {}: {said}: ", step.n_past);
    if choice.n_rows == 1 {
        out += &format!("plain decoding: {}", reason(choice));
        if let Some(best) = others(choice).first() {
            out += &format!("; {}", weighed(best));
        }
        return out;
    }
    let n_accepted = step.nodes.iter().filter(|node| node.fate == Fate::Accepted).count();
    let (n_rows, n_drafted) = (choice.n_rows, step.nodes.len());
    out += &format!("{n_rows} rows, accepted {n_accepted} of {}, drafted {n_drafted}: ", n_rows - 1);
    out += &reason(choice);
    let chosen = choice.widths.iter().find(|width| width.n_rows == n_rows);
    for width in chosen.into_iter().chain(others(choice)) {
        let mark = if width.n_rows == n_rows { "* " } else { "  " };
        out += &format!("\n  {mark}{}", weighed(width));
    }
    branches(&step.nodes, None, 1, &mut out);
    out
}

/// The best widths that were not chosen.
fn others(choice: &Explanation) -> Vec<&Width> {
    let mut others: Vec<&Width> = choice.widths.iter().filter(|width| width.n_rows != choice.n_rows).collect();
    others.sort_by(|a, b| b.gain().total_cmp(&a.gain()));
    others.truncate(N_OTHERS);
    others
}

fn reason(choice: &Explanation) -> String {
    match choice.reason {
        Reason::Pays => "most tokens per time".into(),
        Reason::Everything => "this drafter always verifies the whole draft".into(),
        Reason::NothingDrafted => "nothing was drafted".into(),
        Reason::PlainStepDue => "measuring the time of a plain step".into(),
        Reason::BudgetUsedUp => "the loss budget is used up".into(),
        Reason::NotCovered => "the risk is more than the loss budget".into(),
        Reason::TooLittleGain => {
            format!("no draft is expected to be {:.0}% faster than plain decoding", (choice.least_gain - 1.0) * 100.0)
        }
        Reason::UnknownCost => "the cost of drafts is unknown".into(),
    }
}

fn weighed(width: &Width) -> String {
    let Width { n_rows, n_expected, n_plain, verdict } = width;
    let refused = if *verdict == Verdict::NotCovered { ", over the loss budget" } else { "" };
    format!("{n_rows} rows: {n_expected:.2} tokens in {n_plain:.2} steps, {:.2}x{refused}", width.gain())
}

/// Writes the nodes below `parent`, depth first. A tree is at most 64 deep.
fn branches(nodes: &[NodeReport], parent: Option<usize>, depth: usize, out: &mut String) {
    for (at, node) in nodes.iter().enumerate().filter(|(_, node)| node.parent == parent) {
        let mark = match node.fate {
            Fate::Accepted => '+',
            Fate::Rejected => '-',
            Fate::NotVerified => '.',
        };
        write!(out, "\n{}{mark} {} {:.3}", "  ".repeat(depth), quoted(&node.bytes), node.p)
            .expect("a String takes all");
        branches(nodes, Some(at), depth + 1, out);
    }
}

/// A token in quotes, without control characters. A token may be part of a character.
fn quoted(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str, parent: Option<usize>, p: f32, fate: Fate) -> NodeReport {
        NodeReport { bytes: text.into(), parent, p, fate }
    }

    fn width(n_rows: usize, n_expected: f64, n_plain: f64, verdict: Verdict) -> Width {
        Width { n_rows, n_expected, n_plain, verdict }
    }

    #[test]
    fn a_drafted_step_is_a_tree() {
        let widths = vec![
            width(2, 1.9, 1.55, Verdict::Better),
            width(3, 2.7, 1.73, Verdict::Better),
            width(4, 2.8, 2.25, Verdict::NotCovered),
        ];
        let nodes = vec![
            node(" a", None, 0.9, Fate::Accepted),
            node("\n", Some(0), 0.8, Fate::Rejected),
            node(" c", None, 0.1, Fate::NotVerified),
        ];
        let choice = Explanation { n_rows: 3, reason: Reason::Pays, widths, least_gain: 1.02 };
        let step = StepReport { n_past: 57, emitted: vec![b" a".to_vec(), b"b".to_vec()], nodes, choice };
        assert_eq!(
            describe(&step),
            "step at 57: \" a\" \"b\": 3 rows, accepted 1 of 2, drafted 3: most tokens per time\n  \
             * 3 rows: 2.70 tokens in 1.73 steps, 1.56x\n    \
             4 rows: 2.80 tokens in 2.25 steps, 1.24x, over the loss budget\n    \
             2 rows: 1.90 tokens in 1.55 steps, 1.23x\n  \
             + \" a\" 0.900\n    \
             - \"\\n\" 0.800\n  \
             . \" c\" 0.100"
        );
    }

    #[test]
    fn a_plain_step_is_a_line() {
        let choice = |reason| Explanation { n_rows: 1, reason, widths: Vec::new(), least_gain: 1.04 };
        let step = |choice| StepReport { n_past: 8, emitted: vec![b"x".to_vec()], nodes: Vec::new(), choice };
        let expected = "step at 8: \"x\": plain decoding: the loss budget is used up";
        assert_eq!(describe(&step(choice(Reason::BudgetUsedUp))), expected);
        let widths = vec![width(2, 1.3, 1.55, Verdict::NoBetter)];
        let expected = "step at 8: \"x\": plain decoding: no draft is expected to be 4% faster than plain decoding; \
                        2 rows: 1.30 tokens in 1.55 steps, 0.84x";
        assert_eq!(describe(&step(Explanation { widths, ..choice(Reason::TooLittleGain) })), expected);
    }

    #[test]
    fn terminals_obey_no_token() {
        assert_eq!(quoted(b"\x1b[2J\n\t\"\x7f"), r#""\u{1b}[2J\n\t\"\u{7f}""#);
        assert_eq!(quoted("\u{9b}\u{202e}é".as_bytes()), "\"\\u{9b}\\u{202e}é\"");
        assert_eq!(quoted(b"\xf0\x9f"), r#""\xf0\x9f""#);
    }
}
