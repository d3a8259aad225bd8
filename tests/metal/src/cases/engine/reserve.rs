//! Memory that the policy sets aside, and memory below a mask.

use alloc::vec;

use dma_types::{Access, PciAddress, SourceId};
use iommu_engine::policy::{Devices, Policy, Rule};
use libdma::Error;

use super::blocking::expect;
use super::rig::{Rig, with_policy};
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

const MIB: u64 = 1 << 20;

/// The device of these tests, by what it is.
const EDU: Devices = Devices::Id { vendor: 0x1234, device: 0x11e8 };

/// The disk controller that is part of QEMU's machine.
const DISKS: PciAddress = PciAddress::from_source(0, SourceId::new(0x1f << 3 | 2));

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

/// What the policy sets aside for one device is that device's alone, and comes before what is for all.
pub fn memory_is_set_aside_for_one_device(context: &mut Context) -> Outcome {
    let policy = |devices| {
        let rule = Rule { reserve: Some(8 * MIB), ..Rule::new(devices) };
        Policy { reserve: 4 * MIB, rules: vec![rule], ..Policy::default() }
    };
    with_policy(context, policy(EDU), |rig| {
        let device = rig.open()?;
        let edu = Some(device.address());
        require!(of(rig, edu) == (8 * MIB, 0), "its own reserve is {:?}", of(rig, edu));
        let longest = device.max_mapping_size();
        require!(longest >= 8 * MIB, "the longest mapping is {longest:#x}");
        for _ in 0..2 {
            // Longer than any piece of memory that is not set aside.
            let own = device.buffer("its own").access(Access::ReadWrite).contiguous();
            let own = own.allocate(8 * MIB)?;
            require!(of(rig, edu) == (8 * MIB, 8 * MIB), "its own is {:?}", of(rig, edu));
            let next = device.buffer("of all's").access(Access::Read).contiguous();
            let next = next.allocate(4 * MIB)?;
            require!(of(rig, None) == (4 * MIB, 4 * MIB), "that of all is {:?}", of(rig, None));
            let iova = own.iova().unwrap_or_default().get();
            own.write(0, b"from end to end.")?;
            rig.transfer(Direction::ToDevice, iova, 16)?;
            rig.transfer(Direction::FromDevice, iova + 8 * MIB - 16, 16)?;
            let mut end = [0; 16];
            own.read((8 * MIB - 16) as usize, &mut end)?;
            require!(&end == b"from end to end.", "{end:x?} came to its end");
            drop((own, next));
            let left = [of(rig, edu), of(rig, None)];
            require!(left == [(8 * MIB, 0), (4 * MIB, 0)], "the reserves are {left:?}");
        }
        rig.expect_no_fault()
    })?;
    with_policy(context, policy(Devices::At(DISKS)), |rig| {
        let device = rig.open()?;
        let others = of(rig, Some(DISKS));
        require!(others == (8 * MIB, 0), "the other device's reserve is {others:?}");
        let whole = device.buffer("as long").access(Access::Read).contiguous();
        let refused = whole.allocate(8 * MIB).err();
        require!(refused == Some(Error::NotContiguous), "that is answered by {refused:?}");
        let part = whole.allocate(4 * MIB)?;
        require!(of(rig, None) == (4 * MIB, 4 * MIB), "that of all is {:?}", of(rig, None));
        let next = whole.allocate(4 * MIB)?;
        let others = of(rig, Some(DISKS));
        require!(others == (8 * MIB, 0), "the other device's reserve is {others:?} now");
        drop((part, next));
        rig.expect_no_fault()
    })
}

/// What is set aside for this device, or for all: how much, and how much of it is given out.
fn of(rig: &Rig, owner: Option<PciAddress>) -> (u64, u64) {
    used(rig);
    let service = rig.service.lock();
    let mut reserves = service.engine().reserves().iter().filter(|it| it.owner() == owner);
    reserves.next().map_or((0, 0), |it| (it.bytes(), it.used()))
}

/// How much is set aside, and how much of it is given out, after all that waits has been confirmed.
fn used(rig: &Rig) -> (u64, u64) {
    let mut service = rig.service.lock();
    service.poll();
    let reserves = service.engine().reserves().iter();
    reserves.fold((0, 0), |(bytes, used), it| (bytes + it.bytes(), used + it.used()))
}
