//! llama.cpp's architectures, copied from `llama-arch.cpp` of llama-cpp-sys-2 0.1.161. Update this list with that
//! crate.

/// Architectures that generate text.
#[rustfmt::skip]
pub(super) const KNOWN: &[&str] = &[
    "llama", "llama4", "deci", "falcon", "grok", "gpt2", "gptneox", "mpt", "baichuan", "starcoder", "refact",
    "bloom", "stablelm", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3next", "qwen3vl",
    "qwen3vlmoe", "qwen35", "qwen35moe", "clef", "qwen4exp", "phi2", "phi3", "phimoe", "plamo", "plamo2",
    "plamo3", "codeshell", "orion", "internlm2", "minicpm", "minicpm3", "gemma", "gemma2", "gemma3", "gemma3n",
    "gemma4", "starcoder2", "mamba", "mamba2", "maple", "jamba", "falcon-h1", "xverse",
    "command-r", "cohere2", "cohere2moe", "dbrx", "olmo", "olmo2", "olmoe", "muse-glimmer", "openelm", "arctic",
    "deepseek", "deepseek2", "deepseek2-ocr", "deepseek32", "deepseek4", "chatglm", "glm4", "glm4moe",
    "glm-dsa", "bitnet", "jais", "jais2", "nemotron", "nemotron_h", "nemotron_h_moe", "exaone", "exaone4",
    "exaone-moe", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "granite", "granitemoe", "granitehybrid",
    "graniteswitch", "granite_swa", "chameleon", "plm", "bailingmoe", "bailingmoe2", "bailingmoe3", "dots1",
    "dots3note", "arcee", "afmoe", "laguna", "ernie4_5", "ernie4_5-moe", "hunyuan-moe", "hunyuan-dense",
    "hunyuan_vl", "hy_v3", "hy_v4", "smollm3", "gpt-oss", "lfm2", "lfm2moe", "smallthinker", "seed_oss", "grovemoe", "apertus", "minimax-01", "hrm_text", "minimax-m2", "minimax-m3",
    "cogvlm", "pangu-embedded", "mistral3", "mistral4", "paddleocr", "mimo2",
    "step35", "spark2_5", "maincoder", "kimi-linear", "kimi-k3", "glm5-next", "talkie", "mellum", "nanbeige",
];

/// Architectures that llama.cpp loads but that do not generate text token by token: embedders, audio models, diffusion
/// models, encoder-decoders, and draft heads.
#[rustfmt::skip]
pub(super) const WITHOUT_TEXT: &[&str] = &[
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
    "eurobert", "gemma-embedding", "llama-embed", "t5encoder", "wavtokenizer-dec",
    "t5", "dream", "llada", "llada-moe", "rnd1", "qwen3tts", "pockettts", "eagle3", "dflash", "gemma4-assistant",
];

/// Architectures without attention (`llm_arch_is_recurrent`): their head counts are 0.
pub(super) const RECURRENT: &[&str] = &["mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"];

/// Architectures with attention in some layers and a recurrent state in others (`llm_arch_is_hybrid`).
#[rustfmt::skip]
pub(super) const HYBRID: &[&str] = &[
    "jamba", "falcon-h1", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "qwen3next",
    "kimi-linear", "bailingmoe3", "kimi-k3", "glm5-next", "qwen35", "qwen35moe", "qwen4exp", "deepseek4", "minimax-01",
];

/// Architectures of these that get no checkpoint. The cache of deepseek4 copies whole sequences only, and ends the
/// process on anything else. Those of glm5-next and qwen4exp add an index of keys, which a copy discards.
const WITHOUT_CHECKPOINT: &[&str] = &["deepseek4", "glm5-next", "qwen4exp"];

/// Snapshots per batch. llama.cpp allows 8 nodes of its graph per tensor, 64 for a layer with a short convolution. Such
/// a layer has about 30, and three for each snapshot and for the last state. Beyond its limit llama.cpp aborts: with 11
/// where 1 layer of 30 has attention, with 31 where 8 have. Layers of experts (lfm2moe) leave no room at all.
const N_SNAPSHOTS: usize = 7;

/// Architectures whose graphs compute hidden states instead of logits if they are asked for states.
const STATES_ONLY: &[&str] = &["lfm2", "lfm2moe"];

/// Whether llama.cpp gives hidden states beside the logits.
pub fn gives_states(architecture: &str) -> bool {
    !STATES_ONLY.contains(&architecture)
}

/// Whether a context of this architecture can set its recurrent state aside and go back to it. False where there is no
/// such state.
pub fn can_checkpoint(architecture: &str) -> bool {
    let has_state = RECURRENT.contains(&architecture) || HYBRID.contains(&architecture);
    has_state && !WITHOUT_CHECKPOINT.contains(&architecture)
}

/// Of how many tokens of a batch llama.cpp should keep the recurrent states, so that as many can be cut off its end. 0
/// where it cannot, or where a state is large: writing one for each token of a chain would take time and memory. The
/// state of a short convolution (LFM2) is just its last inputs. `is_causal`: the file does not say otherwise.
pub fn n_snapshots(architecture: &str, is_causal: bool) -> usize {
    if architecture == "lfm2" && is_causal { N_SNAPSHOTS } else { 0 }
}
