//! The devices that this build's back ends see.

use std::ffi::CStr;

use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};

/// A device that can compute layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// llama.cpp's name, such as `CPU` or `Vulkan0`.
    pub name: String,
    /// The hardware.
    pub description: String,
    /// The back end, such as `CPU`, `Vulkan`, `Metal` or `CUDA`.
    pub backend: String,
    /// The hardware's address, such as `0000:01:00.0`, if the back end knows it. Two back ends can see the same hardware.
    pub id: Option<String>,
    /// What it is.
    pub kind: DeviceKind,
    /// Bytes of its memory; 0 if the back end does not know.
    pub total_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
    /// A GPU that shares the machine's memory.
    IntegratedGpu,
    /// Something that helps the CPU, such as a BLAS library.
    Accelerator,
}

impl DeviceKind {
    /// The kind in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Gpu => "gpu",
            DeviceKind::IntegratedGpu => "integrated-gpu",
            DeviceKind::Accelerator => "accelerator",
        }
    }
}

/// The names of the back ends in this build, such as `CPU` and `Vulkan`. One may have no device.
#[must_use]
#[expect(unsafe_code, reason = "the safe bindings do not list back ends")]
pub fn backends() -> Vec<String> {
    // SAFETY: the list is created once, under a lock, and its entries and their names are static.
    let name = |index| unsafe {
        CStr::from_ptr(llama_cpp_sys_2::ggml_backend_reg_name(llama_cpp_sys_2::ggml_backend_reg_get(index)))
    };
    // SAFETY: as above.
    let n = unsafe { llama_cpp_sys_2::ggml_backend_reg_count() };
    (0..n).map(|index| name(index).to_string_lossy().into_owned()).collect()
}

/// All devices, in llama.cpp's order.
#[must_use]
pub fn devices() -> Vec<Device> {
    list_llama_ggml_backend_devices().into_iter().map(Device::from).collect()
}

/// The GPUs among `devices` that llama.cpp offloads to: those with memory of their own, each once, or, if there are none, the
/// integrated ones of the first one's back end.
#[must_use]
pub fn offload_targets(devices: &[Device]) -> Vec<&Device> {
    let of_kind = |kind| devices.iter().filter(move |device| device.kind == kind);
    let mut gpus: Vec<&Device> = Vec::new();
    for gpu in of_kind(DeviceKind::Gpu) {
        if gpu.id.is_none() || gpus.iter().all(|seen| seen.id != gpu.id) {
            gpus.push(gpu);
        }
    }
    if !gpus.is_empty() {
        return gpus;
    }
    let integrated: Vec<&Device> = of_kind(DeviceKind::IntegratedGpu).collect();
    let first = integrated.first().map(|device| &device.backend);
    integrated.iter().copied().filter(|device| Some(&device.backend) == first).collect()
}

impl From<LlamaBackendDevice> for Device {
    fn from(device: LlamaBackendDevice) -> Device {
        // On Apple's processors, Metal's GPU shares the machine's memory, though llama.cpp does not say so.
        let is_shared = cfg!(target_arch = "aarch64") && (device.backend == "MTL" || device.backend == "Metal");
        let kind = match device.device_type {
            LlamaBackendDeviceType::Gpu if is_shared => DeviceKind::IntegratedGpu,
            LlamaBackendDeviceType::Gpu => DeviceKind::Gpu,
            LlamaBackendDeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
            LlamaBackendDeviceType::Cpu => DeviceKind::Cpu,
            LlamaBackendDeviceType::Accelerator | LlamaBackendDeviceType::Unknown => DeviceKind::Accelerator,
        };
        Device {
            id: hardware_id(device.index),
            name: device.name,
            description: device.description,
            backend: device.backend,
            kind,
            total_bytes: device.memory_total as u64,
            free_bytes: device.memory_free as u64,
        }
    }
}

/// The address of the hardware behind ggml's device `index`.
#[expect(unsafe_code, reason = "the safe bindings leave it out")]
fn hardware_id(index: usize) -> Option<String> {
    // SAFETY: the index comes from ggml's list, which only grows. ggml fills in the properties, and its strings are static or
    // live as long as the device.
    let id = unsafe {
        let mut properties = std::mem::zeroed();
        llama_cpp_sys_2::ggml_backend_dev_get_props(llama_cpp_sys_2::ggml_backend_dev_get(index), &raw mut properties);
        (!properties.device_id.is_null()).then(|| CStr::from_ptr(properties.device_id))
    };
    id.map(|id| id.to_string_lossy().into_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, backend: &str, kind: DeviceKind) -> Device {
        let (name, backend) = (name.to_owned(), backend.to_owned());
        Device { name, description: String::new(), backend, id: None, kind, total_bytes: 1, free_bytes: 1 }
    }

    #[test]
    fn gpus_with_memory_of_their_own_come_first() {
        let cpu = device("CPU", "CPU", DeviceKind::Cpu);
        let integrated = device("Vulkan0", "Vulkan", DeviceKind::IntegratedGpu);
        let again = device("OpenCL0", "OpenCL", DeviceKind::IntegratedGpu);
        let gpu = device("Vulkan1", "Vulkan", DeviceKind::Gpu);
        let names = |devices: &[&Device]| {
            let devices: Vec<Device> = devices.iter().map(|device| (*device).clone()).collect();
            offload_targets(&devices).into_iter().map(|device| device.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[&cpu]), [""; 0]);
        assert_eq!(names(&[&integrated, &again, &cpu]), ["Vulkan0"]);
        assert_eq!(names(&[&integrated, &gpu, &gpu, &cpu]), ["Vulkan1", "Vulkan1"]);
        // Two back ends see one GPU.
        let at = |device: &Device, id: &str| Device { id: Some(id.to_owned()), ..device.clone() };
        let cuda = |id| at(&device("CUDA0", "CUDA", DeviceKind::Gpu), id);
        assert_eq!(names(&[&cuda("01:00"), &at(&gpu, "01:00"), &gpu]), ["CUDA0", "Vulkan1"]);
        assert_eq!(names(&[&cuda("01:00"), &at(&gpu, "02:00")]), ["CUDA0", "Vulkan1"]);
    }

    #[test]
    fn the_cpu_is_a_device() {
        assert!(backends().contains(&"CPU".to_owned()), "{:?}", backends());
        let devices = devices();
        let cpus: Vec<&Device> = devices.iter().filter(|device| device.kind == DeviceKind::Cpu).collect();
        assert!(cpus.iter().any(|cpu| cpu.backend == "CPU" && !cpu.description.is_empty()), "{devices:?}");
    }
}
