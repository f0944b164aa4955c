//! Picks how many layers go to the GPU, and checks that they fit there.

use std::path::Path;

use indicatif::HumanBytes;

use crate::available::available;
use crate::cli::args::GpuLayers;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::stderr_line;
use crate::llama::devices::{Device, DeviceKind, devices, offload_targets};
use crate::memory::{ModelShape, Split};
use crate::tune::Settings;

/// What a GPU's driver, the screen and other programs may still take, in bytes.
const SPARE_BYTES: u64 = 256 << 20;

/// The same as a share of the memory: 1 / this.
const SPARE_SHARE: u64 = 20;

/// The memory in which layers of the GPU have to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// Free bytes, without a reserve.
    pub available: u64,
    /// It is the machine's own memory.
    pub is_shared: bool,
}

impl GpuMemory {
    /// Of the GPUs that llama.cpp would use; `None` if there are none, or their memory is unknown.
    #[must_use]
    pub fn now() -> Option<GpuMemory> {
        GpuMemory::of(&offload_targets(&devices()), available())
    }

    fn of(gpus: &[&Device], machine: Option<u64>) -> Option<GpuMemory> {
        let is_known = |device: &&Device| device.total_bytes > 0;
        if gpus.is_empty() || !gpus.iter().all(is_known) {
            return None;
        }
        let spared = |gpu: &&Device| gpu.free_bytes.saturating_sub(SPARE_BYTES.max(gpu.total_bytes / SPARE_SHARE));
        let is_shared = gpus.iter().all(|gpu| gpu.kind == DeviceKind::IntegratedGpu);
        let free = gpus.iter().map(spared).fold(0, u64::saturating_add);
        let available = if is_shared { free.min(machine.unwrap_or(free)) } else { free };
        Some(GpuMemory { available, is_shared })
    }

    /// The most layers that fit with a context of `n_ctx` tokens. In shared memory, those of the CPU have to fit as well.
    #[must_use]
    pub fn most_layers(&self, shape: &ModelShape, n_ctx: usize, settings: &Settings) -> usize {
        let most = shape.most_gpu_layers(n_ctx, settings, self.available);
        let fits = |n: &usize| self.holds(&shape.split(n_ctx, settings, *n));
        if self.is_shared { (1..=most).rev().find(fits).unwrap_or(0) } else { most }
    }

    /// The largest context with which `n_layers` fit here, and the other layers into `machine` bytes.
    #[must_use]
    pub fn most_positions(
        &self,
        shape: &ModelShape,
        n_layers: usize,
        settings: &Settings,
        machine: u64,
    ) -> Option<usize> {
        shape.most_positions_where(|n_ctx| {
            let split = shape.split(n_ctx, settings, n_layers);
            self.holds(&split) && split.cpu.total() <= machine
        })
    }

    /// Whether the layers on the GPU fit; in shared memory, those on the CPU with them.
    fn holds(&self, split: &Split) -> bool {
        let beside = if self.is_shared { split.cpu.total() } else { 0 };
        split.gpu.total().saturating_add(beside) <= self.available
    }
}

/// The layers to run on the GPU, for llama.cpp; `None` is all. Prints a notice if `auto` leaves layers to the CPU.
///
/// # Errors
/// If layers that are asked for do not fit (exit code 5).
pub fn choose(
    model: &Path,
    wanted: GpuLayers,
    shape: &ModelShape,
    n_ctx: usize,
    settings: &Settings,
) -> Result<Option<u32>, Failure> {
    // Asking a GPU for its memory may start its driver.
    if wanted == GpuLayers::Number(0) {
        return Ok(Some(0));
    }
    match GpuMemory::now() {
        Some(memory) => choose_in(memory, model, wanted, shape, n_ctx, settings),
        None => Ok(wanted.number()),
    }
}

fn choose_in(
    memory: GpuMemory,
    model: &Path,
    wanted: GpuLayers,
    shape: &ModelShape,
    n_ctx: usize,
    settings: &Settings,
) -> Result<Option<u32>, Failure> {
    let (all, most) = (shape.n_gpu_layers(), memory.most_layers(shape, n_ctx, settings));
    let n = match wanted {
        GpuLayers::Auto if most < all => {
            stderr_line(&format!(
                "notice: {most} of {all} layers fit into the free GPU memory ({}); the CPU computes the others (-ngl {most})",
                HumanBytes(memory.available)
            ));
            return Ok(Some(u32::try_from(most).unwrap_or(u32::MAX)));
        }
        GpuLayers::Auto => return Ok(None),
        GpuLayers::All => all,
        GpuLayers::Number(n) => all.min(n as usize),
    };
    if n <= most {
        return Ok(wanted.number());
    }
    let Split { cpu, gpu } = shape.split(n_ctx, settings, n);
    let needed = if memory.is_shared { gpu.total().saturating_add(cpu.total()) } else { gpu.total() };
    let message = format!(
        "{}: with a context of {n_ctx} tokens, {n} of {all} layers need {} of GPU memory, but {} are free",
        model.display(),
        HumanBytes(needed),
        HumanBytes(memory.available),
    );
    let hint = format!("these would fit: -ngl {most}; to load them anyway, use --no-memory-check");
    Err(Failure::new(message).with_code(ExitCode::NotEnoughMemory).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{LayerShape, Weights};
    use crate::tune::{FlashAttention, KvType};

    const SETTINGS: Settings =
        Settings { flash_attention: FlashAttention::On, n_threads: 1, n_threads_batch: 1, kv_type: KvType::F16 };

    fn gpu(kind: DeviceKind, total_bytes: u64, free_bytes: u64) -> Device {
        let name = || "Vulkan0".to_owned();
        Device { name: name(), description: name(), backend: name(), id: None, kind, total_bytes, free_bytes }
    }

    /// 32 layers of 100 MB and an output of 200 MB.
    fn model() -> ModelShape {
        let weights = |bytes| Weights { in_file: bytes, mapped: bytes, copied: 0 };
        ModelShape {
            weights: weights(3400 << 20),
            output: weights(200 << 20),
            layers: vec![LayerShape { weights: weights(100 << 20), keys: 1024, values: 1024, state: 0 }; 32],
            n_vocab: 32_000,
            n_embd: 4096,
            n_ctx_train: 8192,
            ..ModelShape::default()
        }
    }

    fn chosen(available: u64, wanted: GpuLayers) -> Result<Option<u32>, String> {
        let memory = GpuMemory { available, is_shared: false };
        choose_in(memory, Path::new("m.gguf"), wanted, &model(), 4096, &SETTINGS).map_err(|error| {
            assert_eq!(error.code, ExitCode::NotEnoughMemory);
            error.to_string()
        })
    }

    #[test]
    fn as_many_layers_as_fit() {
        assert_eq!(chosen(u64::MAX, GpuLayers::Auto), Ok(None));
        assert_eq!(chosen(0, GpuLayers::Auto), Ok(Some(0)));
        let needed = |n| model().split(4096, &SETTINGS, n).gpu.total();
        assert_eq!(chosen(needed(20), GpuLayers::Auto), Ok(Some(20)));
        assert_eq!(chosen(needed(20) - 1, GpuLayers::Auto), Ok(Some(19)));
        // What is asked for is not changed.
        assert_eq!(chosen(needed(20), GpuLayers::Number(20)), Ok(Some(20)));
        assert_eq!(chosen(needed(20), GpuLayers::Number(0)), Ok(Some(0)));
        assert_eq!(chosen(needed(33), GpuLayers::All), Ok(None));
        assert_eq!(chosen(needed(33), GpuLayers::Number(99)), Ok(Some(99)));
        let refused = chosen(needed(20), GpuLayers::Number(21)).unwrap_err();
        assert!(refused.contains("21 of 33 layers need") && refused.contains("-ngl 20;"), "{refused}");
        let refused = chosen(needed(20), GpuLayers::All).unwrap_err();
        assert!(refused.contains("33 of 33 layers need") && refused.contains("-ngl 20;"), "{refused}");
    }

    #[test]
    fn the_memory_of_several_gpus_adds_up_and_some_is_spared() {
        let own = |total, free| gpu(DeviceKind::Gpu, total, free);
        let available = |gpus: &[&Device]| GpuMemory::of(gpus, Some(1 << 30)).map(|memory| memory.available);
        assert_eq!(available(&[]), None);
        assert_eq!(available(&[&own(8 << 30, 4 << 30)]), Some((4 << 30) - (8 << 30) / 20));
        assert_eq!(available(&[&own(1 << 30, 1 << 30)]), Some((1 << 30) - (256 << 20)));
        assert_eq!(available(&[&own(1 << 30, 1 << 30), &own(1 << 30, 1 << 20)]), Some((1 << 30) - (256 << 20)));
        assert_eq!(available(&[&own(0, 0)]), None, "its memory is unknown");
    }

    #[test]
    fn shared_memory_holds_both_parts() {
        let shared = gpu(DeviceKind::IntegratedGpu, 16 << 30, 15 << 30);
        let memory = GpuMemory::of(&[&shared], Some(4 << 30)).unwrap();
        assert_eq!(memory, GpuMemory { available: 4 << 30, is_shared: true });
        assert_eq!(memory.most_layers(&model(), 4096, &SETTINGS), 33);
        let split = model().split(4096, &SETTINGS, 33);
        let tight = GpuMemory { available: split.cpu.total() + split.gpu.total() - 1, is_shared: true };
        assert!(tight.most_layers(&model(), 4096, &SETTINGS) < 33);
    }

    #[test]
    fn the_largest_context_fits_on_both_sides() {
        let split = |n_ctx| model().split(n_ctx, &SETTINGS, 20);
        let (gpu, cpu) = (split(2048).gpu.total(), split(2048).cpu.total());
        let most = |available, is_shared, machine| {
            GpuMemory { available, is_shared }.most_positions(&model(), 20, &SETTINGS, machine)
        };
        assert_eq!(most(u64::MAX, false, u64::MAX), Some(8192), "as trained");
        assert_eq!(most(gpu, false, u64::MAX), Some(2048));
        assert_eq!(most(u64::MAX, false, cpu), Some(2048));
        assert_eq!(most(gpu + cpu, true, u64::MAX), Some(2048));
        assert!(most(gpu + cpu - 1, true, u64::MAX) < Some(2048));
        assert_eq!(most(0, false, u64::MAX), None);
    }
}
