//! Where the registers are, and access to each in its own width.

use crate::platform::{RegisterWindow, Registers};
pub(super) use crate::registers::register;
use crate::registers::{Readable, Word, Writable};
use crate::vtd::fault::FaultRecord;
use crate::vtd::probe::{UnitCapabilities, UnitRefusal};

use super::{InvalidateAddress, IotlbInvalidate};

/// The first byte after the registers that every unit has in the same place: IRTA_REG, at 0B8h, is the
/// last of those before the page request queue, which is optional (11.4).
pub const FIXED_REGISTERS_END: usize = 0xc0;

/// The distance from one fault recording register to the next, 128 bits (11.4.7.6).
const FAULT_RECORD_BYTES: usize = 16;

/// The registers of one unit, mapped, with the places that only its capability registers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterFile {
    window: RegisterWindow,
    invalidate_address: usize,
    fault_records: usize,
    fault_record_count: u16,
}

impl RegisterFile {
    /// The registers behind a window of `bytes`.
    ///
    /// # Errors
    ///
    /// [`UnitRefusal::InvalidationRegisters`] or [`UnitRefusal::FaultRegisters`] if the unit says that
    /// some of its registers lie outside the window or on top of others.
    /// [`UnitCapabilities::window_bytes`] says how large a window should be.
    pub fn new(
        window: RegisterWindow,
        bytes: usize,
        unit: &UnitCapabilities,
    ) -> Result<Self, UnitRefusal> {
        let fits = |registers: &core::ops::Range<usize>| {
            registers.start >= FIXED_REGISTERS_END && registers.end <= bytes
        };
        let invalidation = unit.extended.iotlb_registers();
        if !fits(&invalidation) {
            return Err(UnitRefusal::InvalidationRegisters { offset: invalidation.start });
        }
        let faults = unit.capability.fault_records();
        let overlap = invalidation.start < faults.end && faults.start < invalidation.end;
        if !fits(&faults) || overlap {
            return Err(UnitRefusal::FaultRegisters { offset: faults.start });
        }
        Ok(Self {
            window,
            invalidate_address: invalidation.start,
            fault_records: faults.start,
            fault_record_count: unit.capability.fault_record_count(),
        })
    }

    /// Reads a register.
    pub fn read<R: Readable>(&self, platform: &mut impl Registers) -> R {
        R::from_word(R::Word::read(platform, self.window, R::OFFSET))
    }

    /// Writes a register.
    pub fn write<R: Writable>(&self, platform: &mut impl Registers, value: R) {
        value.into_word().write(platform, self.window, R::OFFSET);
    }

    /// Writes the Invalidate Address register, which the next page-selective request goes by.
    pub fn write_invalidate_address(
        &self,
        platform: &mut impl Registers,
        value: InvalidateAddress,
    ) {
        platform.write64(self.window, self.invalidate_address, value.into_bits());
    }

    /// Reads the IOTLB Invalidate register: the request is done once `invalidate` reads zero.
    pub fn read_iotlb(&self, platform: &mut impl Registers) -> IotlbInvalidate {
        IotlbInvalidate::from_bits(platform.read64(self.window, self.iotlb()))
    }

    /// Writes the IOTLB Invalidate register, which sets a request going.
    pub fn write_iotlb(&self, platform: &mut impl Registers, value: IotlbInvalidate) {
        platform.write64(self.window, self.iotlb(), value.into_bits());
    }

    /// How many fault recording registers there are, 1 to 256.
    pub const fn fault_record_count(&self) -> u16 {
        self.fault_record_count
    }

    /// The fault in recording register `index`, or `None` if it holds none or does not exist.
    pub fn fault_record(&self, platform: &mut impl Registers, index: u16) -> Option<FaultRecord> {
        let at = self.fault_record_offset(index)?;
        // Hardware may fill a record in several writes and sets F in the last: the other fields are
        // whole only once F has been seen (note 1 of 11.4.7.6).
        if platform.read32(self.window, at + 12) >> 31 == 0 {
            return None;
        }
        let low = platform.read64(self.window, at);
        let high = platform.read64(self.window, at + 8);
        Some(FaultRecord::from_bits(u128::from(high) << 64 | u128::from(low)))
    }

    /// Frees recording register `index` for the next fault.
    pub fn clear_fault_record(&self, platform: &mut impl Registers, index: u16) {
        if let Some(at) = self.fault_record_offset(index) {
            // F is cleared by writing 1; the rest is read-only.
            let fault = FaultRecord::new().with_fault(true).into_bits();
            platform.write32(self.window, at + 12, (fault >> 96) as u32);
        }
    }

    /// IOTLB_REG stands right after IVA_REG (11.4.6.2).
    const fn iotlb(&self) -> usize {
        self.invalidate_address + 8
    }

    fn fault_record_offset(&self, index: u16) -> Option<usize> {
        (index < self.fault_record_count)
            .then(|| self.fault_records + usize::from(index) * FAULT_RECORD_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeRegisters, WINDOW};
    use super::super::*;
    use super::*;
    use dma_types::{Iova, PhysAddr};

    /// A QEMU unit: IOTLB registers at 0F0h, one fault record at 220h.
    const CAPABILITY: u64 = 0x00d2_008c_222f_0686;
    const EXTENDED: u64 = 0x00f0_0f5a;

    fn file(platform: &mut FakeRegisters, bytes: usize) -> Result<RegisterFile, UnitRefusal> {
        RegisterFile::new(WINDOW, bytes, &UnitCapabilities::read(platform, WINDOW)?)
    }

    #[test]
    fn every_register_is_where_the_spec_puts_it_and_as_wide() {
        let mut platform = FakeRegisters::unit(0x10, CAPABILITY, EXTENDED);
        let file = file(&mut platform, 0x1000).unwrap();
        let on = &mut platform;
        file.write(on, GlobalCommand::new().with_translation(true));
        file.write(on, RootTableAddress::new().with_table(PhysAddr::new(0x5000)));
        file.write(on, ContextCommand::new().with_invalidate(true));
        file.write(on, FaultStatus::new().with_overflow(true));
        file.write(on, FaultEventControl::new().with_masked(true));
        file.write(on, FaultEventData::new().with_message(0x31));
        file.write(on, FaultEventAddress::from_bits(0xfee0_0000));
        file.write(on, FaultEventUpperAddress::from_bits(1));
        file.write(on, ProtectedMemory::new().with_enable(true));
        file.write(on, ProtectedLowBase::from_bits(2));
        file.write(on, ProtectedLowLimit::from_bits(3));
        file.write(on, ProtectedHighBase::from_bits(4));
        file.write(on, ProtectedHighLimit::from_bits(5));
        file.write(on, QueueTail::new().with_descriptor(1));
        file.write(on, QueueAddress::new().with_queue(PhysAddr::new(0x6000)));
        file.write(on, InvalidationCompletion::new().with_wait_complete(true));
        file.write(on, InvalidationEventControl::new().with_masked(true));
        file.write_invalidate_address(on, InvalidateAddress::new().with_address(Iova::new(0x7000)));
        file.write_iotlb(on, IotlbInvalidate::new().with_invalidate(true));
        assert_eq!(
            platform.writes,
            [
                (0x18, 4, 0x8000_0000),
                (0x20, 8, 0x5000),
                (0x28, 8, 0x8000_0000_0000_0000),
                (0x34, 4, 1),
                (0x38, 4, 0x8000_0000),
                (0x3c, 4, 0x31),
                (0x40, 4, 0xfee0_0000),
                (0x44, 4, 1),
                (0x64, 4, 0x8000_0000),
                (0x68, 4, 2),
                (0x6c, 4, 3),
                (0x70, 8, 4),
                (0x78, 8, 5),
                (0x88, 8, 0x10),
                (0x90, 8, 0x6000),
                (0x9c, 4, 1),
                (0xa0, 4, 0x8000_0000),
                (0xf0, 8, 0x7000),
                (0xf8, 8, 0x8000_0000_0000_0000),
            ]
        );
        platform.set(0x1c, &0x8000_0000u32.to_le_bytes());
        platform.set(0x80, &0x20u64.to_le_bytes());
        platform.set(0xf8, &0x0200_0000_0000_0000u64.to_le_bytes());
        assert!(file.read::<GlobalStatus>(&mut platform).translation());
        assert_eq!(file.read::<QueueHead>(&mut platform).descriptor(), 2);
        assert_eq!(file.read_iotlb(&mut platform).done(), Granularity::Global);
    }

    #[test]
    fn a_fault_record_is_read_once_whole_and_freed_by_its_highest_bit_alone() {
        let mut platform = FakeRegisters::unit(0x10, CAPABILITY, EXTENDED);
        let file = file(&mut platform, 0x1000).unwrap();
        let high = 0x4000_0006_0000_0010u64;
        platform.set(0x220, &0xdead_b000u64.to_le_bytes());
        platform.set(0x228, &high.to_le_bytes());
        assert_eq!(file.fault_record(&mut platform, 0), None, "F is not set yet");

        platform.set(0x228, &(high | 1 << 63).to_le_bytes());
        let record = file.fault_record(&mut platform, 0).unwrap();
        assert_eq!(record.into_bits(), 0xc000_0006_0000_0010_0000_0000_dead_b000);

        file.clear_fault_record(&mut platform, 0);
        assert_eq!(platform.writes, [(0x22c, 4, 0x8000_0000)]);
    }

    #[test]
    fn r5_a_record_that_does_not_exist_is_neither_read_nor_written() {
        let mut platform = FakeRegisters::unit(0x10, CAPABILITY, EXTENDED);
        let file = file(&mut platform, 0x1000).unwrap();
        platform.set(0x23c, &u32::MAX.to_le_bytes());
        assert_eq!(file.fault_record(&mut platform, 1), None);
        file.clear_fault_record(&mut platform, 1);
        assert!(platform.writes.is_empty());
    }

    #[test]
    fn r5_registers_outside_the_window_or_on_top_of_others_are_refused() {
        let refused = |capability, extended, bytes| {
            file(&mut FakeRegisters::unit(0x10, capability, extended), bytes).unwrap_err()
        };
        let far = CAPABILITY | 0x3ff << 24;
        assert_eq!(refused(far, EXTENDED, 0x1000), UnitRefusal::FaultRegisters { offset: 0x3ff0 });
        let low = CAPABILITY & !(0x3ff << 24) | 0x0b << 24;
        assert_eq!(refused(low, EXTENDED, 0x1000), UnitRefusal::FaultRegisters { offset: 0xb0 });
        // 256 records from 220h on end at 1220h.
        let many = CAPABILITY | 0xff << 40;
        assert_eq!(refused(many, EXTENDED, 0x1000), UnitRefusal::FaultRegisters { offset: 0x220 });
        assert!(file(&mut FakeRegisters::unit(0x10, many, EXTENDED), 0x2000).is_ok());
        let zero = EXTENDED & !(0x3ff << 8);
        let refusal = UnitRefusal::InvalidationRegisters { offset: 0 };
        assert_eq!(refused(CAPABILITY, zero, 0x1000), refusal);
        let far = EXTENDED | 0x3ff << 8;
        let refusal = UnitRefusal::InvalidationRegisters { offset: 0x3ff0 };
        assert_eq!(refused(CAPABILITY, far, 0x1000), refusal);
        assert!(file(&mut FakeRegisters::unit(0x10, CAPABILITY, far), 0x4000).is_ok());
    }
}
