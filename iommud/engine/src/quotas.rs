//! How much may be held at a time.

use core::fmt;

/// What one account may hold at a time: that of a device, of a user, or of a handle that was derived with less. What goes
/// beyond is refused and changes nothing (rule R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// How many buffers, parts of peers' BARs and explicit domains.
    pub buffers: u32,
    /// How much memory in those buffers, in bytes. One buffer alone has a limit of its own, which is not a
    /// matter of policy.
    pub buffer_bytes: u64,
    /// How many bytes are mapped. Memory that is mapped twice counts twice.
    pub mapped_bytes: u64,
    /// How many bytes of I/O addresses are in use: those that are mapped, and those that were unmapped until hardware has
    /// confirmed it.
    pub iova_bytes: u64,
    /// How many mappings there are.
    pub mappings: u32,
    /// How much memory is in page tables, in bytes: 4096 for each table, until hardware has confirmed that it walks it no
    /// more. Who made a table pays for it, whoever else comes to have mappings in it.
    pub page_table_bytes: u64,
    /// How many requests wait for hardware before they are answered.
    pub requests: u32,
    /// How many entries of batches hardware has not confirmed: mappings that were taken away, whose addresses are not free
    /// yet.
    pub operations: u32,
}

impl Quotas {
    /// As much of everything as there is.
    pub const UNLIMITED: Self = Self {
        buffers: u32::MAX,
        buffer_bytes: u64::MAX,
        mapped_bytes: u64::MAX,
        iova_bytes: u64::MAX,
        mappings: u32::MAX,
        page_table_bytes: u64::MAX,
        requests: u32::MAX,
        operations: u32::MAX,
    };

    /// How much of a resource; `None` where there is no limit.
    pub const fn of(&self, resource: Resource) -> Option<u64> {
        const fn count(count: u32) -> u64 {
            if count == u32::MAX { u64::MAX } else { count as u64 }
        }
        let limit = match resource {
            Resource::Buffers => count(self.buffers),
            Resource::BufferBytes => self.buffer_bytes,
            Resource::MappedBytes => self.mapped_bytes,
            Resource::IovaBytes => self.iova_bytes,
            Resource::Mappings => count(self.mappings),
            Resource::PageTableBytes => self.page_table_bytes,
            Resource::Requests => count(self.requests),
            Resource::Operations => count(self.operations),
        };
        if limit == u64::MAX { None } else { Some(limit) }
    }
}

impl Default for Quotas {
    /// Far above what drivers need, and low enough that one that leaks is stopped before the machine is.
    fn default() -> Self {
        Self {
            buffers: 4096,
            buffer_bytes: 4 << 30,
            mapped_bytes: 16 << 30,
            iova_bytes: 32 << 30,
            mappings: 1 << 20,
            page_table_bytes: 64 << 20,
            requests: 256,
            operations: 1 << 14,
        }
    }
}

/// What is counted and limited: a field of [`Quotas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// [`Quotas::buffers`].
    Buffers,
    /// [`Quotas::buffer_bytes`].
    BufferBytes,
    /// [`Quotas::mapped_bytes`].
    MappedBytes,
    /// [`Quotas::iova_bytes`].
    IovaBytes,
    /// [`Quotas::mappings`].
    Mappings,
    /// [`Quotas::page_table_bytes`].
    PageTableBytes,
    /// [`Quotas::requests`].
    Requests,
    /// [`Quotas::operations`].
    Operations,
}

impl Resource {
    /// Every one, in the order of the fields.
    pub const ALL: [Self; 8] = [
        Self::Buffers,
        Self::BufferBytes,
        Self::MappedBytes,
        Self::IovaBytes,
        Self::Mappings,
        Self::PageTableBytes,
        Self::Requests,
        Self::Operations,
    ];

    /// Its word in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buffers => "buffers",
            Self::BufferBytes => "buffer_bytes",
            Self::MappedBytes => "mapped_bytes",
            Self::IovaBytes => "iova_bytes",
            Self::Mappings => "mappings",
            Self::PageTableBytes => "page_table_bytes",
            Self::Requests => "requests",
            Self::Operations => "operations",
        }
    }

    /// Whether it is counted in bytes.
    pub const fn is_in_bytes(self) -> bool {
        matches!(
            self,
            Self::BufferBytes | Self::MappedBytes | Self::IovaBytes | Self::PageTableBytes
        )
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Quotas as far as they are said; what is not said stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaidQuotas {
    /// [`Quotas::buffers`].
    pub buffers: Option<u32>,
    /// [`Quotas::buffer_bytes`].
    pub buffer_bytes: Option<u64>,
    /// [`Quotas::mapped_bytes`].
    pub mapped_bytes: Option<u64>,
    /// [`Quotas::iova_bytes`].
    pub iova_bytes: Option<u64>,
    /// [`Quotas::mappings`].
    pub mappings: Option<u32>,
    /// [`Quotas::page_table_bytes`].
    pub page_table_bytes: Option<u64>,
    /// [`Quotas::requests`].
    pub requests: Option<u32>,
    /// [`Quotas::operations`].
    pub operations: Option<u32>,
}

impl SaidQuotas {
    /// Nothing is said.
    pub const NOTHING: Self = Self {
        buffers: None,
        buffer_bytes: None,
        mapped_bytes: None,
        iova_bytes: None,
        mappings: None,
        page_table_bytes: None,
        requests: None,
        operations: None,
    };

    /// What holds where these would hold without a word.
    pub fn over(&self, quotas: Quotas) -> Quotas {
        Quotas {
            buffers: self.buffers.unwrap_or(quotas.buffers),
            buffer_bytes: self.buffer_bytes.unwrap_or(quotas.buffer_bytes),
            mapped_bytes: self.mapped_bytes.unwrap_or(quotas.mapped_bytes),
            iova_bytes: self.iova_bytes.unwrap_or(quotas.iova_bytes),
            mappings: self.mappings.unwrap_or(quotas.mappings),
            page_table_bytes: self.page_table_bytes.unwrap_or(quotas.page_table_bytes),
            requests: self.requests.unwrap_or(quotas.requests),
            operations: self.operations.unwrap_or(quotas.operations),
        }
    }
}
