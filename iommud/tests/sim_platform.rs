//! The simulated platform: what it lends, and a device's DMA through tables built by hand.
#![cfg(target_os = "linux")]

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::platform::{
    BufferRuns, ConfigSpace, NotInherited, Platform, PlatformError, RegisterWindow, Registers,
    RunId, TableFrames,
};
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::Completion;
use iommu_sim::vtd::VtdConfig;
use iommu_sim::{MachineConfig, Memory};
use iommud::platform::sim::memory::{FIRMWARE, POISON};
use iommud::platform::sim::{SimPlatform, Usage};

use crate::vendor::{Vendor, slow};

#[macro_use]
mod vendor;

both! {
    an_edu_transfer_goes_through_hand_made_tables,
    r2_what_is_freed_too_early_is_noticed,
    asking_for_the_time_lets_it_pass,
    windows_are_where_registers_are_and_no_longer,
    firmware_has_its_table_its_memory_and_its_reserved_regions,
}

const EDU_BAR: u64 = 0xfea0_0000;

fn platform() -> SimPlatform {
    platform_of(Vendor::Vtd)
}

fn platform_of(vendor: Vendor) -> SimPlatform {
    SimPlatform::with_manual_clock(vendor.machine()).unwrap()
}

/// The unit's registers: the least that any unit of the vendor's has.
fn registers(platform: &mut SimPlatform, vendor: Vendor) -> RegisterWindow {
    platform.map_registers(PhysAddr::new(vendor.base()), window_bytes(vendor)).unwrap()
}

fn window_bytes(vendor: Vendor) -> usize {
    match vendor {
        Vendor::Vtd => 0x1000,
        Vendor::Amdvi => 0x4000,
    }
}

fn edu() -> PciAddress {
    "0000:00:02.0".parse().unwrap()
}

fn store(platform: &SimPlatform, frame: PhysAddr, index: usize, word: u64) {
    platform.table(frame).unwrap()[index].store(word, Relaxed);
    platform.flush_entries(frame, index..index + 1);
}

/// Maps the run's pages from I/O address 0x5000 on, for the edu device in domain 7, and turns translation
/// on. Gives the lowest table.
fn map_by_hand(platform: &mut SimPlatform, vendor: Vendor, run: RunId) -> PhysAddr {
    let frames = [(); 4].map(|()| platform.alloc_frame().unwrap());
    for frame in frames {
        platform.flush_entries(frame, 0..512);
    }
    let [level4, level3, level2, level1] = frames;
    // What says that a table of the next level follows, and that both ways are open; the same of a page.
    let (tables, page) = match vendor {
        Vendor::Vtd => ([3, 3, 3], 3),
        Vendor::Amdvi => ([3, 2, 1].map(|next| 3 << 61 | next << 9 | 1), 3 << 61 | 1),
    };
    store(platform, level4, 0, level3.get() | tables[0]);
    store(platform, level3, 0, level2.get() | tables[1]);
    store(platform, level2, 0, level1.get() | tables[2]);
    let mut index = 5;
    for segment in platform.segments(run).to_vec() {
        for number in 0..segment.bytes / 4096 {
            store(platform, level1, index, (segment.start.get() + number * 4096) | page);
            index += 1;
        }
    }
    match vendor {
        Vendor::Vtd => turn_on_vtd(platform, level4),
        Vendor::Amdvi => turn_on_amdvi(platform, level4),
    }
    level1
}

fn turn_on_vtd(platform: &mut SimPlatform, level4: PhysAddr) {
    let [root, context] = [(); 2].map(|()| platform.alloc_frame().unwrap());
    for frame in [root, context] {
        platform.flush_entries(frame, 0..512);
    }
    store(platform, root, 0, context.get() | 1);
    store(platform, context, 0x20, level4.get() | 1);
    store(platform, context, 0x21, 7 << 8 | 2);
    let unit = registers(platform, Vendor::Vtd);
    platform.write64(unit, 0x20, root.get());
    platform.write32(unit, 0x18, 1 << 30);
    platform.write64(unit, 0x28, 1 << 63 | 1 << 61);
    platform.write64(unit, 0xf8, 1 << 63 | 1 << 60);
    platform.write32(unit, 0x18, 1 << 31);
    assert_eq!(platform.read32(unit, 0x1c), 0xc000_0000);
}

fn turn_on_amdvi(platform: &mut SimPlatform, level4: PhysAddr) {
    // The entries of the first 128 requesters.
    let [devices, commands, events, status] = [(); 4].map(|()| platform.alloc_frame().unwrap());
    platform.flush_entries(devices, 0..512);
    store(platform, devices, 0x40, level4.get() | 3 << 61 | 4 << 9 | 3);
    store(platform, devices, 0x41, 7);
    let unit = registers(platform, Vendor::Amdvi);
    platform.write64(unit, 0x00, devices.get());
    platform.write64(unit, 0x08, 8 << 56 | commands.get());
    platform.write64(unit, 0x10, 8 << 56 | events.get());
    platform.write64(unit, 0x18, 1 << 12 | 1 << 2 | 1);
    store(platform, commands, 0, 8 << 60);
    store(platform, commands, 2, 1 << 60 | status.get() | 1);
    store(platform, commands, 3, 9);
    platform.write64(unit, 0x2008, 32);
    assert_eq!(platform.table(status).unwrap()[0].load(Relaxed), 9);
}

fn an_edu_transfer_goes_through_hand_made_tables(vendor: Vendor) {
    for coherent in [true, false] {
        let mut platform = SimPlatform::new(match vendor {
            Vendor::Vtd => MachineConfig::with_unit(VtdConfig { coherent, ..VtdConfig::default() }),
            Vendor::Amdvi => {
                MachineConfig::with_amdvi(AmdviConfig { coherent, ..AmdviConfig::default() })
            }
        })
        .unwrap();
        let run = platform.alloc_run(5 * 4096).unwrap();
        map_by_hand(&mut platform, vendor, run);
        platform.config_write(edu(), 4, 6);
        let bar = platform.map_registers(PhysAddr::new(EDU_BAR), 1 << 20).unwrap();
        assert_eq!(platform.read32(bar, 0), 0x0100_00ed);
        platform.run_words(run).unwrap()[512].store(0x1122_3344, Relaxed);
        // From the run's second page to the device, and back to the end of its fourth.
        for (source, destination, command) in [(0x6000, 0x40000, 1), (0x40000, 0x8ff8, 3)] {
            platform.write64(bar, 0x80, source);
            platform.write64(bar, 0x88, destination);
            platform.write64(bar, 0x90, 8);
            platform.write64(bar, 0x98, command);
            assert_eq!(platform.read64(bar, 0x98) & 1, 0);
        }
        assert_eq!(platform.run_words(run).unwrap()[4 * 512 - 1].load(Relaxed), 0x1122_3344);
        let fd = platform.run_fd(run).unwrap();
        let mut bytes = [0; 8];
        rustix::io::pread(fd, &mut bytes, 4 * 4096 - 8).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 0x1122_3344);
        assert_eq!(platform.machine().violations(), Vec::<String>::new());
    }
}

fn r2_what_is_freed_too_early_is_noticed(vendor: Vendor) {
    let mut platform = platform_of(vendor);
    let run = platform.alloc_run(4096).unwrap();
    let physical = platform.segments(run)[0].start.get();
    let lowest = map_by_hand(&mut platform, vendor, run);
    platform.config_write(edu(), 4, 6);
    let mut word = [0; 8];
    assert_eq!(platform.machine_mut().dma_read(edu(), 0x5000, &mut word), Ok(()));
    platform.free_run(run);
    assert_eq!(platform.machine_mut().dma_read(edu(), 0x5000, &mut word), Ok(()));
    assert_eq!(u64::from_le_bytes(word), POISON);
    assert_eq!(platform.usage().freed_accesses, 1);
    // The page goes to the next run, and the stale translation reaches it.
    let next = platform.alloc_run(4096).unwrap();
    assert_eq!(platform.segments(next)[0].start.get(), physical);
    assert_eq!(platform.machine_mut().dma_write(edu(), 0x5000, &[1; 8]), Ok(()));
    assert_eq!(platform.run_words(next).unwrap()[0].load(Relaxed), 0x0101_0101_0101_0101);
    platform.free_frame(lowest);
    let refused = platform.machine_mut().dma_read(edu(), 0x6000, &mut word);
    assert!(refused.unwrap_err().is_by_tables());
    assert_eq!(platform.usage().freed_accesses, 2);
}

#[test]
fn it_can_be_moved_to_another_thread() {
    fn is_send(_: &impl Send) {}
    is_send(&platform());
}

#[test]
fn usage_counts_what_is_given_out() {
    let mut platform = platform();
    assert_eq!(platform.usage(), Usage::default());
    let frame = platform.alloc_frame().unwrap();
    let run = platform.alloc_run(2 << 20).unwrap();
    let held = Usage {
        live_frames: 1,
        live_runs: 1,
        live_run_bytes: 2 << 20,
        freed_accesses: 0,
        bad_frees: 0,
    };
    assert_eq!(platform.usage(), held);
    assert_eq!(platform.segments(run).len(), 1);
    assert!(platform.segments(run)[0].start.is_aligned(2 << 20));
    platform.free_frame(frame);
    platform.free_run(run);
    assert_eq!(platform.usage(), Usage::default());
    platform.free_frame(frame);
    platform.free_frame(platform.header_frame());
    platform.free_run(run);
    assert_eq!(platform.usage().bad_frees, 3);
    assert_eq!(platform.segments(run), []);
    assert!(platform.run_fd(run).is_none());
}

#[test]
fn r8_frames_and_runs_come_as_zeroes_though_used_before() {
    let mut platform = platform();
    let frame = platform.alloc_frame().unwrap();
    platform.table(frame).unwrap()[7].store(1, Relaxed);
    platform.free_frame(frame);
    assert_eq!(platform.table(frame).unwrap()[7].load(Relaxed), POISON);
    assert_eq!(platform.alloc_frame(), Some(frame));
    assert!(platform.table(frame).unwrap().iter().all(|word| word.load(Relaxed) == 0));
    let run = platform.alloc_run(8192).unwrap();
    platform.run_words(run).unwrap()[7].store(1, Relaxed);
    platform.free_run(run);
    let run = platform.alloc_run(8192).unwrap();
    assert!(platform.run_words(run).unwrap().iter().all(|word| word.load(Relaxed) == 0));
}

#[test]
fn memory_runs_short_when_told() {
    let mut platform = platform();
    platform.limit_frames(1);
    assert!(platform.alloc_frame().is_some());
    assert_eq!(platform.alloc_frame(), None);
    platform.limit_run_bytes(8192);
    assert!(platform.alloc_run(4096).is_some());
    for bytes in [8192, 0, 100, u64::MAX, u64::MAX - 4095] {
        assert_eq!(platform.alloc_run(bytes), None);
    }
}

#[test]
fn freed_pages_are_reused_whatever_the_pieces_were() {
    let mut platform = platform();
    let runs: Vec<_> = (1..20).map(|pages| platform.alloc_run(pages * 4096).unwrap()).collect();
    for &run in runs.iter().step_by(2) {
        platform.free_run(run);
    }
    let again = platform.alloc_run(40 * 4096).unwrap();
    let live = runs.iter().skip(1).step_by(2).chain([&again]);
    for (number, &run) in live.enumerate() {
        for (page, words) in platform.run_words(run).unwrap().chunks(512).enumerate() {
            words[3].store((number << 16 | page) as u64, Relaxed);
        }
    }
    let live = runs.iter().skip(1).step_by(2).chain([&again]);
    for (number, &run) in live.enumerate() {
        let mut page = 0;
        for segment in platform.segments(run) {
            for at in (0..segment.bytes).step_by(4096) {
                let word = platform.machine().memory().read64(segment.start.get() + at + 24);
                assert_eq!(word, Some((number << 16 | page) as u64));
                page += 1;
            }
        }
    }
    assert_eq!(platform.usage().freed_accesses, 0);
}

fn asking_for_the_time_lets_it_pass(vendor: Vendor) {
    let config = slow(vendor.machine(), Completion::After(1000));
    let mut platform = SimPlatform::with_manual_clock(config).unwrap();
    let (queue, status) = (platform.alloc_frame().unwrap(), platform.alloc_frame().unwrap());
    let unit = registers(&mut platform, vendor);
    match vendor {
        Vendor::Vtd => {
            platform.write64(unit, 0x90, queue.get());
            platform.write32(unit, 0x18, 1 << 26);
            store(&platform, queue, 0, 7 << 32 | 0x25);
            store(&platform, queue, 1, status.get());
            platform.write64(unit, 0x88, 16);
        }
        Vendor::Amdvi => {
            platform.write64(unit, 0x08, 8 << 56 | queue.get());
            platform.write64(unit, 0x18, 1 << 12 | 1);
            store(&platform, queue, 0, 1 << 60 | status.get() | 1);
            store(&platform, queue, 1, 7);
            platform.write64(unit, 0x2008, 16);
        }
    }
    let done = |platform: &SimPlatform| platform.table(status).unwrap()[0].load(Relaxed);
    assert_eq!((platform.now().as_nanos(), done(&platform)), (0, 0));
    platform.advance_time(Duration::from_nanos(1000));
    assert_eq!((platform.now().as_nanos(), done(&platform)), (1000, 7));

    let real = SimPlatform::new(vendor.machine()).unwrap();
    let before = real.now();
    std::thread::sleep(Duration::from_millis(1));
    assert!(real.now().since(before) >= Duration::from_millis(1));
}

fn windows_are_where_registers_are_and_no_longer(vendor: Vendor) {
    let mut platform = platform_of(vendor);
    let nowhere = PhysAddr::new(0x1000);
    let error = PlatformError::Registers(nowhere);
    assert_eq!(platform.map_registers(nowhere, 4096), Err(error));
    let (base, bytes) = (PhysAddr::new(vendor.base()), window_bytes(vendor));
    assert!(platform.map_registers(base, 2 * bytes).is_err());
    let unit = registers(&mut platform, vendor);
    let (place, capabilities) = match vendor {
        Vendor::Vtd => (0x08, 0x00d2_078c_226f_0666),
        Vendor::Amdvi => (0x30, 0x840),
    };
    assert_eq!(platform.read64(unit, place), capabilities);
    let beyond = (platform.read32(unit, bytes), platform.read64(unit, bytes - 4));
    assert_eq!(beyond, (u32::MAX, u64::MAX));
    platform.write32(unit, usize::MAX, 1);
    assert_eq!(platform.table(PhysAddr::new(0x5000)).map(|_| ()), None);
    let header = platform.header_frame();
    assert!(platform.table(header).is_some());
    assert!(platform.table(header.checked_add(8).unwrap()).is_none());
}

fn firmware_has_its_table_its_memory_and_its_reserved_regions(vendor: Vendor) {
    let config = vendor.machine().with_reserved(0x7f00_0000, 0x7f00_1fff, &[edu()]);
    let mut platform = SimPlatform::with_manual_clock(config).unwrap();
    let (own, others) = match vendor {
        Vendor::Vtd => (*b"DMAR", *b"IVRS"),
        Vendor::Amdvi => (*b"IVRS", *b"DMAR"),
    };
    let table = platform.acpi_table(own).unwrap().unwrap();
    assert_eq!(table[..4], own);
    assert_eq!(platform.acpi_table(others).unwrap(), None);
    for address in [FIRMWARE, 0x7f00_1ff8] {
        assert!(platform.machine().memory().write64(address, 7));
        assert_eq!(platform.machine().memory().read64(address), Some(7));
    }
    assert!(!platform.machine().memory().write64(0x7f00_2000, 7));
    assert_ne!(platform.entropy(), platform.entropy());
}

#[test]
fn r2_a_successor_has_what_it_keeps_and_nothing_else_is_free_before_it_is_settled() {
    let mut platform = platform();
    let frames: Vec<_> = (0..3).map(|_| platform.alloc_frame().unwrap()).collect();
    let runs: Vec<_> = [0x3000, 0x1000].map(|bytes| platform.alloc_run(bytes).unwrap()).to_vec();
    let places: Vec<_> = runs.iter().map(|run| platform.place(*run).unwrap()).collect();
    let segments = platform.segments(runs[0]).to_vec();
    platform.run_words(runs[0]).unwrap()[7].store(7, Relaxed);
    platform.table(frames[0]).unwrap()[5].store(5, Relaxed);
    platform.inherit();
    assert!(platform.inherited());
    assert_eq!(platform.segments(runs[0]), []);
    assert_eq!(platform.table(frames[0]).unwrap()[5].load(Relaxed), 5);

    assert_eq!(platform.keep_frames(frames[0], 1), Ok(()));
    assert_eq!(platform.keep_frames(frames[0], 1), Err(NotInherited));
    assert_eq!(platform.keep_frames(PhysAddr::new(0x5000), 1), Err(NotInherited));
    assert_eq!(platform.keep_run(runs[0], places[0]), Ok(()));
    assert_eq!(platform.keep_run(RunId(9), places[0]), Err(NotInherited));
    assert_eq!(platform.segments(runs[0]), segments);
    assert_eq!(platform.run_words(runs[0]).unwrap()[7].load(Relaxed), 7);
    let frame = platform.alloc_frame().unwrap();
    let run = platform.alloc_run(0x1000).unwrap();
    assert!(!frames.contains(&frame) && run != runs[0]);
    assert!(!places.contains(&platform.place(run).unwrap()));

    platform.settle_inherited();
    assert!(!platform.inherited());
    let usage = platform.usage();
    assert_eq!((usage.live_frames, usage.live_runs), (2, 2));
    assert_eq!((usage.bad_frees, usage.freed_accesses), (0, 0));
    let again: Vec<_> = (0..2).map(|_| platform.alloc_frame().unwrap()).collect();
    assert!(again.iter().all(|frame| frames[1..].contains(frame)));
    assert_eq!(platform.keep_run(runs[1], places[1]), Err(NotInherited), "it is free");
}

#[test]
fn r2_a_successor_that_sets_everything_aside_has_a_header_of_its_own() {
    let mut platform = platform();
    let (header, frame) = (platform.header_frame(), platform.alloc_frame().unwrap());
    platform.table(header).unwrap()[0].store(1, Relaxed);
    platform.inherit();
    platform.set_aside_inherited();
    assert!(!platform.inherited() && platform.header_frame() != header);
    assert_eq!(platform.table(platform.header_frame()).unwrap()[0].load(Relaxed), 0);
    assert_eq!(platform.table(header).unwrap()[0].load(Relaxed), 1);
    assert_ne!(platform.alloc_frame(), Some(frame));
    assert_eq!(platform.usage().live_frames, 1);
}
