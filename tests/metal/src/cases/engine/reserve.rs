//! Memory that the policy sets aside, and memory below a mask.

use dma_types::Access;
use iommu_engine::policy::Policy;
use libdma::Error;

use super::blocking::expect;
use super::rig::{Rig, with_policy};
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

const MIB: u64 = 1 << 20;

/// What the policy sets aside comes in one piece, is the device's by DMA, and goes back to what is set aside.
pub fn memory_is_set_aside_and_given_out_in_one_piece(context: &mut Context) -> Outcome {
    let policy = Policy { reserve: 8 * MIB, ..Policy::default() };
    with_policy(context, policy, |rig| {
        let mut device = rig.open()?;
        require!(used(rig) == (8 * MIB, 0), "the reserve is {:?}", used(rig));
        for _ in 0..2 {
            let part = device.buffer("part of the reserve").access(Access::ReadWrite);
            let part = part.contiguous().allocate(4 * MIB)?;
            require!(used(rig) == (8 * MIB, 4 * MIB), "the reserve is {:?}", used(rig));
            let iova = part.iova().unwrap_or_default().get();
            expect(&part, &[0; 16], "what a part begins with")?;
            part.write(0, b"from end to end.")?;
            rig.transfer(Direction::ToDevice, iova, 16)?;
            part.write(0, &[0; 16])?;
            rig.transfer(Direction::FromDevice, iova + 4 * MIB - 16, 16)?;
            let mut end = [0; 16];
            part.read((4 * MIB - 16) as usize, &mut end)?;
            require!(&end == b"from end to end.", "{end:x?} came to the part's end");
        }
        require!(used(rig) == (8 * MIB, 0), "the reserve is {:?}", used(rig));
        if !device.is_confined() {
            // Buffers begin at 96 MiB.
            device.set_dma_mask(27)?;
            let low = device.allocate(MIB, Some(Access::Read), "below 128 MiB")?;
            let end = low.iova().unwrap_or_default().get() + MIB;
            require!(end <= 128 * MIB, "it ends at {end:#x}");
            device.set_dma_mask(26)?;
            let refused = device.allocate(4096, Some(Access::Read), "below 64 MiB").err();
            require!(refused == Some(Error::NoAddressSpace), "that is answered by {refused:?}");
        }
        rig.expect_no_fault()
    })
}

/// How much is set aside, and how much of it is given out, after all that waits has been confirmed.
fn used(rig: &Rig) -> (u64, u64) {
    let mut service = rig.service.lock();
    service.poll();
    let reserves = service.engine().reserves().iter();
    reserves.fold((0, 0), |(bytes, used), it| (bytes + it.bytes(), used + it.used()))
}
