//! What the checker knows of: something that a driver was given for its device.

use alloc::sync::Arc;
use core::fmt;

use dma_types::{Access, Iova, PciAddress};

use super::Place;

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A [`Buffer`](crate::Buffer).
    Buffer,
    /// A [`Coherent`](crate::Coherent).
    Coherent,
    /// A block of a [`Pool`](crate::pool::Pool).
    Block,
    /// A streaming buffer.
    Stream,
    /// A scatter list.
    Scatter,
    /// Pieces of buffers, by [`Device::map`](crate::Device::map) or in a domain.
    Mapping,
    /// What was mapped through the raw layer.
    Raw,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Buffer => "the buffer",
            Self::Coherent => "the coherent memory",
            Self::Block => "the block of pool",
            Self::Stream => "the stream",
            Self::Scatter => "the scatter list",
            Self::Mapping => "the mapping of",
            Self::Raw => "the raw mapping",
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
    /// Whose it is.
    pub device: PciAddress,
    /// Where the device sees it, if it was mapped.
    pub iova: Option<Iova>,
    /// How long it is.
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
    /// `the stream "packet" (1500 bytes at 0x8002000, -w, from src/net.rs:17)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, label, iova, bytes, access, made, .. } = self;
        write!(f, "{kind} {label:?} ({bytes} {}", if *bytes == 1 { "byte" } else { "bytes" })?;
        if let Some(iova) = iova {
            write!(f, " at {iova}")?;
        }
        if let Some(access) = access {
            write!(f, ", {access}")?;
        }
        write!(f, ", from {made})")
    }
}
