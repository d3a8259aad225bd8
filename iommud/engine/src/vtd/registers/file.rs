//! Where the registers are, and access to each in its own width.

use crate::platform::{RegisterWindow, Registers};
use crate::vtd::fault::FaultRecord;
use crate::vtd::probe::{UnitCapabilities, UnitRefusal};

use super::{InvalidateAddress, IotlbInvalidate};

/// The first byte after the registers that every unit has in the same place: IRTA_REG, at 0B8h, is the
/// last of those before the page request queue, which is optional (11.4).
pub const FIXED_REGISTERS_END: usize = 0xc0;

/// The distance from one fault recording register to the next, 128 bits (11.4.7.6).
const FAULT_RECORD_BYTES: usize = 16;

/// A register that every unit has at the same place, seen as a value.
pub trait Register: Copy {
    /// Bytes from the start of the unit's registers.
    const OFFSET: usize;
    /// Its width: `u32` or `u64`.
    type Word: Word;
    /// The value that this word holds.
    fn from_word(word: Self::Word) -> Self;
    /// The word that holds this value.
    fn into_word(self) -> Self::Word;
}

/// A register that may be read: what a read of a command register gives is not defined.
pub trait Readable: Register {}

/// A register that may be written.
pub trait Writable: Register {}

/// A width in which registers are accessed. Software accesses each register in its own (11.2).
pub trait Word: Copy + PartialEq + sealed::Sealed {
    /// What an absent device reads.
    const ALL_ONES: Self;
    /// No bit set.
    const ZERO: Self;
    /// Reads one word.
    fn read(platform: &mut impl Registers, window: RegisterWindow, offset: usize) -> Self;
    /// Writes one word.
    fn write(self, platform: &mut impl Registers, window: RegisterWindow, offset: usize);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

impl Word for u32 {
    const ALL_ONES: Self = Self::MAX;
    const ZERO: Self = 0;

    fn read(platform: &mut impl Registers, window: RegisterWindow, offset: usize) -> Self {
        platform.read32(window, offset)
    }

    fn write(self, platform: &mut impl Registers, window: RegisterWindow, offset: usize) {
        platform.write32(window, offset, self);
    }
}

impl Word for u64 {
    const ALL_ONES: Self = Self::MAX;
    const ZERO: Self = 0;

    fn read(platform: &mut impl Registers, window: RegisterWindow, offset: usize) -> Self {
        platform.read64(window, offset)
    }

    fn write(self, platform: &mut impl Registers, window: RegisterWindow, offset: usize) {
        platform.write64(window, offset, self);
    }
}

/// Says where a register is, how wide, and what may be done with it.
macro_rules! register {
    ($name:ident: $word:ty, $offset:literal, $($access:ident)+) => {
        impl $crate::vtd::registers::Register for $name {
            const OFFSET: usize = $offset;
            type Word = $word;

            fn from_word(word: $word) -> Self {
                Self::from_bits(word)
            }

            fn into_word(self) -> $word {
                self.into_bits()
            }
        }

        $(impl $crate::vtd::registers::$access for $name {})+
    };
}
pub(super) use register;

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
        if !fits(&faults) {
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
