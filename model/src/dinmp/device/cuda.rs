//! The kernels on an NVIDIA GPU. They are compiled when they are first used, for whatever GPU there is.
#![expect(
    unsafe_code,
    reason = "a kernel is started with whatever it is given: what it reads and writes is said beside each start"
)]

use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg as _};
use candle_core::cuda_backend::cudarc::nvrtc::compile_ptx;
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, WrapErr as _};
use candle_core::op::BackpropOp;
use candle_core::{Layout, Result, Shape, Storage, Tensor, bail};

use super::{Atoms, Parts, ROW, WIDTH};

const SOURCE: &str = include_str!("attention.cu");
/// Of a block, each for every fourth atom.
const WARPS: usize = 4;
/// Bytes that a block may share without being asked for more.
const SHARED_MAX: usize = 48 << 10;

fn compiled() -> Result<&'static str> {
    static COMPILED: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        let compiled = compile_ptx(SOURCE).map(|ptx| ptx.to_src());
        compiled.map_err(|error| format!("compiling attention for the GPU: {error:?}"))
    });
    match compiled {
        Ok(compiled) => Ok(compiled),
        Err(error) => bail!("{error}"),
    }
}

/// What a tensor holds, which must lie in one piece, from its beginning.
fn held<'a, T: CudaDType>(storage: &'a Storage, layout: &Layout) -> Result<&'a CudaSlice<T>> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cuda(storage), Some((0, _))) => storage.as_cuda_slice::<T>(),
        _ => bail!("what a kernel reads must lie on its GPU, in one piece"),
    }
}

fn tensor(numbers: CudaSlice<f32>, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(numbers, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// Starts a kernel over all rows: it reads atoms and parts, and what more there is, and writes `out`.
fn start(
    device: &CudaDevice,
    (name, shared): (&str, usize),
    (atoms, parts): (&Atoms, &Parts),
    more: Option<&Tensor>,
    out: &mut [CudaSlice<f32>],
) -> Result<()> {
    if shared > SHARED_MAX {
        bail!(
            "attention over so many stretches of time takes {shared} bytes of a block, and a GPU gives {SHARED_MAX}"
        );
    }
    let func = device.get_or_load_custom_func(name, "headwater-dinmp", compiled()?)?;
    let atoms_read = [
        &atoms.items,
        &atoms.marks,
        &atoms.rows,
        &atoms.buckets,
        &atoms.group_ends,
        &atoms.groups,
    ]
    .map(Tensor::storage_and_layout);
    let parts_read = [&parts.items, &parts.marks, &parts.rows, &parts.attention];
    let parts_read = parts_read.map(Tensor::storage_and_layout);
    let more_read = more.map(Tensor::storage_and_layout);
    let places = i32::try_from(atoms.places).map_err(candle_core::Error::wrap)?;
    let mut builder = func.builder();
    for (storage, layout) in &atoms_read {
        builder.arg(held::<u32>(storage, layout)?);
    }
    for (storage, layout) in &parts_read {
        builder.arg(held::<f32>(storage, layout)?);
    }
    builder.arg(&places);
    if let Some((storage, layout)) = &more_read {
        builder.arg(held::<f32>(storage, layout)?);
    }
    for out in out {
        builder.arg(out);
    }
    let rows = u32::try_from(parts.rows.dim(0)?).map_err(candle_core::Error::wrap)?;
    let config = LaunchConfig {
        grid_dim: (rows, 1, 1),
        block_dim: (32 * WARPS as u32, 1, 1),
        shared_mem_bytes: shared as u32,
    };
    // SAFETY: the arguments are those of the kernels in `attention.cu`, in their order. Each block reads the atoms of its row, which lie among the atoms, and of their items and marks, which
    // lie among the parts (`Atoms` is made of a `Seen`, and parts of the same); it writes its own row of what comes out, or adds to parts of the gradients, which are as large as the parts.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

pub(super) fn pool(device: &CudaDevice, atoms: &Atoms, parts: &Parts) -> Result<Tensor> {
    let (rows, wide) = (parts.rows.dim(0)?, atoms.places * (WIDTH + 1));
    let mut out = [device.alloc_zeros::<f32>(rows * wide)?];
    let shared = WARPS * wide * size_of::<f32>();
    start(device, ("pool", shared), (atoms, parts), None, &mut out)?;
    let [out] = out;
    Ok(tensor(out, (rows, wide), device))
}

pub(super) fn unpool(
    device: &CudaDevice,
    atoms: &Atoms,
    parts: &Parts,
    gradient: &Tensor,
) -> Result<Parts> {
    let zeros = |of: &Tensor| device.alloc_zeros::<f32>(of.elem_count());
    let mut out = [
        zeros(&parts.items)?,
        zeros(&parts.marks)?,
        zeros(&parts.rows)?,
        zeros(&parts.attention)?,
    ];
    let shared = (atoms.places * WIDTH + WARPS * ROW) * size_of::<f32>();
    let all = (atoms, parts);
    start(device, ("unpool", shared), all, Some(gradient), &mut out)?;
    let [items, marks, rows, attention] = out;
    Ok(Parts {
        items: tensor(items, parts.items.shape(), device),
        marks: tensor(marks, parts.marks.shape(), device),
        rows: tensor(rows, parts.rows.shape(), device),
        attention: tensor(attention, parts.attention.shape(), device),
    })
}
