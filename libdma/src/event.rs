//! What happened to a device: accesses that were blocked, and whatever else its driver is to know of.
//!
//! [`Device::events`](crate::Device::events) reads it.
//!
//! ```
//! use libdma::{Access, Event};
//!
//! # let machine = simulated::Machine::amdvi();
//! # let device = machine.open();
//! let ring = device.buffer("ring").access(Access::Read).allocate(4096)?;
//! let address = ring.iova().unwrap();
//! # machine.device_writes(libdma::Iova::new(address.get() + 16), &[1]).unwrap_err();
//! // The device writes where it may read alone ...
//! for event in device.events()? {
//!     // 0000:00:02.0 was denied a write to 0x100010: the page is not mapped for writing; that is offset 0x10 of
//!     // buffer "ring", which is mapped for reading
//!     println!("{event}");
//!     let Event::Fault(fault) = event else { continue };
//!     let behind = fault.behind.unwrap();
//!     assert_eq!((behind.label.as_str(), behind.offset, behind.access), ("ring", 16, Access::Read));
//! }
//! # Ok::<(), libdma::Error>(())
//! ```
//!
//! # What iommud knows and what the checker knows
//!
//! A fault says what iommud has, or had, at its address: whole buffers and windows by their labels, whichever process
//! holding a handle of the session mapped them. The [checker](crate::check) of the process that reads the event says more
//! where it can: which block or stream in such a buffer it was, and where in the code it was mapped and unmapped.
//!
//! # Waiting for it
//!
//! A device's handle tells by itself when there is something to read, so that a driver can put its descriptor
//! (`device.handle().raw().number()`) into the event queue in which it waits for everything else:
//!
//! - on Redox, subscribe it to an event queue for `EVENT_READ`;
//! - on Linux, have it polled for input (`poll`, `epoll`).
//!
//! When it is readable, call [`Device::events`](crate::Device::events), which makes it unreadable again; there may
//! be nothing, if another holder of a handle to the same device was faster. It becomes readable once, with the first
//! event that is unread, and again only after this handle has been used to read. Nothing else makes a
//! device's handle readable, and it must not be read from in any other way. A handle
//! [within bounds](crate::Device::restricted) never becomes readable: events are for who has all of the device.

use core::fmt;
use core::time::Duration;

use alloc::vec::{IntoIter, Vec};

use dma_types::{PciAddress, SourceId, Span};

use crate::fault::Fault;
use crate::protocol::Error;
use crate::protocol::event::{EventKind, EventRecord};

/// Something that happened to a device. It prints as a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The IOMMU blocked an access, or several in a row that are the same.
    Fault(Fault),
    /// The device was denied so much that its IOMMU was told to record nothing more of it for a while. What it is denied
    /// meanwhile is blocked as ever, and counted by nobody.
    Silenced {
        /// When iommud had it silenced, since its start.
        at: Duration,
        /// Who signed the requests.
        requester: PciAddress,
        /// For how long.
        lasts: Duration,
    },
    /// The device was put in quarantine, by the administrator's policy: it reaches nothing and does not master the bus, and
    /// what would be mapped for it is [`Error::Quarantined`]. Nothing else is lost. `iommuctl release` ends it.
    /// Who resumes its session while the device is in there is told again.
    Quarantined {
        /// When, since iommud's start.
        at: Duration,
        /// For whose sake: the device itself, or another that no IOMMU can tell from it.
        requester: PciAddress,
        /// How many blocked accesses it is for.
        faults: u64,
        /// Within which time they were.
        within: Duration,
    },
    /// The quarantine has ended: the device reaches again what is mapped for it, and masters the bus if it did before. It has
    /// stood still, and is to be set up anew.
    Released {
        /// When, since iommud's start.
        at: Duration,
        /// The session's [generation](crate::Device::generation) since.
        generation: u64,
    },
    /// iommud was restarted, and libdma has gone on with what this process has: nothing of it is another, but the
    /// descriptors that an event queue watches are.
    ///
    /// What was not read by then of faults is lost, and nobody knows how many they were; nor are faults of mappings of before
    /// explained any more.
    Restarted {
        /// When, since the start of the iommud that there is now.
        at: Duration,
        /// The session's [generation](crate::Device::generation) since.
        generation: u64,
    },
    /// The device was reset, by whoever may [administer](crate::protocol::Rights::ADMINISTER) it: it is to be set up anew.
    DeviceReset {
        /// When, since iommud's start.
        at: Duration,
        /// The session's [generation](crate::Device::generation) since.
        generation: u64,
    },
}

/// What [`Device::events`](crate::Device::events) has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The events that had not been read, oldest first.
    pub events: Vec<Event>,
    /// How many blocked accesses are not among them, nor were told before: too many were unread, or the device made more
    /// than iommud tells one by one. Accesses that the IOMMU itself had no room to record do not count: nobody can
    /// tell whose they were.
    pub dropped: u64,
}

impl Events {
    /// The blocked accesses alone.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.events.iter().filter_map(|event| match event {
            Event::Fault(fault) => Some(fault),
            _ => None,
        })
    }
}

impl IntoIterator for Events {
    type Item = Event;
    type IntoIter = IntoIter<Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}

impl Event {
    /// When iommud learned of it, since its start.
    pub const fn at(&self) -> Duration {
        match self {
            Self::Fault(fault) => fault.at,
            Self::Silenced { at, .. }
            | Self::Quarantined { at, .. }
            | Self::Released { at, .. }
            | Self::DeviceReset { at, .. }
            | Self::Restarted { at, .. } => *at,
        }
    }

    /// The event in a record, of a device in this segment.
    pub(crate) fn from_record(segment: u16, record: &EventRecord) -> Result<Self, Error> {
        let [at, span] = [record.nanoseconds, record.span].map(|it| Duration::from_nanos(it.get()));
        let requester = PciAddress::from_source(segment, SourceId::new(record.source.get()));
        Ok(match EventKind::try_from(record.kind.get())? {
            EventKind::Fault => Self::Fault(Fault::from_record(segment, record)?),
            EventKind::Silenced => Self::Silenced { at, requester, lasts: span },
            EventKind::Quarantined => {
                Self::Quarantined { at, requester, faults: record.count.get(), within: span }
            }
            EventKind::Released => Self::Released { at, generation: record.count.get() },
            EventKind::DeviceReset => Self::DeviceReset { at, generation: record.count.get() },
            EventKind::Restarted => Self::Restarted { at, generation: record.count.get() },
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => {
                fault.fmt(f)?;
                match fault.behind {
                    Some(behind) => write!(f, "; {behind}"),
                    None if fault.is_of_memory() => {
                        f.write_str("; nothing that iommud remembers was mapped there")
                    }
                    None => Ok(()),
                }
            }
            Self::Silenced { requester, lasts, .. } => write!(
                f,
                "{requester} was denied too much to be told: what it is denied in the next {} is not recorded",
                Span(*lasts)
            ),
            Self::Quarantined { requester, faults, within, .. } => {
                let blocked = if *faults == 1 { "access" } else { "accesses" };
                write!(
                    f,
                    "the device is in quarantine and reaches nothing: {requester} was denied {faults} {blocked} within \
                     {}; see `iommuctl devices`",
                    Span(*within)
                )
            }
            Self::Restarted { generation, .. } => {
                write!(f, "iommud was restarted: the session goes on, as number {generation}")
            }
            Self::DeviceReset { generation, .. } => write!(
                f,
                "the device was reset: set it up anew, its session is number {generation} now"
            ),
            Self::Released { generation, .. } => write!(
                f,
                "the device was released from quarantine: set it up anew, its session is number {generation} now"
            ),
        }
    }
}
