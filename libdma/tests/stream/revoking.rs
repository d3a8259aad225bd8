//! What an unmap takes from the device.

use libdma::{Device, FromDevice, ToDevice};
use simulated::Machine;

use crate::moving::bytes;

fn confined() -> [Machine; 2] {
    [Machine::vtd(), Machine::amdvi()]
}

#[test]
fn r2_a_strict_stream_blocks_the_device_from_the_unmap_on() {
    for machine in confined() {
        let stream = machine.open().stream::<FromDevice>("rx").strict();
        let mapped = stream.buffer(4096).unwrap().map().unwrap();
        let iova = mapped.iova();
        machine.device_writes(iova, b"in time").unwrap();
        let buffer = mapped.unmap().unwrap();
        assert!(machine.device_writes(iova, b"too late").is_err());
        assert_eq!(bytes(&buffer, 0, 8), b"in time\0");
        machine.check();
    }
}

#[test]
fn r2_a_strict_slice_comes_back_after_the_device_has_lost_it() {
    for machine in confined() {
        let stream = machine.open().stream::<FromDevice>("rx").strict();
        let mut data = [0; 100];
        let mapped = stream.map_slice_mut(&mut data).unwrap();
        let iova = mapped.iova();
        machine.device_writes(iova, b"in time").unwrap();
        drop(mapped);
        assert!(machine.device_writes(iova, b"too late").is_err());
        assert_eq!(data[..8], *b"in time\0");
        machine.check();
    }
}

#[test]
fn strict_memory_is_the_cpus_alone_before_it_is_mapped() {
    for machine in confined() {
        let device = machine.open();
        let _buffer = device.stream::<ToDevice>("tx").strict().buffer(4096).unwrap();
        assert_eq!(mappings(&machine), 0);
        machine.check();
    }
}

/// As the documentation of `Stream` says: its memory is the device's for as long as the window.
#[test]
fn in_a_window_an_unmap_ends_the_claim_and_not_the_access() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<FromDevice>("rx");
        let mapped = stream.buffer(64).unwrap().map().unwrap();
        let iova = mapped.iova();
        let buffer = mapped.unmap().unwrap();
        machine.device_writes(iova, b"late").unwrap();
        assert_eq!(bytes(&buffer, 0, 4), b"late");
    }
}

#[test]
fn r4_what_is_dropped_while_it_is_the_devices_comes_back() {
    for machine in Machine::each() {
        let device = machine.open();
        machine.make_tables(&device);
        let before = machine.usage();
        let stream = device.stream::<FromDevice>("rx").strict();
        drop(stream.buffer(4096).unwrap().map().unwrap());
        let mapped = stream.adopt(allocated(&device)).map().unwrap();
        drop(mapped);
        drop(stream.buffer(8192).unwrap().map().unwrap().sync_for_cpu());
        assert_eq!(machine.usage(), before);
        machine.check();
    }
}

fn allocated(device: &Device) -> libdma::Buffer {
    device.allocate(4096, None, "mine").unwrap()
}

fn mappings(machine: &Machine) -> usize {
    machine.text("mappings").lines().skip(1).count()
}
