//! What kinds of block and device entry there are.

use core::fmt;

/// The kind of a block, by its type field. The specification adds to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// IVHD: an IOMMU.
    Unit(IvhdKind),
    /// IVMD: memory that is reserved for devices.
    Memory(IvmdKind),
    /// One of a later revision, or of firmware's own.
    Unknown(u8),
}

/// The types of IVHD, the poorest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IvhdKind {
    /// 10h.
    Type10,
    /// 11h: with the image of the extended feature registers.
    Type11,
    /// 40h: as 11h, and with devices that ACPI enumerates.
    Type40,
}

/// Which devices an IVMD is for, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvmdKind {
    /// 20h: all of them.
    All,
    /// 21h: one.
    One,
    /// 22h: a range.
    Range,
}

impl From<u8> for BlockKind {
    fn from(code: u8) -> Self {
        match code {
            0x10 => Self::Unit(IvhdKind::Type10),
            0x11 => Self::Unit(IvhdKind::Type11),
            0x40 => Self::Unit(IvhdKind::Type40),
            0x20 => Self::Memory(IvmdKind::All),
            0x21 => Self::Memory(IvmdKind::One),
            0x22 => Self::Memory(IvmdKind::Range),
            code => Self::Unknown(code),
        }
    }
}

impl fmt::Display for BlockKind {
    /// The specification's four letters and the type, or the type alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unit(IvhdKind::Type10) => "IVHD 10h",
            Self::Unit(IvhdKind::Type11) => "IVHD 11h",
            Self::Unit(IvhdKind::Type40) => "IVHD 40h",
            Self::Memory(IvmdKind::All) => "IVMD 20h",
            Self::Memory(IvmdKind::One) => "IVMD 21h",
            Self::Memory(IvmdKind::Range) => "IVMD 22h",
            Self::Unknown(code) => return write!(f, "block of type {code:02X}h"),
        })
    }
}

/// The kind of a device entry, by its type field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryCode {
    /// 00h and 40h: nothing, of 4 and 8 bytes, so that what follows is aligned.
    Padding,
    /// 01h: all functions of the segment.
    All,
    /// 02h: one function.
    Select,
    /// 03h: the first of a range.
    RangeStart,
    /// 04h: the last of the range that the entry before starts.
    RangeEnd,
    /// 42h: one function, whose requests carry the id of another.
    AliasSelect,
    /// 43h: the first of a range of such.
    AliasRangeStart,
    /// 46h: one function, with more settings.
    ExtendedSelect,
    /// 47h: the first of a range of such.
    ExtendedRangeStart,
    /// 48h: a device that is no PCI function.
    Special,
    /// F0h: a device that ACPI enumerates.
    Named,
    /// One that is not known, of a length that follows from its type.
    Unknown(u8),
    /// One that is not known, of which only its own definition could tell the length.
    UnknownLength(u8),
}

impl From<u8> for EntryCode {
    fn from(code: u8) -> Self {
        match code {
            0x00 | 0x40 => Self::Padding,
            0x01 => Self::All,
            0x02 => Self::Select,
            0x03 => Self::RangeStart,
            0x04 => Self::RangeEnd,
            0x42 => Self::AliasSelect,
            0x43 => Self::AliasRangeStart,
            0x46 => Self::ExtendedSelect,
            0x47 => Self::ExtendedRangeStart,
            0x48 => Self::Special,
            0xf0 => Self::Named,
            0xf1.. => Self::UnknownLength(code),
            code => Self::Unknown(code),
        }
    }
}
