//! Which unit is in front of which device: the hardware and the engine are of one mind.

use iommu_sim::MachineConfig;
use iommu_sim::machine::{BridgeConfig, EduConfig};
use iommu_sim::pci::BridgeKind;

use super::traffic::{APART, at};
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    a_scope_is_followed_through_bridges_by_its_path,
    a_scope_that_names_a_bridge_is_for_all_behind_it_and_for_no_more,
    the_nearest_of_two_scopes_counts,
    r1_what_is_plugged_in_behind_a_bridge_is_confined_by_the_bridges_unit,
}

/// Units in front of functions, as both sides see it.
fn assert_units(rig: &mut Rig, expected: &[(&str, u16)]) {
    rig.blamed();
    for (device, unit) in expected {
        let device = at(device);
        assert_eq!(rig.unit_of(device), Some(*unit), "{device}");
        assert!(rig.write_from(device, 0x1_0000_0000).is_err());
        // Without any bridge to PCI in between, they sign as themselves.
        assert_eq!(rig.blamed(), [(*unit, device)]);
        let domain = rig.attach(device);
        let page = rig.page(domain);
        assert!(rig.reaches(device, page), "{device}");
        rig.detach(device);
        assert!(!rig.reaches(device, page), "{device}");
        rig.blamed();
    }
    rig.check();
}

fn a_scope_is_followed_through_bridges_by_its_path(vendor: Vendor) {
    let config = vendor.with_unit_for(vendor.machine().with_switch(APART), &[at("12:00.0")]);
    let mut rig = Rig::new(config);
    assert_units(&mut rig, &[("12:00.0", 0), ("13:00.0", 1), ("00:02.0", 1)]);
}

fn a_scope_that_names_a_bridge_is_for_all_behind_it_and_for_no_more(vendor: Vendor) {
    let machine = vendor.machine().with_switch(APART).with_root_port();
    let mut rig = Rig::new(vendor.with_unit_for(machine, &[at("00:04.0")]));
    assert_units(&mut rig, &[("12:00.0", 0), ("13:00.0", 0), ("01:00.0", 1), ("00:02.0", 1)]);
}

fn the_nearest_of_two_scopes_counts(vendor: Vendor) {
    // The root port's unit has all behind it, but for what a port of the switch has.
    let machine = vendor.machine().with_switch(APART);
    let machine = vendor.with_unit_for(machine, &[at("11:00.0")]);
    let mut rig = Rig::new(vendor.with_unit_for(machine, &[at("00:04.0")]));
    assert_units(&mut rig, &[("12:00.0", 0), ("13:00.0", 1), ("00:02.0", 2)]);
}

#[test]
fn the_unit_for_all_the_rest_comes_last_wherever_the_table_has_it() {
    let machine = MachineConfig::default().with_switch(APART);
    let machine = Vendor::Vtd.with_unit_for(machine, &[at("00:04.0")]);
    let (mut rig, table) = Rig::told(machine, |table| table.parts.reverse());
    let told = format!(
        "DMAR offset {:#x}: this unit covers what no other names in its segment and is not the last; it counts as the last",
        table.offset(0)
    );
    assert_eq!(rig.oddities(), [told]);
    assert_units(&mut rig, &[("12:00.0", 1), ("13:00.0", 1), ("00:02.0", 0)]);
}

fn r1_what_is_plugged_in_behind_a_bridge_is_confined_by_the_bridges_unit(vendor: Vendor) {
    let machine = vendor.machine().with_switch(APART);
    let mut rig = Rig::new(vendor.with_unit_for(machine, &[at("00:04.0")]));
    let held = rig.attach(edu());
    let page = rig.page(held);
    // A card with a bridge to PCI, and so with a bus of its own that was not there.
    let (card, signed) = (at("15:01.0"), at("15:00.0"));
    let bridge = BridgeConfig {
        address: at("14:00.0"),
        kind: BridgeKind::ExpressToPci,
        secondary: 0x15,
        subordinate: 0x15,
        acs: None,
    };
    rig.platform.machine_mut().plug_bridge(bridge);
    rig.platform.machine_mut().plug_edu(EduConfig::new(card, 0xfec0_0000));
    rig.drive(card);
    assert!(!rig.reaches(card, page));
    assert_eq!(rig.blamed(), [(0, signed), (0, signed)]);
    rig.engine.rescan(&mut rig.platform);
    assert_eq!((rig.unit_of(card), rig.oddities()), (Some(0), vec![]));
    assert_eq!(rig.group_of(card), [at("14:00.0"), card]);
    assert!(!rig.reaches(card, page), "it is known, and nobody has opened it");
    let domain = rig.attach(card);
    let own = rig.page(domain);
    assert!(rig.reaches(card, own) && rig.reaches(edu(), page));
    rig.detach(card);
    assert!(!rig.reaches(card, own));
    rig.check();
}
