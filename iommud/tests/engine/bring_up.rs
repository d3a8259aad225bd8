//! From what firmware left to default deny, without a gap (R1).

use std::sync::atomic::Ordering;
use std::time::Duration;

use dma_types::PhysAddr;
use iommu_engine::error::{EngineError, StartError};
use iommu_engine::machine::Remark;
use iommu_engine::machine::plan::Oddity;
use iommu_engine::platform::{Registers, TableFrames};
use iommu_engine::policy::Policy;
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_engine::{Engine, platform::ConfigSpace};
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::VtdConfig;
use iommu_sim::{MachineConfig, Memory};
use iommud::platform::sim::SimPlatform;
use iommud::platform::sim::memory::FIRMWARE;

use crate::rig::{Rig, blocked, edu};
use crate::vendor::{Vendor, slow_at_all, slow_down};

const RESERVED: u64 = 0x7d00_0000;

both! {
    r1_from_the_first_instant_a_device_reaches_only_what_firmware_reserves_for_it,
    r1_a_driver_and_its_end_leave_the_reserved_range_as_it_was,
    reserved_ranges_are_never_given_out,
    r1_while_a_slow_unit_starts_nothing_is_open_that_was_not,
    r1_translation_that_was_left_on_is_taken_over_without_a_gap,
    r5_a_unit_that_does_not_start_is_given_up_at_its_deadline,
    r5_more_faults_than_records_are_noticed_and_the_records_freed,
    the_unit_and_its_tables_are_in_the_ledger,
    a_unit_is_not_touched_before_its_start_and_firmwares_queue_does_not_run_again,
    r1_a_range_that_firmware_names_twice_is_reserved_once,
    r1_no_device_is_attached_before_its_unit_translates,
    r1_reserved_ranges_come_up_on_every_kind_of_slow_unit,
}

fn reserved_for_edu(vendor: Vendor) -> MachineConfig {
    vendor.machine().with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()])
}

fn r1_from_the_first_instant_a_device_reaches_only_what_firmware_reserves_for_it(vendor: Vendor) {
    let mut rig = Rig::new(reserved_for_edu(vendor));
    assert!(rig.platform.machine().is_translating(0));
    assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
    assert_eq!(rig.write(RESERVED + 0x3ff8, &[1; 8]), Ok(()));
    assert!(rig.write(RESERVED + 0x4000, &[1; 8]).is_err());
    assert!(rig.write(RESERVED - 8, &[1; 8]).is_err());
    rig.check();
}

fn r1_a_driver_and_its_end_leave_the_reserved_range_as_it_was(vendor: Vendor) {
    let mut rig = Rig::new(reserved_for_edu(vendor));
    let domain = rig.attach(edu());
    assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
    let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
    rig.finish(&completion);
    rig.platform.config_write(edu(), 4, 6);
    assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
    rig.check();
}

fn reserved_ranges_are_never_given_out(vendor: Vendor) {
    let mut rig = Rig::new(reserved_for_edu(vendor));
    let domain = rig.attach(edu());
    let reserved: Vec<_> = rig.engine.domain(domain).unwrap().reserved().collect();
    let mut ranges = vec![(0, 4096), (0xfee0_0000, 0x10_0000), (RESERVED, 0x4000)];
    if vendor == Vendor::Amdvi {
        // Where HyperTransport has its own.
        ranges.push((0xfd_0000_0000, 0x3_0000_0000));
    }
    for (start, bytes) in ranges {
        assert!(
            reserved.iter().any(|it| it.start.get() == start && it.bytes == bytes),
            "{start:#x}"
        );
    }
}

fn r1_while_a_slow_unit_starts_nothing_is_open_that_was_not(vendor: Vendor) {
    let mut rig = Rig::started(slow_at_all(vendor.machine(), Takes::After(1_000_000)));
    let mut was_open = true;
    for _ in 0..1000 {
        let reached = rig.write(FIRMWARE, &[1; 8]).is_ok();
        assert!(was_open || !reached, "what was closed is open again");
        was_open = reached;
        if rig.engine.is_settled() {
            break;
        }
        rig.pass(Duration::from_micros(100));
    }
    assert!(rig.engine.is_settled() && !was_open);
    rig.check();
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
        for _ in 0..10_000 {
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
    // All of firmware's memory, for all devices.
    platform.write64(window, 0x20, FIRMWARE | 3);
    platform.write64(window, 0x28, FIRMWARE + 0xf_f000);
    let mut rig = Rig::start_on(platform);
    rig.settle();
    assert!(rig.write(FIRMWARE, &[1; 8]).is_err());
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

fn r5_a_unit_that_does_not_start_is_given_up_at_its_deadline(vendor: Vendor) {
    let mut rig = Rig::started(slow_at_all(vendor.machine(), Takes::Never));
    rig.settle();
    let state = rig.unit_state(0);
    assert!(matches!(state, UnitState::Failed(UnitFailure::StartTimedOut { .. })), "{state:?}");
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

#[test]
fn a_machine_without_a_table_has_no_iommu() {
    let config = MachineConfig { units: Vec::new(), ..MachineConfig::default() };
    let mut platform = SimPlatform::with_manual_clock(config).unwrap();
    let mut rig = match Engine::start(&mut platform, Policy::default()) {
        Err(StartError::NoIommu) => return,
        Ok(engine) => Rig { platform, engine },
        Err(other) => panic!("{other}"),
    };
    // A table without units is no table of IOMMUs, but it is a table: nothing is covered.
    assert!(rig.engine.units().is_empty());
    assert!(rig.engine.create_domain(&mut rig.platform, &[edu()]).is_err());
}

fn r5_more_faults_than_records_are_noticed_and_the_records_freed(vendor: Vendor) {
    let records = match vendor {
        Vendor::Vtd => 2,
        Vendor::Amdvi => 255,
    };
    let mut rig = Rig::new(match vendor {
        Vendor::Vtd => {
            MachineConfig::with_unit(VtdConfig { fault_records: 2, ..VtdConfig::default() })
        }
        Vendor::Amdvi => vendor.machine(),
    });
    for round in 0..3 {
        for page in 0..records + 3 {
            let refused = rig.write(0x1_0000 + page * 4096, &[round; 4]);
            assert!(blocked(&refused));
        }
        let (faults, lost) = rig.faults();
        assert_eq!((faults.len() as u64, lost), (records, true));
        let addresses = faults.iter().map(|fault| fault.address.get());
        assert!(addresses.eq((0..records).map(|page| 0x1_0000 + page * 4096)));
        assert_eq!(rig.faults(), (Vec::new(), false));
    }
    // The log is a ring: what is read makes room for as many again.
    for round in 0..5 {
        for page in 0..records / 2 {
            assert!(blocked(&rig.write(page * 4096, &[round; 4])));
        }
        let (faults, lost) = rig.faults();
        assert_eq!((faults.len() as u64, lost), (records / 2, false));
    }
    rig.check();
}

fn the_unit_and_its_tables_are_in_the_ledger(vendor: Vendor) {
    use iommu_engine::ledger::Ledger;
    use iommu_engine::records::{AttachmentRecord, DomainRecord, UnitRecord};
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let units = Ledger::records::<UnitRecord>(&rig.platform).unwrap();
    assert_eq!(units[0].1.base, PhysAddr::new(vendor.base()));
    let domains = Ledger::records::<DomainRecord>(&rig.platform).unwrap();
    assert_eq!(domains[0].1.key, domain.0);
    // The hardware's own entries, found from the ledger alone, lead to the domain's table.
    let root = rig.platform.table(units[0].1.root).unwrap();
    let entry = match vendor {
        Vendor::Vtd => {
            let context = PhysAddr::new(root[0].load(Ordering::Relaxed) & !0xfff);
            rig.platform.table(context).unwrap()[0x20].load(Ordering::Relaxed)
        }
        Vendor::Amdvi => root[0x40].load(Ordering::Relaxed),
    };
    assert_eq!(entry & 0x000f_ffff_ffff_f000, domains[0].1.root.get());
    let attached = Ledger::records::<AttachmentRecord>(&rig.platform).unwrap();
    assert_eq!((attached[0].1.device, attached[0].1.domain), (edu(), domain.0));
    let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.finish(&completion);
    assert_eq!(Ledger::records::<AttachmentRecord>(&rig.platform).unwrap(), []);
}

fn a_unit_is_not_touched_before_its_start_and_firmwares_queue_does_not_run_again(vendor: Vendor) {
    let config = vendor.caching().with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()]);
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

fn r1_a_range_that_firmware_names_twice_is_reserved_once(vendor: Vendor) {
    let mut rig = Rig::new(
        reserved_for_edu(vendor)
            .with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()])
            .with_reserved(RESERVED + 0x2000, RESERVED + 0x5fff, &[edu()]),
    );
    let twice = |remark: &Remark| matches!(remark, Remark::Found(found) if matches!(found.oddity, Oddity::RegionTwice { .. }));
    assert!(rig.engine.remarks().iter().all(twice), "{:?}", rig.engine.remarks());
    assert_eq!(rig.write(RESERVED + 0x5ff8, &[1; 8]), Ok(()));
    rig.attach(edu());
    assert_eq!(rig.write(RESERVED + 0x5ff8, &[1; 8]), Ok(()));
    rig.check();
}

fn r1_no_device_is_attached_before_its_unit_translates(vendor: Vendor) {
    let mut rig = Rig::started(slow_at_all(vendor.machine(), Takes::After(100_000_000)));
    let Rig { platform, engine } = &mut rig;
    let refused = engine.create_domain(platform, &[edu()]);
    assert_eq!(refused, Err(EngineError::UnitStarting(edu())));
    rig.settle();
    slow_down(&mut rig.platform.machine_mut(), Takes::Immediate);
    rig.attach(edu());
    rig.check();
}

fn r1_reserved_ranges_come_up_on_every_kind_of_slow_unit(vendor: Vendor) {
    let vtd = |(queued_invalidation, caching_mode)| {
        let base = VtdConfig::default();
        let unit = VtdConfig { write_buffer: true, queued_invalidation, caching_mode, ..base };
        MachineConfig::with_unit(unit)
    };
    let amdvi = |(extended_features, np_cache)| {
        let base = AmdviConfig::default();
        MachineConfig::with_amdvi(AmdviConfig { extended_features, np_cache, ..base })
    };
    for knobs in [(true, false), (true, true), (false, false), (false, true)] {
        let config = match vendor {
            Vendor::Vtd => vtd(knobs),
            Vendor::Amdvi => amdvi(knobs),
        };
        let config = slow_at_all(config, Takes::After(1_000_000));
        let mut rig = Rig::new(config.with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()]));
        assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
        rig.check();
    }
}
