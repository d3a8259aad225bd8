//! Many maps, and many unmaps, by one request.

use libdma::protocol::MAX_BATCH;
use libdma::stream::NotUnmapped;
use libdma::{Attributes, Error, FromDevice, Limits, Stream, StreamBuffer, ToDevice};
use simulated::Machine;

#[test]
fn many_are_mapped_by_one_request() {
    for machine in Machine::each() {
        let device = machine.open();
        let stream = device.stream::<ToDevice>("tx").strict();
        let buffers: Vec<_> = (0..40).map(|it| stream.copy_of(&[it; 64]).unwrap()).collect();
        let before = machine.client.requests();
        let mapped = stream.map_all(buffers).unwrap();
        assert_eq!(machine.client.requests(), before + 1);
        for (index, mapped) in mapped.iter().enumerate() {
            assert_eq!(machine.device_reads(mapped.iova(), 64).unwrap(), [index as u8; 64]);
        }
        machine.check();
    }
}

#[test]
fn r2_gathered_unmaps_are_one_request_and_memory_comes_back_after_it() {
    for machine in Machine::each() {
        let device = machine.open();
        let stream = device.stream::<FromDevice>("rx").strict();
        let mut gather = stream.gather(16);
        let buffers: Vec<_> = (0..40).map(|_| stream.buffer(4096).unwrap()).collect();
        let mapped = stream.map_all(buffers).unwrap();
        let iovas: Vec<_> = mapped.iter().map(|it| it.iova()).collect();
        let before = machine.client.requests();
        for (index, it) in mapped.into_iter().enumerate() {
            gather.unmap_later(it).unwrap();
            assert_eq!(gather.waiting(), (index + 1) % 16);
        }
        assert_eq!(machine.client.requests(), before + 2);
        let taken = std::iter::from_fn(|| gather.take()).count();
        assert_eq!(taken, 32, "the rest is the device's still");
        if device.is_confined() {
            assert!(machine.device_writes(iovas[31], b"late").is_err());
        }
        machine.device_writes(iovas[32], b"in time").unwrap();
        gather.flush().unwrap();
        assert_eq!(machine.client.requests(), before + 3);
        gather.flush().unwrap();
        assert_eq!(machine.client.requests(), before + 3, "there is nothing to flush");
        let mut out = [0; 7];
        let found = std::iter::from_fn(|| gather.take()).any(|it| {
            it.read(0, &mut out).unwrap();
            out == *b"in time"
        });
        assert!(found);
        machine.check();
    }
}

#[test]
fn what_is_gathered_is_unmapped_when_its_gatherer_is_dropped() {
    for machine in Machine::each() {
        let device = machine.open();
        machine.make_tables(&device);
        let before = machine.usage();
        let stream = device.stream::<FromDevice>("rx").strict();
        let mut gather = stream.gather(100);
        for _ in 0..3 {
            gather.unmap_later(stream.buffer(4096).unwrap().map().unwrap()).unwrap();
        }
        drop(gather);
        assert_eq!(machine.usage(), before);
        machine.check();
    }
}

#[test]
fn r7_a_flush_that_fails_leaves_all_to_the_device_and_can_be_tried_again() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let stream = machine.open().stream::<FromDevice>("rx").strict();
        let mut gather = stream.gather(2);
        let first = stream.buffer(64).unwrap().map().unwrap();
        let second = stream.buffer(64).unwrap().map().unwrap();
        let (iova, third) = (first.iova(), stream.buffer(64).unwrap().map().unwrap());
        gather.unmap_later(first).unwrap();
        machine.client.refuse(0, 1, Error::TimedOut);
        let failed = gather.unmap_later(second).unwrap_err();
        assert!(matches!(failed, NotUnmapped::NotFlushed(Error::TimedOut)), "{failed}");
        assert_eq!((gather.waiting(), gather.take().is_none()), (2, true));
        machine.device_writes(iova, b"still").unwrap();
        gather.unmap_later(third).unwrap();
        assert!(machine.device_writes(iova, b"no more").is_err());
        assert_eq!(std::iter::from_fn(|| gather.take()).count(), 3);
        machine.check();
    }
}

#[test]
fn what_is_gathered_first_comes_back_first() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<ToDevice>("tx").strict();
        let mut gather = stream.gather(MAX_BATCH);
        let all = MAX_BATCH + 9;
        for index in 0..all as u8 {
            let mapped = stream.copy_of(&[index]).unwrap().map().unwrap();
            // What a flush leaves when it fails is more than one request.
            machine.client.refuse(0, 1, Error::TimedOut);
            let _ = gather.unmap_later(mapped);
            machine.client.refuse_none();
        }
        assert_eq!(gather.waiting(), all);
        gather.flush().unwrap();
        let first = |buffer: StreamBuffer<ToDevice>| {
            let mut first = [0];
            buffer.read(0, &mut first).unwrap();
            first[0]
        };
        let order: Vec<u8> = std::iter::from_fn(|| gather.take()).map(first).collect();
        assert_eq!(order, (0..all as u8).collect::<Vec<_>>());
        machine.check();
    }
}

#[test]
fn in_windows_nothing_is_gathered() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<FromDevice>("rx");
        let mapped = stream.map_all(vec![stream.buffer(64).unwrap(), stream.buffer(64).unwrap()]);
        let mut gather = stream.gather(100);
        let before = machine.client.requests();
        for it in mapped.unwrap() {
            gather.unmap_later(it).unwrap();
        }
        let taken: Vec<_> = std::iter::from_fn(|| gather.take()).collect();
        assert_eq!((taken.len(), machine.client.requests()), (2, before));
    }
}

#[test]
fn a_batch_has_an_end_and_streams_are_not_mixed() {
    let machine = Machine::amdvi();
    let device = machine.open();
    let stream = device.stream::<ToDevice>("tx").strict();
    let buffers: Vec<_> = (0..=MAX_BATCH).map(|_| stream.buffer(1).unwrap()).collect();
    let refused = stream.map_all(buffers).unwrap_err();
    assert_eq!((refused.error, refused.kept.len()), (Error::BatchTooLarge, MAX_BATCH + 1));
    let other = device.stream::<ToDevice>("other").map_all(*refused.kept).unwrap_err();
    assert_eq!(other.error, Error::OtherTerms);
    assert!(stream.map_all(Vec::new()).unwrap().is_empty());
    machine.check();
}

#[test]
fn many_are_of_one_device_and_on_the_same_terms() {
    for machine in Machine::each() {
        let mut device = machine.open();
        let stream = device.stream::<ToDevice>("tx");
        let map = |of: &Stream<ToDevice>| {
            let buffers = vec![stream.buffer(64).unwrap(), of.buffer(64).unwrap()];
            let mapped = stream.map_all(buffers);
            mapped.map(drop).map_err(|refused| (refused.error, refused.kept.len()))
        };
        assert_eq!(map(&device.stream("also")), Ok(()));
        let without = stream.clone().attributes(Attributes::SKIP_CPU_SYNC).unwrap();
        for other in [stream.clone().strict(), without] {
            assert_eq!(map(&other), Err((Error::OtherTerms, 2)));
        }
        device.set_limits(Limits::NONE.mask_bits(40));
        assert_eq!(map(&device.stream("narrower")), Err((Error::OtherTerms, 2)));
        device.set_limits(Limits::NONE.boundary(4096));
        assert_eq!(map(&device.stream("shorter")), Err((Error::OtherTerms, 2)));
        let strange = machine.open_at(simulated::second_edu()).unwrap();
        assert_eq!(map(&strange.stream("strange")), Err((Error::WrongOwner, 2)));
        machine.check();
    }
}

#[test]
fn what_is_gathered_is_of_one_device() {
    for machine in Machine::each() {
        let device = machine.open();
        let strange = machine.open_at(simulated::second_edu()).unwrap();
        let mut gather = device.stream::<ToDevice>("tx").gather(8);
        let before = machine.usage();
        for stream in [strange.stream("rx"), strange.stream("rx").strict()] {
            let mapped = stream.copy_of(b"as it was").unwrap().map().unwrap();
            let iova = mapped.iova();
            let Err(NotUnmapped::Refused(refused)) = gather.unmap_later(mapped) else { panic!() };
            assert_eq!(refused.error, Error::WrongOwner);
            assert_eq!((gather.waiting(), gather.take().is_none()), (0, true));
            let mapped = refused.into_kept();
            assert_eq!(mapped.iova(), iova);
            let read = machine.reads(simulated::second_edu(), iova, 9);
            assert_eq!(read.unwrap(), b"as it was");
            drop(mapped.unmap().unwrap());
        }
        // A window stays.
        assert_eq!(machine.usage().live_runs, before.live_runs + 1);
        machine.check();
    }
}
