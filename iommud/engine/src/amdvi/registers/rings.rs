//! The command buffer and the event log: where each is in memory, and how far it is.

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use super::file::register;
use crate::field::{frame, from_frame};

/// The logarithm of the fewest entries that a ring may have: one frame of them.
const LEAST_ORDER: u8 = 8;

/// Where a ring is.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RingBase {
    #[bits(12)]
    __: u16,
    /// Where it starts, bits 51:12.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub start: PhysAddr,
    #[bits(4)]
    __: u8,
    /// The logarithm of how many entries it has, 8 to 15, bits 59:56.
    #[bits(4, default = LEAST_ORDER)]
    pub order: u8,
    #[bits(4)]
    __: u8,
}

/// A place in a ring: in bytes from its start, and so without the four bits that are always zero.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RingPlace {
    #[bits(4)]
    __: u8,
    /// The entry, counted from 0, bits 18:4.
    #[bits(15)]
    pub entry: u16,
    #[bits(45)]
    __: u64,
}

impl RingPlace {
    /// For a ring of one frame: as bytes from its start a place has its field's bits.
    #[inline]
    pub const fn at(place: u8) -> Self {
        Self::from_bits(place as u64 * size_of::<[u64; 2]>() as u64)
    }
}

/// A register that holds one of the above.
macro_rules! ring_register {
    ($(#[$about:meta])* $name:ident($content:ident): $offset:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub $content);

        impl $name {
            const fn from_bits(bits: u64) -> Self {
                Self($content::from_bits(bits))
            }

            const fn into_bits(self) -> u64 {
                self.0.into_bits()
            }
        }

        register!($name: u64, $offset, Readable Writable);
    };
}

ring_register! {
    /// Command Buffer Base Address Register (3.4.2).
    CommandBufferBase(RingBase): 0x0008
}

ring_register! {
    /// Event Log Base Address Register (3.4.3).
    EventLogBase(RingBase): 0x0010
}

ring_register! {
    /// Command Buffer Head Pointer Register: the command that the unit reads next.
    CommandBufferHead(RingPlace): 0x2000
}

ring_register! {
    /// Command Buffer Tail Pointer Register: where the next command goes. Written, it sets the unit going.
    CommandBufferTail(RingPlace): 0x2008
}

ring_register! {
    /// Event Log Head Pointer Register: the event that we read next.
    EventLogHead(RingPlace): 0x2010
}

ring_register! {
    /// Event Log Tail Pointer Register: where the unit writes the next event.
    EventLogTail(RingPlace): 0x2018
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_one_frame_has_256_entries() {
        let base = RingBase::new().with_start(PhysAddr::new(0x000a_bcde_f012_3000));
        assert_eq!(base.into_bits(), 0x080a_bcde_f012_3000);
        let base = RingBase::new().with_start(PhysAddr::new(0x1000)).with_order(0xf);
        assert_eq!(base.into_bits(), 0x0f00_0000_0000_1000);
    }

    #[test]
    fn a_place_is_a_multiple_of_16() {
        assert_eq!(RingPlace::new().with_entry(255).into_bits(), 0x0ff0);
        assert_eq!(RingPlace::at(255), RingPlace::new().with_entry(255));
        assert_eq!(RingPlace::new().with_entry(0x7fff).into_bits(), 0x0007_fff0);
        assert_eq!(RingPlace::from_bits(0xffff_ffff_fff8_0020).entry(), 2);
        assert_eq!(RingPlace::from_bits(0x1000).entry(), 256);
    }
}
