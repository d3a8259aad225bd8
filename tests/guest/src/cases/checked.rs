//! libdma's checker in a driver that makes mistakes: the programs are release builds, in which it has to be asked for.

use std::process::Command;

use crate::devices;
use crate::failure::{Outcome, require};
use crate::programs::{End, Program, start_iommud};
use crate::traces::Traces;

/// How many kinds of mistake edud makes, but for its device's.
const MISTAKES: usize = 8;

/// What the line says of which that a mistake was made.
const MADE: &str = "mistake: ";
/// What the line says of which that a device's access after an unmap was not recorded.
const UNRECORDED: &str = "the device went on after the unmap: no fault is recorded here";

pub(super) fn each_mistake() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    mistakes(&[], devices::bench()?.tells)?;
    before.wait_for_return()
}

/// Has a driver make mistakes, and checks that each is named in a sentence with all its places. Where the IOMMU `tells` of
/// what it blocks, one of them is the device's.
pub(super) fn mistakes(further: &[&str], tells: bool) -> Outcome {
    let device = devices::edu()?.name();
    let end = misuse(&device, further, Some("1"))?;
    let made: Vec<&str> = end.lines.iter().filter_map(|line| line.strip_prefix(MADE)).collect();
    require!(made.len() == MISTAKES + usize::from(tells), "it made {made:?}");
    let reports: Vec<&str> =
        end.lines.iter().filter_map(|line| line.strip_prefix("libdma: ")).collect();
    require!(reports.len() == made.len(), "of {made:?} it said {reports:?}");
    for (mistake, report) in made.iter().zip(&reports) {
        let (name, places) = mistake.split_once(": ").unwrap_or_default();
        let named = report.starts_with(name) && report.contains(&device);
        require!(named && report.contains("\"edud "), "of {mistake:?} it said {report:?}");
        for place in places.split(", ") {
            require!(report.contains(place), "of {mistake:?} it said {report:?}");
        }
    }
    if !tells {
        // QEMU's AMD-Vi records nothing, and without an IOMMU nothing is blocked.
        end.line(UNRECORDED)?;
    }
    Ok(())
}

pub(super) fn off_by_default() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let device = devices::edu()?.name();
    for variable in [None, Some("0"), Some("yes")] {
        let end = misuse(&device, &[], variable)?;
        end.line(MADE)?;
        let said = end.lines.iter().find(|line| line.starts_with("libdma: "));
        require!(said.is_none(), "with LIBDMA_CHECK {variable:?} it said {said:?}");
    }
    before.wait_for_return()
}

/// Has a driver make mistakes, with this in its environment.
fn misuse(device: &str, further: &[&str], variable: Option<&str>) -> Outcome<End> {
    let mut edud = Command::new("edud");
    edud.args(["--device", device, "--misuse"]).args(further);
    edud.env_remove("LIBDMA_CHECK").envs(variable.map(|value| ("LIBDMA_CHECK", value)));
    Program::from_command(edud)?.finish()?.expect(0)
}
