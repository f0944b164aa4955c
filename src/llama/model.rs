//! A loaded model and its vocabulary.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use llama_cpp_2::LlamaLoraAdapterInitError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel, RopeType};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::chat::template::{Segment, SpecialTexts};
use crate::llama::split_points::{STRANGE, Spelling, SplitPoints};
use crate::llama::{kernels, logs};
use crate::target::TargetError;
use crate::token::Token;
use crate::tune::KvType;

/// Texts up to this many bytes take no time worth saving.
const LONG_BYTES: usize = 16 << 10;

/// Bytes of the pieces that longer ones are tokenized in.
const PIECE_BYTES: usize = 4 << 10;

/// The most tokens of a space in front of a text: SentencePiece's has three bytes.
const SPACE_BYTES: usize = 3;

/// An adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// A GGUF file.
    pub path: PathBuf,
    /// How much of it is added.
    pub scale: f32,
}

/// What to load, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// A GGUF file that passed `gguf::Gguf::check`.
    pub path: PathBuf,
    /// Layers on the GPU; `None` leaves it to llama.cpp (all that fit).
    pub n_gpu_layers: Option<u32>,
    /// What is added to the weights; the bindings know one adapter at a time.
    pub lora: Option<Lora>,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The progress callback asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// llama.cpp refused.
    #[error("{path}: llama.cpp cannot load this model: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// llama.cpp's last error.
        reason: String,
    },
}

/// A loaded model. It is mapped, not read: the file must not change while this lives.
#[derive(Debug)]
pub struct Model {
    /// For every context. llama.cpp wants it to be no constant, and does not change it.
    adapter: Option<Mutex<(LlamaLoraAdapter, f32)>>,
    /// Found when the first long text comes; `None` where there are none to be known.
    split_points: OnceLock<Option<SplitPoints>>,
    // Dropped first: it must not outlive the backend.
    pub(super) inner: LlamaModel,
    pub(super) backend: LlamaBackend,
}

impl Model {
    pub(super) fn new(backend: LlamaBackend, inner: LlamaModel) -> Model {
        Model { adapter: None, split_points: OnceLock::new(), inner, backend }
    }

    /// Loads a model. `progress` is told the share done, in 0 ..= 1, and stops the work by returning false.
    ///
    /// # Errors
    /// When llama.cpp refuses the file, or `progress` stopped it.
    pub fn load(config: &ModelConfig, mut progress: impl FnMut(f32) -> bool + 'static) -> Result<Model, LoadError> {
        let refused = |reason: String| LoadError::Refused { path: config.path.clone(), reason };
        let backend = LlamaBackend::init().map_err(|error| refused(error.to_string()))?;
        let was_stopped = std::rc::Rc::new(std::cell::Cell::new(false));
        let stopped = was_stopped.clone();
        let mut params = LlamaModelParams::default().with_progress_callback(move |share| {
            let go_on = progress(share);
            stopped.set(!go_on);
            go_on
        });
        if let Some(n) = config.n_gpu_layers {
            params = params.with_n_gpu_layers(n);
        }
        // What is wrong with the choice was said when the command began; ggml's kernels are used then.
        let _ = kernels::in_use();
        // An error logged before is not about this file.
        let _ = logs::take_error();
        match LlamaModel::load_from_file(&backend, &config.path, &params) {
            Ok(inner) => Model::new(backend, inner).adapted(config.lora.as_ref()),
            Err(_) if was_stopped.get() => Err(LoadError::Interrupted),
            Err(error) => Err(refused(logs::take_error().unwrap_or_else(|| error.to_string()))),
        }
    }

    fn adapted(mut self, lora: Option<&Lora>) -> Result<Model, LoadError> {
        let Some(Lora { path, scale }) = lora else { return Ok(self) };
        let refused = |error: LlamaLoraAdapterInitError| {
            let reason = logs::take_error().unwrap_or_else(|| error.to_string());
            LoadError::Refused { path: path.clone(), reason }
        };
        let adapter = self.inner.lora_adapter_init(path).map_err(refused)?;
        self.adapter = Some(Mutex::new((adapter, *scale)));
        Ok(self)
    }

    /// Adds the adapter, if there is one, to a new context.
    pub(super) fn adapt(&self, context: &mut LlamaContext<'_>) -> Result<(), TargetError> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let (adapter, scale) = &mut *adapter.lock().unwrap_or_else(PoisonError::into_inner);
        let set = context.lora_adapter_set(adapter, *scale);
        set.map_err(|error| TargetError::Engine(format!("cannot apply the LoRA adapter: {error}")))
    }

    /// True for models whose memory is a state and not a cache of positions (Mamba, RWKV, hybrids): it cannot be rolled
    /// back, so nothing can be drafted.
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        self.inner.is_recurrent() || self.inner.is_hybrid()
    }

    /// Positions the model was trained on.
    #[must_use]
    pub fn n_ctx_train(&self) -> usize {
        self.inner.n_ctx_train() as usize
    }

    /// Whether the file says that some layers see the last positions only. Of a few architectures it need not say so.
    #[must_use]
    pub fn has_window(&self) -> bool {
        let architecture = self.inner.meta_val_str("general.architecture").unwrap_or_default();
        let stated = self.inner.meta_val_str(&format!("{architecture}.attention.sliding_window"));
        stated.is_ok_and(|n| n.parse() != Ok(0))
    }

    /// Positions it was first trained on, where its positions are stretched beyond them.
    #[must_use]
    pub fn n_ctx_unstretched(&self) -> Option<usize> {
        let architecture = self.inner.meta_val_str("general.architecture").ok()?;
        let key = format!("{architecture}.rope.scaling.original_context_length");
        self.inner.meta_val_str(&key).ok()?.parse().ok()
    }

    /// Tokens of the vocabulary: the length of a logits slice.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        usize::try_from(self.inner.n_vocab()).unwrap_or(0)
    }

    /// Heads of attention in the first layer.
    #[must_use]
    pub fn n_heads(&self) -> usize {
        self.inner.n_head() as usize
    }

    /// Bytes that keys and values of one position take in the cache: an estimate where layers differ.
    #[must_use]
    pub fn cache_bytes(&self, kv_type: KvType) -> u64 {
        let architecture = self.inner.meta_val_str("general.architecture").unwrap_or_default();
        let usual = self.inner.n_embd().unsigned_abs() as usize / self.n_heads().max(1);
        let length = |name: &str| {
            let stated = self.inner.meta_val_str(&format!("{architecture}.attention.{name}_length")).ok();
            stated.and_then(|length| length.parse().ok()).unwrap_or(usual)
        };
        let of_head = kv_type.k.bytes(length("key")) + kv_type.v.bytes(length("value"));
        u64::from(self.inner.n_layer()) * u64::from(self.inner.n_head_kv()) * of_head as u64
    }

    /// Whether what is in the cache can move to other positions. llama.cpp ends the process where it is asked and cannot.
    #[must_use]
    pub fn can_shift(&self) -> bool {
        let is_plain = matches!(self.inner.rope_type(), Some(RopeType::Norm | RopeType::NeoX));
        let architecture = self.inner.meta_val_str("general.architecture").unwrap_or_default();
        is_plain && architecture != "step35" && !self.is_recurrent()
    }

    /// The tokens of a prompt. The token that begins a text is added when the model wants one and the first segment
    /// does not spell it.
    ///
    /// Some tokenizers recurse over long unbroken runs: call this on a thread with a large stack.
    #[must_use]
    pub fn tokenize(&self, segments: &[Segment]) -> Vec<Token> {
        let vocab = self.inner.vocab();
        let mut tokens: Vec<LlamaToken> = Vec::new();
        for segment in segments.iter().filter(|segment| !segment.text.is_empty()) {
            tokens.extend(self.split(segment.text.as_bytes(), segment.parse_special));
        }
        let bos = vocab.bos();
        if vocab.should_add_bos() && bos.0 >= 0 && tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
        tokens.into_iter().map(|token| Token(token.0)).collect()
    }

    /// The tokens of a piece of text, which need not be UTF-8: no token that begins a text is added, no special token is
    /// parsed.
    #[must_use]
    pub fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<Token> {
        self.split(bytes, false).into_iter().map(|token| Token(token.0)).collect()
    }

    /// The tokens of a text, a long one in pieces where that makes no difference but to the time.
    fn split(&self, text: &[u8], parse_special: bool) -> Vec<LlamaToken> {
        let vocab = self.inner.vocab();
        let whole = || vocab.tokenize(text, false, parse_special);
        if text.len() <= LONG_BYTES {
            return whole();
        }
        match (std::str::from_utf8(text), self.split_points.get_or_init(|| self.find_split_points())) {
            (Ok(text), Some(split_points)) => split_points.tokenize(text, PIECE_BYTES, |piece| {
                // Room for a token of each byte and of a space in front: with less, all is done twice.
                let mut tokens = Vec::with_capacity(piece.len() + SPACE_BYTES);
                vocab.tokenize_into(piece.as_bytes(), &mut tokens, false, parse_special);
                tokens
            }),
            _ => whole(),
        }
    }

    fn find_split_points(&self) -> Option<SplitPoints> {
        if self.inner.meta_val_str("tokenizer.ggml.model").ok()? != "llama" {
            return None;
        }
        use LlamaTokenAttr::{Control, LStrip, RStrip, Unknown, UserDefined};
        let vocab = self.inner.vocab();
        let spelled = |token| vocab.text(token).unwrap_or_default();
        let is_special = |token| vocab.attr(token).intersects(Control | Unknown | UserDefined);
        // Found byte by byte, so it may begin or end inside a character, where no seam is looked for.
        if vocab.tokens().any(|token| is_special(token) && spelled(token).to_str().is_err()) {
            return None;
        }
        let texts: Vec<_> = vocab.tokens().map(|token| (spelled(token).to_string_lossy(), token)).collect();
        let spellings = texts.iter().map(|(text, token)| Spelling {
            text,
            is_special: is_special(*token),
            strips: vocab.attr(*token).intersects(LStrip | RStrip),
        });
        let n_strange = vocab.tokenize(STRANGE.to_string().as_bytes(), false, false).len();
        SplitPoints::new(spellings, n_strange)
    }

    /// The token that the model ends a text with, where its file names one.
    #[must_use]
    pub fn end_of_text(&self) -> Option<Token> {
        let token = Token(self.inner.vocab().eos().0);
        (token.0 >= 0 && self.is_end(token)).then_some(token)
    }

    /// What a chat template and its guard need to know of the vocabulary, as llama.cpp sees it (it corrects some files).
    #[must_use]
    pub fn special_texts(&self) -> (SpecialTexts, Vec<String>) {
        let vocab = self.inner.vocab();
        let text = |token: LlamaToken| {
            let text = (token.0 >= 0).then(|| vocab.text(token)).flatten();
            text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let is_special =
            |&token: &LlamaToken| vocab.attr(token).intersects(LlamaTokenAttr::Control | LlamaTokenAttr::Unknown);
        let named =
            SpecialTexts { bos: text(vocab.bos()), eos: text(vocab.eos()), unk: String::new(), pad: text(vocab.pad()) };
        let all = vocab.tokens().filter(is_special).map(text).filter(|text| !text.is_empty());
        (named, all.collect())
    }

    /// The bytes a token spells: not always whole characters, and none for control tokens.
    #[must_use]
    pub fn bytes(&self, token: Token) -> Vec<u8> {
        self.inner.vocab().token_to_piece(LlamaToken(token.0), false, None)
    }

    /// The tokens that end a text.
    pub fn end_tokens(&self) -> impl Iterator<Item = Token> {
        (0..self.inner.n_vocab()).map(Token).filter(|&token| self.is_end(token))
    }

    /// Whether a token ends the text.
    #[must_use]
    pub fn is_end(&self, token: Token) -> bool {
        self.inner.vocab().is_eog(LlamaToken(token.0))
    }
}
