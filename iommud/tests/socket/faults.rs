//! A device's handle becomes readable when there are faults to be read, and is so no more when they were.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use libdma::protocol::Rights;
use libdma::{Device, Handle, Iova};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::edu::Edu;
use crate::rig::{Daemon, edu};
use crate::vendor::Vendor;

both! {
    a_fault_makes_the_handles_of_its_session_readable_until_they_have_read,
    a_handle_that_is_derived_when_there_are_faults_is_readable_at_once,
    r5_a_holder_who_never_reads_is_told_once,
}

/// Longer than iommud takes to notice anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to see that nothing happens.
const MOMENT: Duration = Duration::from_millis(300);

fn is_readable(handle: &Handle, patience: Duration) -> bool {
    // SAFETY: the handle is open for as long as it is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(handle.raw().number() as i32) };
    let mut sockets = [PollFd::new(&socket, PollFlags::IN)];
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut sockets, Some(&patience)).unwrap() == 1
}

/// Lets the device read where it may not.
fn offend(device: &Edu, address: u64) {
    device.read(Iova::new(address), 8);
}

fn read(device: &Device) -> Vec<u64> {
    device.events().unwrap().faults().map(|fault| fault.address.page().get()).collect()
}

fn a_fault_makes_the_handles_of_its_session_readable_until_they_have_read(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let copy = Device::from_handle(device.derive(Rights::INSPECT).unwrap()).unwrap();
    let registers = Edu::open(daemon.connect()).unwrap();
    assert!(!is_readable(device.handle(), MOMENT));
    for page in [0x5000, 0x6000] {
        offend(&registers, page);
        assert!(is_readable(device.handle(), PATIENCE));
        assert!(is_readable(copy.handle(), PATIENCE));
        assert_eq!(read(&device), [page]);
        assert!(!is_readable(device.handle(), Duration::ZERO));
        // The other holder finds that there is nothing any more.
        assert!(read(&copy).is_empty());
        assert!(!is_readable(copy.handle(), Duration::ZERO));
    }
    drop((device, copy, registers));
    daemon.is_well();
}

fn a_handle_that_is_derived_when_there_are_faults_is_readable_at_once(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let registers = Edu::open(daemon.connect()).unwrap();
    offend(&registers, 0x5000);
    assert!(is_readable(device.handle(), PATIENCE));
    let copy = device.derive(Rights::INSPECT).unwrap();
    assert!(is_readable(&copy, Duration::ZERO));
    let blind = device.derive(Rights::MAP).unwrap();
    assert!(!is_readable(&blind, MOMENT));
}

fn r5_a_holder_who_never_reads_is_told_once(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let silent = device.derive(Rights::INSPECT).unwrap();
    let registers = Edu::open(daemon.connect()).unwrap();
    for page in [0x5000, 0x6000, 0x7000] {
        offend(&registers, page);
        assert!(is_readable(device.handle(), PATIENCE));
        assert_eq!(read(&device), [page]);
    }
    let silent = Device::from_handle(silent).unwrap();
    assert!(is_readable(silent.handle(), Duration::ZERO));
    // SAFETY: the handle is open for as long as it is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(silent.handle().raw().number() as i32) };
    let mut event = [0; 8];
    let got = rustix::net::recv(socket, &mut event, rustix::net::RecvFlags::DONTWAIT);
    assert_eq!(got.map(|(bytes, _)| bytes), Ok(1));
    assert!(!is_readable(silent.handle(), Duration::ZERO));
}
