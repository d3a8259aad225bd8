//! The registers of the invalidation queue (6.5.2).

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use super::file::register;
use crate::field::{frame, from_frame};

/// IQH_REG, the Invalidation Queue Head register (11.4.9.1): the next descriptor the unit will read.
///
/// Zero while the queue is off.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueHead {
    #[bits(4)]
    __: u8,
    /// QH: the number of the descriptor, bits 18:4.
    #[bits(15, access = RO)]
    pub descriptor: u16,
    #[bits(45)]
    __: u64,
}
register!(QueueHead: u64, 0x080, Readable);

/// IQT_REG, the Invalidation Queue Tail register (11.4.9.2): the next descriptor software will write.
///
/// Head and tail equal is an empty queue, so that one place always stays free.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueTail {
    #[bits(4)]
    __: u8,
    /// QT: the number of the descriptor, bits 18:4.
    #[bits(15)]
    pub descriptor: u16,
    #[bits(45)]
    __: u64,
}
register!(QueueTail: u64, 0x088, Readable Writable);

impl QueueTail {
    /// For a queue of one frame: as bytes from its start a place has its field's bits.
    #[inline]
    pub const fn at(place: u8) -> Self {
        Self::from_bits(place as u64 * size_of::<[u64; 2]>() as u64)
    }
}

/// IQA_REG, the Invalidation Queue Address register (11.4.9.3). To be written while the queue is off.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueAddress {
    /// QS: the queue is two to this power frames long, bits 2:0. A frame holds 256 descriptors.
    #[bits(3)]
    pub order: u8,
    #[bits(8)]
    __: u8,
    /// DW: descriptors have 256 bits instead of 128, bit 11. Scalable mode needs it, legacy mode not.
    pub wide_descriptors: bool,
    /// IQA: the first frame of the queue, bits 63:12.
    #[bits(52, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub queue: PhysAddr,
}
register!(QueueAddress: u64, 0x090, Readable Writable);

/// ICS_REG, the Invalidation Completion Status register (11.4.9.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InvalidationCompletion {
    /// IWC: a wait descriptor that asked for an interrupt is done, bit 0. Cleared by writing 1.
    pub wait_complete: bool,
    #[bits(31)]
    __: u32,
}
register!(InvalidationCompletion: u32, 0x09c, Readable Writable);

/// IECTL_REG, the Invalidation Event Control register (11.4.9.5). Written back with one field changed.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InvalidationEventControl {
    #[bits(30)]
    __: u32,
    /// IP: an interrupt is held back, bit 30.
    #[bits(access = RO)]
    pub pending: bool,
    /// IM: interrupts are held back, bit 31. Set at reset.
    pub masked: bool,
}
register!(InvalidationEventControl: u32, 0x0a0, Readable Writable);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_count_descriptors_of_sixteen_bytes() {
        assert_eq!(QueueHead::from_bits(0x0ff0).descriptor(), 255);
        assert_eq!(QueueHead::from_bits(0x7_fff0).descriptor(), 0x7fff);
        assert_eq!(QueueTail::new().with_descriptor(255).into_bits(), 0x0ff0);
        assert_eq!(QueueTail::new().with_descriptor(1).into_bits(), 0x0010);
        assert_eq!(QueueTail::at(255), QueueTail::new().with_descriptor(255));
    }

    #[test]
    fn queue_address_has_size_and_width_below_the_frame() {
        let address = QueueAddress::new().with_queue(PhysAddr::new(0x1_2345_6000)).with_order(1);
        assert_eq!(address.into_bits(), 0x1_2345_6001);
        assert_eq!(address.with_wide_descriptors(true).into_bits(), 0x1_2345_6801);
    }

    #[test]
    fn completion_and_its_event() {
        assert_eq!(InvalidationCompletion::new().with_wait_complete(true).into_bits(), 1);
        assert!(InvalidationEventControl::from_bits(0x4000_0000).pending());
        let control = InvalidationEventControl::from_bits(0x1234_5678).with_masked(true);
        assert_eq!(control.into_bits(), 0x9234_5678, "reserved bits are preserved");
    }
}
