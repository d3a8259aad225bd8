//! Fault records, decoded: which function tried what, where, and why it was refused (7.2.1, 11.4.7.6).

use bitfield_struct::bitfield;
use dma_types::{Iova, SourceId};

use super::field::{from_page, page};

/// FRCD_REG, a Fault Recording register (11.4.7.6).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct FaultRecord {
    #[bits(12)]
    __: u16,
    /// FI: the page of the address that was asked for, bits 63:12. For a refused interrupt, its index
    /// in bits 63:48, or nothing.
    #[bits(52, from = page, into = from_page, default = Iova::new(0))]
    pub page: Iova,
    /// SID: the function that asked, bits 79:64.
    #[bits(16, from = SourceId::new, into = SourceId::get, default = SourceId::new(0))]
    pub source: SourceId,
    #[bits(12)]
    __: u16,
    /// T2: with T1, what was asked, bit 92.
    pub type_2: bool,
    /// Bits 95:93: privilege, execute and whether there is a PASID. Zero in legacy mode.
    #[bits(3)]
    __: u8,
    /// FR: the reason, bits 103:96.
    #[bits(8)]
    pub reason: u8,
    /// Bits 123:104: the PASID. Zero in legacy mode.
    #[bits(20)]
    __: u32,
    /// AT: whether the request claimed to be translated already, bits 125:124.
    #[bits(2)]
    pub address_type: u8,
    /// T1: with T2, what was asked, bit 126.
    pub type_1: bool,
    /// F: the record holds a fault, bit 127. Cleared by writing 1.
    pub fault: bool,
}
