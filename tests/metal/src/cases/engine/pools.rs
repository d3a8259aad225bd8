//! Descriptors of a pool, which the device reads and writes by the addresses that are left to it.

use alloc::vec::Vec;

use dma_types::Access;
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
    let left = |number: u64| {
        let block = pool.alloc_zeroed()?;
        block.set([number; 8]);
        Ok::<_, Failure>(block.into_address())
    };
    let (first, second, third) = (left(1)?, left(2)?, left(3)?);
    // The device copies the first over the third.
    rig.transfer(Direction::ToDevice, first.iova().get(), BYTES)?;
    rig.transfer(Direction::FromDevice, third.iova().get(), BYTES)?;
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

/// What no block crosses a multiple of.
const BOUNDARY: u64 = 256;
/// Of these, two and a half would lie between two multiples.
const ODD: u64 = 96;

pub(in crate::cases) fn blocks_of_a_pool_cross_no_boundary(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let pool = device.pool("odd").align(32).boundary(BOUNDARY as usize).bytes(ODD as usize)?;
        // More than are in one chunk.
        let blocks = (0..100).map(|_| pool.alloc_zeroed()).collect::<Result<Vec<_>, _>>()?;
        for block in &blocks {
            let (start, last) = (block.iova().get(), block.iova().get() + ODD - 1);
            require!(start % 32 == 0, "{start:#x} is not aligned");
            require!(start / BOUNDARY == last / BOUNDARY, "{start:#x} crosses {BOUNDARY} bytes");
        }
        // The device fills some, each up to its end and not beyond.
        let source = device.coherent("source").access(Access::Read).bytes(ODD as usize)?;
        source.copy_from(0, &[0x77; ODD as usize])?;
        rig.transfer(Direction::ToDevice, source.iova().get(), ODD)?;
        let filled = |number: usize| number % 25 == 1;
        for (_, block) in blocks.iter().enumerate().filter(|(number, _)| filled(*number)) {
            rig.transfer(Direction::FromDevice, block.iova().get(), ODD)?;
        }
        for (number, block) in blocks.iter().enumerate() {
            let mut found = [0; ODD as usize];
            block.read(0, &mut found)?;
            let expected = if filled(number) { 0x77 } else { 0 };
            require!(found == [expected; ODD as usize], "{found:x?} is in block {number}");
        }
        rig.expect_no_fault()
    })
}
