//! A loaded model and its vocabulary.

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llama_cpp_2::LlamaLoraAdapterInitError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel, RopeType};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::chat::template::{Segment, SpecialTexts};
use crate::split_points::{STRANGE, Spelling, SplitPoints};
use crate::target::TargetError;
use crate::token::Token;
use crate::tune::KvType;
use crate::{exact, gguf, kernels, logs};

/// Longer texts are tokenized in pieces; up to this many bytes the time saved is negligible.
const LONG_BYTES: usize = 16 << 10;

/// Minimum size of a piece, in bytes.
const PIECE_BYTES: usize = 4 << 10;

/// Most tokens that the space in front of a text can become: SentencePiece's `▁` has three bytes.
const SPACE_BYTES: usize = 3;

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Path of the GGUF file.
    pub path: PathBuf,
    /// Factor for the adapter's weights.
    pub scale: f32,
}

/// Which model to load, and onto which device.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// A GGUF file that passed `gguf::Gguf::check`.
    pub path: PathBuf,
    /// Layers on the GPU; `None` leaves it to llama.cpp (all that fit).
    pub n_gpu_layers: Option<u32>,
    /// Adapter added to the weights. The bindings support one at a time.
    pub lora: Option<Lora>,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The progress callback returned false.
    #[error("interrupted")]
    Interrupted,
    /// llama.cpp refused the file.
    #[error("{path}: llama.cpp cannot load this model: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// llama.cpp's last error.
        reason: String,
    },
}

/// A loaded model. The file is memory-mapped and must not change while this value lives.
#[derive(Debug)]
pub struct Model {
    /// Applied to every context. The mutex is there because llama.cpp's call takes a `&mut`, though it changes nothing.
    adapter: Option<Mutex<(LlamaLoraAdapter, f32)>>,
    /// Computed for the first long text; `None` inside if the vocabulary has no safe split points.
    split_points: OnceLock<Option<SplitPoints>>,
    // Declared before the backend, so dropped before it: the model must not outlive the backend.
    pub(super) inner: LlamaModel,
    pub(super) backend: Arc<LlamaBackend>,
}

impl Model {
    pub(super) fn new(backend: Arc<LlamaBackend>, inner: LlamaModel) -> Model {
        Model { adapter: None, split_points: OnceLock::new(), inner, backend }
    }

    /// Loads a model. `progress` receives the fraction loaded, from 0 to 1, and returns false to stop.
    ///
    /// # Errors
    /// If llama.cpp refuses the file, or `progress` returns false.
    pub fn load(config: &ModelConfig, progress: impl FnMut(f32) -> bool + 'static) -> Result<Model, LoadError> {
        let refused = |reason: String| LoadError::Refused { path: config.path.clone(), reason };
        let backend = LlamaBackend::init().map_err(|error| refused(error.to_string()))?;
        Model::load_with(Arc::new(backend), config, progress)
    }

    /// Loads a further model into this process; the rest is as in [`Model::load`], which works for the first only.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_beside(
        &self,
        config: &ModelConfig,
        progress: impl FnMut(f32) -> bool + 'static,
    ) -> Result<Model, LoadError> {
        Model::load_with(self.backend.clone(), config, progress)
    }

    fn load_with(
        backend: Arc<LlamaBackend>,
        config: &ModelConfig,
        mut progress: impl FnMut(f32) -> bool + 'static,
    ) -> Result<Model, LoadError> {
        let refused = |reason: String| LoadError::Refused { path: config.path.clone(), reason };
        let mut was_stopped = false;
        let mut progress = |share| {
            let go_on = progress(share);
            was_stopped = !go_on;
            go_on
        };
        // An error logged earlier does not belong to this file.
        let _ = logs::take_error();
        let loaded = load_file(&config.path, config.n_gpu_layers, &mut progress);
        match loaded {
            Some(inner) => {
                if config.n_gpu_layers != Some(0) {
                    exact::note_gpu();
                }
                Model::new(backend, inner).adapted(config.lora.as_ref())
            }
            None if was_stopped => Err(LoadError::Interrupted),
            None => Err(refused(logs::take_error().unwrap_or_else(|| "no reason is known".to_owned()))),
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

    /// Applies the adapter, if any, to a new context.
    pub(super) fn adapt(&self, context: &mut LlamaContext<'_>) -> Result<(), TargetError> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let (adapter, scale) = &mut *adapter.lock().unwrap_or_else(PoisonError::into_inner);
        let set = context.lora_adapter_set(adapter, *scale);
        set.map_err(|error| TargetError::Engine(format!("cannot apply the LoRA adapter: {error}")))
    }

    /// Whether the model keeps a recurrent state, instead of a cache of positions or beside it (Mamba, RWKV, hybrids).
    /// Such a state cannot be cut: it only goes back to a copy of an earlier one.
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        self.inner.is_recurrent() || self.inner.is_hybrid()
    }

    /// Whether a context can set the recurrent state aside and go back to it. False where there is no such state.
    #[must_use]
    pub fn can_checkpoint(&self) -> bool {
        self.is_recurrent() && gguf::can_checkpoint(&self.architecture())
    }

    /// Whether llama.cpp gives hidden states beside the logits.
    #[must_use]
    pub fn gives_states(&self) -> bool {
        gguf::gives_states(&self.architecture())
    }

    /// Of how many tokens of a batch llama.cpp should keep the recurrent states; see [`gguf::n_snapshots`].
    #[must_use]
    pub fn n_snapshots(&self) -> usize {
        let architecture = self.architecture();
        let stated = self.inner.meta_val_str(&format!("{architecture}.attention.causal"));
        gguf::n_snapshots(&architecture, !stated.is_ok_and(|is_causal| is_causal == "false"))
    }

    fn architecture(&self) -> String {
        self.inner.meta_val_str("general.architecture").unwrap_or_default()
    }

    /// Context length of the training, in positions.
    #[must_use]
    pub fn n_ctx_train(&self) -> usize {
        self.inner.n_ctx_train() as usize
    }

    /// Whether the file declares a sliding attention window. A few architectures have one without declaring it.
    #[must_use]
    pub fn has_window(&self) -> bool {
        let architecture = self.inner.meta_val_str("general.architecture").unwrap_or_default();
        let stated = self.inner.meta_val_str(&format!("{architecture}.attention.sliding_window"));
        stated.is_ok_and(|n| n.parse() != Ok(0))
    }

    /// Context length before RoPE scaling, if the file declares one.
    #[must_use]
    pub fn n_ctx_unstretched(&self) -> Option<usize> {
        let architecture = self.inner.meta_val_str("general.architecture").ok()?;
        let key = format!("{architecture}.rope.scaling.original_context_length");
        self.inner.meta_val_str(&key).ok()?.parse().ok()
    }

    /// Size of the vocabulary, which is the length of a row of logits.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        usize::try_from(self.inner.n_vocab()).unwrap_or(0)
    }

    /// Attention heads of the first layer.
    #[must_use]
    pub fn n_heads(&self) -> usize {
        self.inner.n_head() as usize
    }

    /// Bytes of the KV cache for one position. An estimate if layers differ.
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

    /// Whether cached tokens can be shifted to other positions. llama.cpp aborts if asked to shift a model that cannot.
    #[must_use]
    pub fn can_shift(&self) -> bool {
        let is_plain = matches!(self.inner.rope_type(), Some(RopeType::Norm | RopeType::NeoX));
        let architecture = self.inner.meta_val_str("general.architecture").unwrap_or_default();
        is_plain && architecture != "step35" && !self.is_recurrent()
    }

    /// Tokenizes a prompt. Adds the BOS token if the model wants one and the first segment does not start with it.
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

    /// Tokenizes text that need not be UTF-8. Adds no BOS token and parses no special tokens.
    #[must_use]
    pub fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<Token> {
        self.split(bytes, false).into_iter().map(|token| Token(token.0)).collect()
    }

    /// Tokenizes a text. A long one is split into pieces if that gives the same tokens.
    fn split(&self, text: &[u8], parse_special: bool) -> Vec<LlamaToken> {
        let vocab = self.inner.vocab();
        let whole = || vocab.tokenize(text, false, parse_special);
        if text.len() <= LONG_BYTES {
            return whole();
        }
        match (std::str::from_utf8(text), self.split_points.get_or_init(|| self.find_split_points())) {
            (Ok(text), Some(split_points)) => split_points.tokenize(text, PIECE_BYTES, |piece| {
                // One token for each byte and for the space in front: with less room the bindings tokenize twice.
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
        // llama.cpp finds special tokens byte by byte, so one that is not UTF-8 could start or end inside a character,
        // where no split point can be checked.
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

    /// The model's EOS token, if its file names one.
    #[must_use]
    pub fn end_of_text(&self) -> Option<Token> {
        let token = Token(self.inner.vocab().eos().0);
        (token.0 >= 0 && self.is_end(token)).then_some(token)
    }

    /// The special tokens that chat templates name, and the texts of all special tokens. They come from llama.cpp,
    /// which corrects some files.
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

    /// The bytes of a token. They may hold part of a character; control tokens have none.
    #[must_use]
    pub fn bytes(&self, token: Token) -> Vec<u8> {
        self.inner.vocab().token_to_piece(LlamaToken(token.0), false, None)
    }

    /// All tokens that end a text.
    pub fn end_tokens(&self) -> impl Iterator<Item = Token> {
        (0..self.inner.n_vocab()).map(Token).filter(|&token| self.is_end(token))
    }

    /// Whether `token` ends a text.
    #[must_use]
    pub fn is_end(&self, token: Token) -> bool {
        self.inner.vocab().is_eog(LlamaToken(token.0))
    }
}

/// Loads a file; `None` if llama.cpp refuses it or `progress` returns false.
///
/// The safe bindings cannot set `no_host`. Without it, a GPU build reads the weights that stay on the CPU into a buffer type of
/// the GPU's, and our kernels never see them.
#[expect(unsafe_code, reason = "the safe bindings lack the parameter `no_host`")]
fn load_file(path: &Path, n_gpu_layers: Option<u32>, mut progress: &mut dyn FnMut(f32) -> bool) -> Option<LlamaModel> {
    let path = CString::new(path.to_str()?).ok()?;
    let mut no_devices = [std::ptr::null_mut()];
    // SAFETY: the function takes no arguments and returns a plain struct.
    let mut params = unsafe { llama_cpp_sys_2::llama_model_default_params() };
    if let Some(n) = n_gpu_layers {
        params.n_gpu_layers = i32::try_from(n).unwrap_or(i32::MAX);
    }
    if n_gpu_layers == Some(0) {
        // Otherwise llama.cpp keeps a context on the GPU all the same and sends long batches there.
        params.devices = no_devices.as_mut_ptr();
    }
    // The command has already reported an invalid choice. ggml's kernels are used then.
    params.no_host = matches!(kernels::in_use(), Ok(Some(_)));
    params.progress_callback = Some(on_progress);
    params.progress_callback_user_data = (&raw mut progress).cast();
    // SAFETY: the path ends with NUL; the list of devices ends with null; list, path and `progress` outlive the call, and
    // llama.cpp calls `on_progress` only during it. An initialized backend exists: the caller holds it.
    let model = NonNull::new(unsafe { llama_cpp_sys_2::llama_load_model_from_file(path.as_ptr(), params) })?;
    // SAFETY: `LlamaModel` is `repr(transparent)` over `Ptr`, and that over `NonNull`. The model is not freed elsewhere.
    Some(unsafe { std::mem::transmute::<NonNull<llama_cpp_sys_2::llama_model>, LlamaModel>(model) })
}

/// llama.cpp's callback while it loads.
#[expect(unsafe_code, reason = "the signature of llama.cpp's callback")]
unsafe extern "C" fn on_progress(share: f32, progress: *mut c_void) -> bool {
    // SAFETY: `load_file` passes a pointer to a `&mut dyn FnMut` that lives until the load ends and is used by no one else.
    let progress = unsafe { &mut *progress.cast::<&mut dyn FnMut(f32) -> bool>() };
    progress(share)
}
