//! The unit's registers, as far as a case needs them.

use bitfield_struct::bitfield;

/// Offsets of registers.
pub(super) mod register {
    pub(crate) const DEVICE_TABLE: usize = 0x00;
    pub(crate) const COMMAND_BUFFER: usize = 0x08;
    pub(crate) const EVENT_LOG: usize = 0x10;
    pub(crate) const CONTROL: usize = 0x18;
    pub(crate) const EXTENDED_FEATURES: usize = 0x30;
    pub(crate) const COMMAND_HEAD: usize = 0x2000;
    pub(crate) const COMMAND_TAIL: usize = 0x2008;
    pub(crate) const EVENT_TAIL: usize = 0x2018;
    pub(crate) const STATUS: usize = 0x2020;
    /// The registers of a unit without counters end here.
    pub(crate) const END: usize = 0x4000;
}

/// The extended feature register, as far as it is looked at.
#[bitfield(u64)]
pub struct Features {
    #[bits(6)]
    __: u8,
    /// IASup: INVALIDATE_IOMMU_ALL.
    pub invalidate_all: bool,
    #[bits(3)]
    __: u8,
    /// HATS: 0 is up to 4 levels, 1 is 5, 2 is 6.
    #[bits(2)]
    pub levels: u8,
    #[bits(52)]
    __: u64,
}

/// The device table's base address register.
#[bitfield(u64)]
pub(super) struct DeviceTableBase {
    /// How many frames, less one.
    #[bits(9)]
    pub(super) frames: usize,
    #[bits(3)]
    __: u8,
    #[bits(40)]
    pub(super) page: u64,
    #[bits(12)]
    __: u16,
}

/// The command buffer's base address register.
#[bitfield(u64)]
pub(super) struct CommandBufferBase {
    #[bits(12)]
    __: u16,
    #[bits(40)]
    pub(super) page: u64,
    #[bits(4)]
    __: u8,
    /// ComLen: the binary logarithm of the number of commands, 8 or more.
    #[bits(4)]
    pub(super) length: u8,
    #[bits(4)]
    __: u8,
}

/// The event log's base address register.
#[bitfield(u64)]
pub(super) struct EventLogBase {
    #[bits(12)]
    __: u16,
    #[bits(40)]
    pub(super) page: u64,
    #[bits(12)]
    __: u16,
}

/// The control register.
#[bitfield(u64)]
pub(super) struct Control {
    /// IommuEn.
    pub(super) enable: bool,
    #[bits(2)]
    __: u8,
    /// EventIntEn.
    pub(super) event_interrupt: bool,
    #[bits(8)]
    __: u8,
    /// CmdBufEn.
    pub(super) commands: bool,
    #[bits(51)]
    __: u64,
}

/// The status register.
#[bitfield(u64)]
pub(super) struct Status {
    #[bits(4)]
    __: u8,
    /// CmdBufRun.
    pub(super) commands: bool,
    #[bits(59)]
    __: u64,
}
