//! Windows, which small blocks share.

use std::ptr::NonNull;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use iommu_engine::policy::{Policy, Quotas};
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion;
use iommu_sim::vtd::Timing;
use libdma::{
    Access, CacheType, Coherent, Device, Error, ForeignMemory, Iova, Limits, MapRequest,
    WindowUsage,
};
use simulated::{Machine, second_edu};

const PAGE: usize = 4096;

#[repr(C, align(4096))]
struct Pages([u8; 64 << 10]);

fn usage(device: &Device) -> WindowUsage {
    let [usage] = device.window_usage()[..] else { panic!("{:?}", device.window_usage()) };
    usage
}

fn bytes(device: &Device, len: usize) -> Coherent<[u8]> {
    device.coherent("bytes").bytes(len).unwrap()
}

#[test]
fn small_blocks_share_a_window_and_cost_no_request() {
    for machine in Machine::each() {
        let device = machine.open();
        let first = device.coherent("first").value::<u64>().unwrap();
        let asked = machine.client.requests();
        let blocks: Vec<_> = (0..500_u64)
            .map(|number| {
                let block = device.coherent("one of many").value::<u64>().unwrap();
                block.set(number + 1);
                block
            })
            .collect();
        for (number, block) in (1..).zip(&blocks) {
            let seen = machine.device_reads(block.iova(), 8).unwrap();
            assert_eq!(seen, u64::to_le_bytes(number), "the device sees each");
            machine.device_writes(block.iova(), &u64::to_le_bytes(!number)).unwrap();
            assert_eq!(block.get(), !number);
        }
        assert_eq!(first.get(), 0);
        assert_eq!(
            usage(&device),
            WindowUsage {
                access: Access::ReadWrite,
                cache: CacheType::WriteBack,
                windows: 1,
                idle: 0,
                bytes: 64 << 10,
                used: 501 * 64,
                blocks: 501,
            }
        );
        drop(blocks);
        drop(first);
        assert_eq!(machine.client.requests(), asked, "without a word to iommud");
        machine.check();
    }
}

#[test]
fn a_block_is_aligned_to_its_length_and_to_what_was_asked_for() {
    for machine in Machine::each() {
        let device = machine.open();
        let mut blocks = Vec::new();
        for len in [1, 63, 64, 65, 192, 4096, 5000, 65536, 100_000, 1 << 20, (1 << 20) + 1, 3 << 20]
        {
            for align in [1, 128, 8192, 4 << 20, 16 << 20] {
                let block = device.coherent("aligned").align(align).bytes(len);
                if align as u64 > device.max_mapping_size() {
                    // Without an IOMMU memory is aligned as it lies.
                    assert_eq!(block.err(), Some(Error::NotContiguous));
                    continue;
                }
                let block = block.unwrap();
                let iova = block.iova().get();
                assert!(iova.is_multiple_of(align as u64), "{len} at {iova:#x}, not {align:#x}");
                let whole = (len as u64).next_power_of_two().max(64);
                assert!(iova.is_multiple_of(whole), "{len} at {iova:#x}");
                let cpu = block.cpu_address().get();
                let page = (align as u64).max(whole).min(PAGE as u64);
                assert!(cpu.is_multiple_of(page), "{len} at {cpu:#x} of the CPU's");
                block.write(len - 1, 7).unwrap();
                assert_eq!(block.read(0), Ok(if len == 1 { 7 } else { 0 }));
                blocks.push((iova, len));
                if !blocks.len().is_multiple_of(3) {
                    blocks.pop();
                } else {
                    std::mem::forget(block);
                }
            }
        }
        blocks.sort();
        for pair in blocks.windows(2) {
            assert!(pair[0].0 + pair[0].1 as u64 <= pair[1].0, "blocks do not overlap: {pair:x?}");
        }
    }
}

#[test]
fn windows_grow_up_to_a_large_page_and_shrink_to_one_idle_one() {
    for machine in Machine::each() {
        let before = machine.usage().live_runs;
        let device = machine.open();
        let blocks: Vec<_> = (0..1200).map(|_| bytes(&device, PAGE)).collect();
        // 64 KiB, 128, 256, 512 KiB, 1 MiB, and then 2 MiB each.
        assert_eq!((usage(&device).windows, usage(&device).used), (7, 1200 * PAGE));
        assert_eq!(usage(&device).bytes, (2048 - 64 + 2 * 2048) << 10);
        assert_eq!(machine.usage().live_runs, before + 7);
        drop(blocks);
        let left = usage(&device);
        assert_eq!((left.windows, left.idle, left.used, left.blocks), (1, 1, 0, 0));
        assert_eq!(machine.usage().live_runs, before + 1);
        assert_eq!(device.trim(), left.bytes);
        assert_eq!((device.window_usage(), device.trim()), (Vec::new(), 0));
        assert_eq!(machine.usage().live_runs, before);
        drop(bytes(&device, 64));
        assert_eq!(usage(&device).idle, 1, "one is kept again");
        machine.check();
    }
}

#[test]
fn r6_each_access_and_cache_type_has_windows_of_its_own() {
    let machine = Machine::vtd();
    let device = machine.open();
    let read = device.coherent("read").access(Access::Read).value::<u64>().unwrap();
    let write = device.coherent("write").access(Access::Write).value::<u64>().unwrap();
    let attributes = libdma::Attributes::UNCACHED;
    let uncached = device.coherent("uncached").access(Access::Read).attributes(attributes);
    let uncached = uncached.value::<u64>().unwrap();
    assert_eq!(device.window_usage().len(), 3);
    assert!(machine.device_writes(read.iova(), &[1; 8]).is_err());
    assert!(machine.device_reads(write.iova(), 8).is_err() || device.write_implies_read());
    assert!(machine.device_reads(uncached.iova(), 8).is_ok());
    drop((read, write, uncached));
    assert!(device.window_usage().iter().all(|it| it.idle == 1), "one of each is kept");
    assert_eq!(device.window_usage().len(), 3);
    machine.check();
}

#[test]
fn r8_devices_share_no_window() {
    for machine in Machine::each() {
        let (one, other) = (machine.open(), machine.open_at(second_edu()).unwrap());
        let (mine, yours) = (bytes(&one, 64), bytes(&other, 64));
        let page = |block: &Coherent<[u8]>| block.cpu_address().get() / PAGE as u64;
        assert_ne!(page(&mine), page(&yours));
        if one.is_confined() {
            mine.copy_from(0, &[1; 64]).unwrap();
            yours.copy_from(0, &[2; 64]).unwrap();
            assert_eq!(machine.device_reads(mine.iova(), 64).unwrap(), [1; 64]);
            let seen = machine.reads(second_edu(), yours.iova(), 64);
            assert_eq!(seen.unwrap(), [2; 64]);
        }
        machine.check();
    }
}

#[test]
fn the_limit_chooses_the_window() {
    let machine = Machine::vtd();
    let mut device = machine.open();
    let wide = bytes(&device, 64);
    device.set_limits(Limits::NONE.coherent_mask_bits(24));
    let narrow = bytes(&device, 64);
    assert!(narrow.iova().get() < 1 << 24);
    let windows = if wide.iova().get() < 1 << 24 { 1 } else { 2 };
    assert_eq!(usage(&device).windows, windows);
    // One page is all that there is below this one.
    device.set_limits(Limits::NONE.coherent_mask_bits(13));
    let lowest = bytes(&device, 64);
    assert_eq!(lowest.iova().get() & !0xfff, 0x1000);
    let more: Vec<_> = (0..63).map(|_| bytes(&device, 64)).collect();
    let refused = device.coherent("one too many").bytes(64);
    assert_eq!(refused.err(), Some(Error::NoAddressSpace));
    drop(more);
    assert!(device.coherent("again").bytes(64).is_ok());
    machine.check();
}

#[test]
fn idle_windows_are_given_back_where_a_quota_is_reached() {
    let quotas = Quotas { buffer_bytes: 128 << 10, ..Quotas::default() };
    let machine = Machine::start(MachineConfig::default(), Policy { quotas, ..Policy::default() });
    let device = machine.open();
    drop(bytes(&device, 64));
    assert_eq!(usage(&device).bytes, 64 << 10);
    // With the window that is idle it would be too much.
    let buffer = device.allocate(128 << 10, Some(Access::Read), "all of it").unwrap();
    assert_eq!(device.window_usage(), []);
    assert_eq!(device.coherent("none left").bytes(64).err(), Some(Error::QuotaExceeded));
    drop(buffer);
    // Another access's idle window is given back for this one's, and a window is as long as there is room for.
    drop(bytes(&device, 64));
    let held = device.allocate(60 << 10, None, "held").unwrap();
    let blocks: Vec<_> =
        (0..16).map(|_| device.coherent("r").access(Access::Read).bytes(PAGE).unwrap()).collect();
    assert_eq!(usage(&device).used, 16 * PAGE);
    let refused = device.coherent("r").access(Access::Read).bytes(2 * PAGE).map(drop);
    assert_eq!(refused, Err(Error::QuotaExceeded));
    let last = device.coherent("r").access(Access::Read).bytes(PAGE);
    assert_eq!(last.unwrap().len(), PAGE);
    drop((blocks, held, device));
    assert_eq!(machine.usage().live_runs, 0);
    machine.check();
}

#[test]
fn idle_windows_make_room_for_whatever_else_is_mapped() {
    let quotas = Quotas { mapped_bytes: 96 << 10, ..Quotas::default() };
    let machine = Machine::start(MachineConfig::default(), Policy { quotas, ..Policy::default() });
    let device = machine.open();
    let buffer = device.allocate(64 << 10, None, "mapped in many ways").unwrap();
    let all = [MapRequest { buffer: &buffer, offset: 0, bytes: 64 << 10, access: Access::Read }];
    // With the window that is idle each would be too much.
    let idle = || {
        drop(bytes(&device, 64));
        assert_eq!(usage(&device).idle, 1);
    };
    idle();
    let together = device.map_together(&all).unwrap();
    device.unmap(&together).unwrap();
    idle();
    let chosen = device.map_at(Iova::new(0x4000_0000), &all).unwrap();
    device.unmap(&chosen).unwrap();
    idle();
    let domain = device.new_domain("explicit").create().unwrap();
    let mapped = domain.map(&all).unwrap();
    domain.unmap(&mapped).unwrap();
    idle();
    drop(buffer.attach(&device, Access::Read, "once more").unwrap());
    idle();
    let pages = NonNull::from(Box::leak(Box::new(Pages([0; 64 << 10]))));
    let range = NonNull::slice_from_raw_parts(pages.cast::<u8>(), 64 << 10);
    // SAFETY: it was leaked just now, and nothing refers to it any more.
    let memory = unsafe { ForeignMemory::from_range(range) }.unwrap();
    drop(device.register(memory, Some(Access::Read), "registered").unwrap());
    drop((buffer, device));
    machine.check();
}

#[test]
fn what_idle_windows_held_is_there_at_once_also_where_hardware_is_slow() {
    let quotas = Quotas { buffer_bytes: 128 << 10, ..Quotas::default() };
    let machine = Machine::start(MachineConfig::default(), Policy { quotas, ..Policy::default() });
    let device = machine.open();
    drop(bytes(&device, 64));
    let slowly = Completion::After(20_000_000);
    let timing = Timing { registers: slowly, queue: slowly, ..Timing::default() };
    let service = machine.service.lock();
    service.platform().machine_mut().unit_mut(0).unwrap().set_timing(timing);
    drop(service);
    assert!(device.allocate(128 << 10, Some(Access::Read), "all of it").is_ok());
    machine.check();
}

#[test]
fn r7_a_window_that_is_not_had_changes_nothing() {
    for error in [Error::OutOfMemory, Error::TimedOut, Error::DaemonGone, Error::SessionEnded] {
        // Each of the requests that make a window.
        for after in 0..4 {
            let machine = Machine::vtd();
            let device = machine.open();
            let before = machine.usage().live_runs;
            machine.client.refuse(after, u64::MAX, error);
            assert_eq!(device.coherent("refused").bytes(64).err(), Some(error), "{after}");
            machine.client.refuse_none();
            assert_eq!(device.window_usage(), []);
            assert_eq!(machine.usage().live_runs, before);
            assert!(device.coherent("had").bytes(64).is_ok());
            machine.check();
        }
    }
}

#[test]
fn a_window_lost_to_one_failure_is_asked_for_smaller() {
    let machine = Machine::vtd();
    let device = machine.open();
    machine.client.refuse(0, 2, Error::OutOfMemory);
    let block = bytes(&device, 64);
    assert_eq!(usage(&device).bytes, 16 << 10);
    assert!(machine.device_reads(block.iova(), 64).is_ok());
    machine.check();
}

#[test]
fn blocks_outlive_the_device() {
    for machine in Machine::each() {
        let device = machine.open();
        let block = bytes(&device, 64);
        drop(device);
        machine.device_writes(block.iova(), &[3; 64]).unwrap();
        assert_eq!(block.read(63), Ok(3));
        drop(block);
        assert_eq!(machine.usage().live_runs, 0);
        assert_eq!(machine.service.lock().handles(), 1, "the client's own root");
        machine.check();
    }
}

#[test]
fn threads_share_windows() {
    let machine = Machine::vtd();
    let device = machine.open();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let device = device.clone();
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..300_u64 {
                    let block = device.coherent("shared").slice::<u64>(1 + round as usize % 40);
                    let block = block.unwrap();
                    assert_eq!(block.read(0), Ok(0));
                    block.write(0, thread << 32 | round).unwrap();
                    held.push((round, block));
                    if held.len() > 20 {
                        let (round, block) = held.swap_remove(round as usize % 20);
                        assert_eq!(block.read(0), Ok(thread << 32 | round));
                    }
                }
                for (round, block) in held {
                    assert_eq!(block.read(0), Ok(thread << 32 | round));
                }
            });
        }
    });
    assert_eq!((usage(&device).blocks, usage(&device).idle), (0, 1));
    machine.check();
}

/// No lock is held over a request, and none is taken in another one's: nothing here waits for itself.
#[test]
fn threads_that_allocate_trim_and_drop_at_once_end() {
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("blocks").bytes(512).unwrap();
    let (sender, receiver) = mpsc::channel::<Box<dyn Send>>();
    let until = Instant::now() + Duration::from_millis(500);
    std::thread::scope(|scope| {
        for thread in 0..3_usize {
            let (device, pool, sender) = (device.clone(), &pool, sender.clone());
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in thread.. {
                    if Instant::now() > until {
                        break;
                    }
                    let block = bytes(&device, 1 << (round % 18));
                    block.write(0, thread as u8 + 1).unwrap();
                    held.push(block);
                    let sent: Box<dyn Send> = match round % 4 {
                        0 => Box::new(pool.alloc().unwrap()),
                        1 => Box::new(device.clone()),
                        2 => Box::new(held.swap_remove(round % held.len())),
                        _ => continue,
                    };
                    sender.send(sent).unwrap();
                    if held.len() > 8 {
                        assert!(held.iter().all(|it| it.read(0) == Ok(thread as u8 + 1)));
                        held.clear();
                    }
                }
            });
        }
        drop(sender);
        let trimming = scope.spawn(|| {
            while Instant::now() < until {
                device.trim();
                pool.shrink();
                assert!(device.window_usage().len() <= 1);
            }
        });
        // What one thread took, another gives back.
        for what in receiver {
            drop(what);
        }
        trimming.join().unwrap();
    });
    assert_eq!(pool.stats().in_use, 0);
    drop(pool);
    assert!(device.window_usage().iter().all(|it| (it.blocks, it.idle) == (0, 1)));
    drop(device);
    assert_eq!(machine.usage().live_runs, 0);
    machine.check();
}

#[test]
fn a_block_that_is_never_dropped_is_never_anyone_elses() {
    let machine = Machine::vtd();
    let device = machine.open();
    let block = bytes(&device, 64);
    let iova = block.iova();
    std::mem::forget(block);
    for _ in 0..2000 {
        let other = bytes(&device, 64);
        assert_ne!(other.iova(), iova);
    }
    assert_eq!((usage(&device).blocks, device.trim()), (1, 0));
    machine.check();
}
