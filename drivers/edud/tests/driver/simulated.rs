//! Registers through calls.

use std::sync::Arc;

use edud::daemon::{Driver, copy};
use edud::{Bar, SimulatedBar};
use libdma::{Device, PciAddress};

use crate::stand_in::{Daemon, Guard, Iommu, address};

#[test]
fn a_simulated_device_is_switched_on_and_driven_like_any_other() {
    let daemon = Arc::new(Daemon::new(Iommu::new(Guard::Firm)));
    let bar = SimulatedBar::open(daemon.clone(), address()).unwrap().unwrap();
    assert_eq!(daemon.simulated_command(), 0x0010_0006, "command on, status untouched");
    assert_eq!((bar.read32(0), bar.read32(12)), (0x0100_00ed, u32::MAX));
    let device = Device::open(daemon.clone(), address()).unwrap();
    let mut driver = Driver::new(device, Box::new(bar)).unwrap();
    copy::run(&mut driver, 2, &mut Vec::new(), |_| Ok(())).unwrap();
    drop(driver);
    assert_eq!(daemon.open_handles(), 0);
}

#[test]
fn a_function_that_is_not_simulated_is_an_error() {
    let daemon = Arc::new(Daemon::new(Iommu::new(Guard::Firm)));
    let other = PciAddress::new(0, 0, 3, 0).unwrap();
    let error = SimulatedBar::open(daemon, other).unwrap_err();
    assert_eq!(error, libdma::Error::NoSuchPath);
}
