//! Streaming memory by its addresses: what was said of it is checked.
#![cfg(target_os = "linux")]

use libdma::Access::{Read, ReadWrite, Write};
use libdma::{Access, BusAddress, Device, Error, Iova, RawError, RawStream};
use simulated::Machine;

fn both_kinds(device: &Device) -> [RawStream; 2] {
    [device.raw_stream("raw"), device.raw_stream("raw").strict()]
}

fn behind(address: BusAddress, bytes: u64) -> BusAddress {
    address.plus(bytes).unwrap()
}

#[test]
fn data_goes_both_ways() {
    for machine in Machine::each() {
        let device = machine.open();
        for mut stream in both_kinds(&device) {
            let sent = stream.map_single(b"sent", Read).unwrap();
            assert_eq!(machine.device_reads(sent.iova(), 4).unwrap(), b"sent");
            let back = stream.map_zeroes(100, Write).unwrap();
            machine.device_writes(behind(back, 50).iova(), b"back").unwrap();
            stream.sync_single_for_cpu(behind(back, 48), 8, Write).unwrap();
            let mut out = [1; 8];
            stream.cpu_read(behind(back, 48), &mut out).unwrap();
            assert_eq!(&out, b"\0\0back\0\0");
            stream.sync_single_for_cpu(sent, 4, Read).unwrap();
            stream.cpu_write(behind(sent, 1), b"ecs").unwrap();
            stream.sync_single_for_device(sent, 4, Read).unwrap();
            assert_eq!(machine.device_reads(sent.iova(), 4).unwrap(), b"secs");
            assert_eq!(stream.len(), 2);
            stream.unmap_single(sent, 4, Read).unwrap();
            stream.unmap_single(back, 100, Write).unwrap();
            assert!(stream.is_empty());
        }
        machine.check();
    }
}

#[test]
fn what_is_not_so_is_refused_and_changes_nothing() {
    for machine in Machine::each() {
        let device = machine.open();
        for mut stream in both_kinds(&device) {
            let mut out = [0; 64];
            assert_eq!(
                stream.unmap_single(device.bus_address(Iova::new(0x5000)), 64, Read),
                Err(RawError::NotMapped)
            );
            let address = stream.map_zeroes(64, ReadWrite).unwrap();
            let end = behind(address, 64);
            let unmap = RawStream::unmap_single;
            let mut refused = |address, bytes, access: Access, why| {
                assert_eq!(unmap(&mut stream, address, bytes, access), Err(why));
            };
            refused(behind(address, 1), 63, ReadWrite, RawError::NotMapped);
            refused(address, 63, ReadWrite, RawError::WrongSize { mapped: 64 });
            refused(address, 1 << 40, ReadWrite, RawError::WrongSize { mapped: 64 });
            refused(address, 64, Write, RawError::WrongDirection { mapped: ReadWrite });
            assert_eq!(stream.cpu_read(address, &mut out), Err(RawError::OfDevice));
            assert_eq!(stream.cpu_write(address, &out), Err(RawError::OfDevice));
            let sync = RawStream::sync_single_for_cpu;
            let too_long = Err(RawError::WrongSize { mapped: 64 });
            assert_eq!(sync(&mut stream, address, 65, ReadWrite), too_long);
            assert_eq!(sync(&mut stream, behind(address, 63), u64::MAX, ReadWrite), too_long);
            assert_eq!(sync(&mut stream, end, 1, ReadWrite), Err(RawError::NotMapped));
            let written = stream.map_zeroes(64, Write).unwrap();
            let direction = Err(RawError::WrongDirection { mapped: Write });
            assert_eq!(sync(&mut stream, written, 64, ReadWrite), direction);
            assert_eq!(sync(&mut stream, written, 64, Read), direction);
            stream.unmap_single(written, 64, Write).unwrap();
            // Of both directions, one will do.
            sync(&mut stream, address, 64, Read).unwrap();
            assert_eq!(stream.cpu_read(behind(address, 1), &mut out), too_long);
            assert_eq!(stream.cpu_read(end, &mut out[..1]), Err(RawError::NotMapped));
            stream.cpu_read(address, &mut out).unwrap();
            stream.unmap_single(address, 64, ReadWrite).unwrap();
            assert_eq!(stream.unmap_single(address, 64, ReadWrite), Err(RawError::NotMapped));
            assert_eq!(stream.map_single(&[], Read), Err(RawError::Failed(Error::ZeroSize)));
        }
        machine.check();
    }
}

#[test]
fn r2_a_strict_one_is_out_of_reach_when_it_is_unmapped() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let mut stream = machine.open().raw_stream("raw").strict();
        let address = stream.map_single(b"once", ReadWrite).unwrap();
        machine.device_writes(address.iova(), b"ok").unwrap();
        machine.client.refuse(0, 1, Error::TimedOut);
        let failed = stream.unmap_single(address, 4, ReadWrite);
        assert_eq!(failed, Err(RawError::Failed(Error::TimedOut)));
        machine.device_writes(address.iova(), b"ok").unwrap();
        stream.unmap_single(address, 4, ReadWrite).unwrap();
        assert!(machine.device_writes(address.iova(), b"no").is_err());
        machine.check();
    }
}

#[test]
fn r4_what_is_mapped_ends_with_the_stream() {
    for machine in Machine::each() {
        let device = machine.open();
        machine.make_tables(&device);
        let before = machine.usage();
        let mut stream = device.raw_stream("raw").strict();
        for bytes in [1, 4096, 10_000] {
            stream.map_zeroes(bytes, Write).unwrap();
        }
        drop(stream);
        assert_eq!(machine.usage(), before);
        machine.check();
    }
}
