//! Devices that do not sign their requests as themselves: the ids are attached that the hardware sees.

use dma_types::{PciAddress, SourceId};
use iommu_sim::MachineConfig;
use iommu_sim::machine::FunctionConfig;

use super::traffic::at;
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    behind_a_bridge_to_pci_all_sign_with_its_secondary_bus,
    behind_a_conventional_bridge_all_sign_as_the_bridge,
    a_known_quirk_is_attached_for_the_function_that_it_signs_as,
}

/// Of a device that signs as another: that id is attached, whoever else signs so reaches the same and nothing
/// else, and afterwards nothing.
fn assert_signs(config: MachineConfig, device: &str, signed: &str, siblings: &[&str]) {
    let (device, signed) = (at(device), at(signed));
    let siblings: Vec<PciAddress> = siblings.iter().map(|sibling| at(sibling)).collect();
    let mut rig = Rig::new(config);
    assert_eq!(rig.platform.machine().requester(device), signed.source());
    assert!(rig.write_from(device, 0x1_0000_0000).is_err());
    assert_eq!(rig.blamed(), [(0, signed)]);

    let bystander = rig.attach(edu());
    let others = rig.page(bystander);
    // A page that is not mapped in the other domain.
    let gap = rig.page(bystander);
    let domain = rig.attach(device);
    let page = rig.page(domain);
    assert_eq!(page, others, "one address, in two domains");
    assert!(rig.reaches(device, page) && !rig.reaches(device, gap));
    for sibling in &siblings {
        assert_eq!(rig.group_of(device), rig.group_of(*sibling));
        assert!(rig.reaches(*sibling, page) && !rig.reaches(*sibling, gap), "{sibling}");
    }
    rig.detach(device);
    for left in siblings.iter().chain([&device]) {
        assert!(!rig.reaches(*left, page), "{left}");
    }
    assert!(rig.reaches(edu(), others), "whose domain is another");
    rig.check();
}

fn behind_a_bridge_to_pci_all_sign_with_its_secondary_bus(vendor: Vendor) {
    let all = ["21:01.0", "21:02.0", "22:00.0"];
    for device in all {
        assert_signs(vendor.machine().with_pci_bridge(), device, "21:00.0", &all);
    }
}

fn behind_a_conventional_bridge_all_sign_as_the_bridge(vendor: Vendor) {
    let mut config = vendor.machine().with_legacy_bridge();
    config.functions.push(FunctionConfig::conventional(at("30:02.0")));
    assert_signs(config, "30:01.0", "00:1e.0", &["30:02.0"]);
}

fn a_known_quirk_is_attached_for_the_function_that_it_signs_as(vendor: Vendor) {
    assert_signs(vendor.machine().with_quirky_function(), "00:07.0", "00:07.1", &[]);
}

/// A card at 00:09.0 that signs as another function, which no list of quirks knows.
fn odd_card(vendor: Vendor, signed: PciAddress) -> MachineConfig {
    let mut config = vendor.machine();
    let requester = Some(signed.source());
    let card = FunctionConfig { requester, ..FunctionConfig::endpoint(at("00:09.0")) };
    config.functions.push(card);
    config
}

#[test]
fn an_alias_that_firmware_tells_is_attached() {
    for signed in ["00:0a.0", "00:09.1", "05:00.0"] {
        assert_signs(odd_card(Vendor::Amdvi, at(signed)), "00:09.0", signed, &[]);
    }
}

#[test]
fn r1_a_device_that_firmware_says_signs_as_another_is_one_with_it() {
    let mut rig = Rig::new(odd_card(Vendor::Amdvi, edu()));
    assert_eq!(rig.group_of(edu()), [edu(), at("00:09.0")]);
    let domain = rig.attach(edu());
    let page = rig.page(domain);
    assert!(rig.reaches(at("00:09.0"), page), "nobody can tell it from edu");
    rig.attach_to(at("00:09.0"), domain);
    rig.detach(edu());
    assert!(rig.reaches(at("00:09.0"), page), "its own driver holds it");
    rig.detach(at("00:09.0"));
    assert!(!rig.reaches(at("00:09.0"), page) && !rig.reaches(edu(), page));
    rig.check();
}

#[test]
fn r1_a_device_that_signs_as_nobody_expects_reaches_nothing() {
    // Intel's table has no word for this.
    let mut rig = Rig::new(odd_card(Vendor::Vtd, PciAddress::from_source(0, SourceId::new(0x77))));
    let domain = rig.attach(at("00:09.0"));
    let page = rig.page(domain);
    assert!(!rig.reaches(at("00:09.0"), page));
    assert_eq!(rig.blamed()[0], (0, at("00:0e.7")));
    rig.check();
}
