//! Device registers as typed values: where each is, how wide, and what may be done with it.

use crate::platform::{RegisterWindow, Registers};

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

/// A width in which registers are accessed. Software accesses each register in its own (VT-d 11.2).
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
        impl $crate::registers::Register for $name {
            const OFFSET: usize = $offset;
            type Word = $word;

            fn from_word(word: $word) -> Self {
                Self::from_bits(word)
            }

            fn into_word(self) -> $word {
                self.into_bits()
            }
        }

        $(impl $crate::registers::$access for $name {})+
    };
}
pub(crate) use register;
