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
use iommu_sim::vtd::{Completion as Takes, Timing, VtdConfig};
use iommu_sim::{Blocked, MachineConfig, Memory};
use iommud::platform::sim::SimPlatform;
use iommud::platform::sim::memory::FIRMWARE;

use crate::rig::{Rig, edu};

const RESERVED: u64 = 0x7d00_0000;

fn reserved_for_edu() -> MachineConfig {
    MachineConfig::default().with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()])
}

#[test]
fn r1_from_the_first_instant_a_device_reaches_only_what_firmware_reserves_for_it() {
    let mut rig = Rig::new(reserved_for_edu());
    assert!(rig.platform.machine().unit(0).unwrap().is_translating());
    assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
    assert_eq!(rig.write(RESERVED + 0x3ff8, &[1; 8]), Ok(()));
    assert!(rig.write(RESERVED + 0x4000, &[1; 8]).is_err());
    assert!(rig.write(RESERVED - 8, &[1; 8]).is_err());
    rig.check();
}

#[test]
fn r1_a_driver_and_its_end_leave_the_reserved_range_as_it_was() {
    let mut rig = Rig::new(reserved_for_edu());
    let domain = rig.attach(edu());
    assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
    let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
    rig.finish(&completion);
    rig.platform.config_write(edu(), 4, 6);
    assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
    rig.check();
}

#[test]
fn reserved_ranges_are_never_given_out() {
    let mut rig = Rig::new(reserved_for_edu());
    let domain = rig.attach(edu());
    let reserved: Vec<_> = rig.engine.domain(domain).unwrap().reserved().collect();
    for (start, bytes) in [(0, 4096), (0xfee0_0000, 0x10_0000), (RESERVED, 0x4000)] {
        assert!(
            reserved.iter().any(|it| it.start.get() == start && it.bytes == bytes),
            "{start:#x}"
        );
    }
}

#[test]
fn r1_while_a_slow_unit_starts_nothing_is_open_that_was_not() {
    let takes = Takes::After(1_000_000);
    let timing = Timing { commands: takes, registers: takes, queue: takes };
    let mut rig =
        Rig::started(MachineConfig::with_unit(VtdConfig { timing, ..VtdConfig::default() }));
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

/// A machine that a boot loader hands over translating: its tables let edu reach one page.
fn handed_over(unit: VtdConfig, queue_too: bool) -> SimPlatform {
    let platform = SimPlatform::with_manual_clock(MachineConfig::with_unit(unit)).unwrap();
    {
        let mut machine = platform.machine_mut();
        let memory = machine.memory();
        // Root table, context table, four levels; everything by literal bits.
        let frame = |n: u64| FIRMWARE + n * 4096;
        for n in 0..8 {
            memory.write(frame(n), &[0; 4096]);
        }
        memory.write64(frame(0), frame(1) | 1);
        memory.write64(frame(1) + 0x10 * 16, frame(2) | 1);
        memory.write64(frame(1) + 0x10 * 16 + 8, 5 << 8 | 2);
        for n in 2..5 {
            memory.write64(frame(n), frame(n + 1) | 3);
        }
        memory.write64(frame(5) + 8, frame(6) | 3);
        machine.flush(FIRMWARE, 8 * 4096);
        let unit = machine.unit_mut(0).unwrap();
        unit.firmware_left_translation_on(frame(0));
        if queue_too {
            unit.firmware_left_queue_on(frame(7));
        }
    }
    platform
}

#[test]
fn r1_translation_that_was_left_on_is_taken_over_without_a_gap() {
    for (queued_invalidation, queue_too) in [(true, false), (true, true), (false, false)] {
        let takes = Takes::After(1_000_000);
        let timing = Timing { commands: takes, registers: takes, queue: takes };
        let unit = VtdConfig { queued_invalidation, timing, ..VtdConfig::default() };
        let mut rig = Rig::start_on(handed_over(unit, queue_too));
        assert_eq!(rig.write(0x1000, &[1; 8]), Ok(()), "as the boot loader left it");
        for _ in 0..1000 {
            // Never is anything reached that the boot loader did not mean to be.
            assert!(rig.write(FIRMWARE + 0x7000, &[1; 8]).is_err());
            if rig.engine.is_settled() {
                break;
            }
            rig.pass(Duration::from_micros(100));
        }
        assert_eq!(rig.unit_state(0), UnitState::Running);
        assert!(rig.engine.units()[0].unit.as_ref().unwrap().found_translating());
        assert!(rig.write(0x1000, &[1; 8]).is_err(), "and no more");
        rig.check();
    }
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
fn r5_a_unit_that_does_not_start_is_given_up_at_its_deadline() {
    let timing = Timing { commands: Takes::Never, ..Timing::default() };
    let unit = VtdConfig { timing, ..VtdConfig::default() };
    let mut rig = Rig::started(MachineConfig::with_unit(unit));
    rig.settle();
    let state = rig.unit_state(0);
    assert!(matches!(state, UnitState::Failed(UnitFailure::StartTimedOut { .. })), "{state:?}");
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

#[test]
fn r5_more_faults_than_records_are_noticed_and_the_records_freed() {
    let unit = VtdConfig { fault_records: 2, ..VtdConfig::default() };
    let mut rig = Rig::with_unit(unit);
    for round in 0..3 {
        for page in 0..5 {
            let blocked = rig.write(0x1_0000 + page * 4096, &[round; 4]);
            assert!(matches!(blocked, Err(Blocked::Fault(_))));
        }
        let (faults, lost) = rig.faults();
        assert_eq!((faults.len(), lost), (2, true));
        assert_eq!(rig.faults().0.len(), 0);
    }
    rig.check();
}

#[test]
fn the_unit_and_its_tables_are_in_the_ledger() {
    use iommu_engine::ledger::Ledger;
    use iommu_engine::records::{AttachmentRecord, DomainRecord, UnitRecord};
    let mut rig = Rig::new(MachineConfig::default());
    let domain = rig.attach(edu());
    let units = Ledger::records::<UnitRecord>(&rig.platform).unwrap();
    assert_eq!(units[0].1.base, PhysAddr::new(0xfed9_0000));
    let domains = Ledger::records::<DomainRecord>(&rig.platform).unwrap();
    assert_eq!(domains[0].1.key, domain.0);
    // The hardware's own entries, found from the ledger alone, lead to the domain's table.
    let root = rig.platform.table(units[0].1.root).unwrap();
    let context = PhysAddr::new(root[0].load(Ordering::Relaxed) & !0xfff);
    let entry = rig.platform.table(context).unwrap()[0x20].load(Ordering::Relaxed);
    assert_eq!(entry & !0xfff, domains[0].1.root.get());
    let attached = Ledger::records::<AttachmentRecord>(&rig.platform).unwrap();
    assert_eq!((attached[0].1.device, attached[0].1.domain), (edu(), domain.0));
    let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.finish(&completion);
    assert_eq!(Ledger::records::<AttachmentRecord>(&rig.platform).unwrap(), []);
}

#[test]
fn a_unit_is_not_touched_before_its_start_and_firmwares_queue_does_not_run_again() {
    let unit = VtdConfig { caching_mode: true, ..VtdConfig::default() };
    let config =
        MachineConfig::with_unit(unit).with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()]);
    let platform = SimPlatform::with_manual_clock(config).unwrap();
    let status = FIRMWARE + 6 * 4096;
    {
        let mut machine = platform.machine_mut();
        let memory = machine.memory();
        let queue = FIRMWARE + 7 * 4096;
        // Waits that firmware once made, which write 0xdead to a place that is somebody's by now.
        for n in 0..256 {
            memory.write64(queue + n * 16, 0xdead_0000_0025);
            memory.write64(queue + n * 16 + 8, status);
        }
        memory.write64(status, 0x1111);
        machine.flush(FIRMWARE, 8 * 4096);
        machine.unit_mut(0).unwrap().firmware_left_queue_on(queue);
    }
    let mut rig = Rig::start_on(platform);
    rig.settle();
    let mut word = [0; 8];
    rig.platform.machine_mut().memory().read(status, &mut word);
    assert_eq!(u64::from_le_bytes(word), 0x1111);
    rig.check();
}

#[test]
fn r1_a_range_that_firmware_names_twice_is_reserved_once() {
    let mut rig = Rig::new(
        reserved_for_edu().with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()]).with_reserved(
            RESERVED + 0x2000,
            RESERVED + 0x5fff,
            &[edu()],
        ),
    );
    let twice = |remark: &Remark| matches!(remark, Remark::Found(found) if matches!(found.oddity, Oddity::RegionTwice { .. }));
    assert!(rig.engine.remarks().iter().all(twice), "{:?}", rig.engine.remarks());
    assert_eq!(rig.write(RESERVED + 0x5ff8, &[1; 8]), Ok(()));
    rig.attach(edu());
    assert_eq!(rig.write(RESERVED + 0x5ff8, &[1; 8]), Ok(()));
    rig.check();
}

#[test]
fn r1_no_device_is_attached_before_its_unit_translates() {
    let timing = Timing { commands: Takes::After(100_000_000), ..Timing::default() };
    let unit = VtdConfig { timing, ..VtdConfig::default() };
    let mut rig = Rig::started(MachineConfig::with_unit(unit));
    let Rig { platform, engine } = &mut rig;
    let refused = engine.create_domain(platform, &[edu()]);
    assert_eq!(refused, Err(EngineError::UnitStarting(edu())));
    rig.settle();
    rig.attach(edu());
    rig.check();
}

#[test]
fn r1_reserved_ranges_come_up_on_every_kind_of_slow_unit() {
    for (queued_invalidation, caching_mode) in
        [(true, false), (true, true), (false, false), (false, true)]
    {
        let takes = Takes::After(1_000_000);
        let timing = Timing { commands: takes, registers: takes, queue: takes };
        let unit = VtdConfig {
            write_buffer: true,
            timing,
            queued_invalidation,
            caching_mode,
            ..VtdConfig::default()
        };
        let config = MachineConfig::with_unit(unit);
        let mut rig = Rig::new(config.with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()]));
        assert_eq!(rig.write(RESERVED, &[1; 8]), Ok(()));
        rig.check();
    }
}
