//! Starting and ending.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use libdma::Error;
use libdma::transport::socket::Socket;
use rustix::process::Signal;

use crate::rig::{Daemon, Folder, iommud};
use crate::vendor::Vendor;

both! {
    it_says_what_it_is_and_when_it_serves,
    it_ends_when_told_and_leaves_no_socket,
    a_second_daemon_is_refused_and_the_first_goes_on,
    what_a_killed_daemon_left_is_replaced,
}

fn it_says_what_it_is_and_when_it_serves(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let said = daemon.said();
    assert!(said.contains("SIMULATED: this daemon confines nothing real"), "{said}");
    let unit = format!("unit 0 ({} at {:#x}): translating", vendor.name(), vendor.base());
    assert!(said.contains(&unit), "{said}");
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

fn it_ends_when_told_and_leaves_no_socket(vendor: Vendor) {
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::start(vendor);
        daemon.signal(signal);
        let (status, said, folder) = daemon.finish();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!folder.socket().exists());
    }
}

fn a_second_daemon_is_refused_and_the_first_goes_on(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let second = iommud(&daemon.socket(), &["--sim"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains("another iommud serves at"), "{said}");
    daemon.is_well();
}

fn what_a_killed_daemon_left_is_replaced(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    daemon.signal(Signal::KILL);
    let (status, _, folder) = daemon.finish();
    assert_eq!(status.code(), None);
    assert!(folder.socket().exists());
    assert_eq!(Socket::connect_to(&folder.socket()).unwrap_err(), Error::DaemonGone);
    Daemon::start_in(folder, vendor).is_well();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = Folder::new();
    fs::write(folder.socket(), "precious").unwrap();
    let output = iommud(&folder.socket(), &["--sim"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no socket"));
    assert_eq!(fs::read_to_string(folder.socket()).unwrap(), "precious");
}
