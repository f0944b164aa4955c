use proptest::prelude::*;

use super::*;

/// A vocabulary with a naive tokenizer like llama.cpp's.
#[derive(Clone, Debug)]
struct Vocabulary {
    /// In order of merge priority, highest first.
    tokens: Vec<String>,
    specials: Vec<String>,
    strips: bool,
    has_prefix: bool,
}

/// A part of a text.
#[derive(Clone, Debug)]
enum Fragment {
    Text(String),
    Special(String),
}

impl Vocabulary {
    fn split_points(&self) -> Option<SplitPoints> {
        let ordinary = self.tokens.iter().map(|text| Spelling { text, is_special: false, strips: false });
        let special = self.specials.iter().map(|text| Spelling { text, is_special: true, strips: self.strips });
        let n_strange = self.tokenize(&STRANGE.to_string()).len();
        SplitPoints::new(ordinary.chain(special), n_strange)
    }

    fn tokenize(&self, text: &str) -> Vec<String> {
        let (mut tokens, mut wants_prefix) = (Vec::new(), self.has_prefix);
        for fragment in self.fragments(text) {
            match fragment {
                Fragment::Special(special) => {
                    tokens.push(special);
                    wants_prefix = self.has_prefix;
                }
                Fragment::Text(text) => {
                    let prefix = if wants_prefix { " " } else { "" };
                    tokens.extend(self.joined(&format!("{prefix}{text}").replace(' ', "\u{2581}")));
                    wants_prefix = false;
                }
            }
        }
        tokens
    }

    /// Splits a text at special tokens, the longest first.
    fn fragments(&self, text: &str) -> Vec<Fragment> {
        let mut fragments = if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text.to_owned())] };
        let mut specials: Vec<&String> = self.specials.iter().filter(|special| !special.is_empty()).collect();
        specials.sort_by_key(|special| std::cmp::Reverse(special.len()));
        for special in specials {
            let split = |fragment| match fragment {
                Fragment::Text(text) => self.split(&text, special),
                special @ Fragment::Special(_) => vec![special],
            };
            fragments = fragments.into_iter().flat_map(split).collect();
        }
        fragments
    }

    fn split(&self, text: &str, special: &str) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        let parts: Vec<&str> = text.split(special).collect();
        for (n, part) in parts.iter().enumerate() {
            if n > 0 {
                fragments.push(Fragment::Special(special.to_owned()));
            }
            let part = if self.strips && n > 0 { part.trim_start_matches(is_white) } else { part };
            let part = if self.strips && n + 1 < parts.len() { part.trim_end_matches(is_white) } else { part };
            if !part.is_empty() {
                fragments.push(Fragment::Text(part.to_owned()));
            }
        }
        fragments
    }

    /// Merges neighbours into tokens by priority, leftmost first on a tie. Symbols that are no tokens become bytes.
    fn joined(&self, text: &str) -> Vec<String> {
        let rank = |text: &str| self.tokens.iter().chain(&self.specials).position(|token| token == text);
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let pairs = symbols.windows(2).enumerate();
            let best = pairs.filter_map(|(at, pair)| Some((rank(&pair.concat())?, at))).min();
            let Some((_, at)) = best else { break };
            let right = symbols.remove(at + 1);
            symbols[at].push_str(&right);
        }
        let spelled = symbols.into_iter().flat_map(|symbol| match rank(&symbol) {
            Some(_) => vec![symbol],
            None => symbol.bytes().map(|byte| format!("<{byte:02X}>")).collect(),
        });
        spelled.collect()
    }
}

fn vocabulary() -> impl Strategy<Value = Vocabulary> {
    // Few enough that some characters are in no token and some tokens are adjacent.
    let texts = |n: usize| prop::collection::vec("[abc \u{2581}\n<>é]{1,3}", 0..n);
    let spelled = texts(8).prop_map(|all| all.into_iter().map(|text| text.replace(' ', "\u{2581}")).collect());
    (spelled, texts(3), any::<bool>(), any::<bool>()).prop_map(|(tokens, specials, strips, has_prefix)| Vocabulary {
        tokens,
        specials,
        strips,
        has_prefix,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_have_the_tokens_of_the_whole(
        vocabulary in vocabulary(),
        text in "[abc \u{2581}\n<>é]{0,40}",
        n_bytes in 0_usize..8,
    ) {
        let split_points = vocabulary.split_points().unwrap();
        let pieces = split_points.pieces(&text, n_bytes);
        prop_assert_eq!(pieces.concat(), &text[..]);
        prop_assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() >= n_bytes.max(1)), "{:?}", pieces);
        let tokens = split_points.tokenize(&text, n_bytes, |piece| vocabulary.tokenize(piece));
        prop_assert_eq!(tokens, vocabulary.tokenize(&text), "{:?}", pieces);
    }
}

fn vocabulary_of(tokens: &[&str], specials: &[&str], has_prefix: bool) -> Vocabulary {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    Vocabulary { tokens: owned(tokens), specials: owned(specials), strips: false, has_prefix }
}

#[test]
fn what_would_take_long_is_cut() {
    for has_prefix in [false, true] {
        let split_points =
            vocabulary_of(&["a", "ab", "\u{2581}", "\u{2581}a"], &["<s>"], has_prefix).split_points().unwrap();
        for strange in ["c", "\0", "\n", "木", "👩"] {
            let text = strange.repeat(100);
            assert_eq!(split_points.pieces(&text, 0).len(), 100, "{strange:?}");
            let between = format!("a{strange}").repeat(100);
            assert!(split_points.pieces(&between, 0).len() >= 100, "{strange:?}");
        }
    }
    let gemma = vocabulary_of(&["a", "ab", "\u{2581}", "\u{2581}a"], &["\n", "\n\n"], false).split_points().unwrap();
    assert_eq!(gemma.pieces(&"ab\n\n".repeat(100), 0).len(), 200);
}

#[test]
fn nothing_that_belongs_together_is_cut() {
    let tokens = ["a", "ab", "\u{2581}a"];
    let split_points = vocabulary_of(&tokens, &[], false).split_points().unwrap();
    assert_eq!(split_points.pieces("ababab", 0), ["ab", "ab", "ab"], "ba is in no token");
    let split_points = vocabulary_of(&tokens, &["<s>"], true).split_points().unwrap();
    assert_eq!(split_points.pieces("ababab", 0), ["ababab"], "with a space in front it would be another");
    assert_eq!(split_points.pieces("c a ab", 0), ["c", " a", " ab"]);
    // Beside a special token the text's own spaces are correct.
    assert_eq!(split_points.pieces("cc<s>cc", 0), ["c", "c<s>c", "c"]);
    let taken = format!("x{STRANGE}");
    assert!(vocabulary_of(&[&taken], &[], false).split_points().is_none());
    assert!(SplitPoints::new(std::iter::empty(), 3).is_none(), "no tokenizer of this kind");
}
