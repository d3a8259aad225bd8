//! A group: functions that can only be confined together.

use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use super::reason::Reason;

/// Functions that can only be confined together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The PCI segment of all of them.
    pub segment: u16,
    /// The functions, in order: devices, and the bridges that bind them. At least one.
    pub members: Vec<PciAddress>,
    /// How the members sign their requests by the time an IOMMU sees them, in order and each once: attaching
    /// the group means attaching each of these. There are none in a group of bridges alone.
    pub requesters: Vec<SourceId>,
    /// Why this is one group, and why it has requester-ids that are no member's own.
    pub reasons: Vec<Reason>,
}
