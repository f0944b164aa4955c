//! `bench --rows`: the figures of llama-bench, measured the same way.
//!
//! `pp` decodes a prompt of n tokens. `tg` decodes n tokens one by one from an empty context, without sampling. Rows
//! show the mean and standard deviation of the rates.

use crate::cli::bench::Bench;
use crate::cli::bench::stats::{mean, standard_deviation};
use crate::cli::bench::table::{Row, Table};
use crate::cli::failure::Failure;
use crate::llama::engine::measure::What;

const N_REPEATS: usize = 5;

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<Vec<Table>, Failure> {
    let args = &bench.args.rows;
    if args.pp.contains(&0) || args.tg.contains(&0) {
        return Err(Failure::usage("--pp and --tg must be 1 or more"));
    }
    let n_repeats = bench.args.repetitions.unwrap_or(N_REPEATS);
    let prefills = args.pp.iter().map(|&n_tokens| (n_tokens, 0, What::Prefill { n_tokens, n_repeats }));
    let decodes = args.tg.iter().map(|&n_tokens| (0, n_tokens, What::Decode { n_tokens, n_repeats }));
    let mut rows = Vec::new();
    for (n_prompt, n_gen, what) in prefills.chain(decodes) {
        let samples_ms = bench.times(what)?.concat();
        let row = row(n_prompt, n_gen, &samples_ms);
        bench.raw.write(&bench.setup, &row)?;
        rows.push(row);
    }
    Ok(vec![Table { name: "rows", rows }])
}

/// Column names are llama-bench's where it has the column.
fn row(n_prompt: usize, n_gen: usize, samples_ms: &[f64]) -> Row {
    let n_tokens = n_prompt + n_gen;
    let rates: Vec<f64> = samples_ms.iter().map(|ms| n_tokens as f64 * 1e3 / ms).collect();
    let (avg, stddev) = (mean(&rates), standard_deviation(&rates));
    Row::default()
        .text("test", "test", &if n_gen == 0 { format!("pp{n_prompt}") } else { format!("tg{n_gen}") })
        .hidden("n_prompt", n_prompt)
        .hidden("n_gen", n_gen)
        .number("avg_ts", "t/s", avg, 2)
        .shown(format!("{avg:.2} ± {stddev:.2}"))
        .hidden("stddev_ts", stddev)
        .hidden("samples_ms", samples_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_tokens_a_second() {
        let row = serde_json::to_value(row(0, 128, &[1000.0, 4000.0])).unwrap();
        assert_eq!(
            (&row["test"], row["avg_ts"].as_f64(), row["n_gen"].as_u64()),
            (&"tg128".into(), Some(80.0), Some(128))
        );
        assert!((row["stddev_ts"].as_f64().unwrap() - 67.882).abs() < 1e-3);
    }
}
