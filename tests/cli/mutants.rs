//! Runs damaged copies of a model: whatever is wrong with the file, the run ends by itself, with an error message.
//! `scripts/mutate-model.sh` does the same a thousand times.

use std::fs;

use super::harness::{PROMPT, Workplace, real_model};
use super::support::tiny;

/// Random numbers: SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Runs `n` copies, each cut or with one byte of the header changed.
fn survives(sound: &[u8], n_header: usize, n: usize, seed: u64) {
    let place = Workplace::with_model(sound);
    let mut rng = Rng(seed);
    for _ in 0..n {
        let mut bytes = sound.to_vec();
        let at = rng.below(n_header);
        let how = if rng.below(8) == 0 {
            bytes.truncate(at);
            format!("cut to {at} bytes")
        } else {
            let old = bytes[at];
            bytes[at] = [old ^ (1 << rng.below(8)), 0, 0xff, rng.below(256) as u8][rng.below(4)];
            format!("byte {at}: {old:#04x} -> {:#04x}", bytes[at])
        };
        place.write("model.gguf", &bytes);
        let ran = place.run(&["-p", PROMPT, "-n", "1", "-q", "--no-learn", "--no-prompt-cache"]);
        let lines: Vec<&str> =
            ran.stderr.lines().filter(|line| !line.starts_with("hint: ") && !line.starts_with("notice: ")).collect();
        match ran.code {
            Some(0) => assert!(lines.is_empty(), "{how}: {ran:#?}"),
            Some(_) => assert!(matches!(lines[..], [line] if line.starts_with("error: ")), "{how}: {ran:#?}"),
            None => panic!("{how}: ended by a signal: {ran:#?}"),
        }
        assert!(!ran.stderr.contains(|c: char| c.is_control() && c != '\n'), "{how}: {ran:#?}");
    }
}

/// Where the weights start: after the description of the last tensor.
fn n_header(bytes: &[u8]) -> usize {
    let is_name = |window: &[u8]| window == b".weight" || window == b"ssm_d\0\0";
    let last = bytes[..bytes.len() / 2].windows(7).rposition(is_name).expect("tensors have names");
    last + 64
}

#[test]
fn damaged_tiny_models_end_in_words() {
    for (seed, model) in [tiny::tiny_llama(3), tiny::tiny_gemma3(3), tiny::tiny_mamba(3)].iter().enumerate() {
        survives(model, n_header(model), 25, seed as u64);
    }
}

#[test]
fn a_damaged_real_model_ends_in_words() {
    let Some(model) = real_model("a_damaged_real_model_ends_in_words") else { return };
    let bytes = fs::read(model).unwrap();
    survives(&bytes, n_header(&bytes), 25, 1);
}
