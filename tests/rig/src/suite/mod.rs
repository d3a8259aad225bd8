//! The suites, one file each.

pub(crate) mod guest;
mod host;
mod image;
mod loom;
pub(crate) mod metal;
mod miri;
mod redox;

pub use guest::shell;

use crate::debian::install;
use crate::qemu::{self, Qemu};
use crate::report::Report;

/// A suite: what it is called, what it is, and how it runs.
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub about: &'static str,
    run: fn(&mut Report),
}

impl Suite {
    /// Runs it into the report.
    pub fn run(&self, report: &mut Report) {
        report.suite(self.name, self.about, self.run);
    }
}

/// All suites, in the order in which they run.
pub const SUITES: [Suite; 7] = [
    Suite { name: "t0", about: "tests on the host, and what the compiler thinks", run: host::run },
    Suite { name: "miri", about: "what safe code can do, watched by Miri", run: miri::run },
    Suite { name: "loom", about: "libdma's threads in every order", run: loom::run },
    Suite { name: "t1", about: "the engine in a bare guest on QEMU's IOMMUs", run: metal::run },
    Suite { name: "t2", about: "the daemons as processes in a Linux guest", run: guest::run },
    Suite { name: "t3", about: "everything compiled for Redox", run: redox::run },
    Suite { name: "t4", about: "the daemons in a booted Redox", run: image::run },
];

/// The QEMU of suites that boot something, installed if there is none. Without one they have failed.
fn emulator(report: &mut Report) -> Option<Qemu> {
    if let Err(error) = install(&[qemu::NEED]) {
        report.failed("packages", &error.to_string());
        return None;
    }
    match Qemu::find() {
        Ok(qemu) => {
            report.note(&qemu.line);
            Some(qemu)
        }
        Err(why) => {
            report.failed("qemu", &why);
            None
        }
    }
}
