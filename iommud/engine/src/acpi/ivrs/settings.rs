//! What firmware asks to be set in a device's table entry.

use bitfield_struct::bitfield;

/// The data setting of a device entry: bits that go to the device's entry in the device table as they are.
///
/// All but SysMgt are about interrupts of the old kind, which legacy interrupt controllers send as
/// HyperTransport messages.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct DteSettings {
    /// INITPass, bit 0: INIT requests pass.
    #[bits(access = RO)]
    pub init_pass: bool,
    /// EIntPass, bit 1: ExtInt requests pass.
    #[bits(access = RO)]
    pub external_interrupt_pass: bool,
    /// NMIPass, bit 2: non-maskable interrupts pass.
    #[bits(access = RO)]
    pub nmi_pass: bool,
    __: bool,
    /// SysMgt, bits 5:4: what becomes of system management messages; see the device table entry.
    #[bits(2, access = RO)]
    pub system_management: u8,
    /// Lint0Pass, bit 6: LINT0 (legacy PIC) interrupts pass.
    #[bits(access = RO)]
    pub lint0_pass: bool,
    /// Lint1Pass, bit 7: LINT1 (legacy NMI) interrupts pass.
    #[bits(access = RO)]
    pub lint1_pass: bool,
}

/// The extended data of a device entry of type 46h or 47h.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ExtendedSettings {
    #[bits(31)]
    __: u32,
    /// AtsDisabled, bit 31: ATS requests of the device are to be blocked. The engine blocks those of every
    /// device (rule R2).
    #[bits(access = RO)]
    pub ats_disabled: bool,
}
