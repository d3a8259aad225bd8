//! Failure is ordinary: each request fails once, and nothing is left of it.

use libdma::{Access, Attributes, Error, FromDevice, Limits, ScatterList, ToDevice};
use simulated::{Machine, second_edu};

use crate::moving::bytes;

/// Does it with the first, the second, … request refused, until it makes so few that none is; how often it failed.
fn at_each_step(machine: &Machine, mut act: impl FnMut() -> Result<(), Error>) -> u64 {
    let before = machine.usage();
    for step in 0.. {
        machine.client.refuse(step, 1, Error::QuotaExceeded);
        let result = act();
        machine.client.refuse_none();
        assert_eq!(machine.usage(), before, "step {step}");
        match result {
            Ok(()) => return step,
            Err(error) => assert_eq!(error, Error::QuotaExceeded, "step {step}"),
        }
    }
    unreachable!()
}

#[test]
fn r7_memory_that_cannot_be_had_leaves_nothing() {
    for machine in Machine::each() {
        let device = machine.open();
        machine.make_tables(&device);
        let (stream, mut data) = (device.stream::<FromDevice>("rx").strict(), [0; 64]);
        assert!(at_each_step(&machine, || stream.buffer(4096).map(drop)) > 0);
        assert!(at_each_step(&machine, || stream.map_slice_mut(&mut data).map(drop)) > 1);
        machine.check();
    }
}

#[test]
fn r7_a_map_that_fails_leaves_the_buffer_the_cpus() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<ToDevice>("tx").strict();
        let buffer = stream.copy_of(b"data").unwrap();
        machine.client.refuse(0, 1, Error::OutOfMemory);
        let refused = buffer.map().unwrap_err();
        assert_eq!(
            (refused.error, bytes(&refused.kept, 0, 4)),
            (Error::OutOfMemory, b"data".to_vec())
        );
        let mapped = refused.kept.map().unwrap();
        assert_eq!(machine.device_reads(mapped.iova(), 4).unwrap(), b"data");
        drop(mapped);
        machine.check();
    }
}

#[test]
fn r7_an_unmap_that_fails_leaves_the_buffer_the_devices() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<FromDevice>("rx").strict();
        let mapped = stream.buffer(64).unwrap().map().unwrap();
        machine.client.refuse(0, 1, Error::TimedOut);
        let refused = mapped.unmap().unwrap_err();
        assert_eq!(refused.error, Error::TimedOut);
        machine.device_writes(refused.kept.iova(), b"still").unwrap();
        assert_eq!(bytes(&refused.kept.unmap().unwrap(), 0, 5), b"still");
        let mut data = [0; 5];
        let mapped = stream.map_slice_mut(&mut data).unwrap();
        machine.client.refuse(0, 1, Error::TimedOut);
        let mapped = mapped.unmap().unwrap_err().into_kept();
        machine.device_writes(mapped.iova(), b"slice").unwrap();
        mapped.unmap().unwrap();
        assert_eq!(&data, b"slice");
        machine.check();
    }
}

#[test]
fn r7_of_many_none_is_mapped() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<ToDevice>("tx").strict();
        let mut buffers: Vec<_> = (0..5).map(|_| stream.buffer(64).unwrap()).collect();
        let before = machine.usage();
        for error in [Error::NoAddressSpace, Error::OutOfMemory, Error::DaemonGone] {
            machine.client.refuse(0, 1, error);
            let refused = stream.map_all(buffers).unwrap_err();
            assert_eq!(refused.error, error);
            assert_eq!(machine.usage(), before);
            buffers = *refused.kept;
        }
        stream.map_all(buffers).unwrap();
        machine.check();
    }
}

#[test]
fn r5_lengths_that_nothing_has_are_refused() {
    for machine in Machine::each() {
        let mut device = machine.open();
        for limits in [Limits::NONE, Limits::NONE.boundary(1 << 63), Limits::NONE.boundary(4096)] {
            device.set_limits(limits);
            let windowed = device.stream::<FromDevice>("rx");
            let whole = windowed.clone().attributes(Attributes::FORCE_CONTIGUOUS).unwrap();
            for stream in [windowed.clone().strict(), windowed, whole] {
                for bytes in [usize::MAX, usize::MAX - 4095, isize::MAX as usize, 1 << 63, 1 << 40]
                {
                    let refused = stream.buffer(bytes).err();
                    assert_eq!(refused, Some(Error::TooLarge), "{bytes:#x}");
                }
            }
            let raw = device.raw_stream("raw");
            for mut raw in [device.raw_stream("raw").strict(), raw] {
                for bytes in [usize::MAX, 1 << 63, 1 << 40] {
                    let refused = raw.map_zeroes(bytes, Access::Write).map_err(Error::from);
                    let (long, all) = (Err(Error::SegmentTooLong), Err(Error::TooLarge));
                    let is_long = bytes as u64 > limits.segment_boundary();
                    assert_eq!(refused, if is_long { long } else { all }, "{bytes:#x}");
                }
            }
        }
        machine.check();
    }
}

#[test]
fn r3_another_devices_buffer_is_not_taken_for_the_streams_own() {
    for machine in Machine::each() {
        let (disk, card) = (machine.open(), machine.open_at(second_edu()).unwrap());
        let windowed = disk.stream::<FromDevice>("rx");
        for access in [None, Some(Access::ReadWrite)] {
            let mut foreign = card.allocate(4096, access, "the card's").unwrap();
            for stream in [windowed.clone().strict(), windowed.clone()] {
                let refused = stream.adopt(foreign).map().unwrap_err();
                assert_eq!(refused.error, Error::WrongOwner);
                let mut list = ScatterList::new(&stream);
                list.push(refused.into_kept()).unwrap();
                let refused = list.map().unwrap_err();
                assert_eq!(refused.error, Error::WrongOwner);
                let kept = refused.into_kept().clear().next().unwrap();
                foreign = kept.into_buffer().unwrap();
            }
        }
        machine.check();
    }
}
