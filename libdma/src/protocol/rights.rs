//! What a handle allows.

use bitflags::bitflags;

bitflags! {
    /// What a handle allows its holder. A derived handle has a subset (rule R3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rights: u32 {
        /// Device: allocate buffers.
        const ALLOCATE = 1 << 0;
        /// Device: map and unmap buffers that its session holds, and move it between domains. Domain: map and unmap
        /// there.
        const MAP = 1 << 1;
        /// Buffer: see its memory, or let a device read it.
        const READ = 1 << 2;
        /// Buffer: change its memory, or let a device write it.
        const WRITE = 1 << 3;
        /// Any: ask what it is and what it holds.
        const INSPECT = 1 << 4;
        /// Any: offer it to other devices, by a [ticket](super::ticket).
        const SHARE = 1 << 5;
    }
}

impl Rights {
    /// What the opener of a device gets.
    pub const DEVICE: Self = Self::ALLOCATE.union(Self::MAP).union(Self::BUFFER);

    /// What the handle of a domain can have.
    pub const DOMAIN: Self = Self::MAP.union(Self::INSPECT).union(Self::SHARE);

    /// What the handle of a buffer can have: all of it, for who allocated the buffer by a device handle that has
    /// all.
    pub const BUFFER: Self = Self::READ.union(Self::WRITE).union(Self::INSPECT).union(Self::SHARE);
}
