//! Our side: the bare guest's suite `bench`.

use std::path::Path;
use std::time::Duration;

use crate::bench::column::Column;
use crate::bench::figures::Figures;
use crate::bench::{CPU, TIME};
use crate::boot::watch;
use crate::cargo::{Failure, scratch_dir};
use crate::qemu::{self, Qemu};
use crate::suite::metal::{EDU, ENDS, EXIT};

/// A million mappings are some hundred megabytes.
const MEMORY: &str = "1G";

/// It takes some 20 s.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// Boots it on the machine of this column.
pub(super) fn measure(qemu: &Qemu, image: &Path, column: Column) -> Result<Figures, Failure> {
    let mut machine = qemu::machine(MEMORY);
    machine.args(["-cpu", CPU, "-icount", TIME, "-serial", "stdio", "-device", EXIT]);
    machine.arg("-kernel").arg(image).args(["-append", "bench"]);
    for device in column.iommu().device(qemu).iter().map(String::as_str).chain([EDU]) {
        machine.args(["-device", device]);
    }
    let words = scratch_dir().join(format!("bench-{}-qemu.log", column.name()));
    let boot = watch(qemu::with_words_in(&machine, &words), BOOT_LIMIT, |_, _, _| {});
    let fault = boot.fault(&ENDS).or((boot.cases.failed > 0).then(|| "a case failed".into()));
    match fault {
        Some(why) => Err(Failure { why: format!("{}: {why}", column.name()), lines: boot.lines }),
        None => Ok(Figures::read(&boot.lines)),
    }
}
