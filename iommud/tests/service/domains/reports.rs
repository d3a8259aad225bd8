//! What is written down of explicit domains, and shown.

use iommu_engine::ledger::Ledger;
use iommu_service::records::ExplicitRecord;

use super::{FIXED, PAGE, end_session, open, other};
use crate::chosen::piece;
use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    a_domain_is_written_down_and_struck_out,
    a_domain_is_reported_with_its_aperture_and_what_is_in_it,
}

fn a_domain_is_written_down_and_struck_out(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let records = || -> Vec<ExplicitRecord> {
        let service = rig.service.lock();
        let found = Ledger::records(service.platform()).unwrap();
        found.into_iter().map(|(_, record)| record).collect()
    };
    let device = rig.open();
    let domain = device.new_domain("fixed").aperture(FIXED, 2 * PAGE).create().unwrap();
    let [record] = records()[..] else { panic!("not one record") };
    assert_eq!((record.domain, record.aperture.start), (domain.id(), FIXED));
    assert_eq!((record.aperture.bytes, &record.label[..6]), (2 * PAGE, &b"fixed\0"[..]));
    drop(domain);
    assert_eq!(records(), []);
    let _domain = device.new_domain("more").create().unwrap();
    end_session(&rig, &device);
    assert_eq!(records(), []);
    std::mem::forget(device);
    rig.check();
}

fn a_domain_is_reported_with_its_aperture_and_what_is_in_it(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_root_port());
    let (device, guest) = (rig.open(), open(&rig, other()));
    let buffer = device.allocate(PAGE, None, "ring").unwrap();
    let domain = device.new_domain("shared").aperture(FIXED, 1 << 20).create().unwrap();
    domain.map_at(FIXED, &[piece(&buffer, 0, PAGE)]).unwrap();
    let _inside = domain.attach(&guest).unwrap();
    let rows = rig.json("domains");
    let row = rows.as_array().unwrap().iter().find(|row| row["domain"] == domain.id()).unwrap();
    assert_eq!(row["aperture"], "0x50000000..=0x500fffff");
    assert_eq!((&row["label"], &row["made_by"]), (&"shared".into(), &"0000:00:02.0".into()));
    assert_eq!(row["mappings"], 1);
    assert!(row["devices"].as_array().unwrap().contains(&"0000:01:00.0".into()));
    let text = rig.text("domains");
    let note = "    shared: made by the driver of 0000:00:02.0, maps in 0x50000000..=0x500fffff\n";
    assert!(text.contains(note), "{text}");
    let own = rows.as_array().unwrap().iter().find(|row| row["domain"] == device.domain());
    assert_eq!(own.unwrap()["aperture"], serde_json::Value::Null);
    rig.check();
}
