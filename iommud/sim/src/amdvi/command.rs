//! The command buffer: AMD 48882, 2.4.

use bitfield_struct::bitfield;
use dma_types::SourceId;

use super::cache::Range;
use super::config::AmdviConfig;
use super::event::{EventCode, EventLow, MASTER_ABORT};
use super::log::distance;
use super::registers::RingBase;
use super::unit::{AmdviUnit, Violation};
use crate::dram::Bus;

/// The bytes of a command.
const COMMAND: u64 = 16;

/// The registers of the buffer, and whether it runs.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pub(super) base: RingBase,
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) runs: bool,
    /// When CmdBufEn was cleared, while the buffer still runs.
    pub(super) stopping: Option<u64>,
    since: u64,
    looks: u32,
    done: u64,
}

/// COMPLETION_WAIT, 2.4.1; its upper word is the data that is stored.
#[bitfield(u64)]
struct Wait {
    /// s.
    store: bool,
    /// i.
    interrupt: bool,
    /// f.
    flush: bool,
    /// Store address, bits 51:3.
    #[bits(49)]
    address: u64,
    reserved: u8,
    #[bits(4)]
    opcode: u8,
}

/// INVALIDATE_DEVTAB_ENTRY, 2.4.2, and INVALIDATE_INTERRUPT_TABLE, 2.4.5; their upper words are reserved.
#[bitfield(u64)]
struct ForDevice {
    device: u16,
    #[bits(44)]
    reserved: u64,
    #[bits(4)]
    opcode: u8,
}

/// INVALIDATE_IOMMU_PAGES, 2.4.3: the lower word.
#[bitfield(u64)]
struct PagesLow {
    /// PASID, which needs GTSup.
    #[bits(20)]
    pasid: u32,
    #[bits(12)]
    reserved: u16,
    domain: u16,
    #[bits(12)]
    reserved_high: u16,
    #[bits(4)]
    opcode: u8,
}

/// INVALIDATE_IOMMU_PAGES, 2.4.3: the upper word.
#[bitfield(u64)]
struct PagesHigh {
    /// S.
    sized: bool,
    /// PDE.
    tables: bool,
    /// GN, which needs GTSup.
    guest: bool,
    #[bits(9)]
    reserved: u16,
    #[bits(52)]
    page: u64,
}

/// A command, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Wait { store: Option<(u64, u64)>, interrupt: bool },
    Device(u16),
    Pages(Range),
    DeviceTlb(u16),
    Interrupts,
    Prefetch,
    All,
}

/// Takes a command apart as a unit of this kind does; `None` for one that is illegal.
fn decode(low: u64, high: u64, unit: &AmdviConfig) -> Option<Command> {
    match low >> 60 {
        1 => {
            let it = Wait::from_bits(low);
            let store = it.store().then_some((it.address() << 3, high));
            (it.reserved() == 0).then_some(Command::Wait { store, interrupt: it.interrupt() })
        }
        2 => for_device(low, high).map(Command::Device),
        3 => {
            let (it, at) = (PagesLow::from_bits(low), PagesHigh::from_bits(high));
            let absent = it.pasid() != 0 || at.guest();
            let reserved = it.reserved() != 0 || it.reserved_high() != 0 || at.reserved() != 0;
            let address = at.page() << 12;
            // With S the lowest clear bit from bit 12 on is half the size.
            let bits = if at.sized() { (address | 0xfff).trailing_ones() as u8 + 1 } else { 12 };
            let range = Range { domain: it.domain(), address, bits, tables: at.tables() };
            (!absent && !reserved).then_some(Command::Pages(range))
        }
        4 if unit.device_tlb => Some(Command::DeviceTlb(low as u16)),
        5 => for_device(low, high).map(|_| Command::Interrupts),
        6 if unit.offered().prefetch() => Some(Command::Prefetch),
        8 if unit.offered().invalidate_all() => {
            (low == 8 << 60 && high == 0).then_some(Command::All)
        }
        _ => None,
    }
}

fn for_device(low: u64, high: u64) -> Option<u16> {
    let it = ForDevice::from_bits(low);
    (it.reserved() == 0 && high == 0).then_some(it.device())
}

impl AmdviUnit {
    /// Writes the base: head and tail start anew.
    pub(super) fn write_command_base(&mut self, value: u64) {
        if self.buffer.runs {
            self.violate(Violation::CommandBufferWhileRunning);
        }
        self.buffer.base = RingBase::from_bits(value);
        (self.buffer.head, self.buffer.tail) = (0, 0);
    }

    /// Writes the head, which software may do only while the buffer stands still.
    pub(super) fn write_command_head(&mut self, value: u64) {
        if self.buffer.runs {
            self.violate(Violation::CommandHeadWhileRunning);
        }
        self.buffer.head = value;
    }

    /// Writes the tail: there are commands up to there.
    pub(super) fn write_command_tail(&mut self, value: u64) {
        let (head, bytes) = (self.buffer.head, self.buffer.base.bytes());
        if value >= bytes || distance(head, value, bytes) < distance(head, self.buffer.tail, bytes)
        {
            self.violate(Violation::CommandTail);
        }
        self.buffer.tail = value;
        self.buffer.since = self.now;
    }

    /// Carries out the commands whose time has come.
    pub(super) fn step_commands(&mut self, bus: Bus<'_>) {
        if let Some(since) = self.buffer.stopping
            && self.config.timing.stop.is_done(since, self.now)
        {
            self.buffer.stopping = None;
            self.buffer.runs = false;
        }
        let timing = self.config.timing;
        let may_run = |unit: &Self| {
            let buffer = &unit.buffer;
            buffer.runs && buffer.stopping.is_none() && buffer.head != buffer.tail
        };
        if !may_run(self) || !timing.commands.is_done(self.buffer.since, self.now) {
            return;
        }
        if timing.looks_per_command > 0 {
            self.buffer.looks += 1;
            if self.buffer.looks < timing.looks_per_command {
                return;
            }
            self.buffer.looks = 0;
        }
        while may_run(self) {
            self.take_command(bus);
            if timing.looks_per_command > 0 {
                return;
            }
        }
    }

    /// The commands that it has not carried out, but of waits only where they write.
    pub(crate) fn untaken(&self, bus: Bus<'_>) -> Vec<(u64, u64)> {
        let bytes = self.buffer.base.bytes();
        let mut all = Vec::new();
        let mut at = self.buffer.head;
        while at != self.buffer.tail && at < bytes {
            let place = (self.buffer.base.page() << 12) + at;
            let low = bus.memory.read64(place).unwrap_or(0);
            let high = bus.memory.read64(place + 8).unwrap_or(0);
            all.push(match decode(low, high, &self.config) {
                Some(Command::Wait { store, .. }) => (0, store.map_or(0, |(address, _)| address)),
                _ => (low, high),
            });
            at = (at + COMMAND) % bytes;
        }
        all
    }

    fn take_command(&mut self, bus: Bus<'_>) {
        let (head, bytes) = (self.buffer.head, self.buffer.base.bytes());
        let at = (self.buffer.base.page() << 12) + head;
        let inside = self.buffer.tail < bytes && head < bytes;
        let whole = self.config.stop_after.is_none_or(|last| self.buffer.done < last);
        let words = Option::zip(bus.memory.read64(at), bus.memory.read64(at + 8));
        let Some((low, high)) = words.filter(|_| inside && whole) else {
            self.buffer.runs = false;
            let event = EventLow::of(EventCode::CommandError).with_kind(MASTER_ABORT);
            return self.log(bus, event, at);
        };
        let Some(command) = decode(low, high, &self.config) else {
            // The head stays at it.
            self.buffer.runs = false;
            return self.log(bus, EventLow::of(EventCode::IllegalCommand), at);
        };
        self.buffer.head = (head + COMMAND) % bytes;
        self.buffer.done += 1;
        self.counters.commands += 1;
        self.carry_out(bus, command, at);
    }

    fn carry_out(&mut self, bus: Bus<'_>, command: Command, at: u64) {
        match command {
            Command::Wait { store, interrupt } => {
                self.counters.waits += 1;
                if let Some((address, data)) = store {
                    let before = bus.memory.read64(address).unwrap_or(0);
                    for number in self.confirms.numbers(data, before) {
                        if !bus.memory.write(address, &number.to_le_bytes()) {
                            self.violate(Violation::StoreAddress);
                        }
                    }
                }
                if interrupt {
                    let was = self.status.wait_interrupt();
                    self.status.set_wait_interrupt(true);
                    if !was && self.control.wait_interrupt() {
                        self.interrupts += 1;
                    }
                }
                // From here on software believes that what it asked for is done.
                self.table_awaited = true;
            }
            Command::Device(device) => {
                self.counters.device_invalidations += 1;
                self.caches.drop_device(SourceId::new(device));
                self.check_entry(bus, SourceId::new(device));
            }
            Command::Pages(range) if range.bits > 64 => self.violate(Violation::InvalidationSize),
            Command::Pages(range) => {
                self.counters.page_invalidations += 1;
                self.caches.drop_range(range);
            }
            Command::DeviceTlb(device) => {
                let source = SourceId::new(device);
                self.log(bus, EventLow::by(EventCode::DeviceTlbTimeout, source), at);
            }
            Command::All => {
                self.counters.device_invalidations += 1;
                self.counters.page_invalidations += 1;
                self.caches.drop_all();
            }
            Command::Interrupts | Command::Prefetch => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_default(low: u64, high: u64) -> Option<Command> {
        decode(low, high, &AmdviConfig::default())
    }

    #[test]
    fn literal_commands_are_understood() {
        use Command::*;
        let wait = Wait { store: Some((0xf_0000_1008, 0xabcd)), interrupt: false };
        assert_eq!(decode_default(0x1000_000f_0000_1009, 0xabcd), Some(wait));
        let wait = Wait { store: None, interrupt: true };
        assert_eq!(decode_default(0x1000_0000_0000_0006, 7), Some(wait));
        assert_eq!(decode_default(0x2000_0000_0000_0110, 0), Some(Device(0x110)));
        let pages = |address, bits, tables| Some(Pages(Range { domain: 7, address, bits, tables }));
        assert_eq!(decode_default(0x3000_0007_0000_0000, 0x5000), pages(0x5000, 12, false));
        assert_eq!(decode_default(0x3000_0007_0000_0000, 0x4003), pages(0x4000, 13, true));
        assert_eq!(decode_default(0x3000_0007_0000_0000, 0x7_f001), pages(0x7_f000, 20, false));
        let all = 0x7fff_ffff_ffff_f003;
        assert_eq!(decode_default(0x3000_0007_0000_0000, all), pages(all & !0xfff, 64, true));
        assert_eq!(decode_default(0x5000_0000_0000_0110, 0), Some(Interrupts));
        assert_eq!(decode_default(0x8000_0000_0000_0000, 0), Some(All));
    }

    #[test]
    fn what_a_unit_does_not_know_is_illegal() {
        for (low, high) in [
            (0, 0),
            (0x1010_0000_0000_0000, 0),
            (0x2000_0000_0001_0000, 0),
            (0x2000_0000_0000_0000, 1),
            (0x3000_0000_0000_0001, 0),
            (0x3001_0000_0000_0000, 0),
            (0x3000_0000_0000_0000, 4),
            (0x3000_0000_0000_0000, 8),
            (0x4000_0000_0000_0000, 0),
            (0x6000_0000_0000_0000, 0),
            (0x7000_0000_0000_0000, 0),
            (0x8000_0000_0000_0001, 0),
            (0x9000_0000_0000_0000, 0),
        ] {
            assert_eq!(decode_default(low, high), None, "{low:#x} {high:#x}");
        }
        let rich = AmdviConfig { device_tlb: true, prefetch: true, ..AmdviConfig::default() };
        assert_eq!(decode(0x4 << 60 | 0x10, 0, &rich), Some(Command::DeviceTlb(0x10)));
        assert_eq!(decode(0x6 << 60, 0, &rich), Some(Command::Prefetch));
        let old = AmdviConfig { extended_features: false, ..AmdviConfig::default() };
        assert_eq!(decode(0x8 << 60, 0, &old), None);
    }
}
