//! A device like QEMU's `edu` (1234:11e8), by QEMU's `docs/specs/edu.rst` and its behaviour.
//!
//! Registers in BAR 0, 32 bits wide below 0x80, 32 or 64 from there on; reads of any other width give all
//! ones. Where QEMU lets a transfer run past the internal buffer, this device does nothing.

/// The bytes of BAR 0.
pub const BAR_BYTES: u64 = 1 << 20;
/// Where the device's buffer is in its own addresses, as DMA source or destination.
pub const BUFFER: u64 = 0x40000;
/// The bytes of the device's buffer.
pub const BUFFER_BYTES: u64 = 4096;

/// Register offsets in BAR 0.
mod offset {
    pub(super) const IDENTIFICATION: u64 = 0x00;
    pub(super) const LIVENESS: u64 = 0x04;
    pub(super) const FACTORIAL: u64 = 0x08;
    pub(super) const STATUS: u64 = 0x20;
    pub(super) const INTERRUPT_STATUS: u64 = 0x24;
    pub(super) const INTERRUPT_RAISE: u64 = 0x60;
    pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
    pub(super) const SOURCE: u64 = 0x80;
    pub(super) const DESTINATION: u64 = 0x88;
    pub(super) const COUNT: u64 = 0x90;
    pub(super) const COMMAND: u64 = 0x98;
}

/// The identification register: version 1.0 and 0xed.
const IDENTIFICATION: u32 = 0x0100_00ed;
/// Status bit 0: the factorial is being computed.
const COMPUTING: u32 = 0x01;
/// Status bit 7: raise an interrupt when it is done.
const INTERRUPT_WHEN_DONE: u32 = 0x80;
/// Interrupt status after a factorial.
const FACTORIAL_DONE: u32 = 0x001;
/// Interrupt status after a transfer.
const DMA_DONE: u32 = 0x100;
/// Command bit 0: a transfer is to start, or runs.
const RUN: u64 = 1;
/// Command bit 1: from the device to memory.
const TO_MEMORY: u64 = 2;
/// Command bit 2: raise an interrupt afterwards.
const INTERRUPT: u64 = 4;

/// A transfer that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// The address on the bus.
    pub(crate) address: u64,
    /// Where in the buffer.
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) to_memory: bool,
}

/// The device behind BAR 0.
#[derive(Clone, Debug)]
pub struct Edu {
    dma_nanos: u64,
    dma_mask: u64,
    liveness: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
    raised: bool,
    source: u64,
    destination: u64,
    count: u64,
    command: u64,
    started: u64,
    pub(crate) buffer: Box<[u8; BUFFER_BYTES as usize]>,
}

impl Edu {
    /// A device whose transfers take `dma_nanos` and which puts only the address bits of `dma_mask` on
    /// the bus.
    pub fn new(dma_nanos: u64, dma_mask: u64) -> Self {
        Self {
            dma_nanos,
            dma_mask,
            liveness: 0,
            factorial: 0,
            status: 0,
            interrupts: 0,
            raised: false,
            source: 0,
            destination: 0,
            count: 0,
            command: 0,
            started: 0,
            buffer: Box::new([0; BUFFER_BYTES as usize]),
        }
    }

    /// What a function-level reset leaves of it.
    pub fn reset(&mut self) {
        *self = Self::new(self.dma_nanos, self.dma_mask);
    }

    /// The device's own buffer.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer[..]
    }

    /// Whether the device holds its interrupt line, when MSI is off.
    pub fn interrupt_line(&self) -> bool {
        self.interrupts != 0
    }

    /// Reads `size` bytes (4 or 8) at `offset` of BAR 0.
    pub(crate) fn read(&self, offset: u64, size: usize) -> u64 {
        if !is_width(offset, size) {
            return u64::MAX;
        }
        match offset {
            offset::IDENTIFICATION => IDENTIFICATION.into(),
            offset::LIVENESS => self.liveness.into(),
            offset::FACTORIAL => self.factorial.into(),
            offset::STATUS => self.status.into(),
            offset::INTERRUPT_STATUS => self.interrupts.into(),
            offset::SOURCE => self.source,
            offset::DESTINATION => self.destination,
            offset::COUNT => self.count,
            offset::COMMAND => self.command,
            _ => u64::MAX,
        }
    }

    /// Writes `size` bytes (4 or 8) at `offset` of BAR 0, at `now`.
    pub(crate) fn write(&mut self, offset: u64, size: usize, value: u64, now: u64) {
        if !is_width(offset, size) {
            return;
        }
        let idle = self.command & RUN == 0;
        match offset {
            offset::LIVENESS => self.liveness = !(value as u32),
            offset::FACTORIAL if self.status & COMPUTING == 0 => {
                self.factorial = value as u32;
                self.status |= COMPUTING;
            }
            offset::STATUS => {
                let kept = self.status & !INTERRUPT_WHEN_DONE;
                self.status = kept | value as u32 & INTERRUPT_WHEN_DONE;
            }
            offset::INTERRUPT_RAISE => self.raise(value as u32),
            offset::INTERRUPT_ACKNOWLEDGE => self.interrupts &= !(value as u32),
            offset::SOURCE if idle => self.source = value,
            offset::DESTINATION if idle => self.destination = value,
            offset::COUNT if idle => self.count = value,
            offset::COMMAND if idle && value & RUN != 0 => {
                self.command = value;
                self.started = now;
            }
            _ => {}
        }
    }

    /// The transfer that is due by `now`. The machine does it and then calls [`Self::finish`].
    ///
    /// One that is not within the buffer is finished here, without effect.
    pub(crate) fn due(&mut self, now: u64) -> Option<Transfer> {
        self.compute();
        if self.command & RUN == 0 || now < self.started.saturating_add(self.dma_nanos) {
            return None;
        }
        let to_memory = self.command & TO_MEMORY != 0;
        let (inside, address) = if to_memory {
            (self.source, self.destination)
        } else {
            (self.destination, self.source)
        };
        let start = inside.wrapping_sub(BUFFER);
        if start > BUFFER_BYTES || self.count > BUFFER_BYTES - start {
            self.finish();
            return None;
        }
        let (start, bytes) = (start as usize, self.count as usize);
        Some(Transfer { address: address & self.dma_mask, start, bytes, to_memory })
    }

    /// The transfer is over.
    pub(crate) fn finish(&mut self) {
        self.command &= !RUN;
        if self.command & INTERRUPT != 0 {
            self.raise(DMA_DONE);
        }
    }

    /// Whether an interrupt was raised since this was last asked.
    pub(crate) fn take_raised(&mut self) -> bool {
        std::mem::take(&mut self.raised)
    }

    fn compute(&mut self) {
        if self.status & COMPUTING == 0 {
            return;
        }
        // From 34! on the product is a multiple of 2^32.
        let last = self.factorial.min(34);
        self.factorial = (1..=last).fold(1, u32::wrapping_mul);
        self.status &= !COMPUTING;
        if self.status & INTERRUPT_WHEN_DONE != 0 {
            self.raise(FACTORIAL_DONE);
        }
    }

    fn raise(&mut self, interrupts: u32) {
        self.interrupts |= interrupts;
        self.raised |= self.interrupts != 0;
    }
}

fn is_width(offset: u64, size: usize) -> bool {
    size == 4 || (size == 8 && offset >= offset::SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_identifies_itself_lives_and_computes() {
        let mut edu = Edu::new(0, u64::MAX);
        assert_eq!(edu.read(0, 4), 0x0100_00ed);
        assert_eq!(
            (edu.read(0, 8), edu.read(0, 2), edu.read(0x0c, 4)),
            (u64::MAX, u64::MAX, u64::MAX)
        );
        edu.write(4, 4, 0x1234_5678, 0);
        assert_eq!(edu.read(4, 4), 0xedcb_a987);
        edu.write(0x20, 4, 0x80, 0);
        edu.write(8, 4, 5, 0);
        assert_eq!(edu.read(0x20, 4), 0x81);
        edu.due(0);
        assert_eq!((edu.read(8, 4), edu.read(0x20, 4), edu.read(0x24, 4)), (120, 0x80, 1));
        edu.write(0x64, 4, 1, 0);
        assert_eq!(edu.read(0x24, 4), 0);
        edu.write(8, 4, u32::MAX.into(), 0);
        edu.due(0);
        assert_eq!(edu.read(8, 4), 0);
    }

    #[test]
    fn a_transfer_takes_its_time_and_locks_its_registers() {
        let mut edu = Edu::new(100, 0x0fff_ffff);
        edu.write(0x80, 8, 0x1_2345_6000, 0);
        edu.write(0x88, 8, 0x40010, 0);
        edu.write(0x90, 4, 16, 0);
        edu.write(0x98, 8, 4, 0);
        assert_eq!(edu.read(0x98, 8), 0, "without the run bit it is ignored");
        edu.write(0x98, 8, 5, 50);
        edu.write(0x90, 8, 99, 60);
        assert_eq!(edu.read(0x90, 8), 16);
        assert_eq!(edu.due(149), None);
        let transfer = Transfer { address: 0x0345_6000, start: 16, bytes: 16, to_memory: false };
        assert_eq!(edu.due(150), Some(transfer));
        edu.finish();
        assert_eq!((edu.read(0x98, 8), edu.read(0x24, 4)), (4, 0x100));
        assert!(edu.take_raised() && !edu.take_raised());
    }

    #[test]
    fn r5_a_transfer_outside_the_buffer_does_nothing() {
        for (at, count) in [(0x3ffff, 1), (0x40000, 4097), (0x41000, 1), (u64::MAX, 2), (0, 1)] {
            let mut edu = Edu::new(0, u64::MAX);
            edu.write(0x80, 8, at, 0);
            edu.write(0x90, 8, count, 0);
            edu.write(0x98, 8, 3, 0);
            assert_eq!(edu.due(0), None, "{at:#x} {count}");
            assert_eq!(edu.read(0x98, 8), 2);
        }
    }
}
