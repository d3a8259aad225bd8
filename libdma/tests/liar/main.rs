//! A driver before an iommud that lies: answers of any bytes, errors of any kind, handles to something else, and deaths at any
//! time. Whatever it says, the driver gets an error, or memory and addresses such as it asked for (R5).
//!
//! | module | what is in it |
//! | --- | --- |
//! | `transport` | [`Liar`](transport::Liar): what leads to the service, and changes what it says |
//! | `driver` | what the driver does, and what must be true of what it gets |
//!
//! How much is tried, and how a failure is had again, is in the crate `fuzz`.
#![cfg(target_os = "linux")]

mod driver;
mod transport;

use std::sync::Arc;

use fuzz::{Steps, Trial};
use libdma::Device;
use simulated::{Machine, edu, second_edu};

use crate::driver::Driver;
use crate::transport::Liar;

/// The same driver before an iommud like this, with lies once in so many requests.
fn attempt(machine: &Machine, steps: Steps<'_>) -> bool {
    let liar = Arc::new(Liar::new(machine.client.clone()));
    let mut done = 0;
    let mut driver = None;
    for mut chance in steps {
        liar.begin(&mut chance);
        if driver.is_none() {
            let open = |address| Device::open(liar.clone(), address);
            driver = open(edu()).and_then(|it| Ok(Driver::new(it, open(second_edu())?))).ok();
            if let Some(driver) = &mut driver {
                driver.set_mask(&mut chance);
            }
        }
        let Some(it) = &mut driver else { continue };
        if chance.once_in(30) {
            machine.restart();
        }
        done += u32::from(it.step(&mut chance).is_ok());
        if chance.once_in(40) {
            driver = None;
        }
    }
    liar.tell_the_truth();
    drop(driver);
    let usage = machine.usage();
    assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0));
    done > 0
}

fn trial(name: &'static str, machine: fn() -> Machine) {
    let trial = Trial { name, steps: 6000, each: 200 };
    trial.run(|steps| attempt(&machine(), steps));
}

#[test]
fn r5_whatever_iommud_answers_a_driver_gets_an_error_or_what_it_asked_for() {
    trial("liar, VT-d", Machine::vtd);
}

#[test]
fn r5_the_same_where_nothing_is_confined() {
    trial("liar, no IOMMU", Machine::without_iommu);
}
