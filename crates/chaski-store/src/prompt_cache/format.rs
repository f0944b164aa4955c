//! The format of a state file: a head that describes the state, then llama.cpp's bytes.
//!
//! ```text
//! magic "chaski state 1\n"  key length u32  n_tokens u32  us_per_token u32  state length u64  seal of the state [16]
//! key  tokens i32 each  seal of all this [16]  state
//! ```
//!
//! Numbers are little-endian. Seals are SipHash-2-4 with a secret of this user ([`Seal`]). llama.cpp trusts the bytes
//! it loads, so it only gets bytes that this user wrote.

use std::io::{self, Read};

use siphasher::sip128::SipHasher24;

use crate::token::Token;

const MAGIC: &[u8; 15] = b"chaski state 1\n";

/// Maximum key in bytes.
const MAX_KEY_BYTES: usize = 4 << 10;

/// Maximum tokens in a state; no context comes close.
const MAX_TOKENS: usize = 1 << 22;

/// The secret key of the seals.
#[derive(Clone)]
pub struct Seal([u8; Seal::N_BYTES]);

impl Seal {
    /// Length of the secret in bytes.
    pub const N_BYTES: usize = 16;

    /// A seal with this secret.
    #[must_use]
    pub fn new(secret: [u8; Seal::N_BYTES]) -> Seal {
        Seal(secret)
    }

    /// The seal of these bytes. Nobody can compute it without the secret.
    #[must_use]
    pub fn of(&self, bytes: &[u8]) -> [u8; 16] {
        SipHasher24::new_with_key(&self.0).hash(bytes).as_bytes()
    }
}

/// The description of a state in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Everything that determines the state's numbers, besides the tokens.
    pub key: String,
    /// The tokens of the state.
    pub tokens: Vec<Token>,
    /// Microseconds per token that computing the state took.
    pub us_per_token: u32,
    /// Length of the state in bytes.
    pub n_state_bytes: u64,
    /// Seal of the state.
    pub state_seal: [u8; 16],
}

impl Head {
    /// Encodes the file up to the state. `None` if the head exceeds the limits of the reader.
    #[must_use]
    pub fn to_bytes(&self, seal: &Seal) -> Option<Vec<u8>> {
        if self.key.len() > MAX_KEY_BYTES || self.tokens.len() > MAX_TOKENS {
            return None;
        }
        let (n_key, n_tokens) = (u32::try_from(self.key.len()).ok()?, u32::try_from(self.tokens.len()).ok()?);
        let mut bytes = MAGIC.to_vec();
        for n in [n_key, n_tokens, self.us_per_token] {
            bytes.extend(n.to_le_bytes());
        }
        bytes.extend(self.n_state_bytes.to_le_bytes());
        bytes.extend(self.state_seal);
        bytes.extend(self.key.as_bytes());
        bytes.extend(self.tokens.iter().flat_map(|token| token.0.to_le_bytes()));
        let sum = seal.of(&bytes);
        bytes.extend(sum);
        Some(bytes)
    }

    /// Reads a head, and not a byte more; `None` if it was not sealed with `seal`, or is cut off.
    ///
    /// # Errors
    /// When reading `source` fails, except at its end.
    pub fn read(source: &mut impl Read, seal: &Seal) -> io::Result<Option<Head>> {
        match Head::try_read(source, seal) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            head => head,
        }
    }

    fn try_read(source: &mut impl Read, seal: &Seal) -> io::Result<Option<Head>> {
        let mut bytes = vec![0; MAGIC.len()];
        source.read_exact(&mut bytes)?;
        if bytes != MAGIC {
            return Ok(None);
        }
        let mut numbers = [0; 36];
        source.read_exact(&mut numbers)?;
        bytes.extend(numbers);
        let u32_at = |at: usize| u32::from_le_bytes(numbers[at..at + 4].try_into().expect("4 bytes"));
        let (n_key, n_tokens) = (u32_at(0) as usize, u32_at(4) as usize);
        if n_key > MAX_KEY_BYTES || n_tokens > MAX_TOKENS {
            return Ok(None);
        }
        let mut rest = vec![0; n_key + 4 * n_tokens];
        source.read_exact(&mut rest)?;
        bytes.extend(&rest);
        let mut sum = [0; 16];
        source.read_exact(&mut sum)?;
        if seal.of(&bytes) != sum {
            return Ok(None);
        }
        let (key, tokens) = rest.split_at(n_key);
        let token = |bytes: &[u8]| Token(i32::from_le_bytes(bytes.try_into().expect("4 bytes")));
        Ok(String::from_utf8(key.to_vec()).ok().map(|key| Head {
            key,
            tokens: tokens.chunks_exact(4).map(token).collect(),
            us_per_token: u32_at(8),
            n_state_bytes: u64::from_le_bytes(numbers[12..20].try_into().expect("8 bytes")),
            state_seal: numbers[20..36].try_into().expect("16 bytes"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        let tokens = vec![Token(1), Token(-7), Token(i32::MAX)];
        Head { key: "a model".into(), tokens, us_per_token: 11, n_state_bytes: 5, state_seal: [3; 16] }
    }

    #[test]
    fn no_changed_byte_and_no_cut_passes() {
        let seal = Seal::new([9; 16]);
        let good = head().to_bytes(&seal).unwrap();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                // A changed length makes the reader read on; give it enough bytes.
                bad.resize(good.len() + 100, 0);
                assert_eq!(Head::read(&mut bad.as_slice(), &seal).unwrap(), None, "bit {bit} of byte {at}");
            }
            assert_eq!(Head::read(&mut &good[..at], &seal).unwrap(), None, "cut at {at}");
        }
        assert_eq!(Head::read(&mut good.as_slice(), &Seal::new([8; 16])).unwrap(), None, "another user's");
    }

    #[test]
    fn what_no_reader_takes_is_not_written() {
        let long = Head { key: "k".repeat(MAX_KEY_BYTES + 1), ..head() };
        assert_eq!(long.to_bytes(&Seal::new([0; 16])), None);
    }

    proptest! {
        #[test]
        fn a_head_comes_back(
            key in ".{0,40}",
            tokens in prop::collection::vec(any::<i32>(), 0..200),
            us_per_token: u32,
            n_state_bytes: u64,
            state_seal: [u8; 16],
            secret: [u8; 16],
        ) {
            let tokens = tokens.into_iter().map(Token).collect();
            let head = Head { key, tokens, us_per_token, n_state_bytes, state_seal };
            let seal = Seal::new(secret);
            let mut bytes = head.to_bytes(&seal).unwrap();
            bytes.extend(b"the state");
            let mut source = bytes.as_slice();
            prop_assert_eq!(Head::read(&mut source, &seal).unwrap(), Some(head));
            prop_assert_eq!(source, b"the state");
        }

        #[test]
        fn noise_is_no_head(mut noise in prop::collection::vec(any::<u8>(), 0..300), with_magic: bool) {
            if with_magic {
                noise.splice(..0, *MAGIC);
            }
            prop_assert_eq!(Head::read(&mut noise.as_slice(), &Seal::new([1; 16])).unwrap(), None);
        }
    }
}
