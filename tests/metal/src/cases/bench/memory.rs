//! Coherent memory and pools of libdma's, in windows.

use alloc::format;

use dma_types::PAGE_SIZE;
use libdma::FromDevice;

use super::ending::Probe;
use super::measure::{Pairs, given_back, unchanged};
use crate::cases::engine::rig::with_service;
use crate::harness::{Context, Outcome};

/// Blocks of 256 bytes, as they were left and of zeroes.
pub(super) fn pools(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let pool = device.pool("pool").bytes(256)?;
        let probe = Probe::new(rig, &device)?;
        // One stays, as in a pool that is used.
        let _block = pool.alloc()?;
        probe.of("pool/256", (), |()| pool.alloc(), |it| it.iova(), given_back)?;
        Pairs::of((), |()| pool.alloc(), given_back)?.tell("pool/256");
        probe.of("pool/256-zeroed", (), |()| pool.alloc_zeroed(), |it| it.iova(), given_back)?;
        Pairs::of((), |()| pool.alloc_zeroed(), given_back)?.tell("pool/256-zeroed");
        Ok(())
    })
}

/// Pages of coherent memory, and what zeroing one takes.
pub(super) fn coherent_memory(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let probe = Probe::new(rig, &device)?;
        for (name, bytes) in [("256", 256), ("4k", PAGE_SIZE as usize)] {
            let mut beside = device.stream::<FromDevice>("beside").buffer(bytes)?;
            let alloc = |()| device.coherent("page").bytes(bytes);
            let row = format!("coherent/{name}");
            probe.of(&row, (), alloc, |it| it.iova(), given_back)?;
            Pairs::of((), alloc, given_back)?.tell(&row);
            Pairs::of((), |()| beside.clear(), unchanged)?.tell(&format!("zero/{name}"));
        }
        Ok(())
    })
}
