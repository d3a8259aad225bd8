//! What the program does, where the IOMMU is as it should be.

use std::sync::Arc;

use edud::daemon::run::Outcome;
use edud::daemon::{Driver, Error, copy, over_map};
use libdma::Device;

use crate::stand_in::{Daemon, Edu, Guard, Iommu, address, driver};

#[test]
fn each_round_is_one_line_with_both_kinds_of_address() {
    let mut out = Vec::new();
    copy::run(&mut driver(Guard::Firm), 3, &mut out, |_| Ok(())).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    for (number, line) in lines.iter().enumerate() {
        let start =
            format!("round {}/3: 4088 bytes to the device from I/O 0x10000 (CPU 0x", number + 1);
        assert!(line.starts_with(&start), "{line}");
        assert!(line.contains("back to I/O 0x12000 (CPU 0x"), "{line}");
        assert!(line.ends_with(": intact"), "{line}");
    }
}

#[test]
fn r4_nothing_stays_mapped_after_the_job() {
    let iommu = Iommu::new(Guard::Firm);
    let device = Device::open(Arc::new(Daemon::new(iommu.clone())), address()).unwrap();
    let mut driver = Driver::new(device, Box::new(Edu::new(iommu.clone()))).unwrap();
    copy::run(&mut driver, 1, &mut Vec::new(), |_| Ok(())).unwrap();
    assert_eq!(iommu.live_mappings(), 0);
}

#[test]
fn data_that_does_not_arrive_is_noticed() {
    // The device's requests go through an IOMMU at which nothing is mapped.
    let device = Device::open(Arc::new(Daemon::new(Iommu::new(Guard::Firm))), address()).unwrap();
    let mut driver = Driver::new(device, Box::new(Edu::new(Iommu::new(Guard::Firm)))).unwrap();
    let error = copy::run(&mut driver, 1, &mut Vec::new(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Corrupt { index: 0, found: 0, .. }), "{error}");
}

#[test]
fn r3_mapping_beyond_a_buffer_is_refused_and_said_so() {
    let mut out = Vec::new();
    let outcome = over_map::run(&driver(Guard::Firm), &mut out).unwrap();
    assert_eq!(outcome, Outcome::Well);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches("(8192 bytes of 4096): refused: ").count(), 2, "{text}");
}
