//! When the checker is on, and what reports may do.

use std::env;
use std::process::Command;
use std::sync::{Arc, Mutex};

use libdma::check::{self, Report};
use libdma::pool::NotTaken;
use libdma::{Iova, Pool};
use simulated::Machine;

use crate::{Checked, collect};

#[test]
fn nothing_is_said_and_nothing_known_while_it_is_off() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let before = pool.alloc().unwrap();
    check::turn_off();
    assert!(!check::is_on());
    let block = pool.alloc().unwrap();
    block.write(0, &[0x5a; 64]).unwrap();
    let address = block.into_address();
    pool.free(address).unwrap();
    assert_eq!(pool.free(address), Err(NotTaken::Free));
    let mut found = [0; 64];
    pool.alloc().unwrap().read(0, &mut found).unwrap();
    assert_eq!(found, [0x5a; 64], "there is no pattern in free blocks");
    assert!(machine.device_writes(Iova::new(0x5000), &[1]).is_err());
    machine.service.lock().poll();
    assert_eq!(device.events().unwrap().events.len(), 1);
    let _left = pool.alloc().unwrap().into_address();
    drop(pool);
    assert_eq!(check::leaks(), 0, "what was known before is forgotten");
    checked.said_nothing();
    // On again, it knows nothing of what is from before.
    check::turn_on();
    drop((before, device));
    checked.said_nothing();
}

/// What reports are handed to may call libdma: it would wait for ever if a lock were held.
#[test]
fn what_is_told_may_ask() {
    static POOL: Mutex<Option<Arc<Pool<[u8]>>>> = Mutex::new(None);
    fn ask(report: &Report) {
        collect(report);
        let pool = POOL.lock().unwrap().clone();
        if let Some(pool) = pool {
            drop(pool.alloc().unwrap());
            assert!(pool.free(pool.alloc().unwrap().into_address()).is_ok());
        }
        check::on_report(collect);
    }
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = Arc::new(device.pool("descriptors").bytes(64).unwrap());
    *POOL.lock().unwrap() = Some(pool.clone());
    let mut stream = device.raw_stream("rx");
    let tell = |wrong: &mut dyn FnMut()| {
        check::on_report(ask);
        wrong();
        assert_eq!(checked.said().len(), 1);
    };
    tell(&mut || assert!(pool.take(device.bus_address(Iova::new(1))).is_err()));
    tell(&mut || assert!(stream.cpu_read(device.bus_address(Iova::new(1)), &mut [0]).is_err()));
    let left = pool.alloc().unwrap().into_address();
    pool.free(left).unwrap();
    machine.device_writes(left.iova(), &[1]).unwrap();
    tell(&mut || drop(pool.alloc().unwrap()));
    // The pool.
    tell(&mut || assert_eq!(check::leaks(), 1));
    *POOL.lock().unwrap() = None;
}

#[test]
fn the_environment_has_the_last_word() {
    /// Set in the processes that this test starts of itself, which say whether the checker is on.
    const ASKED: &str = "IS_LIBDMA_CHECK_ON";
    if env::var_os(ASKED).is_some() {
        println!("on: {}", check::is_on());
        return;
    }
    let on = |value: Option<&str>| {
        let mut run = Command::new(env::current_exe().unwrap());
        run.args(["--exact", "switch::the_environment_has_the_last_word", "--nocapture"])
            .env(ASKED, "");
        run.env_remove("LIBDMA_CHECK").envs(value.map(|value| ("LIBDMA_CHECK", value)));
        let said = String::from_utf8(run.output().unwrap().stdout).unwrap();
        assert!(said.contains("on: "), "{said}");
        said.contains("on: true")
    };
    assert_eq!((on(Some("1")), on(Some("0"))), (true, false));
    for value in [None, Some("yes"), Some("")] {
        assert_eq!(on(value), cfg!(debug_assertions), "{value:?}");
    }
}
