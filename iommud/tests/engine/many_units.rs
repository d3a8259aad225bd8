//! Machines with many units: each comes up for itself, and stands for its own devices alone.

use std::time::Duration;

use dma_types::{PciAddress, PhysAddr, SourceId};
use iommu_engine::error::EngineError;
use iommu_engine::policy::{IgnoredUnit, Policy};
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_sim::amdvi::AmdviTiming;
use iommu_sim::machine::{AmdviUnitConfig, EduConfig, FunctionConfig, UnitConfig, UnitScope};
use iommu_sim::pace::{Completion as Takes, Health};
use iommu_sim::pci::BridgeKind;
use iommu_sim::vtd::Timing;
use iommu_sim::{MachineConfig, Memory};
use iommud::platform::sim::SimPlatform;
use iommud::platform::sim::memory::FIRMWARE;

use crate::rig::{Rig, edu};
use crate::topology::traffic::{APART, at};
use crate::vendor::{Vendor, slow_at_all, slow_down};

both! {
    seventeen_units_come_up_and_each_tells_its_own_faults,
    units_that_are_dead_or_stuck_hold_up_no_others,
    a_unit_that_stops_later_takes_only_its_own_devices_with_it,
    what_one_unit_has_to_forget_waits_for_no_other,
    each_segment_has_its_own_unit_and_its_own_devices_of_the_same_number,
    a_unit_that_the_policy_leaves_alone_is_not_touched,
    r5_a_unit_of_which_firmware_talks_nonsense_is_left_out_with_its_place_and_reason,
    r1_several_units_are_taken_over_from_a_boot_loader,
}

/// The card that has a unit of its own, and its number.
pub(crate) fn card(unit: u16) -> PciAddress {
    PciAddress::from_source(0, SourceId::new((0x40 + unit) << 8))
}

/// A machine with this many units: each but the last has a root port with a card, the last has the rest.
pub(crate) fn units(vendor: Vendor, count: u16) -> MachineConfig {
    let mut config = vendor.machine();
    for unit in 0..count - 1 {
        let port = 0x40 + 8 * unit;
        let bus = 0x40 + unit as u8;
        config = config.with_bridge(BridgeKind::RootPort, port, (bus, bus), APART);
        config.functions.push(FunctionConfig::endpoint(card(unit)));
        let port = PciAddress::from_source(0, SourceId::new(port));
        config = vendor.with_unit_for(config, &[port]);
    }
    config
}

/// Makes a unit answer like this, or take so long over anything.
fn hobble(config: &mut MachineConfig, unit: usize, health: Health, takes: Takes) {
    if let Some(unit) = config.units.get_mut(unit) {
        unit.vtd.health = health;
        unit.vtd.timing = Timing { commands: takes, registers: takes, queue: takes };
    } else {
        let amdvi = &mut config.amdvi_units[unit].amdvi;
        amdvi.health = health;
        amdvi.timing = AmdviTiming { commands: takes, stop: takes, ..amdvi.timing };
    }
}

fn seventeen_units_come_up_and_each_tells_its_own_faults(vendor: Vendor) {
    let mut rig = Rig::new(units(vendor, 17));
    assert_eq!(rig.engine.units().len(), 17);
    let devices: Vec<_> = (0..16).map(card).chain([edu()]).collect();
    let mut pages = Vec::new();
    for (unit, device) in (0..).zip(&devices) {
        assert_eq!(rig.unit_state(unit), UnitState::Running);
        assert!(rig.platform.machine().is_translating(unit));
        assert!(rig.write_from(*device, 0x1_0000_0000).is_err());
        assert_eq!(rig.blamed(), [(unit as u16, *device)]);
        let domain = rig.attach(*device);
        rig.page(domain);
        pages.push(rig.page(domain));
    }
    // One address in seventeen domains: whoever is detached loses it, and nobody else.
    assert!(pages.iter().all(|page| *page == pages[0]));
    for (gone, device) in devices.iter().enumerate() {
        rig.detach(*device);
        for (index, device) in devices.iter().enumerate() {
            assert_eq!(rig.reaches(*device, pages[0]), index > gone, "{device} after {gone}");
        }
    }
    rig.check();
}

fn units_that_are_dead_or_stuck_hold_up_no_others(vendor: Vendor) {
    let mut config = units(vendor, 17);
    hobble(&mut config, 3, Health::AllOnes, Takes::Immediate);
    hobble(&mut config, 4, Health::AllZeroes, Takes::Immediate);
    hobble(&mut config, 5, Health::Working, Takes::Never);
    let mut rig = Rig::started(config);
    rig.pass(Duration::from_millis(1));
    // The stuck one is still being waited for; the others work.
    assert!(!rig.engine.is_settled());
    for unit in (0..17).filter(|unit| ![3, 4, 5].contains(unit)) {
        assert_eq!(rig.unit_state(unit), UnitState::Running, "{unit}");
    }
    let domain = rig.attach(card(2));
    let page = rig.page(domain);
    assert!(rig.reaches(card(2), page));
    rig.settle();
    let state = rig.unit_state(5);
    assert!(matches!(state, UnitState::Failed(UnitFailure::StartTimedOut { .. })), "{state:?}");
    for unit in 3..6 {
        let Rig { platform, engine } = &mut rig;
        let refused = engine.create_domain(platform, &[card(unit)]);
        assert_eq!(refused, Err(EngineError::UnitNotWorking(card(unit))));
    }
    assert!(rig.reaches(card(2), page));
}

fn a_unit_that_stops_later_takes_only_its_own_devices_with_it(vendor: Vendor) {
    let mut rig = Rig::new(units(vendor, 4));
    let domains: Vec<_> = (0..3).map(|unit| rig.attach(card(unit))).collect();
    let pages: Vec<_> = domains.iter().map(|domain| rig.page(*domain)).collect();
    rig.platform.machine_mut().set_health(1, Health::AllOnes);
    // It is asked something, and does not answer.
    let Rig { platform, engine } = &mut rig;
    engine.detach(platform, card(1)).unwrap();
    for _ in 0..20 {
        rig.pass(Duration::from_millis(100));
    }
    assert!(matches!(rig.unit_state(1), UnitState::Failed(_)));
    for unit in [0, 2] {
        assert!(rig.reaches(card(unit), pages[usize::from(unit)]), "{unit}");
        let page = rig.page(domains[usize::from(unit)]);
        assert!(rig.reaches(card(unit), page));
        rig.detach(card(unit));
        assert!(!rig.reaches(card(unit), page));
    }
    assert!(rig.unit_state(0) == UnitState::Running && rig.unit_state(3) == UnitState::Running);
}

fn what_one_unit_has_to_forget_waits_for_no_other(vendor: Vendor) {
    let mut rig = Rig::new(units(vendor, 3));
    let (slow, quick) = (rig.attach(card(0)), rig.attach(card(1)));
    let (run, other) = (rig.run(4096), rig.run(4096));
    let access = dma_types::Access::ReadWrite;
    let (stuck, page) = (rig.map(slow, run, 4096, access), rig.map(quick, other, 4096, access));
    assert!(rig.reaches(card(0), stuck.get()) && rig.reaches(card(1), page.get()));
    slow_down(&mut rig.platform.machine_mut(), Takes::After(500_000_000));
    let Rig { platform, engine } = &mut rig;
    let waited_for = engine.unmap(platform, slow, stuck, 4096).unwrap();
    rig.unmap(quick, page, 4096);
    assert!(!rig.reaches(card(1), page.get()));
    let progress = rig.engine.progress(&waited_for);
    assert_eq!(progress, iommu_engine::completion::Progress::Pending);
    for _ in 0..10 {
        rig.pass(Duration::from_millis(100));
    }
    rig.finish(&waited_for);
    assert!(!rig.reaches(card(0), stuck.get()));
    rig.check();
}

/// The machine with two more segments, each with a unit for all of it and a card at 00:02.0, and more at
/// 00:03.0.
fn three_segments(vendor: Vendor) -> MachineConfig {
    let mut config = vendor.machine();
    for segment in [1, 2] {
        let function = |source| PciAddress::from_source(segment, SourceId::new(source));
        let base = 0xfe00_0000 + 0x1_0000 * u64::from(segment);
        match vendor {
            Vendor::Vtd => {
                let first = config.units[0].clone();
                config.units.push(UnitConfig { base, segment, ..first });
            }
            Vendor::Amdvi => {
                let first = config.amdvi_units[0].clone();
                let unit = AmdviUnitConfig { base, function: function(2), io_apic: None, ..first };
                config.amdvi_units.push(unit);
            }
        }
        for card in [0x10, 0x18] {
            config.functions.push(FunctionConfig::endpoint(function(card)));
        }
    }
    config
}

fn each_segment_has_its_own_unit_and_its_own_devices_of_the_same_number(vendor: Vendor) {
    let mut rig = Rig::new(three_segments(vendor));
    let devices = ["0000:00:02.0", "0001:00:02.0", "0002:00:02.0"].map(at);
    for (unit, device) in (0..).zip(devices) {
        assert_eq!(rig.unit_of(device), Some(unit));
        assert!(rig.write_from(device, 0x1_0000_0000).is_err());
        assert_eq!(rig.blamed(), [(unit, device)]);
    }
    let domain = rig.attach(devices[1]);
    let page = rig.page(domain);
    assert_eq!(devices.map(|device| rig.reaches(device, page)), [false, true, false]);
    assert!(!rig.reaches(at("0001:00:03.0"), page));
    let shared = rig.engine.create_domain(&mut rig.platform, &[devices[0], devices[2]]).unwrap();
    rig.attach_to(devices[0], shared);
    rig.attach_to(devices[2], shared);
    rig.page(shared);
    let page = rig.page(shared);
    assert_eq!(devices.map(|device| rig.reaches(device, page)), [true, false, true]);
    rig.detach(devices[0]);
    assert_eq!(devices.map(|device| rig.reaches(device, page)), [false, false, true]);
    rig.check();
}

fn a_unit_that_the_policy_leaves_alone_is_not_touched(vendor: Vendor) {
    let config = units(vendor, 3);
    let bases: Vec<_> = match vendor {
        Vendor::Vtd => config.units.iter().map(|unit| PhysAddr::new(unit.base)).collect(),
        Vendor::Amdvi => config.amdvi_units.iter().map(|unit| PhysAddr::new(unit.base)).collect(),
    };
    let reason = "its firmware hangs".to_string();
    let ignored_units = vec![IgnoredUnit { base: bases[1], reason }];
    let mut rig = Rig::with_policy(config, Policy { ignored_units, ..Policy::default() });
    let touched: Vec<_> = rig.platform.mapped_registers().collect();
    assert_eq!(
        bases.iter().map(|base| touched.contains(base)).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert!(!rig.platform.machine().is_translating(1));
    let why = rig.engine.units()[1].unit.as_ref().unwrap_err().to_string();
    assert_eq!(why, "the policy leaves it alone: its firmware hangs");
    let Rig { platform, engine } = &mut rig;
    let refused = engine.create_domain(platform, &[card(1)]);
    assert_eq!(refused, Err(EngineError::UnitNotWorking(card(1))));
    // It is confined by nobody, and nobody's who is.
    assert_eq!((rig.unit_of(card(1)), rig.unit_of(card(0))), (Some(1), Some(0)));
    assert!(!rig.reaches(card(0), FIRMWARE) && !rig.reaches(edu(), FIRMWARE));
    let domain = rig.attach(card(0));
    let page = rig.page(domain);
    assert!(rig.reaches(card(0), page));
    rig.check();
}

fn r5_a_unit_of_which_firmware_talks_nonsense_is_left_out_with_its_place_and_reason(
    vendor: Vendor,
) {
    let cases = [
        (0u64, "its registers are said to be at address zero"),
        (0xfe01_0010, "its registers are said to be at 0xfe010010, which is not a multiple of"),
        (0xfe00_0000, "its registers at 0xfe000000 are another unit's already"),
    ];
    for (base, reason) in cases {
        let mut broken = 0;
        let (mut rig, table) = Rig::told(units(vendor, 3), |table| {
            // Where the registers are is in bytes 8 to 15 of both vendors' units.
            let second = 0xfe01_0000u64.to_le_bytes();
            broken = table.parts.iter().position(|part| part[8..16] == second).unwrap();
            table.parts[broken][8..16].copy_from_slice(&base.to_le_bytes());
        });
        let place = format!("offset {:#x}: ", table.offset(broken));
        let oddities = rig.oddities();
        let [said] = &oddities[..] else { panic!("{base:#x}: {oddities:?}") };
        assert!(said.contains(&place) && said.contains(reason), "{said}");
        let why = rig.engine.units()[1].unit.as_ref().unwrap_err().to_string();
        assert!(why.contains(reason), "{why}");
        // The unit with all the rest does not stand for its devices.
        let Rig { platform, engine } = &mut rig;
        let refused = engine.create_domain(platform, &[card(1)]);
        assert_eq!(refused, Err(EngineError::UnitNotWorking(card(1))), "{said}");
        for device in [card(0), edu()] {
            let domain = rig.attach(device);
            let page = rig.page(domain);
            assert!(rig.reaches(device, page), "{said}");
        }
        rig.check();
    }
}

fn r1_several_units_are_taken_over_from_a_boot_loader(vendor: Vendor) {
    let config = slow_at_all(units(vendor, 4), Takes::After(1_000_000));
    let platform = SimPlatform::with_manual_clock(config).unwrap();
    {
        let mut machine = platform.machine_mut();
        let frame = |n: u64| FIRMWARE + n * 4096;
        for n in 0..20 {
            machine.memory().write(frame(n), &[0; 4096]);
        }
        match vendor {
            Vendor::Vtd => {
                // Root table, bus 0x41, four levels: the card of unit 1 reaches one page.
                let memory = machine.memory();
                memory.write64(frame(0) + 0x41 * 16, frame(1) | 1);
                memory.write64(frame(1), frame(2) | 1);
                memory.write64(frame(1) + 8, 5 << 8 | 2);
                for n in 2..5 {
                    memory.write64(frame(n), frame(n + 1) | 3);
                }
                memory.write64(frame(5) + 8, frame(6) | 3);
                machine.flush(FIRMWARE, 20 * 4096);
                // The second and the third were on.
                for unit in [1, 2] {
                    machine.unit_mut(unit).unwrap().firmware_left_translation_on(frame(0));
                }
            }
            Vendor::Amdvi => {
                // Device tables of 2 MiB are more than there is room for here: 16 KiB for the buses up to 1, and
                // what is beyond does not pass.
                for unit in [1, 2] {
                    machine.amdvi_mut(unit).unwrap().firmware_left_translation_on(frame(8) | 3);
                }
            }
        }
    }
    let mut rig = Rig::start_on(platform);
    if vendor == Vendor::Vtd {
        assert_eq!(rig.write_from(card(1), 0x1000), Ok(()), "as the boot loader left it");
    }
    while !rig.engine.is_settled() {
        for unit in [1, 2] {
            assert!(rig.write_from(card(unit), FIRMWARE + 0x7000).is_err(), "never is it open");
        }
        rig.pass(Duration::from_micros(100));
    }
    let found: Vec<_> = rig
        .engine
        .units()
        .iter()
        .map(|slot| slot.unit.as_ref().unwrap().found_translating())
        .collect();
    assert_eq!(found, [false, true, true, false]);
    for unit in 0..3 {
        assert_eq!(rig.unit_state(usize::from(unit)), UnitState::Running);
        assert!(rig.write_from(card(unit), 0x1000).is_err());
        let domain = rig.attach(card(unit));
        let page = rig.page(domain);
        assert!(rig.reaches(card(unit), page));
    }
    rig.check();
}

#[test]
fn sixteen_amd_units_in_one_segment_are_in_blocks_of_every_kind() {
    use iommu_sim::machine::IvhdKind::{Acpi, Basic, Extended};
    let mut config = units(Vendor::Amdvi, 16);
    let kinds = [vec![Basic], vec![Basic, Extended], vec![Basic, Acpi], vec![Acpi]];
    for (index, unit) in config.amdvi_units.iter_mut().enumerate() {
        unit.blocks = kinds[index % 4].clone();
    }
    let mut rig = Rig::new(config);
    assert_eq!((rig.engine.units().len(), rig.oddities()), (16, vec![]));
    for unit in 0..15 {
        let device = card(unit);
        assert!(rig.write_from(device, 0x1000).is_err());
        // The order is that of the blocks, which is by kind; the device's is the one that blocks it.
        let blocker = rig.unit_of(device).unwrap();
        assert_eq!(rig.blamed(), [(blocker, device)]);
        let domain = rig.attach(device);
        let page = rig.page(domain);
        assert!(rig.reaches(device, page));
    }
    rig.check();
}

#[test]
fn a_segment_without_a_unit_for_all_the_rest_leaves_what_is_not_named_alone() {
    let mut config = MachineConfig::default();
    config.units[0].scope = UnitScope::Devices(vec![edu()]);
    config.edus.push(EduConfig::new(at("00:08.0"), 0xfec0_0000));
    let mut rig = Rig::new(config);
    let Rig { platform, engine } = &mut rig;
    let refused = engine.create_domain(platform, &[at("00:08.0")]);
    assert_eq!(refused, Err(EngineError::NotCovered(at("00:08.0"))));
    let domain = rig.attach(edu());
    let page = rig.page(domain);
    assert!(rig.reaches(edu(), page));
    rig.check();
}
