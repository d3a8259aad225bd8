//! Devices and their memory, by libdma.

use libdma::{Access, Device, Error};

use crate::child::Holder;
use crate::edu::Edu;
use crate::rig::{Daemon, edu};
use crate::vendor::Vendor;

both! {
    data_moves_both_ways_through_addresses_that_are_not_physical,
    r3_a_second_opener_is_refused_until_the_first_has_gone,
    r3_no_more_than_the_buffer_is_shared,
    r4_closing_the_device_ends_what_its_buffers_reach,
    r4_what_a_killed_client_held_comes_back,
    the_daemons_death_is_an_error_and_not_a_hang,
}

fn data_moves_both_ways_through_addresses_that_are_not_physical(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let transport = daemon.connect();
    let device = Device::open(transport.clone(), edu()).unwrap();
    let out = device.coherent("out").access(Access::Read).alone().slice::<u64>(64).unwrap();
    let back = device.coherent("back").access(Access::Write).alone().slice::<u64>(64).unwrap();
    let edu = Edu::open(transport).unwrap();
    for index in 0..64 {
        assert_eq!(out.read(index), Ok(0), "r8: memory starts as zeroes");
        out.write(index, index as u64 * 0x0101_0101_0101_0101).unwrap();
    }
    edu.read(out.iova(), 512);
    edu.write(back.iova(), 512);
    for index in 0..64 {
        assert_eq!(back.read(index), Ok(index as u64 * 0x0101_0101_0101_0101));
    }
    let mappings = daemon.report("mappings");
    assert_eq!(mappings.len(), 2);
    for mapping in mappings {
        assert_ne!(mapping["iova"], mapping["physical"]);
    }
    assert!(daemon.report("faults").is_empty());
}

fn r3_a_second_opener_is_refused_until_the_first_has_gone(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let first = Device::open(daemon.connect(), edu()).unwrap();
    assert_eq!(Device::open(daemon.connect(), edu()).unwrap_err(), Error::DeviceBusy);
    drop(first);
    assert!(daemon.reopen().generation() > 1);
    daemon.is_well();
}

fn r3_no_more_than_the_buffer_is_shared(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let buffer = device.allocate(8192, None, "small").unwrap();
    let handle = buffer.handle();
    assert_eq!(handle.map_buffer(8193, true).unwrap_err(), Error::OutOfBuffer);
    assert_eq!(handle.map_buffer(1 << 40, true).unwrap_err(), Error::OutOfBuffer);
    assert_eq!(handle.map_buffer(0, true).unwrap_err(), Error::ZeroSize);
    assert_eq!(device.handle().map_buffer(4096, true).unwrap_err(), Error::WrongHandleKind);
    let whole = handle.map_buffer(8192, true).unwrap();
    // SAFETY: it was mapped just now, and nobody has used it.
    unsafe { handle.transport().unmap(whole) };
}

fn r4_closing_the_device_ends_what_its_buffers_reach(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let transport = daemon.connect();
    let device = Device::open(transport.clone(), edu()).unwrap();
    let target = device.coherent("target").alone().slice::<u64>(8).unwrap();
    let registers = Edu::open(transport).unwrap();
    registers.write(target.iova(), 64);
    let iova = target.iova();
    drop((target, device));
    let again = daemon.reopen();
    assert!(!registers.is_bus_master(), "hygiene: the next driver decides when it begins");
    registers.switch_on();
    registers.write(iova, 64);
    let faults = daemon.report("faults");
    assert_eq!(faults.len(), 1);
    assert_eq!(
        (&faults[0]["device"], &faults[0]["tried"]),
        (&"0000:00:02.0".into(), &"write".into())
    );
    assert_eq!(faults[0]["address"], iova.to_string());
    drop((registers, again));
    daemon.is_well();
}

fn r4_what_a_killed_client_held_comes_back(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    for _ in 0..4 {
        let holder = Holder::opening(&daemon.socket());
        assert_eq!(Device::open(daemon.connect(), edu()).unwrap_err(), Error::DeviceBusy);
        assert_eq!(daemon.report("mappings").len(), 1);
        drop(holder);
        daemon.is_well();
    }
}

fn the_daemons_death_is_an_error_and_not_a_hang(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let ring = device.coherent("ring").alone().slice::<u64>(8).unwrap();
    drop(daemon);
    assert_eq!(device.allocate(4096, None, "late").unwrap_err(), Error::DaemonGone);
    // Its memory is still this process's.
    ring.write(0, 7).unwrap();
    assert_eq!(ring.read(0), Ok(7));
}
