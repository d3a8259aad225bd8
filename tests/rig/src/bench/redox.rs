//! Requests to the real iommud on a booted Redox, beside calls to a scheme that does nothing; all in one boot, on one
//! processor.
//!
//! What the image's init starts is `iommu-selftest bench`, in the place of the self-test itself that t4 wants
//! (`cookbook/README.md`).

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use agent::process::Process;

use crate::bench::column::Column;
use crate::bench::figures::Figures;
use crate::bench::{CPU, TIME};
use crate::cargo::{Failure, root, scratch_dir};
use crate::disk;
use crate::qemu::{self, Qemu};
use crate::suite::metal::EDU;

/// The environment variable that names the image: a raw disk that a BIOS boots.
pub(super) const VARIABLE: &str = "REDOX_BENCH_IMAGE";

/// What is said when everything was told.
const DONE: &str = "bench done";

/// It takes half a minute.
const LIMIT: Duration = Duration::from_secs(300);

/// What is put before the names of these figures: they are those of a Linux guest, too.
const PREFIX: &str = "redox/";

/// The image, if one is named.
pub(super) fn image() -> Option<PathBuf> {
    env::var_os(VARIABLE).map(|image| root().join(image))
}

/// Boots it on the machine of this column.
pub(super) fn measure(qemu: &Qemu, column: Column) -> Result<Figures, Failure> {
    let image = image().ok_or_else(|| Failure {
        why: format!("{VARIABLE} names no image (cookbook/README.md tells how to build one)"),
        lines: Vec::new(),
    })?;
    let mut machine = qemu::machine("1G");
    machine.args(["-cpu", CPU, "-icount", TIME, "-serial", "stdio"]);
    machine.args(["-drive", &disk::drive(&image, "boot")]);
    machine.args(["-device", "ide-hd,drive=boot,bootindex=0"]);
    for device in column.iommu().device(qemu).iter().map(String::as_str).chain([EDU]) {
        machine.args(["-device", device]);
    }
    let words = scratch_dir().join(format!("bench-{}-redox-qemu.log", column.name()));
    let failed = |why: String, lines: &[String]| Failure {
        why: format!("{}, Redox: {why}", column.name()),
        lines: lines.to_vec(),
    };
    let mut process = Process::start(qemu::with_words_in(&machine, &words))
        .map_err(|error| failed(error.to_string(), error.lines()))?;
    // Redox is not asked to end: QEMU goes with its process.
    let done = process.wait_for("the end of the figures", LIMIT, |line| line.trim() == DONE);
    match done {
        Ok(_) => Ok(Figures::read(process.seen()).named(PREFIX)),
        Err(error) => Err(failed(error.to_string(), error.lines())),
    }
}
