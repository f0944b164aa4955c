//! Runs a real quantized model and compares its answers and the logits of every emitted token.

use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chaski::accept::Sampler;
use chaski::chat::template::Segment;
use chaski::cost::CostCurve;
use chaski::draft::aded::Aded;
use chaski::draft::auto::Auto;
use chaski::draft::base::Base;
use chaski::draft::search::Search;
use chaski::draft::table::Successor;
use chaski::draft::trigram::Trigram;
use chaski::draft::{Draft, Drafter, NoDraft, Verified};
use chaski::generate::{Generation, Length};
use chaski::llama::model::{Lora, Model, ModelConfig};
use chaski::llama::session::{FlashAttention, KvType, Session, SessionConfig};
use chaski::schedule::Schedule;
use chaski::target::{Target as _, TargetError, TreeLimits};
use chaski::token::Token;

use super::loop_parts::{Dice, Still, flat_curve};

/// The model in `CHASKI_TEST_MODEL`. If it is not set, prints that `test` is skipped.
pub fn path(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("CHASKI_TEST_MODEL").filter(|path| !path.is_empty());
    if path.is_none() {
        let _ = writeln!(std::io::stderr(), "skipped: {test}: CHASKI_TEST_MODEL names no model");
    }
    path.map(|path| std::fs::canonicalize(Path::new(&path)).expect("CHASKI_TEST_MODEL names a file"))
}

/// Whether a row of logits should have the same bits in every batch.
pub fn is_exact() -> bool {
    chaski::llama::kernels::in_use().unwrap().is_some()
}

/// A lock for llama.cpp, which is initialized once per process: tests run one at a time.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn load(path: &Path, lora: Option<Lora>) -> Model {
    chaski::llama::logs::capture(false);
    let config = ModelConfig { path: path.to_owned(), n_gpu_layers: super::gpu_layers(), lora };
    Model::load(&config, |_| true).unwrap()
}

/// The default context of tests. `CHASKI_TEST_THREADS` sets the threads, for machines with other work.
pub fn config() -> SessionConfig {
    let n_threads = std::env::var("CHASKI_TEST_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    SessionConfig {
        n_ctx: 1024,
        n_threads,
        n_threads_batch: n_threads,
        flash_attention: FlashAttention::Off,
        kv_type: KvType::F16,
    }
}

pub fn chat(model: &Model, text: &str) -> Vec<Token> {
    let text = format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
    model.tokenize(&[Segment { text, parse_special: true }])
}

/// An answer, and the row of logits of each token.
#[derive(Default)]
pub struct Plain {
    pub tokens: Vec<Token>,
    pub rows: Vec<Vec<f32>>,
}

/// The first difference from the plain answer.
#[derive(Debug)]
pub struct Difference {
    /// Index of the token.
    pub at: usize,
    /// Whether the token differs, not only the logits.
    pub is_text: bool,
    /// Number of logits that differ, and the largest difference.
    pub n_logits: usize,
    pub greatest: f32,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { at, is_text, n_logits, greatest } = self;
        let what = if *is_text { "another token" } else { "other bits" };
        write!(f, "{what} at {at}: {n_logits} logits differ, by {greatest} at most")
    }
}

/// Compares an answer with the plain one, token by token.
#[derive(Default)]
pub struct Comparison {
    n: usize,
    pub difference: Option<Difference>,
}

impl Comparison {
    /// Adds a token and its row of logits. Stops comparing after the first different token: the rest is another text.
    pub fn take(&mut self, plain: &Plain, token: Token, logits: &[f32]) {
        let at = self.n;
        self.n += 1;
        if self.difference.as_ref().is_some_and(|difference| difference.is_text) {
            return;
        }
        let expected = plain.rows.get(at).map_or(&[][..], |row| row);
        let unequal = |(a, b): &(&f32, &f32)| a.to_bits() != b.to_bits();
        let differing = || expected.iter().zip(logits).filter(unequal);
        let is_text = plain.tokens.get(at) != Some(&token);
        let n_logits = differing().count();
        if is_text || n_logits > 0 && self.difference.is_none() {
            let greatest = differing().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            self.difference = Some(Difference { at, is_text, n_logits, greatest });
        }
    }

    /// Ends the comparison. An answer of another length is a difference too.
    pub fn finish(mut self, plain: &Plain) -> Option<Difference> {
        if self.difference.is_none() && self.n != plain.tokens.len() {
            self.difference = Some(Difference { at: self.n, is_text: true, n_logits: 0, greatest: 0.0 });
        }
        self.difference
    }
}

/// A sampler that passes each token and its logits to `see`.
struct Watched<'a> {
    inner: Box<dyn Sampler>,
    see: &'a mut dyn FnMut(Token, &[f32]),
}

impl Sampler for Watched<'_> {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        let token = self.inner.sample(logits)?;
        (self.see)(token, logits);
        Ok(token)
    }
}

/// How to compute an answer.
pub struct Way<'a> {
    pub drafter: &'a mut dyn Drafter,
    pub schedule: Schedule,
    /// Chunk sizes of the prompt, used in rotation.
    pub chunks: &'a [usize],
}

impl Way<'_> {
    /// Without drafts, with the session's own prompt chunks.
    pub fn plain(drafter: &mut NoDraft) -> Way<'_> {
        Way { drafter, schedule: Schedule::everything(CostCurve::default()), chunks: &[usize::MAX] }
    }
}

/// Decodes `prefix` in chunks of these sizes.
pub fn read(target: &mut Session<'_>, prefix: &[Token], chunks: &[usize]) {
    let mut sizes = chunks.iter().cycle();
    let mut end = target.n_reusable(prefix);
    loop {
        end = end.saturating_add(*sizes.next().unwrap()).min(prefix.len());
        target.sync(&prefix[..end], &mut |_, _| ControlFlow::Continue(())).unwrap();
        if end == prefix.len() {
            return;
        }
    }
}

/// Generates an answer and passes each token and its logits to `see`. Returns the number of accepted draft tokens.
pub fn answer(
    model: &Model,
    target: &mut Session<'_>,
    prompt: &[Token],
    n_tokens: usize,
    sampler: Box<dyn Sampler>,
    mut way: Way<'_>,
    see: &mut dyn FnMut(Token, &[f32]),
) -> usize {
    read(target, &prompt[..prompt.len() - 1], way.chunks);
    let prefilled = Generation::prefill(target, &Still, prompt, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let n_ctx = target.n_ctx();
    let mut generation = Generation {
        target,
        drafter: way.drafter,
        schedule: &mut way.schedule,
        sampler: &mut Watched { inner: sampler, see },
        clock: &Still,
        observer: &mut (),
    };
    let length = Length { max_tokens: n_tokens, n_ctx };
    let mut emit = |token| if model.is_end(token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    generation.run(prompt, prefilled, length, &mut emit).unwrap().stats.n_accepted
}

/// Generates the answer without drafts.
pub fn plain(
    model: &Model,
    target: &mut Session<'_>,
    prompt: &[Token],
    n_tokens: usize,
    sampler: Box<dyn Sampler>,
) -> Plain {
    let mut plain = Plain::default();
    let mut see = |token, logits: &[f32]| {
        plain.tokens.push(token);
        plain.rows.push(logits.to_vec());
    };
    answer(model, target, prompt, n_tokens, sampler, Way::plain(&mut NoDraft), &mut see);
    plain
}

/// Generates an answer in another way. Returns its difference from `plain`, and the number of accepted draft tokens.
pub fn compare(
    model: &Model,
    target: &mut Session<'_>,
    prompt: &[Token],
    n_tokens: usize,
    sampler: Box<dyn Sampler>,
    way: Way<'_>,
    plain: &Plain,
) -> (Option<Difference>, usize) {
    let mut comparison = Comparison::default();
    let mut see = |token, logits: &[f32]| comparison.take(plain, token, logits);
    let n_accepted = answer(model, target, prompt, n_tokens, sampler, way, &mut see);
    (comparison.finish(plain), n_accepted)
}

/// N-gram counts of some texts, as a drafter's base.
#[derive(Default)]
pub struct Counts(HashMap<Vec<Token>, Vec<(Token, f32)>>);

impl Counts {
    pub fn add(&mut self, text: &[Token]) {
        for end in 1..=text.len() {
            let token = text[end - 1];
            for from in end.saturating_sub(3)..end {
                let row = self.0.entry(text[from..end - 1].to_vec()).or_default();
                match row.iter_mut().find(|(other, _)| *other == token) {
                    Some((_, n)) => *n += 1.0,
                    None => row.push((token, 1.0)),
                }
            }
        }
    }
}

impl Base for Counts {
    fn row(&self, context: &[Token], row: &mut Vec<Successor>) -> Option<f32> {
        let counts = self.0.get(context)?;
        let total: f32 = counts.iter().map(|(_, n)| n).sum();
        row.extend(counts.iter().map(|&(token, n)| Successor { token, weight: n / total }));
        row.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.token.0.cmp(&b.token.0)));
        row.truncate(8);
        Some(total)
    }
}

/// Drafts the known answer with random mistakes: trees of every shape, partly accepted.
pub struct Wild {
    pub dice: Dice,
    /// The plain answer, and the length of its prompt in tokens.
    pub answer: Vec<Token>,
    pub n_prompt: usize,
    pub n_vocab: usize,
}

impl Drafter for Wild {
    fn begin(&mut self, _prompt: &[Token]) {}

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        let mut draft = Draft::none(*context.last().unwrap());
        let n_said = context.len() - self.n_prompt;
        let n_drafted = [0, 1, 3, 7, 15, 62][self.dice.roll(6)];
        for _ in 0..n_drafted {
            // Half of the time below the last node, so that trees grow deep as well as wide.
            let at = if self.dice.roll(2) == 0 { draft.tree.len() - 1 } else { self.dice.roll(draft.tree.len()) };
            let parent = draft.tree.nodes().nth(at).unwrap();
            let path = draft.tree.path(parent);
            let is_right =
                path[1..].iter().zip(self.answer.iter().skip(n_said)).all(|(&n, t)| draft.tree.token(n) == *t);
            let next = self.answer.get(n_said + path.len() - 1).filter(|_| is_right && self.dice.roll(8) > 0);
            let any = Token(i32::try_from(self.dice.roll(self.n_vocab)).unwrap());
            let mut grown = draft.tree.clone();
            let fits = grown.push(parent, next.copied().unwrap_or(any)).is_ok()
                && grown.len() <= limits.max_nodes
                && grown.n_leaves() <= limits.max_leaves
                && path.len() <= limits.max_depth;
            if fits {
                draft.tree = grown;
                draft.p.push(0.9);
            }
        }
        draft
    }

    fn learn(&mut self, _context: &[Token], _from: usize, _verified: Verified<'_>) {}
}

/// Restricts another drafter to chains.
struct Chains(Box<dyn Drafter>);

impl Drafter for Chains {
    fn begin(&mut self, prompt: &[Token]) {
        self.0.begin(prompt);
    }

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        self.0.draft(context, TreeLimits { max_leaves: 1, ..limits })
    }

    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>) {
        self.0.learn(context, from, verified);
    }
}

/// Every kind of drafter: those of `--drafter`, with and without a base, each tree search, trees and chains.
pub const DRAFTERS: [&str; 9] = [
    "auto",
    "auto with a base",
    "auto by tree search (PUCT)",
    "auto in chains",
    "auto, all of every draft",
    "aded-sized",
    "wild trees",
    "wild chains",
    "aded",
];

/// A drafter from [`DRAFTERS`] or "none", and its schedule.
pub fn drafter(
    name: &str,
    plain: &Plain,
    n_prompt: usize,
    base: &Arc<Counts>,
    seed: u64,
) -> (Box<dyn Drafter>, Schedule) {
    let everything = || Schedule::everything(CostCurve::default());
    let cost_aware = || Schedule::cost_aware(flat_curve());
    let wild = || {
        let n_vocab = plain.rows.first().map_or(1, Vec::len);
        Box::new(Wild { dice: Dice(seed.max(1)), answer: plain.tokens.clone(), n_prompt, n_vocab })
    };
    match name {
        "none" => (Box::new(NoDraft), everything()),
        "auto" => (Box::new(Auto::default()), cost_aware()),
        "auto with a base" => {
            let sources = Auto::sources_with(Some(base.clone()), Trigram::default());
            (Box::new(Auto::new(sources, None)), cost_aware())
        }
        "auto by tree search (PUCT)" => (Box::new(Auto::default().with_search(Search::Mcts)), cost_aware()),
        "auto in chains" => (Box::new(Chains(Box::new(Auto::default()))), cost_aware()),
        "auto, all of every draft" => (Box::new(Auto::default()), everything()),
        "aded-sized" => (Box::new(Aded::default()), cost_aware()),
        "wild trees" => (wild(), everything()),
        "wild chains" => (Box::new(Chains(wild())), everything()),
        "aded" => (Box::new(Aded::default()), everything()),
        _ => panic!("no drafter {name}"),
    }
}
