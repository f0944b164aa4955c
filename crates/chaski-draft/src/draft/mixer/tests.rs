use super::*;
use crate::draft::Tail;
use proptest::prelude::*;

/// A source with a name and three bins that proposes nothing.
struct Silent(&'static str);

impl Source for Silent {
    fn name(&self) -> &'static str {
        self.0
    }

    fn n_bins(&self) -> usize {
        3
    }

    fn learn(&mut self, _text: &[Token], _token: Token) {}

    fn propose(&self, _tail: Tail<'_>, _candidates: &mut Vec<Candidate>) {}
}

fn sources(names: &[&'static str]) -> Vec<Box<dyn Source>> {
    names.iter().map(|name| Box::new(Silent(name)) as Box<dyn Source>).collect()
}

fn mixer() -> Mixer {
    Mixer::new(MixerState::fresh(&sources(&["a", "b"])))
}

fn candidate(token: i32, bin: usize) -> Candidate {
    Candidate { token: Token(token), bin }
}

fn p_of(mixer: &mut Mixer, proposals: &[Vec<Candidate>], token: i32) -> f32 {
    let mut mixed = Vec::new();
    mixer.mix(proposals, &mut mixed);
    mixed.iter().find(|(known, _)| *known == Token(token)).map_or(0.0, |(_, p)| *p)
}

proptest! {
    #[test]
    fn every_token_once_and_no_more_than_certainty(
        proposals in prop::collection::vec(prop::collection::vec((0i32..9, 0usize..3), 0..6), 2),
        tokens in prop::collection::vec(0i32..9, 0..300),
    ) {
        let proposals: Vec<Vec<Candidate>> =
            proposals.iter().map(|own| own.iter().map(|&(token, bin)| candidate(token, bin)).collect()).collect();
        let mut mixer = mixer();
        tokens.iter().for_each(|&token| mixer.learn(&proposals, Token(token)));
        let mut mixed = Vec::new();
        mixer.mix(&proposals, &mut mixed);
        let named: std::collections::BTreeSet<Token> = proposals.iter().flatten().map(|c| c.token).collect();
        let found: std::collections::BTreeSet<Token> = mixed.iter().map(|(token, _)| *token).collect();
        prop_assert_eq!(mixed.len(), found.len());
        prop_assert_eq!(found, named);
        prop_assert!(mixed.iter().all(|(_, p)| (0.0..=1.0).contains(p)));
        prop_assert!(mixed.iter().map(|(_, p)| p).sum::<f32>() <= 1.0 + 1e-5);
        prop_assert!(mixer.state().is_sound());
    }
}

#[test]
fn the_source_that_is_right_is_believed() {
    let mut mixer = mixer();
    let proposals = [vec![candidate(1, 0)], vec![candidate(2, 0)]];
    for n in 0..400 {
        mixer.learn(&proposals, Token(if n % 10 == 0 { 2 } else { 1 }));
    }
    let (right, wrong) = (p_of(&mut mixer, &proposals, 1), p_of(&mut mixer, &proposals, 2));
    assert!((right - 0.9).abs() < 0.05 && (wrong - 0.1).abs() < 0.05, "{right} {wrong}");
}

#[test]
fn sources_that_agree_are_worth_more_than_one() {
    let mut mixer = mixer();
    let (alone, both) = ([vec![candidate(1, 0)], vec![]], [vec![candidate(1, 0)], vec![candidate(1, 0)]]);
    for n in 0..400 {
        mixer.learn(&alone, Token(n % 2));
        mixer.learn(&both, Token(1));
    }
    let (alone, both) = (p_of(&mut mixer, &alone, 1), p_of(&mut mixer, &both, 1));
    assert!((alone - 0.5).abs() < 0.1 && both > 0.95, "{alone} {both}");
}

#[test]
fn knowledge_is_of_the_same_sources_only() {
    let state = MixerState::fresh(&sources(&["a", "b"]));
    assert!(state.fits(&sources(&["a", "b"])));
    assert!([&["b", "a"][..], &["a"], &["a", "b", "c"], &[]].iter().all(|names| !state.fits(&sources(names))));
}
