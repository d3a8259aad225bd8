//! The program `iommuctl`.

use std::process::Output;

use libdma::{Access, Device, Iova};

use crate::edu::Edu;
use crate::rig::{Daemon, Folder, edu, iommuctl};
use crate::vendor::Vendor;

both! {
    every_report_is_a_table_and_json,
    without_a_report_it_shows_the_units,
    a_blocked_access_is_named_and_a_check_finds_it,
    the_command_line_goes_before_the_environment,
}

const REPORTS: [&str; 6] = ["units", "devices", "domains", "mappings", "faults", "config"];

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn every_report_is_a_table_and_json(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let ring = device.coherent("ring").access(Access::Read).alone().slice::<u64>(8).unwrap();
    for report in REPORTS {
        let table = text(&iommuctl(&daemon.socket(), &[report]));
        assert!(table.ends_with('\n') && table.lines().all(|line| line.trim_end() == line));
        let json = text(&iommuctl(&daemon.socket(), &["--json", report]));
        let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert_eq!(rows.is_empty(), report == "faults", "{report}");
    }
    let devices = text(&iommuctl(&daemon.socket(), &["devices"]));
    let line = devices.lines().find(|line| line.contains("0000:00:02.0")).unwrap();
    assert!(line.contains("1234:11e8") && line.contains("held"), "{line}");
    let mapping = &daemon.report("mappings")[0];
    assert_eq!(mapping["iova"], ring.iova().to_string());
    assert_eq!((&mapping["access"], &mapping["label"]), (&"r-".into(), &"ring".into()));
    assert!(daemon.setting("platform").contains("SIMULATED"));
}

fn without_a_report_it_shows_the_units(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let units = text(&iommuctl(&daemon.socket(), &[]));
    assert_eq!(units, text(&iommuctl(&daemon.socket(), &["units"])));
    assert!(units.contains(vendor.name()) && units.contains("translating"), "{units}");
}

fn a_blocked_access_is_named_and_a_check_finds_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let check = || iommuctl(&daemon.socket(), &["faults", "--check"]).status.code();
    assert_eq!(check(), Some(0));
    let _device = Device::open(daemon.connect(), edu()).unwrap();
    Edu::open(daemon.connect()).unwrap().read(Iova::new(0x1234_5000), 64);
    assert_eq!(check(), Some(4));
    let fault = &daemon.report("faults")[0];
    assert_eq!(fault["device"], "0000:00:02.0");
    assert_eq!((&fault["tried"], &fault["address"]), (&"read".into(), &"0x12345000".into()));
    let table = text(&iommuctl(&daemon.socket(), &["faults"]));
    assert!(table.contains("0000:00:02.0") && table.contains("0x12345000"), "{table}");
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let folder = Folder::new();
    let output = iommuctl(&folder.socket(), &["units"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("iommud is not running") && said.contains("start it with"), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_usage_is_told_from_a_refusal() {
    let folder = Folder::new();
    for words in [&["unit"][..], &["units", "--check"], &["--jsn"], &["--socket"]] {
        assert_eq!(iommuctl(&folder.socket(), words).status.code(), Some(2), "{words:?}");
    }
    assert_eq!(iommuctl(&folder.socket(), &["--help"]).status.code(), Some(0));
}

fn the_command_line_goes_before_the_environment(vendor: Vendor) {
    let (daemon, empty) = (Daemon::start(vendor), Folder::new());
    let socket = daemon.socket();
    let words = ["config", "--socket", socket.to_str().unwrap()];
    let config = text(&iommuctl(&empty.socket(), &words));
    assert!(config.contains(socket.to_str().unwrap()), "{config}");
}
