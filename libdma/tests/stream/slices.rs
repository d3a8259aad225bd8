//! Slices of which the device reaches a copy.

use libdma::{Attributes, Bidirectional, Error, FromDevice, Iova, ToDevice};
use simulated::Machine;

#[test]
fn the_device_reads_a_slice() {
    for machine in Machine::each() {
        let device = machine.open();
        for strict in [false, true] {
            let mut stream = device.stream::<ToDevice>("tx");
            if strict {
                stream = stream.strict();
            }
            let data: Vec<u8> = (0..300).map(|it| it as u8).collect();
            let mapped = stream.map_slice(&data[1..]).unwrap();
            assert_eq!(machine.device_reads(mapped.iova(), 299).unwrap(), data[1..]);
            mapped.unmap().unwrap();
            assert_eq!(stream.map_slice(&[]).err(), Some(Error::ZeroSize));
        }
        machine.check();
    }
}

/// Linux's swiotlb promises as much.
#[test]
fn what_the_device_did_not_write_is_as_it_was() {
    for machine in Machine::each() {
        let device = machine.open();
        for strict in [false, true] {
            let mut stream = device.stream::<FromDevice>("rx");
            if strict {
                stream = stream.strict();
            }
            let mut data = *b"................";
            let mapped = stream.map_slice_mut(&mut data[3..13]).unwrap();
            machine.device_writes(Iova::new(mapped.iova().get() + 2), b"new").unwrap();
            mapped.unmap().unwrap();
            assert_eq!(&data, b".....new........");
            // A guard that is dropped brings back what was written, too.
            let mapped = stream.map_slice_mut(&mut data).unwrap();
            machine.device_writes(mapped.iova(), b"!").unwrap();
            drop(mapped);
            assert_eq!(&data, b"!....new........");
        }
        machine.check();
    }
}

#[test]
fn turns_are_taken_with_a_slice() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<Bidirectional>("both");
        let mut data = *b"mine";
        let mut mapped = stream.map_slice_mut(&mut data).unwrap();
        let iova = mapped.iova();
        assert_eq!(machine.device_reads(iova, 4).unwrap(), b"mine");
        machine.device_writes(iova, b"its").unwrap();
        assert_eq!(mapped.sync_range_for_cpu(1..4), Ok(&b"tse"[..]));
        assert_eq!(mapped.sync_range_for_cpu(1..5), Err(Error::OutOfBuffer));
        let mut synced = mapped.sync_for_cpu();
        assert_eq!(synced.as_slice(), b"itse");
        synced.as_mut_slice()[3] = b'!';
        let mapped = synced.sync_for_device();
        assert_eq!(machine.device_reads(iova, 4).unwrap(), b"its!");
        machine.device_writes(iova, b"I").unwrap();
        // What the CPU changes in its turn is not undone by the end.
        let mut synced = mapped.sync_for_cpu();
        synced.as_mut_slice()[1] = b'T';
        synced.unmap().unwrap();
        assert_eq!(&data, b"ITs!");
    }
}

#[test]
fn nothing_is_copied_where_it_is_not_wanted() {
    for machine in Machine::each() {
        let stream = machine
            .open()
            .stream::<Bidirectional>("both")
            .attributes(Attributes::SKIP_CPU_SYNC)
            .unwrap();
        let mut data = *b"mine";
        let mapped = stream.map_slice_mut(&mut data).unwrap();
        assert_ne!(machine.device_reads(mapped.iova(), 4).unwrap(), b"mine");
        machine.device_writes(mapped.iova(), b"late").unwrap();
        mapped.unmap().unwrap();
        assert_eq!(&data, b"mine");
        let mapped = stream.map_slice_mut(&mut data).unwrap();
        machine.device_writes(mapped.iova(), b"sync").unwrap();
        mapped.sync_for_cpu().unmap().unwrap();
        assert_eq!(&data, b"sync", "but what is synced by name is");
        let mapped = stream.map_slice_mut(&mut data).unwrap().sync_for_cpu().sync_for_device();
        machine.device_writes(mapped.iova(), b"late").unwrap();
        mapped.unmap().unwrap();
        assert_ne!(&data, b"late");
    }
}

/// The memory of the copy is lost; the slice is the caller's again, and the device never reached it.
#[test]
fn a_guard_that_is_forgotten_leaves_the_device_the_copy_alone() {
    for machine in Machine::each() {
        let device = machine.open();
        let stream = device.stream::<FromDevice>("rx");
        let mut data = [1; 32];
        let mapped = stream.map_slice_mut(&mut data).unwrap();
        let iova = mapped.iova();
        core::mem::forget(mapped);
        machine.device_writes(iova, &[2; 32]).unwrap();
        assert_eq!(data, [1; 32]);
        let another = stream.map_slice_mut(&mut data).unwrap();
        assert_ne!(another.iova(), iova, "it is nobody else's");
        drop(another);
        machine.check();
    }
}
