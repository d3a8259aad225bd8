//! The simulated platform: what it lends, and a device's DMA through tables built by hand.
#![cfg(target_os = "linux")]

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::platform::{
    BufferRuns, ConfigSpace, Platform, PlatformError, Registers, RunId, TableFrames,
};
use iommu_sim::vtd::{Completion, FaultReason, Timing, VtdConfig};
use iommu_sim::{Blocked, MachineConfig, Memory};
use iommud::platform::sim::memory::{FIRMWARE, POISON};
use iommud::platform::sim::{SimPlatform, Usage};

const UNIT: u64 = 0xfed9_0000;
const EDU_BAR: u64 = 0xfea0_0000;

fn platform() -> SimPlatform {
    SimPlatform::with_manual_clock(MachineConfig::default()).unwrap()
}

fn edu() -> PciAddress {
    "0000:00:02.0".parse().unwrap()
}

fn store(platform: &SimPlatform, frame: PhysAddr, index: usize, word: u64) {
    platform.table(frame).unwrap()[index].store(word, Relaxed);
    platform.flush_entries(frame, index..index + 1);
}

/// Maps the run's pages from I/O address 0x5000 on, for the edu device in domain 7, and turns translation
/// on. Gives the frames: root, context, and four levels of tables, the lowest last.
fn map_by_hand(platform: &mut SimPlatform, run: RunId) -> [PhysAddr; 6] {
    let frames = [(); 6].map(|()| platform.alloc_frame().unwrap());
    for frame in frames {
        platform.flush_entries(frame, 0..512);
    }
    let [root, context, level4, level3, level2, level1] = frames;
    store(platform, root, 0, context.get() | 1);
    store(platform, context, 0x20, level4.get() | 1);
    store(platform, context, 0x21, 7 << 8 | 2);
    store(platform, level4, 0, level3.get() | 3);
    store(platform, level3, 0, level2.get() | 3);
    store(platform, level2, 0, level1.get() | 3);
    let mut index = 5;
    for segment in platform.segments(run).to_vec() {
        for page in 0..segment.bytes / 4096 {
            store(platform, level1, index, (segment.start.get() + page * 4096) | 3);
            index += 1;
        }
    }
    let unit = platform.map_registers(PhysAddr::new(UNIT), 4096).unwrap();
    platform.write64(unit, 0x20, root.get());
    platform.write32(unit, 0x18, 1 << 30);
    platform.write64(unit, 0x28, 1 << 63 | 1 << 61);
    platform.write64(unit, 0xf8, 1 << 63 | 1 << 60);
    platform.write32(unit, 0x18, 1 << 31);
    assert_eq!(platform.read32(unit, 0x1c), 0xc000_0000);
    frames
}

#[test]
fn an_edu_transfer_goes_through_hand_made_tables() {
    for coherent in [true, false] {
        let unit = VtdConfig { coherent, ..VtdConfig::default() };
        let mut platform = SimPlatform::new(MachineConfig::with_unit(unit)).unwrap();
        let run = platform.alloc_run(5 * 4096).unwrap();
        map_by_hand(&mut platform, run);
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
        assert_eq!(platform.machine().unit(0).unwrap().violations(), []);
    }
}

#[test]
fn r2_what_is_freed_too_early_is_noticed() {
    let mut platform = platform();
    let run = platform.alloc_run(4096).unwrap();
    let physical = platform.segments(run)[0].start.get();
    let frames = map_by_hand(&mut platform, run);
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
    platform.free_frame(frames[5]);
    let blocked = platform.machine_mut().dma_read(edu(), 0x6000, &mut word);
    assert_eq!(blocked, Err(Blocked::Fault(FaultReason::PageReserved)));
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

#[test]
fn asking_for_the_time_lets_it_pass() {
    let slow = Completion::After(1000);
    let timing = Timing { queue: slow, ..Timing::default() };
    let unit = VtdConfig { timing, ..VtdConfig::default() };
    let mut platform = SimPlatform::with_manual_clock(MachineConfig::with_unit(unit)).unwrap();
    let (queue, status) = (platform.alloc_frame().unwrap(), platform.alloc_frame().unwrap());
    let unit = platform.map_registers(PhysAddr::new(UNIT), 4096).unwrap();
    platform.write64(unit, 0x90, queue.get());
    platform.write32(unit, 0x18, 1 << 26);
    store(&platform, queue, 0, 7 << 32 | 0x25);
    store(&platform, queue, 1, status.get());
    platform.write64(unit, 0x88, 16);
    let done = |platform: &SimPlatform| platform.table(status).unwrap()[0].load(Relaxed);
    assert_eq!((platform.now().as_nanos(), done(&platform)), (0, 0));
    platform.advance_time(Duration::from_nanos(1000));
    assert_eq!((platform.now().as_nanos(), done(&platform)), (1000, 7));

    let real = SimPlatform::new(MachineConfig::default()).unwrap();
    let before = real.now();
    std::thread::sleep(Duration::from_millis(1));
    assert!(real.now().since(before) >= Duration::from_millis(1));
}

#[test]
fn windows_are_where_registers_are_and_no_longer() {
    let mut platform = platform();
    let nowhere = PhysAddr::new(0x1000);
    let error = PlatformError::Registers(nowhere);
    assert_eq!(platform.map_registers(nowhere, 4096), Err(error));
    assert!(platform.map_registers(PhysAddr::new(UNIT), 8192).is_err());
    let unit = platform.map_registers(PhysAddr::new(UNIT), 4096).unwrap();
    assert_eq!(platform.read64(unit, 8), 0x00d2_078c_226f_0666);
    assert_eq!((platform.read32(unit, 4096), platform.read64(unit, 4092)), (u32::MAX, u64::MAX));
    platform.write32(unit, usize::MAX, 1);
    assert_eq!(platform.table(PhysAddr::new(0x5000)).map(|_| ()), None);
    let header = platform.header_frame();
    assert!(platform.table(header).is_some());
    assert!(platform.table(header.checked_add(8).unwrap()).is_none());
}

#[test]
fn firmware_has_its_table_its_memory_and_its_reserved_regions() {
    let config = MachineConfig::default().with_reserved(0x7f00_0000, 0x7f00_1fff, &[edu()]);
    let mut platform = SimPlatform::with_manual_clock(config).unwrap();
    let table = platform.acpi_table(*b"DMAR").unwrap().unwrap();
    assert_eq!(&table[..4], b"DMAR");
    assert_eq!(platform.acpi_table(*b"IVRS").unwrap(), None);
    for address in [FIRMWARE, 0x7f00_1ff8] {
        assert!(platform.machine().memory().write64(address, 7));
        assert_eq!(platform.machine().memory().read64(address), Some(7));
    }
    assert!(!platform.machine().memory().write64(0x7f00_2000, 7));
    assert_ne!(platform.entropy(), platform.entropy());
}
