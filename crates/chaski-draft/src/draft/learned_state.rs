//! Serializes what a drafter keeps between runs: the tri-grams of generated tokens, and the experience with its
//! sources.
//!
//! Where the bytes are stored, and whether they are complete, is up to the caller (`store::learned`). They are still
//! read as untrusted input: invalid values are refused.

use crate::draft::Source as _;
use crate::draft::auto::Experience;
use crate::draft::table::{Key, SuccessorTable};
use crate::draft::trigram::{self, Trigram};
use crate::token::Token;

/// The largest input that is read: more than a full table and the experience.
const MAX_BYTES: usize = 16 << 20;

/// What a drafter keeps between runs.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Tri-grams of generated tokens.
    pub trigram: Trigram,
    /// What it has learned about its sources; `None` before the first generation.
    pub experience: Option<Experience>,
}

impl Memory {
    /// Learns a generated text, without its prompt, and what to keep of the experience with it.
    pub fn learn(&mut self, generated: &[Token], experience: Experience) {
        for (at, &token) in generated.iter().enumerate() {
            self.trigram.learn(&generated[..at], token);
        }
        self.experience = Some(experience);
    }

    /// The format: the length of the experience as JSON (4 bytes, little-endian), the experience, then the rows. A row
    /// has its key (8 bytes), its number of successors (1), and for each the token (4) and the weight (4).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let experience = serde_json::to_vec(&self.experience).expect("numbers serialize");
        let mut bytes = u32::try_from(experience.len()).expect("some kilobytes").to_le_bytes().to_vec();
        bytes.extend(experience);
        for row in self.trigram.overlay().rows() {
            let successors = row.successors();
            bytes.extend(row.key().to_bits().to_le_bytes());
            bytes.push(u8::try_from(successors.len()).expect("at most 12"));
            for successor in successors {
                bytes.extend(successor.token.0.to_le_bytes());
                bytes.extend(successor.weight.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads the output of [`Memory::to_bytes`]; `None` if it is invalid.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Memory> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let mut reader = Reader(bytes);
        let length = u32::from_le_bytes(reader.take()?) as usize;
        let (experience, rows) = reader.0.split_at_checked(length)?;
        let experience: Option<Experience> = serde_json::from_slice(experience).ok()?;
        let mut overlay = SuccessorTable::new(trigram::MAX_BYTES);
        let mut reader = Reader(rows);
        while !reader.0.is_empty() {
            let key = Key::from_bits(u64::from_le_bytes(reader.take()?))?;
            let [n] = reader.take()?;
            let row = overlay.row_mut(key);
            for _ in 0..n {
                let token = Token(i32::from_le_bytes(reader.take()?));
                let weight = f32::from_le_bytes(reader.take()?);
                if token.0 < 0 || !(weight.is_finite() && weight > 0.0) {
                    return None;
                }
                row.raise(token, weight, f32::INFINITY);
            }
        }
        experience
            .as_ref()
            .is_none_or(Experience::is_sound)
            .then(|| Memory { trigram: Trigram::over(overlay), experience })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::auto::Auto;
    use crate::draft::{Candidate, Tail};
    use proptest::prelude::*;

    fn proposals(memory: &Memory, tail: &[Token]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        memory.trigram.propose(Tail { tokens: tail, n_drafted: 0 }, &mut candidates);
        candidates.sort_by_key(|candidate| candidate.token);
        candidates
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back(ids in prop::collection::vec(0i32..30, 0..200)) {
            let text: Vec<Token> = ids.into_iter().map(Token).collect();
            let mut memory = Memory::default();
            memory.learn(&text, Auto::default().experience());
            let again = Memory::from_bytes(&memory.to_bytes()).unwrap();
            for at in 0..text.len() {
                prop_assert_eq!(proposals(&memory, &text[..at]), proposals(&again, &text[..at]));
            }
            prop_assert_eq!(&again.experience, &memory.experience);
        }

        #[test]
        fn nonsense_is_refused_or_harmless(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Memory::from_bytes(&bytes);
            let mut long = Memory::default().to_bytes();
            long.extend(bytes);
            let _ = Memory::from_bytes(&long);
        }
    }

    #[test]
    fn a_cut_memory_is_none_or_shorter() {
        let mut memory = Memory::default();
        memory.learn(&[1, 2, 3, 1, 2].map(Token), Auto::default().experience());
        let bytes = memory.to_bytes();
        let whole_rows = (0..bytes.len()).filter(|&n| Memory::from_bytes(&bytes[..n]).is_some()).count();
        assert!(whole_rows <= memory.trigram.overlay().rows().count());
        assert_eq!(Memory::from_bytes(&[]).map(|_| ()), None);
    }
}
