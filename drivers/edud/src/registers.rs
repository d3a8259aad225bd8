//! The registers of `edu`: QEMU's `docs/specs/edu.rst`, and `hw/misc/edu.c` where that says more.
//!
//! They are in BAR 0. Below 0x80 only accesses of 4 bytes count; from there on the registers are as wide
//! as an address and take 4 or 8. What this driver has no use for (factorial and interrupts) is left out.

use bitfield_struct::bitfield;

/// The vendor in the device's PCI identity.
pub const VENDOR: u16 = 0x1234;
/// The device in the device's PCI identity.
pub const DEVICE: u16 = 0x11e8;

/// Whether a function is one, by the first word of its configuration space.
pub const fn is_edu(identity: u32) -> bool {
    identity == (DEVICE as u32) << 16 | VENDOR as u32
}
/// The number of the BAR that holds the registers.
pub const BAR: u32 = 0;

/// Where the device's own buffer lies among the addresses of its DMA engine. It is not in the BAR: only
/// transfers reach it.
pub const DEVICE_BUFFER: u64 = 0x40000;
/// How long the device's own buffer is.
pub const DEVICE_BUFFER_BYTES: u64 = 4096;
/// The end, in the device's buffer, that a transfer must not go past: the last byte is out of bounds.
///
/// QEMU 7.2 takes a transfer that ends with the buffer, and one of no bytes, for one that overruns it and
/// stops the machine. Newer ones let real overruns happen, into their own memory. So the driver must be
/// exact.
pub const TRANSFER_END: u64 = DEVICE_BUFFER_BYTES - 1;
/// How many address bits the device puts on the bus unless QEMU is told otherwise (`dma_mask`). It cuts the
/// others off.
pub const ADDRESS_BITS: u32 = 28;

/// A register of 32 bits: its offset in the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Register32 {
    /// An [`Identification`]. Read only.
    Identification = 0x00,
    /// Gives back the complement of what was last written to it.
    Liveness = 0x04,
}

impl Register32 {
    /// Bytes from the start of the BAR.
    pub const fn offset(self) -> usize {
        self as usize
    }
}

/// A register of 64 bits: its offset in the BAR. While a transfer runs, writes to any of them are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Register64 {
    /// What address a transfer reads from: on the bus, or in the device's buffer.
    Source = 0x80,
    /// What address a transfer writes to: on the bus, or in the device's buffer.
    Destination = 0x88,
    /// How many bytes a transfer moves.
    Count = 0x90,
    /// A [`Command`].
    Command = 0x98,
}

impl Register64 {
    /// Bytes from the start of the BAR.
    pub const fn offset(self) -> usize {
        self as usize
    }
}

/// Who answers: the register at 0x00.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Identification {
    /// Always [`Identification::EDU`], bits 7:0.
    #[bits(access = RO)]
    pub device: u8,
    #[bits(8)]
    __: u8,
    /// The minor version, bits 23:16.
    #[bits(access = RO)]
    pub minor: u8,
    /// The major version, bits 31:24.
    #[bits(access = RO)]
    pub major: u8,
}

impl Identification {
    /// What an `edu` calls itself.
    pub const EDU: u8 = 0xed;
}

/// What the DMA engine does: the register at 0x98. A write without `run` is ignored.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Command {
    /// Start a transfer, or, read back, one is running, bit 0.
    pub run: bool,
    /// From the device's buffer to memory and not the other way, bit 1.
    pub to_memory: bool,
    /// Raise an interrupt when done, bit 2.
    pub interrupt: bool,
    #[bits(61)]
    __: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_where_the_specification_puts_them() {
        assert_eq!([Register32::Identification, Register32::Liveness].map(|r| r.offset()), [0, 4]);
        assert_eq!(
            [Register64::Source, Register64::Destination, Register64::Count, Register64::Command]
                .map(|r| r.offset()),
            [0x80, 0x88, 0x90, 0x98]
        );
    }

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        // What QEMU answers, and the two commands of the specification's examples.
        let identification = Identification::from_bits(0x0100_00ed);
        assert_eq!(
            (identification.device(), identification.major(), identification.minor()),
            (Identification::EDU, 1, 0)
        );
        assert_eq!(Command::new().with_run(true).into_bits(), 1);
        assert_eq!(Command::new().with_run(true).with_to_memory(true).into_bits(), 3);
        assert_eq!(Command::new().with_interrupt(true).into_bits(), 4);
    }
}
