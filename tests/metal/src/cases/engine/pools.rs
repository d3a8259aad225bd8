//! Descriptors of a pool, which the device reads and writes by the addresses that are left to it.

use dma_types::{Access, Iova};
use iommu_engine::fault::Tried;
use libdma::pool::NotTaken;

use super::rig::{Rig, with_service};
use crate::edu::Direction;
use crate::harness::{Context, Failure, Outcome};
use crate::require;

/// As long as eight of the device's words.
type Descriptor = [u64; 8];

const BYTES: u64 = size_of::<Descriptor>() as u64;

pub(in crate::cases) fn a_device_follows_descriptors_of_a_pool(context: &mut Context) -> Outcome {
    with_service(context, follow)
}

fn follow(rig: &Rig) -> Outcome {
    let device = rig.open()?;
    let pool = device.pool("descriptors").align(64).boundary(4096).of::<Descriptor>()?;
    let mut given = [Iova::default(); 3];
    for (number, place) in given.iter_mut().enumerate() {
        let block = pool.alloc_zeroed()?;
        block.set([number as u64 + 1; 8]);
        *place = block.into_iova();
    }
    let [first, second, third] = given;
    // The device copies the first over the third.
    rig.transfer(Direction::ToDevice, first.get(), BYTES)?;
    rig.transfer(Direction::FromDevice, third.get(), BYTES)?;
    rig.expect_no_fault()?;
    for (address, expected) in [(first, 1), (second, 2), (third, 1)] {
        let block = pool.take(address).map_err(|error| Failure(alloc::format!("{error}")))?;
        require!(block.get() == [expected; 8], "{:x?} is in the block at {address}", block.get());
        require!(pool.take(address).err() == Some(NotTaken::Held), "it is taken twice");
    }
    require!(pool.free(first) == Err(NotTaken::Free), "it is given back twice");
    require!(pool.stats().in_use == 0, "blocks are left: {}", pool.stats());
    let commands = device.pool("commands").access(Access::Read).of::<Descriptor>()?;
    let block = commands.alloc()?;
    block.set([7; 8]);
    rig.transfer(Direction::FromDevice, block.iova().get(), BYTES)?;
    if device.is_confined() {
        rig.expect_fault(block.iova().get(), Tried::Write)?;
        require!(block.get() == [7; 8], "the device wrote what it may only read");
    }
    Ok(())
}
