//! Memory that cannot be mapped as it is.

use iommu_engine::policy::{Policy, WithoutIommu};
use iommu_sim::MachineConfig;
use libdma::{
    Access, Bidirectional, Buffer, Device, Error, FromDevice, MapRequest, ScatterList, Stream,
    StreamBuffer, ToDevice,
};
use simulated::Machine;

use crate::moving::bytes;

/// What takes I/O addresses, and a block that keeps its window.
type Taken<D> = (Buffer, StreamBuffer<D>);

/// A device all of whose I/O addresses below its mask are taken, but for what is in a window; and what takes them.
fn without_addresses<D: libdma::Direction>(machine: &Machine) -> (Device, Stream<D>, Taken<D>) {
    let mut device = machine.open();
    device.set_dma_mask(20).unwrap();
    let stream = device.stream("full");
    let held = stream.buffer(1).unwrap();
    let buffer = device.allocate(64 << 10, None, "takes all").unwrap();
    for pages in [16, 4, 1] {
        let bytes = pages * 4096;
        let access = Access::Read;
        let request = [MapRequest { buffer: &buffer, offset: 0, bytes, access }];
        while device.map(&request).is_ok() {}
        assert_eq!(device.map(&request), Err(Error::NoAddressSpace));
    }
    (device, stream, (buffer, held))
}

fn confined() -> [Machine; 2] {
    [Machine::vtd(), Machine::amdvi()]
}

#[test]
fn what_finds_no_address_below_the_mask_is_copied_through_a_window() {
    for machine in confined() {
        let (device, stream, _taken) = without_addresses::<Bidirectional>(&machine);
        let buffer = device.allocate(4096, None, "high").unwrap();
        buffer.write(100, b"from the cpu").unwrap();
        let mapped = stream.adopt(buffer).map().unwrap();
        assert!(mapped.iova().get() + 4096 <= 1 << 20);
        assert_eq!(machine.device_reads(mapped.iova(), 112).unwrap()[100..], *b"from the cpu");
        machine.device_writes(mapped.iova(), b"from the device").unwrap();
        let mut synced = mapped.sync_for_cpu();
        assert_eq!(bytes(&synced, 0, 15), b"from the device");
        synced.write(5, b"both").unwrap();
        let mut mapped = synced.sync_for_device();
        assert_eq!(machine.device_reads(mapped.iova(), 15).unwrap(), b"from bothdevice");
        machine.device_writes(mapped.iova(), b"FROM").unwrap();
        let mut range = mapped.sync_range_for_cpu(0..8).unwrap();
        let mut out = [0; 8];
        range.read(0, &mut out).unwrap();
        assert_eq!(&out, b"FROM bot");
        range.write(4, b"-").unwrap();
        drop(range);
        assert_eq!(machine.device_reads(mapped.iova(), 6).unwrap(), b"FROM-b");
        machine.device_writes(mapped.iova(), b"done").unwrap();
        let buffer = mapped.unmap().unwrap();
        // What the device did not write is as it was.
        assert_eq!(bytes(&buffer, 0, 112)[..10], *b"done-bothd");
        assert_eq!(bytes(&buffer, 100, 12), b"from the cpu");
        // What the CPU wrote in its turn is not undone by the end.
        let mut synced = buffer.map().unwrap().sync_for_cpu();
        synced.write(0, b"MINE").unwrap();
        assert_eq!(bytes(&synced.unmap().unwrap(), 0, 10), b"MINE-bothd");
        machine.check();
    }
}

#[test]
fn only_what_the_direction_needs_is_copied() {
    for machine in confined() {
        let (device, stream, _taken) = without_addresses::<FromDevice>(&machine);
        let high = || stream.adopt(device.allocate(4096, None, "high").unwrap());
        // The CPU only looked, so that the copy has all that the buffer has, and what came meanwhile.
        let synced = high().map().unwrap().sync_for_cpu();
        machine.device_writes(synced.iova(), b"late").unwrap();
        let buffer = synced.sync_for_device().unmap().unwrap();
        assert_eq!(bytes(&buffer, 0, 4), b"late");
        let mut list = ScatterList::new(&stream);
        list.push(buffer).unwrap();
        let synced = list.map().unwrap().sync_for_cpu();
        machine.device_writes(synced.segments()[0].iova, b"LATE").unwrap();
        let list = synced.sync_for_device().unmap().unwrap();
        let mut out = [0; 4];
        list.read(0, &mut out).unwrap();
        assert_eq!(&out, b"LATE");
        drop(list);
        // What it wrote it finds again, whichever way data goes: in a window it would, too.
        let mut synced = high().map().unwrap().sync_for_cpu();
        synced.write(8, b"mine").unwrap();
        let mapped = synced.sync_for_device();
        machine.device_writes(mapped.iova(), b"its own").unwrap();
        let mut synced = mapped.sync_for_cpu();
        assert_eq!(bytes(&synced, 0, 12), b"its own\0mine");
        synced.clear().unwrap();
        let buffer = synced.sync_for_device().unmap().unwrap();
        assert_eq!(bytes(&buffer, 0, 12), [0; 12]);
        machine.check();
    }
}

#[test]
fn a_strict_stream_does_not_go_through_windows() {
    for machine in confined() {
        let (device, stream, _taken) = without_addresses::<ToDevice>(&machine);
        let buffer = device.allocate(4096, None, "high").unwrap();
        let refused = stream.strict().adopt(buffer).map().unwrap_err();
        assert_eq!(refused.error, Error::NoAddressSpace);
        machine.check();
    }
}

#[test]
fn of_a_list_only_what_must_be_is_copied() {
    for machine in confined() {
        let (device, stream, _taken) = without_addresses::<FromDevice>(&machine);
        let mapped_already = device.allocate(4096, None, "high").unwrap();
        let mut list = ScatterList::new(&stream);
        list.push(stream.adopt(mapped_already)).unwrap();
        list.push(stream.buffer(64).unwrap()).unwrap();
        let mapped = list.map().unwrap();
        for it in mapped.segments() {
            machine.device_writes(it.iova, &vec![9; it.bytes as usize]).unwrap();
        }
        let list = mapped.unmap().unwrap();
        let mut out = vec![0; 4160];
        list.read(0, &mut out).unwrap();
        assert_eq!(out, [9; 4160]);
        machine.check();
    }
}

#[test]
fn r7_where_there_is_no_room_in_windows_either_nothing_has_changed() {
    for machine in confined() {
        let (device, stream, _taken) = without_addresses::<ToDevice>(&machine);
        let buffers = [4096, 2 << 20]
            .map(|bytes| stream.adopt(device.allocate(bytes, None, "high").unwrap()));
        let refused = stream.map_all(buffers.into()).unwrap_err();
        assert_eq!((refused.error, refused.kept.len()), (Error::NoAddressSpace, 2));
        let first = refused.into_kept().swap_remove(0);
        drop(first.map().unwrap().unmap().unwrap());
        machine.check();
    }
}

/// A machine without an IOMMU, with so much set aside and so many times 4 MiB below 4 GiB beside that.
fn unprotected(reserve: u64, low: u64) -> Machine {
    let without_iommu = WithoutIommu::Unprotected;
    let policy = Policy { without_iommu, reserve, ..Policy::default() };
    let machine = Machine::start(MachineConfig::without_units().with_root_port(), policy);
    machine.service.lock().platform_mut().limit_low_pieces(low);
    machine
}

/// A buffer above 4 GiB, where most of a machine's memory is, and a device with 32 address bits.
fn beyond(machine: &Machine) -> (Device, Buffer) {
    let mut device = machine.open();
    let buffer = device.allocate(4096, None, "high").unwrap();
    let request = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
    let mapped = device.map(&[request]).unwrap();
    assert!(mapped[0].iova().get() >= 1 << 32);
    device.unmap(&mapped).unwrap();
    buffer.write(0, b"from the cpu").unwrap();
    device.set_dma_mask(32).unwrap();
    (device, buffer)
}

#[test]
fn without_an_iommu_memory_beyond_the_mask_is_copied_to_below_it() {
    // What is below the mask is the platform's, or was set aside.
    for machine in [unprotected(0, 1), unprotected(16 << 20, 0)] {
        let (device, buffer) = beyond(&machine);
        let mapped = device.stream::<Bidirectional>("both").adopt(buffer).map().unwrap();
        assert!(mapped.iova().get() + 4096 <= 1 << 32);
        assert_eq!(machine.device_reads(mapped.iova(), 12).unwrap(), b"from the cpu");
        machine.device_writes(mapped.iova(), b"to").unwrap();
        assert_eq!(bytes(&mapped.unmap().unwrap(), 0, 12), b"toom the cpu");
        // One piece of the platform's is one window: it is given back for one of another direction.
        let mut data = *b"a slice";
        let mapped = device.stream::<FromDevice>("rx").map_slice_mut(&mut data).unwrap();
        assert!(mapped.iova().get() + 7 <= 1 << 32);
        machine.device_writes(mapped.iova(), b"A").unwrap();
        mapped.unmap().unwrap();
        assert_eq!(&data, b"A slice");
        machine.check();
    }
}

#[test]
fn r7_without_an_iommu_where_nothing_is_below_the_mask_nothing_has_changed() {
    let machine = unprotected(0, 0);
    let (device, buffer) = beyond(&machine);
    let before = machine.usage();
    let refused = device.stream::<ToDevice>("tx").adopt(buffer).map().unwrap_err();
    assert_eq!((refused.error, machine.usage()), (Error::NoAddressSpace, before));
    assert_eq!(bytes(&refused.kept, 0, 12), b"from the cpu");
    machine.check();
}
