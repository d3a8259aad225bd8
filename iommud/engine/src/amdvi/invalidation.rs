//! What can be invalidated.

use dma_types::SourceId;

use crate::blocks::PageBlock;
use crate::unit::{DomainId, Touched};

/// Something that a unit is to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Everything. For a unit that has the command
    /// ([`ExtendedFeatures::invalidate_all`](super::registers::ExtendedFeatures::invalidate_all)).
    All,
    /// The device table entry of one requester.
    Device(SourceId),
    /// The translations of one domain, and its tables.
    Domain(DomainId),
    /// The translations of some pages of one domain.
    Pages {
        /// The domain.
        domain: DomainId,
        /// The pages. Large pages must lie in them whole.
        pages: PageBlock,
        /// What changed in its table.
        touched: Touched,
    },
    /// The interrupt remapping table of one requester.
    Interrupts(SourceId),
}
