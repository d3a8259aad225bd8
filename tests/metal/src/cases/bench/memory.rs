//! Coherent memory and pools of libdma's, in windows.

use alloc::format;

use dma_types::PAGE_SIZE;
use libdma::FromDevice;

use super::measure::{Pairs, given_back, unchanged};
use crate::cases::engine::rig::with_service;
use crate::harness::{Context, Outcome};

/// Blocks of 256 bytes, as they were left and of zeroes.
pub(super) fn pools(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let pool = device.pool("pool").bytes(256)?;
        // One stays, as in a pool that is used.
        let _block = pool.alloc()?;
        Pairs::of((), |()| pool.alloc(), given_back)?.tell("pool/256");
        Pairs::of((), |()| pool.alloc_zeroed(), given_back)?.tell("pool/256-zeroed");
        Ok(())
    })
}

/// Pages of coherent memory, and what zeroing one takes.
pub(super) fn coherent_memory(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        for (name, bytes) in [("256", 256), ("4k", PAGE_SIZE as usize)] {
            let mut beside = device.stream::<FromDevice>("beside").buffer(bytes)?;
            let alloc = |()| device.coherent("page").bytes(bytes);
            Pairs::of((), alloc, given_back)?.tell(&format!("coherent/{name}"));
            Pairs::of((), |()| beside.clear(), unchanged)?.tell(&format!("zero/{name}"));
        }
        Ok(())
    })
}
