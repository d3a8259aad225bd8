//! iommuctl: what it writes, and its exit codes.

use std::slice;

use serde_json::Value;

use crate::devices;
use crate::failure::{Outcome, require};
use crate::programs::{Program, run, run_as_nobody, start_iommud};
use crate::reports::{self, Group};
use crate::unit::Unit;

/// The reports: the first and the last column of each table, and something that each row has in both forms.
const REPORTS: [(&str, &str, &str, &str); 6] = [
    ("units", "UNIT", "INVALIDATION", "registers"),
    ("devices", "DEVICE", "FAULTS", "device"),
    ("domains", "DOMAIN", "DEVICES", "format"),
    ("mappings", "DOMAIN", "LABEL", "iova"),
    ("faults", "FAULT", "REASON", "address"),
    ("config", "SETTING", "VALUE", "name"),
];

pub(super) fn tables_and_json() -> Outcome {
    let _iommud = start_iommud()?;
    let name = devices::edu()?.name();
    // Something to show in each.
    run("edud", &["--device", &name, "--rogue", "read"])?.expect(0)?;
    let mut driver = Program::start("edud", &["--device", &name, "--hold"])?;
    driver.wait_line("holding")?;
    let tells = Unit::find()?.tells_what_it_blocks();
    for (report, first, last, field) in REPORTS {
        if report == "faults" && !tells {
            continue;
        }
        let table = run("iommuctl", &[report])?.expect(0)?.lines;
        let head = table.first().map_or("", |line| line.trim());
        require!(head.starts_with(first) && head.ends_with(last), "{report}: {head:?}");
        let rows: Vec<Value> = reports::rows(report)?;
        require!(!rows.is_empty(), "{report}: {table:?}, but no JSON");
        for row in rows {
            let text = row.get(field).and_then(Value::as_str).unwrap_or("no such field");
            let shown = table.iter().skip(1).any(|line| line.contains(text));
            require!(shown, "{report}: {row} is not in {table:?}");
        }
    }
    let units = run("iommuctl", &["units"])?.lines;
    require!(run("iommuctl", &[])?.expect(0)?.lines == units, "units are not shown by default");
    let faults = run("iommuctl", &["faults"])?;
    require!(!tells || faults.line(&name)?.contains(" read "), "{:?}", faults.lines);
    Ok(())
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
