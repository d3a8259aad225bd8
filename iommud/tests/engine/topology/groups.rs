//! Devices that no unit can keep apart, and domains over several that units can.

use dma_types::Access;
use iommu_engine::error::EngineError;
use iommu_engine::platform::ConfigSpace;
use iommu_sim::MachineConfig;
use iommu_sim::machine::EduConfig;
use iommu_sim::pci::ExpressKind;

use super::traffic::{APART, at};
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    r1_behind_ports_with_access_control_each_device_is_on_its_own,
    r1_behind_a_switch_without_access_control_devices_are_one,
    r1_functions_of_one_device_without_access_control_are_one,
    r1_ports_are_told_to_keep_devices_apart_and_do,
    a_group_goes_into_one_domain_and_out_with_its_last_member,
    one_domain_is_for_several_groups,
    r7_a_group_that_cannot_be_attached_whole_is_not_attached_at_all,
}

fn r1_behind_ports_with_access_control_each_device_is_on_its_own(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine().with_switch(APART).with_two_functions(APART));
    for (one, other) in [("12:00.0", "13:00.0"), ("00:06.0", "00:06.1")] {
        let (one, other) = (at(one), at(other));
        assert_eq!(rig.group_of(one), [one]);
        let first = rig.attach(one);
        let page = rig.page(first);
        assert!(rig.reaches(one, page) && !rig.reaches(other, page));
        let second = rig.attach(other);
        let next = rig.page(first);
        assert!(!rig.reaches(other, page) && !rig.reaches(other, next));
        let own = rig.page(second);
        assert!(rig.reaches(other, own));
        rig.detach(one);
        assert!(!rig.reaches(one, page) && rig.reaches(other, own));
    }
    rig.check();
}

/// Of two devices of one group: there is no attaching one without the other.
fn assert_one(config: MachineConfig, one: &str, other: &str) {
    let (one, other) = (at(one), at(other));
    let mut rig = Rig::new(config);
    assert_eq!(rig.group_of(one), rig.group_of(other));
    assert!(!rig.engine.group(one).unwrap().spec.reasons.is_empty());
    let domain = rig.attach(one);
    let page = rig.page(domain);
    assert!(rig.reaches(one, page) && rig.reaches(other, page));
    let Rig { platform, engine } = &mut rig;
    let elsewhere = engine.create_domain(platform, &[other]).unwrap();
    let refused = engine.attach(platform, other, elsewhere);
    assert_eq!(refused, Err(EngineError::GroupElsewhere(other, one)));
    assert_eq!(engine.attach(platform, one, domain), Err(EngineError::AlreadyAttached(one)));
    assert_eq!(engine.detach(platform, other), Err(EngineError::NotAttached(other)));
    assert!(rig.reaches(other, page), "as before");
    rig.detach(one);
    assert!(!rig.reaches(one, page) && !rig.reaches(other, page));
    // Now the other may be first.
    rig.attach_to(other, elsewhere);
    let page = rig.page(elsewhere);
    assert!(rig.reaches(one, page) && rig.reaches(other, page));
    rig.check();
}

fn r1_behind_a_switch_without_access_control_devices_are_one(vendor: Vendor) {
    assert_one(vendor.machine().with_switch(None), "12:00.0", "13:00.0");
}

fn r1_functions_of_one_device_without_access_control_are_one(vendor: Vendor) {
    assert_one(vendor.machine().with_two_functions(None), "00:06.0", "00:06.1");
}

fn r1_ports_are_told_to_keep_devices_apart_and_do(vendor: Vendor) {
    for (acs, apart) in [(APART, true), (None, false)] {
        let mut config = vendor.machine().with_switch(acs);
        let express = Some(ExpressKind::Endpoint);
        let bar = 0xfec0_0000;
        config.edus.push(EduConfig { express, ..EduConfig::new(at("14:00.0"), bar) });
        let rig = Rig::new(config);
        let registers = u64::from(bar) + 0x80;
        let together = rig.group_of(at("12:00.0")) == rig.group_of(at("14:00.0"));
        assert_eq!(together, !apart);
        // A write to the other card's registers goes up to the unit, or past it.
        let result = rig.write_from(at("12:00.0"), registers);
        assert_eq!(result.is_err_and(|why| why.is_by_tables()), apart, "{result:?}");
        rig.check();
    }
}

fn a_group_goes_into_one_domain_and_out_with_its_last_member(vendor: Vendor) {
    let (one, other) = (at("12:00.0"), at("13:00.0"));
    let mut rig = Rig::new(vendor.machine().with_switch(None));
    let domain = rig.attach(one);
    rig.attach_to(other, domain);
    let page = rig.page(domain);
    let Rig { platform, engine } = &mut rig;
    let detached = engine.detach(platform, one).unwrap();
    assert_eq!(detached.tickets().count(), 0, "no unit is told anything");
    assert_eq!(platform.config_read(one, 4) & 4, 0, "bus mastering is off");
    assert_ne!(platform.config_read(other, 4) & 4, 0, "and on where there is a driver");
    assert_eq!(engine.destroy_domain(platform, domain), Err(EngineError::DomainInUse(domain)));
    rig.drive(one);
    assert!(rig.reaches(other, page) && rig.reaches(one, page));
    rig.detach(other);
    assert!(!rig.reaches(other, page) && !rig.reaches(one, page));
    rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
    rig.check();
}

fn one_domain_is_for_several_groups(vendor: Vendor) {
    let all = [at("12:00.0"), at("13:00.0"), at("21:01.0"), edu()];
    let machine = vendor.machine().with_switch(APART).with_pci_bridge();
    // Some behind one unit and some behind another.
    let mut rig = Rig::new(vendor.with_unit_for(machine, &[at("11:00.0"), at("00:05.0")]));
    let domain = rig.engine.create_domain(&mut rig.platform, &all).unwrap();
    for device in all {
        rig.attach_to(device, domain);
    }
    let run = rig.run(4096);
    let page = rig.map(domain, run, 4096, Access::ReadWrite);
    let reaching = |rig: &Rig| all.map(|device| rig.reaches(device, page.get()));
    assert_eq!(reaching(&rig), [true; 4]);
    rig.detach(at("12:00.0"));
    assert_eq!(reaching(&rig), [false, true, true, true]);
    rig.detach(at("21:01.0"));
    assert_eq!(reaching(&rig), [false, true, false, true]);
    rig.attach_to(at("12:00.0"), domain);
    rig.unmap(domain, page, 4096);
    assert_eq!(reaching(&rig), [false; 4]);
    rig.check();
}

fn r7_a_group_that_cannot_be_attached_whole_is_not_attached_at_all(vendor: Vendor) {
    let (one, other) = (at("12:00.0"), at("13:00.0"));
    let mut refused = 0;
    for spare in 0.. {
        let mut rig = Rig::new(vendor.machine().with_switch(None));
        let Rig { platform, engine } = &mut rig;
        let domain = engine.create_domain(platform, &[one]).unwrap();
        platform.limit_frames(platform.usage().live_frames + spare);
        let attached = engine.attach(platform, one, domain);
        let done = attached.is_ok();
        if let Err(error) = attached {
            assert_eq!(error, EngineError::OutOfFrames);
            refused += 1;
        }
        platform.limit_frames(usize::MAX);
        if done {
            break;
        }
        assert!(!rig.engine.group(one).unwrap().is_held());
        let page = rig.page(domain);
        assert!(!rig.reaches(one, page) && !rig.reaches(other, page), "{spare} spare frames");
        rig.pass(std::time::Duration::from_millis(1));
        let unit = rig.engine.units()[0].unit.as_ref().unwrap();
        assert_eq!(unit.domain_ids_in_use(), 0);
        rig.attach_to(one, domain);
        assert!(rig.reaches(one, page) && rig.reaches(other, page));
        rig.check();
    }
    // Each bus takes a context table; AMD's device table is whole from the start.
    assert_eq!(refused, 2 * vendor.frames_per_bus());
}
