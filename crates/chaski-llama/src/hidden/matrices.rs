//! The two matrices of a target that a hidden-state drafter needs: embeddings of tokens, and the output matrix (the
//! head). Rows are decoded on demand from the mapped file.

use std::path::Path;

use crate::gguf::{self, Gguf, Tensor};
use crate::hidden::error::HiddenError;
use crate::hidden::rows::Decoder;
use crate::token::Token;

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
/// Added to the logits. No drafter can score that.
const HEAD_BIAS: &str = "output.bias";

/// The embedding and the output matrix of a model.
///
/// The files stay mapped: if another process truncates one, the next access raises SIGBUS.
#[derive(Debug)]
pub struct TargetMatrices {
    files: Vec<Gguf>,
    embedding: Matrix,
    head: Matrix,
    n_embd: usize,
    n_vocab: usize,
}

/// A matrix in one of the files, with a row for each token.
#[derive(Clone, Debug)]
struct Matrix {
    file: usize,
    tensor: Tensor,
    decoder: Decoder,
    row_bytes: usize,
}

impl TargetMatrices {
    /// Maps a model's file, or all its shards if it is the first of several.
    ///
    /// # Errors
    /// If a file cannot be read or is malformed, or its matrices are missing or of an unexpected shape or type.
    pub fn open(path: &Path) -> Result<TargetMatrices, HiddenError> {
        let first = Gguf::open(path)?;
        let paths = first.check()?.paths;
        let mut files = vec![first];
        for path in &paths[1..] {
            files.push(Gguf::open(path)?);
        }
        TargetMatrices::new(files)
    }

    /// Takes a model's files, the first one first.
    ///
    /// # Errors
    /// If the matrices are missing or of an unexpected shape or type.
    ///
    /// # Panics
    /// If there are no files.
    pub fn new(files: Vec<Gguf>) -> Result<TargetMatrices, HiddenError> {
        let path = files[0].path().to_owned();
        let refuse = |what: String| HiddenError::Unsupported { path: path.clone(), what };
        let find =
            |name: &str| files.iter().enumerate().find_map(|(number, file)| Some((number, file.tensor(name)?.clone())));
        let architecture = files[0].architecture().unwrap_or_default();
        if !gguf::gives_states(architecture) {
            return Err(refuse(format!("llama.cpp gives either logits or hidden states of {architecture}")));
        }
        let number = |key: &str| files[0].get_f64(&format!("{architecture}.{key}"));
        if number("final_logit_softcapping").is_some_and(|cap| cap != 0.0)
            || number("logit_scale").is_some_and(|scale| scale != 0.0 && scale != 1.0)
            || architecture == "minicpm3"
        {
            return Err(refuse(
                "expected logits as the output matrix gives them, found scaled or capped ones".to_owned(),
            ));
        }
        if find(HEAD_BIAS).is_some() {
            return Err(refuse(format!("expected an output matrix without a bias, found {HEAD_BIAS}")));
        }
        let embedding = find(EMBEDDING).ok_or_else(|| refuse(format!("expected a tensor {EMBEDDING}")))?;
        // Many models use one matrix for both.
        let head = find(HEAD).unwrap_or_else(|| embedding.clone());
        let n_embd = files[0].embedding_length().unwrap_or_default();
        let matrix = |(file, tensor): (usize, Tensor)| {
            let [n_columns, _] = tensor.dims[..] else {
                return Err(refuse(format!("{}: expected 2 dimensions, found {}", tensor.name, tensor.dims.len())));
            };
            if n_columns != u64::from(n_embd) {
                return Err(refuse(format!("{}: expected rows of {n_embd}, found {n_columns}", tensor.name)));
            }
            let decoder = Decoder::new(tensor.tensor_type);
            let decoder = decoder
                .ok_or_else(|| refuse(format!("{}: cannot read the type {}", tensor.name, tensor.tensor_type.name)))?;
            // The reader checked that rows are whole blocks, and that the file has all of them.
            let row_bytes = tensor.tensor_type.size_bytes(n_columns).unwrap_or_default() as usize;
            Ok(Matrix { file, tensor, decoder, row_bytes })
        };
        let (embedding, head) = (matrix(embedding)?, matrix(head)?);
        let n_vocab = embedding.tensor.dims[1].min(head.tensor.dims[1]) as usize;
        Ok(TargetMatrices { files, embedding, head, n_embd: n_embd as usize, n_vocab })
    }

    /// The width of a row, which is that of the hidden states.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.n_embd
    }

    /// The number of tokens that have a row in both matrices.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Fills `row` with the embedding of `token`.
    ///
    /// # Panics
    /// If the token is not below [`n_vocab`](Self::n_vocab), or the row is not [`n_embd`](Self::n_embd) long.
    pub fn embedding(&self, token: Token, row: &mut [f32]) {
        self.read(&self.embedding, token, row);
    }

    /// Fills `row` with the token's row of the output matrix. Its product with a hidden state is the token's logit.
    ///
    /// # Panics
    /// If the token is not below [`n_vocab`](Self::n_vocab), or the row is not [`n_embd`](Self::n_embd) long.
    pub fn head(&self, token: Token, row: &mut [f32]) {
        self.read(&self.head, token, row);
    }

    fn read(&self, matrix: &Matrix, token: Token, row: &mut [f32]) {
        assert!(token.index() < self.n_vocab, "token {} of {}", token.0, self.n_vocab);
        assert_eq!(row.len(), self.n_embd, "the length of a row");
        let data = self.files[matrix.file].data(&matrix.tensor).expect("the reader checked that the file has it");
        matrix.decoder.decode(&data[token.index() * matrix.row_bytes..][..matrix.row_bytes], row);
    }
}
