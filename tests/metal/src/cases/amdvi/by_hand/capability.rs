//! The capabilities of the unit's PCI function, and its command and status.

use bitfield_struct::bitfield;

/// The capability by which a PCI function says that it is an IOMMU.
pub(super) const CAPABILITY: u8 = 0x0f;
/// Its kind of IOMMU.
pub(super) const CAPABILITY_TYPE: u8 = 3;
/// The offset of the dword with PCI command and status in configuration space, and of the one with the class.
pub(super) const COMMAND_AND_STATUS: u16 = 0x04;
pub(super) const CLASS: u16 = 0x08;
/// An IOMMU's class and subclass.
pub(super) const IOMMU_CLASS: u16 = 0x0806;

/// The capability of interrupts by message (PCI 3.0, section 6.8.1), and in it, as QEMU's unit has it:
pub(super) const MESSAGES: u8 = 0x05;
pub(super) const MESSAGE_ADDRESS: u16 = 4;
pub(super) const MESSAGE_ADDRESS_HIGH: u16 = 8;
pub(super) const MESSAGE_DATA: u16 = 12;
/// In its first dword: messages are sent.
pub(super) const MESSAGES_ENABLED: u32 = 1 << 16;

/// The capability's header.
#[bitfield(u32)]
pub(super) struct CapabilityHeader {
    pub(super) id: u8,
    pub(super) next: u8,
    #[bits(3)]
    pub(super) kind: u8,
    #[bits(5)]
    pub(super) revision: u8,
    /// IotlbSup, HtTunnel, NpCache, EFRSup, CapExt.
    pub(super) iotlb: bool,
    pub(super) tunnel: bool,
    pub(super) not_present_cached: bool,
    pub(super) extended_features: bool,
    pub(super) extended: bool,
    #[bits(3)]
    __: u8,
}

/// PCI command and status, of which a one written clears a bit that is set.
#[bitfield(u32)]
pub(super) struct PciStatus {
    pub(super) command: u16,
    #[bits(11)]
    __: u16,
    /// Signaled Target Abort.
    pub(super) target_abort: bool,
    #[bits(4)]
    __: u8,
}
