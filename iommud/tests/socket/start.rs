//! Starting and ending.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use libdma::Error;
use libdma::transport::socket::Socket;
use rustix::process::Signal;

use crate::rig::{Daemon, Folder, iommud};

#[test]
fn it_says_what_it_is_and_when_it_serves() {
    let daemon = Daemon::start();
    let said = daemon.said();
    assert!(said.contains("SIMULATED: this daemon confines nothing real"), "{said}");
    assert!(said.contains("unit 0 (VT-d at 0xfed90000): translating"), "{said}");
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

#[test]
fn it_ends_when_told_and_leaves_no_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::start();
        daemon.signal(signal);
        let (status, said, folder) = daemon.finish();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!folder.socket().exists());
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start();
    let second = iommud(&daemon.socket(), &["--sim"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains("another iommud serves at"), "{said}");
    daemon.is_well();
}

#[test]
fn what_a_killed_daemon_left_is_replaced() {
    let daemon = Daemon::start();
    daemon.signal(Signal::KILL);
    let (status, _, folder) = daemon.finish();
    assert_eq!(status.code(), None);
    assert!(folder.socket().exists());
    assert_eq!(Socket::connect_to(&folder.socket()).unwrap_err(), Error::DaemonGone);
    Daemon::start_in(folder).is_well();
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

#[test]
fn what_is_not_there_yet_says_so() {
    let folder = Folder::new();
    let output = iommud(&folder.socket(), &["--sim", "--unit", "amdvi"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not simulated yet"));
    assert!(!folder.socket().exists());
}
