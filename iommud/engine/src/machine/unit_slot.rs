//! A unit that the firmware's table names.

use dma_types::PhysAddr;

use crate::unit::{Unit, Unusable};

/// A unit that the firmware's table names, whether it can be used or not.
#[derive(Debug)]
pub struct UnitSlot {
    /// What it is: `VT-d` or `AMD-Vi`.
    pub kind: &'static str,
    /// Where its registers are said to be.
    pub base: PhysAddr,
    /// How many bytes of them firmware says there are.
    pub register_bytes: u64,
    /// The PCI segment of its devices.
    pub segment: u16,
    /// The unit, or why it is not used.
    pub unit: Result<Unit, Unusable>,
}
