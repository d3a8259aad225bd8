//! What a device was denied.
//!
//! # Waiting for it
//!
//! A device's handle tells by itself when there is something to read, so that a driver can put its descriptor
//! (`device.handle().raw().number()`) into the event queue in which it waits for everything else:
//!
//! - on Redox, subscribe it to an event queue for `EVENT_READ`;
//! - on Linux, have it polled for input (`poll`, `epoll`).
//!
//! When it is readable, call [`Device::faults`](crate::Device::faults), which makes it unreadable again; there may
//! be nothing, if another holder of a handle to the same device was faster. The event comes once, with the first
//! fault that is unread, and again only after this handle has been used to read. Nothing else makes a
//! device's handle readable, and it must not be read from in any other way.

use core::fmt;
use core::time::Duration;

use alloc::vec::Vec;

use dma_types::{Iova, PciAddress, SourceId};

use crate::protocol::Error;
use crate::protocol::fault::FaultRecord;
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
}

/// What [`Device::faults`](crate::Device::faults) has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The faults that had not been read, oldest first.
    pub faults: Vec<Fault>,
    /// How many blocked accesses were dropped before these, because too many were unread. Accesses that
    /// the IOMMU itself had no room to record are not among them: nobody can tell whose they were.
    pub dropped: u64,
}

impl Fault {
    /// The fault in a record, of a device in this segment.
    pub(crate) fn from_record(segment: u16, record: &FaultRecord) -> Result<Self, Error> {
        Ok(Self {
            requester: PciAddress::from_source(segment, SourceId::new(record.source.get())),
            address: Iova::new(record.address.get()),
            tried: record.tried.get().try_into()?,
            reason: record.reason.get().try_into()?,
            times: record.times.get(),
            at: Duration::from_nanos(record.nanoseconds.get()),
        })
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
    use alloc::string::ToString;
    use zerocopy::little_endian::{U16, U32, U64};

    const RECORD: FaultRecord = FaultRecord {
        address: U64::new(0x800_2000),
        nanoseconds: U64::new(1_500_000_000),
        times: U64::new(1),
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
        let record = FaultRecord { tried: U16::ZERO, ..RECORD };
        assert_eq!(Fault::from_record(0, &record), Err(Error::BadValue));
        let record = FaultRecord { reason: U32::new(99), ..RECORD };
        assert_eq!(Fault::from_record(0, &record), Err(Error::BadValue));
    }
}
