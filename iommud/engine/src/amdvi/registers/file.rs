//! Access to the registers.

use super::SegmentBase;
use crate::platform::{RegisterWindow, Registers};
pub(super) use crate::registers::register;
use crate::registers::{Readable, Word, Writable};

/// How many bytes of registers a unit has, without its performance counters (3.4).
pub const REGISTER_BYTES: usize = 0x4000;

/// Where the first of the seven device table segment base registers is, one after the other.
const SEGMENT_BASES: usize = 0x0100;

/// The registers of one unit, mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterFile {
    window: RegisterWindow,
}

impl RegisterFile {
    /// The registers behind this window, of [`REGISTER_BYTES`].
    pub const fn new(window: RegisterWindow) -> Self {
        Self { window }
    }

    /// Reads a register.
    pub fn read<R: Readable>(&self, platform: &mut impl Registers) -> R {
        R::from_word(R::Word::read(platform, self.window, R::OFFSET))
    }

    /// Writes a register.
    pub fn write<R: Writable>(&self, platform: &mut impl Registers, value: R) {
        value.into_word().write(platform, self.window, R::OFFSET);
    }

    /// Says where segment `index` of the device table is, 1 to 7. Segment 0 is
    /// [`DeviceTableBase`](super::DeviceTableBase)'s.
    pub fn write_segment(&self, platform: &mut impl Registers, index: usize, value: SegmentBase) {
        if (1..=7).contains(&index) {
            value.into_bits().write(platform, self.window, SEGMENT_BASES + (index - 1) * 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeRegisters, WINDOW};
    use super::super::*;
    use super::*;
    use dma_types::PhysAddr;

    #[test]
    fn every_register_is_where_the_spec_puts_it() {
        let mut platform = FakeRegisters::new();
        let file = RegisterFile::new(WINDOW);
        let on = &mut platform;
        let frame = PhysAddr::new(0x5000);
        file.write(on, DeviceTableBase::new().with_table(frame));
        file.write(on, CommandBufferBase(RingBase::new().with_start(frame)));
        file.write(on, EventLogBase(RingBase::new().with_start(frame)));
        file.write(on, Control::new().with_translation(true));
        file.write(on, ExclusionBase::new());
        file.write(on, ExclusionLimit::new());
        file.write(on, CommandBufferHead(RingPlace::new()));
        file.write(on, CommandBufferTail(RingPlace::new().with_entry(1)));
        file.write(on, EventLogHead(RingPlace::new().with_entry(2)));
        file.write(on, EventLogTail(RingPlace::new()));
        file.write(on, Status::new().with_event_overflow(true));
        for index in 0..=8 {
            file.write_segment(on, index, SegmentBase::new().with_pages_field(index as u8));
        }
        let segments = (1..=7).map(|index| (0xf8 + 8 * index, index as u64));
        let places = [
            (0x0000, 0x5000),
            (0x0008, 0x0800_0000_0000_5000),
            (0x0010, 0x0800_0000_0000_5000),
            (0x0018, 1),
            (0x0020, 0),
            (0x0028, 0),
            (0x2000, 0),
            (0x2008, 0x10),
            (0x2010, 0x20),
            (0x2018, 0),
            (0x2020, 1),
        ];
        assert!(platform.writes.iter().copied().eq(places.into_iter().chain(segments)));

        platform.set(0x0030, 0x40);
        assert!(file.read::<ExtendedFeatures>(&mut platform).invalidate_all());
    }
}
