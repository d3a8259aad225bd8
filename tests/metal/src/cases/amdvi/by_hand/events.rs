//! Events, written in the unit's place.
//!
//! QEMU up to version 10 has all of the event log but for the writing of events, and keeps what is written to the tail's
//! register: so a case may write what a unit would.

use bitfield_struct::bitfield;
use dma_types::{PAGE_SIZE, PhysAddr, SourceId};
use iommu_engine::platform::Platform;

use super::registers::{EventLogBase, register};
use super::tables::write_word;
use super::unit::Unit;
use crate::harness::Outcome;
use crate::require;

/// An event, in bytes.
const EVENT: u64 = 16;

/// IO_PAGE_FAULT, the first quadword. The second one is the address.
#[bitfield(u64)]
struct PageFault {
    device: u16,
    __: u16,
    domain: u16,
    #[bits(5)]
    __: u8,
    /// RW: it was a write.
    write: bool,
    #[bits(6)]
    __: u8,
    #[bits(4)]
    code: u8,
}

impl Unit {
    /// Logs that a device was denied a write, in a log of one frame.
    pub fn log_denied_write(
        &self,
        platform: &mut impl Platform,
        device: SourceId,
        address: u64,
    ) -> Outcome {
        let base = EventLogBase::from_bits(platform.read64(self.window, register::EVENT_LOG));
        let log = PhysAddr::new(base.page() << 12);
        let tail = platform.read64(self.window, register::EVENT_TAIL);
        require!(tail.is_multiple_of(EVENT) && tail < PAGE_SIZE, "the log ends at {tail:#x}");
        let event = PageFault::new().with_device(device.get()).with_write(true).with_code(2);
        let word = (tail / 8) as usize;
        write_word(platform, log, word, event.into_bits())?;
        write_word(platform, log, word + 1, address)?;
        platform.write64(self.window, register::EVENT_TAIL, (tail + EVENT) % PAGE_SIZE);
        Ok(())
    }
}
