//! What the checker found.

use alloc::sync::Arc;
use core::fmt;

use dma_types::{Access, Iova, PciAddress};

use super::thing::{Bytes, Words};
use super::{Kind, Place, Thing};
use crate::fault::{Fault, Tried};
use crate::io_address::WrongDevice;

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
    /// One call was to unmap it twice, and unmapped nothing.
    NamedTwice {
        /// What it is.
        thing: Thing,
        /// Where.
        at: Place,
    },
    /// Something was given back, synced, read or written that the checker never heard of.
    Unknown {
        /// Whose it should have been.
        device: Option<PciAddress>,
        /// The I/O address that was named.
        address: Iova,
        /// What was to happen to it.
        act: Act,
        /// Where.
        at: Place,
    },
    /// What was to be given back is none by itself: the address is one in the middle of what is.
    Inside {
        /// What has the address in it.
        thing: Thing,
        /// The I/O address that was named.
        address: Iova,
        /// Where.
        at: Place,
    },
    /// It was named to another pool, or another raw stream, of its device than it is of.
    WrongOwner {
        /// What it is.
        thing: Thing,
        /// What that pool or stream is called.
        given_to: Arc<str>,
        /// What was to happen to it.
        act: Act,
        /// Where.
        at: Place,
    },
    /// An address was used with another device than the one that it is of, or in another domain.
    WrongDevice {
        /// What is at that address for the device that it is of, if the checker knows.
        thing: Option<Thing>,
        /// The I/O address that was named.
        address: Iova,
        /// Whose it is, and with what it was used.
        wrong: WrongDevice,
        /// What was to happen to it.
        act: Act,
        /// Where.
        at: Place,
    },
    /// It was unmapped with another length than it was mapped with, or synced, read or written beyond its end.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is, but not for such an access.
    Mapped,
    /// It is, but the device was in a domain, where it reaches nothing of its own.
    Away(Stay),
    /// It is, in a domain which the device had left.
    Left(Stay),
    /// It was given back: where, if not by a guard that was dropped.
    Gone(Option<Place>),
}

/// The time that a device was in a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// The stay itself, which is called as its domain is.
    pub thing: Thing,
    /// If it is over: where it ended, if not when it was dropped.
    pub left: Option<Option<Place>>,
}

impl Report {
    /// The device that it is about, if it is about one.
    pub fn device(&self) -> Option<PciAddress> {
        match self {
            Self::Unknown { device, .. } => *device,
            Self::WrongDevice { wrong, .. } => Some(wrong.given_to.device),
            _ => self.thing()?.device,
        }
    }

    /// What it is about, if the checker knows of it.
    pub fn thing(&self) -> Option<&Thing> {
        match self {
            Self::Unknown { .. } => None,
            Self::WrongDevice { thing, .. } => thing.as_ref(),
            Self::Leak { thing, .. }
            | Self::DoubleFree { thing, .. }
            | Self::NamedTwice { thing, .. }
            | Self::Inside { thing, .. }
            | Self::WrongOwner { thing, .. }
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

impl Act {
    /// What was to be done with it, in a word.
    fn of(self, kind: Kind) -> &'static str {
        match self {
            Self::GiveBack => kind.ended(),
            Self::Sync => "synced",
            Self::Read => "read by the CPU",
            Self::Write => "written by the CPU",
        }
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

impl Report {
    /// What is wrong, in a few words.
    fn title(&self) -> &'static str {
        let is_unmapped = self.thing().is_some_and(|thing| thing.kind.ended() == "unmapped");
        match self {
            Self::Leak { .. } => "leak",
            Self::DoubleFree { .. } if is_unmapped => "double unmap",
            Self::DoubleFree { .. } => "double free",
            Self::NamedTwice { .. } => "double unmap",
            Self::Unknown { .. } => "unknown address",
            Self::Inside { .. } => "wrong address",
            Self::WrongOwner { thing, .. } if thing.kind == Kind::Block => "wrong pool",
            Self::WrongOwner { .. } => "wrong stream",
            Self::WrongDevice { .. } => "wrong device",
            Self::WrongSize { .. } => "wrong size",
            Self::WrongDirection { .. } => "wrong direction",
            Self::Held { .. } => "not the device's",
            Self::MissingSync { .. } => "missing sync",
            Self::UseAfterFree { .. } if is_unmapped => "use after unmap",
            Self::UseAfterFree { .. } => "use after free",
            Self::WriteAfterFree { .. } => "write after free",
            Self::Fault { .. } => "fault explained",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())?;
        match (self, self.device()) {
            // A fault says itself whose it is, unless a bridge signed for the device.
            (Self::Fault { fault, .. }, Some(device)) if fault.requester == device => {}
            (_, None) => {}
            (_, Some(device)) => write!(f, " on {device}")?,
        }
        f.write_str(": ")?;
        match self {
            Self::Leak { thing, found } => {
                let ended = thing.kind.ended();
                match found {
                    Found::Asked if ended == "ended" => write!(f, "{thing} has not ended"),
                    Found::Asked => write!(f, "{thing} has not been {ended}"),
                    Found::PoolDropped => {
                        write!(f, "{thing} was not {ended} before its pool was dropped")
                    }
                    Found::StreamDropped => {
                        write!(f, "{thing} was not {ended} before its stream was dropped")
                    }
                }
            }
            Self::DoubleFree { thing, first, again } => {
                let (ended, first) = (thing.kind.ended(), At(*first));
                write!(f, "{thing} was {ended} {first}, and was to be again at {again}")
            }
            Self::NamedTwice { thing, at } => {
                write!(f, "{thing} was to be unmapped twice by the one call at {at}")
            }
            Self::Unknown { address, act, at, .. } => {
                let act = act.of(Kind::Buffer);
                write!(
                    f,
                    "{address} was to be {act} at {at}, but nothing that the checker knows of is or was there"
                )
            }
            Self::Inside { thing, address, at } => {
                let (act, offset) = (thing.kind.ended(), thing.offset_of(*address));
                let offset = offset.unwrap_or_default();
                write!(
                    f,
                    "{address} was to be {act} at {at}, but is byte {offset} of {thing}, which is {act} by the address \
                     of its first"
                )
            }
            Self::WrongOwner { thing, given_to, act, at } => {
                let to =
                    if thing.kind == Kind::Block { "to another pool" } else { "by another stream" };
                let act = act.of(thing.kind);
                write!(f, "{thing} was to be {act} at {at} {to}, {given_to:?}")
            }
            Self::WrongDevice { thing, address, wrong, act, at } => {
                match thing {
                    Some(thing) => write!(f, "{thing} of {}", wrong.of)?,
                    None => write!(f, "{address} of {}", wrong.of)?,
                }
                let act = act.of(thing.as_ref().map_or(Kind::Buffer, |thing| thing.kind));
                write!(f, " was to be {act} at {at} as an address of {}", wrong.given_to)
            }
            Self::WrongSize { thing, bytes, act: Act::GiveBack, at, .. } => {
                let (ended, bytes) = (thing.kind.ended(), Bytes(*bytes));
                write!(f, "{thing} was to be {ended} as {bytes} at {at}")
            }
            Self::WrongSize { thing, address, bytes, act, at } => {
                let (act, bytes) = (act.of(thing.kind), Bytes(*bytes));
                write!(
                    f,
                    "of {thing}, {bytes} from {address} on were to be {act} at {at}, which is beyond its end"
                )
            }
            Self::WrongDirection { thing, access, act, at } => {
                let (act, access) = (act.of(thing.kind), Words(*access));
                write!(f, "{thing} was to be {act} at {at} as memory that the device may {access}")
            }
            Self::Held { thing, at } => {
                write!(
                    f,
                    "{thing} was to be taken back from the device at {at}, but the driver holds it"
                )
            }
            Self::MissingSync { thing, since, act, at } => {
                let act = act.of(thing.kind);
                write!(
                    f,
                    "{thing} was to be {act} at {at}, but has been the device's since {since} and was not synced for \
                     the CPU"
                )
            }
            Self::UseAfterFree { thing, freed, act, at } => {
                let (act, ended, freed) = (act.of(thing.kind), thing.kind.ended(), At(*freed));
                write!(f, "{thing} was to be {act} at {at}, but was {ended} {freed}")
            }
            Self::WriteAfterFree { thing, freed, offset, value, again } => {
                let freed = At(*freed);
                write!(
                    f,
                    "{thing} was given back {freed} and has been written to since: byte {offset} is {value:#04x}, as \
                     was found when it was given out again at {again}"
                )
            }
            Self::Fault { fault, thing, offset, life } => {
                write!(f, "{fault}; ")?;
                match offset {
                    Some(offset) => write!(f, "that is byte {offset} of {thing}, ")?,
                    None => write!(f, "in that page is {thing}, ")?,
                }
                match life {
                    Life::Mapped => f.write_str(match fault.tried {
                        Tried::Read => "which is mapped, but not for reading",
                        Tried::Write => "which is mapped, but not for writing",
                        _ => "which is mapped, but not for that",
                    }),
                    Life::Away(stay) => {
                        write!(f, "which is out of the device's reach while it is in {stay}")
                    }
                    Life::Left(stay) => {
                        write!(f, "which the device reaches only while it is in {stay}")
                    }
                    Life::Gone(at) => write!(f, "which was {} {}", thing.kind.ended(), At(*at)),
                }
            }
        }
    }
}

impl fmt::Display for Stay {
    /// `domain "fixed", which it entered at src/main.rs:17 and left at src/main.rs:40`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Thing { label, made, .. } = &self.thing;
        match self.left {
            None => write!(f, "domain {label:?}, which it entered at {made}"),
            Some(left) => {
                write!(f, "domain {label:?}, which it entered at {made} and left {}", At(left))
            }
        }
    }
}
