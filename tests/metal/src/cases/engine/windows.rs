//! Small coherent memory, which shares windows that are mapped once.

use alloc::vec::Vec;

use dma_types::Access;
use iommu_engine::fault::Tried;
use libdma::declared::Mode;
use libdma::{Coherent, Device, Error};

use super::rig::with_service;
use crate::edu::Direction;
use crate::harness::{Context, Failure, Outcome};
use crate::require;

/// How many blocks are taken at once.
const BLOCKS: usize = 200;

/// How long a block is.
const BYTES: usize = 48;

pub(in crate::cases) fn small_coherent_memory_shares_windows(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        drop(block(&device)?);
        let asked = rig.requests();
        let blocks = (0..BLOCKS).map(|_| block(&device)).collect::<Outcome<Vec<_>>>()?;
        for (number, each) in blocks.iter().enumerate() {
            each.copy_from(0, &[number as u8; BYTES])?;
        }
        // The device copies some over others.
        for (from, to) in [(1, 100), (77, 0), (BLOCKS - 1, 50)] {
            let [source, target] = [from, to].map(|index| blocks[index].iova().get());
            rig.transfer(Direction::ToDevice, source, BYTES as u64)?;
            rig.transfer(Direction::FromDevice, target, BYTES as u64)?;
            rig.expect_no_fault()?;
            require!(all_are(&blocks[to], from as u8)?, "block {to} is not what block {from} is");
            require!(all_are(&blocks[to + 1], to as u8 + 1)?, "it went beyond block {to}");
        }
        drop(blocks);
        let clean = (0..BLOCKS).map(|_| block(&device)).collect::<Outcome<Vec<_>>>()?;
        for each in &clean {
            require!(all_are(each, 0)?, "a block has in it what was there before");
        }
        let usage = device.window_usage();
        require!(usage.len() == 1 && usage[0].windows == 1, "they are in {usage:?}");
        require!(rig.requests() == asked, "iommud was asked {} times", rig.requests() - asked);
        let read = device.coherent("read").access(Access::Read).bytes(BYTES)?;
        rig.transfer(Direction::FromDevice, read.iova().get(), BYTES as u64)?;
        if device.is_confined() {
            rig.expect_fault(read.iova().get(), Tried::Write)?;
            require!(all_are(&read, 0)?, "the device wrote what it may only read");
        }
        Ok(())
    })
}

pub(in crate::cases) fn idle_windows_are_given_back_when_memory_runs_out(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        drop(block(&device)?);
        require!(device.window_usage().len() == 1, "no window is kept");
        let mut held = Vec::new();
        let refused = loop {
            match device.allocate(16 << 20, None, "all there is") {
                Ok(buffer) => held.push(buffer),
                Err(error) => break error,
            }
        };
        require!(
            matches!(refused, Error::OutOfMemory | Error::QuotaExceeded),
            "it was refused for {refused:?}"
        );
        require!(device.window_usage().is_empty(), "{:?} are kept", device.window_usage());
        drop(held);
        drop(block(&device)?);
        let bytes = device.trim();
        require!(bytes == 64 << 10, "{bytes} bytes were given back");
        require!(rig.in_use().runs == 0, "{:?}", rig.in_use());
        Ok(())
    })
}

pub(in crate::cases) fn coherent_memory_comes_from_the_devices_own(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let own = device.allocate(8192, Some(Access::ReadWrite), "its own")?;
        let start = own.iova().unwrap_or_default().get();
        let failure = |error: &dyn core::fmt::Display| Failure(alloc::format!("{error}"));
        device.declare_memory(own.into(), Mode::Exclusive).map_err(|error| failure(&error))?;
        device.mark_declared_occupied(0, 4096).map_err(|error| failure(&error))?;
        let (first, second) = (block(&device)?, block(&device)?);
        for each in [&first, &second] {
            let place = each.iova().get();
            require!((start + 4096..start + 8192).contains(&place), "{place:#x} is not in there");
        }
        first.copy_from(0, &[7; BYTES])?;
        rig.transfer(Direction::ToDevice, first.iova().get(), BYTES as u64)?;
        rig.transfer(Direction::FromDevice, second.iova().get(), BYTES as u64)?;
        rig.expect_no_fault()?;
        require!(all_are(&second, 7)?, "the device does not reach its own memory");
        let more = device.coherent("more").bytes(4096).err();
        require!(more == Some(Error::OutOfMemory), "more than it has gives {more:?}");
        require!(device.release_declared_memory().is_err(), "it is released while it is in use");
        drop((first, second));
        drop(device.release_declared_memory().map_err(|error| failure(&error))?);
        Ok(())
    })
}

fn block(device: &Device) -> Outcome<Coherent<[u8]>> {
    Ok(device.coherent("block").bytes(BYTES)?)
}

/// Whether all of a block are this byte.
fn all_are(block: &Coherent<[u8]>, byte: u8) -> Outcome<bool> {
    let mut bytes = [0; BYTES];
    block.copy_to(0, &mut bytes)?;
    Ok(bytes == [byte; BYTES])
}
