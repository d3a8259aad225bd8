//! A process that was handed nothing, or something else, gets no memory and is told why.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use libdma::dma::{DmaError, check};
use libdma::{Device, Dma, HandedError};

use crate::driver::{as_driver, with_variable};
use crate::rig::{Daemon, edu};
use crate::vendor::Vendor;

const ENODEV: i32 = 19;

/// Neither memory nor a second thought.
fn gets_nothing() {
    let first = check().unwrap_err();
    for _ in 0..2 {
        assert_eq!(Dma::new(1u64).map(drop).unwrap_err().errno(), ENODEV);
        assert_eq!(Dma::<[u8]>::zeroed_slice(0).map(drop).unwrap_err().errno(), ENODEV);
    }
    assert_eq!(check(), Err(first));
}

/// Once, and in words.
fn says_once(value: Option<&str>, sentence: &str) {
    let Some(output) = with_variable(value, gets_nothing) else { return };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches(sentence).count(), 1, "{said}");
    assert_eq!(said.matches("libdma: ").count(), 1, "{said}");
}

#[test]
fn r1_without_the_variable_there_is_no_memory() {
    says_once(None, "libdma: IOMMU_DEVICE is not set: start the driver through iommu-run");
}

#[test]
fn r1_an_empty_variable_is_no_permission() {
    says_once(Some(""), r#"libdma: IOMMU_DEVICE is "", which is neither the number"#);
}

#[test]
fn r1_a_wrong_variable_is_no_permission() {
    says_once(Some("NONE"), r#"libdma: IOMMU_DEVICE is "NONE", which is neither the number"#);
}

#[test]
fn a_number_that_nothing_is_open_under_is_told() {
    says_once(
        Some("4321"),
        "libdma: IOMMU_DEVICE is 4321, but descriptor 4321 is no device handle",
    );
}

#[test]
fn there_is_no_plain_memory_on_linux() {
    says_once(Some("none"), "there is plain contiguous memory on Redox alone");
}

#[test]
fn another_handle_of_iommuds_is_refused() {
    let daemon = Daemon::start(Vendor::Vtd);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let buffer = device.allocate(4096, None, "not a device").unwrap();
    let number = crate::driver::leave_open(buffer.handle());
    let sentence = format!("libdma: iommud does not serve the device of descriptor {number}: ");
    says_once(Some(&number), &sentence);
}

#[test]
fn a_file_under_the_number_is_left_open() {
    // A descriptor that every process has.
    let test = || {
        assert_eq!(check(), Err(DmaError::NoDevice(HandedError::NotHanded(0))));
        gets_nothing();
        let file = File::open("/dev/null").unwrap();
        assert_ne!(file.as_raw_fd(), 0, "standard input was closed");
    };
    with_variable(Some("0"), test);
}

#[test]
fn programs_that_a_driver_runs_do_not_inherit_the_device() {
    as_driver(Vendor::Vtd, || {
        let number = std::env::var("IOMMU_DEVICE").unwrap();
        let is_open = || {
            let script = format!("test -e /proc/self/fd/{number}");
            Command::new("sh").args(["-c", &script]).status().unwrap().success()
        };
        assert!(is_open());
        check().unwrap();
        assert!(!is_open());
    });
}
