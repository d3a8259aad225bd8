//! Tables as ACPICA's disassembler decodes them.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A line of the disassembly: `[038h 0056   8]  Base Address : 00000000FEB80000`.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) offset: usize,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Some fields that belong together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part(pub(crate) Vec<Field>);

/// The fields of a table. `name` tells the files of one call from those of another.
pub(crate) fn disassemble(name: &str, table: &[u8]) -> Part {
    let input = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.dat"));
    let output = input.with_extension("dsl");
    fs::write(&input, table).unwrap();
    let ended = Command::new("/usr/bin/iasl").arg("-d").arg(&input).output().unwrap();
    assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
    // The table's texts may be in no encoding at all.
    let text = String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
    fs::remove_file(input).unwrap();
    fs::remove_file(output).unwrap();
    Part(text.lines().filter_map(field).collect())
}

fn field(line: &str) -> Option<Field> {
    let (place, rest) = line.strip_prefix('[')?.split_once(']')?;
    let (name, value) = rest.split_once(" : ")?;
    let offset = place.split_whitespace().next()?.trim_end_matches('h');
    Some(Field {
        offset: usize::from_str_radix(offset, 16).ok()?,
        name: name.trim().into(),
        value: value.into(),
    })
}

impl Part {
    /// Cuts the fields before each that has this name: what comes before the first, and the parts.
    pub(crate) fn split(self, name: &str) -> (Self, Vec<Self>) {
        let (mut before, mut parts) = (Self::default(), Vec::<Self>::new());
        for field in self.0 {
            if field.name == name {
                parts.push(Self::default());
            }
            parts.last_mut().unwrap_or(&mut before).0.push(field);
        }
        (before, parts)
    }

    /// Where the part starts, in bytes from the start of the table.
    pub(crate) fn offset(&self) -> usize {
        self.0[0].offset
    }

    /// The number in the first field of this name.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let field = self.0.iter().find(|field| field.name == name);
        let field = field.unwrap_or_else(|| panic!("iasl shows no {name:?} in {self:?}"));
        let digits = field.value.split_whitespace().next().unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{field:?}"))
    }
}

/// Values compared, and those that differ.
#[derive(Default)]
pub(crate) struct Comparison {
    compared: usize,
    differing: Vec<String>,
}

impl Comparison {
    /// Compares what was read with what iasl shows.
    pub(crate) fn same(&mut self, place: &str, ours: u64, theirs: u64) {
        self.compared += 1;
        if ours != theirs {
            self.differing.push(format!("{place}: {ours:#x} here, {theirs:#x} by iasl"));
        }
    }

    /// Shows the outcome, which must be that nothing differs.
    pub(crate) fn end(self, tables: usize) {
        for line in &self.differing {
            println!("{line}");
        }
        println!(
            "{tables} tables: {} values compared with iasl, {} differ",
            self.compared,
            self.differing.len()
        );
        assert!(self.compared > 0 && self.differing.is_empty());
    }
}
