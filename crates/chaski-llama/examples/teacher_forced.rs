//! Reads recorded texts with a model, each in one pass, and writes what the model predicts at every token: its likeliest
//! tokens, and on demand its hidden states.
//!
//! ```text
//! cargo run --release --locked -p chaski-llama --features kernels --example teacher_forced -- \
//!     MODEL.gguf TEXTS.jsonl OUT.jsonl [--states FILE] [--name NAME] [--threads N]
//! ```
//!
//! - TEXTS.jsonl: one `{"id": "...", "prompt": [ids], "tokens": [ids]}` per line, as `chaski run --trace` writes them. Other
//!   keys are ignored. The prompt must have at least one token.
//! - OUT.jsonl: for each text `{"id", "model", "n_depths": 1, "rows": [[[[token, p], ...]], ...]}`. Row i lists the up to 8
//!   likeliest tokens with p >= 0.001 after `prompt` and `tokens[..i]`, likeliest first, so row i predicts `tokens[i]`.
//!   `model` is NAME, or the name of the model file.
//! - FILE of `--states`: the state behind the final norm of the same rows in the same order, `n_embd` little-endian f16 each,
//!   without a head. Row i is the state that emits `tokens[i]`.
//!
//! Chaski's kernels are used unless `CHASKI_KERNELS=ggml` is set.
#![expect(unsafe_code, reason = "the safe bindings do not switch hidden states on and off")]

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;

use llama_cpp_sys_2 as llama;
use serde_json::{Value, json};

/// Tokens in a batch.
const N_BATCH: usize = 512;

/// Tokens written per row.
const N_TOP: usize = 8;

/// A less likely token is not written.
const MIN_P: f64 = 0.001;

/// A recorded text.
struct Text {
    id: Value,
    prompt: Vec<i32>,
    tokens: Vec<i32>,
}

struct Arguments {
    model: String,
    texts: String,
    out: String,
    states: Option<String>,
    name: String,
    n_threads: i32,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, String> {
    let (mut files, mut states, mut name, mut n_threads) = (Vec::new(), None, None, 2);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--states" => states = Some(value()?),
            "--name" => name = Some(value()?),
            "--threads" => n_threads = value()?.parse().map_err(|_| "--threads needs a number".to_owned())?,
            _ => files.push(argument),
        }
    }
    let [model, texts, out] = <[String; 3]>::try_from(files)
        .map_err(|files| format!("expected 3 files, got {}\nhint: see the head of teacher_forced.rs", files.len()))?;
    let file_name = || Path::new(&model).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.unwrap_or_else(file_name);
    Ok(Arguments { model, texts, out, states, name, n_threads })
}

fn read_texts(path: &str) -> Result<Vec<Text>, String> {
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let mut texts = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|error| format!("{path}:{number}: {error}"))?;
        let mut value: Value = serde_json::from_str(&line).map_err(|error| format!("{path}:{number}: {error}"))?;
        let ids = |key: &str| {
            let ids: Option<Vec<i32>> =
                value[key].as_array()?.iter().map(|id| i32::try_from(id.as_i64()?).ok()).collect();
            ids
        };
        let (Some(prompt), Some(tokens)) = (ids("prompt"), ids("tokens")) else {
            return Err(format!("{path}:{number}: expected token ids in \"prompt\" and \"tokens\""));
        };
        if prompt.is_empty() {
            return Err(format!("{path}:{number}: the prompt is empty"));
        }
        texts.push(Text { id: value["id"].take(), prompt, tokens });
    }
    Ok(texts)
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let texts = read_texts(&arguments.texts)?;
    let create = |path: &String| File::create(path).map(BufWriter::new).map_err(|error| format!("{path}: {error}"));
    let mut out = create(&arguments.out)?;
    let mut states = arguments.states.as_ref().map(create).transpose()?;
    let n_ctx = texts.iter().map(|text| text.prompt.len() + text.tokens.len()).max().unwrap_or(1);
    let mut reader = Reader::new(&arguments.model, n_ctx, arguments.n_threads)?;
    for text in &texts {
        let mut rows = Vec::with_capacity(text.tokens.len());
        reader.read(text, states.is_some(), |top, state| {
            let top: Vec<Value> = top.iter().map(|(token, p)| json!([token, (p * 1e4).round() / 1e4])).collect();
            rows.push(json!([top]));
            match &mut states {
                Some(file) => file.write_all(state),
                None => Ok(()),
            }
            .map_err(|error| format!("cannot write the states: {error}"))
        })?;
        let line = json!({"id": text.id, "model": arguments.name, "n_depths": 1, "rows": rows});
        writeln!(out, "{line}").map_err(|error| format!("{}: {error}", arguments.out))?;
    }
    let flushed = out.flush().and_then(|()| states.map_or(Ok(()), |mut file| file.flush()));
    flushed.map_err(|error| format!("cannot finish the files: {error}"))
}

/// A model with one context. Both live until the process ends.
struct Reader {
    context: *mut llama::llama_context,
    batch: llama::llama_batch,
    n_vocab: usize,
    n_embd: usize,
}

impl Reader {
    fn new(path: &str, n_ctx: usize, n_threads: i32) -> Result<Reader, String> {
        // Installs Chaski's kernels, before the model is loaded.
        let _ = chaski_llama::kernels::in_use().map_err(|error| error.to_string())?;
        let file = CString::new(path).map_err(|_| format!("{path}: not a path"))?;
        // SAFETY: plain use of llama.cpp's interface; null results are errors.
        unsafe {
            llama::llama_backend_init();
            llama::llama_log_set(Some(quiet), std::ptr::null_mut());
            let model = llama::llama_model_load_from_file(file.as_ptr(), llama::llama_model_default_params());
            if model.is_null() {
                return Err(format!("{path}: llama.cpp cannot load the model"));
            }
            let mut params = llama::llama_context_default_params();
            params.n_ctx = u32::try_from(n_ctx.next_multiple_of(256)).map_err(|_| "a text is too long")?;
            (params.n_batch, params.n_ubatch) = (N_BATCH as u32, N_BATCH as u32);
            (params.n_threads, params.n_threads_batch) = (n_threads, n_threads);
            params.pooling_type = llama::LLAMA_POOLING_TYPE_NONE;
            let context = llama::llama_init_from_model(model, params);
            if context.is_null() {
                return Err(format!("{path}: llama.cpp makes no context of {n_ctx} tokens"));
            }
            Ok(Reader {
                context,
                batch: llama::llama_batch_init(N_BATCH as i32, 0, 1),
                n_vocab: llama::llama_vocab_n_tokens(llama::llama_model_get_vocab(model)) as usize,
                n_embd: llama::llama_model_n_embd_out(model) as usize,
            })
        }
    }

    /// Calls `each` with the likeliest tokens and the state (f16, little-endian; empty unless `with_states`) of every row
    /// that predicts a token of the text.
    fn read(
        &mut self,
        text: &Text,
        with_states: bool,
        mut each: impl FnMut(&[(i32, f64)], &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let Text { prompt, tokens, .. } = text;
        if let Some(token) = prompt.iter().chain(tokens).find(|token| !(0..self.n_vocab as i32).contains(*token)) {
            return Err(format!("text {}: token {token} is not in the vocabulary of {} tokens", text.id, self.n_vocab));
        }
        if tokens.is_empty() {
            return Ok(());
        }
        // SAFETY: rows and lengths are within the batch and the context, which `new` sized for the longest text.
        unsafe {
            llama::llama_memory_clear(llama::llama_get_memory(self.context), true);
            let (before, last) = prompt.split_at(prompt.len() - 1);
            // Hidden states make every row an output, so they are off where nobody reads them.
            llama::llama_set_embeddings(self.context, false);
            for (start, part) in (0..).step_by(N_BATCH).zip(before.chunks(N_BATCH)) {
                self.decode(start, part, false)?;
            }
            llama::llama_set_embeddings(self.context, with_states);
            let read: Vec<i32> = last.iter().chain(&tokens[..tokens.len() - 1]).copied().collect();
            for (start, part) in (before.len()..).step_by(N_BATCH).zip(read.chunks(N_BATCH)) {
                self.decode(start, part, true)?;
                for row in 0..part.len() as i32 {
                    let logits = llama::llama_get_logits_ith(self.context, row);
                    let top = likeliest(std::slice::from_raw_parts(logits, self.n_vocab));
                    let mut state = vec![0_u16; if with_states { self.n_embd } else { 0 }];
                    if with_states {
                        let found = llama::llama_get_embeddings_ith(self.context, row);
                        llama::ggml_fp32_to_fp16_row(found, state.as_mut_ptr(), self.n_embd as i64);
                    }
                    each(&top, &state.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
                }
            }
        }
        Ok(())
    }

    /// # Safety
    /// At most [`N_BATCH`] tokens of the vocabulary, within the context.
    unsafe fn decode(&mut self, start: usize, part: &[i32], wants_logits: bool) -> Result<(), String> {
        let batch = &mut self.batch;
        batch.n_tokens = part.len() as i32;
        // SAFETY: the batch has room for N_BATCH rows of one sequence.
        let code = unsafe {
            for (i, token) in part.iter().enumerate() {
                *batch.token.add(i) = *token;
                *batch.pos.add(i) = (start + i) as i32;
                *batch.n_seq_id.add(i) = 1;
                **batch.seq_id.add(i) = 0;
                *batch.logits.add(i) = i8::from(wants_logits);
            }
            llama::llama_decode(self.context, *batch)
        };
        if code == 0 { Ok(()) } else { Err(format!("llama.cpp cannot decode: code {code}")) }
    }
}

/// The likeliest tokens of a row of logits with their probabilities.
fn likeliest(logits: &[f32]) -> Vec<(i32, f64)> {
    let mut top: Vec<(i32, f32)> = Vec::with_capacity(N_TOP + 1);
    for (token, &logit) in (0..).zip(logits) {
        if top.len() < N_TOP || logit > top[N_TOP - 1].1 {
            let at = top.partition_point(|(_, other)| *other >= logit);
            top.insert(at, (token, logit));
            top.truncate(N_TOP);
        }
    }
    let max = top[0].1;
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    let with_p = top.into_iter().map(|(token, logit)| (token, f64::from((logit - max).exp()) / sum));
    with_p.filter(|(_, p)| *p >= MIN_P).collect()
}

unsafe extern "C" fn quiet(_: llama::ggml_log_level, _: *const c_char, _: *mut std::ffi::c_void) {}
