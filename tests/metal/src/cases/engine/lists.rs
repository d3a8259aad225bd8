//! Scatter lists that CPU and device take turns with, and many buffers that are one request.

use alloc::vec;
use alloc::vec::Vec;
use core::mem;

use iommu_engine::fault::Tried;
use libdma::scatter::Segment;
use libdma::{Device, Error, FromDevice, Iova, ScatterList, ToDevice};

use super::rig::{Rig, with_service};
use super::streaming::{copy, pattern};
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

/// Has the device write these bytes to all of a list, from the start on.
fn write_list(rig: &Rig, device: &Device, segments: &[Segment], bytes: &[u8]) -> Outcome {
    let source = device.stream::<ToDevice>("source").copy_of(bytes)?.map()?;
    let mut done = 0;
    for segment in segments {
        let now = segment.bytes.min(bytes.len() as u64 - done);
        if now > 0 {
            let from = source.iova().checked_add(done).unwrap_or_default();
            copy(rig, from, segment.iova, now as usize)?;
        }
        done += now;
    }
    require!(done == bytes.len() as u64, "the list has {done} bytes");
    Ok(())
}

pub(in crate::cases) fn a_scatter_list_is_synced(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        for strict in [false, true] {
            let mut rx = device.stream::<FromDevice>("rx");
            if strict {
                rx = rx.strict();
            }
            let (mut first, mut second) = (vec![0xee; 100], vec![0xee; 300]);
            let mut lent = rx.copy_of(&[0xee; 500])?;
            let mut list = ScatterList::new(&rx);
            list.push_slice_mut(&mut first)?;
            list.push_slice_mut(&mut second)?;
            list.lend(&mut lent, 50..450)?;
            list.push_range(rx.copy_of(&[0xee; 700])?, 100..700)?;
            let list = list.map()?;
            let once = pattern(1400);
            write_list(rig, &device, list.segments(), &once)?;

            let list = list.sync_for_cpu();
            let mut found = vec![0; 1400];
            list.read(0, &mut found)?;
            require!(found == once, "strict {strict}: what came is not what was sent");

            // The device's turn again: of what it does not write now, what came before stays.
            let list = list.sync_for_device();
            write_list(rig, &device, list.segments(), &[0x55; 900])?;
            let mut list = list.unmap()?;
            list.read(0, &mut found)?;
            require!(found[..900] == [0x55; 900], "strict {strict}: the second did not come");
            require!(found[900..] == once[900..], "strict {strict}: the first is lost");
            let given = list.clear().next().ok_or(Error::OutOfBuffer)?;
            // Of what was given, the list has all but the first 100 bytes.
            given.read(0, &mut found[..700])?;
            let begins = found[..100] == [0xee; 100] && found[100..200] == [0x55; 100];
            require!(begins && found[200..700] == once[900..], "strict {strict}: what was given");
            drop(list);
            require!(first == [0x55; 100] && second == [0x55; 300], "strict {strict}: the slices");
            lent.read(0, &mut found[..500])?;
            let around = found[..50].iter().chain(&found[450..500]).all(|it| *it == 0xee);
            require!(around, "strict {strict}: it wrote beyond what was lent");
        }
        rig.expect_no_fault()
    })
}

/// How many buffers are mapped at once.
const COUNT: usize = 6;

pub(in crate::cases) fn many_buffers_are_one_request(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let rx = device.stream::<FromDevice>("rx").strict();
        let source = device.stream::<ToDevice>("source").copy_of(&pattern(64))?.map()?;
        let buffers = (0..COUNT).map(|_| rx.buffer(4096)).collect::<Result<Vec<_>, _>>()?;
        let asked = rig.requests();
        let mapped = rx.map_all(buffers)?;
        require!(rig.requests() == asked + 1, "mapping asks {} times", rig.requests() - asked);
        let places: Vec<Iova> = mapped.iter().map(|it| it.iova()).collect();
        for (number, place) in places.iter().enumerate() {
            copy(rig, source.iova(), *place, 16 + number)?;
        }
        rig.expect_no_fault()?;

        let mut done = rx.gather(COUNT);
        let asked = rig.requests();
        for (number, buffer) in mapped.into_iter().enumerate() {
            require!(done.take().is_none(), "one is given back before it is unmapped");
            require!(done.waiting() == number, "{} are waiting", done.waiting());
            done.unmap_later(buffer)?;
        }
        require!(rig.requests() == asked + 1, "unmapping asks {} times", rig.requests() - asked);
        // First come those that were given first.
        let mut lengths = Vec::new();
        while let Some(mut buffer) = done.take() {
            let mut found = [0; 64];
            buffer.read(0, &mut found)?;
            let written = found.iter().rposition(|it| *it != 0).map_or(0, |last| last + 1);
            require!(found[..written] == pattern(64)[..written], "{found:x?} came");
            lengths.push(written);
            buffer.clear()?;
        }
        require!(lengths == (16..16 + COUNT).collect::<Vec<_>>(), "{lengths:?} bytes came");
        // Of all of them, the device reaches none any more.
        for place in places.iter().filter(|_| device.is_confined()) {
            copy(rig, source.iova(), *place, 16)?;
            rig.expect_fault(place.get(), Tried::Write)?;
        }
        all_or_nothing(rig, &device)
    })
}

pub(in crate::cases) fn a_buffer_whose_list_was_forgotten_is_taken_back(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        rig.forgets();
        let device = rig.open()?;
        let rx = device.stream::<FromDevice>("rx");
        for (name, rx) in [("in a window", rx.clone()), ("strict", rx.strict())] {
            let mut buffer = rx.copy_of(&[0xee; 600])?;
            let mut list = ScatterList::new(&rx);
            list.lend(&mut buffer, 100..500)?;
            let list = list.map().map_err(Error::from)?;
            let segment = *list.segments().first().ok_or(Error::ZeroSize)?;
            mem::forget(list);
            write_list(rig, &device, &[segment], &pattern(400))?;

            let mut found = [0; 600];
            let refused = buffer.read(0, &mut found);
            require!(refused == Err(Error::OfDevice), "{name}: read while it is the device's");
            buffer.take_back()?;
            buffer.read(0, &mut found)?;
            let around = found[..100].iter().chain(&found[500..]).all(|it| *it == 0xee);
            require!(around && found[100..500] == pattern(400)[..], "{name}: {found:x?} came");
            rig.expect_no_fault()?;

            if name == "strict" && device.is_confined() {
                let source = device.stream::<ToDevice>("source").copy_of(&[0x55; 16])?.map()?;
                copy(rig, source.iova(), segment.iova, 16)?;
                rig.expect_fault(segment.iova.get(), Tried::Write)?;
            }
            // And it is a buffer as any.
            let mapped = buffer.map()?;
            write_list(rig, &device, &[Segment { iova: mapped.iova(), bytes: 600 }], &[7; 600])?;
            mapped.unmap()?.read(0, &mut found)?;
            require!(found == [7; 600], "{name}: it is not mapped again");
        }
        rig.expect_no_fault()
    })
}

/// One of a stream that is not strict, and none is mapped (rule R7).
fn all_or_nothing(rig: &Rig, device: &Device) -> Outcome {
    let rx = device.stream::<FromDevice>("rx").strict();
    let other = device.stream::<FromDevice>("other");
    let buffers = alloc::vec![rx.buffer(4096)?, other.buffer(4096)?];
    let asked = rig.requests();
    let refused = rx.map_all(buffers).err().ok_or(Error::OtherTerms)?;
    require!(refused.error == Error::OtherTerms, "it is refused for {:?}", refused.error);
    require!(rig.requests() == asked, "iommud was asked all the same");
    let kept = refused.into_kept();
    require!(kept.len() == 2, "{} buffers came back", kept.len());
    rig.transfer(Direction::ToDevice, device.coherent("end").bytes(8)?.iova().get(), 8)?;
    rig.expect_no_fault()
}
