//! Generates prompts of the eight kinds of `chaski bench` from a table of forms and fillings. The same seed gives the
//! same prompts in the same order, and no prompt twice.
//!
//! No prompt may equal or paraphrase one of `bench/prompts.jsonl` or `bench/fresh-prompts.jsonl`, because those are held out
//! for measuring.

use std::collections::BTreeSet;

use crate::align::table::{KINDS, Kind, LISTS};

/// Draws without a new prompt after which the table counts as used up.
const MAX_TRIES: usize = 1000;

/// Deepest nesting of fillings.
const MAX_DEPTH: usize = 4;

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its kind, named as in `bench/prompts.jsonl`.
    pub kind: &'static str,
    /// The user's message.
    pub text: String,
}

/// An iterator over the prompts of a seed.
#[derive(Clone, Debug)]
pub struct Prompts {
    dice: Dice,
    given: BTreeSet<String>,
}

impl Prompts {
    /// Starts the prompts of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Prompts {
        Prompts { dice: Dice(seed), given: BTreeSet::new() }
    }

    fn draw_kind(&mut self) -> &'static Kind {
        let mut ticket = self.dice.roll(KINDS.iter().map(|kind| kind.n_tickets).sum());
        let mut kinds = KINDS.iter();
        loop {
            let kind = kinds.next().expect("a ticket is below the sum of all");
            match ticket.checked_sub(kind.n_tickets) {
                Some(rest) => ticket = rest,
                None => return kind,
            }
        }
    }
}

impl Iterator for Prompts {
    type Item = Prompt;

    fn next(&mut self) -> Option<Prompt> {
        let kind = self.draw_kind();
        // Forms with few fillings are used up first. Another form of the same kind then keeps the kinds' shares.
        for _ in 0..MAX_TRIES {
            let form = kind.forms[self.dice.roll(kind.forms.len())];
            let text = Filler { dice: &mut self.dice, chosen: Vec::new() }.fill(form, 0);
            if self.given.insert(text.clone()) {
                return Some(Prompt { kind: kind.name, text });
            }
        }
        None
    }
}

/// Fills the slots of one prompt. `$NAME` takes any filling of its list. `$NAME1` and `$NAME2` take different fillings,
/// each the same wherever the slot occurs.
struct Filler<'a> {
    dice: &'a mut Dice,
    chosen: Vec<(&'a str, &'static str)>,
}

impl<'a> Filler<'a> {
    fn fill(&mut self, form: &'a str, depth: usize) -> String {
        assert!(depth < MAX_DEPTH, "fillings within fillings: {form}");
        let mut parts = form.split('$');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit())).unwrap_or(part.len());
            let (slot, rest) = part.split_at(end);
            match fillings(slot) {
                Some(list) => {
                    let filling = self.choose(slot, list);
                    text += &self.fill(filling, depth + 1);
                }
                // Not a slot: a dollar sign in the text.
                None => {
                    text.push('$');
                    text += slot;
                }
            }
            text += rest;
        }
        text
    }

    fn choose(&mut self, slot: &'a str, list: &'static [&'static str]) -> &'static str {
        let is_named = slot.ends_with(|c: char| c.is_ascii_digit());
        if let Some((_, filling)) = self.chosen.iter().find(|(name, _)| is_named && *name == slot) {
            return filling;
        }
        let start = self.dice.roll(list.len());
        // From a random start, the first filling that no other slot has taken.
        let is_free = |filling: &&&str| !is_named || self.chosen.iter().all(|(_, taken)| taken != *filling);
        let filling = list[start..].iter().chain(&list[..start]).find(is_free).unwrap_or(&list[start]);
        self.chosen.push((slot, filling));
        filling
    }
}

fn fillings(slot: &str) -> Option<&'static [&'static str]> {
    let list = slot.trim_end_matches(|c: char| c.is_ascii_digit());
    LISTS.iter().find(|(name, _)| *name == list).map(|(_, fillings)| *fillings)
}

/// The SplitMix64 generator (Steele, Lea, Flood 2014): the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n_sides`.
    ///
    /// # Panics
    /// If `n_sides` is 0.
    pub fn roll(&mut self, n_sides: usize) -> usize {
        (self.next_u64() % n_sides as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const HELD_OUT: [&str; 2] =
        [include_str!("../../bench/prompts.jsonl"), include_str!("../../bench/fresh-prompts.jsonl")];

    /// Length of a run of words that two unrelated texts do not share.
    const N_WORDS: usize = 6;

    fn runs(text: &str) -> Vec<String> {
        let words: Vec<String> =
            text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
        words.windows(N_WORDS).map(|words| words.join(" ")).collect()
    }

    #[test]
    fn thousands_all_different_the_same_for_a_seed() {
        let prompts: Vec<Prompt> = Prompts::new(1).take(8000).collect();
        let again: Vec<Prompt> = Prompts::new(1).take(100).collect();
        assert_eq!(again, prompts[..100]);
        assert_ne!(again, Prompts::new(2).take(100).collect::<Vec<_>>());
        let texts: BTreeSet<&str> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
        assert_eq!((prompts.len(), texts.len()), (8000, 8000));
        let mut n_of: BTreeMap<&str, usize> = BTreeMap::new();
        prompts.iter().for_each(|prompt| *n_of.entry(prompt.kind).or_default() += 1);
        let kinds: BTreeSet<&str> = n_of.keys().copied().collect();
        assert_eq!(kinds, ["chat", "code", "edit", "json", "math", "qa", "summary", "translation"].into());
        assert!(n_of["chat"] > 2000 && n_of["code"] > 2000, "{n_of:?}");
    }

    #[test]
    fn every_slot_is_filled() {
        for prompt in Prompts::new(3).take(8000) {
            let has_slot =
                prompt.text.split('$').skip(1).any(|part| part.starts_with(|c: char| c.is_ascii_uppercase()));
            assert!(!has_slot, "{}", prompt.text);
            assert!(prompt.text.len() < 2500, "{}", prompt.text);
        }
    }

    #[test]
    fn named_slots_agree_and_differ() {
        let mut dice = Dice(0);
        for _ in 0..100 {
            let text = Filler { dice: &mut dice, chosen: Vec::new() }.fill("$PERSON1,$PERSON2,$PERSON1,$ 5,$NONE", 0);
            let parts: Vec<&str> = text.split(',').collect();
            assert!(parts[0] == parts[2] && parts[0] != parts[1] && parts[3..] == ["$ 5", "$NONE"], "{text}");
        }
    }

    #[test]
    fn no_prompt_for_measuring_is_among_them() {
        let held_out: BTreeSet<String> = HELD_OUT
            .iter()
            .flat_map(|prompts| prompts.lines())
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .flat_map(|line| runs(line["prompt"].as_str().unwrap()))
            .collect();
        assert!(held_out.len() > 2000);
        for prompt in Prompts::new(4).take(8000) {
            let shared = runs(&prompt.text).into_iter().find(|run| held_out.contains(run));
            assert_eq!(shared, None, "{}", prompt.text);
        }
    }
}
