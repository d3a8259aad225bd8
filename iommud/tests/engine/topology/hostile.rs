//! Firmware and bridges that make no sense (R5): nothing hangs, nobody is let through, and the sound rest works.

use std::collections::BTreeSet;

use dma_types::{PciAddress, SourceId};
use iommu_engine::machine::Remark;
use iommu_engine::platform::ConfigSpace;
use iommu_engine::policy::{Devices, Policy, Rule, Unopened};
use iommu_sim::MachineConfig;
use iommu_sim::machine::{BridgeConfig, EduConfig, FunctionConfig};
use iommu_sim::pci::BridgeKind;
use iommud::platform::sim::memory::FIRMWARE;
use proptest::prelude::*;

use super::traffic::{APART, at};
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    functions_that_are_not_there_have_units_and_memory_and_do_no_harm,
    r1_bridges_in_a_ring_end_and_let_nobody_through,
    r1_bridges_that_lead_to_one_bus_are_one,
    r1_another_device_in_an_old_place_is_what_it_is,
    a_rule_for_a_part_of_a_group_is_said_to_be_without_effect,
    r1_what_joins_a_group_that_was_trusted_ends_the_trust,
    r1_another_device_in_a_held_place_signs_as_it_does,
}

/// That a driver has edu, and works.
fn hold(rig: &mut Rig) -> u64 {
    let domain = rig.attach(edu());
    let page = rig.page(domain);
    assert!(rig.reaches(edu(), page));
    page
}

fn functions_that_are_not_there_have_units_and_memory_and_do_no_harm(vendor: Vendor) {
    let machine = vendor.machine().with_reserved(0x7d00_0000, 0x7d00_3fff, &[at("00:1d.0")]);
    let machine = vendor.with_unit_for(machine, &[at("00:1d.0"), at("00:1d.7"), at("00:08.3")]);
    let mut rig = Rig::new(machine);
    // An empty slot is no mistake.
    assert_eq!(rig.oddities(), [""; 0]);
    hold(&mut rig);
    assert!(rig.engine.device(at("00:1d.0")).is_none());
    rig.check();
}

#[test]
fn a_scope_through_what_is_no_bridge_is_told_and_is_for_nobody() {
    let machine = MachineConfig::default().with_switch(APART);
    let machine = Vendor::Vtd.with_unit_for(machine, &[at("12:00.0")]);
    let (mut rig, table) = Rig::told(machine, |table| {
        // The first step of the first scope's path: edu.
        table.parts[0][16 + 6..16 + 8].copy_from_slice(&[2, 0]);
    });
    let said = format!(
        "DMAR offset {:#x}: the device scope \"endpoint 00:02.0/00.0/00.0/00.0\" leads nowhere: its path goes through 0000:00:02.0, which is no working bridge",
        table.offset(0)
    );
    assert_eq!(rig.oddities(), [said]);
    // The card is still behind the unit that no scope leads to any more, which lets nobody through.
    let page = hold(&mut rig);
    assert!(!rig.reaches(at("12:00.0"), page) && !rig.reaches(at("12:00.0"), FIRMWARE));
    assert!(!rig.reaches(at("13:00.0"), page));
    rig.check();
}

fn r1_bridges_in_a_ring_end_and_let_nobody_through(vendor: Vendor) {
    use BridgeKind::{Conventional, RootPort};
    for kind in [Conventional, RootPort] {
        // 00:08.0 leads to 50h, from where one leads to 51h, and from there one back to 50h, and one to bus 0.
        let mut config = vendor
            .machine()
            .with_bridge(kind, 0x0040, (0x50, 0x51), None)
            .with_bridge(kind, 0x5000, (0x51, 0x51), None)
            .with_bridge(kind, 0x5100, (0x50, 0x51), None)
            .with_bridge(kind, 0x5108, (0x00, 0xff), None)
            .with_bridge(kind, 0x5110, (0x51, 0x40), None);
        config.functions.push(FunctionConfig::conventional(at("51:05.0")));
        config.functions.push(FunctionConfig::conventional(at("50:05.0")));
        let mut rig = Rig::new(config);
        let page = hold(&mut rig);
        for card in [at("51:05.0"), at("50:05.0")] {
            assert!(!rig.reaches(card, page) && !rig.reaches(card, FIRMWARE), "{kind:?} {card}");
            assert!(!rig.group_of(card).contains(&edu()));
        }
        rig.check();
    }
}

fn r1_bridges_that_lead_to_one_bus_are_one(vendor: Vendor) {
    let mut config = vendor
        .machine()
        .with_bridge(BridgeKind::RootPort, 0x0040, (0x50, 0x50), APART)
        .with_bridge(BridgeKind::RootPort, 0x0048, (0x50, 0x50), APART);
    let cards = [at("50:00.0"), at("50:00.1")];
    for address in cards {
        config.functions.push(FunctionConfig { acs: APART, ..FunctionConfig::endpoint(address) });
    }
    let mut rig = Rig::new(config);
    assert_eq!(rig.group_of(cards[0]), [at("00:08.0"), at("00:09.0"), cards[0], cards[1]]);
    let domain = rig.attach(cards[0]);
    let page = rig.page(domain);
    assert!(rig.reaches(cards[1], page) && !rig.reaches(edu(), page));
    rig.check();
}

fn r1_another_device_in_an_old_place_is_what_it_is(vendor: Vendor) {
    // Whatever is an edu is trusted, and nothing else.
    let trusted = Rule {
        unopened: Some(Unopened::Identity),
        ..Rule::new(Devices::Id { vendor: 0x1234, device: 0x11e8 })
    };
    let policy = Policy { rules: vec![trusted], ..Policy::default() };
    let mut rig = Rig::with_policy(vendor.machine(), policy);
    assert!(rig.reaches(edu(), FIRMWARE));
    rig.platform.machine_mut().unplug(edu());
    rig.platform.machine_mut().plug(FunctionConfig::endpoint(edu()));
    rig.drive(edu());
    rig.engine.rescan(&mut rig.platform);
    rig.pass(std::time::Duration::from_millis(1));
    assert!(!rig.reaches(edu(), FIRMWARE));
    assert_eq!(rig.engine.device(edu()).unwrap().function.vendor, 0x10ec);
    // And back.
    rig.platform.machine_mut().unplug(edu());
    rig.platform.machine_mut().plug_edu(EduConfig::new(edu(), 0xfea0_0000));
    rig.drive(edu());
    rig.engine.rescan(&mut rig.platform);
    rig.pass(std::time::Duration::from_millis(1));
    assert!(rig.reaches(edu(), FIRMWARE));
    rig.check();
}

fn a_rule_for_a_part_of_a_group_is_said_to_be_without_effect(vendor: Vendor) {
    let trusted = at("21:01.0");
    let rule = Rule { unopened: Some(Unopened::Identity), ..Rule::new(Devices::At(trusted)) };
    let policy = Policy { rules: vec![rule], ..Policy::default() };
    let rig = Rig::with_policy(vendor.machine().with_pci_bridge(), policy);
    assert!(!rig.reaches(trusted, FIRMWARE));
    let of_it = |remark: &&Remark| matches!(remark, Remark::StaysConfined { .. });
    let said: Vec<_> = rig.engine.remarks().iter().filter(of_it).collect();
    assert!(matches!(said[..], [Remark::StaysConfined { address, with }]
        if *address == trusted && rig.group_of(trusted).contains(with) && *with != trusted));
}

fn r1_what_joins_a_group_that_was_trusted_ends_the_trust(vendor: Vendor) {
    let (trusted, newcomer) = (at("21:01.0"), at("21:05.0"));
    let rules = [trusted, at("21:02.0"), at("22:00.0")].map(|device| Rule {
        unopened: Some(Unopened::Identity),
        ..Rule::new(Devices::At(device))
    });
    for held in [false, true] {
        let policy = Policy { rules: rules.to_vec(), ..Policy::default() };
        let mut rig = Rig::with_policy(vendor.machine().with_pci_bridge(), policy);
        assert!(rig.reaches(trusted, FIRMWARE));
        if held {
            rig.attach(trusted);
        }
        rig.platform.machine_mut().plug_edu(EduConfig::new(newcomer, 0xfec0_0000));
        rig.drive(newcomer);
        rig.engine.rescan(&mut rig.platform);
        if held {
            rig.detach(trusted);
        }
        rig.pass(std::time::Duration::from_millis(1));
        assert!(!rig.reaches(newcomer, FIRMWARE) && !rig.reaches(trusted, FIRMWARE));
        assert!(!rig.engine.reaches_everything(trusted));
        rig.check();
    }
}

fn r1_another_device_in_a_held_place_signs_as_it_does(vendor: Vendor) {
    let (card, quirky) = (at("00:07.0"), at("00:07.1"));
    let mut config = vendor.machine();
    config.functions.push(FunctionConfig::endpoint(card));
    let mut rig = Rig::new(config);
    let domain = rig.attach(card);
    let page = rig.page(domain);
    rig.platform.machine_mut().unplug(card);
    rig.platform.machine_mut().plug(FunctionConfig {
        identity: (0x1b4b, 0x9123),
        requester: Some(quirky.source()),
        ..FunctionConfig::endpoint(card)
    });
    rig.drive(card);
    rig.engine.rescan(&mut rig.platform);
    // Its group is held, and it is of that group however it signs.
    assert!(rig.reaches(card, page));
    rig.detach(card);
    assert!(!rig.reaches(card, page));
    let domain = rig.attach(card);
    let page = rig.page(domain);
    assert!(rig.reaches(card, page));
    rig.check();
}

/// A bridge with registers of any content, and cards behind it, perhaps.
fn bridge() -> impl Strategy<Value = (u8, BridgeKind, u8, u8, u8, bool)> {
    use BridgeKind::*;
    let kind = prop::sample::select(vec![
        RootPort,
        SwitchUpstream,
        SwitchDownstream,
        ExpressToPci,
        Conventional,
    ]);
    (0..6u8, kind, 0..4u8, 0..7u8, 0..7u8, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn r1_r5_whatever_bridges_say_the_engine_starts_and_what_is_held_is_held_from_others(
        amdvi in any::<bool>(),
        bridges in prop::collection::vec(bridge(), 0..8),
        cards in prop::collection::vec((0..6u8, 8..12u8, any::<bool>()), 0..8),
        late in prop::collection::vec(bridge(), 0..3),
    ) {
        let vendor = if amdvi { Vendor::Amdvi } else { Vendor::Vtd };
        let mut config = vendor.machine();
        let mut taken = BTreeSet::from([edu(), at("00:00.0"), at("00:00.2")]);
        let mut bridges_at = |list: Vec<(u8, BridgeKind, u8, u8, u8, bool)>| -> Vec<_> {
            let configs = list.into_iter().filter_map(|(bus, kind, device, secondary, subordinate, acs)| {
                let address = PciAddress::new(0, bus, device + 4, 0)?;
                let acs = APART.filter(|_| acs);
                taken.insert(address)
                    .then_some(BridgeConfig { address, kind, secondary, subordinate, acs })
            });
            configs.collect()
        };
        config.bridges = bridges_at(bridges);
        let late = bridges_at(late);
        let mut functions = Vec::new();
        for (bus, device, express) in cards {
            let address = PciAddress::new(0, bus, device, 0).unwrap();
            if taken.insert(address) {
                functions.push(address);
                config.functions.push(match express {
                    true => FunctionConfig::endpoint(address),
                    false => FunctionConfig::conventional(address),
                });
            }
        }
        let mut rig = Rig::new(config);
        let page = hold(&mut rig);
        let others = |rig: &mut Rig| {
            for card in &functions {
                rig.platform.config_write(*card, 4, 6);
                let held = rig.engine.group(edu()).unwrap().members().contains(card);
                let reached = rig.write_from(*card, page).is_ok();
                // The hardware signs with some id; whose group it is in, by the engine, decides.
                let signed = rig.platform.machine().requester(*card);
                let signed = PciAddress::from_source(0, SourceId::new(signed.get()));
                prop_assert!(!reached || held || signed == edu(), "{card} {signed}");
            }
            Ok(())
        };
        others(&mut rig)?;
        for bridge in late {
            rig.platform.machine_mut().plug_bridge(bridge);
        }
        rig.engine.rescan(&mut rig.platform);
        others(&mut rig)?;
        prop_assert!(rig.reaches(edu(), page));
        rig.detach(edu());
        prop_assert!(!rig.reaches(edu(), page));
        rig.check();
    }
}
