//! How people read it.

use iommu_service::report::table::Table;

use super::quotas::QuotaRow;
use super::rows::{DeviceRow, GroupRow, MemoryRow, UnitRow};
use super::{Report, count};

/// How many names stand in a line.
const NAMES: usize = 4;

/// Writes the report.
pub(super) fn write(report: &Report) -> String {
    let mut text = format!("Made from {}.\n", report.made_from);
    if let Some(why) = &report.would_not_start {
        text += &format!("\niommud WOULD NOT START: {why}\n");
    } else {
        let sections = [
            units(&report.units, no_units(report)),
            memory(&report.reserved),
            devices(&report.devices),
            groups(&report.groups),
        ];
        for section in sections.iter().filter(|section| !section.is_empty()) {
            text += "\n";
            text += section;
        }
    }
    let quotas = report.quotas.iter().map(QuotaRow::sentence).collect();
    for (head, lines) in [
        ("REFUSED", &report.refused),
        ("ODD", &report.odd),
        ("SET ASIDE", &report.set_aside),
        ("QUOTA", &quotas),
        ("POLICY", &report.policy),
        ("NOT KNOWN", &report.unknown),
    ] {
        if !lines.is_empty() {
            text += "\n";
        }
        for line in lines {
            text += &format!("{head}: {line}\n");
        }
    }
    if report.would_not_start.is_none() {
        text += &format!("\n{}\n", summary(report));
    }
    text
}

/// `none` is what is said where there is no unit.
fn units(units: &[UnitRow], none: &str) -> String {
    let mut table = Table::new(&[
        "UNIT ",
        "KIND",
        "SEGMENT",
        "REGISTERS",
        "BYTES ",
        "OFFSET ",
        "DEVICES ",
        "STATE",
    ]);
    for unit in units {
        let cells = vec![
            unit.unit.to_string(),
            unit.kind.into(),
            format!("{:04x}", unit.segment),
            unit.registers.clone(),
            unit.register_bytes.to_string(),
            format!("{:#x}", unit.offset),
            or_dash(unit.devices),
            unit.state.into(),
        ];
        let mut notes: Vec<String> =
            unit.reason.iter().map(|why| format!("{}: {why}", unit.state)).collect();
        notes.extend(unit.function.iter().map(|function| format!("is {function}")));
        notes.extend(unit.scopes.chunks(NAMES).map(|scopes| format!("for {}", scopes.join(", "))));
        if unit.has_the_rest {
            notes.push("for all that no other unit of its segment names".into());
        }
        table.row(cells, notes);
    }
    table.finish(none)
}

fn memory(memory: &[MemoryRow]) -> String {
    if memory.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["RESERVED", "BYTES ", "OFFSET ", "FOR"]);
    for row in memory {
        let mut line = vec![row.range.clone(), row.bytes.to_string(), format!("{:#x}", row.offset)];
        let mut devices = row.devices.chunks(NAMES).map(|devices| devices.join(", "));
        line.push(devices.next().unwrap_or_else(|| "-".into()));
        table.row(line, Vec::new());
        for more in devices {
            table.row(vec![String::new(), String::new(), String::new(), more], Vec::new());
        }
    }
    table.finish("")
}

fn devices(devices: &[DeviceRow]) -> String {
    if devices.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "DEVICE",
        "ID",
        "CLASS",
        "UNIT ",
        "GROUP ",
        "REACHES UNOPENED",
        "INVALIDATION",
    ]);
    for row in devices {
        let cells = vec![
            row.device.clone(),
            row.id.clone(),
            row.class.clone(),
            or_dash(row.unit),
            row.group.to_string(),
            row.reaches.unwrap_or("-").into(),
            if row.reaches.is_some() { row.invalidation.clone() } else { "-".into() },
        ];
        let reserved = row.reserved.iter().map(|range| format!("firmware reserves {range}"));
        let rules = row.rules.iter().map(|rule| format!("rule {rule} of the policy"));
        let kept = row.kept_by_group.then(|| {
            format!("identity by the policy, but not for all that group {} can reach", row.group)
        });
        table.row(cells, reserved.chain(rules).chain(kept).collect());
    }
    table.finish("")
}

fn groups(groups: &[GroupRow]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["GROUP ", "UNIT ", "FUNCTIONS", "SIGN AS"]);
    for row in groups {
        let mut members = row.members.chunks(NAMES).map(|members| members.join(" "));
        let mut signs = row.requesters.chunks(NAMES).map(|signs| signs.join(" "));
        let notes = row.fault.iter().map(|fault| format!("CANNOT BE ATTACHED: {fault}"));
        let mut notes: Vec<String> = notes.chain(row.reasons.iter().cloned()).collect();
        let mut line = vec![row.group.to_string(), or_dash(row.unit)];
        // A group of many takes several lines, with what is to be said under the last.
        loop {
            line.push(members.next().unwrap_or_default());
            line.push(signs.next().unwrap_or_default());
            let more = members.len() + signs.len() > 0;
            table.row(line, if more { Vec::new() } else { core::mem::take(&mut notes) });
            if !more {
                break;
            }
            line = vec![String::new(), String::new()];
        }
    }
    table.finish("")
}

fn no_units(report: &Report) -> &'static str {
    if report.without_iommu {
        "NO IOMMU: devices are NOT CONFINED, and drivers would be served all the same"
    } else {
        "the table names no unit"
    }
}

fn summary(report: &Report) -> String {
    let used = report.units.iter().filter(|unit| unit.state == "used").count();
    let reaching = |what: &[&str]| {
        report.devices.iter().filter(|row| row.reaches.is_some_and(|it| what.contains(&it))).count()
    };
    let confined = reaching(&["nothing", "reserved"]);
    let open = reaching(&["ALL MEMORY", "EVERYTHING"]);
    if report.without_iommu {
        return format!("iommud would confine none of {}", count(open, "device"));
    }
    let units = format!("iommud would use {used} of {}", count(report.units.len(), "unit"));
    if report.devices.is_empty() {
        return units;
    }
    format!("{units}; {} would be confined, {open} would not", count(confined, "device"))
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}
