//! Units that stop, vanish or do not match, and domains over several of them.

use std::time::Duration;

use dma_types::{Access, PciAddress, PhysAddr};
use iommu_engine::completion::Progress;
use iommu_engine::error::EngineError;
use iommu_engine::platform::{ConfigSpace, Registers, TableFrames};
use iommu_engine::unit::{Mismatch, UnitFailure, UnitState};
use iommu_sim::MachineConfig;
use iommu_sim::machine::UnitScope;
use iommu_sim::vtd::{Completion as Takes, Health, Timing, VtdConfig};

use crate::rig::{Rig, edu};

/// The edu behind the root port.
fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

/// A machine with a unit of its own for the edu behind the root port, first in the table.
fn two_units(second: VtdConfig) -> MachineConfig {
    let mut config = MachineConfig::default().with_root_port();
    let mut unit = config.units[0].clone();
    unit.base = 0xfed9_1000;
    unit.scope = UnitScope::Devices(vec![other()]);
    unit.vtd = second;
    config.units.insert(0, unit);
    config
}

#[test]
fn a_domain_is_refused_to_a_device_whose_unit_cannot_walk_it() {
    for (what, why, lesser) in lesser_units() {
        let mut rig = Rig::new(two_units(lesser));
        let domain = rig.attach(edu());
        let Rig { platform, engine } = &mut rig;
        let refused = engine.attach(platform, other(), domain);
        assert_eq!(refused, Err(EngineError::IncompatibleDomain(other(), why)), "{what}");
        assert!(rig.platform.machine_mut().dma_read(other(), 0x1_0000_0000, &mut [0; 8]).is_err());
        rig.check();
    }
}

/// Units that lack something that the default one has, and how that is called.
fn lesser_units() -> [(&'static str, Mismatch, VtdConfig); 6] {
    let base = VtdConfig::default;
    [
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
}

#[test]
fn a_domain_made_for_both_has_what_both_units_can_from_its_creation() {
    for (what, _, lesser) in lesser_units() {
        let mut rig = Rig::new(two_units(lesser));
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
    let mut config = two_units(lesser);
    config.units[1].vtd.levels = vec![4];
    let mut rig = Rig::new(config);
    let Rig { platform, engine } = &mut rig;
    let refused = engine.create_domain(platform, &[edu(), other()]);
    assert_eq!(refused, Err(EngineError::IncompatibleDomain(other(), Mismatch::Depth)));
    assert_eq!(engine.create_domain(platform, &[]), Err(EngineError::NoDevice));
    rig.check();
}

#[test]
fn r2_what_two_units_know_is_gone_when_both_have_confirmed() {
    let takes = Takes::After(1_000_000);
    let timing = Timing { queue: takes, ..Timing::default() };
    let mut rig = Rig::new(two_units(VtdConfig { timing, ..VtdConfig::default() }));
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
    let mut rig = Rig::with_unit(VtdConfig { zero_length_read: false, ..VtdConfig::default() });
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::Read).get();
    assert!(rig.write(iova, &[1; 8]).is_err());
    assert!(rig.read(iova, 8).is_ok());
    rig.check();
}

#[test]
fn r5_a_queue_that_stops_at_an_error_is_noticed_and_its_devices_are_cut_off() {
    let mut rig = Rig::new(MachineConfig::default());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    // A descriptor that means nothing, put in by hand where the next would go.
    let window = rig.platform.map_registers(PhysAddr::new(0xfed9_0000), 4096).unwrap();
    let queue = PhysAddr::new(rig.platform.read64(window, 0x90) & !0xfff);
    let tail = rig.platform.read64(window, 0x88);
    let word = (tail / 8) as usize;
    rig.platform.table(queue).unwrap()[word].store(0xf, std::sync::atomic::Ordering::SeqCst);
    rig.platform.write64(window, 0x88, tail + 16);
    let Rig { platform, engine } = &mut rig;
    let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.engine.progress(&unmapped), Progress::Failed);
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::QueueStopped));
    assert_eq!(rig.platform.config_read(edu(), 4) & 4, 0, "bus mastering is off");
}

#[test]
fn r5_a_unit_that_vanishes_while_it_starts_is_given_up() {
    let timing = Timing { commands: Takes::After(50_000_000), ..Timing::default() };
    let unit = VtdConfig { timing, ..VtdConfig::default() };
    let mut rig = Rig::started(MachineConfig::with_unit(unit));
    rig.platform.machine_mut().unit_mut(0).unwrap().set_health(Health::AllOnes);
    rig.settle();
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::Vanished));
    assert_eq!(rig.platform.config_read(edu(), 4) & 4, 0, "bus mastering is off");
}
