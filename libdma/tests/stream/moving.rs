//! What one side wrote, the other reads.

use iommu_engine::policy::{Policy, WithoutIommu};
use iommu_sim::MachineConfig;
use libdma::raw::RawError;
use libdma::stream::{DeviceOwned, SyncedRange};
use libdma::{
    Access, Bidirectional, Error, FromDevice, Iova, Limits, Stream, StreamBuffer, ToDevice,
};
use simulated::Machine;

#[test]
fn the_device_reads_what_the_cpu_wrote() {
    for machine in Machine::each() {
        let device = machine.open();
        let windowed = device.stream::<ToDevice>("tx");
        for stream in [windowed.clone(), windowed.strict()] {
            let mut buffer = stream.buffer(1500).unwrap();
            buffer.write(1000, b"packet").unwrap();
            let mapped = buffer.map().unwrap();
            let at = Iova::new(mapped.iova().get() + 998);
            assert_eq!(machine.device_reads(at, 8).unwrap(), b"\0\0packet");
            // Its own, unless there is nothing that could tell reads from writes.
            if device.is_confined() {
                assert!(machine.device_writes(at, b"no").is_err(), "R6");
            }
            let mut synced = mapped.sync_for_cpu();
            synced.write(1000, b"second").unwrap();
            let mapped = synced.sync_for_device();
            assert_eq!(machine.device_reads(at, 8).unwrap(), b"\0\0second");
            drop(mapped.unmap().unwrap());
        }
        let copied = device.stream::<ToDevice>("copy").copy_of(b"as it is").unwrap().map().unwrap();
        assert_eq!(machine.device_reads(copied.iova(), 8).unwrap(), b"as it is");
        drop(copied);
        machine.check();
    }
}

#[test]
fn the_cpu_reads_what_the_device_wrote() {
    for machine in Machine::each() {
        let device = machine.open();
        let windowed = device.stream::<FromDevice>("rx");
        for stream in [windowed.clone(), windowed.strict()] {
            let mapped = stream.buffer(5000).unwrap().map().unwrap();
            let (first, end) = (mapped.iova(), Iova::new(mapped.iova().get() + 4990));
            machine.device_writes(end, b"0123456789").unwrap();
            let synced = mapped.sync_for_cpu();
            assert_eq!(synced.iova(), first);
            assert_eq!(bytes(&synced, 4988, 6), b"\0\x000123");
            let mapped = synced.sync_for_device();
            machine.device_writes(end, b"abcdefghij").unwrap();
            let buffer = mapped.unmap().unwrap();
            assert_eq!(bytes(&buffer, 4990, 10), b"abcdefghij");
        }
        machine.check();
    }
}

#[test]
fn a_range_can_be_the_cpus_while_the_rest_is_the_devices() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<Bidirectional>("both");
        let mut mapped = stream.buffer(256).unwrap().map().unwrap();
        machine.device_writes(mapped.iova(), &[7; 256]).unwrap();
        let mut range = mapped.sync_range_for_cpu(10..20).unwrap();
        let mut out = [0; 10];
        range.read(0, &mut out).unwrap();
        assert_eq!(out, [7; 10]);
        assert_eq!(range.read(1, &mut out), Err(Error::OutOfBuffer), "beyond the range");
        assert_eq!(range.write(usize::MAX, &out), Err(Error::OutOfBuffer));
        range.write(4, b"mine").unwrap();
        drop(range);
        assert_eq!(machine.device_reads(mapped.iova(), 19).unwrap()[12..], *b"\x07\x07mine\x07");
        let reversed = core::ops::Range { start: 5, end: 4 };
        for wrong in [0..257, 256..257, usize::MAX..usize::MAX, reversed] {
            assert_eq!(mapped.sync_range_for_cpu(wrong).err(), Some(Error::OutOfBuffer));
        }
        // Forgotten, it is the device's still, by its type too.
        core::mem::forget(mapped.sync_range_for_cpu(0..1).unwrap());
        assert_eq!(mapped.unmap().unwrap().len(), 256);
    }
}

#[test]
fn what_was_allocated_otherwise_can_be_streamed_and_comes_back() {
    for machine in Machine::each() {
        let device = machine.open();
        let stream = device.stream::<FromDevice>("rx");
        let buffer = device.allocate(4096, None, "mine").unwrap();
        let id = buffer.id();
        buffer.write(8, b"before").unwrap();
        let mapped = stream.adopt(buffer).map().unwrap();
        machine.device_writes(mapped.iova(), b"after").unwrap();
        let buffer = mapped.unmap().unwrap().into_buffer().unwrap();
        let mut out = [0; 14];
        buffer.read(0, &mut out).unwrap();
        assert_eq!((buffer.id(), &out), (id, b"after\0\0\0before"));
        drop(buffer);
        let own = stream.buffer(64).unwrap();
        assert!(own.is_in_window());
        assert_eq!(own.into_buffer().unwrap_err().error, Error::SharesWindow);
        machine.check();
    }
}

#[test]
fn what_is_mapped_already_as_it_should_be_costs_no_request() {
    for machine in Machine::each() {
        let device = machine.open();
        let both = device.allocate(4096, Some(libdma::Access::ReadWrite), "both").unwrap();
        let iova = both.iova().unwrap();
        let buffer = device.stream::<ToDevice>("tx").adopt(both);
        let before = machine.client.requests();
        let mapped = buffer.map().unwrap();
        assert_eq!(mapped.iova(), iova);
        let buffer = mapped.unmap().unwrap();
        assert_eq!(machine.client.requests(), before);
        let buffer = buffer.into_buffer().unwrap();
        // To be strict it would have to lose its address, which somebody may have.
        let refused = device.stream::<ToDevice>("tx").strict().adopt(buffer).map().unwrap_err();
        assert_eq!(refused.error, Error::MappedElsewhere);
    }
}

/// One mapping is one segment.
#[test]
fn limits_are_kept() {
    for machine in Machine::each() {
        let mut device = machine.open();
        let limits = Limits::NONE.max_segment(6000).boundary(8192);
        device.set_limits(limits);
        assert_eq!(device.max_mapping_size(), 6000);
        for strict in [false, true] {
            let mut stream = device.stream::<ToDevice>("tx");
            if strict {
                stream = stream.strict();
            }
            let held: Vec<_> = [100, 3, 64, 4096, 6000, 4097, 5000]
                .into_iter()
                .map(|bytes| stream.buffer(bytes).unwrap().map().unwrap())
                .collect();
            for mapped in &held {
                let (start, last) =
                    (mapped.iova().get(), mapped.iova().get() + mapped.len() as u64 - 1);
                assert_eq!(start / 8192, last / 8192, "{start:#x}..={last:#x}");
            }
            let refused = stream.buffer(6001).unwrap().map().unwrap_err();
            assert_eq!((refused.error, refused.kept.len()), (Error::SegmentTooLong, 6001));
            assert_eq!(stream.map_slice(&[0; 6001]).err(), Some(Error::SegmentTooLong));
            let refused = stream.map_all(vec![stream.buffer(6001).unwrap()]).unwrap_err();
            assert_eq!(refused.error, Error::SegmentTooLong);
            let mut raw = device.raw_stream("raw");
            if strict {
                raw = raw.strict();
            }
            let refused = raw.map_single(&[0; 6001], Access::Read).err();
            assert_eq!(refused, Some(RawError::Failed(Error::SegmentTooLong)));
        }
        assert_eq!(device.stream::<ToDevice>("none").buffer(0).err(), Some(Error::ZeroSize));
        device.set_limits(Limits::NONE);
        // The simulator's longest piece.
        let longest = if device.is_confined() { 1 << 30 } else { 4 << 20 };
        assert_eq!(device.max_mapping_size(), longest);
        assert_eq!(device.required_mask_bits() <= 32, device.is_confined());
        machine.check();
    }
}

#[test]
fn a_mask_is_kept() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let mut device = machine.open();
        device.set_dma_mask(20).unwrap();
        for stream in [device.stream::<ToDevice>("tx"), device.stream::<ToDevice>("tx").strict()] {
            let mapped = stream.buffer(5000).unwrap().map().unwrap();
            assert!(mapped.iova().get() + 5000 <= 1 << 20);
        }
        machine.check();
    }
}

#[test]
fn streams_and_their_memory_go_to_other_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Stream<ToDevice>>();
    sync::<Stream<ToDevice>>();
    send::<StreamBuffer<ToDevice>>();
    send::<StreamBuffer<FromDevice, DeviceOwned>>();
    send::<libdma::stream::Bounced<'static, FromDevice>>();
    send::<libdma::stream::Gather<FromDevice>>();
    send::<SyncedRange<'static, ToDevice>>();
}

pub(crate) fn bytes<D: libdma::Direction, O: libdma::stream::CpuMay>(
    buffer: &StreamBuffer<D, O>,
    offset: usize,
    length: usize,
) -> Vec<u8> {
    let mut out = vec![0; length];
    buffer.read(offset, &mut out).unwrap();
    out
}

/// Without an IOMMU one mapping is one physical piece, and a device is told how long that can be.
#[test]
fn as_much_as_one_mapping_may_be_is_mapped_and_more_is_refused_as_that() {
    let policy =
        |reserve| Policy { reserve, without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
    for (reserve, longest) in [(0, 4 << 20), (16 << 20, 8 << 20)] {
        let machine = Machine::start(MachineConfig::without_units(), policy(reserve));
        let mut device = machine.open();
        assert_eq!(
            device.max_mapping_size(),
            longest,
            "in the reserve two pieces are side by side"
        );
        let stream = device.stream::<ToDevice>("tx");
        let mut whole = stream.buffer(longest as usize).unwrap();
        whole.write(longest as usize - 4, b"last").unwrap();
        let whole = whole.map().unwrap();
        let last = whole.iova().checked_add(longest - 4).unwrap();
        assert_eq!(machine.device_reads(last, 4).unwrap(), b"last");
        let longer = stream.buffer(longest as usize + 1).err();
        assert_eq!(longer, Some(Error::NotContiguous));
        let longer = device.allocate(longest + 1, Some(Access::Read), "longer").err();
        assert_eq!(longer, Some(Error::NotContiguous));
        let aligned = |align| device.buffer("aligned").access(Access::Read).align(align);
        let refused = aligned(longest * 2).allocate(4096).err();
        assert_eq!(refused, Some(Error::NotContiguous));
        for align in [1 << 21, 1 << 22] {
            let buffer = aligned(align).allocate(4096).unwrap();
            assert!(buffer.iova().unwrap().get().is_multiple_of(align));
            assert_eq!(buffer.len() as u64, align, "it is as long");
        }
        device.set_limits(Limits::NONE.max_segment(1 << 16));
        assert_eq!(device.max_mapping_size(), 1 << 16);
        drop(whole);
        machine.check();
    }
}
