//! Buffers: what driver and device see of them.

use std::sync::atomic::Ordering;

use iommu_engine::platform::TableFrames;
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::Usage;
use libdma::{Access, Error};

use crate::rig::Rig;
use crate::vendor::{Vendor, slow};

both! {
    driver_and_device_see_the_same_memory,
    bytes_are_copied_in_and_out_within_bounds,
    r2_dropping_a_buffer_ends_the_devices_access_before_its_memory_is_anyone_elses,
    the_dma_mask_is_kept,
    a_contiguous_buffer_is_one_physical_piece_or_a_typed_error,
    r7_an_allocation_that_fails_leaves_nothing_behind,
    r2_memory_that_cannot_be_unmapped_is_never_used_again,
    r2_a_closed_buffers_memory_waits_for_a_slow_unit,
}

fn driver_and_device_see_the_same_memory(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let value = device.coherent("value").alone().value::<u64>().unwrap();
    assert_eq!(value.get(), 0, "R8: it starts as zeroes");
    value.set(0x1122_3344_5566_7788);
    let seen = rig.device_reads(value.iova().get(), 8).unwrap();
    assert_eq!(seen, 0x1122_3344_5566_7788u64.to_le_bytes());
    rig.device_writes(value.iova().get(), &[0xab; 8]).unwrap();
    assert_eq!(value.get(), 0xabab_abab_abab_abab);
    let slice = device.coherent("slice").access(Access::Write).alone().slice::<u32>(3000).unwrap();
    assert_eq!((slice.len(), slice.buffer().unwrap().len()), (3000, 12288));
    let last = slice.iova_of(2999).unwrap();
    rig.device_writes(last.get(), &7u32.to_le_bytes()).unwrap();
    assert_eq!(slice.read(2999), Ok(7));
    assert_eq!(slice.read(3000), Err(Error::OutOfBuffer));
    assert_eq!(slice.write(3000, 1), Err(Error::OutOfBuffer));
    assert_eq!(slice.iova_of(3000), None);
    rig.check();
}

fn bytes_are_copied_in_and_out_within_bounds(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(5000, Some(Access::ReadWrite), "bytes").unwrap();
    assert_eq!(buffer.len(), 8192);
    buffer.write(8190, b"ab").unwrap();
    let mut out = [0; 3];
    assert_eq!(buffer.read(8190, &mut out), Err(Error::OutOfBuffer));
    assert_eq!(out, [0; 3]);
    buffer.read(8189, &mut out).unwrap();
    assert_eq!(out, [0, b'a', b'b']);
    assert_eq!(buffer.write(usize::MAX, b"a"), Err(Error::OutOfBuffer));
}

fn r2_dropping_a_buffer_ends_the_devices_access_before_its_memory_is_anyone_elses(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let secret = device.coherent("mine").alone().value::<u64>().unwrap();
    let iova = secret.iova().get();
    rig.device_writes(iova, &[1; 8]).unwrap();
    drop(secret);
    assert!(rig.device_writes(iova, &[2; 8]).is_err());
    let next = device.coherent("next").alone().value::<u64>().unwrap();
    assert_eq!(next.get(), 0, "R8");
    rig.check();
}

fn the_dma_mask_is_kept(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut device = rig.open();
    for bits in [28, 24, 32, 64] {
        device.set_dma_mask(bits).unwrap();
        let buffer = device.allocate(1 << 16, Some(Access::Read), "masked").unwrap();
        let last = u128::from(buffer.iova().unwrap().get()) + (1 << 16);
        assert!(last <= 1 << bits, "{bits}");
    }
    device.set_dma_mask(13).unwrap();
    let refused = device.allocate(1 << 16, Some(Access::Read), "too small");
    assert_eq!(refused.err(), Some(Error::NoAddressSpace));
    assert_eq!(device.set_dma_mask(12), Err(Error::BadMask));
    assert_eq!(device.set_dma_mask(65), Err(Error::BadMask));
    rig.check();
}

fn a_contiguous_buffer_is_one_physical_piece_or_a_typed_error(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let scattered = device.allocate(5 << 12, Some(Access::Read), "scattered").unwrap();
    let whole = device.buffer("whole").access(Access::Read).contiguous().allocate(5 << 12).unwrap();
    let rows = rig.json("mappings");
    let pieces = |label: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| row["label"] == label).unwrap();
        row["pieces"].as_u64().unwrap()
    };
    assert_eq!((pieces("scattered"), pieces("whole")), (4, 1));
    drop((scattered, whole));
    let before = rig.usage();
    drop(device.buffer("longest").contiguous().allocate(4 << 20).unwrap());
    let longer = device.buffer("longer").contiguous().allocate((4 << 20) + 4096);
    assert_eq!(longer.err(), Some(Error::NotContiguous), "never");
    rig.service.lock().platform_mut().limit_run_bytes(8192);
    let short = device.buffer("short").contiguous().allocate(4 << 20);
    assert_eq!(short.err(), Some(Error::OutOfMemory), "not now");
    assert_eq!(rig.usage(), before);
    rig.check();
}

fn r7_an_allocation_that_fails_leaves_nothing_behind(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let before = rig.usage();
    assert_eq!(device.allocate(0, None, "").err(), Some(Error::ZeroSize));
    assert_eq!(device.allocate(1 << 31, None, "").err(), Some(Error::TooLarge));
    assert_eq!(device.allocate(u64::MAX, None, "").err(), Some(Error::TooLarge));
    for label in ["new\nline", "a\u{202e}gnir", "far  apart"] {
        assert_eq!(device.allocate(4096, None, label).err(), Some(Error::BadValue), "{label:?}");
    }
    rig.service.lock().platform_mut().limit_run_bytes(before.live_run_bytes + 4096);
    assert_eq!(device.allocate(8192, None, "").err(), Some(Error::OutOfMemory));
    assert_eq!(rig.usage(), before);
    rig.service.lock().platform_mut().limit_run_bytes(u64::MAX);
    // Out of table frames at every point at which one is taken.
    for spare in 0..4 {
        rig.service.lock().platform_mut().limit_frames(before.live_frames + spare);
        let allocated = device.allocate(4096, Some(Access::Read), "").map(drop);
        // The domain keeps the table of a mapping that is gone, and the way to it.
        let live_frames = match allocated {
            Ok(()) => rig.usage().live_frames,
            Err(error) => {
                assert_eq!(error, Error::OutOfMemory);
                before.live_frames
            }
        };
        assert!(live_frames <= before.live_frames + 3);
        assert_eq!(rig.usage(), Usage { live_frames, ..before }, "{spare} spare frames");
    }
    rig.check();
}

fn r2_memory_that_cannot_be_unmapped_is_never_used_again(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.coherent("bent").alone().value::<u64>().unwrap();
    let iova = buffer.iova().get();
    rig.device_writes(iova, &[1; 8]).unwrap();
    {
        // An entry of the root leads out of the arena, so that the unmap cannot be done.
        let service = rig.service.lock();
        let (_, domain) = service.engine().domains().next().unwrap();
        for word in service.platform().table(domain.root()).unwrap() {
            if word.load(Ordering::SeqCst) != 0 {
                let nowhere =
                    word.load(Ordering::SeqCst) & !0x000f_ffff_ffff_f000 | 0x7000_0000_0000;
                word.store(nowhere, Ordering::SeqCst);
            }
        }
    }
    drop(buffer);
    assert_eq!(rig.usage().live_runs, 1);
    let _ = rig.device_writes(iova, &[2; 8]);
    rig.check();
}

fn r2_a_closed_buffers_memory_waits_for_a_slow_unit(vendor: Vendor) {
    let rig = Rig::on(slow(vendor.machine(), Takes::After(20_000_000)));
    let device = rig.open();
    let buffer = device.coherent("slow").alone().value::<u64>().unwrap();
    let iova = buffer.iova().get();
    rig.device_writes(iova, &[1; 8]).unwrap();
    drop(buffer);
    // Still cached, perhaps; still nobody else's.
    let _ = rig.device_writes(iova, &[2; 8]);
    assert_eq!(rig.service.lock().platform().usage().live_runs, 1);
    drop(device);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}
