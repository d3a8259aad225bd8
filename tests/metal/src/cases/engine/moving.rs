//! What is mapped arrives, at an address that is not the physical one.

use alloc::alloc::alloc_zeroed;
use alloc::vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use dma_types::Access;
use iommu_engine::fault::Tried;
use libdma::{Error, ForeignMemory, MapRequest};

use super::rig::{Rig, with_service};
use crate::cpu::apic::Apic;
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

pub(super) fn data_moves_both_ways_through_an_io_address(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let sent = device.allocate(4096, Some(Access::Read), "sent")?;
        let back = device.allocate(4096, Some(Access::Write), "back")?;
        there_and_back(rig, &sent, 0, &back, 0, 1024)?;
        let iova = sent.iova().unwrap_or_default();
        let segment = rig.segments_of(iova)?[0];
        require!(segment.start.get() != iova.get(), "{iova} is the physical address");
        rig.expect_no_fault()
    })
}

pub(super) fn pages_that_are_scattered_are_contiguous_for_the_device(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(3 * 4096, Some(Access::ReadWrite), "scattered")?;
        let iova = buffer.iova().unwrap_or_default().get();
        let places =
            [iova, iova + 4096, iova + 8192].map(|at| rig.segments_of(dma_types::Iova::new(at)));
        let [first, second, third] = places;
        let (first, second, third) = (first?[0].start, second?[0].start, third?[0].start);
        let apart =
            first.checked_add(4096) != Some(second) || second.checked_add(4096) != Some(third);
        require!(apart, "the buffer is contiguous in memory, which shows nothing");
        // Across both borders between pages.
        there_and_back(rig, &buffer, 4096 - 100, &buffer, 8192 - 100, 200)?;
        rig.expect_no_fault()
    })
}

pub(super) fn a_large_page_is_walked(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(2 << 20, Some(Access::ReadWrite), "large")?;
        let iova = buffer.iova().unwrap_or_default();
        let page = rig.segments_of(iova)?[0];
        require!(page.bytes == 2 << 20, "it is mapped by pages of {} bytes", page.bytes);
        there_and_back(rig, &buffer, 0x12_3456, &buffer, (2 << 20) - 1000, 1000)?;
        rig.expect_no_fault()
    })
}

/// Memory of the driver's own, as a whole and in pieces.
pub(in crate::cases) fn a_drivers_own_memory_is_registered(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let memory = foreign(3)?;
        let place = memory.cpu_address();
        let buffer = device.register(memory, Some(Access::ReadWrite), "registered");
        let buffer = buffer.map_err(Error::from)?;
        require!(buffer.cpu_address() == place, "it has moved from {place}");
        // Across a border between pages.
        there_and_back(rig, &buffer, 4096 - 100, &buffer, 8192 - 100, 200)?;
        let pieces = device.register(foreign(2)?, None, "pieces").map_err(Error::from)?;
        let piece = |page: u64, access| MapRequest {
            buffer: &pieces,
            offset: page * 4096,
            bytes: 4096,
            access,
        };
        let mapped = device.map(&[piece(1, Access::Read), piece(0, Access::Write)])?;
        pieces.write(4096, b"of the second page")?;
        rig.transfer(Direction::ToDevice, mapped[0].iova().get(), 18)?;
        rig.transfer(Direction::FromDevice, mapped[1].iova().get(), 18)?;
        let mut found = [0; 18];
        pieces.read(0, &mut found)?;
        require!(&found == b"of the second page", "the first page has {found:?}");
        device.unmap(&mapped)?;
        rig.expect_no_fault()?;
        let iova = buffer.iova().unwrap_or_default().get();
        drop(buffer);
        if device.is_confined() {
            rig.transfer(Direction::FromDevice, iova, 8)?;
            rig.expect_fault(iova, Tried::Write)?;
        }
        Ok(())
    })
}

/// Memory that nobody else will ever use.
fn foreign(pages: usize) -> Outcome<ForeignMemory> {
    let bytes = pages * 4096;
    let layout = Layout::from_size_align(bytes, 4096).map_err(|_| Error::BadAlignment)?;
    // SAFETY: it has a size.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Error::OutOfMemory)?;
    // SAFETY: it was allocated just now and is never given back.
    Ok(unsafe { ForeignMemory::from_range(NonNull::slice_from_raw_parts(start, bytes)) }?)
}

/// Interrupts by message are writes too, to an address that nobody maps.
pub(super) fn interrupts_of_a_device_that_is_held_arrive(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let _device = rig.open()?;
        let mut service = rig.service.lock();
        let platform = service.platform_mut();
        let apic = Apic::turn_on(platform)?;
        let vector = Apic::fresh_vector();
        require!(!apic.has(platform, vector), "the vector {vector:#x} is taken");
        rig.edu.interrupt(platform, vector)?;
        require!(apic.has(platform, vector), "the vector {vector:#x} does not arrive");
        drop(service);
        rig.expect_no_fault()
    })
}

/// Moves bytes from a place in one buffer through the device to a place in another, and compares.
fn there_and_back(
    rig: &Rig,
    from: &libdma::Buffer,
    at: usize,
    to: &libdma::Buffer,
    back_at: usize,
    bytes: usize,
) -> Outcome {
    let pattern: alloc::vec::Vec<u8> = (0..bytes).map(|n| (n * 7 + 3) as u8).collect();
    from.write(at, &pattern)?;
    let iova = from.iova().unwrap_or_default().get() + at as u64;
    rig.transfer(Direction::ToDevice, iova, bytes as u64)?;
    let iova = to.iova().unwrap_or_default().get() + back_at as u64;
    rig.transfer(Direction::FromDevice, iova, bytes as u64)?;
    let mut found = vec![0; bytes];
    to.read(back_at, &mut found)?;
    require!(found == pattern, "what came back is not what was sent");
    Ok(())
}
