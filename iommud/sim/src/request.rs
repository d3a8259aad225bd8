//! What goes over the bus: requests of devices, and interrupts.

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read of some bytes.
    Read,
    /// A write of some bytes.
    Write,
    /// A read of no bytes, which flushes writes.
    ZeroLengthRead,
}

/// A message-signalled interrupt: a dword written into the interrupt address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The address it was written to.
    pub address: u64,
    /// What was written.
    pub data: u32,
}

/// The half of a 64-bit register that is read at this offset.
pub(crate) fn half(word: u64, at: u64) -> u32 {
    (word >> (at % 8 * 8)) as u32
}

/// A 64-bit register after one half of it, told by the offset, is written.
pub(crate) fn with_half(word: u64, at: u64, value: u32) -> u64 {
    let shift = at % 8 * 8;
    word & !(0xffff_ffff << shift) | u64::from(value) << shift
}
