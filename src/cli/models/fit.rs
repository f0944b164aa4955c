//! `chaski models fit`: shows which context sizes fit into memory, by KV cache type.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use serde::Serialize;

use crate::available::available;
use crate::cli::args::GpuLayers;
use crate::cli::context_size::shape_of;
use crate::cli::engine::open_model;
use crate::cli::failure::Failure;
use crate::cli::models::FitArgs;
use crate::cli::models::list::clean;
use crate::cli::output::write_stdout;
use crate::cli::settings::settings_of;
use crate::memory::{Estimate, ModelShape, cache_choices};
use crate::tune::{FlashAttention, KvType, Settings};

/// Smallest context of the table, in tokens.
const LEAST_N_CTX: usize = 2048;

#[derive(Serialize)]
struct Report {
    model: String,
    available_bytes: Option<u64>,
    n_ctx_train: usize,
    fits: Vec<Fit>,
}

#[derive(Serialize)]
struct Fit {
    n_ctx: usize,
    #[serde(flatten)]
    kv_type: KvType,
    flash_attn: FlashAttention,
    #[serde(flatten)]
    estimate: Estimate,
    total_bytes: u64,
    fits: bool,
}

pub(super) fn fit(args: &FitArgs) -> Result<(), Failure> {
    let gguf = open_model(&args.model)?;
    let shape = shape_of(&gguf)?;
    let available = available();
    let base = settings_of(&args.model, GpuLayers::Auto).short;
    let columns = cache_choices(&base);
    write_stdout(&if args.json {
        let report = Report {
            model: args.model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            available_bytes: available,
            n_ctx_train: shape.n_ctx_train,
            fits: rows(&shape)
                .flat_map(|n_ctx| columns.iter().map(move |(_, settings)| (n_ctx, settings)))
                .map(|(n_ctx, settings)| fit_of(&shape, n_ctx, settings, available))
                .collect(),
        };
        serde_json::to_string(&report).expect("strings and numbers serialize") + "\n"
    } else {
        table(&clean(&args.model.to_string_lossy()), &shape, &columns, available)
    })
}

/// Context sizes: powers of two, then the trained length.
fn rows(shape: &ModelShape) -> impl Iterator<Item = usize> {
    let n_ctx_train = shape.n_ctx_train;
    let doubling = std::iter::successors(Some(LEAST_N_CTX), |n| n.checked_mul(2));
    doubling.take_while(move |n| *n < n_ctx_train).chain([n_ctx_train])
}

fn fit_of(shape: &ModelShape, n_ctx: usize, settings: &Settings, available: Option<u64>) -> Fit {
    let estimate = shape.estimate(n_ctx, settings);
    let total_bytes = estimate.total();
    let fits = available.is_none_or(|n| total_bytes <= n);
    Fit { n_ctx, kv_type: settings.kv_type, flash_attn: settings.flash_attention, estimate, total_bytes, fits }
}

fn table(model: &str, shape: &ModelShape, columns: &[(&str, Settings)], available: Option<u64>) -> String {
    let Estimate { weights, copies, program, .. } = shape.estimate(0, &columns[0].1);
    let of = |bytes| HumanBytes(bytes).to_string();
    let mut text =
        format!("{model}: weights {}, copies for faster kernels {}, program {}", of(weights), of(copies), of(program));
    let _ = match available {
        Some(n) => writeln!(text, "; available {}\n", of(n)),
        None => writeln!(text, "; available memory unknown\n"),
    };
    let _ = writeln!(
        text,
        "{:>8}  {}",
        "-c",
        columns.iter().map(|(flags, _)| format!("{flags:<30}")).collect::<String>().trim_end()
    );
    for n_ctx in rows(shape) {
        let cells = columns.iter().map(|(_, settings)| {
            let fit = fit_of(shape, n_ctx, settings, available);
            let verdict = if fit.fits { "fits" } else { "does not fit" };
            format!("{:<30}", format!("{:>10}  {verdict}", of(fit.total_bytes)))
        });
        let _ = writeln!(text, "{n_ctx:>8}  {}", cells.collect::<String>().trim_end());
    }
    if let Some(available) = available {
        let cells = columns.iter().map(|(_, settings)| {
            let most = shape.most_positions(available, settings);
            format!("{:<30}", most.map_or_else(|| "none".to_owned(), |n| format!("{n:>10}  tokens fit")))
        });
        let _ = writeln!(text, "{:>8}  {}", "auto", cells.collect::<String>().trim_end());
    }
    text
}
