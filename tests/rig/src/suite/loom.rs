//! loom: libdma's windows, pools and streams as threads share them, in every order in which these can take their locks.

use std::time::Duration;

use agent::process::run as run_process;

use crate::cargo::{cargo, target_dir};
use crate::report::Report;
use crate::suite::host::count;

/// The build, of libdma and loom alone, takes half a minute on two cores, and the tests some seconds.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) fn run(report: &mut Report) {
    let mut command = cargo();
    command.args(["test", "--package", "interleavings", "--no-fail-fast"]);
    // In a folder of its own: with another flag everything is built anew.
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target_dir().join("loom"));
    count(report, run_process(command, LIMIT));
}
