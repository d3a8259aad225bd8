//! What is known of a handle.

use iommu_engine::platform::RunId;
use iommu_service::HandleId;
use libdma::protocol::Rights;
use libdma::protocol::derive::Restrict;

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Device,
    Domain,
    Buffer,
    PeerBar,
    Registration,
}

/// A handle, whose it is, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) handle: HandleId,
    pub(crate) what: What,
    /// The most that it may do.
    pub(crate) rights: Rights,
    pub(crate) client: usize,
    /// The session that it is of, as it was counted here.
    pub(crate) session: u64,
    /// Of a device its own domain, of a domain itself.
    pub(crate) domain: u64,
    /// Of a buffer its number.
    pub(crate) number: u64,
    /// Of a buffer its memory, where that is known.
    pub(crate) run: Option<RunId>,
    /// Where what is mapped by it lies.
    pub(crate) bounds: Bounds,
    /// What it was derived from.
    pub(crate) parent: Option<HandleId>,
}

/// The first and the last address at which a handle maps anything, and the most that a device may do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    first: u64,
    last: u64,
    access: u32,
}

impl Bounds {
    pub(crate) const NONE: Self = Self { first: 0, last: u64::MAX, access: 3 };

    /// Those of a handle that is derived from one with these.
    pub(crate) fn within(self, asked: &Restrict) -> Self {
        Self {
            first: self.first.max(asked.first.get()),
            last: self.last.min(asked.last.get()),
            access: self.access & asked.access.get(),
        }
    }

    /// Something may be mapped there.
    pub(crate) fn check(self, iova: u64, bytes: u64, access: u32) {
        let end = iova.checked_add(bytes - 1);
        let inside = iova >= self.first && end.is_some_and(|end| end <= self.last);
        assert!(inside, "R3: {bytes:#x} bytes at {iova:#x}, by a handle with {self:x?}");
        assert_eq!(access & !self.access, 0, "R3: access by a handle with {self:x?}");
    }
}
