//! What the daemon says of itself.

use libdma::{Access, Coherent};

use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    the_tables_show_units_devices_domains_and_mappings,
    a_fault_is_reported_with_device_address_and_direction,
}

fn the_tables_show_units_devices_domains_and_mappings(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let ring = Coherent::<[u64]>::new(&device, 1024, Access::Read, "ring").unwrap();
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
    let ring = Coherent::<u64>::new(&device, Access::Read, "ring").unwrap();
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
