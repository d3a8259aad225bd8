//! A request that a unit refused, in words that do not depend on whose unit it is.

use core::fmt;

use dma_types::{Iova, PciAddress, SourceId};

/// One refused request.
///
/// Units record a limited number of these: that more were refused than recorded, a unit tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The function that made the request. Its segment is that of the unit; see [`Fault::device_in`].
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn codes_read_as_specifications_print_them() {
        assert_eq!(FaultCode::Vtd(5).to_string(), "VT-d reason 5");
        assert_eq!(FaultCode::Vtd(0x25).to_string(), "VT-d reason 0x25");
        let amdvi = FaultCode::Amdvi { event: 2, flags: 0x020 };
        assert_eq!(amdvi.to_string(), "AMD-Vi event 0x2 flags 0x0020");
    }
}
