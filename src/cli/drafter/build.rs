//! `chaski drafter build`: counts the tri-grams of texts and writes a drafter file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::drafter::corpus::{self, Taker, TextFile};
use crate::cli::drafter::{BuildArgs, ROWS_PER_TICK, report};
use crate::cli::engine::open_model;
use crate::cli::failure::Failure;
use crate::cli::files::refuse_overwrite;
use crate::cli::interrupt;
use crate::cli::output::{Bars, stderr_line};
use crate::draft::table::MAX_SUCCESSORS;
use crate::llama::logs;
use crate::llama::tokenizer::{Tokenizer, on_large_stack};
use crate::store::counter::TrigramCounter;
use crate::store::drafter_file::DrafterWriter;
use crate::store::vocabulary::Vocabulary;
use crate::token::Token;

/// Memory for counting, in bytes.
const BUFFER_BYTES: usize = 256 << 20;

pub(super) fn build(args: &BuildArgs) -> Result<(), Failure> {
    let gguf = open_model(&args.model)?;
    let vocabulary = Vocabulary::of(&gguf).ok_or_else(|| Failure::new("the model file contains no vocabulary"))?;
    drop(gguf);
    let files = corpus::list(&args.texts)?;
    let inputs = files.iter().map(|file| file.path.as_path());
    refuse_overwrite(&args.output, inputs.chain([args.model.as_path()]))?;
    let interrupt = interrupt::flag()?;
    // Create the file now, so that an unwritable folder fails before the work.
    let writer = DrafterWriter::create(&args.output, vocabulary)?;
    logs::capture(false);
    let work = || count_and_write(args, &files, writer, vocabulary, interrupt);
    let n_tokens = on_large_stack(work).map_err(|error| Failure::new(format!("cannot start: {error}")))??;
    stderr_line(&format!("{n_tokens} tokens read"));
    report(&args.output)
}

/// Counts and writes. Returns the number of tokens read.
fn count_and_write(
    args: &BuildArgs,
    files: &[TextFile],
    mut writer: DrafterWriter,
    vocabulary: Vocabulary,
    interrupt: Arc<AtomicBool>,
) -> Result<u64, Failure> {
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let in_folder = |error: std::io::Error| Failure::io(folder, &error);
    let is_stdin = |file: &TextFile| file.path == Path::new("-");
    let n_bytes = if files.iter().any(is_stdin) { 0 } else { files.iter().map(|file| file.n_bytes).sum() };
    let mut counting = Counting {
        tokenizer: Tokenizer::load(&args.model).map_err(|error| Failure::new(error.to_string()))?,
        counter: TrigramCounter::new(vocabulary.n_tokens, folder, BUFFER_BYTES),
        folder,
        text: Vec::new(),
        n_tokens: 0,
        n_bytes_done: 0,
        n_bytes,
        bars: Bars::default(),
        interrupt,
    };
    let mut skipped = Vec::new();
    for file in files {
        skipped.extend(corpus::read(file, &mut counting)?);
    }
    let Counting { counter, mut bars, interrupt, n_tokens, .. } = counting;
    if let Some(first) = skipped.first() {
        let n = skipped.len();
        bars.suspend(|| {
            stderr_line(&format!("notice: {n} of {} files skipped, the first: {}", files.len(), first.message()))
        });
    }
    if n_tokens == 0 {
        return Err(Failure::new("the given files contain no text").with_hint("give UTF-8 text files, or .jsonl files"));
    }
    let mut n_rows = 0_u64;
    let mut rows = counter.finish().map_err(in_folder)?;
    while let Some(row) = rows.next() {
        let mut row = row.map_err(in_folder)?;
        if interrupt.load(Ordering::Relaxed) {
            return Err(Failure::interrupted());
        }
        n_rows += 1;
        if n_rows.is_multiple_of(ROWS_PER_TICK) {
            bars.share("writing", rows.share_done());
        }
        row.keep_top(MAX_SUCCESSORS, args.min_count as f32);
        writer.push(&mut row)?;
    }
    bars.clear();
    writer.finish_within(args.max_size, || !interrupt.load(Ordering::Relaxed))?;
    Ok(n_tokens)
}

/// Counts the tri-grams of the texts.
struct Counting<'a> {
    tokenizer: Tokenizer,
    counter: TrigramCounter,
    /// Folder of the counter's temporary files, for messages.
    folder: &'a Path,
    /// The last two tokens of the text, then the tokens of the current piece.
    text: Vec<Token>,
    n_tokens: u64,
    n_bytes_done: u64,
    /// 0 if unknown.
    n_bytes: u64,
    bars: Bars,
    interrupt: Arc<AtomicBool>,
}

impl Taker for Counting<'_> {
    fn take(&mut self, piece: &str, is_new: bool) -> Result<(), Failure> {
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(Failure::interrupted());
        }
        let n_known = if is_new { 0 } else { self.text.len().min(2) };
        self.text.drain(..self.text.len() - n_known);
        self.text.extend(self.tokenizer.tokenize(piece));
        self.n_tokens += (self.text.len() - n_known) as u64;
        self.counter.add_text(&self.text, n_known).map_err(|error| Failure::io(self.folder, &error))
    }

    fn advance(&mut self, n_bytes: u64) {
        self.n_bytes_done += n_bytes;
        self.bars.bytes("counting", self.n_bytes_done, self.n_bytes);
    }
}
