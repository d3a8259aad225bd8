//! The checker on a simulated machine: what is reported, in which words, and that nothing is while it is off.
//!
//! There is one checker in a process, so that the tests take turns.
#![cfg(target_os = "linux")]

mod devices;
mod faults;
mod leaks;
mod mappings;
mod pools;
mod raw;
mod switch;
mod threads;
#[cfg(feature = "virtio")]
mod virtio;

use std::mem;
use std::panic::Location;
use std::sync::{Mutex, MutexGuard};

use libdma::check::{self, Report};

static TURN: Mutex<()> = Mutex::new(());
static REPORTS: Mutex<Vec<Report>> = Mutex::new(Vec::new());

fn collect(report: &Report) {
    REPORTS.lock().unwrap().push(report.clone());
}

/// The checker, for one test.
struct Checked(#[allow(dead_code, reason = "it is held")] MutexGuard<'static, ()>);

impl Checked {
    fn begin() -> Self {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        check::turn_off();
        check::turn_on();
        check::on_report(collect);
        REPORTS.lock().unwrap().clear();
        Self(turn)
    }

    /// What was reported since this was last asked, with `line N` for lines of the file that asks.
    #[track_caller]
    fn said(&self) -> Vec<String> {
        let reports = mem::take(&mut *REPORTS.lock().unwrap());
        let line = format!("{}:", Location::caller().file());
        reports.iter().map(|report| report.to_string().replace(&line, "line ")).collect()
    }

    #[track_caller]
    fn said_nothing(&self) {
        assert_eq!(self.said(), Vec::<String>::new());
    }
}

/// The line on which this is called.
#[track_caller]
fn line() -> u32 {
    Location::caller().line()
}
