//! Drafts and verifies a text without a model, on a scripted target. A runner implements `Target` with its KV cache.
//!
//! `cargo run -p chaski-draft --example speculate`

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::ops::ControlFlow;
use std::time::Duration;

use chaski_draft::accept::Greedy;
use chaski_draft::cost::CostCurve;
use chaski_draft::generate::Length;
use chaski_draft::speculator::Speculator;
use chaski_draft::target::Scripted;
use chaski_draft::token::Token;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 50 tokens. Each token depends only on the two before it, so the text repeats itself.
    let target = Scripted::new(50, 2, 7);
    // Milliseconds for a batch of n rows. A runner measures these on its machine.
    let curve = CostCurve::exact([(1, 46.0), (2, 51.5), (4, 57.0), (8, 71.0), (16, 103.0)]);
    // A stopped clock leaves the curve unchanged. A runner uses `let start = Instant::now(); move || start.elapsed()`.
    let mut speculator = Speculator::new(target, curve, || Duration::ZERO);

    let prompt = [Token(1), Token(2), Token(3)];
    let length = Length { max_tokens: 200, n_ctx: 1024 };
    let mut emit = |_token| ControlFlow::Continue(());
    let generated = speculator.generate(&prompt, length, &mut Greedy, &mut emit)?;

    let stats = generated.stats;
    println!("{} tokens in {} steps: {:.2} tokens/step", stats.n_predicted, stats.n_steps, stats.tokens_per_step());
    println!("{} of {} drafted tokens accepted", stats.n_accepted, stats.n_drafted);
    Ok(())
}
