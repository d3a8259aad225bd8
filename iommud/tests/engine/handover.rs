//! Units that firmware or a boot loader had used before: taken over without a gap (R1), and nothing of theirs left.

use std::time::Duration;

use dma_types::PhysAddr;
use iommu_engine::platform::{ConfigSpace, Registers};
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::VtdConfig;
use iommu_sim::{MachineConfig, Memory};
use iommud::platform::sim::SimPlatform;
use iommud::platform::sim::memory::FIRMWARE;

use crate::rig::{Rig, blocked, edu};
use crate::vendor::{Vendor, slow_at_all, slow_down};

both! {
    r1_translation_that_was_left_on_is_taken_over_without_a_gap,
    a_unit_is_not_touched_before_its_start_and_firmwares_queue_does_not_run_again,
}

/// What a boot loader leaves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeftOn {
    Translation,
    TranslationAndQueue,
}

/// A machine that a boot loader hands over translating: its tables let edu reach one page, under the domain id that
/// will be the first to be given out.
fn handed_over(config: MachineConfig, left: LeftOn) -> SimPlatform {
    let platform = SimPlatform::with_manual_clock(config).unwrap();
    {
        let mut machine = platform.machine_mut();
        let memory = machine.memory();
        // Everything by literal bits.
        let frame = |n: u64| FIRMWARE + n * 4096;
        for n in 0..16 {
            memory.write(frame(n), &[0; 4096]);
        }
        if machine.amdvi(0).is_some() {
            // A device table of 128 entries, two levels, and the rings.
            memory.write64(frame(0) + 0x10 * 32, frame(1) | 3 << 61 | 2 << 9 | 3);
            memory.write64(frame(0) + 0x10 * 32 + 8, 1);
            memory.write64(frame(1), frame(2) | 3 << 61 | 1 << 9 | 1);
            memory.write64(frame(2) + 8, frame(6) | 3 << 61 | 1);
            machine.flush(FIRMWARE, 16 * 4096);
            let unit = machine.amdvi_mut(0).unwrap();
            unit.firmware_left_translation_on(frame(0));
            if left == LeftOn::TranslationAndQueue {
                unit.firmware_left_rings_on(8 << 56 | frame(8), 8 << 56 | frame(9));
            }
        } else {
            // Root table, context table, four levels.
            memory.write64(frame(0), frame(1) | 1);
            memory.write64(frame(1) + 0x10 * 16, frame(2) | 1);
            memory.write64(frame(1) + 0x10 * 16 + 8, 1 << 8 | 2);
            for n in 2..5 {
                memory.write64(frame(n), frame(n + 1) | 3);
            }
            memory.write64(frame(5) + 8, frame(6) | 3);
            machine.flush(FIRMWARE, 16 * 4096);
            let unit = machine.unit_mut(0).unwrap();
            unit.firmware_left_translation_on(frame(0));
            if left == LeftOn::TranslationAndQueue {
                unit.firmware_left_queue_on(frame(7));
            }
        }
    }
    platform
}

fn r1_translation_that_was_left_on_is_taken_over_without_a_gap(vendor: Vendor) {
    use LeftOn::{Translation, TranslationAndQueue};
    let vtd = |queued_invalidation| {
        MachineConfig::with_unit(VtdConfig { queued_invalidation, ..VtdConfig::default() })
    };
    let amdvi = |unit| MachineConfig::with_amdvi(unit);
    let base = AmdviConfig::default;
    let machines = match vendor {
        Vendor::Vtd => vec![
            (vtd(true), Translation),
            (vtd(true), TranslationAndQueue),
            (vtd(false), Translation),
        ],
        Vendor::Amdvi => vec![
            (amdvi(base()), Translation),
            (amdvi(base()), TranslationAndQueue),
            (amdvi(AmdviConfig { np_cache: true, ..base() }), TranslationAndQueue),
            (amdvi(AmdviConfig { extended_features: false, ..base() }), TranslationAndQueue),
        ],
    };
    for (machine, left) in machines {
        let machine = slow_at_all(machine, Takes::After(1_000_000));
        let mut platform = handed_over(machine, left);
        platform.config_write(edu(), 4, 6);
        let reached = platform.machine_mut().dma_write(edu(), 0x1000, &[1; 8]);
        assert_eq!(reached, Ok(()), "as the boot loader left it");
        let mut rig = Rig::start_on(platform);
        // A unit that cannot forget everything at once is asked for each of 65536 devices, domains and interrupt tables.
        for _ in 0..20_000 {
            // Never is anything reached that the boot loader did not mean to be.
            assert!(rig.write(FIRMWARE + 0x7000, &[1; 8]).is_err());
            assert!(rig.platform.machine().is_translating(0));
            if rig.engine.is_settled() {
                break;
            }
            if vendor == Vendor::Amdvi {
                assert_eq!(rig.faults(), (Vec::new(), false), "it is not looked at yet");
            }
            rig.pass(Duration::from_micros(100));
        }
        assert_eq!(rig.unit_state(0), UnitState::Running);
        assert!(rig.engine.units()[0].unit.as_ref().unwrap().found_translating());
        assert!(rig.write(0x1000, &[1; 8]).is_err(), "and no more");
        slow_down(&mut rig.platform.machine_mut(), Takes::Immediate);
        rig.attach(edu());
        assert!(rig.write(0x1000, &[1; 8]).is_err(), "nor by what was cached of the boot loader's");
        rig.check();
    }
}

#[test]
fn r1_an_exclusion_range_that_was_left_on_ends() {
    let mut platform = SimPlatform::with_manual_clock(Vendor::Amdvi.machine()).unwrap();
    let window = platform.map_registers(PhysAddr::new(Vendor::Amdvi.base()), 0x4000).unwrap();
    // Everything up to the end of firmware's memory, for all devices.
    platform.write64(window, 0x20, 3);
    platform.write64(window, 0x28, FIRMWARE + 0xf_f000);
    let mut rig = Rig::start_on(platform);
    rig.settle();
    assert!(blocked(&rig.write(FIRMWARE, &[1; 8])) && blocked(&rig.write(0, &[1; 8])));
    assert_eq!(rig.platform.read64(window, 0x20) & 1, 0);
    rig.check();
}

#[test]
fn r1_what_else_was_left_on_is_off_before_translation_begins_anew() {
    // A segmented table, as a firmware may have had it, where ours is whole.
    let unit = AmdviConfig { segments: 2, ..AmdviConfig::default() };
    let platform = handed_over(MachineConfig::with_amdvi(unit), LeftOn::TranslationAndQueue);
    let mut rig = Rig::start_on(platform);
    rig.settle();
    assert!(rig.write(0x1000, &[1; 8]).is_err());
    rig.attach(edu());
    rig.check();
}

#[test]
fn protected_memory_is_opened_only_when_translation_is_on() {
    let mut platform = SimPlatform::with_manual_clock(MachineConfig::default()).unwrap();
    let window = platform.map_registers(PhysAddr::new(0xfed9_0000), 4096).unwrap();
    // All memory below 4 GiB, and all above.
    platform.write32(window, 0x68, 0);
    platform.write32(window, 0x6c, u32::MAX);
    platform.write64(window, 0x70, 1 << 32);
    platform.write64(window, 0x78, u64::MAX);
    platform.write32(window, 0x64, 1 << 31);
    let mut rig = Rig::start_on(platform);
    rig.settle();
    assert_eq!(rig.platform.read32(window, 0x64) & 1, 0);
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, dma_types::Access::ReadWrite);
    assert_eq!(rig.write(iova.get(), &[1; 8]), Ok(()));
    rig.check();
}

#[test]
fn r5_a_log_that_overflowed_before_is_started_anew() {
    let mut platform = handed_over(Vendor::Amdvi.machine(), LeftOn::TranslationAndQueue);
    platform.config_write(edu(), 4, 6);
    for _ in 0..300 {
        assert!(blocked(&platform.machine_mut().dma_write(edu(), 0x2000, &[1; 8])));
    }
    let mut rig = Rig::start_on(platform);
    rig.settle();
    assert_eq!(rig.faults(), (Vec::new(), false));
    assert!(blocked(&rig.write(0x2000, &[1; 8])));
    assert_eq!(rig.faults().0.len(), 1);
    rig.check();
}

#[test]
fn r5_a_unit_whose_old_buffer_does_not_stop_is_given_up_at_its_deadline() {
    let machine = slow_at_all(Vendor::Amdvi.machine(), Takes::Never);
    let mut rig = Rig::start_on(handed_over(machine, LeftOn::TranslationAndQueue));
    rig.settle();
    let what = "turn off the command buffer and the logs that firmware left";
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::StartTimedOut { what }));
    assert!(rig.write(FIRMWARE, &[1; 8]).is_err(), "and still translates");
}

fn a_unit_is_not_touched_before_its_start_and_firmwares_queue_does_not_run_again(vendor: Vendor) {
    let config = vendor.caching().with_reserved(0x7d00_0000, 0x7d00_3fff, &[edu()]);
    let platform = SimPlatform::with_manual_clock(config).unwrap();
    let status = FIRMWARE + 6 * 4096;
    {
        let mut machine = platform.machine_mut();
        let memory = machine.memory();
        let queue = FIRMWARE + 7 * 4096;
        // Waits that firmware once made, which write 0xdead to a place that is somebody's by now.
        for n in 0..256 {
            let (low, high) = match vendor {
                Vendor::Vtd => (0xdead_0000_0025, status),
                Vendor::Amdvi => (1 << 60 | status | 1, 0xdead),
            };
            memory.write64(queue + n * 16, low);
            memory.write64(queue + n * 16 + 8, high);
        }
        memory.write64(status, 0x1111);
        machine.flush(FIRMWARE, 8 * 4096);
        match vendor {
            Vendor::Vtd => machine.unit_mut(0).unwrap().firmware_left_queue_on(queue),
            Vendor::Amdvi => {
                let log = FIRMWARE + 9 * 4096;
                let unit = machine.amdvi_mut(0).unwrap();
                unit.firmware_left_rings_on(8 << 56 | queue, 8 << 56 | log);
            }
        }
    }
    let mut rig = Rig::start_on(platform);
    rig.settle();
    let mut word = [0; 8];
    rig.platform.machine_mut().memory().read(status, &mut word);
    assert_eq!(u64::from_le_bytes(word), 0x1111);
    rig.check();
}
