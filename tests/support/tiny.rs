//! Tiny models with random weights that llama.cpp loads and runs in milliseconds, to test decoding, drafting and
//! caches. Each token has a preferred successor, so greedy text repeats itself at times and some drafts are accepted.

use super::gguf_writer::{GgufWriter, Meta, TensorSpec};

/// Width of the residual stream.
pub const N_EMBD: usize = 64;
/// Tokens in the vocabulary: 3 special, 256 bytes, ordinary ones, 2 control.
pub const N_VOCAB: usize = 384;
/// Context length in the models' metadata.
pub const N_CTX: u32 = 65536;
/// The id of `<s>`.
pub const BOS: i32 = 1;
/// The id of `</s>`.
pub const EOS: i32 = 2;
/// The id of `<|im_start|>`.
pub const IM_START: i32 = N_VOCAB as i32 - 2;
/// The id of `<|im_end|>`.
pub const IM_END: i32 = N_VOCAB as i32 - 1;

const N_HEAD: usize = 4;
const N_HEAD_KV: usize = 2;
const N_FF: usize = 128;
const N_BLOCKS: usize = 2;
const HEAD: usize = N_EMBD / N_HEAD;
const N_KV: usize = HEAD * N_HEAD_KV;

/// The default chat template of the models: ChatML.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
    + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Which architecture to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arch {
    /// attention over everything
    #[default]
    Llama,
    /// recurrent: no attention, a state that cannot be rolled back
    Mamba,
    /// recurrent, with one decay rate per head
    Mamba2,
    /// hybrid: block 0 is a gated short convolution, block 1 has attention
    Lfm2,
    /// hybrid: block 0 is of Mamba-2's kind, block 1 has attention
    GraniteHybrid,
    /// block 0 has a sliding window of 16 tokens, block 1 full attention
    Gemma3,
}

/// Options of a model.
#[derive(Clone, Debug)]
pub struct TinyOptions {
    /// the same seed gives the same bytes
    pub seed: u64,
    /// put a NaN where it reaches every logit
    pub nan_weights: bool,
    /// `None` for a model without a template
    pub chat_template: Option<String>,
    /// the architecture
    pub arch: Arch,
    /// write all matrices in Q8_0
    pub is_quantized: bool,
}

impl Default for TinyOptions {
    fn default() -> Self {
        let chat_template = Some(CHATML.to_owned());
        Self { seed: 0, nan_weights: false, chat_template, arch: Arch::Llama, is_quantized: false }
    }
}

/// A llama-architecture model.
pub fn tiny_llama(seed: u64) -> Vec<u8> {
    tiny(&TinyOptions { seed, ..TinyOptions::default() })
}

/// A recurrent model.
pub fn tiny_mamba(seed: u64) -> Vec<u8> {
    tiny(&TinyOptions { seed, arch: Arch::Mamba, ..TinyOptions::default() })
}

/// A model with a sliding window in one of its two blocks.
pub fn tiny_gemma3(seed: u64) -> Vec<u8> {
    tiny(&TinyOptions { seed, arch: Arch::Gemma3, ..TinyOptions::default() })
}

/// The bytes of a model file with these options.
pub fn tiny(options: &TinyOptions) -> Vec<u8> {
    tiny_writer(options).finish()
}

/// The same before it is encoded, for tests that change it.
pub fn tiny_writer(options: &TinyOptions) -> GgufWriter {
    let mut rng = Rng(options.seed);
    let mut w = GgufWriter::default();
    let arch = match options.arch {
        Arch::Llama => "llama",
        Arch::Mamba => "mamba",
        Arch::Mamba2 => "mamba2",
        Arch::Lfm2 => "lfm2",
        Arch::GraniteHybrid => "granitehybrid",
        Arch::Gemma3 => "gemma3",
    };
    w.meta("general.architecture", Meta::str(arch));
    w.meta("general.name", Meta::str(&format!("tiny {arch} {}", options.seed)));
    let mut key = |suffix: &str, value| {
        w.meta(&format!("{arch}.{suffix}"), value);
    };
    key("context_length", Meta::U32(N_CTX));
    key("embedding_length", Meta::U32(N_EMBD as u32));
    key("block_count", Meta::U32(N_BLOCKS as u32));
    key("attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
    let is_hybrid = matches!(options.arch, Arch::Lfm2 | Arch::GraniteHybrid);
    if matches!(options.arch, Arch::Mamba | Arch::Mamba2 | Arch::GraniteHybrid) {
        key("ssm.conv_kernel", Meta::U32(mamba::CONV as u32));
        key("ssm.inner_size", Meta::U32(mamba::INNER as u32));
        key("ssm.state_size", Meta::U32(mamba::STATE as u32));
        let rank = if options.arch == Arch::Mamba { mamba::DT_RANK } else { mamba::N_HEAD };
        key("ssm.time_step_rank", Meta::U32(rank as u32));
        if options.arch != Arch::Mamba {
            key("ssm.group_count", Meta::U32(mamba::N_GROUP as u32));
        }
    }
    if matches!(options.arch, Arch::Mamba | Arch::Mamba2) {
        key("feed_forward_length", Meta::U32(0));
        key("attention.head_count", Meta::U32(0));
    } else {
        key("feed_forward_length", Meta::U32(N_FF as u32));
        key("attention.head_count", Meta::U32(N_HEAD as u32));
        let n_kv = N_HEAD_KV as i32;
        key("attention.head_count_kv", if is_hybrid { Meta::i32s(&[0, n_kv]) } else { Meta::U32(n_kv as u32) });
        key("attention.key_length", Meta::U32(HEAD as u32));
        key("attention.value_length", Meta::U32(HEAD as u32));
        key("rope.freq_base", Meta::F32(10_000.0));
    }
    match options.arch {
        Arch::Llama => key("rope.dimension_count", Meta::U32(HEAD as u32)),
        Arch::Gemma3 => {
            key("attention.sliding_window", Meta::U32(16));
            key("attention.sliding_window_pattern", Meta::U32(2));
        }
        Arch::Lfm2 => key("shortconv.l_cache", Meta::U32(lfm2::CONV as u32)),
        Arch::GraniteHybrid => key("attention.scale", Meta::F32(1.0 / (HEAD as f32).sqrt())),
        Arch::Mamba | Arch::Mamba2 => {}
    }
    vocabulary(&mut w);
    if let Some(template) = &options.chat_template {
        w.meta("tokenizer.chat_template", Meta::str(template));
    }

    embeddings(&mut w, &mut rng, options);
    for block in 0..N_BLOCKS {
        match options.arch {
            Arch::Llama | Arch::Gemma3 => attention_block(&mut w, &mut rng, block, options.arch),
            Arch::Mamba => mamba::block(&mut w, &mut rng, block),
            Arch::Mamba2 => mamba::block_2(&mut w, &mut rng, block),
            Arch::Lfm2 | Arch::GraniteHybrid if block > 0 => attention_block(&mut w, &mut rng, block, options.arch),
            Arch::Lfm2 => lfm2::block(&mut w, &mut rng, block),
            Arch::GraniteHybrid => {
                mamba::block_2(&mut w, &mut rng, block);
                feed_forward(&mut w, &mut rng, block);
            }
        }
    }
    if options.is_quantized {
        // The others are used number by number.
        let is_matrix = |tensor: &&mut TensorSpec| {
            tensor.dims.len() == 2 && tensor.dims[0] >= N_EMBD as u64 && !tensor.name.ends_with(b"norm.weight")
        };
        w.tensors.iter_mut().filter(is_matrix).for_each(quantize);
    }
    w
}

/// Encodes an F32 tensor in Q8_0: blocks of a half-precision factor and 32 numbers from -127 to 127.
fn quantize(tensor: &mut TensorSpec) {
    const Q8_0: u32 = 8;
    let values: Vec<f32> = tensor.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let (blocks, rest) = values.as_chunks::<32>();
    assert!(rest.is_empty() && tensor.type_code == 0, "whole blocks of F32");
    tensor.data.clear();
    for block in blocks {
        let greatest = block.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
        let d = (greatest / 127.0).max(1e-4);
        // From 2^-14 to 2^16; what does not fit is cut off.
        tensor.data.extend((((d.to_bits() - (112 << 23)) >> 13) as u16).to_le_bytes());
        tensor.data.extend(block.iter().map(|value| (value / d).round().clamp(-127.0, 127.0) as i8 as u8));
    }
    tensor.type_code = Q8_0;
}

fn embeddings(w: &mut GgufWriter, rng: &mut Rng, options: &TinyOptions) {
    // Gemma multiplies embeddings by sqrt(N_EMBD) itself.
    let scale = if options.arch == Arch::Gemma3 { 1.0 / (N_EMBD as f32).sqrt() } else { 1.0 };
    let embd: Vec<f32> = rng.normals(N_VOCAB * N_EMBD, 1.0);
    // Each ordinary token prefers one predecessor: its output row leans towards that token's embedding. The hidden
    // state has norm sqrt(N_EMBD) = 8, so rows of elements of size 0.4 give logits with a standard deviation of about
    // 3.
    let mut predecessor: Vec<usize> = (FIRST_WORD..IM_START as usize).collect();
    rng.shuffle(&mut predecessor);
    let mut output = Vec::with_capacity(N_VOCAB * N_EMBD);
    for token in 0..N_VOCAB {
        let (lean, size) = match token {
            // Special, control and byte tokens are rare, so that most texts go on and are readable.
            0..FIRST_WORD => (0.0, 0.1),
            _ if token >= IM_START as usize => (0.0, 0.1),
            _ => (LEAN, 0.4),
        };
        let from = predecessor.get(token.wrapping_sub(FIRST_WORD)).copied().unwrap_or(0);
        for i in 0..N_EMBD {
            let noise = rng.normal() * (1.0 - lean * lean).sqrt();
            output.push(size * (lean * embd[from * N_EMBD + i] + noise));
        }
    }
    let embd: Vec<f32> = embd.iter().map(|v| v * scale).collect();
    let mut norm = vec![1.0; N_EMBD];
    if options.nan_weights {
        norm[0] = f32::NAN;
    }
    w.tensor_f32("token_embd.weight", &[N_EMBD, N_VOCAB], &embd);
    // llama.cpp's name for it in this architecture.
    let output_norm = if options.arch == Arch::Lfm2 { "token_embd_norm.weight" } else { "output_norm.weight" };
    w.tensor_f32(output_norm, &[N_EMBD], &norm);
    w.tensor_f32("output.weight", &[N_EMBD, N_VOCAB], &output);
}

/// How much of an output row is its predecessor's embedding: 0 gives texts without any pattern, 1 a fixed cycle.
const LEAN: f32 = 0.5;

fn attention_block(w: &mut GgufWriter, rng: &mut Rng, block: usize, arch: Arch) {
    let mut matrix = |name: &str, n_in: usize, n_out: usize, gain: f32| {
        let data = rng.normals(n_in * n_out, gain / (n_in as f32).sqrt());
        w.tensor_f32(&format!("blk.{block}.{name}.weight"), &[n_in, n_out], &data);
    };
    matrix("attn_q", N_EMBD, N_EMBD, 1.5);
    matrix("attn_k", N_EMBD, N_KV, 1.5);
    matrix("attn_v", N_EMBD, N_KV, 1.0);
    matrix("attn_output", N_EMBD, N_EMBD, 1.0);
    feed_forward(w, rng, block);
    let mut norm = |name: &str, n: usize, weight: f32| {
        w.tensor_f32(&format!("blk.{block}.{name}.weight"), &[n], &vec![weight; n]);
    };
    norm("attn_norm", N_EMBD, 1.0);
    if matches!(arch, Arch::Gemma3 | Arch::Lfm2) {
        norm("attn_q_norm", HEAD, 1.0);
        norm("attn_k_norm", HEAD, 1.0);
    }
    if arch == Arch::Gemma3 {
        // A block's output is normalized: these weights are its share of the residual stream.
        norm("post_attention_norm", N_EMBD, 0.5);
        norm("post_ffw_norm", N_EMBD, 0.5);
    }
}

fn feed_forward(w: &mut GgufWriter, rng: &mut Rng, block: usize) {
    for (name, n_in, n_out) in [("ffn_gate", N_EMBD, N_FF), ("ffn_up", N_EMBD, N_FF), ("ffn_down", N_FF, N_EMBD)] {
        let data = rng.normals(n_in * n_out, 1.0 / (n_in as f32).sqrt());
        w.tensor_f32(&format!("blk.{block}.{name}.weight"), &[n_in, n_out], &data);
    }
    w.tensor_f32(&format!("blk.{block}.ffn_norm.weight"), &[N_EMBD], &[1.0; N_EMBD]);
}

mod lfm2 {
    use super::{GgufWriter, N_EMBD, Rng, feed_forward};

    pub(super) const CONV: usize = 3;

    pub(super) fn block(w: &mut GgufWriter, rng: &mut Rng, block: usize) {
        let mut tensor = |name: &str, dims: &[usize], data: Vec<f32>| {
            w.tensor_f32(&format!("blk.{block}.{name}.weight"), dims, &data);
        };
        let root = |n: usize| 1.0 / (n as f32).sqrt();
        tensor("attn_norm", &[N_EMBD], vec![1.0; N_EMBD]);
        tensor("shortconv.conv", &[CONV, N_EMBD], rng.normals(CONV * N_EMBD, root(CONV)));
        tensor("shortconv.in_proj", &[N_EMBD, 3 * N_EMBD], rng.normals(3 * N_EMBD * N_EMBD, root(N_EMBD)));
        tensor("shortconv.out_proj", &[N_EMBD, N_EMBD], rng.normals(N_EMBD * N_EMBD, root(N_EMBD)));
        feed_forward(w, rng, block);
    }
}

mod mamba {
    use super::{GgufWriter, N_EMBD, Rng};

    pub(super) const CONV: usize = 4;
    /// llama.cpp supports an expansion factor of 2 only.
    pub(super) const INNER: usize = 2 * N_EMBD;
    pub(super) const STATE: usize = 16;
    pub(super) const DT_RANK: usize = 4;
    /// Of Mamba-2.
    pub(super) const N_HEAD: usize = 8;
    pub(super) const N_GROUP: usize = 2;

    pub(super) fn block_2(w: &mut GgufWriter, rng: &mut Rng, block: usize) {
        const CONVOLVED: usize = INNER + 2 * N_GROUP * STATE;
        const PROJECTED: usize = INNER + CONVOLVED + N_HEAD;
        let mut tensor = |name: &str, dims: &[usize], data: Vec<f32>| {
            w.tensor_f32(&format!("blk.{block}.{name}"), dims, &data);
        };
        let root = |n: usize| 1.0 / (n as f32).sqrt();
        tensor("attn_norm.weight", &[N_EMBD], vec![1.0; N_EMBD]);
        tensor("ssm_in.weight", &[N_EMBD, PROJECTED], rng.normals(N_EMBD * PROJECTED, root(N_EMBD)));
        tensor("ssm_conv1d.weight", &[CONV, CONVOLVED], rng.normals(CONV * CONVOLVED, root(CONV)));
        tensor("ssm_conv1d.bias", &[CONVOLVED], rng.normals(CONVOLVED, 0.1));
        tensor("ssm_dt.bias", &[N_HEAD], vec![-1.5; N_HEAD]);
        tensor("ssm_a", &[1, N_HEAD], (0..N_HEAD).map(|head| -0.1 * (head + 1) as f32).collect());
        tensor("ssm_d", &[1, N_HEAD], vec![1.0; N_HEAD]);
        tensor("ssm_norm.weight", &[INNER / N_GROUP, N_GROUP], vec![1.0; INNER]);
        tensor("ssm_out.weight", &[INNER, N_EMBD], rng.normals(INNER * N_EMBD, root(INNER)));
    }

    pub(super) fn block(w: &mut GgufWriter, rng: &mut Rng, block: usize) {
        let mut tensor = |name: &str, dims: &[usize], data: Vec<f32>| {
            w.tensor_f32(&format!("blk.{block}.{name}"), dims, &data);
        };
        let root = |n: usize| 1.0 / (n as f32).sqrt();
        tensor("attn_norm.weight", &[N_EMBD], vec![1.0; N_EMBD]);
        tensor("ssm_in.weight", &[N_EMBD, 2 * INNER], rng.normals(N_EMBD * 2 * INNER, root(N_EMBD)));
        tensor("ssm_conv1d.weight", &[CONV, INNER], rng.normals(CONV * INNER, root(CONV)));
        tensor("ssm_conv1d.bias", &[INNER], rng.normals(INNER, 0.1));
        let n_x = DT_RANK + 2 * STATE;
        tensor("ssm_x.weight", &[INNER, n_x], rng.normals(INNER * n_x, 2.0 * root(INNER)));
        tensor("ssm_dt.weight", &[DT_RANK, INNER], rng.normals(DT_RANK * INNER, root(DT_RANK)));
        // softplus(-1.5) is a time step of 0.2: the state remembers some tens of tokens.
        tensor("ssm_dt.bias", &[INNER], vec![-1.5; INNER]);
        // Decay rates must be negative; -1, -2, ... is Mamba's own initialization.
        tensor("ssm_a", &[STATE, INNER], (0..STATE * INNER).map(|i| -((i % STATE + 1) as f32)).collect());
        tensor("ssm_d", &[INNER], vec![1.0; INNER]);
        tensor("ssm_out.weight", &[INNER, N_EMBD], rng.normals(INNER * N_EMBD, root(INNER)));
    }
}

/// The first ordinary token, after `<unk>`, `<s>`, `</s>` and 256 bytes.
const FIRST_WORD: usize = 3 + 256;

/// Tokens of more than one character, the most frequent first: SentencePiece joins two neighbours if their union is a
/// token, so each one needs its parts. `_` stands for U+2581, SentencePiece's space.
const PIECES: &str = "_t _a he in er re on an _s _w at en nd or _the es is it ou al ar _o st ed _c _b ing nt ro le \
    _of _and _to _in _f _m ti hi ic as me ve _p ha se _is _it _d _h ion ent for _be ll _that _th om ri li ch ce _on \
    _he _you _for _re _was ver";

/// Writes the vocabulary of these models.
pub fn vocabulary(w: &mut GgufWriter) {
    const NORMAL: i32 = 1;
    let mut tokens: Vec<String> = Vec::new();
    let mut scores = Vec::new();
    let mut types = Vec::new();
    let mut add = |token: String, score: f32, token_type: i32| {
        tokens.push(token);
        scores.push(score);
        types.push(token_type);
    };
    add("<unk>".to_owned(), 0.0, 2);
    add("<s>".to_owned(), 0.0, 3);
    add("</s>".to_owned(), 0.0, 3);
    for byte in 0..=255 {
        add(format!("<0x{byte:02X}>"), 0.0, 6);
    }
    for (rank, piece) in PIECES.split_whitespace().enumerate() {
        add(piece.replace('_', "\u{2581}"), -(rank as f32), NORMAL);
    }
    let n_letters = N_VOCAB - 2 - FIRST_WORD - PIECES.split_whitespace().count();
    let letters = "\u{2581}etaoinsrhldcumfpgwybvkxjqz.,0123456789!?:;'\"-()/=+*<>[]{}#_";
    for letter in letters.chars().take(n_letters) {
        add(letter.to_string(), -1000.0, NORMAL);
    }
    add("<|im_start|>".to_owned(), 0.0, 3);
    add("<|im_end|>".to_owned(), 0.0, 3);
    assert_eq!(tokens.len(), N_VOCAB, "too few letters to fill the vocabulary");

    w.meta("tokenizer.ggml.model", Meta::str("llama"));
    w.meta("tokenizer.ggml.tokens", Meta::strs(&tokens));
    w.meta("tokenizer.ggml.scores", Meta::f32s(&scores));
    w.meta("tokenizer.ggml.token_type", Meta::i32s(&types));
    w.meta("tokenizer.ggml.bos_token_id", Meta::U32(BOS as u32));
    w.meta("tokenizer.ggml.eos_token_id", Meta::U32(EOS as u32));
    w.meta("tokenizer.ggml.unknown_token_id", Meta::U32(0));
    w.meta("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    w.meta("tokenizer.ggml.add_eos_token", Meta::Bool(false));
}

/// SplitMix64: short, and the same on every machine.
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Nearly normal, mean 0, variance 1: the sum of twelve uniform numbers, without library functions that differ
    /// between platforms.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..12).map(|_| (self.next() >> 40) as f32 / (1_u64 << 24) as f32).sum();
        sum - 6.0
    }

    /// `n` normal numbers, times `scale`.
    pub fn normals(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.normal() * scale).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}
