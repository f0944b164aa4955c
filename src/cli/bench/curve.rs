//! `bench --curve`: measures the time of n rows in one batch, and c(n), as a table, a text plot on stderr, and an SVG
//! picture.

use std::fs::File;
use std::io::Write as _;

use crate::cli::bench::Bench;
use crate::cli::bench::chart::{Point, Series, plot, svg};
use crate::cli::bench::stats::{median, range};
use crate::cli::bench::table::{Row, Table};
use crate::cli::failure::Failure;
use crate::cli::output::stderr_line;
use crate::llama::engine::measure::What;

const N_REPEATS: usize = 5;

/// Covers every stair seen so far: groups of 4 and of 8 rows.
const WIDTHS: [usize; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64];

pub(super) fn measure(bench: &mut Bench<'_>, picture: Option<File>) -> Result<Vec<Table>, Failure> {
    let mut widths = bench.args.curve.widths.clone();
    if widths.is_empty() {
        widths.extend(WIDTHS);
    }
    // c(n) is relative to one row.
    widths.push(1);
    widths.sort_unstable();
    widths.dedup();
    let n_repeats = bench.args.repetitions.unwrap_or(N_REPEATS);
    let mut rows = Vec::new();
    let mut curves = Vec::new();
    for &depth in &bench.args.curve.depth {
        stderr_line(&format!("{depth} tokens in the context, {} widths", widths.len()));
        let samples = bench.times(What::Batches { depth, widths: widths.clone(), n_repeats })?;
        let one_row_ms = median(&samples[0]);
        let mut points = Vec::new();
        for (&n_rows, samples_ms) in widths.iter().zip(&samples) {
            let row = row(depth, n_rows, samples_ms, one_row_ms);
            bench.raw.write(&bench.setup, &row)?;
            rows.push(row);
            let (least, greatest) = range(samples_ms);
            let [cost, least, greatest] = [median(samples_ms), least, greatest].map(|ms| ms / one_row_ms);
            points.push(Point { n_rows, cost, least, greatest });
        }
        curves.push(Series { name: format!("{depth} tokens in the context"), points });
    }
    stderr_line(&plot(&curves));
    if let (Some(mut file), Some(path)) = (picture, &bench.args.curve.svg) {
        let title = super::model_name(bench.args);
        let svg = svg(&title, &curves).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        file.write_all(svg.as_bytes()).map_err(|error| Failure::io(path, &error))?;
    }
    Ok(vec![Table { name: "curve", rows }])
}

fn row(depth: usize, n_rows: usize, samples_ms: &[f64], one_row_ms: f64) -> Row {
    let (median_ms, (least, greatest)) = (median(samples_ms), range(samples_ms));
    let cost = median_ms / one_row_ms;
    Row::default()
        .count("depth", "context", depth)
        .count("n_rows", "rows", n_rows)
        .number("median_ms", "ms", median_ms, 2)
        .number("min_ms", "min – max", least, 2)
        .shown(format!("{least:.2} – {greatest:.2}"))
        .hidden("max_ms", greatest)
        .number("cost", "c(n)", cost, 2)
        .number("rows_per_second", "rows/s", n_rows as f64 * 1e3 / median_ms, 1)
        .hidden("samples_ms", samples_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_in_units_of_one_row() {
        let row = serde_json::to_value(row(256, 4, &[30.0, 20.0, 25.0], 10.0)).unwrap();
        let figures =
            ["median_ms", "min_ms", "max_ms", "cost", "rows_per_second"].map(|key| row[key].as_f64().unwrap());
        assert_eq!(figures, [25.0, 20.0, 30.0, 2.5, 160.0]);
    }
}
