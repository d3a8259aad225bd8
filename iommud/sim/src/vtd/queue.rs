//! Queued invalidation: VT-d 3.1, 6.5.2 and 10.4.21 to 10.4.28.
//!
//! The queue and the status words are read and written coherently whatever ECAP.C says (10.4.3).

use bitfield_struct::bitfield;

use super::cache::{ContextScope, IotlbScope};
use super::command::{FUNCTION_MASKS, granularity, pages};
use super::config::VtdConfig;
use super::event::Event;
use super::registers::{InvalidateAddress, QueueAddress, QueueErrorRecord};
use super::unit::{Violation, VtdUnit};
use crate::dram::Bus;

/// The bytes in a descriptor.
const DESCRIPTOR: u64 = 16;

/// The bits of IQH and IQT that are an offset into the queue.
const OFFSET_BITS: u64 = 0x7_fff0;

/// Why a descriptor was not taken: the IQEI field of IQERCD_REG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum QueueError {
    Tail = 1,
    Fetch = 2,
    Type = 3,
    Reserved = 4,
    Width = 5,
}

/// The registers of the queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) address: QueueAddress,
    since: u64,
    /// ICS_REG.IWC.
    pub(super) wait_done: bool,
    pub(super) event: Event,
    pub(super) error: QueueErrorRecord,
}

impl Queue {
    fn bytes(&self) -> u64 {
        4096 << self.address.size()
    }
}

/// Context-cache invalidate descriptor, 6.5.2.1.
#[bitfield(u64)]
struct ContextDescriptor {
    #[bits(4)]
    kind: u8,
    #[bits(2)]
    granularity: u8,
    #[bits(10)]
    reserved: u16,
    domain: u16,
    source: u16,
    #[bits(2)]
    function_mask: u8,
    #[bits(14)]
    reserved_high: u16,
}

/// IOTLB invalidate descriptor, 6.5.2.3; its upper word is an [`InvalidateAddress`].
#[bitfield(u64)]
struct IotlbDescriptor {
    #[bits(4)]
    kind: u8,
    #[bits(2)]
    granularity: u8,
    drain_writes: bool,
    drain_reads: bool,
    reserved: u8,
    domain: u16,
    reserved_high: u32,
}

/// Device-TLB invalidate descriptor, 6.5.2.5.
#[bitfield(u64)]
struct DeviceDescriptor {
    #[bits(4)]
    kind: u8,
    #[bits(28)]
    other: u32,
    source: u16,
    other_high: u16,
}

/// Interrupt entry cache invalidate descriptor, 6.5.2.7.
#[bitfield(u64)]
struct InterruptDescriptor {
    #[bits(4)]
    kind: u8,
    selective: bool,
    #[bits(22)]
    reserved: u32,
    #[bits(5)]
    index_mask: u8,
    index: u16,
    reserved_high: u16,
}

/// Invalidation wait descriptor, 6.5.2.8; its upper word is the address of the status word.
#[bitfield(u64)]
struct WaitDescriptor {
    #[bits(4)]
    kind: u8,
    interrupt: bool,
    status_write: bool,
    fence: bool,
    #[bits(25)]
    reserved: u32,
    status: u32,
}

/// A descriptor, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Contexts(ContextScope),
    Pages(IotlbScope),
    DeviceTlb { source: u16 },
    InterruptEntries,
    Wait { interrupt: bool, status: Option<(u64, u32)> },
}

/// Takes a descriptor apart as a unit of this kind does.
fn decode(low: u64, high: u64, unit: &VtdConfig) -> Result<Command, QueueError> {
    let zero = |reserved: bool| if reserved { Ok(()) } else { Err(QueueError::Reserved) };
    // The type is bits 3:0 with bits 11:9 above them; no type of legacy mode has any of those set.
    match low & 0xf {
        1 => {
            let it = ContextDescriptor::from_bits(low);
            zero(it.reserved() == 0 && it.reserved_high() == 0 && high == 0)?;
            Ok(Command::Contexts(match it.granularity() {
                granularity::GLOBAL => ContextScope::Global,
                granularity::DOMAIN => ContextScope::Domain(it.domain()),
                granularity::SELECTIVE => ContextScope::Device {
                    domain: it.domain(),
                    source: it.source(),
                    mask: FUNCTION_MASKS[usize::from(it.function_mask() & 3)],
                },
                _ => return Err(QueueError::Reserved),
            }))
        }
        2 => {
            let it = IotlbDescriptor::from_bits(low);
            let address = InvalidateAddress::from_bits(high);
            zero(it.reserved() == 0 && it.reserved_high() == 0 && address.reserved() == 0)?;
            let can = unit.page_selective && address.mask() <= unit.max_address_mask;
            Ok(Command::Pages(match it.granularity() {
                granularity::GLOBAL => IotlbScope::Global,
                granularity::DOMAIN => IotlbScope::Domain(it.domain()),
                granularity::SELECTIVE if can => pages(it.domain(), address),
                _ => return Err(QueueError::Reserved),
            }))
        }
        3 if unit.device_tlb => {
            Ok(Command::DeviceTlb { source: DeviceDescriptor::from_bits(low).source() })
        }
        4 if unit.interrupt_remapping => {
            let it = InterruptDescriptor::from_bits(low);
            zero(it.reserved() == 0 && it.reserved_high() == 0 && high == 0)?;
            Ok(Command::InterruptEntries)
        }
        5 => {
            let it = WaitDescriptor::from_bits(low);
            zero(it.reserved() == 0 && high & 3 == 0)?;
            let status = it.status_write().then_some((high, it.status()));
            Ok(Command::Wait { interrupt: it.interrupt(), status })
        }
        _ => Err(QueueError::Type),
    }
}

impl VtdUnit {
    /// The queue was turned on or off: the head is at the start (10.4.21).
    pub(super) fn reset_queue(&mut self, on: bool) {
        self.queue.head = 0;
        self.queue.since = self.now;
        if on && self.queue.tail != 0 {
            self.violate(Violation::QueueTailNotZero);
        }
    }

    /// Writes IQT_REG.
    pub(super) fn write_tail(&mut self, value: u64) {
        self.queue.tail = value & OFFSET_BITS;
        self.queue.since = self.now;
    }

    /// Writes IQA_REG.
    pub(super) fn write_queue_address(&mut self, value: u64) {
        if self.status.queued_invalidation() {
            self.violate(Violation::QueueAddressWhileOn);
        }
        self.queue.address = QueueAddress::from_bits(value);
    }

    /// Whether there are descriptors that will yet be taken.
    pub(super) fn is_queue_busy(&self) -> bool {
        self.queue.head != self.queue.tail && !self.is_queue_stopped()
    }

    /// An error stops the queue until software clears its bit in FSTS (6.5.2.10).
    fn is_queue_stopped(&self) -> bool {
        let status = self.faults.status();
        status.queue_error() || status.completion_error() || status.timeout_error()
    }

    /// Takes all descriptors up to the tail, if their time has come.
    pub(super) fn step_queue(&mut self, bus: Bus<'_>) {
        if !self.config.timing.queue.is_done(self.queue.since, self.now) {
            return;
        }
        while self.status.queued_invalidation() && self.is_queue_busy() {
            if let Err(error) = self.take_descriptor(bus) {
                self.queue.error.set_queue_error(error as u8);
                let message = self.faults.raise(|status| status.set_queue_error(true));
                self.messages.extend(message);
            }
        }
    }

    fn take_descriptor(&mut self, bus: Bus<'_>) -> Result<(), QueueError> {
        let queue = &self.queue;
        if queue.tail >= queue.bytes() {
            return Err(QueueError::Tail);
        }
        if queue.address.wide() {
            return Err(QueueError::Width);
        }
        let at = (queue.address.page() << 12).wrapping_add(queue.head);
        let low = bus.memory.read64(at).ok_or(QueueError::Fetch)?;
        let high = bus.memory.read64(at + 8).ok_or(QueueError::Fetch)?;
        let command = decode(low, high, &self.config)?;
        self.queue.head = (queue.head + DESCRIPTOR) % queue.bytes();
        match command {
            Command::Contexts(scope) => self.drop_contexts(scope),
            Command::Pages(scope) => self.drop_pages(scope),
            Command::DeviceTlb { source } => self.time_out(source),
            Command::InterruptEntries => {}
            Command::Wait { interrupt, status } => {
                self.counters.waits += 1;
                if let Some((address, value)) = status {
                    let before = bus.memory.read64(address & !7).unwrap_or(0);
                    for number in self.confirms.numbers(value.into(), before) {
                        if !bus.memory.write(address, &(number as u32).to_le_bytes()) {
                            self.violate(Violation::StatusAddress);
                        }
                    }
                }
                if interrupt && !std::mem::replace(&mut self.queue.wait_done, true) {
                    self.messages.extend(self.queue.event.raise());
                }
            }
        }
        Ok(())
    }

    /// The descriptors that it has not taken, but of waits only where they write.
    pub(crate) fn untaken(&self, bus: Bus<'_>) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        let mut at = self.queue.head;
        while self.status.queued_invalidation() && at != self.queue.tail && at < self.queue.bytes()
        {
            let place = (self.queue.address.page() << 12).wrapping_add(at);
            let low = bus.memory.read64(place).unwrap_or(0);
            let high = bus.memory.read64(place + 8).unwrap_or(0);
            all.push(match decode(low, high, &self.config) {
                Ok(Command::Wait { status, .. }) => (0, status.map_or(0, |(address, _)| address)),
                _ => (low, high),
            });
            at = (at + DESCRIPTOR) % self.queue.bytes();
        }
        all
    }

    /// A device-TLB did not answer: no simulated device has one.
    fn time_out(&mut self, source: u16) {
        self.queue.error.set_timeout_source(source);
        let message = self.faults.raise(|status| status.set_timeout_error(true));
        self.messages.extend(message);
    }

    /// Makes the unit report an invalidation completion error (FSTS.ICE), as if this device had answered
    /// what it was not asked.
    pub fn inject_completion_error(&mut self, source: u16) {
        self.queue.error.set_completion_source(source);
        let message = self.faults.raise(|status| status.set_completion_error(true));
        self.messages.extend(message);
    }

    /// Writes ICS_REG: IWC is cleared by writing 1.
    pub(super) fn write_completion_status(&mut self, value: u32) {
        if value & 1 != 0 {
            self.queue.wait_done = false;
            self.queue.event.clear_pending();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_default(low: u64, high: u64) -> Result<Command, QueueError> {
        decode(low, high, &VtdConfig::default())
    }

    #[test]
    fn literal_descriptors_are_understood() {
        use Command::*;
        assert_eq!(decode_default(0x11, 0), Ok(Contexts(ContextScope::Global)));
        assert_eq!(decode_default(0x0007_0021, 0), Ok(Contexts(ContextScope::Domain(7))));
        let device = ContextScope::Device { domain: 7, source: 0x10, mask: 0b110 };
        assert_eq!(decode_default(0x0002_0010_0007_0031, 0), Ok(Contexts(device)));
        assert_eq!(decode_default(0xd2, 0), Ok(Pages(IotlbScope::Global)));
        assert_eq!(decode_default(0x0007_0022, 0), Ok(Pages(IotlbScope::Domain(7))));
        let pages = IotlbScope::Pages { domain: 7, page: 0x12345, mask: 9, leaf_only: true };
        assert_eq!(decode_default(0x0007_00f2, 0x1234_5049), Ok(Pages(pages)));
        let wait = Wait { interrupt: false, status: Some((0x5000, 0xabcd)) };
        assert_eq!(decode_default(0x0000_abcd_0000_0025, 0x5000), Ok(wait));
        assert_eq!(decode_default(0x55, 0), Ok(Wait { interrupt: true, status: None }));
    }

    #[test]
    fn what_a_unit_does_not_know_is_an_error() {
        assert_eq!(decode_default(0, 0), Err(QueueError::Type));
        assert_eq!(decode_default(0xf, 0), Err(QueueError::Type));
        assert_eq!(decode_default(3, 0), Err(QueueError::Type));
        assert_eq!(decode_default(4, 0), Err(QueueError::Type));
        for (low, high) in [
            (0x01, 0),
            (0x51, 0),
            (0x11, 1),
            (0x0004_0000_0000_0011, 0),
            (0x02, 0),
            (0x212, 0),
            (0x32, 0x80),
            (0x32, 19),
            (0x85, 0),
            (0x25, 1),
        ] {
            assert_eq!(decode_default(low, high), Err(QueueError::Reserved), "{low:#x} {high:#x}");
        }
        let coarse = VtdConfig { page_selective: false, ..VtdConfig::default() };
        assert_eq!(decode(0x32, 0, &coarse), Err(QueueError::Reserved));
        let remapping = VtdConfig { interrupt_remapping: true, ..VtdConfig::default() };
        assert_eq!(decode(4, 0, &remapping), Ok(Command::InterruptEntries));
        let device = VtdConfig { device_tlb: true, ..VtdConfig::default() };
        let command = Command::DeviceTlb { source: 0x10 };
        assert_eq!(decode(0x10_0000_0003, 0x1000, &device), Ok(command));
    }
}
