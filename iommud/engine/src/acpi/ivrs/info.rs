//! IVinfo: what all IOMMUs of the machine have in common.

use bitfield_struct::bitfield;

/// The IVinfo field of the table's header, at offset 24h.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IvInfo {
    /// EFRSup, bit 0: the IOMMUs have an extended feature register, and blocks of types 11h and 40h have
    /// its image.
    #[bits(access = RO)]
    pub extended_features: bool,
    /// DMA remap support, bit 1: firmware kept DMA in check before the system started.
    #[bits(access = RO)]
    pub dma_remap: bool,
    #[bits(3)]
    __: u8,
    /// GVASize, bits 7:5: the code for how many bits guest-virtual addresses have; 010b is 48.
    #[bits(3, access = RO)]
    pub guest_virtual_size: u8,
    /// PASize, bits 14:8: how many bits physical addresses have.
    #[bits(7, access = RO)]
    pub physical_size: u8,
    /// VASize, bits 21:15: how many bits the addresses have that devices use. Some firmware says zero.
    #[bits(7, access = RO)]
    pub virtual_size: u8,
    /// HtAtsResv, bit 22: the HyperTransport address range is reserved in answers to ATS requests.
    #[bits(access = RO)]
    pub ht_ats_reserved: bool,
    #[bits(9)]
    __: u16,
}
