//! The instruction sets the kernels support.

use std::fmt;
use std::str::FromStr;

/// An instruction set. Later ones are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2,
    /// AVX2 with AVX-VNNI (Alder Lake, Zen 5 and later).
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4 and later).
    Avx512,
}

impl Isa {
    /// All of them, in ascending order.
    pub const ALL: [Self; 3] = [Self::Avx2, Self::AvxVnni, Self::Avx512];

    /// Whether the CPU and the operating system support it.
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

    /// The best one this CPU supports.
    pub fn best() -> Option<Self> {
        Self::ALL.into_iter().rev().find(|isa| isa.is_supported())
    }

    /// Weight rows in a tile: as many as a vector holds.
    pub const fn tile_rows(self) -> usize {
        match self {
            Self::Avx2 | Self::AvxVnni => 8,
            Self::Avx512 => 16,
        }
    }

    /// Its name, which [`FromStr`] parses.
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
