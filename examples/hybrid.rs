//! Writes a hybrid model with random weights, to measure its speed:
//!
//! ```sh
//! cargo run --release --no-default-features --example hybrid -- OUT.gguf [lfm2|granitehybrid]
//! ```
//!
//! It has 28 blocks in Q4_K. Like LFM2, every third has attention and the others a gated short convolution (290 MB); or, like
//! Granite 4, every seventh has attention and the others are of Mamba-2's kind (350 MB). Its text means nothing: greedy
//! text goes through a cycle of tokens again and again, and text at a high temperature has no pattern.

#[path = "../tests/support/gguf_writer.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod gguf_writer;
#[path = "../tests/support/q4_k.rs"]
#[allow(unreachable_pub, reason = "another example uses it too")]
mod q4_k;
#[path = "../tests/support/tiny.rs"]
#[allow(dead_code, unreachable_pub, reason = "only its vocabulary and its random numbers are used here")]
mod tiny;

use gguf_writer::{GgufWriter, Meta};
use q4_k::matrix;
use tiny::{IM_START, N_VOCAB, Rng};

const N_BLOCKS: usize = 28;
const N_EMBD: usize = 1024;
const HEAD: usize = 64;
const N_HEAD: usize = 16;
const N_HEAD_KV: usize = 8;
const N_FF: usize = 4608;
const CONV: usize = 3;
/// Of Mamba-2: the width, the state per channel, the heads and the convolution.
const INNER: usize = 2 * N_EMBD;
const STATE: usize = 128;
const N_HEAD_SSM: usize = 32;
const CONV_SSM: usize = 4;

/// Each ordinary token leans towards the one before it, so that it follows it. Embeddings are large enough to show behind 28 blocks.
fn embeddings(w: &mut GgufWriter, rng: &mut Rng, is_granite: bool) {
    const FIRST_WORD: usize = 3 + 256;
    const WORDS: std::ops::Range<usize> = FIRST_WORD..IM_START as usize;
    let embd = rng.normals(N_VOCAB * N_EMBD, 1.0);
    let mut output = Vec::with_capacity(N_VOCAB * N_EMBD);
    for token in 0..N_VOCAB {
        let is_word = WORDS.contains(&token);
        let before = if token == FIRST_WORD { WORDS.end - 1 } else { token.max(1) - 1 };
        // Special and byte tokens are rare.
        let (lean, size) = if is_word { (0.25, 0.08) } else { (0.0, 0.01) };
        let noise = rng.normals(N_EMBD, 1.0);
        output.extend(embd[before * N_EMBD..][..N_EMBD].iter().zip(noise).map(|(e, noise)| size * (lean * e + noise)));
    }
    let embd: Vec<f32> = embd.iter().map(|value| 6.0 * value).collect();
    w.tensor_f32("token_embd.weight", &[N_EMBD, N_VOCAB], &embd);
    w.tensor_f32("output.weight", &[N_EMBD, N_VOCAB], &output);
    // LFM2 has another name for the last norm.
    let norm = if is_granite { "output_norm.weight" } else { "token_embd_norm.weight" };
    w.tensor_f32(norm, &[N_EMBD], &[1.0; N_EMBD]);
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().expect("usage: hybrid OUT.gguf [lfm2|granitehybrid]");
    let arch = arguments.next().unwrap_or_else(|| "lfm2".to_owned());
    let is_granite = match arch.as_str() {
        "lfm2" => false,
        "granitehybrid" => true,
        other => panic!("{other}: neither lfm2 nor granitehybrid"),
    };
    let has_attention = |block: usize| if is_granite { block % 7 == 6 } else { block % 3 == 2 };
    let mut w = GgufWriter::default();
    w.meta("general.architecture", Meta::str(&arch));
    w.meta("general.name", Meta::str("random hybrid"));
    let mut key = |suffix: &str, value| {
        w.meta(&format!("{arch}.{suffix}"), value);
    };
    let count = |n: usize| Meta::U32(n as u32);
    key("context_length", Meta::U32(32768));
    key("embedding_length", count(N_EMBD));
    key("block_count", count(N_BLOCKS));
    key("feed_forward_length", count(N_FF));
    key("attention.head_count", count(N_HEAD));
    let heads_kv: Vec<i32> =
        (0..N_BLOCKS).map(|block| if has_attention(block) { N_HEAD_KV as i32 } else { 0 }).collect();
    key("attention.head_count_kv", Meta::i32s(&heads_kv));
    key("attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
    key("rope.freq_base", Meta::F32(1e6));
    if is_granite {
        key("ssm.conv_kernel", count(CONV_SSM));
        key("ssm.inner_size", count(INNER));
        key("ssm.state_size", count(STATE));
        key("ssm.time_step_rank", count(N_HEAD_SSM));
        key("ssm.group_count", count(1));
        key("attention.scale", Meta::F32(1.0 / (HEAD as f32).sqrt()));
        key("rope.dimension_count", count(HEAD));
    } else {
        key("shortconv.l_cache", count(CONV));
    }
    tiny::vocabulary(&mut w);
    w.meta("tokenizer.chat_template", Meta::str(tiny::CHATML));

    let mut rng = Rng(1);
    embeddings(&mut w, &mut rng, is_granite);
    for block in 0..N_BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}");
        if has_attention(block) {
            matrix(&mut w, &mut rng, &name("attn_q"), &[N_EMBD, N_HEAD * HEAD]);
            matrix(&mut w, &mut rng, &name("attn_k"), &[N_EMBD, N_HEAD_KV * HEAD]);
            matrix(&mut w, &mut rng, &name("attn_v"), &[N_EMBD, N_HEAD_KV * HEAD]);
            matrix(&mut w, &mut rng, &name("attn_output"), &[N_HEAD * HEAD, N_EMBD]);
            if !is_granite {
                w.tensor_f32(&(name("attn_q_norm") + ".weight"), &[HEAD], &[1.0; HEAD]);
                w.tensor_f32(&(name("attn_k_norm") + ".weight"), &[HEAD], &[1.0; HEAD]);
            }
        } else if is_granite {
            mamba_2(&mut w, &mut rng, block);
        } else {
            matrix(&mut w, &mut rng, &name("shortconv.in_proj"), &[N_EMBD, 3 * N_EMBD]);
            matrix(&mut w, &mut rng, &name("shortconv.out_proj"), &[N_EMBD, N_EMBD]);
            let kernel = rng.normals(CONV * N_EMBD, 1.0 / (CONV as f32).sqrt());
            w.tensor_f32(&(name("shortconv.conv") + ".weight"), &[CONV, N_EMBD], &kernel);
        }
        matrix(&mut w, &mut rng, &name("ffn_gate"), &[N_EMBD, N_FF]);
        matrix(&mut w, &mut rng, &name("ffn_up"), &[N_EMBD, N_FF]);
        matrix(&mut w, &mut rng, &name("ffn_down"), &[N_FF, N_EMBD]);
        for norm in ["attn_norm", "ffn_norm"] {
            w.tensor_f32(&(name(norm) + ".weight"), &[N_EMBD], &[1.0; N_EMBD]);
        }
    }
    std::fs::write(out, w.finish())
}

fn mamba_2(w: &mut GgufWriter, rng: &mut Rng, block: usize) {
    const CONVOLVED: usize = INNER + 2 * STATE;
    let name = |part: &str| format!("blk.{block}.{part}");
    matrix(w, rng, &name("ssm_in"), &[N_EMBD, INNER + CONVOLVED + N_HEAD_SSM]);
    matrix(w, rng, &name("ssm_out"), &[INNER, N_EMBD]);
    let kernel = rng.normals(CONV_SSM * CONVOLVED, 1.0 / (CONV_SSM as f32).sqrt());
    w.tensor_f32(&name("ssm_conv1d.weight"), &[CONV_SSM, CONVOLVED], &kernel);
    w.tensor_f32(&name("ssm_conv1d.bias"), &[CONVOLVED], &[0.0; CONVOLVED]);
    w.tensor_f32(&name("ssm_dt.bias"), &[N_HEAD_SSM], &[-1.5; N_HEAD_SSM]);
    w.tensor_f32(&name("ssm_a"), &[1, N_HEAD_SSM], &[-0.5; N_HEAD_SSM]);
    w.tensor_f32(&name("ssm_d"), &[1, N_HEAD_SSM], &[1.0; N_HEAD_SSM]);
    w.tensor_f32(&name("ssm_norm.weight"), &[INNER, 1], &[1.0; INNER]);
}
