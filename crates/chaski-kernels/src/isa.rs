//! The instruction sets that there are kernels for.

use std::fmt;
use std::str::FromStr;

/// An instruction set, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2,
    /// The same and AVX-VNNI (Alder Lake, Zen 5 and later).
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4 and later).
    Avx512,
}

impl Isa {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Avx2, Self::AvxVnni, Self::Avx512];

    /// Whether this CPU, and the operating system, can run its kernels.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            match self {
                Self::Avx2 => avx2,
                Self::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
                Self::Avx512 => {
                    avx2 && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512vnni")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// The most that this CPU can run.
    pub fn best() -> Option<Self> {
        Self::ALL.into_iter().rev().find(|isa| isa.is_supported())
    }

    /// Weight rows of a tile: those that a vector holds.
    pub const fn tile_rows(self) -> usize {
        match self {
            Self::Avx2 | Self::AvxVnni => 8,
            Self::Avx512 => 16,
        }
    }

    /// Its name, as [`FromStr`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|isa| isa.name() == s).ok_or(())
    }
}
