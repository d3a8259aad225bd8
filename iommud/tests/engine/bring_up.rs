//! From what firmware left to default deny, without a gap (R1).

use std::sync::atomic::Ordering;
use std::time::Duration;

use dma_types::PhysAddr;
use iommu_engine::Engine;
use iommu_engine::error::{EngineError, StartError};
use iommu_engine::machine::Remark;
use iommu_engine::machine::plan::Oddity;
use iommu_engine::platform::{ConfigSpace, TableFrames};
use iommu_engine::policy::Policy;
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::VtdConfig;
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
    r5_a_unit_that_does_not_start_is_given_up_at_its_deadline,
    r5_more_faults_than_records_are_noticed_and_the_records_freed,
    the_unit_and_its_tables_are_in_the_ledger,
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

fn r5_a_unit_that_does_not_start_is_given_up_at_its_deadline(vendor: Vendor) {
    let mut rig = Rig::started(slow_at_all(vendor.machine(), Takes::Never));
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
    let root = rig.platform.table(units[0].1.root.start()).unwrap();
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
