//! What is odd about the machine, and what comes of it.

use alloc::string::String;
use core::fmt;

use dma_types::{PciAddress, PhysAddr};
use thiserror::Error;

use super::group::GroupFault;
use crate::acpi::dmar::ResolveError;
use crate::machine::reserved::ReservedRange;

/// Something odd about the machine that a person should know. It prints as a sentence with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The firmware's table: `DMAR` or `IVRS`.
    pub table: &'static str,
    /// The part of it that this is about, in bytes from the start of the table, as `iasl -d` prints them.
    pub offset: Option<usize>,
    /// What is odd.
    pub oddity: Oddity,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table)?;
        if let Some(offset) = self.offset {
            write!(f, " offset {offset:#x}")?;
        }
        write!(f, ": {}", self.oddity)
    }
}

/// What is odd, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Oddity {
    /// The table does not add up.
    #[error("the table's checksum is wrong; it is used all the same")]
    Checksum,
    /// The parser refused this part of the table. The text says what and why.
    #[error("{0}")]
    Refused(String),
    /// Two units have INCLUDE_PCI_ALL.
    #[error(
        "this unit covers what no other names in segment {segment:04x}, as the one at offset {first:#x} does already, which has it"
    )]
    SecondRest {
        /// The first of them, in bytes from the start of the table.
        first: usize,
        /// The PCI segment.
        segment: u16,
    },
    /// A unit with INCLUDE_PCI_ALL is not the last.
    #[error(
        "this unit covers what no other names in its segment and is not the last; it counts as the last"
    )]
    RestNotLast,
    /// A device scope cannot be followed.
    #[error("the device scope \"{scope}\" leads nowhere: {error}")]
    LostScope {
        /// The scope.
        scope: String,
        /// Why.
        error: ResolveError,
    },
    /// Memory that the table reserves is not mapped for its devices.
    #[error("the memory {range} is not reserved: {fault}")]
    Region {
        /// The memory.
        range: ReservedRange,
        /// Why not.
        fault: RegionRefusal,
    },
    /// The same memory is reserved for the same devices twice.
    #[error("the memory {range} is reserved at offset {first:#x} already")]
    RegionTwice {
        /// The memory.
        range: ReservedRange,
        /// Where that is, in bytes from the start of the table.
        first: usize,
    },
    /// A group that cannot be confined.
    #[error("the group of {first} cannot be attached: {fault}")]
    Group {
        /// Its first member.
        first: PciAddress,
        /// Why not.
        fault: GroupFault,
    },
    /// A function has appeared that cannot be placed.
    #[error("{function} has appeared and cannot be attached: {fault}")]
    Newcomer {
        /// The function.
        function: PciAddress,
        /// Why not.
        fault: NewcomerFault,
    },
}

/// Memory that firmware reserves cannot be, for what else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RegionRefusal {
    /// It is memory that iommud gives out.
    #[error("iommud's own memory at {0} is there")]
    OwnMemory(PhysAddr),
    /// It is registers of a unit.
    #[error("the registers of the IOMMU at {0} are there")]
    Registers(PhysAddr),
    /// It is where addresses mean interrupts.
    #[error("addresses there raise interrupts and reach no memory")]
    Interrupts,
}

/// A function that has appeared cannot be placed, for what is attached must not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NewcomerFault {
    /// It would make one of two groups.
    #[error("it could not be told apart from two groups, those of {0} and {1}, which are apart")]
    JoinsGroups(PciAddress, PciAddress),
    /// It is behind another unit than the rest of its group.
    #[error("it could not be told apart from {0}, which another IOMMU covers or none")]
    OtherUnit(PciAddress),
}
