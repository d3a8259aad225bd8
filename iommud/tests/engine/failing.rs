//! Units that stop, vanish or do not match, and domains over several of them.

use std::time::Duration;

use dma_types::{Access, PhysAddr};
use iommu_engine::completion::Progress;
use iommu_engine::error::EngineError;
use iommu_engine::fault::FaultReason;
use iommu_engine::platform::{ConfigSpace, Registers, TableFrames};
use iommu_engine::records::{UnitRecord, UnitRoot};
use iommu_engine::unit::{Mismatch, UnitFailure, UnitState};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::{Completion as Takes, Health};
use iommu_sim::vtd::VtdConfig;

use crate::rig::{Rig, edu, other};
use crate::topology::traffic::at;
use crate::vendor::{Vendor, slow_at_all, slow_down};

both! {
    a_domain_is_refused_to_a_device_whose_unit_cannot_walk_it,
    a_domain_made_for_both_has_what_both_units_can_from_its_creation,
    r2_what_two_units_know_is_gone_when_both_have_confirmed,
    r5_a_unit_that_vanishes_while_it_starts_is_given_up,
    r5_a_unit_that_vanishes_while_it_forgets_is_given_up,
    r1_a_group_that_cannot_be_attached_whole_reaches_nothing,
    r2_tables_of_a_group_that_was_attached_in_part_outlast_what_its_unit_holds,
}

/// A machine whose first unit is this one.
fn vtd_units(first: VtdConfig) -> MachineConfig {
    let mut config = Vendor::Vtd.two_units();
    config.units[0].vtd = first;
    config
}

/// A machine whose first unit is this one.
fn amdvi_units(first: AmdviConfig) -> MachineConfig {
    let mut config = Vendor::Amdvi.two_units();
    config.amdvi_units[0].amdvi = first;
    config
}

/// Machines whose first unit lacks something that the second has, and how that is called where it stands in the
/// way of a domain of the second's.
fn lesser_units(vendor: Vendor) -> Vec<(&'static str, Option<Mismatch>, MachineConfig)> {
    let base = VtdConfig::default;
    let amdvi = AmdviConfig::default;
    let vtd = |(what, why, unit)| (what, Some(why), vtd_units(unit));
    match vendor {
        Vendor::Vtd => [
            (
                "fewer levels",
                Mismatch::Depth,
                VtdConfig { levels: vec![3], guest_address_bits: 39, ..base() },
            ),
            ("fewer bits", Mismatch::AddressBits, VtdConfig { guest_address_bits: 40, ..base() }),
            (
                "no large pages",
                Mismatch::PageSizes,
                VtdConfig { pages_2m: false, pages_1g: false, ..base() },
            ),
            ("no 1 GiB pages", Mismatch::PageSizes, VtdConfig { pages_1g: false, ..base() }),
            ("no snooping", Mismatch::Coherency, VtdConfig { coherent: false, ..base() }),
            (
                "no zero-length reads",
                Mismatch::WriteNeedsRead,
                VtdConfig { zero_length_read: false, ..base() },
            ),
        ]
        .map(vtd)
        .into(),
        // Every AMD unit walks four levels, which is as deep as a domain gets, and knows every size of page.
        Vendor::Amdvi => [
            ("fewer levels", AmdviConfig { table_depth: 0, ..amdvi() }),
            ("no features", AmdviConfig { extended_features: false, ..amdvi() }),
            ("no snooping of its own", AmdviConfig { coherent: false, ..amdvi() }),
            ("a cache of what is absent", AmdviConfig { np_cache: true, ..amdvi() }),
        ]
        .map(|(what, unit)| (what, None, amdvi_units(unit)))
        .into(),
    }
}

fn a_domain_is_refused_to_a_device_whose_unit_cannot_walk_it(vendor: Vendor) {
    for (what, why, machine) in lesser_units(vendor) {
        let mut rig = Rig::new(machine);
        let domain = rig.attach(edu());
        let Rig { platform, engine } = &mut rig;
        let attached = engine.attach(platform, other(), domain).map(drop);
        let expected = why.map_or(Ok(()), |why| Err(EngineError::IncompatibleDomain(other(), why)));
        assert_eq!(attached, expected, "{what}");
        assert!(rig.platform.machine_mut().dma_read(other(), 0x1_0000_0000, &mut [0; 8]).is_err());
        rig.check();
    }
}

fn a_domain_made_for_both_has_what_both_units_can_from_its_creation(vendor: Vendor) {
    for (what, _, machine) in lesser_units(vendor) {
        let mut rig = Rig::new(machine);
        let Rig { platform, engine } = &mut rig;
        let domain = engine.create_domain(platform, &[edu(), other()]).unwrap();
        engine.attach(platform, edu(), domain).unwrap();
        engine.attach(platform, other(), domain).unwrap();
        let run = rig.run(4 << 20);
        let iova = rig.map(domain, run, 4 << 20, Access::ReadWrite);
        for device in [edu(), other()] {
            let dma = rig.platform.machine_mut().dma_write(device, iova.get() + 0x1234, &[7; 8]);
            assert!(dma.is_ok(), "{what}: {device}");
        }
        rig.check();
    }
}

#[test]
fn no_domain_is_made_for_units_that_walk_nothing_in_common() {
    let lesser = VtdConfig { levels: vec![3], guest_address_bits: 39, ..VtdConfig::default() };
    let mut config = vtd_units(lesser);
    config.units[1].vtd.levels = vec![4];
    let mut rig = Rig::new(config);
    let Rig { platform, engine } = &mut rig;
    let refused = engine.create_domain(platform, &[edu(), other()]);
    assert_eq!(refused, Err(EngineError::IncompatibleDomain(other(), Mismatch::Depth)));
    assert_eq!(engine.create_domain(platform, &[]), Err(EngineError::NoDevice));
    rig.check();
}

fn r2_what_two_units_know_is_gone_when_both_have_confirmed(vendor: Vendor) {
    let mut rig = Rig::new(vendor.two_units());
    slow_down(&mut rig.platform.machine_mut(), Takes::After(1_000_000));
    let domain = rig.attach(edu());
    let Rig { platform, engine } = &mut rig;
    let attached = engine.attach(platform, other(), domain).unwrap();
    rig.finish(&attached);
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), b"shared.!").unwrap();
    let mut seen = [0; 8];
    rig.platform.machine_mut().dma_read(other(), iova.get(), &mut seen).unwrap();
    assert_eq!(&seen, b"shared.!");
    let Rig { platform, engine } = &mut rig;
    let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
    // One has forgotten, the other has not.
    assert!(rig.write(iova.get(), &[1; 8]).is_err());
    assert_eq!(rig.engine.progress(&unmapped), Progress::Pending);
    assert_eq!(rig.engine.retired(), 1);
    rig.finish(&unmapped);
    assert!(rig.platform.machine_mut().dma_read(other(), iova.get(), &mut seen).is_err());
    rig.check();
}

#[test]
fn r6_without_zero_length_reads_a_readable_page_is_still_not_writable() {
    let unit = VtdConfig { zero_length_read: false, ..VtdConfig::default() };
    let mut rig = Rig::new(MachineConfig::with_unit(unit));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::Read).get();
    assert!(rig.write(iova, &[1; 8]).is_err());
    assert!(rig.read(iova, 8).is_ok());
    rig.check();
}

/// Puts a request that means nothing where the next would go.
fn spoil(rig: &mut Rig, vendor: Vendor) {
    let (bytes, base, place) = match vendor {
        Vendor::Vtd => (0x1000, 0x90, 0x88),
        Vendor::Amdvi => (0x4000, 0x08, 0x2008),
    };
    let window = rig.platform.map_registers(PhysAddr::new(vendor.base()), bytes).unwrap();
    let queue = PhysAddr::new(rig.platform.read64(window, base) & 0x000f_ffff_ffff_f000);
    let tail = rig.platform.read64(window, place);
    let word = (tail / 8) as usize;
    rig.platform.table(queue).unwrap()[word].store(0xf, std::sync::atomic::Ordering::SeqCst);
    rig.platform.write64(window, place, tail + 16);
}

#[test]
fn r5_a_queue_that_stops_at_an_error_is_noticed_and_its_devices_are_cut_off() {
    let mut rig = Rig::new(Vendor::Vtd.machine());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    spoil(&mut rig, Vendor::Vtd);
    let Rig { platform, engine } = &mut rig;
    let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.engine.progress(&unmapped), Progress::Failed);
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::QueueStopped));
    assert_eq!(rig.platform.config_read(edu(), 4) & 4, 0, "bus mastering is off");
}

#[test]
fn r2_a_buffer_that_stops_at_an_error_is_started_anew_and_what_was_asked_for_is_done() {
    for unit in [
        AmdviConfig::default(),
        AmdviConfig { extended_features: false, ..AmdviConfig::default() },
        AmdviConfig { np_cache: true, ..AmdviConfig::default() },
    ] {
        let mut rig = Rig::new(MachineConfig::with_amdvi(unit));
        let domain = rig.attach(edu());
        let run = rig.run(4096);
        let iovas = [(); 3].map(|()| rig.map(domain, run, 4096, Access::ReadWrite));
        for iova in iovas {
            rig.write(iova.get(), &[1; 8]).unwrap();
        }
        rig.unmap(domain, iovas[0], 4096);
        rig.faults();
        spoil(&mut rig, Vendor::Amdvi);
        let Rig { platform, engine } = &mut rig;
        let unmapped = engine.unmap(platform, domain, iovas[1], 4096).unwrap();
        assert_eq!(engine.progress(&unmapped), Progress::Pending);
        assert_eq!(
            rig.write(iovas[1].get(), &[2; 8]),
            Ok(()),
            "not forgotten yet, and not said to be"
        );
        rig.finish(&unmapped);
        assert!(rig.write(iovas[1].get(), &[2; 8]).is_err());
        assert_eq!(rig.unit_state(0), UnitState::Running);
        let (faults, _) = rig.faults();
        assert_eq!((faults[0].reason, faults[0].device), (FaultReason::Command, None));
        // It goes on as before.
        rig.write(iovas[2].get(), &[2; 8]).unwrap();
        rig.unmap(domain, iovas[2], 4096);
        assert!(rig.write(iovas[2].get(), &[2; 8]).is_err());
        rig.check();
    }
}

#[test]
fn r5_a_buffer_that_stops_again_is_given_up_and_its_devices_are_cut_off() {
    let unit = AmdviConfig { stop_after: Some(100), ..AmdviConfig::default() };
    let mut rig = Rig::new(MachineConfig::with_amdvi(unit));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let (unmapped, iova) = loop {
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        rig.write(iova.get(), &[1; 8]).unwrap();
        let Rig { platform, engine } = &mut rig;
        let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
        if engine.progress(&unmapped) != Progress::Done {
            break (unmapped, iova);
        }
    };
    rig.pass(Duration::from_millis(1));
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.engine.progress(&unmapped), Progress::Failed);
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::QueueStopped));
    assert_eq!(rig.platform.config_read(edu(), 4) & 4, 0, "bus mastering is off");
    // What it may still hold is never anybody else's.
    for _ in 0..10 {
        rig.pass(Duration::from_secs(10));
    }
    assert!(rig.engine.retired() > 0);
    rig.platform.config_write(edu(), 4, 6);
    let _ = rig.write(iova.get(), &[2; 8]);
    rig.check();
}

fn r5_a_unit_that_vanishes_while_it_starts_is_given_up(vendor: Vendor) {
    let mut rig = Rig::started(slow_at_all(vendor.machine(), Takes::After(50_000_000)));
    rig.platform.machine_mut().set_health(0, Health::AllOnes);
    rig.settle();
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::Vanished));
    assert_eq!(rig.platform.config_read(edu(), 4) & 4, 0, "bus mastering is off");
}

fn r5_a_unit_that_vanishes_while_it_forgets_is_given_up(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    slow_down(&mut rig.platform.machine_mut(), Takes::After(50_000_000));
    let Rig { platform, engine } = &mut rig;
    let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
    rig.platform.machine_mut().set_health(0, Health::AllOnes);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::Vanished));
    assert_eq!(rig.engine.progress(&unmapped), Progress::Failed);
    assert_eq!(rig.platform.config_read(edu(), 4) & 4, 0, "bus mastering is off");
}

fn r1_a_group_that_cannot_be_attached_whole_reaches_nothing(vendor: Vendor) {
    let card = at("21:01.0");
    let record = UnitRecord {
        base: PhysAddr::new(0x1000),
        segment: 0,
        root: UnitRoot::Table(PhysAddr::new(0x2000)),
    };
    let mut refused = 0;
    // Wherever in the ledger its frame ends, and with it the memory for more.
    for written in 0..32 {
        let mut rig = Rig::new(vendor.machine().with_pci_bridge());
        // So that the unit has all the tables that it needs.
        rig.attach(card);
        rig.detach(card);
        let Rig { platform, engine } = &mut rig;
        let domain = engine.create_domain(platform, &[card]).unwrap();
        let iova = rig.page(domain);
        let Rig { platform, engine } = &mut rig;
        for _ in 0..written {
            engine.write_record(platform, &record).unwrap();
        }
        platform.limit_frames(0);
        if engine.attach(platform, card, domain).is_ok() {
            continue;
        }
        refused += 1;
        rig.pass(Duration::from_millis(1));
        assert!(!rig.reaches(card, iova), "{written}");
        let Rig { platform, engine } = &mut rig;
        engine.destroy_domain(platform, domain).unwrap();
        rig.pass(Duration::from_millis(1));
        assert!(!rig.reaches(card, iova), "{written}");
        rig.check();
    }
    assert!(refused > 0);
}

fn r2_tables_of_a_group_that_was_attached_in_part_outlast_what_its_unit_holds(vendor: Vendor) {
    let card = at("21:01.0");
    let record = UnitRecord {
        base: PhysAddr::new(0x1000),
        segment: 0,
        root: UnitRoot::Table(PhysAddr::new(0x2000)),
    };
    let mut in_part = 0;
    // Wherever in the ledger its frame ends: with some requesters attached, and some not.
    for written in 0..32 {
        let mut rig = Rig::new(vendor.machine().with_pci_bridge());
        rig.attach(card);
        rig.detach(card);
        let Rig { platform, engine } = &mut rig;
        let domain = engine.create_domain(platform, &[card]).unwrap();
        for _ in 0..written {
            engine.write_record(platform, &record).unwrap();
        }
        platform.limit_frames(0);
        slow_down(&mut platform.machine_mut(), Takes::After(1_000_000));
        if engine.attach(platform, card, domain).is_ok() {
            continue;
        }
        // The domain's id waits, just when the unit has something to forget.
        let pending = engine.retired() > 0;
        in_part += usize::from(pending);
        let frames = platform.usage().live_frames;
        engine.destroy_domain(platform, domain).unwrap();
        if pending {
            assert_eq!(platform.usage().live_frames, frames, "{written}");
        }
        rig.pass(Duration::from_millis(20));
        assert_eq!(rig.engine.retired(), 0, "{written}");
        assert!(rig.platform.usage().live_frames < frames, "{written}");
        rig.check();
    }
    assert!(in_part > 0);
}
