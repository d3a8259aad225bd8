//! A request that a unit refused, in words that do not depend on whose unit it is.

use core::fmt;

use dma_types::{Iova, PciAddress, SourceId};

/// One refused request.
///
/// Units record a limited number of these: that more were refused than recorded, a unit tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The function that made the request. Its segment is that of the unit; see [`Fault::in_segment`].
    pub device: SourceId,
    /// The address asked for, or no more of it than its page where the unit does not record the rest.
    /// Zero for an interrupt.
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
    /// To change memory at once: to read and write it.
    Atomic,
    /// To have a page mapped that is not.
    Page,
    /// To interrupt a processor.
    Interrupt,
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
    /// The unit gave a reason that the engine does not know.
    Unknown,
}

/// A unit's own number for a reason, as its specification lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCode {
    /// Of a VT-d unit: fault reason FR.
    Vtd(u8),
}

impl fmt::Display for FaultCode {
    /// `VT-d reason 5`. In hexadecimal from 10 on, as specification and other systems print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vtd(code @ 0..=9) => write!(f, "VT-d reason {code}"),
            Self::Vtd(code) => write!(f, "VT-d reason {code:#04x}"),
        }
    }
}

impl Fault {
    /// The function that made the request, in the whole machine.
    pub const fn device_in(&self, segment: u16) -> PciAddress {
        PciAddress::from_source(segment, self.device)
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
        write!(f, "{} was denied ", self.fault.device_in(self.segment))?;
        match tried {
            Tried::Read => write!(f, "a read of {address}")?,
            Tried::Write => write!(f, "a write to {address}")?,
            Tried::Atomic => write!(f, "an atomic operation on {address}")?,
            Tried::Page => write!(f, "the page at {address}")?,
            Tried::Interrupt => f.write_str("an interrupt")?,
        }
        write!(f, ": {detail} ({code})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const WRITE: Fault = Fault {
        device: SourceId::new(0x0010),
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
}
