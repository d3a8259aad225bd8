//! What the checker found.

use core::fmt;

use dma_types::{Access, Iova, PciAddress};

use super::{Place, Thing};
use crate::fault::Fault;

/// What the checker found: something that the driver did and should not have.
///
/// Each says itself in one sentence, with the label of what it is about and the places in the code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// Nobody gave it back.
    Leak {
        /// What lives on.
        thing: Thing,
        /// How the checker came to ask.
        found: Found,
    },
    /// It was given back, and then again.
    DoubleFree {
        /// What it was.
        thing: Thing,
        /// Where it was given back first; nothing if a guard did, when it was dropped.
        first: Option<Place>,
        /// Where it was given back again.
        again: Place,
    },
    /// Something was given back, synced, read or written that the checker never heard of.
    Unknown {
        /// Whose it should have been.
        device: PciAddress,
        /// The I/O address that was named.
        address: Iova,
        /// What was to happen to it.
        act: Act,
        /// Where.
        at: Place,
    },
    /// It was unmapped with another length than it was mapped with, or synced beyond its end.
    WrongSize {
        /// What it is.
        thing: Thing,
        /// The I/O address that was named.
        address: Iova,
        /// The length that was named.
        bytes: u64,
        /// What was to happen to it.
        act: Act,
        /// Where.
        at: Place,
    },
    /// It was unmapped or synced with another direction than it was mapped with.
    WrongDirection {
        /// What it is.
        thing: Thing,
        /// The direction that was named.
        access: Access,
        /// What was to happen to it.
        act: Act,
        /// Where.
        at: Place,
    },
    /// It was to be taken from the device, to which it was not left: the driver itself holds it.
    Held {
        /// What it is.
        thing: Thing,
        /// Where.
        at: Place,
    },
    /// The CPU read or wrote it while it was the device's.
    MissingSync {
        /// What it is.
        thing: Thing,
        /// Since where it was the device's.
        since: Place,
        /// What was done: [`Act::Read`] or [`Act::Write`].
        act: Act,
        /// Where.
        at: Place,
    },
    /// It was synced, read or written after it had been given back.
    UseAfterFree {
        /// What it was.
        thing: Thing,
        /// Where it was given back; nothing if a guard did, when it was dropped.
        freed: Option<Place>,
        /// What was done, or to be done.
        act: Act,
        /// Where.
        at: Place,
    },
    /// A block of a pool was written after it had been given back.
    WriteAfterFree {
        /// What it was.
        thing: Thing,
        /// Where it was given back; nothing if a guard did, when it was dropped.
        freed: Option<Place>,
        /// The first byte that changed.
        offset: u64,
        /// What is in it.
        value: u8,
        /// Where it was given out again, which is when it was found.
        again: Place,
    },
    /// The device was denied an access to what it may not reach so any more, or may not reach in this way.
    Fault {
        /// What the IOMMU blocked.
        fault: Fault,
        /// What is or was there.
        thing: Thing,
        /// Which byte of it; nothing where no more is known than the page.
        offset: Option<u64>,
        /// Whether it is there still.
        life: Life,
    },
}

/// How the checker came to find a leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was [asked](super::leaks).
    Asked,
    /// The last value of its pool was dropped.
    PoolDropped,
    /// Its [`RawStream`](crate::RawStream) was dropped.
    StreamDropped,
}

/// What was done with memory, or to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It was given back: unmapped, freed.
    GiveBack,
    /// It was synced, for the CPU or for the device.
    Sync,
    /// The CPU read it.
    Read,
    /// The CPU wrote it.
    Write,
}

/// Whether something is there still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is.
    Mapped,
    /// It was given back: where, if not by a guard that was dropped.
    Gone(Option<Place>),
}

impl Report {
    /// The device that it is about.
    pub fn device(&self) -> PciAddress {
        match self {
            Self::Unknown { device, .. } => *device,
            Self::Leak { thing, .. }
            | Self::DoubleFree { thing, .. }
            | Self::WrongSize { thing, .. }
            | Self::WrongDirection { thing, .. }
            | Self::Held { thing, .. }
            | Self::MissingSync { thing, .. }
            | Self::UseAfterFree { thing, .. }
            | Self::WriteAfterFree { thing, .. }
            | Self::Fault { thing, .. } => thing.device,
        }
    }

    /// What it is about, if the checker knows of it.
    pub fn thing(&self) -> Option<&Thing> {
        match self {
            Self::Unknown { .. } => None,
            Self::Leak { thing, .. }
            | Self::DoubleFree { thing, .. }
            | Self::WrongSize { thing, .. }
            | Self::WrongDirection { thing, .. }
            | Self::Held { thing, .. }
            | Self::MissingSync { thing, .. }
            | Self::UseAfterFree { thing, .. }
            | Self::WriteAfterFree { thing, .. }
            | Self::Fault { thing, .. } => Some(thing),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GiveBack => "given back",
            Self::Sync => "synced",
            Self::Read => "read by the CPU",
            Self::Write => "written by the CPU",
        })
    }
}

/// `at src/ring.rs:17`, or how else it went.
struct At(Option<Place>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, "at {place}"),
            None => f.write_str("when it was dropped"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device();
        match self {
            Self::Leak { thing, found } => {
                write!(f, "leak on {device}: {thing} ")?;
                f.write_str(match found {
                    Found::Asked => "has not been given back",
                    Found::PoolDropped => "was not given back before its pool was dropped",
                    Found::StreamDropped => "was not unmapped before its stream was dropped",
                })
            }
            Self::DoubleFree { thing, first, again } => {
                let first = At(*first);
                write!(
                    f,
                    "double free on {device}: {thing} was given back {first}, and again at {again}"
                )
            }
            Self::Unknown { address, act, at, .. } => {
                write!(
                    f,
                    "unknown address on {device}: {address} was {act} at {at}, and is nothing that was mapped"
                )
            }
            Self::WrongSize { thing, address, bytes, act, at } => {
                write!(
                    f,
                    "wrong size on {device}: {thing} was {act} as {bytes} bytes at {address}, at {at}"
                )
            }
            Self::WrongDirection { thing, access, act, at } => {
                write!(f, "wrong direction on {device}: {thing} was {act} as {access} at {at}")
            }
            Self::Held { thing, at } => {
                write!(
                    f,
                    "not the device's on {device}: {thing} was to be taken back at {at}, but the driver holds it"
                )
            }
            Self::MissingSync { thing, since, act, at } => {
                write!(
                    f,
                    "missing sync on {device}: {thing} was {act} at {at}, but is the device's since {since}"
                )
            }
            Self::UseAfterFree { thing, freed, act, at } => {
                let freed = At(*freed);
                write!(
                    f,
                    "use after free on {device}: {thing} was {act} at {at}, but was given back {freed}"
                )
            }
            Self::WriteAfterFree { thing, freed, offset, value, again } => {
                let freed = At(*freed);
                write!(
                    f,
                    "write after free on {device}: {thing} was given back {freed} and written since: byte {offset} \
                     is {value:#04x}, found when it was given out again at {again}"
                )
            }
            Self::Fault { fault, thing, offset, life } => {
                write!(f, "fault explained: {fault}; ")?;
                match offset {
                    Some(offset) => write!(f, "it is byte {offset} of {thing}, ")?,
                    None => write!(f, "in that page is {thing}, ")?,
                }
                match life {
                    Life::Mapped => f.write_str("which is mapped, but not for that"),
                    Life::Gone(at) => write!(f, "which was given back {}", At(*at)),
                }
            }
        }
    }
}
