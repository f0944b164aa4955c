//! `chaski models show`: prints what a model file contains. Its texts are untrusted and are sanitized first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::available::available;
use crate::cli::args::GpuLayers;
use crate::cli::context_size::shape_of;
use crate::cli::engine::{curves_folder, open_model};
use crate::cli::exact::{self, ExactFields};
use crate::cli::failure::Failure;
use crate::cli::kernels::{self, KernelReport};
use crate::cli::models::list::{clean, parameters};
use crate::cli::models::{ShowArgs, draft_models_for};
use crate::cli::output::write_stdout;
use crate::cli::settings::{key, settings_of};
use crate::exactness::Exactness;
use crate::gguf::{Gguf, TypeTotals, Value};
use crate::memory::Estimate;
use crate::models::describe::{About, about};
use crate::store::curves;

/// Characters of a value to show.
const MAX_SHOWN: usize = 96;

/// Elements of an array to show.
const N_SHOWN_ELEMENTS: usize = 4;

/// Context size of the memory estimate, in tokens, or the trained length if that is shorter.
const N_CTX: usize = 4096;

/// Marker strings that identify a known template.
const TEMPLATES: [(&str, &str); 7] = [
    ("<|im_start|>", "chatml"),
    ("<|start_header_id|>", "llama 3"),
    ("<start_of_turn>", "gemma"),
    ("<|channel|>", "gpt-oss"),
    ("[INST]", "mistral"),
    ("<|user|>", "phi or zephyr"),
    ("<\u{ff5c}User\u{ff5c}>", "deepseek"),
];

#[derive(Serialize)]
struct Report {
    path: String,
    name: Option<String>,
    licence: Option<String>,
    #[serde(flatten)]
    about: About,
    gguf_version: u32,
    tensors: Vec<TypeTotals>,
    template: Template,
    kernels: KernelReport,
    #[serde(flatten)]
    exact: ExactFields,
    #[serde(skip)]
    exactness: Exactness,
    memory: Memory,
    /// Models on this machine that could draft for it.
    draft_models: Vec<String>,
    /// Speed of plain decoding, from the saved cost curve for these settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    metadata: BTreeMap<String, Json>,
}

#[derive(Serialize)]
struct Template {
    bytes: usize,
    kind: Option<&'static str>,
}

#[derive(Serialize)]
struct Memory {
    n_ctx: usize,
    settings: String,
    #[serde(flatten)]
    estimate: Estimate,
    total_bytes: u64,
    available_bytes: Option<u64>,
}

pub(super) fn show(args: &ShowArgs) -> Result<(), Failure> {
    kernels::check()?;
    let gguf = open_model(&args.model)?;
    let report = report(&args.model, &gguf)?;
    write_stdout(&if args.json {
        serde_json::to_string(&report).expect("strings and numbers serialize") + "\n"
    } else {
        to_text(&report)
    })
}

fn report(path: &Path, gguf: &Gguf) -> Result<Report, Failure> {
    let about = about(gguf)?;
    let template = gguf.chat_template().unwrap_or_default();
    let known = TEMPLATES.iter().find(|(sign, _)| template.contains(sign)).map(|(_, kind)| *kind);
    let kind = if template.is_empty() { None } else { Some(known.unwrap_or("its own")) };
    let shape = shape_of(gguf)?;
    let settings = settings_of(path, GpuLayers::Auto).short;
    let n_ctx = N_CTX.min(shape.n_ctx_train);
    let estimate = shape.estimate(n_ctx, &settings);
    let curve_key = key(path, GpuLayers::Auto).with_settings(&settings.to_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let curve = curves_folder().and_then(|folder| curves::load(&folder, &curve_key, now));
    let plain_ms = curve.and_then(|(curve, _)| curve.plain_ms(0));
    let kernels = KernelReport::of(gguf);
    let exactness = exact::of_file(&kernels, &settings);
    Ok(Report {
        path: path.to_string_lossy().into_owned(),
        name: gguf.name().map(str::to_owned),
        licence: ["general.license", "general.license.name"]
            .iter()
            .find_map(|key| gguf.get_str(key))
            .map(str::to_owned),
        about,
        gguf_version: gguf.version(),
        tensors: gguf.tensors_by_type(),
        template: Template { bytes: template.len(), kind },
        kernels,
        exact: ExactFields::from(&exactness),
        exactness,
        memory: Memory {
            n_ctx,
            settings: settings.to_string(),
            total_bytes: estimate.total(),
            estimate,
            available_bytes: available(),
        },
        draft_models: draft_models_for(gguf),
        tokens_per_second: plain_ms.map(|ms| 1e3 / ms),
        metadata: gguf.metadata().map(|(key, value)| (key.to_owned(), to_json(&value))).collect(),
    })
}

/// Converts a value: long texts are cut, and arrays become their length and first elements.
fn to_json(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(v) => json!(v),
        Value::Str(text) => json!(cut(&String::from_utf8_lossy(text))),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(array) => {
            let first: Vec<Json> = array.iter().take(N_SHOWN_ELEMENTS).map(|value| to_json(&value)).collect();
            json!({ "type": array.element_type().name(), "length": array.len(), "first": first })
        }
        Value::I8(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::I64(v) => json!(v),
        other => json!(other.as_u64()),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn to_text(report: &Report) -> String {
    let about = &report.about;
    let of = |bytes: u64| HumanBytes(bytes).to_string();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<14}{}", clean(&value));
    };
    line("file", report.path.clone());
    line("name", report.name.clone().unwrap_or_else(|| "unknown".to_owned()));
    line("architecture", about.architecture.clone());
    line("parameters", parameters(about.n_parameters));
    line("quantization", about.quantization.clone());
    line("size", format!("{} in {} {}", of(about.size_bytes), about.n_files, plural(about.n_files as u64, "file")));
    line("context", format!("{} positions", HumanCount(about.context_length.into())));
    line("licence", report.licence.clone().unwrap_or_else(|| "unknown".to_owned()));
    line(
        "template",
        match report.template.kind {
            Some(kind) => format!("{kind}, {} bytes", report.template.bytes),
            None => "none".to_owned(),
        },
    );
    line("kernels", report.kernels.to_string());
    line("exact", format!("on this machine: {}", report.exactness));
    let memory = &report.memory;
    let Estimate { weights, copies, cache, compute, program } = memory.estimate;
    line(
        "memory",
        format!(
            "{} with a context of {} tokens: weights {}, copies for faster kernels {}, cache {}, computing {}, \
             program {}",
            of(memory.total_bytes),
            memory.n_ctx,
            of(weights),
            of(copies),
            of(cache),
            of(compute),
            of(program)
        ),
    );
    if let Some(available) = memory.available_bytes {
        line("available", of(available));
    }
    if !report.draft_models.is_empty() {
        line("draft models", format!("{} (-md)", report.draft_models.join(", ")));
    }
    if let Some(speed) = report.tokens_per_second {
        line("speed", format!("{speed:.1} tokens/s with plain decoding, measured on this machine"));
    }
    text += "\ntensors\n";
    for of_type in &report.tensors {
        let _ = writeln!(text, "  {:<8} {:>6} {:>12}", of_type.name, of_type.count, of(of_type.bytes));
    }
    text += "\nmetadata\n";
    for (key, value) in &report.metadata {
        let _ = writeln!(text, "  {} = {}", clean(key), clean(&cut(&value.to_string())));
    }
    text
}

fn plural(n: u64, what: &str) -> String {
    if n == 1 { what.to_owned() } else { format!("{what}s") }
}
