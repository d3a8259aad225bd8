//! A PCI function, as the engine sees it.

use alloc::vec::Vec;

use dma_types::SourceId;

use super::plan::PlannedDevice;
use super::{GroupId, ReservedRange};
use crate::completion::UnitId;
use crate::pci::Function;

/// A PCI function, as the engine sees it.
#[derive(Clone, Debug)]
pub struct Device {
    /// The function.
    pub function: Function,
    /// The unit that covers it, if one does.
    pub unit: Option<UnitId>,
    /// The memory that firmware reserves for it.
    pub reserved: Vec<ReservedRange>,
    /// How it signs its requests by the time an IOMMU sees them: with its own id, or that of a bridge.
    pub requesters: Vec<SourceId>,
    /// The group that it belongs to.
    pub group: GroupId,
}

impl Device {
    /// Whether it is a bridge or an IOMMU, which nobody opens.
    pub const fn is_infrastructure(&self) -> bool {
        self.function.bridge.is_some() || self.function.is_iommu()
    }
}

impl From<&PlannedDevice> for Device {
    fn from(planned: &PlannedDevice) -> Self {
        Self {
            function: planned.function,
            unit: planned.unit,
            reserved: planned.reserved.clone(),
            requesters: planned.requesters.clone(),
            group: GroupId(planned.group),
        }
    }
}
