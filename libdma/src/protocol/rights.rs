//! What a handle allows.

use bitflags::bitflags;

bitflags! {
    /// What a handle allows its holder. A derived handle has a subset (rule R3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rights: u32 {
        /// Device: allocate buffers.
        const ALLOCATE = 1 << 0;
        /// Device: map and unmap buffers that its session holds. Domain: map and unmap there.
        const MAP = 1 << 1;
        /// Buffer: see its memory, or let a device read it.
        const READ = 1 << 2;
        /// Buffer: change its memory, or let a device write it.
        const WRITE = 1 << 3;
        /// Any: ask what it is and what it holds.
        const INSPECT = 1 << 4;
        /// Any: offer it to other devices, by a [ticket](super::ticket).
        const SHARE = 1 << 5;
        /// Device: make [domains](super::domain) for it, and move it into one and back. Other devices enter a domain by a
        /// ticket of the domain's handle.
        const ATTACH = 1 << 6;
        /// Device: [reset](super::handle::Reset) it, and [revoke](super::handle::Revoke) what others have derived.
        const ADMINISTER = 1 << 7;
    }
}

impl Rights {
    /// What the opener of a device gets.
    pub const DEVICE: Self = Self::ALLOCATE
        .union(Self::MAP)
        .union(Self::ATTACH)
        .union(Self::ADMINISTER)
        .union(Self::BUFFER);

    /// What the handle of a domain can have.
    pub const DOMAIN: Self = Self::MAP.union(Self::INSPECT).union(Self::SHARE);

    /// What the handle of a buffer can have: all of it, for who allocated the buffer by a device handle that has
    /// all.
    pub const BUFFER: Self = Self::READ.union(Self::WRITE).union(Self::INSPECT).union(Self::SHARE);
}
