//! Entries of the device table and of page tables.

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

/// The first quadword of a device's entry in the device table. The second one begins with the domain's id, and
/// all else is zero here: no interrupt is remapped.
#[bitfield(u64)]
pub struct DeviceEntry0 {
    /// V: the entry is looked at.
    pub valid: bool,
    /// TV: what there is about translation is.
    pub translation: bool,
    #[bits(7)]
    __: u8,
    /// Mode: 0 is none, and else the levels of the page table.
    #[bits(3)]
    pub levels: u8,
    /// The page table's root.
    #[bits(40)]
    pub page: u64,
    #[bits(9)]
    __: u16,
    /// IR: reading is allowed.
    pub read: bool,
    /// IW: writing is.
    pub write: bool,
    __: bool,
}

/// The third quadword of a device's entry: what becomes of its interrupts.
#[bitfield(u64)]
pub struct InterruptEntry {
    /// IV: what there is here is looked at, and else everything passes.
    pub valid: bool,
    #[bits(59)]
    __: u64,
    /// IntCtl: 0 is that fixed and arbitrated interrupts are refused.
    #[bits(2)]
    pub fixed: u8,
    #[bits(2)]
    __: u8,
}

/// An entry of the device table, in its quadwords.
pub type DeviceEntry = [u64; 4];

/// An entry of a page table (version 1), leaf or not.
#[bitfield(u64)]
pub struct PageEntry {
    /// PR.
    pub present: bool,
    #[bits(8)]
    __: u8,
    /// The level of the table that it leads to. 0: a page of this level's size. 7: a page whose size is in
    /// the address.
    #[bits(3)]
    pub next: u8,
    /// The next table or the page.
    #[bits(40)]
    pub page: u64,
    #[bits(9)]
    __: u16,
    /// IR.
    pub read: bool,
    /// IW.
    pub write: bool,
    __: bool,
}

/// An entry for a device that may do in a domain what the domain's table allows.
pub fn device_entry(domain: u16, levels: u8, root: PhysAddr) -> DeviceEntry {
    let first = DeviceEntry0::new()
        .with_valid(true)
        .with_translation(true)
        .with_levels(levels)
        .with_page(root.get() >> 12)
        .with_read(true)
        .with_write(true);
    [first.into_bits(), domain.into(), 0, 0]
}
