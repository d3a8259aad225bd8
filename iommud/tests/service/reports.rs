//! What the daemon says of itself.

use dma_types::PhysAddr;
use iommu_engine::policy::{IgnoredUnit, Policy, Unopened};
use libdma::Access;

use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    the_tables_show_units_devices_domains_and_mappings,
    a_fault_is_reported_with_device_address_and_direction,
    what_is_not_confined_is_called_so_in_every_report,
    groups_say_why_they_are_groups,
}

fn the_tables_show_units_devices_domains_and_mappings(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let ring = device.coherent("ring").access(Access::Read).alone().slice::<u64>(1024).unwrap();
    let units = rig.text("units");
    assert!(units.starts_with("UNIT  KIND") && units.contains(vendor.name()), "{units}");
    assert!(
        units.contains("translating") && units.contains(&format!("{:#x}", vendor.base())),
        "{units}"
    );
    let devices = rig.text("devices");
    assert!(devices.contains("0000:00:02.0  1234:11e8"), "{devices}");
    assert!(devices.contains("held"), "{devices}");
    let mappings = rig.text("mappings");
    assert!(mappings.contains("ring") && mappings.contains("r-"), "{mappings}");
    assert!(rig.text("config").contains("protocol version"));
    assert_eq!(rig.text("faults"), "no access was blocked\n");

    let domains = rig.json("domains");
    assert_eq!(domains[0]["domain"], device.domain());
    assert_eq!(domains[0]["mapped_bytes"], 8192);
    assert_eq!(domains[0]["devices"][0], "0000:00:02.0");
    let mappings = rig.json("mappings");
    assert_eq!(mappings[0]["iova"], ring.iova().to_string());
    assert_ne!(mappings[0]["physical"], mappings[0]["iova"]);
    assert_eq!(mappings[0]["access"], "r-");
    drop(ring);
    assert_eq!(rig.text("mappings"), "nothing is mapped\n");
}

fn a_fault_is_reported_with_device_address_and_direction(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let ring = device.coherent("ring").access(Access::Read).alone().value::<u64>().unwrap();
    for _ in 0..3 {
        assert!(rig.device_writes(ring.iova().get(), &[1; 8]).is_err());
        rig.service.lock().poll();
    }
    let faults = rig.json("faults");
    assert_eq!(faults.as_array().unwrap().len(), 1, "the same again only counts: {faults}");
    assert_eq!(faults[0]["device"], "0000:00:02.0");
    assert_eq!(faults[0]["address"], ring.iova().to_string());
    assert_eq!(faults[0]["tried"], "write");
    assert_eq!(faults[0]["times"], 3);
    let table = rig.text("faults");
    assert!(table.contains("write") && table.contains("not mapped for writing"), "{table}");
    let devices = rig.json("devices");
    let edu = devices.as_array().unwrap().iter().find(|it| it["device"] == "0000:00:02.0");
    assert_eq!(edu.unwrap()["faults"], 3);
}

/// The notes under a device's row.
fn notes<'a>(table: &'a str, device: &str) -> Vec<&'a str> {
    let rows = table.lines().skip_while(|line| !line.starts_with(device));
    rows.skip(1).take_while(|line| line.starts_with(' ')).map(str::trim).collect()
}

fn what_is_not_confined_is_called_so_in_every_report(vendor: Vendor) {
    let edu = "0000:00:02.0";
    let policy = Policy { default: Unopened::Identity, ..Policy::default() };
    let rig = Rig::with(vendor.machine(), policy);
    let devices = rig.text("devices");
    let row = devices.lines().find(|line| line.starts_with(edu)).unwrap();
    assert!(row.contains("NOT CONFINED"), "{devices}");
    assert_eq!(notes(&devices, edu), ["it reaches all memory, for the policy says so"]);
    assert!(rig.text("groups").contains("it reaches all memory"), "{}", rig.text("groups"));
    assert!(rig.text("mappings").contains("(all memory)"), "{}", rig.text("mappings"));
    let device = rig.open();
    assert!(!rig.text("devices").lines().any(|line| line.starts_with(edu) && line.contains("NOT")));
    drop(device);

    let base = PhysAddr::new(vendor.base());
    let ignored = IgnoredUnit { base, reason: "it hangs".into() };
    let policy = Policy { ignored_units: vec![ignored], ..Policy::default() };
    let rig = Rig::with(vendor.machine(), policy);
    let devices = rig.text("devices");
    let row = devices.lines().find(|line| line.starts_with(edu)).unwrap();
    assert!(row.contains("NOT CONFINED"), "{devices}");
    let why = "it reaches everything, for the IOMMU in front of it is not used";
    assert_eq!(notes(&devices, edu), [why]);
    assert!(rig.text("groups").contains(why), "{}", rig.text("groups"));
    assert!(rig.text("units").contains("it hangs"), "{}", rig.text("units"));
    assert!(!rig.text("domains").contains("every device"), "{}", rig.text("domains"));
}

fn groups_say_why_they_are_groups(vendor: Vendor) {
    let rig = Rig::with(vendor.machine().with_switch(None), Policy::default());
    let groups = rig.json("groups");
    let switch = groups.as_array().unwrap().iter().find(|group| {
        group["devices"].as_array().unwrap().iter().any(|device| device == "0000:12:00.0")
    });
    let reasons = switch.unwrap()["reasons"].as_array().unwrap().clone();
    assert!(!reasons.is_empty(), "{groups}");
    let table = rig.text("groups");
    for reason in reasons {
        assert!(table.contains(reason.as_str().unwrap()), "{table}");
    }
    let device = rig.open();
    let domains = rig.json("domains");
    let format = match vendor {
        Vendor::Vtd => "VT-d second stage",
        Vendor::Amdvi => "AMD-Vi v1",
    };
    assert_eq!(domains[0]["format"], format);
    drop(device);
}
