//! What the checker knows of: something that a driver was given for its device.

use alloc::sync::Arc;
use core::fmt;

use dma_types::{Access, Iova, PciAddress};

use super::Place;

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A [`Buffer`](crate::Buffer) or an [`UnmappedBuffer`](crate::UnmappedBuffer).
    Buffer,
    /// A [`Coherent`](crate::Coherent).
    Coherent,
    /// A [`Pool`](crate::pool::Pool).
    Pool,
    /// A block of a [`Pool`](crate::pool::Pool).
    Block,
    /// A [`StreamBuffer`](crate::StreamBuffer) while it is the CPU's.
    StreamMemory,
    /// A [`StreamBuffer`](crate::StreamBuffer) that is mapped, or a [`Bounced`](crate::stream::Bounced) slice.
    Stream,
    /// A segment of a mapped [`ScatterList`](crate::ScatterList).
    Scatter,
    /// Pieces of buffers, by [`Device::map`](crate::Device::map) or in a domain.
    Mapping,
    /// What was mapped through the raw layer.
    Raw,
    /// An [`Attachment`](crate::Attachment).
    Attachment,
    /// A [`SharedBuffer`](crate::SharedBuffer).
    Shared,
    /// [Declared](crate::declared) memory.
    Declared,
    /// A [`Domain`](crate::Domain).
    Domain,
    /// A device that is in a domain: [`Entered`](crate::Entered).
    Stay,
}

impl Kind {
    /// How it came to be.
    fn made(self) -> &'static str {
        match self {
            Self::Buffer | Self::Coherent | Self::Block | Self::StreamMemory => "allocated",
            Self::Stream | Self::Scatter | Self::Mapping | Self::Raw | Self::Shared => "mapped",
            Self::Attachment => "attached",
            Self::Pool | Self::Domain => "made",
            Self::Declared => "declared",
            Self::Stay => "begun",
        }
    }

    /// How it ends.
    pub(super) fn ended(self) -> &'static str {
        match self {
            Self::Stream | Self::Scatter | Self::Mapping | Self::Raw | Self::Shared => "unmapped",
            Self::Buffer | Self::Coherent | Self::Block | Self::StreamMemory => "given back",
            Self::Attachment | Self::Pool | Self::Domain => "dropped",
            Self::Declared => "released",
            Self::Stay => "ended",
        }
    }

    /// Whether it is memory that goes by what it is made of: of both, only this is told.
    pub(super) fn stands_for_its_memory(self) -> bool {
        matches!(self, Self::Stream | Self::Scatter | Self::Declared)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Buffer => "the buffer",
            Self::Coherent => "the coherent memory",
            Self::Pool => "the pool",
            Self::Block => "the block of pool",
            Self::StreamMemory => "the streaming memory",
            Self::Stream => "the stream",
            Self::Scatter => "the scatter list",
            Self::Mapping => "the mapping of",
            Self::Raw => "the raw mapping",
            Self::Attachment => "the attachment",
            Self::Shared => "the shared memory of",
            Self::Declared => "the declared memory",
            Self::Domain => "the domain",
            Self::Stay => "the device's stay in domain",
        })
    }
}

/// Something that a driver was given for its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// What kind of thing it is.
    pub kind: Kind,
    /// What the driver called it.
    pub label: Arc<str>,
    /// Whose it is. Nobody's where it is memory that another process shared with this one.
    pub device: Option<PciAddress>,
    /// Where the device sees it, if it was mapped.
    pub iova: Option<Iova>,
    /// How long it is; zero for what has no length.
    pub bytes: u64,
    /// What the device may do with it, if it was mapped.
    pub access: Option<Access>,
    /// Where in the code it was made.
    pub made: Place,
}

impl Thing {
    /// Which byte of it this address is, if it is one of its own.
    pub(super) fn offset_of(&self, address: Iova) -> Option<u64> {
        let offset = address.get().checked_sub(self.iova?.get())?;
        (offset < self.bytes).then_some(offset)
    }

    /// Whether any of it lies in the page of this address: no more than the page is known of some faults.
    pub(super) fn is_in_page_of(&self, address: Iova) -> bool {
        let page = address.page().get();
        self.iova.is_some_and(|iova| {
            let last = iova.get().saturating_add(self.bytes.saturating_sub(1));
            iova.page().get() <= page && page <= last
        })
    }
}

impl fmt::Display for Thing {
    /// `the stream "packet" (1500 bytes at 0x8002000 that the device may write, mapped at src/net.rs:17)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, label, iova, bytes, access, made, .. } = self;
        write!(f, "{kind} {label:?} (")?;
        if *bytes > 0 {
            write!(f, "{}", Bytes(*bytes))?;
            if let Some(iova) = iova {
                write!(f, " at {iova}")?;
            }
            if let Some(access) = access {
                write!(f, " that the device may {}", Words(*access))?;
            }
            f.write_str(", ")?;
        }
        write!(f, "{} at {made})", kind.made())
    }
}

/// `1 byte`, `1500 bytes`.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "byte" } else { "bytes" })
    }
}

/// What a device may do, in words.
pub(super) struct Words(pub(super) Access);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read and write",
        })
    }
}
