//! A unit that the firmware's table names.

use alloc::string::String;
use alloc::vec::Vec;

use dma_types::{PciAddress, PhysAddr};
use thiserror::Error;

use crate::acpi::{Coverage, UnitFault};

/// A unit that the firmware's table names, whether it is to be used or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedUnit {
    /// Which of the table's `units` or `refused` it is; never [`Coverage::Nobody`].
    pub entry: Coverage,
    /// Where it starts, in bytes from the start of the table.
    pub offset: usize,
    /// Where its registers are said to be.
    pub base: PhysAddr,
    /// How many bytes of registers firmware says there are.
    pub register_bytes: u64,
    /// The PCI segment of its devices.
    pub segment: u16,
    /// The PCI function that it is, if it is one, as AMD's are.
    pub function: Option<PciAddress>,
    /// Whether it is for what no other unit of its segment names.
    pub has_the_rest: bool,
    /// What it names, in words: `bridge 00:1c.0/00.0 = 01:00.0`.
    pub scopes: Vec<String>,
    /// Why it is not to be used, if it is not.
    pub left_out: Option<LeftOut>,
}

/// A unit is not to be used, for this reason. What it covers is not confined, and nobody else's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LeftOut {
    /// What firmware says of it makes no sense.
    #[error(transparent)]
    Firmware(#[from] UnitFault),
    /// The administrator said so. The text is the reason given.
    #[error("the policy leaves it alone: {0}")]
    Policy(String),
}
