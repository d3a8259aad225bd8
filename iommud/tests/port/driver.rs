//! A test that runs as a driver: in a process of its own, whose `IOMMU_DEVICE` is set.

use std::env;
use std::os::fd::BorrowedFd;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use libdma::transport::socket::{SOCKET_VARIABLE, Socket};
use libdma::{Device, Handle};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::rig::{Daemon, Folder, edu, iommuctl};
use crate::vendor::Vendor;

/// The environment variable that tells a process of this program that it is the driver.
const DRIVER: &str = "IOMMUD_TEST_DRIVER";

/// The environment variable that says where DMA memory comes from.
pub(crate) const DEVICE: &str = "IOMMU_DEVICE";

/// Runs the test that calls this as a driver that was handed the edu.
pub(crate) fn as_driver(vendor: Vendor, test: fn()) {
    if env::var_os(DRIVER).is_some() {
        return test();
    }
    as_driver_of(Daemon::start(vendor));
}

/// Runs the test that calls this as a driver that was handed this daemon's edu.
fn as_driver_of(daemon: Daemon) {
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let number = leave_open(device.handle());
    let mut driver = this_test();
    driver.env(DEVICE, number).env(SOCKET_VARIABLE, daemon.socket());
    succeeds(&driver.output().unwrap());
    drop(device);
    daemon.is_well();
}

/// The same on a machine without an IOMMU, whose administrator has iommud serve all the same.
pub(crate) fn as_driver_without_iommu(test: fn()) {
    if env::var_os(DRIVER).is_some() {
        return test();
    }
    let folder = Folder::new();
    let policy = folder.file("policy.ron", "(without_iommu: unprotected)");
    as_driver_of(Daemon::start_with(
        folder,
        &["--unit", "none", "--policy", policy.to_str().unwrap()],
    ));
}

/// Runs the test that calls this as a process whose `IOMMU_DEVICE` has this value, or none.
pub(crate) fn with_variable(value: Option<&str>, test: fn()) -> Option<Output> {
    if env::var_os(DRIVER).is_some() {
        test();
        return None;
    }
    let mut driver = this_test();
    match value {
        Some(value) => driver.env(DEVICE, value),
        None => driver.env_remove(DEVICE),
    };
    let output = driver.output().unwrap();
    succeeds(&output);
    Some(output)
}

/// Lets the next program have a handle: its number there.
pub(crate) fn leave_open(handle: &Handle) -> String {
    let number = handle.raw().number();
    // SAFETY: the handle is open for as long as it is borrowed.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number as i32) };
    fcntl_setfd(descriptor, FdFlags::empty()).unwrap();
    number.to_string()
}

/// What a driver reaches of the daemon besides its device: the simulated device's registers.
pub(crate) fn connect() -> Arc<Socket> {
    Socket::connect().unwrap()
}

/// The rows of a report, as the driver sees them.
pub(crate) fn report(name: &str) -> Vec<serde_json::Value> {
    let socket = env::var_os(SOCKET_VARIABLE).unwrap();
    let output = iommuctl(socket.as_ref(), &[name, "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// This program again, for this test alone.
fn this_test() -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let name = thread::current().name().unwrap().to_string();
    command.args(["--exact", &name, "--nocapture"]).env(DRIVER, "1");
    command
}

fn succeeds(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}
