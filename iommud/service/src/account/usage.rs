//! How much is held.

use iommu_engine::policy::Resource;

/// How much is held, or to be held: what [`Quotas`](iommu_engine::policy::Quotas) limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Buffers, windows of registers and explicit domains.
    pub buffers: u64,
    /// Memory in buffers, in bytes.
    pub buffer_bytes: u64,
    /// Mapped bytes.
    pub mapped_bytes: u64,
    /// Bytes of I/O addresses, those included that wait for hardware to forget them.
    pub iova_bytes: u64,
    /// Mappings.
    pub mappings: u64,
    /// Memory in page tables, in bytes.
    pub page_table_bytes: u64,
    /// Requests that are not answered yet.
    pub requests: u64,
    /// Unmaps that hardware has not confirmed yet.
    pub operations: u64,
}

impl Usage {
    /// Nothing.
    pub const NONE: Self = Self {
        buffers: 0,
        buffer_bytes: 0,
        mapped_bytes: 0,
        iova_bytes: 0,
        mappings: 0,
        page_table_bytes: 0,
        requests: 0,
        operations: 0,
    };

    /// How much of a resource.
    pub const fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Buffers => self.buffers,
            Resource::BufferBytes => self.buffer_bytes,
            Resource::MappedBytes => self.mapped_bytes,
            Resource::IovaBytes => self.iova_bytes,
            Resource::Mappings => self.mappings,
            Resource::PageTableBytes => self.page_table_bytes,
            Resource::Requests => self.requests,
            Resource::Operations => self.operations,
        }
    }

    /// Both together. What no machine can have counts as the most that there can be.
    pub const fn and(&self, other: &Self) -> Self {
        Self {
            buffers: self.buffers.saturating_add(other.buffers),
            buffer_bytes: self.buffer_bytes.saturating_add(other.buffer_bytes),
            mapped_bytes: self.mapped_bytes.saturating_add(other.mapped_bytes),
            iova_bytes: self.iova_bytes.saturating_add(other.iova_bytes),
            mappings: self.mappings.saturating_add(other.mappings),
            page_table_bytes: self.page_table_bytes.saturating_add(other.page_table_bytes),
            requests: self.requests.saturating_add(other.requests),
            operations: self.operations.saturating_add(other.operations),
        }
    }

    /// This without the other, which is a part of it.
    pub(super) const fn without(&self, other: &Self) -> Self {
        Self {
            buffers: less(self.buffers, other.buffers),
            buffer_bytes: less(self.buffer_bytes, other.buffer_bytes),
            mapped_bytes: less(self.mapped_bytes, other.mapped_bytes),
            iova_bytes: less(self.iova_bytes, other.iova_bytes),
            mappings: less(self.mappings, other.mappings),
            page_table_bytes: less(self.page_table_bytes, other.page_table_bytes),
            requests: less(self.requests, other.requests),
            operations: less(self.operations, other.operations),
        }
    }
}

/// The difference. To give back more than was taken is a mistake of ours, which tests are to see and no client is to suffer
/// from.
const fn less(held: u64, given_back: u64) -> u64 {
    debug_assert!(held >= given_back, "more was given back than was taken");
    held.saturating_sub(given_back)
}
