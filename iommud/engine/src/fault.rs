//! A request that a unit refused, in words that do not depend on whose unit it is.

use core::fmt;

use dma_types::{Iova, PciAddress, SourceId};

/// One refused request.
///
/// Units record a limited number of these: that more were refused than recorded, a unit tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The function that made the request. Its segment is that of the unit; see [`Fault::in_segment`].
    /// `None` where the unit reports trouble that no device made.
    pub device: Option<SourceId>,
    /// The address asked for, or no more of it than its page where the unit does not record the rest.
    /// Zero for an interrupt. Where the unit could not read something of its own, where that is in memory.
    pub address: Iova,
    /// What the request was for.
    pub tried: Tried,
    /// Why it was refused.
    pub reason: FaultReason,
    /// The unit's own number for the reason.
    pub code: FaultCode,
    /// The unit's own reason in words: `the page is not mapped for writing`.
    pub detail: &'static str,
}

/// What a refused request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// To read memory.
    Read,
    /// To write memory.
    Write,
    /// To read or write memory: the unit does not tell which.
    Access,
    /// To change memory at once: to read and write it.
    Atomic,
    /// To have a page mapped that is not.
    Page,
    /// To interrupt a processor.
    Interrupt,
    /// To learn what an address is translated to.
    Translation,
    /// Nothing: the unit reports on its own work, such as a command that it could not carry out.
    Internal,
}

/// Why a request was refused, as far as it matters to anybody but the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultReason {
    /// The device is attached to no domain, so that it reaches nothing (rule R1).
    NoDomain,
    /// The page is not mapped, or not for reading.
    NotReadable,
    /// The page is not mapped, or not for writing.
    NotWritable,
    /// The address has more bits than the device's tables translate.
    BeyondWidth,
    /// The device claimed to have translated the address itself, which none may (rule R2).
    Translated,
    /// The request, or the page it was translated to, lies where interrupts go.
    InterruptRange,
    /// An interrupt was refused.
    Interrupt,
    /// The request carried a process address space id, or came by a mode that is never turned on.
    Mode,
    /// The unit could not make sense of the device's entries in its tables: a bug, or memory went bad.
    DeviceTable,
    /// The unit could not make sense of a page table: a bug, or memory went bad.
    PageTable,
    /// The unit could not carry out a command: a bug, or memory went bad.
    Command,
    /// The unit gave a reason that the engine does not know.
    Unknown,
}

/// A unit's own number for a reason, as its specification lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCode {
    /// Of a VT-d unit: fault reason FR.
    Vtd(u8),
    /// Of an AMD-Vi unit.
    Amdvi {
        /// The event code, 4 bits.
        event: u8,
        /// The flags beside it, 12 bits, which each event has for itself.
        flags: u16,
    },
}

impl fmt::Display for FaultCode {
    /// `VT-d reason 5`, in hexadecimal from 10 on, or `AMD-Vi event 0x2 flags 0x0020`, as specifications and
    /// other systems print them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vtd(code @ 0..=9) => write!(f, "VT-d reason {code}"),
            Self::Vtd(code) => write!(f, "VT-d reason {code:#04x}"),
            Self::Amdvi { event, flags } => {
                write!(f, "AMD-Vi event {event:#x} flags {flags:#06x}")
            }
        }
    }
}

impl Fault {
    /// The function that made the request, in the whole machine.
    pub fn device_in(&self, segment: u16) -> Option<PciAddress> {
        self.device.map(|source| PciAddress::from_source(segment, source))
    }

    /// The fault as a sentence, for a unit that serves this segment.
    pub const fn in_segment(&self, segment: u16) -> FaultSentence<'_> {
        FaultSentence { fault: self, segment }
    }
}

/// Prints a [`Fault`] as a sentence; see [`Fault::in_segment`].
#[derive(Clone, Copy, Debug)]
pub struct FaultSentence<'a> {
    fault: &'a Fault,
    segment: u16,
}

impl fmt::Display for FaultSentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { address, tried, code, detail, .. } = *self.fault;
        let Some(device) = self.fault.device_in(self.segment) else {
            return write!(f, "{detail}, at {address} ({code})");
        };
        write!(f, "{device} was denied ")?;
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
        write!(f, ": {detail} ({code})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const WRITE: Fault = Fault {
        device: Some(SourceId::new(0x0010)),
        address: Iova::new(0xdead_b000),
        tried: Tried::Write,
        reason: FaultReason::NotWritable,
        code: FaultCode::Vtd(5),
        detail: "the page is not mapped for writing",
    };

    #[test]
    fn a_fault_reads_as_a_sentence_with_device_address_and_direction() {
        assert_eq!(
            WRITE.in_segment(0).to_string(),
            "0000:00:02.0 was denied a write to 0xdeadb000: \
             the page is not mapped for writing (VT-d reason 5)"
        );
        let read = Fault { tried: Tried::Read, ..WRITE };
        assert!(read.in_segment(1).to_string().starts_with("0001:00:02.0 was denied a read of 0x"));
    }

    #[test]
    fn a_refused_interrupt_has_no_address() {
        let interrupt = Fault {
            address: Iova::new(0),
            tried: Tried::Interrupt,
            reason: FaultReason::Interrupt,
            code: FaultCode::Vtd(0x25),
            detail: "interrupts of the old format are blocked",
            ..WRITE
        };
        assert_eq!(
            interrupt.in_segment(0).to_string(),
            "0000:00:02.0 was denied an interrupt: \
             interrupts of the old format are blocked (VT-d reason 0x25)"
        );
    }

    #[test]
    fn trouble_that_no_device_made_names_none() {
        let command = Fault {
            device: None,
            address: Iova::new(0x1_2345_0040),
            tried: Tried::Internal,
            reason: FaultReason::Command,
            code: FaultCode::Amdvi { event: 5, flags: 0 },
            detail: "the unit does not know a command",
        };
        assert_eq!(command.device_in(0), None);
        assert_eq!(
            command.in_segment(0).to_string(),
            "the unit does not know a command, at 0x123450040 (AMD-Vi event 0x5 flags 0x0000)"
        );
    }
}
