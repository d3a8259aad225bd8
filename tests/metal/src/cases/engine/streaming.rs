//! Streaming memory: what one side wrote, the other finds; and what a strict unmap takes away.

use alloc::vec;
use alloc::vec::Vec;

use iommu_engine::fault::Tried;
use libdma::{Attributes, Bidirectional, FromDevice, Iova, Limits, ScatterList, ToDevice};

use super::rig::{Rig, with_service};
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

pub(super) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 11 + 5) as u8).collect()
}

/// The device reads what is at one address and writes it at another.
pub(super) fn copy(rig: &Rig, from: Iova, to: Iova, bytes: usize) -> Outcome {
    rig.transfer(Direction::ToDevice, from.get(), bytes as u64)?;
    rig.transfer(Direction::FromDevice, to.get(), bytes as u64)
}

pub(in crate::cases) fn streaming_buffers_carry_data_both_ways(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let (sent, found) = (pattern(1500), &mut vec![0; 1500][..]);
        for strict in [false, true] {
            let mut tx = device.stream::<ToDevice>("tx");
            let mut rx = device.stream::<FromDevice>("rx");
            if strict {
                (tx, rx) = (tx.strict(), rx.strict());
            }
            let (from, mut to) = (tx.copy_of(&sent)?.map()?, rx.buffer(1500)?.map()?);
            copy(rig, from.iova(), to.iova(), 1500)?;
            let range = to.sync_range_for_cpu(700..800)?;
            range.read(50, &mut found[..50])?;
            require!(found[..50] == sent[750..800], "what came to a range is not what was sent");
            drop(range);
            let synced = to.sync_for_cpu();
            synced.read(0, found)?;
            require!(found == sent, "what came back is not what was sent");
            // Once more, the other way round.
            let mut from = from.sync_for_cpu();
            from.write(0, b"again")?;
            let (from, to) = (from.sync_for_device(), synced.sync_for_device());
            copy(rig, from.iova(), to.iova(), 1500)?;
            to.unmap()?.read(0, found)?;
            require!(found[..5] == *b"again" && found[5..] == sent[5..], "the second is not");
        }
        rig.expect_no_fault()
    })
}

pub(in crate::cases) fn slices_are_bounced(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let sent = pattern(333);
        for strict in [false, true] {
            let mut stream = device.stream::<Bidirectional>("both");
            if strict {
                stream = stream.strict();
            }
            let (mut from, mut to) = (sent.clone(), vec![0xee; 400]);
            let (from, copy_of) = (stream.map_slice_mut(&mut from)?, &mut to[10..353]);
            let mapped = stream.map_slice_mut(copy_of)?;
            copy(rig, from.iova(), mapped.iova(), 333)?;
            mapped.unmap()?;
            require!(to[10..343] == sent, "what came back is not what was sent");
            let around = to[..10].iter().chain(&to[343..]).all(|it| *it == 0xee);
            require!(around, "what the device did not write has changed");
        }
        // What is not to be synced is copied where it is synced by name, and nowhere else.
        let tx = device.stream::<ToDevice>("tx").copy_of(b"news")?.map()?;
        let stream = device.stream::<FromDevice>("rx").attributes(Attributes::SKIP_CPU_SYNC)?;
        let mut slice = *b"olds";
        let mapped = stream.map_slice_mut(&mut slice)?;
        copy(rig, tx.iova(), mapped.iova(), 4)?;
        mapped.unmap()?;
        require!(slice == *b"olds", "it was synced all the same");
        let mapped = stream.map_slice_mut(&mut slice)?;
        copy(rig, tx.iova(), mapped.iova(), 4)?;
        mapped.sync_for_cpu().unmap()?;
        require!(slice == *b"news", "it was not synced: {slice:x?}");
        rig.expect_no_fault()
    })
}

pub(in crate::cases) fn a_scatter_list_is_one_transfer(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let mut device = rig.open()?;
        let sent = pattern(3000);
        let rx = device.stream::<FromDevice>("rx");
        device.set_limits(Limits::NONE.max_segment(1024));
        let tx = device.stream::<ToDevice>("tx");
        let mut list = ScatterList::new(&tx);
        list.push_slice(&sent[..100])?;
        list.push_slice(&sent[100..1000])?;
        list.push(tx.clone().copy_of(&sent[1000..])?)?;
        let list = list.map()?;
        let short = list.segments().iter().all(|segment| segment.bytes <= 1024);
        require!(short, "a segment is longer than the device takes: {:?}", list.segments());
        let back = rx.buffer(3000)?.map()?;
        let mut at = back.iova();
        for segment in list.segments() {
            copy(rig, segment.iova, at, segment.bytes as usize)?;
            at = at.checked_add(segment.bytes).unwrap_or_default();
        }
        let mut found = vec![0; 3000];
        back.unmap()?.read(0, &mut found)?;
        require!(found == sent, "what came back is not what was sent");
        drop(list.unmap()?);
        rig.expect_no_fault()
    })
}

pub(super) fn r2_a_strict_unmap_takes_the_memory_from_the_device(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let (sent, stream) = (device.stream::<ToDevice>("tx"), device.stream::<FromDevice>("rx"));
        let sent = sent.copy_of(b"in time.")?.map()?;
        let stream = stream.strict();
        let mapped = stream.buffer(4096)?.map()?;
        let iova = mapped.iova();
        copy(rig, sent.iova(), iova, 8)?;
        rig.expect_no_fault()?;
        let mut buffer = mapped.unmap()?;
        let mut found = [0; 8];
        buffer.read(0, &mut found)?;
        require!(found == *b"in time.", "nothing came while it was mapped");
        buffer.clear()?;
        copy(rig, sent.iova(), iova, 8)?;
        rig.expect_fault(iova.get(), Tried::Write)?;
        buffer.read(0, &mut found)?;
        require!(found == [0; 8], "the device wrote what was unmapped");
        let mut slice = [0; 8];
        let mapped = stream.map_slice_mut(&mut slice)?;
        let iova = mapped.iova();
        mapped.unmap()?;
        copy(rig, sent.iova(), iova, 8)?;
        rig.expect_fault(iova.get(), Tried::Write)?;
        require!(slice == [0; 8], "the device wrote a slice that was unmapped");
        Ok(())
    })
}
