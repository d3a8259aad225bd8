//! The tree of handles, as reports show it.

use iommu_service::HandleId;
use libdma::protocol::Rights;
use libdma::{Access, Device, Iova};

use crate::revoking::{derived, number, revoke};
use crate::rig::Rig;
use crate::tickets::open_other;
use crate::vendor::Vendor;

#[test]
fn a_number_says_after_which_restart_it_was_given() {
    let shown = [3, (1 << 40) | 2, (12 << 40) | 1000].map(|number| HandleId(number).to_string());
    assert_eq!(shown, ["3", "2@1", "1000@12"]);
}

both! {
    the_tree_shows_who_was_given_what_and_what_became_of_it,
}

const PAGE: u64 = 4096;

fn the_tree_shows_who_was_given_what_and_what_became_of_it(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    assert_eq!(rig.text("handles"), "nobody holds a handle to a device\n");
    let (device, other) = (rig.open(), open_other(&rig));
    let (handle, _) = device
        .restricted("codec")
        .rights(Rights::DEVICE - Rights::ADMINISTER)
        .access(Access::Read)
        .addresses(Iova::new(0x2_0000_0000), Iova::new(0x2_00ff_ffff))
        .buffer_bytes(1 << 20)
        .mappings(8)
        .hand_out()
        .unwrap();
    let codec = Device::from_handle(handle).unwrap();
    let frames = codec.allocate(PAGE, Some(Access::Read), "frames").unwrap();
    let shared = device.allocate(PAGE, None, "shared").unwrap();
    let attached = shared.attach(&other, Access::Read, "attached").unwrap();
    let ended = derived(&device, Rights::INSPECT);
    let silent = frames.share(Rights::READ).unwrap();
    assert_eq!(revoke(device.handle(), number(ended.handle())), Ok(1));
    assert_eq!(rig.text("handles"), include_str!("golden/handles.txt"));
    let rows = rig.json("handles");
    let row = |of: &str, label: &str| {
        let all = rows.as_array().unwrap().iter();
        let mut found = all.filter(|row| row["object"] == of && row["label"] == label);
        found.next().unwrap_or_else(|| panic!("{of} {label}: {rows:?}")).clone()
    };
    let codecs = row("device 0000:00:02.0", "codec");
    assert_eq!(codecs["parents"][0], number(device.handle()).to_string());
    assert_eq!((&codecs["depth"], &codecs["state"]), (&1.into(), &"open".into()));
    assert_eq!((&codecs["access"], &codecs["uid"]), (&"r-".into(), &0.into()));
    assert_eq!(codecs["addresses"]["last"], "0x200ffffff");
    assert_eq!(codecs["quotas"][0]["held"], PAGE);
    assert_eq!(codecs["quotas"][0]["limit"], 1 << 20);
    // By its number, and with what it has limits of its own of.
    let quotas = rig.json("quotas");
    let of_handles = quotas.as_array().unwrap().iter().filter(|row| {
        row["holder"]
            == format!("handle {} of 0000:00:02.0 (codec)", codecs["handle"].as_str().unwrap())
    });
    let limited: Vec<_> = of_handles.map(|row| (&row["resource"], &row["held"])).collect();
    assert_eq!(limited, [(&"buffer_bytes".into(), &PAGE.into()), (&"mappings".into(), &1.into())]);
    assert_eq!(row("buffer 3", "attached")["parents"].as_array().unwrap().len(), 2);
    drop((silent, ended, attached, shared, frames, codec, other, device));
    assert_eq!(rig.text("handles"), "nobody holds a handle to a device\n");
    rig.check();
}
