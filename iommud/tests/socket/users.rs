//! Who may do what, and how much.

use std::thread;

use libdma::transport::Transport;
use libdma::{Device, Error, Handle};
use rustix::process::{Resource, Rlimit, Uid, geteuid, getrlimit, setrlimit};
use rustix::thread::set_thread_res_uid;

use crate::edu::Edu;
use crate::rig::{Daemon, edu};
use crate::vendor::Vendor;

both! {
    r3_who_is_not_root_may_look_and_no_more,
    a_connection_has_the_rights_of_whoever_made_it,
    r5_a_client_that_takes_all_handles_takes_only_its_own,
    r5_a_user_has_one_allowance_for_all_connections,
}

/// Does something as a user who is not root, which takes root. One thread has another uid then, and the socket
/// it connects is that user's.
fn as_nobody<R: Send>(act: impl FnOnce() -> R + Send) -> Option<R> {
    if !geteuid().is_root() {
        println!("not tested: only root can become another user");
        return None;
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let nobody = Uid::from_raw(65534);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            act()
        });
        Some(thread.join().unwrap())
    })
}

fn r3_who_is_not_root_may_look_and_no_more(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    as_nobody(|| {
        let transport = daemon.connect();
        for path in ["units", "devices", "domains", "faults.json", "config"] {
            Handle::open(transport.clone(), path).unwrap();
        }
        for path in ["mappings", "mappings.json"] {
            let refused = Handle::open(transport.clone(), path).unwrap_err();
            assert_eq!(refused, Error::NotPermitted, "physical addresses are for root");
        }
        assert_eq!(Device::open(transport.clone(), edu()).unwrap_err(), Error::NotPermitted);
        assert_eq!(Edu::open(transport).err(), Some(Error::NotPermitted));
    });
    daemon.is_well();
}

fn a_connection_has_the_rights_of_whoever_made_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let roots = daemon.connect();
    as_nobody(|| Device::open(roots.clone(), edu()).map(drop).unwrap());
    let Some(nobodys) = as_nobody(|| daemon.connect()) else { return };
    assert_eq!(Device::open(nobodys, edu()).unwrap_err(), Error::NotPermitted);
}

/// Opens a text again and again until that is refused.
fn open_all(transport: &std::sync::Arc<libdma::transport::socket::Socket>) -> (Vec<Handle>, Error) {
    let mut handles = Vec::new();
    loop {
        match Handle::open(transport.clone(), "faults") {
            Ok(handle) => handles.push(handle),
            Err(error) => return (handles, error),
        }
    }
}

fn r5_a_client_that_takes_all_handles_takes_only_its_own(vendor: Vendor) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let daemon = Daemon::start(vendor);
    let greedy = daemon.connect();
    let (mut handles, error) = open_all(&greedy);
    // The connection itself is one.
    assert_eq!((handles.len(), error), (1023, Error::QuotaExceeded));
    // Others do not notice, and what it gives back it may have again.
    drop(daemon.reopen());
    handles.pop();
    crate::rig::eventually(|| Handle::open(greedy.clone(), "faults").ok());
    drop((handles, greedy));
    daemon.is_well();
}

fn r5_a_user_has_one_allowance_for_all_connections(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    as_nobody(|| {
        let first = daemon.connect();
        let (handles, error) = open_all(&first);
        assert_eq!((handles.len(), error), (63, Error::QuotaExceeded));
        // Another connection is closed as soon as it is seen.
        assert_eq!(daemon.connect().open("faults").unwrap_err(), Error::DaemonGone);
    });
    daemon.is_well();
}
