//! What both agents check in the same way: a driver of one device, and what iommud says of it.

use serde_json::Value;

use crate::failure::{Failure, Outcome, require};
use crate::programs::{End, Program, run, wait_until};
use crate::reports::{self, Fault, parse_address, wait_for_fault};
use crate::traces::Traces;

/// The smallest page.
pub const PAGE: u64 = 4096;

/// What is in the report of `iommuctl units` where [`Bench::write_only`] is not.
const NO_WRITE_ONLY: &str = "cannot map write-only: what a device may write it may also read";

/// The reports: the first and the last column of each table, and something that each row has in both forms.
const REPORTS: [(&str, &str, &str, &str); 6] = [
    ("units", "UNIT", "FAULTS", "registers"),
    ("devices", "DEVICE", "FAULTS", "device"),
    ("domains", "DOMAIN", "DEVICES", "format"),
    ("mappings", "DOMAIN", "LABEL", "iova"),
    ("faults", "FAULT", "REASON", "address"),
    ("config", "SETTING", "VALUE", "name"),
];

/// An `edu` device, and what the unit in front of it can do.
pub struct Bench {
    /// The device: `0000:00:02.0`.
    pub device: String,
    /// Whether the unit tells of each access that it blocks, with address and direction. QEMU's AMD-Vi tells of none up
    /// to version 10, and from then on of some, without the address: there only the data shows it.
    pub tells: bool,
    /// Whether the unit can tell writing from reading and writing (rule R6).
    pub write_only: bool,
}

impl Bench {
    /// Runs the driver to its end.
    pub fn edud(&self, words: &[&str]) -> Outcome<End> {
        run("edud", &[&["--device", &self.device], words].concat())
    }

    /// Starts a driver whose device is at work until it is killed.
    pub fn hold(&self) -> Outcome<Program> {
        let mut driver = Program::start("edud", &["--device", &self.device, "--hold"])?;
        driver.wait_line("holding")?;
        Ok(driver)
    }

    /// Lets a driver misbehave, and checks that nothing else was blocked than one access to the page `beyond` bytes
    /// after that of the address it tells. Gives that address.
    pub fn is_blocked(&self, kind: &str, tried: &str, beyond: u64, words: &[&str]) -> Outcome<u64> {
        let (before, seen) = (Traces::now()?, faults()?);
        let end = self.edud(&[&["--rogue", kind], words].concat())?.expect(0)?;
        let address = address_of(&end)?;
        let page = (address & !(PAGE - 1)) + beyond;
        let by_handle =
            if self.tells { "the device's handle tells: " } else { "handle tells of no" };
        let told = end.line(by_handle)?;
        let named = !self.tells || told.contains(&self.device);
        require!(named, "the handle tells of another device: {told:?}");
        wait_until("the fault is counted", || Ok(!self.tells || faults()? > seen))?;
        wait_for_fault(self.tells, &self.device, tried, page)?;
        let faults = faults()?;
        let one = faults == seen + 1 || !self.tells;
        require!(one, "{} accesses were blocked, not one", faults.saturating_sub(seen));
        before.wait_for_return()?;
        Ok(address)
    }

    /// That memory is mapped for writing alone, or that driver and user are told that it cannot be.
    pub fn write_only_is_blocked_or_refused(&self) -> Outcome {
        if self.write_only {
            return self.is_blocked("write-only", "read", 0, &[]).map(drop);
        }
        let before = Traces::now()?;
        let end = self.edud(&["--rogue", "write-only"])?.expect(3)?;
        end.line("this IOMMU cannot map memory for writing alone: see iommuctl units")?;
        run("iommuctl", &["units"])?.expect(0)?.line(NO_WRITE_ONLY)?;
        before.wait_for_return()
    }

    /// That more than a buffer is neither mapped for the device nor for the process.
    pub fn more_than_a_buffer_is_refused(&self) -> Outcome {
        let before = Traces::now()?;
        let end = self.edud(&["--over-map"])?.expect(0)?;
        for whom in ["for the device", "for this process"] {
            let line = end.line(whom)?;
            let refused = line.ends_with("refused: the range reaches beyond the end of the buffer");
            require!(refused, "it said {line:?}");
        }
        before.wait_for_return()
    }

    /// That a handle works in the process that it was passed to, which names no device: it is that of the handle.
    pub fn a_passed_handle_works(&self, child: &[&str]) -> Outcome {
        let before = Traces::now()?;
        let words = [&["--pass-to"], child, &["--rounds", "1"]].concat();
        let end = self.edud(&words)?.expect(0)?;
        require!(end.line("round 1/1")?.ends_with("intact"), "the data is not intact");
        before.wait_for_return()
    }

    /// That each table is there as text and as JSON, and that both say the same.
    pub fn reports_are_tables_and_json(&self) -> Outcome {
        // Something to show in each.
        self.edud(&["--rogue", "read"])?.expect(0)?;
        let _driver = self.hold()?;
        for (report, first, last, field) in REPORTS {
            if report == "faults" && !self.tells {
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
        let told = !self.tells || faults.line(&self.device)?.contains(" read ");
        require!(told, "{:?}", faults.lines);
        Ok(())
    }
}

/// How many accesses were blocked, as far as they are listed.
pub fn faults() -> Outcome<u64> {
    Ok(reports::rows::<Fault>("faults")?.iter().map(|fault| fault.times).sum())
}

/// The address that a rogue's device put on the bus, where it was blocked.
pub fn address_of(end: &End) -> Outcome<u64> {
    let line = end.line(": blocked (")?;
    let mut words = line.split([' ', ':']);
    let address = words.find_map(parse_address);
    address.ok_or_else(|| Failure(format!("there is no address in {line:?}")))
}
