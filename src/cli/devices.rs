//! `chaski devices`: shows the back ends of this build, the devices that they see, and where a model would run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::available::available;
use crate::cli::args::GpuLayers;
use crate::cli::context_size::shape_of;
use crate::cli::engine::open_model;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::gpu_layers::GpuMemory;
use crate::cli::output::write_stdout;
use crate::cli::settings::settings_of;
use crate::llama::devices::{Device, DeviceKind, backends, devices, offload_targets};
use crate::llama::logs;

/// Context sizes for which a model's layers are counted, in tokens.
const CONTEXTS: [usize; 3] = [4096, 16_384, 65_536];

/// Arguments of `devices`.
#[derive(Debug, ClapArgs)]
pub struct DevicesArgs {
    /// Also show how many layers of this model fit on the GPU
    #[arg(short, long, value_name = "FILE|NAME")]
    pub model: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    backends: Vec<String>,
    devices: Vec<DeviceReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelReport>,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    description: String,
    backend: String,
    kind: &'static str,
    total_bytes: u64,
    free_bytes: u64,
    /// Layers go there.
    offload: bool,
}

#[derive(Serialize)]
struct ModelReport {
    n_layers: usize,
    on_gpu: Vec<OnGpu>,
}

/// The layers on the GPU with a context.
#[derive(Serialize)]
struct OnGpu {
    n_ctx: usize,
    /// `null` if the memory of the GPU is unknown: all layers go to it.
    n_gpu_layers: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be read.
pub fn show(args: &DevicesArgs) -> Result<ExitCode, Failure> {
    logs::capture(false);
    let all = devices();
    let targets: Vec<String> = offload_targets(&all).into_iter().map(|device| device.name.clone()).collect();
    let report = Report {
        backends: backends(),
        devices: all.into_iter().map(|device| device_report(device, &targets)).collect(),
        model: args.model.as_deref().map(model_report).transpose()?,
    };
    write_stdout(&match args.json {
        true => serde_json::to_string(&report).expect("strings and numbers serialize") + "\n",
        false => table(&report),
    })?;
    Ok(ExitCode::Success)
}

fn device_report(device: Device, targets: &[String]) -> DeviceReport {
    DeviceReport {
        offload: targets.contains(&device.name),
        name: device.name,
        description: device.description,
        backend: device.backend,
        kind: device.kind.name(),
        total_bytes: device.total_bytes,
        // llama.cpp says that all memory of a CPU is free.
        free_bytes: available().filter(|_| device.kind == DeviceKind::Cpu).unwrap_or(device.free_bytes),
    }
}

fn model_report(path: &Path) -> Result<ModelReport, Failure> {
    let gguf = open_model(path)?;
    let shape = shape_of(&gguf)?;
    let settings = settings_of(path, GpuLayers::Auto);
    let (memory, has_gpu) = (GpuMemory::now(), !offload_targets(&devices()).is_empty());
    let trained = shape.n_ctx_train.max(1);
    let mut contexts: Vec<usize> = CONTEXTS.into_iter().map(|n_ctx| n_ctx.min(trained)).collect();
    contexts.dedup();
    let on_gpu = |n_ctx| {
        let fitting = memory.map(|memory| memory.most_layers(&shape, n_ctx, settings.at(n_ctx)));
        let n_gpu_layers = if has_gpu { fitting } else { Some(0) };
        OnGpu { n_ctx, n_gpu_layers }
    };
    Ok(ModelReport { n_layers: shape.n_gpu_layers(), on_gpu: contexts.into_iter().map(on_gpu).collect() })
}

fn table(report: &Report) -> String {
    let mut text = format!("back ends in this build: {}\n\n", report.backends.join(", "));
    let width = |of: fn(&DeviceReport) -> &str| report.devices.iter().map(|device| of(device).len()).max().unwrap_or(0);
    let (name, kind) = (width(|device| &device.name), width(|device| device.kind));
    for device in &report.devices {
        let memory = match device.total_bytes {
            0 => "memory unknown".to_owned(),
            total => format!("{} of {} free", HumanBytes(device.free_bytes), HumanBytes(total)),
        };
        let DeviceReport { description, .. } = device;
        let _ = writeln!(text, "{:<name$}  {:<kind$}  {memory:<28}  {description}", device.name, device.kind);
    }
    let targets: Vec<&str> =
        report.devices.iter().filter(|device| device.offload).map(|device| device.name.as_str()).collect();
    match targets[..] {
        [] => text.push_str("\nno GPU: all layers run on the CPU\n"),
        _ => {
            let _ = writeln!(text, "\nlayers run on {} as far as they fit (-ngl auto)", targets.join(" and "));
        }
    }
    if let Some(model) = report.model.as_ref().filter(|_| !targets.is_empty()) {
        for OnGpu { n_ctx, n_gpu_layers } in &model.on_gpu {
            let _ = match n_gpu_layers {
                Some(n) => writeln!(text, "-c {n_ctx}: {n} of {} layers of this model fit there", model.n_layers),
                None => writeln!(text, "-c {n_ctx}: the GPU's memory is unknown; all layers go to it"),
            };
        }
    }
    text
}
