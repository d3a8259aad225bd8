//! An access of a device's that was blocked, and what is behind it. [`crate::event`] tells how to learn of it.

use core::fmt;
use core::time::Duration;

use dma_types::{Access, Iova, PciAddress, SourceId, Span};

use crate::protocol::Error;
use crate::protocol::call::access_from_code;
use crate::protocol::event::{EventRecord, Place};
pub use crate::protocol::fault::{Reason, Tried};

/// An access that the IOMMU blocked, or several in a row that are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who signed the request: the device, or what is between it and the IOMMU and stands for it.
    pub requester: PciAddress,
    /// The I/O address, or no more of it than its page where the IOMMU does not record the rest.
    pub address: Iova,
    /// What it was for.
    pub tried: Tried,
    /// Why it was blocked.
    pub reason: Reason,
    /// How many times in a row.
    pub times: u64,
    /// When iommud first learned of it, since its start.
    pub at: Duration,
    /// The number of the domain that the device was in then, as `iommuctl domains` shows it; nothing if it was in none.
    pub domain: Option<u64>,
    /// What of this session's is or was mapped at the address, as far back as iommud remembers.
    pub behind: Option<Behind>,
}

/// What is or was mapped where a device was denied an access. It prints as a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Whether it is mapped there still.
    pub life: Life,
    /// The number of the buffer, as `iommuctl mappings` shows it.
    pub buffer: u64,
    /// What the buffer is called.
    pub label: Label,
    /// Which byte of the buffer the address is; no more than the first of a page where the IOMMU does not record the rest.
    pub offset: u64,
    /// What the device may or might do there: the direction.
    pub access: Access,
    /// The domain that it is or was mapped in, which need not be the one that the device was in.
    pub domain: u64,
    /// Whether that is the one that the device was in.
    pub is_within_reach: bool,
}

/// Whether something is mapped still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is. It does not allow the access, or did not when the device tried, or is out of the device's reach in another
    /// domain.
    Mapped,
    /// It is not any more.
    Unmapped {
        /// How long before iommud learned of the access it was unmapped.
        before: Duration,
    },
    /// It is, and ends just before the address: the device went on behind it.
    Beyond,
}

/// What a buffer is called: at most 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Label {
    bytes: [u8; 32],
    length: u8,
}

impl Label {
    /// The label in these bytes, padded with zeroes, if it is text.
    fn new(bytes: [u8; 32]) -> Option<Self> {
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        core::str::from_utf8(&bytes[..length]).ok()?;
        Some(Self { bytes, length: length as u8 })
    }

    /// It as text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length.into()).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Fault {
    /// The fault in a record, of a device in this segment.
    pub(crate) fn from_record(segment: u16, record: &EventRecord) -> Result<Self, Error> {
        let domain = Some(record.domain.get()).filter(|domain| *domain != 0);
        Ok(Self {
            requester: PciAddress::from_source(segment, SourceId::new(record.source.get())),
            address: Iova::new(record.address.get()),
            tried: record.tried.get().try_into()?,
            reason: record.reason.get().try_into()?,
            times: record.count.get(),
            at: Duration::from_nanos(record.nanoseconds.get()),
            domain,
            behind: Behind::from_record(record)?,
        })
    }

    /// Whether it was for memory at its address.
    pub(crate) const fn is_of_memory(&self) -> bool {
        !matches!(self.tried, Tried::Interrupt | Tried::Internal)
    }
}

impl Behind {
    fn from_record(record: &EventRecord) -> Result<Option<Self>, Error> {
        let life = match Place::try_from(record.place.get())? {
            Place::Nothing => return Ok(None),
            Place::Mapped => Life::Mapped,
            Place::Unmapped => Life::Unmapped { before: Duration::from_nanos(record.span.get()) },
            Place::Beyond => Life::Beyond,
        };
        Ok(Some(Self {
            life,
            buffer: record.buffer.get(),
            label: Label::new(record.label).ok_or(Error::BadValue)?,
            offset: record.offset.get(),
            access: access_from_code(record.access.get())?,
            domain: record.within.get(),
            is_within_reach: record.within == record.domain,
        }))
    }
}

impl fmt::Display for Behind {
    /// `that was offset 0x10 of buffer "ring", which was mapped for writing and unmapped 15 µs before`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { life, buffer, label, offset, access, domain, is_within_reach } = self;
        let (that, is) = match life {
            Life::Mapped => ("is", "is"),
            Life::Unmapped { .. } => ("was", "was"),
            Life::Beyond => ("would be", "is"),
        };
        write!(f, "that {that} offset {offset:#x} of ")?;
        match label.as_str() {
            "" => write!(f, "buffer {buffer}")?,
            label => write!(f, "buffer {label:?}")?,
        }
        write!(f, ", which {is} mapped for ")?;
        f.write_str(match access {
            Access::Read => "reading",
            Access::Write => "writing",
            Access::ReadWrite => "reading and writing",
        })?;
        match life {
            Life::Mapped => {}
            Life::Unmapped { before } => write!(f, " and unmapped {} before", Span(*before))?,
            Life::Beyond => f.write_str(" and ends before it")?,
        }
        if *is_within_reach {
            return Ok(());
        }
        write!(f, ", in domain {domain}, which the device was not in")
    }
}

impl fmt::Display for Fault {
    /// `0000:00:02.0 was denied a write to 0x8002000: the page is not mapped for writing`, and how often if
    /// more than once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requester, address, tried, reason, times, .. } = self;
        write!(f, "{requester} was denied ")?;
        match tried {
            Tried::Read => write!(f, "a read of {address}")?,
            Tried::Write => write!(f, "a write to {address}")?,
            Tried::Access => write!(f, "access to {address}")?,
            Tried::Atomic => write!(f, "an atomic operation on {address}")?,
            Tried::Page => write!(f, "the page at {address}")?,
            Tried::Interrupt => f.write_str("an interrupt")?,
            Tried::Translation => write!(f, "the translation of {address}")?,
            Tried::Internal => write!(f, "what it was asked for at {address}")?,
        }
        write!(f, ": {reason}")?;
        if *times > 1 { write!(f, " ({times} times)") } else { Ok(()) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDomain => "the device reached nothing",
            Self::NotReadable => "the page is not mapped for reading",
            Self::NotWritable => "the page is not mapped for writing",
            Self::BeyondWidth => "the address has more bits than are translated",
            Self::Translated => "the device claimed to have translated the address",
            Self::InterruptRange => "interrupts go there",
            Self::Interrupt => "the interrupt was refused",
            Self::Mode => "the request came by a mode that is not in use",
            Self::DeviceTable => "the IOMMU could not read the device's entry",
            Self::PageTable => "the IOMMU could not read a page table",
            Self::Command => "the IOMMU could not carry out a command",
            Self::Unknown => "the IOMMU gave a reason that iommud does not know",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use alloc::string::ToString;
    use zerocopy::little_endian::{U16, U32, U64};

    const RECORD: EventRecord = EventRecord {
        kind: U32::new(1),
        place: U32::ZERO,
        address: U64::new(0x800_2000),
        nanoseconds: U64::new(1_500_000_000),
        count: U64::new(1),
        domain: U64::new(3),
        access: U32::ZERO,
        reserved: U32::ZERO,
        buffer: U64::ZERO,
        offset: U64::ZERO,
        span: U64::ZERO,
        within: U64::ZERO,
        label: [0; 32],
        source: U16::new(0x10),
        tried: U16::new(Tried::Write as u16),
        reason: U32::new(Reason::NotWritable as u32),
    };

    #[test]
    fn a_fault_reads_as_a_sentence_with_requester_address_and_direction() {
        let fault = Fault::from_record(1, &RECORD).unwrap();
        assert_eq!(fault.at, Duration::from_millis(1500));
        let sentence =
            "0001:00:02.0 was denied a write to 0x8002000: the page is not mapped for writing";
        assert_eq!(fault.to_string(), sentence);
        let often = Fault { times: 7, ..fault };
        assert_eq!(often.to_string(), alloc::format!("{sentence} (7 times)"));
    }

    #[test]
    fn r5_a_record_that_means_nothing_is_an_error() {
        let there = EventRecord { place: U32::new(1), access: U32::new(1), ..RECORD };
        assert!(Fault::from_record(0, &there).is_ok());
        for record in [
            EventRecord { tried: U16::ZERO, ..RECORD },
            EventRecord { reason: U32::new(99), ..RECORD },
            EventRecord { place: U32::new(99), ..RECORD },
            EventRecord { access: U32::ZERO, ..there },
            EventRecord { label: [0xff; 32], ..there },
        ] {
            assert_eq!(Fault::from_record(0, &record), Err(Error::BadValue), "{record:?}");
        }
    }

    /// What an event with this place says behind its fault.
    fn clause(record: EventRecord) -> alloc::string::String {
        let event = Event::from_record(0, &record).unwrap().to_string();
        event.split_once("; ").map_or_else(Default::default, |(_, clause)| clause.into())
    }

    #[test]
    fn an_event_says_what_is_or_was_behind_its_fault() {
        let mut label = [0; 32];
        label[..4].copy_from_slice(b"ring");
        let there = EventRecord {
            place: U32::new(Place::Mapped as u32),
            access: U32::new(1),
            buffer: U64::new(5),
            offset: U64::new(16),
            within: U64::new(3),
            label,
            ..RECORD
        };
        let gone = EventRecord {
            place: U32::new(Place::Unmapped as u32),
            access: U32::new(2),
            span: U64::new(15_300),
            ..there
        };
        let beyond = EventRecord {
            place: U32::new(Place::Beyond as u32),
            access: U32::new(3),
            offset: U64::new(4096),
            ..there
        };
        for (record, expected) in [
            (RECORD, "nothing that iommud remembers was mapped there"),
            (there, "that is offset 0x10 of buffer \"ring\", which is mapped for reading"),
            (
                EventRecord { label: [0; 32], ..there },
                "that is offset 0x10 of buffer 5, which is mapped for reading",
            ),
            (
                EventRecord { within: U64::new(7), ..there },
                "that is offset 0x10 of buffer \"ring\", which is mapped for reading, in domain 7, which the \
                 device was not in",
            ),
            (
                gone,
                "that was offset 0x10 of buffer \"ring\", which was mapped for writing and unmapped 15 µs before",
            ),
            (
                EventRecord { span: U64::new(2_500_000_000), ..gone },
                "that was offset 0x10 of buffer \"ring\", which was mapped for writing and unmapped 2500 ms before",
            ),
            (
                EventRecord { span: U64::new(250_000_000_000), within: U64::new(7), ..gone },
                "that was offset 0x10 of buffer \"ring\", which was mapped for writing and unmapped 250 s before, \
                 in domain 7, which the device was not in",
            ),
            (
                beyond,
                "that would be offset 0x1000 of buffer \"ring\", which is mapped for reading and writing and ends \
                 before it",
            ),
        ] {
            assert_eq!(clause(record), expected);
        }
        let internal = EventRecord { tried: U16::new(Tried::Internal as u16), ..RECORD };
        assert_eq!(clause(internal), "");
    }
}
