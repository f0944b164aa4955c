//! A drafted text against the plain one, token by token and row by row.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;

use chaski::accept::Sampler;
use chaski::target::TargetError;
use chaski::token::Token;

/// The greatest difference between two logits that rounding makes. On a GPU, llama.cpp's Vulkan code attends in F16 where a batch
/// has several rows, even if the cache is F32 and `GGML_VK_DISABLE_F16` is set, and in F32 where it has one (0.003 was seen).
pub fn rounding(on_cpu: f32) -> f32 {
    if super::on_gpu() { 0.01 } else { on_cpu }
}

/// Keeps the rows of logits that a sampler gets.
pub struct Recorder {
    sampler: Box<dyn Sampler>,
    rows: Rc<RefCell<Vec<Vec<f32>>>>,
}

/// The rows of logits of one text.
#[derive(Clone, Default)]
pub struct Rows(Rc<RefCell<Vec<Vec<f32>>>>);

impl Rows {
    /// A sampler whose rows are kept here.
    pub fn of(&self, sampler: Box<dyn Sampler>) -> Recorder {
        Recorder { sampler, rows: Rc::clone(&self.0) }
    }

    /// The text whose tokens were sampled from these rows.
    pub fn text(&self, tokens: Vec<Token>) -> Sampled {
        let rows = self.0.take();
        assert_eq!(tokens.len(), rows.len(), "each token is sampled once");
        Sampled { tokens, rows }
    }
}

impl Sampler for Recorder {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        self.rows.borrow_mut().push(logits.to_vec());
        self.sampler.sample(logits)
    }
}

/// A text, with the row of logits from which each token was sampled.
pub struct Sampled {
    pub tokens: Vec<Token>,
    rows: Vec<Vec<f32>>,
}

impl Sampled {
    /// Asserts that this text is `plain`, with the same logits, and returns how many tokens were compared. On a GPU, rounding may
    /// change a draw: then the logits must be the same up to the first token that differs.
    #[track_caller]
    pub fn compare(&self, plain: &Sampled, what: &str) -> Compared {
        let n_same = self.tokens.iter().zip(&plain.tokens).take_while(|(a, b)| a == b).count();
        for (at, (row, expected)) in self.rows.iter().zip(&plain.rows).enumerate().take(n_same + 1) {
            let difference = greatest_difference(row, expected);
            assert!(difference <= rounding(1e-3), "{what}: the logits of token {at} differ by {difference}");
        }
        // Rows of other texts are told apart by that.
        let neighbours = plain.rows.windows(2).map(|pair| greatest_difference(&pair[0], &pair[1]));
        let n_far = neighbours.filter(|&difference| difference > 10.0 * rounding(1e-3)).count();
        assert!(2 * n_far >= plain.rows.len() - 1, "{what}: the logits of neighbouring tokens are alike");
        let is_same = self.tokens == plain.tokens;
        if !is_same {
            assert!(super::on_gpu() && n_same < plain.tokens.len(), "{what}: only {n_same} tokens are the same");
            assert_ne!(self.rows[n_same], plain.rows[n_same], "{what}: the same logits gave another token");
        }
        Compared { n_tokens: plain.tokens.len(), n_same, is_same }
    }
}

/// The greatest difference of two numbers at the same place; infinity where one is NaN.
pub fn greatest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(a, b): (&f32, &f32)| if a == b { 0.0 } else { (a - b).abs() };
    let counted = |difference: f32| if difference.is_nan() { f32::INFINITY } else { difference };
    a.iter().zip(b).map(difference).map(counted).fold(0.0, f32::max)
}

/// How far a text is the same as another one.
#[derive(Clone, Copy)]
pub struct Compared {
    pub n_tokens: usize,
    pub n_same: usize,
    pub is_same: bool,
}

/// Adds up comparisons. Most tokens must be the same, else only beginnings were compared.
#[derive(Default)]
pub struct Comparisons {
    n_tokens: usize,
    n_same: usize,
    n_changed: usize,
}

impl Comparisons {
    pub fn add(&mut self, compared: Compared) {
        self.n_tokens += compared.n_tokens;
        self.n_same += compared.n_same;
        self.n_changed += usize::from(!compared.is_same);
    }

    #[track_caller]
    pub fn check(&self) {
        let Comparisons { n_tokens, n_same, n_changed } = self;
        assert!(super::on_gpu() || *n_changed == 0, "{n_changed} texts are different");
        if *n_changed > 0 {
            let _ = writeln!(
                std::io::stderr(),
                "rounding changed {n_changed} texts; {n_same} of {n_tokens} tokens are the same"
            );
        }
        assert!(3 * n_same >= 2 * n_tokens, "only {n_same} of {n_tokens} tokens are the same");
    }
}
