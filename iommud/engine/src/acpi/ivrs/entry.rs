//! IVHD device entries: whose requests a unit translates, and under which ids.

use alloc::vec::Vec;
use core::fmt;
use core::mem;

use dma_types::SourceId;
use thiserror::Error;

use super::error::IvrsError;
use super::kind::EntryCode;
use super::named::{NamedDevice, Uid};
use super::raw::{RawAlias, RawEntry, RawExtended, RawNamed, RawSpecial};
use super::settings::{DteSettings, ExtendedSettings};
use crate::acpi::walk::{Entries, Entry};

/// Some devices of a unit: one entry, or the two that start and end a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// The lowest source-id of the devices.
    pub first: SourceId,
    /// The highest, which is one of them too.
    pub last: SourceId,
    /// The source-id that requests of these devices carry, if it is not their own.
    pub alias: Option<SourceId>,
    /// What is to be set in their device table entries, and in that of their alias.
    pub settings: DteSettings,
    /// More of that.
    pub extended: ExtendedSettings,
    /// What the devices are.
    pub kind: EntryKind,
}

/// What the devices of an entry are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// All that the segment can have: a unit that is for whatever no other names.
    All,
    /// PCI functions.
    Functions,
    /// Something that sends interrupts under the source-id, and no DMA.
    Special {
        /// What it is.
        kind: SpecialKind,
        /// The I/O APIC's id, or the HPET's number.
        handle: u8,
    },
    /// A device that ACPI enumerates.
    Named(NamedDevice),
}

/// What a special device is (its variety). The specification adds to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialKind {
    /// 1: an I/O APIC.
    IoApic,
    /// 2: an HPET.
    Hpet,
    /// One of a later revision.
    Unknown(u8),
}

impl From<u8> for SpecialKind {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::IoApic,
            2 => Self::Hpet,
            code => Self::Unknown(code),
        }
    }
}

impl fmt::Display for SpecialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::IoApic => "ioapic",
            Self::Hpet => "hpet",
            Self::Unknown(code) => return write!(f, "variety {code}"),
        })
    }
}

impl DeviceEntry {
    /// Whether this source-id is one of the devices'.
    pub fn names(&self, source: SourceId) -> bool {
        (self.first..=self.last).contains(&source)
    }

    /// How many source-ids the entry names, at least one.
    pub fn count(&self) -> u32 {
        u32::from(self.last.get().saturating_sub(self.first.get())) + 1
    }

    fn one(source: SourceId, settings: DteSettings, kind: EntryKind) -> Self {
        let extended = ExtendedSettings::new();
        Self { first: source, last: source, alias: None, settings, extended, kind }
    }
}

impl fmt::Display for DeviceEntry {
    /// What is meant: `04:00.0 to 04:1f.7 as 00:14.4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            EntryKind::All => return f.write_str("all"),
            EntryKind::Functions => {}
            EntryKind::Special { kind, handle } => write!(f, "{kind} {handle} at ")?,
            EntryKind::Named(device) => match &device.uid {
                Uid::None => write!(f, "acpi {} at ", device.hardware_id)?,
                uid => write!(f, "acpi {} {uid} at ", device.hardware_id)?,
            },
        }
        self.first.fmt(f)?;
        if self.last != self.first {
            write!(f, " to {}", self.last)?;
        }
        match self.alias {
            Some(alias) => write!(f, " as {alias}"),
            None => Ok(()),
        }
    }
}

/// A device entry is left out, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryFault {
    /// The start of a range, and what follows is not its end.
    #[error("it starts a range at {first} that no entry right after it ends")]
    NoEnd {
        /// Where the range starts.
        first: SourceId,
    },
    /// The end of a range that was not started.
    #[error("it ends a range at {last} that no entry right before it starts")]
    NoStart {
        /// Where the range ends.
        last: SourceId,
    },
    /// A range whose end comes before its start.
    #[error("it starts a range at {first} that ends before that, at {last}")]
    Backwards {
        /// Where the range starts.
        first: SourceId,
        /// Where it ends.
        last: SourceId,
    },
    /// A device that ACPI enumerates, without a `_HID`.
    #[error("it names a device of the ACPI namespace without a hardware id")]
    NoName,
    /// The `_UID` is a number of a length that numbers cannot have.
    #[error("its unique id is a number of {bytes} bytes, which should be 1 to 8")]
    UidLength {
        /// The length it gives.
        bytes: usize,
    },
    /// The `_UID` has a format that is not known.
    #[error("its unique id has format {format}, which is not known")]
    UidFormat {
        /// The format it gives.
        format: u8,
    },
    /// An entry of a type whose length only its own definition could tell.
    #[error(
        "its type {kind:#x} is not known, nor is how long such an entry is: what follows it in its block is lost"
    )]
    NoLength {
        /// The type of the entry.
        kind: u8,
    },
}

/// What a unit's device entries say.
pub(super) struct Parsed {
    /// The entries that make sense, in the order of the table.
    pub(super) sound: Vec<DeviceEntry>,
    /// The others, each with its offset from the start of the table.
    pub(super) refused: Vec<(usize, EntryFault)>,
    /// The types of those that are not known, likewise.
    pub(super) skipped: Vec<(usize, u8)>,
}

/// A walk along device entries.
#[derive(Default)]
struct Reader {
    sound: Vec<DeviceEntry>,
    refused: Vec<(usize, EntryFault)>,
    skipped: Vec<(usize, u8)>,
    open: Option<OpenRange>,
}

/// A range whose end is yet to come.
struct OpenRange {
    offset: usize,
    /// All of it but its end.
    range: DeviceEntry,
}

/// All device entries of a unit.
pub(super) fn parse_all(mut entries: Entries<'_>) -> Result<Parsed, IvrsError> {
    let mut reader = Reader::default();
    while let Some(entry) = entries.next::<RawEntry>()? {
        reader.take(&entry)?;
    }
    reader.leave_open_range();
    let Reader { sound, refused, skipped, .. } = reader;
    Ok(Parsed { sound, refused, skipped })
}

impl Reader {
    fn take(&mut self, entry: &Entry<'_, RawEntry>) -> Result<(), IvrsError> {
        let offset = entry.offset;
        let source = SourceId::new(entry.head.device.get());
        let settings = DteSettings::from_bits(entry.head.settings);
        let one = || DeviceEntry::one(source, settings, EntryKind::Functions);
        let code = EntryCode::from(entry.head.kind);
        if !matches!(code, EntryCode::Padding | EntryCode::RangeEnd) {
            self.leave_open_range();
        }
        match code {
            EntryCode::Padding => {}
            EntryCode::All => self.sound.push(DeviceEntry {
                first: SourceId::new(0),
                last: SourceId::new(u16::MAX),
                kind: EntryKind::All,
                ..one()
            }),
            EntryCode::Select => self.sound.push(one()),
            EntryCode::AliasSelect => self.sound.push(with_alias(one(), entry)?),
            EntryCode::ExtendedSelect => self.sound.push(with_more(one(), entry)?),
            EntryCode::RangeStart => self.open = Some(OpenRange { offset, range: one() }),
            EntryCode::AliasRangeStart => {
                self.open = Some(OpenRange { offset, range: with_alias(one(), entry)? });
            }
            EntryCode::ExtendedRangeStart => {
                self.open = Some(OpenRange { offset, range: with_more(one(), entry)? });
            }
            EntryCode::RangeEnd => self.end_range(offset, source),
            EntryCode::Special => {
                let (raw, _) = entry.fields::<RawSpecial>()?;
                let source = SourceId::new(raw.source.get());
                let kind = EntryKind::Special { kind: raw.variety.into(), handle: raw.handle };
                self.sound.push(DeviceEntry::one(source, settings, kind));
            }
            EntryCode::Named => {
                let (raw, uid) = entry.fields::<RawNamed>()?;
                match NamedDevice::parse(raw, uid.rest) {
                    Ok(device) => {
                        let kind = EntryKind::Named(device);
                        self.sound.push(DeviceEntry { kind, ..one() });
                    }
                    Err(fault) => self.refused.push((offset, fault)),
                }
            }
            EntryCode::Unknown(kind) => self.skipped.push((offset, kind)),
            EntryCode::UnknownLength(kind) => {
                self.refused.push((offset, EntryFault::NoLength { kind }));
            }
        }
        Ok(())
    }

    fn end_range(&mut self, offset: usize, last: SourceId) {
        match mem::take(&mut self.open) {
            None => self.refused.push((offset, EntryFault::NoStart { last })),
            Some(OpenRange { offset, range: DeviceEntry { first, .. } }) if last < first => {
                self.refused.push((offset, EntryFault::Backwards { first, last }));
            }
            Some(OpenRange { range, .. }) => self.sound.push(DeviceEntry { last, ..range }),
        }
    }

    /// What follows a start of a range is not its end, which refuses it.
    fn leave_open_range(&mut self) {
        if let Some(OpenRange { offset, range }) = mem::take(&mut self.open) {
            self.refused.push((offset, EntryFault::NoEnd { first: range.first }));
        }
    }
}

fn with_alias(device: DeviceEntry, entry: &Entry<'_, RawEntry>) -> Result<DeviceEntry, IvrsError> {
    let (raw, _) = entry.fields::<RawAlias>()?;
    Ok(DeviceEntry { alias: Some(SourceId::new(raw.alias.get())), ..device })
}

fn with_more(device: DeviceEntry, entry: &Entry<'_, RawEntry>) -> Result<DeviceEntry, IvrsError> {
    let (raw, _) = entry.fields::<RawExtended>()?;
    Ok(DeviceEntry { extended: ExtendedSettings::from_bits(raw.extended.get()), ..device })
}

#[cfg(test)]
#[path = "tests/entry.rs"]
mod tests;
