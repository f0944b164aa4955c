//! Mutations of bytes, where cargo-fuzz is not at hand: no coverage, but fast, and the same for the same seed.

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, or 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.next().checked_rem(n as u64).unwrap_or(0) as usize
    }
}

/// Numbers that lengths, counts and offsets break at.
const EXTREMES: [u64; 10] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, i64::MAX as u64, u64::MAX];

/// One to eight changes of a file of the corpus: flips, numbers set to extremes, cuts, insertions, pieces of other files.
pub(crate) fn mutate(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[rng.below(corpus.len())].clone();
    for _ in 0..=rng.below(8) {
        let at = rng.below(bytes.len());
        match rng.below(8) {
            _ if bytes.is_empty() => bytes.push(rng.next() as u8),
            0 | 1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes[at] = rng.next() as u8,
            3 => {
                let n_bytes = [1, 2, 4, 8][rng.below(4)].min(bytes.len() - at);
                let number = EXTREMES[rng.below(EXTREMES.len())].to_le_bytes();
                bytes[at..at + n_bytes].copy_from_slice(&number[..n_bytes]);
            }
            4 => bytes.truncate(at),
            5 => _ = bytes.drain(at..(at + 1 + rng.below(16)).min(bytes.len())),
            6 => bytes.insert(at, rng.next() as u8),
            _ => {
                let other = &corpus[rng.below(corpus.len())];
                let from = rng.below(other.len());
                let piece = other[from..(from + rng.below(64)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}
