//! Streaming memory, whose turn it is taken in every order, by guards that are given back, dropped and forgotten.

use std::mem;
use std::sync::Arc;

use libdma::stream::NotUnmapped;
use libdma::{
    Access, Attributes, Bidirectional, Buffer, Device, Direction, Error, FromDevice, Iova, Limits,
    ScatterList, StreamBuffer, ToDevice,
};

use crate::iommud::Iommud;

#[test]
fn buffers_take_turns() {
    for iommud in Iommud::each() {
        let device = iommud.open();
        let windowed = device.stream::<Bidirectional>("both");
        let own = windowed.adopt(device.allocate(4096, None, "own").unwrap());
        let always = Some(Access::ReadWrite);
        let mapped = windowed.adopt(device.allocate(4096, always, "mapped").unwrap());
        let window = windowed.buffer(100).unwrap();
        let strict = windowed.clone().strict().buffer(5000).unwrap();
        for mut buffer in [own, mapped, window, strict] {
            buffer.write(10, b"cpu").unwrap();
            assert_eq!(buffer.write(buffer.len() - 2, b"cpu"), Err(Error::OutOfBuffer));
            let mut held = buffer.map().unwrap();
            assert_eq!(iommud.device_reads(held.iova(), 13).unwrap()[10..], *b"cpu");
            assert!(iommud.device_writes(held.iova(), b"device"));
            let mut range = held.sync_range_for_cpu(2..8).unwrap();
            let mut out = [0; 4];
            range.read(0, &mut out).unwrap();
            assert_eq!(&out, b"vice");
            range.write(5, b"!").unwrap();
            drop(range);
            mem::forget(held.sync_range_for_cpu(0..1).unwrap());
            let synced = held.sync_for_cpu();
            let held = synced.sync_for_device();
            assert_eq!(iommud.device_reads(held.iova(), 8).unwrap(), b"device\0!");
            let (at, is_in_window) = (held.iova(), held.is_in_window());
            let buffer = held.unmap().unwrap();
            let held = buffer.map().unwrap();
            assert_eq!(held.iova() == at, is_in_window || iommud.device_reads(at, 1).is_some());
            drop(held);
        }
        drop(windowed);
        drop(device);
        assert_eq!(iommud.given(), (0, 0));
    }
}

#[test]
fn what_is_forgotten_is_lost_and_nobody_elses() {
    // What is forgotten is never freed, so that its iommud is not either.
    let iommud = Iommud::new(true);
    let device = iommud.open();
    let stream = device.stream::<FromDevice>("rx");
    let mut data = [1; 32];
    let bounced = stream.map_slice_mut(&mut data).unwrap();
    let at = bounced.iova();
    mem::forget(bounced);
    assert!(iommud.device_writes(at, &[2; 32]));
    assert_eq!(data, [1; 32]);
    let mut lent = stream.buffer(64).unwrap();
    let mut list = ScatterList::new(&stream);
    list.lend(&mut lent, 8..40).unwrap();
    let list = list.map().unwrap();
    let segment = list.segments()[0];
    mem::forget(list);
    assert!(iommud.device_writes(segment.iova, &[3; 32]));
    let mut out = [0; 40];
    assert_eq!(lent.read(0, &mut out), Err(Error::OfDevice));
    lent.take_back().unwrap();
    lent.read(0, &mut out).unwrap();
    assert_eq!(out[8..], [3; 32]);
    // What was lent to a list that was forgotten is unmapped when it is taken back, or ends.
    let strict = stream.clone().strict();
    let forgotten = |lent: &mut StreamBuffer<FromDevice>| {
        let mut list = ScatterList::new(&strict);
        list.lend(lent, 0..64).unwrap();
        let list = list.map().unwrap();
        let at = list.segments()[0].iova;
        mem::forget(list);
        assert!(iommud.device_writes(at, &[4; 64]));
        at
    };
    let mut lent = strict.buffer(64).unwrap();
    let at = forgotten(&mut lent);
    lent.take_back().unwrap();
    assert!(!iommud.device_writes(at, &[5; 64]));
    lent.read(0, &mut out).unwrap();
    assert_eq!(out, [4; 40]);
    let at = forgotten(&mut lent);
    drop(lent);
    assert!(!iommud.device_writes(at, &[5; 64]));
    mem::forget(stream.buffer(64).unwrap().map().unwrap());
    drop((stream, strict, device));
}

#[test]
fn lists_of_everything_are_the_same_bytes_for_both() {
    for iommud in Iommud::each() {
        let mut device = iommud.open();
        device.set_limits(Limits::NONE.max_segment(1000).boundary(4096));
        for skip in [false, true] {
            let mut stream = device.stream::<Bidirectional>("both");
            if skip {
                stream = stream.attributes(Attributes::SKIP_CPU_SYNC).unwrap();
            }
            let (mut first, mut second, mut third) = ([1; 700], [2; 7], [3; 1500]);
            let mut lent = stream.copy_of(&[4; 300]).unwrap();
            let mut list = ScatterList::new(&stream);
            list.push_slice_mut(&mut first).unwrap();
            list.push_slice_mut(&mut second).unwrap();
            list.lend(&mut lent, 100..200).unwrap();
            list.push_slice_mut(&mut third).unwrap();
            list.push_range(stream.copy_of(&[5; 64]).unwrap(), 1..63).unwrap();
            let own = device.allocate(8192, None, "own").unwrap();
            own.write(0, &[6; 8192]).unwrap();
            list.push_range(stream.adopt(own), 3600..4192).unwrap();
            let list = list.map().unwrap().sync_for_cpu();
            let list = list.sync_for_device();
            for segment in list.segments() {
                let bytes = segment.bytes as usize;
                assert!(bytes <= 1000);
                let mut seen = iommud.device_reads(segment.iova, bytes).unwrap();
                seen.iter_mut().for_each(|it| *it += 10);
                assert!(iommud.device_writes(segment.iova, &seen));
            }
            let list = list.sync_for_cpu().unmap().unwrap();
            let mut out = vec![0; list.len()];
            list.read(0, &mut out).unwrap();
            let mut end = [0; 10];
            list.read(out.len() - 10, &mut end).unwrap();
            assert_eq!(list.read(out.len() - 9, &mut end), Err(Error::OutOfBuffer));
            let counts = [(11, 707), (12, 0), (14, 100), (13, 1500), (15, 62), (16, 592)];
            assert_eq!((out.len(), end), (counts.iter().map(|it| it.1).sum(), [16; 10]));
            if !skip {
                assert_eq!((out[0], out[706], out[707], out[807]), (11, 12, 14, 13));
            }
            drop(list);
        }
        drop(device);
        assert_eq!(iommud.given(), (0, 0));
    }
}

#[test]
fn raw_streams_reach_what_is_theirs() {
    for iommud in Iommud::each() {
        let device = iommud.open();
        for mut stream in [device.raw_stream("raw"), device.raw_stream("raw").strict()] {
            let one = stream.map_single(&[1; 100], Access::ReadWrite).unwrap();
            let two = stream.map_zeroes(5000, Access::Write).unwrap();
            assert!(iommud.device_writes(two.plus(4990).unwrap().iova(), &[2; 10]));
            stream.sync_single_for_cpu(two, 5000, Access::Write).unwrap();
            let mut out = [0; 10];
            stream.cpu_read(two.plus(4990).unwrap(), &mut out).unwrap();
            assert_eq!(out, [2; 10]);
            assert!(stream.cpu_write(two.plus(4991).unwrap(), &out).is_err());
            assert!(stream.cpu_read(one, &mut out).is_err());
            assert!(stream.unmap_single(one, 99, Access::ReadWrite).is_err());
            stream.unmap_single(one, 100, Access::ReadWrite).unwrap();
        }
        drop(device);
        assert_eq!(iommud.given(), (0, 0));
    }
}

/// A device with room below its mask in a window of its stream's and nowhere else; and what keeps it so.
fn full<D: Direction>(iommud: &Arc<Iommud>) -> (Device, (StreamBuffer<D>, Vec<Buffer>)) {
    let mut device = iommud.open();
    device.set_dma_mask(21).unwrap();
    let held = device.stream::<D>("held").buffer(1).unwrap();
    let mut kept = Vec::new();
    for bytes in [32 << 10, 4096] {
        while let Ok(buffer) = device.allocate(bytes, Some(Access::Read), "takes all") {
            kept.push(buffer);
        }
    }
    (device, (held, kept))
}

#[test]
fn what_cannot_be_mapped_is_copied_and_nothing_is_lost_where_it_cannot() {
    let iommud = Iommud::new(true);
    let (device, taken) = full::<Bidirectional>(&iommud);
    let stream = device.stream::<Bidirectional>("low");
    let mut buffer = stream.adopt(device.allocate(12_288, None, "high").unwrap());
    buffer.write(12_280, b"from cpu").unwrap();
    let held_up = buffer.map().unwrap();
    assert!(held_up.iova().get() < 1 << 21);
    let end = Iova::new(held_up.iova().get() + 12_280);
    assert_eq!(iommud.device_reads(end, 8).unwrap(), b"from cpu");
    assert!(iommud.device_writes(end, b"by range"));
    let mut held_up = held_up;
    let mut range = held_up.sync_range_for_cpu(12_280..12_284).unwrap();
    let mut out = [0; 8];
    range.read(0, &mut out[..4]).unwrap();
    assert_eq!(&out[..4], b"by r");
    assert_eq!(range.read(0, &mut out[..5]), Err(Error::OutOfBuffer));
    range.write(3, b"R").unwrap();
    drop(range);
    assert_eq!(iommud.device_reads(end, 8).unwrap(), b"by Range");
    assert!(iommud.device_writes(end, b"and back"));
    let mut synced = held_up.sync_for_cpu();
    synced.read(12_280, &mut out).unwrap();
    assert_eq!(&out, b"and back");
    // The CPU's turn: nothing that the device wrote before takes back what the CPU wrote.
    synced.write(12_280, b"mine").unwrap();
    let buffer = synced.unmap().unwrap();
    buffer.read(12_280, &mut out).unwrap();
    assert_eq!(&out, b"mineback");
    let again = buffer.map().unwrap().sync_for_cpu().sync_for_device();
    assert!(iommud.device_writes(end, b"once mor"));
    let buffer = again.unmap().unwrap();
    buffer.read(12_280, &mut out).unwrap();
    assert_eq!(&out, b"once mor");
    let before = iommud.given();
    let large = stream.adopt(device.allocate(1 << 20, None, "large").unwrap());
    let refused = large.map().unwrap_err();
    assert_eq!(refused.error, Error::NoAddressSpace);
    drop(refused);
    assert_eq!(iommud.given(), before);
    // This iommud tells no secret: what it gives is nobody's to have again after it.
    let gone = (Error::DaemonGone, Error::HandleLost);
    for (error, told) in
        [Error::TimedOut, Error::OutOfMemory].map(|it| (it, it)).into_iter().chain([gone])
    {
        let strict = device.stream::<ToDevice>("strict").strict();
        let another = strict.buffer(10).unwrap();
        iommud.refuse(error);
        assert_eq!(another.map().unwrap_err().error, told);
    }
    drop((taken, buffer));
}

#[test]
fn one_mapping_is_one_segment_whatever_was_mapped_before() {
    for iommud in Iommud::each() {
        let mut device = iommud.open();
        device.set_limits(Limits::NONE.boundary(8192));
        let stream = device.stream::<ToDevice>("tx");
        for pages in 0..3 {
            let _before = device.allocate(4096 * (1 + pages), Some(Access::Read), "before");
            let buffer = device.allocate(8192, Some(Access::Read), "across").unwrap();
            buffer.write(8000, b"data").unwrap();
            // A list may have it in two segments; mapped by itself it is one.
            let mut list = ScatterList::new(&stream);
            list.push(stream.adopt(buffer)).unwrap();
            let mut list = list.map().unwrap().unmap().unwrap();
            let buffer = list.clear().next().unwrap();
            let mapped = buffer.map().unwrap();
            let start = mapped.iova().get();
            let last = start + 8191;
            assert_eq!(start / 8192, last / 8192, "{start:#x}");
            assert_eq!(iommud.device_reads(Iova::new(start + 8000), 4).unwrap(), b"data");
        }
        // Wherever iommud maps them.
        let buffers = (0..4).map(|_| stream.adopt(device.allocate(8192, None, "any").unwrap()));
        for mapped in stream.map_all(buffers.collect()).unwrap() {
            let start = mapped.iova().get();
            let last = start + 8191;
            assert_eq!(start / 8192, last / 8192, "{start:#x}");
        }
    }
}

#[test]
fn by_whichever_gather_a_buffer_is_unmapped_its_own_stream_says_what_is_copied() {
    let iommud = Iommud::new(true);
    let (device, _taken) = full::<FromDevice>(&iommud);
    let stream = device.stream::<FromDevice>("rx");
    let skips = stream.clone().attributes(Attributes::SKIP_CPU_SYNC).unwrap();
    for (from, through, comes_back) in [(&stream, &skips, true), (&skips, &stream, false)] {
        let mapped = from.adopt(device.allocate(4096, None, "high").unwrap()).map().unwrap();
        assert!(iommud.device_writes(mapped.iova(), b"written"));
        let mut gather = through.gather(1);
        gather.unmap_later(mapped).unwrap();
        let mut out = [0; 7];
        gather.take().unwrap().read(0, &mut out).unwrap();
        assert_eq!(&out == b"written", comes_back);
    }
}

/// With `SKIP_CPU_SYNC`.
#[test]
fn what_is_synced_by_name_is_copied_whatever_is_not() {
    for iommud in Iommud::each() {
        let device = iommud.open();
        let stream = device.stream::<ToDevice>("tx").attributes(Attributes::SKIP_CPU_SYNC).unwrap();
        let mapped = stream.map_slice(b"sent").unwrap();
        assert_eq!(iommud.device_reads(mapped.iova(), 4).unwrap(), [0; 4]);
        let mapped = mapped.sync_for_cpu().sync_for_device();
        assert_eq!(iommud.device_reads(mapped.iova(), 4).unwrap(), b"sent");
        let mut list = ScatterList::new(&stream);
        list.push_slice(b"also ").unwrap();
        list.push_slice(b"sent").unwrap();
        let list = list.map().unwrap().sync_for_cpu().sync_for_device();
        assert_eq!(iommud.device_reads(list.segments()[0].iova, 9).unwrap(), b"also sent");
    }
}

#[test]
fn r2_what_is_unmapped_the_device_reaches_no_more() {
    let iommud = Iommud::new(true);
    let device = iommud.open();
    let stream = device.stream::<Bidirectional>("both").strict();
    let gone = |iova: Iova| assert_eq!(iommud.device_reads(iova, 1), None);
    let mapped = stream.buffer(10).unwrap().map().unwrap();
    let at = mapped.iova();
    assert!(iommud.device_writes(at, b"1"));
    let _buffer = mapped.unmap().unwrap();
    gone(at);
    let mut data = [0; 10];
    let bounced = stream.map_slice_mut(&mut data).unwrap();
    let at = bounced.iova();
    bounced.unmap().unwrap();
    gone(at);
    let mut lent = stream.buffer(10).unwrap();
    let mut list = ScatterList::new(&stream);
    list.lend(&mut lent, 0..10).unwrap();
    let list = list.map().unwrap();
    let at = list.segments()[0].iova;
    drop(list);
    gone(at);
    let mut raw = device.raw_stream("raw").strict();
    let at = raw.map_single(b"raw", Access::ReadWrite).unwrap();
    raw.unmap_single(at, 3, Access::ReadWrite).unwrap();
    gone(at.iova());
    let mut gather = stream.gather(2);
    let [first, second] = [0; 2].map(|_| stream.buffer(10).unwrap().map().unwrap());
    let (at, last) = (first.iova(), second.iova());
    gather.unmap_later(first).unwrap();
    assert!(gather.take().is_none() && iommud.device_writes(at, b"1"));
    gather.unmap_later(second).unwrap();
    gone(at);
    gone(last);
    assert_eq!(gather.waiting(), 0);
}

#[test]
fn r7_of_many_that_are_mapped_one_by_one_none_is_left_mapped() {
    let iommud = Iommud::new(true);
    let mut device = iommud.open();
    device.set_dma_mask(21).unwrap();
    let stream = device.stream::<ToDevice>("tx");
    let buffers = [4096, 2 << 20].map(|it| stream.adopt(device.allocate(it, None, "it").unwrap()));
    let before = iommud.given();
    let refused = stream.map_all(buffers.into()).unwrap_err();
    assert_eq!((refused.error, iommud.given()), (Error::NoAddressSpace, before));
}

#[test]
fn what_has_an_address_says_whose_it_is() {
    let iommud = Iommud::new(true);
    let device = iommud.open();
    let stream = device.stream::<Bidirectional>("both");
    let pool = device.pool("blocks").of::<u64>().unwrap();
    let (block, mut data) = (pool.alloc().unwrap(), [0; 30]);
    let mapped = stream.buffer(20).unwrap().map().unwrap();
    let bounced = stream.map_slice_mut(&mut data).unwrap();
    let mut list = ScatterList::new(&stream);
    list.push(stream.buffer(10).unwrap()).unwrap();
    let list = list.map().unwrap();
    let segment = list.io_addresses().next().unwrap();
    for (address, iova, bytes) in [
        (block.io_address(), block.iova(), 8),
        (mapped.io_address(), mapped.iova(), 20),
        (bounced.io_address(), bounced.iova(), 30),
        (segment, list.segments()[0].iova, 10),
    ] {
        assert_eq!((address.for_device(&device), address.bytes()), (Ok(iova), bytes));
    }
}

#[test]
fn what_is_mapped_already_is_mapped_anew_where_that_will_not_do() {
    let iommud = Iommud::new(true);
    let mut device = iommud.open();
    let read = device.allocate(4096, Some(Access::Read), "for reading").unwrap();
    let at = read.iova().unwrap();
    let mapped = device.stream::<FromDevice>("rx").adopt(read).map().unwrap();
    assert!(mapped.iova() != at && iommud.device_writes(mapped.iova(), b"written"));
    let _low = device.stream::<ToDevice>("keeps a window").buffer(1).unwrap();
    let takes_room = device.allocate(1 << 20, Some(Access::Read), "takes room").unwrap();
    let high = device.allocate(4096, Some(Access::Read), "high").unwrap();
    assert!(high.iova().unwrap().get() >= 1 << 21);
    // Strict: what it reached before it was mapped it would reach afterwards.
    let strict = device.stream::<ToDevice>("tx").strict();
    let refused = strict.adopt(high).map().unwrap_err();
    assert_eq!(refused.error, Error::MappedElsewhere);
    let high = refused.into_kept().into_buffer().unwrap();
    high.write(0, b"low").unwrap();
    device.set_dma_mask(21).unwrap();
    let mapped = device.stream::<ToDevice>("tx").adopt(high).map().unwrap();
    assert!(mapped.iova().get() < 1 << 21);
    assert_eq!(iommud.device_reads(mapped.iova(), 3).unwrap(), b"low");
    drop(takes_room);
}

#[test]
fn what_the_device_writes_in_its_second_turn_comes_back_too() {
    for iommud in Iommud::each() {
        let stream = iommud.open().stream::<FromDevice>("rx");
        let (mut first, mut second) = ([0; 4], [0; 4]);
        let mapped = stream.map_slice_mut(&mut first).unwrap().sync_for_cpu().sync_for_device();
        assert!(iommud.device_writes(mapped.iova(), b"turn"));
        mapped.unmap().unwrap();
        let mut list = ScatterList::new(&stream);
        list.push_slice_mut(&mut second).unwrap();
        let list = list.map().unwrap().sync_for_cpu().sync_for_device();
        assert!(iommud.device_writes(list.segments()[0].iova, b"turn"));
        drop(list);
        assert_eq!((&first, &second), (b"turn", b"turn"));
        // What it writes in the CPU's turn does not.
        let mut list = ScatterList::new(&stream);
        list.push_slice_mut(&mut second).unwrap();
        let list = list.map().unwrap().sync_for_cpu();
        assert!(iommud.device_writes(list.segments()[0].iova, b"late"));
        drop(list.unmap().unwrap());
        let mapped = stream.map_slice_mut(&mut first).unwrap().sync_for_cpu();
        assert!(iommud.device_writes(mapped.iova(), b"late"));
        mapped.unmap().unwrap();
        assert_eq!((&first, &second), (b"turn", b"turn"));
    }
}

#[test]
fn a_gather_takes_what_is_of_its_own_device() {
    let iommud = Iommud::new(true);
    let [device, other] = [0; 2].map(|_| iommud.open());
    let mut gather = device.stream::<ToDevice>("tx").gather(4);
    let strange = other.stream::<ToDevice>("tx").strict().buffer(10).unwrap().map().unwrap();
    let at = strange.iova();
    let Err(NotUnmapped::Refused(refused)) = gather.unmap_later(strange) else { panic!() };
    assert_eq!(refused.error, Error::WrongOwner);
    assert_eq!((gather.waiting(), refused.into_kept().iova()), (0, at));
    assert_eq!(iommud.device_reads(at, 1), None);
    let strange = other.stream::<ToDevice>("tx").buffer(10).unwrap().map().unwrap();
    assert_eq!(gather.unmap_later(strange).map_err(Error::from), Err(Error::WrongOwner));
    assert!(gather.take().is_none());
}

#[test]
fn pages_of_a_list_lie_one_behind_the_other_and_one_mapping_is_no_longer_than_a_boundary() {
    let iommud = Iommud::new(true);
    let mut device = iommud.open();
    let stream = device.stream::<ToDevice>("tx");
    let mut list = ScatterList::new(&stream);
    for label in ["first", "second", "third"] {
        list.push(stream.adopt(device.allocate(4096, None, label).unwrap())).unwrap();
    }
    let list = list.map().unwrap();
    assert_eq!(list.segments().len(), 1);
    drop(list);
    device.set_limits(Limits::NONE.boundary(4096).max_segment(8192));
    let long = device.stream::<ToDevice>("tx").buffer(4097).unwrap();
    assert_eq!(long.map().unwrap_err().error, Error::SegmentTooLong);
}
