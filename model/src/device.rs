//! Where models are computed: on an NVIDIA GPU where this build has that (Cargo feature `cuda`) and one answers, else on the CPU.

use candle_core::{DType, Device};
use headwater_config::DeviceChoice;

/// Whether this program could use a GPU.
pub const BUILT: bool = cfg!(feature = "cuda");

/// Why there is no GPU to compute on, where one was asked for.
#[derive(Debug, thiserror::Error)]
#[error("no GPU to compute on: {why}")]
pub struct NoGpu {
    why: String,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Where to compute.
    pub device: Device,
    /// Why it is the CPU, where a GPU would have been taken.
    pub no_gpu: Option<String>,
}

/// The device that a choice stands for. Nothing of it panics: a GPU that does not answer is none.
///
/// # Errors
/// If a GPU was asked for and there is none that this build can use.
pub fn choose(choice: DeviceChoice) -> Result<Chosen, NoGpu> {
    let on = |device, no_gpu| Ok(Chosen { device, no_gpu });
    if choice == DeviceChoice::Cpu {
        return on(Device::Cpu, None);
    }
    match gpu() {
        Ok(device) => on(device, None),
        Err(why) if choice == DeviceChoice::Cuda => Err(NoGpu { why }),
        Err(why) => on(Device::Cpu, Some(why)),
    }
}

/// The first GPU.
fn gpu() -> Result<Device, String> {
    if !BUILT {
        return Err("this program was built without the feature `cuda`".to_owned());
    }
    // One stream a thread, in which all happens in its order; what a thread gives to another it has read a result of before.
    Device::new_cuda(0).map_err(|error| {
        // Behind the first line may be where it came from.
        let error = error.to_string();
        error.lines().next().unwrap_or_default().to_owned()
    })
}

/// The numbers that deep layers are computed in by default, where they learn or are learned with: 16 bits on a GPU, whose units for products of matrices are made
/// for them.
pub fn usual_numbers(device: &Device) -> DType {
    if device.is_cuda() {
        DType::BF16
    } else {
        DType::F32
    }
}

/// What it is called in logs and files.
pub fn name(device: &Device) -> &'static str {
    if device.is_cpu() { "cpu" } else { "cuda" }
}

/// Bytes of a GPU's memory that are in use, by whomever; `None` on a CPU.
#[must_use]
pub fn memory_used(device: &Device) -> Option<u64> {
    used(device)
}

#[cfg(feature = "cuda")]
fn used(device: &Device) -> Option<u64> {
    let Device::Cuda(device) = device else {
        return None;
    };
    let stream = device.cuda_stream();
    let (free, total) = stream.context().mem_get_info().ok()?;
    Some((total - free) as u64)
}

#[cfg(not(feature = "cuda"))]
fn used(_: &Device) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nobody is put on another device unasked and unseen. Method: all choices, in builds with and without a GPU.
    #[test]
    fn a_choice_is_kept_or_told() {
        let cpu = choose(DeviceChoice::Cpu).unwrap();
        assert!(cpu.device.is_cpu() && cpu.no_gpu.is_none());
        let any = choose(DeviceChoice::Auto).unwrap();
        assert_eq!(any.device.is_cpu(), any.no_gpu.is_some());
        match (choose(DeviceChoice::Cuda), any.no_gpu) {
            (Ok(asked), why) => assert!(asked.device.is_cuda() && why.is_none()),
            (Err(error), why) => assert!(error.to_string().ends_with(&why.unwrap())),
        }
    }
}
