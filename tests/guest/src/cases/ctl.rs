//! iommuctl: what it writes, and its exit codes.

use std::slice;

use crate::devices;
use crate::failure::{Outcome, require};
use crate::programs::{Program, run, run_as_nobody, start_iommud};
use crate::reports::{self, Group};
use crate::unit::Unit;

pub(super) fn tables_and_json() -> Outcome {
    let _iommud = start_iommud()?;
    devices::bench()?.reports_are_tables_and_json()
}

pub(super) fn groups() -> Outcome {
    let _iommud = start_iommud()?;
    let [first, second] = devices::both_edus()?.map(|edu| edu.name());
    let mut driver = Program::start("edud", &["--device", &first, "--hold"])?;
    driver.wait_line("holding")?;
    let groups: Vec<Group> = reports::rows("groups")?;
    for name in [&first, &second] {
        let groups: Vec<_> = groups.iter().filter(|group| group.devices.contains(name)).collect();
        require!(groups.len() == 1, "{name} is in {groups:?}");
        let expected: &[String] = if *name == first { slice::from_ref(&first) } else { &[] };
        require!(groups[0].held == expected, "of {name}'s group {:?} are held", groups[0].held);
    }
    run("iommuctl", &["groups"])?.expect(0)?.line("REQUESTERS")?;
    Ok(())
}

pub(super) fn exit_codes() -> Outcome {
    let absent = run("iommuctl", &["units"])?.expect(3)?;
    absent.line("iommuctl: iommud is not running at /run/iommud.sock: start it with")?;
    run("iommuctl", &["unit"])?.expect(2)?;
    let _iommud = start_iommud()?;
    run("iommuctl", &["units"])?.expect(0)?;
    run("iommuctl", &["faults", "--check"])?.expect(0)?.line("no access was blocked")?;
    run("edud", &["--rogue", "read"])?.expect(0)?;
    if Unit::find()?.tells_what_it_blocks() {
        run("iommuctl", &["faults", "--check"])?.expect(4)?.line(" read ")?;
    }
    run_as_nobody("iommuctl", &["mappings"])?.expect(1)?;
    Ok(())
}
