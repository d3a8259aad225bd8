//! Which limit a request was refused by, as [`Opcode::Limit`](super::call::Opcode::Limit) tells it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

codes! {
    /// What is counted and limited.
    Resource: u32 {
        /// Buffers, parts of peers' BARs and explicit domains.
        Buffers = 1,
        /// Memory in buffers, in bytes.
        BufferBytes = 2,
        /// Mapped bytes. Memory that is mapped twice counts twice.
        MappedBytes = 3,
        /// Bytes of I/O addresses, those included that wait for the IOMMU to forget them.
        IovaBytes = 4,
        /// Mappings.
        Mappings = 5,
        /// Memory in page tables, in bytes: 4096 for each.
        PageTableBytes = 6,
        /// Requests that wait for the IOMMU.
        Requests = 7,
        /// Unmaps that the IOMMU has not confirmed.
        Operations = 8,
    }
}

codes! {
    /// Whose limit it is.
    Level: u32 {
        /// That of the handle, or of one that it was derived from; see [`Restrict`](super::derive::Restrict).
        Handle = 1,
        /// The device's, for whoever holds it.
        Device = 2,
        /// That of the user, for all devices together.
        User = 3,
    }
}

/// The limit that something was last refused by, on a handle or another one that counts on the same account; all zero if
/// nothing was since this was last asked.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Limit {
    /// A [`Resource`], or zero.
    pub resource: U32,
    /// A [`Level`].
    pub level: U32,
    /// How much may be held.
    pub limit: U64,
    /// How much was held.
    pub held: U64,
    /// How much more was wanted. Of page tables it is the least that was too much: how many a mapping takes is seen in
    /// making it.
    pub wanted: U64,
}
