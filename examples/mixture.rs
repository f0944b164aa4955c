//! Writes a mixture of experts with random weights, to measure its speed: `cargo run --release --no-default-features --example mixture
//! -- OUT.gguf`. It is a smaller Qwen3-30B-A3B: 24 blocks of 32 experts in Q4_K, of which a token uses 4; 1.1 GB. Its text means
//! nothing, and its tokens choose experts at random, where neighbours in a real text often agree.

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
use tiny::{N_VOCAB, Rng};

const N_BLOCKS: usize = 24;
const N_EMBD: usize = 1024;
const HEAD: usize = 128;
const N_HEAD: usize = 8;
const N_HEAD_KV: usize = 2;
const N_EXPERTS: usize = 32;
const N_USED: usize = 4;
const N_FF: usize = 768;

fn main() -> std::io::Result<()> {
    let out = std::env::args().nth(1).expect("usage: mixture OUT.gguf");
    let mut w = GgufWriter::default();
    w.meta("general.architecture", Meta::str("qwen3moe"));
    w.meta("general.name", Meta::str("random mixture of experts"));
    let mut key = |suffix: &str, value| {
        w.meta(&format!("qwen3moe.{suffix}"), value);
    };
    let count = |n: usize| Meta::U32(n as u32);
    key("context_length", Meta::U32(32768));
    key("embedding_length", count(N_EMBD));
    key("block_count", count(N_BLOCKS));
    key("feed_forward_length", count(N_USED * N_FF));
    key("attention.head_count", count(N_HEAD));
    key("attention.head_count_kv", count(N_HEAD_KV));
    key("attention.key_length", count(HEAD));
    key("attention.value_length", count(HEAD));
    key("attention.layer_norm_rms_epsilon", Meta::F32(1e-6));
    key("rope.freq_base", Meta::F32(1e6));
    key("expert_count", count(N_EXPERTS));
    key("expert_used_count", count(N_USED));
    key("expert_feed_forward_length", count(N_FF));
    tiny::vocabulary(&mut w);
    w.meta("tokenizer.chat_template", Meta::str(tiny::CHATML));

    let mut rng = Rng(1);
    matrix(&mut w, &mut rng, "token_embd", &[N_EMBD, N_VOCAB]);
    matrix(&mut w, &mut rng, "output", &[N_EMBD, N_VOCAB]);
    w.tensor_f32("output_norm.weight", &[N_EMBD], &[1.0; N_EMBD]);
    for block in 0..N_BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}");
        matrix(&mut w, &mut rng, &name("attn_q"), &[N_EMBD, N_HEAD * HEAD]);
        matrix(&mut w, &mut rng, &name("attn_k"), &[N_EMBD, N_HEAD_KV * HEAD]);
        matrix(&mut w, &mut rng, &name("attn_v"), &[N_EMBD, N_HEAD_KV * HEAD]);
        matrix(&mut w, &mut rng, &name("attn_output"), &[N_HEAD * HEAD, N_EMBD]);
        matrix(&mut w, &mut rng, &name("ffn_gate_exps"), &[N_EMBD, N_FF, N_EXPERTS]);
        matrix(&mut w, &mut rng, &name("ffn_up_exps"), &[N_EMBD, N_FF, N_EXPERTS]);
        matrix(&mut w, &mut rng, &name("ffn_down_exps"), &[N_FF, N_EMBD, N_EXPERTS]);
        let router = rng.normals(N_EMBD * N_EXPERTS, 1.5 / (N_EMBD as f32).sqrt());
        w.tensor_f32(&(name("ffn_gate_inp") + ".weight"), &[N_EMBD, N_EXPERTS], &router);
        for (norm, n) in [("attn_norm", N_EMBD), ("ffn_norm", N_EMBD), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)] {
            w.tensor_f32(&(name(norm) + ".weight"), &[n], &vec![1.0; n]);
        }
    }
    std::fs::write(out, w.finish())
}
