//! A range of addresses that is not translated. The engine uses none and clears what firmware left: what is to
//! be reached at its physical address is mapped there, so that it is confined like everything else (rule R1).

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use super::file::register;
use crate::field::{frame, from_frame};

/// Exclusion Base Register (3.4.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExclusionBase {
    /// ExEn, bit 0: the range counts.
    pub enabled: bool,
    /// Allow, bit 1: for every device, not just those whose device table entries say so.
    pub every_device: bool,
    #[bits(10)]
    __: u16,
    /// The first page, bits 51:12.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub first_page: PhysAddr,
    #[bits(12)]
    __: u16,
}
register!(ExclusionBase: u64, 0x0020, Readable Writable);

/// Exclusion Range Limit Register (3.4.6).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExclusionLimit {
    #[bits(12)]
    __: u16,
    /// The last page, bits 51:12.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub last_page: PhysAddr,
    #[bits(12)]
    __: u16,
}
register!(ExclusionLimit: u64, 0x0028, Writable);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_firmware_left_is_read() {
        let base = ExclusionBase::from_bits(0x0000_0001_2345_6003);
        assert!(base.enabled() && base.every_device());
        assert_eq!(base.first_page(), PhysAddr::new(0x1_2345_6000));
        assert!(!ExclusionBase::from_bits(0x0000_0001_2345_6002).enabled());
        let limit = ExclusionLimit::new().with_last_page(PhysAddr::new(0x1_2345_7000));
        assert_eq!(limit.into_bits(), 0x1_2345_7000);
    }
}
