//! What a device can be given: its masks, one for each kind of memory, its segments, and what lies beyond them.

use alloc::vec;
use alloc::vec::Vec;

use libdma::{
    Access, Attributes, Buffer, Device, Error, FromDevice, Iova, Limits, ScatterList, ToDevice,
};

use super::rig::{Rig, with_service};
use super::streaming::{copy, pattern};
use crate::edu::{Direction, MOST};
use crate::harness::{Context, Outcome};
use crate::require;

/// A mask below which there is room, but not much: without an IOMMU memory for buffers begins at 96 MiB.
fn narrow(device: &Device) -> u32 {
    if device.is_confined() { 20 } else { 27 }
}

/// Takes everything below so many address bits.
fn fill(device: &Device, bits: u32) -> Outcome<Vec<Buffer>> {
    let mut device = device.clone();
    device.set_dma_mask(bits)?;
    let mut taken = Vec::new();
    for bytes in [4 << 20, 64 << 10, 4096] {
        let refused = loop {
            match device.allocate(bytes, Some(Access::Read), "all that is low") {
                Ok(buffer) => taken.push(buffer),
                Err(error) => break error,
            }
        };
        require!(refused == Error::NoAddressSpace, "{bytes} bytes are refused for {refused:?}");
    }
    Ok(taken)
}

pub(in crate::cases) fn each_mask_is_for_its_own_kind_of_memory(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let mut device = rig.open()?;
        let bits = narrow(&device);
        let taken = fill(&device, bits)?;

        device.set_limits(Limits::NONE.coherent_mask_bits(bits));
        let refused = device.coherent("ring").bytes(64).err();
        require!(refused == Some(Error::NoAddressSpace), "coherent memory is {refused:?}");
        let refused = device.pool("descriptors").bytes(64)?.alloc().err();
        require!(refused == Some(Error::NoAddressSpace), "a pool's block is {refused:?}");
        let refused = device.allocate(4096, Some(Access::Read), "whole").err();
        require!(refused == Some(Error::NoAddressSpace), "a buffer is {refused:?}");
        let [sent, back] = by_streams(rig, &device)?;
        require!(sent.get() >> bits != 0 && back.get() >> bits != 0, "{sent} and {back} are low");

        device.set_limits(Limits::NONE.mask_bits(bits).coherent_mask_bits(64));
        let stream = device.stream::<ToDevice>("tx");
        let refused = stream.buffer(64).err();
        require!(refused == Some(Error::NoAddressSpace), "a streaming buffer is {refused:?}");
        let refused = stream.map_slice(b"slice").err();
        require!(refused == Some(Error::NoAddressSpace), "a slice is {refused:?}");
        let [sent, back] = by_coherent_memory(rig, &device)?;
        require!(sent.get() >> bits != 0 && back.get() >> bits != 0, "{sent} and {back} are low");

        drop(taken);
        rig.in_use();
        device.set_limits(Limits::NONE.mask_bits(bits));
        for places in [by_streams(rig, &device)?, by_coherent_memory(rig, &device)?] {
            require!(places.iter().all(|it| it.get() >> bits == 0), "{places:x?} are not low");
        }
        rig.expect_no_fault()
    })
}

/// Brings data to the device and back by streaming buffers, and says where they were.
fn by_streams(rig: &Rig, device: &Device) -> Outcome<[Iova; 2]> {
    let sent = pattern(300);
    let from = device.stream::<ToDevice>("tx").copy_of(&sent)?.map()?;
    let to = device.stream::<FromDevice>("rx").buffer(300)?.map()?;
    let places = [from.iova(), to.iova()];
    copy(rig, from.iova(), to.iova(), 300)?;
    let mut found = [0; 300];
    to.unmap()?.read(0, &mut found)?;
    require!(found[..] == sent, "what came back by streams is not what was sent");
    Ok(places)
}

/// The same by coherent memory.
fn by_coherent_memory(rig: &Rig, device: &Device) -> Outcome<[Iova; 2]> {
    let sent = pattern(200);
    let from = device.coherent("out").access(Access::Read).bytes(200)?;
    let to = device.coherent("in").access(Access::Write).bytes(200)?;
    from.copy_from(0, &sent)?;
    copy(rig, from.iova(), to.iova(), 200)?;
    let mut found = [0; 200];
    to.copy_to(0, &mut found)?;
    require!(found[..] == sent, "what came back by coherent memory is not what was sent");
    Ok([from.iova(), to.iova()])
}

/// How long a device's segments may be, and what none of them crosses.
const SEGMENT: u64 = 0x3000;
const BOUNDARY: u64 = 0x4000;

pub(in crate::cases) fn a_device_is_told_how_much_is_one_mapping(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let mut device = rig.open()?;
        // With as many address bits as it should have, all is had at once.
        let bits = device.required_mask_bits();
        let highest = device.highest_address().get();
        let expected = if device.is_confined() { 32 } else { 64 - highest.leading_zeros() };
        require!(bits == expected, "{bits} bits are required, and not {expected}");
        device.set_dma_mask(bits)?;
        by_streams(rig, &device)?;

        // As much as shares a window costs no request, and the device reaches it from end to end.
        let best = device.optimal_mapping_size();
        require!(best == 1 << 20, "the best is {best} bytes");
        let stream = device.stream::<ToDevice>("tx");
        let _first_half = stream.buffer(best as usize)?;
        let asked = rig.requests();
        let mut whole = stream.buffer(best as usize)?;
        whole.write(best as usize - 16, b"at the very end.")?;
        let whole = whole.map()?;
        require!(rig.requests() == asked, "iommud was asked {} times", rig.requests() - asked);
        let mut found = [0; 16];
        let back = device.stream::<FromDevice>("rx").buffer(16)?.map()?;
        copy(rig, at(whole.iova(), best - 16), back.iova(), 16)?;
        back.unmap()?.read(0, &mut found)?;
        require!(&found == b"at the very end.", "{found:x?} was at the end");
        drop(whole);

        the_longest_is_one_piece(rig, &device)?;
        device.set_limits(Limits::NONE.max_segment(SEGMENT).boundary(BOUNDARY));
        let sizes = (device.max_mapping_size(), device.optimal_mapping_size());
        require!(sizes == (SEGMENT, SEGMENT), "one mapping is {sizes:x?}");
        in_segments(rig, &device)
    })
}

/// Without an IOMMU one mapping is one piece of physical memory: as long as the device is told, and no longer.
fn the_longest_is_one_piece(rig: &Rig, device: &Device) -> Outcome {
    let longest = device.max_mapping_size();
    if device.is_confined() {
        require!(longest == 1 << 30, "the longest mapping is {longest:#x}");
        return Ok(());
    }
    require!(longest == 4 << 20, "the longest mapping is {longest:#x}");
    let tx = device.stream::<ToDevice>("tx");
    let mut whole = tx.buffer(longest as usize)?;
    whole.write(longest as usize - 16, b"a whole piece's.")?;
    let whole = whole.map()?;
    let back = device.stream::<FromDevice>("rx").buffer(16)?.map()?;
    copy(rig, at(whole.iova(), longest - 16), back.iova(), 16)?;
    let mut found = [0; 16];
    back.unmap()?.read(0, &mut found)?;
    require!(&found == b"a whole piece's.", "{found:x?} was at the end");
    let refused = tx.buffer(longest as usize + 1).err();
    require!(refused == Some(Error::NotContiguous), "a longer one is answered by {refused:?}");
    let aligned = device.buffer("aligned").access(Access::Read).align(longest).allocate(4096)?;
    let iova = aligned.iova().unwrap_or_default().get();
    require!(iova.is_multiple_of(longest), "what is to be aligned is at {iova:#x}");
    let refused = device.buffer("more").access(Access::Read).align(2 * longest).allocate(4096);
    require!(refused.is_err_and(|it| it == Error::NotContiguous), "it is aligned to more");
    Ok(())
}

/// What is one mapping is one segment, wherever it lies; what is more is several, and all of it arrives.
fn in_segments(rig: &Rig, device: &Device) -> Outcome {
    let (tx, rx) = (device.stream::<ToDevice>("tx"), device.stream::<FromDevice>("rx"));
    let fits = |iova: Iova, bytes: u64| {
        bytes <= SEGMENT && iova.get() / BOUNDARY == (iova.get() + bytes - 1) / BOUNDARY
    };
    // So that the next does not begin at a boundary.
    let _odd = tx.buffer(0x2000)?;
    let kept: Vec<_> = (0..3)
        .map(|_| tx.buffer(SEGMENT as usize)?.map().map_err(Error::from))
        .collect::<Result<_, _>>()?;
    for each in &kept {
        require!(fits(each.iova(), SEGMENT), "{} is not one segment", each.iova());
    }
    let long = pattern(3 * SEGMENT as usize);
    let refused = tx.copy_of(&long)?.map().err().ok_or(Error::SegmentTooLong)?;
    require!(refused.error == Error::SegmentTooLong, "it is refused for {:?}", refused.error);
    let mut list = ScatterList::new(&tx);
    list.push(refused.into_kept())?;
    let list = list.map()?;
    let all_fit = list.segments().iter().all(|it| fits(it.iova, it.bytes));
    require!(all_fit && list.segments().len() > 2, "the segments are {:x?}", list.segments());
    let back = rx.buffer(MOST as usize)?.map()?;
    let (mut back, mut done) = (Some(back), 0);
    for segment in list.segments() {
        for part in (0..segment.bytes).step_by(MOST as usize) {
            let bytes = (segment.bytes - part).min(MOST) as usize;
            let Some(mapped) = back.take() else { break };
            copy(rig, at(segment.iova, part), mapped.iova(), bytes)?;
            let mut found = vec![0; bytes];
            let mine = mapped.unmap()?;
            mine.read(0, &mut found)?;
            require!(found == long[done..done + bytes], "what is sent from {done} on is not there");
            back = Some(mine.map()?);
            done += bytes;
        }
    }
    require!(done == long.len(), "{done} bytes are in the list");
    rig.expect_no_fault()
}

fn at(iova: Iova, offset: u64) -> Iova {
    iova.checked_add(offset).unwrap_or_default()
}

/// Memory that cannot be mapped below the mask goes through a window that is.
pub(in crate::cases) fn memory_beyond_the_mask_is_bounced(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let bits = narrow(&device);
        let mut low = device.clone();
        low.set_dma_mask(bits)?;
        let (tx, rx) = (low.stream::<ToDevice>("tx"), low.stream::<FromDevice>("rx"));
        let _windows = (tx.buffer(64)?, rx.buffer(64)?);
        let _taken = fill(&device, bits)?;
        let sent = pattern(1500);
        let outside = |access| device.allocate(8192, access, "beyond the mask");

        let from = outside(None)?;
        from.write(0, &sent)?;
        let from = tx.adopt(from).map()?;
        require!(from.iova().get() >> bits == 0, "{} is beyond the mask", from.iova());
        let to = outside(None)?;
        to.write(1500, &[0xee; 500])?;
        let to = rx.adopt(to).map()?;
        require!(to.iova().get() >> bits == 0, "{} is beyond the mask", to.iova());
        copy(rig, from.iova(), to.iova(), 1500)?;
        let mut found = vec![0; 2000];
        let mut to = to.sync_for_cpu();
        to.read(0, &mut found)?;
        require!(found[..1500] == sent, "what came back is not what was sent");
        require!(found[1500..] == [0xee; 500], "what the device did not write has changed");
        // The CPU changes some, which is there when the device has had its turn again.
        to.write(8, b"by the CPU")?;
        let to = to.sync_for_device();
        copy(rig, from.iova(), to.iova(), 8)?;
        to.unmap()?.read(0, &mut found[..18])?;
        require!(found[8..18] == *b"by the CPU", "what the CPU wrote is lost: {:x?}", &found[..18]);

        // What is not to be synced is copied where it is synced by name, and nowhere else.
        let rx = rx.attributes(Attributes::SKIP_CPU_SYNC)?;
        for by_name in [false, true] {
            let to = outside(None)?;
            to.write(0, &[0xee; 16])?;
            let to = rx.adopt(to).map()?;
            copy(rig, from.iova(), to.iova(), 16)?;
            let to = if by_name { to.sync_for_cpu().unmap()? } else { to.unmap()? };
            to.read(0, &mut found[..16])?;
            let expected = if by_name { &sent[..16] } else { &[0xee; 16] };
            require!(found[..16] == *expected, "synced by name {by_name}: {:x?}", &found[..16]);
        }
        rig.transfer(Direction::ToDevice, from.iova().get(), 8)?;
        rig.expect_no_fault()
    })
}
