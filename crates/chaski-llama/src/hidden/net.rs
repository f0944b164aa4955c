//! Computes the network: one graph of ggml for each number of rows, on ggml's threads. On x86-64 the products run on our
//! kernels, as the target's do.

use llama_cpp_sys_2 as sys;

use crate::draft::table::Successor;
use crate::draft::top::TopK;
use crate::gguf::TensorType;
use crate::hidden::error::HiddenError;
use crate::hidden::ggml::{Backend, Context, Plan, Tensor};
use crate::hidden::matrices::TargetMatrices;
use crate::kernels;
use crate::store::hidden_file::{HiddenFile, Weights};
use crate::token::Token;

/// Most rows of one call.
pub const MAX_ROWS: usize = 256;

/// Tokens that the short head finds likeliest, which the target's own head scores again. On Qwen2.5-Coder-1.5B, with
/// rank 128, these have 99.7% of the right first candidates of the whole head.
const N_SCORED: usize = 128;

/// A network that is ready to predict. Use it on the thread that decodes the target: a second thread would get a team of
/// threads of its own.
#[derive(Debug)]
pub struct HiddenNet {
    // Dropped in this order: graphs use the matrices, and all of them the back end.
    graphs: Vec<Graph>,
    layers: Layers,
    backend: Backend,
    target: TargetMatrices,
    /// Means of the input, and 1 / standard deviation.
    mean: Vec<f32>,
    factor: Vec<f32>,
    scale: f32,
    tokens: Vec<Token>,
    /// The target's head for these tokens, `n_embd` numbers in bf16 for each.
    head: Vec<u16>,
    top_k: TopK,
}

/// Results of [`HiddenNet::step`].
#[derive(Debug)]
pub struct Step<'n> {
    /// `n_embd` for each row.
    states: &'n [f32],
    /// `tokens.len()` for each row.
    scores: &'n [f32],
    n_rows: usize,
    tokens: &'n [Token],
    head: &'n [u16],
    top_k: &'n mut TopK,
}

impl Step<'_> {
    /// The predicted hidden state of a row.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn state(&self, row: usize) -> &[f32] {
        row_of(self.states, self.n_rows, row)
    }

    /// The predicted logits of a row, one for each of [`HiddenNet::tokens`].
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn scores(&self, row: usize) -> &[f32] {
        row_of(self.scores, self.n_rows, row)
    }

    /// The `k` likeliest tokens of a row, likeliest first, with their probabilities as weights. The short head chooses
    /// 128 of [`HiddenNet::tokens`], which the target's own head scores. Empty if the row has NaN or infinity.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn top(&mut self, row: usize, k: usize) -> impl Iterator<Item = Successor> {
        let (state, scores) = (row_of(self.states, self.n_rows, row), row_of(self.scores, self.n_rows, row));
        let is_finite = scores.iter().all(|score| score.is_finite());
        let mut places: Vec<usize> = (0..if is_finite { scores.len() } else { 0 }).collect();
        if places.len() > N_SCORED {
            places.select_nth_unstable_by(N_SCORED - 1, |a, b| scores[*b].total_cmp(&scores[*a]));
            places.truncate(N_SCORED);
        }
        let logits: Vec<f32> = places.iter().map(|&at| dot(state, &self.head[at * state.len()..])).collect();
        let (tokens, top_k) = (self.tokens, &mut self.top_k);
        let found = top_k.of(&logits, k).to_vec();
        found
            .into_iter()
            .map(move |found| Successor { token: tokens[places[found.token.index()]], weight: found.weight })
    }
}

/// The product of a state with a row of the head, whose first numbers are used.
fn dot(state: &[f32], row: &[u16]) -> f32 {
    /// Sums beside each other, so that they are computed as vectors.
    const N_SUMS: usize = 16;
    let mut sums = [0.0_f32; N_SUMS];
    let (states, rest) = state.as_chunks::<N_SUMS>();
    let (rows, row_rest) = row[..state.len()].as_chunks::<N_SUMS>();
    for (state, row) in states.iter().zip(rows) {
        for ((sum, a), b) in sums.iter_mut().zip(state).zip(row) {
            *sum += a * from_bf16(*b);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().zip(row_rest).map(|(a, b)| a * from_bf16(*b)).sum::<f32>()
}

fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest number of bf16; of two equally near ones, the larger in size.
fn to_bf16(number: f32) -> u16 {
    (number.to_bits().wrapping_add(0x8000) >> 16) as u16
}

fn row_of(values: &[f32], n_rows: usize, row: usize) -> &[f32] {
    let width = values.len() / n_rows;
    &values[row * width..][..width]
}

impl HiddenNet {
    /// Copies the weights of `file`.
    ///
    /// # Errors
    /// If the network does not fit the target, or there is not enough memory.
    pub fn new(file: &HiddenFile, target: TargetMatrices, n_threads: usize) -> Result<HiddenNet, HiddenError> {
        file.check().map_err(HiddenError::Misfit)?;
        if file.n_embd() != target.n_embd() {
            let (found, expected) = (file.n_embd(), target.n_embd());
            return Err(HiddenError::Misfit(format!("expected states of {expected} numbers, found {found}")));
        }
        if let Some(token) = file.tokens.iter().find(|token| token.index() >= target.n_vocab()) {
            let n = target.n_vocab();
            return Err(HiddenError::Misfit(format!("expected a vocabulary of {n} tokens, found token {}", token.0)));
        }
        let mut head = Vec::with_capacity(file.tokens.len() * target.n_embd());
        let mut row = vec![0.0; target.n_embd()];
        for token in &file.tokens {
            target.head(*token, &mut row);
            head.extend(row.iter().map(|number| to_bf16(*number)));
        }
        Ok(HiddenNet {
            graphs: Vec::new(),
            layers: Layers::new(file)?,
            backend: Backend::cpu(n_threads)?,
            target,
            mean: file.mean.clone(),
            factor: file.std.iter().map(|std| 1.0 / std).collect(),
            scale: file.scale,
            tokens: file.tokens.clone(),
            head,
            top_k: TopK::default(),
        })
    }

    /// The width of a hidden state.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.target.n_embd()
    }

    /// The tokens that it can predict.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether [`step`](Self::step) takes this token.
    #[must_use]
    pub fn knows(&self, token: Token) -> bool {
        usize::try_from(token.0).is_ok_and(|id| id < self.target.n_vocab())
    }

    /// Predicts, for each of `rows`, what follows a hidden state and the token that came after it. The first call with a
    /// number of rows builds a graph.
    ///
    /// # Errors
    /// If there are no rows or more than [`MAX_ROWS`], a state has another length than [`n_embd`](Self::n_embd), a token
    /// is not known, or ggml fails.
    #[expect(unsafe_code, reason = "ggml computes in memory of its own")]
    pub fn step(&mut self, rows: &[(&[f32], Token)]) -> Result<Step<'_>, HiddenError> {
        let (n_rows, n_embd) = (rows.len(), self.n_embd());
        if !(1..=MAX_ROWS).contains(&n_rows) {
            return Err(HiddenError::Input(format!("expected 1 to {MAX_ROWS} rows, found {n_rows}")));
        }
        for (state, token) in rows {
            if state.len() != n_embd || !self.knows(*token) {
                let (n, token, n_vocab) = (state.len(), token.0, self.target.n_vocab());
                let found = format!("found {n} numbers and token {token}");
                return Err(HiddenError::Input(format!("expected {n_embd} numbers and a token of {n_vocab}, {found}")));
            }
        }
        let at = match self.graphs.iter().position(|graph| graph.n_rows == n_rows) {
            Some(at) => at,
            None => {
                self.graphs.push(Graph::new(&self.backend, &self.layers, n_rows)?);
                self.graphs.len() - 1
            }
        };
        let graph = &mut self.graphs[at];
        // SAFETY: the graph has the memory of its tensors to itself, and no slice of it is alive here: a `Step` borrows
        // this network.
        let input = unsafe { numbers_of(graph.input) };
        for ((state, token), x) in rows.iter().zip(input.chunks_exact_mut(2 * n_embd)) {
            let (own, embedding) = x.split_at_mut(n_embd);
            own.copy_from_slice(state);
            self.target.embedding(*token, embedding);
            x.iter_mut().zip(&self.mean).zip(&self.factor).for_each(|((x, mean), factor)| *x = (*x - mean) * factor);
        }
        // SAFETY: as above; `input` is not used any more.
        let (states, scores) = unsafe {
            graph.plan.compute()?;
            (numbers_of(graph.state), numbers_of(graph.scores))
        };
        // The scores are linear in the state, so that both are scaled here, without a pass of all threads.
        states.iter_mut().chain(scores.iter_mut()).for_each(|x| *x *= self.scale);
        Ok(Step { states, scores, n_rows, tokens: &self.tokens, head: &self.head, top_k: &mut self.top_k })
    }
}

/// The elements of a tensor of F32.
///
/// # Safety
/// The tensor is contiguous, of F32, and has initialized memory of the CPU that outlives `'a`. Nothing else uses
/// that memory during `'a`.
#[expect(unsafe_code, reason = "ggml computes in memory of its own")]
unsafe fn numbers_of<'a>(tensor: Tensor) -> &'a mut [f32] {
    // SAFETY: by the contract above; ggml aligns memory to at least 32 bytes.
    unsafe {
        let n_elements = sys::ggml_nelements(tensor.as_ptr());
        std::slice::from_raw_parts_mut((*tensor.as_ptr()).data.cast::<f32>(), n_elements as usize)
    }
}

/// The matrices of the network in ggml's memory.
#[derive(Debug)]
struct Layers {
    /// Those that our kernels multiply, and the others. The tensors below are theirs.
    _packed: Context,
    _plain: Context,
    n_embd: usize,
    n_hidden: usize,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    down: Tensor,
    up: Tensor,
}

impl Layers {
    /// Copies the weights of a file that was checked.
    #[expect(unsafe_code, reason = "ggml packs weights into memory of its own")]
    fn new(file: &HiddenFile) -> Result<Layers, HiddenError> {
        // Else they are chosen with the first model.
        let _ = kernels::in_use();
        let (mut packed, mut plain) = (Context::new()?, Context::new()?);
        let mut packed_memory = None;
        let mut matrix = |weights: &Weights| {
            let Weights { tensor_type, n_columns, n_rows, .. } = weights;
            let ours = kernels::buffer_type(tensor_type.code, *n_columns as u64, *n_rows as u64);
            packed_memory = packed_memory.or(ours);
            let context = if ours.is_some() { &mut packed } else { &mut plain };
            context.matrix(*tensor_type, *n_columns, *n_rows)
        };
        let weights = [&file.first, &file.second, &file.down, &file.up];
        let tensors = weights.map(&mut matrix);
        let [first, second, down, up] = tensors;
        let first_bias = plain.matrix(float(), file.first_bias.len(), 1);
        if let Some(memory) = packed_memory {
            packed.allocate(memory)?;
        }
        plain.allocate(Context::plain_memory())?;
        let bias: Vec<u8> = file.first_bias.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let data = weights.map(|weights| &weights.data[..]);
        for (tensor, data) in tensors.iter().chain([&first_bias]).zip(data.into_iter().chain([&bias[..]])) {
            // SAFETY: the tensor has memory now. By the check of the file, and for the bias by construction, the data are
            // all of its elements.
            unsafe { sys::ggml_backend_tensor_set(tensor.as_ptr(), data.as_ptr().cast(), 0, data.len()) }
        }
        let (n_embd, n_hidden) = (file.n_embd(), file.n_hidden());
        Ok(Layers { _packed: packed, _plain: plain, n_embd, n_hidden, first, first_bias, second, down, up })
    }
}

fn float() -> TensorType {
    TensorType::from_name("f32").expect("a type of ggml")
}

/// The network for some number of rows.
#[derive(Debug)]
struct Graph {
    // Dropped in this order: the plan uses the tensors.
    plan: Plan,
    /// The tensors below are its.
    _context: Context,
    n_rows: usize,
    /// `2 n_embd` for each row.
    input: Tensor,
    /// `n_embd` for each row, not scaled.
    state: Tensor,
    /// One for each row and token, not scaled.
    scores: Tensor,
}

impl Graph {
    /// The back end and the layers must outlive it.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    fn new(backend: &Backend, layers: &Layers, n_rows: usize) -> Result<Graph, HiddenError> {
        let Layers { n_embd, n_hidden, .. } = *layers;
        let mut context = Context::new()?;
        let input = context.matrix(float(), 2 * n_embd, n_rows);
        // SAFETY: all tensors are of this context or of the layers, which live. The shapes fit, by the check of the file:
        // `first` takes 2 `n_embd` columns and gives `n_embd + n_hidden`, as many as the bias has; `second` takes
        // `n_hidden` and gives `n_embd`, which `down` takes; `up` takes what `down` gives. The plan is dropped before
        // this context (order of the fields of `Graph`), and before the layers and the back end (`HiddenNet`). These are
        // 10 tensors, and 5 of the layers.
        unsafe {
            let y = context.product(layers.first, input);
            let y = context.sum(y, layers.first_bias);
            let inner = context.columns(y, n_embd..n_embd + n_hidden);
            let inner = context.relu(inner);
            let inner = context.product(layers.second, inner);
            let linear = context.columns(y, 0..n_embd);
            let state = context.sum(linear, inner);
            let short = context.product(layers.down, state);
            let scores = context.product(layers.up, short);
            context.allocate(Context::plain_memory())?;
            let plan = Plan::new(backend, &context, scores)?;
            Ok(Graph { plan, _context: context, n_rows, input, state, scores })
        }
    }
}

#[cfg(test)]
mod tests;
