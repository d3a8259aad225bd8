//! The register interface for invalidations, for units that have no queue (6.5.1).

use bitfield_struct::{bitenum, bitfield};
use dma_types::{Iova, SourceId};

use super::file::register;
use crate::blocks::PageBlock;
use crate::field::{from_page, page};
use crate::unit::{DomainId, Touched};

/// How much an invalidation takes: the encoding is one and the same in CCMD_REG (CIRG, CAIG), IOTLB_REG
/// (IIRG, IAIG) and the descriptors (G).
#[bitenum]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Granularity {
    /// Reserved in a request. As an answer: the request was wrong and nothing was invalidated.
    #[fallback]
    Refused = 0b00,
    /// Everything.
    Global = 0b01,
    /// All that is tagged with one domain id.
    Domain = 0b10,
    /// One device (context cache), or a range of pages in one domain (IOTLB).
    Selective = 0b11,
}

/// CCMD_REG, the Context Command register (11.4.6.1).
///
/// To be written only while `invalidate` reads zero and the queue is off. In a unit of major version 6
/// or higher it does nothing, and answers [`Granularity::Refused`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextCommand {
    /// DID: the domain id, for domain and device requests, bits 15:0.
    #[bits(16, from = DomainId::new, into = DomainId::get, default = DomainId::new(0))]
    pub domain: DomainId,
    /// SID: the function, for device requests, bits 31:16.
    #[bits(16, from = SourceId::new, into = SourceId::get, default = SourceId::new(0))]
    pub source: SourceId,
    /// FM: how many of the function's low bits are ignored, bits 33:32. For phantom functions.
    #[bits(2)]
    pub function_mask: u8,
    #[bits(25)]
    __: u32,
    /// CAIG: what the unit did, bits 60:59. It may have done more than was asked.
    #[bits(2, access = RO)]
    pub done: Granularity,
    /// CIRG: what is asked, bits 62:61.
    #[bits(2)]
    pub request: Granularity,
    /// ICC: go, bit 63. Clear when it is done.
    pub invalidate: bool,
}
register!(ContextCommand: u64, 0x028, Readable Writable);

/// IOTLB_REG, the IOTLB Invalidate register (11.4.6.3), after IVA_REG.
///
/// To be written only while `invalidate` reads zero and the queue is off. In a unit of major version 6
/// or higher it does nothing, and answers [`Granularity::Refused`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IotlbInvalidate {
    #[bits(32)]
    __: u32,
    /// DID: the domain id, for domain and page requests, bits 47:32.
    #[bits(16, from = DomainId::new, into = DomainId::get, default = DomainId::new(0))]
    pub domain: DomainId,
    /// DW: drain writes first, bit 48.
    pub drain_writes: bool,
    /// DR: drain reads first, bit 49.
    pub drain_reads: bool,
    #[bits(7)]
    __: u8,
    /// IAIG: what the unit did, bits 58:57. It may have done more than was asked.
    #[bits(2, access = RO)]
    pub done: Granularity,
    __: bool,
    /// IIRG: what is asked, bits 61:60.
    #[bits(2)]
    pub request: Granularity,
    __: bool,
    /// IVT: go, bit 63. Clear when it is done.
    pub invalidate: bool,
}

/// IVA_REG, the Invalidate Address register (11.4.6.4), at ECAP.IRO times 16.
///
/// The second half of an invalidation descriptor for pages has the same layout (6.5.2.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidateAddress {
    /// AM: how many low bits of the page number are ignored, bits 5:0.
    #[bits(6)]
    pub address_mask: u8,
    /// IH: only leaf entries changed, so that cached upper entries may stay, bit 6.
    pub leaves_only: bool,
    #[bits(5)]
    __: u8,
    /// ADDR: the first page, bits 63:12.
    #[bits(52, from = page, into = from_page, default = Iova::new(0))]
    pub address: Iova,
}

impl InvalidateAddress {
    /// The address half of a page-selective request.
    #[inline]
    pub const fn of(pages: PageBlock, touched: Touched) -> Self {
        let leaves_only = matches!(touched, Touched::Leaves) as u64;
        // The address is whole pages, and so its field's bits; no order is as high as the next field.
        Self::from_bits(
            pages.first().get()
                | (pages.order() as u64) << Self::ADDRESS_MASK_OFFSET
                | leaves_only << Self::LEAVES_ONLY_OFFSET,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_command_has_its_fields_where_the_spec_puts_them() {
        let command = ContextCommand::new()
            .with_domain(DomainId::new(0x1234))
            .with_source(SourceId::new(0xabcd))
            .with_function_mask(0b11)
            .with_request(Granularity::Selective)
            .with_invalidate(true);
        assert_eq!(command.into_bits(), 0xe000_0003_abcd_1234);

        let request = |request| ContextCommand::new().with_request(request).into_bits();
        assert_eq!(request(Granularity::Global), 0x2000_0000_0000_0000);
        assert_eq!(request(Granularity::Domain), 0x4000_0000_0000_0000);

        let done = ContextCommand::from_bits(0x0800_0000_0000_0000);
        assert_eq!((done.done(), done.invalidate()), (Granularity::Global, false));
        assert_eq!(ContextCommand::from_bits(0).done(), Granularity::Refused);
    }

    #[test]
    fn iotlb_register_has_its_fields_where_the_spec_puts_them() {
        let command = IotlbInvalidate::new()
            .with_domain(DomainId::new(0x1234))
            .with_drain_writes(true)
            .with_drain_reads(true)
            .with_request(Granularity::Domain)
            .with_invalidate(true);
        assert_eq!(command.into_bits(), 0xa003_1234_0000_0000);

        let request = |request| IotlbInvalidate::new().with_request(request).into_bits();
        assert_eq!(request(Granularity::Global), 0x1000_0000_0000_0000);
        assert_eq!(request(Granularity::Selective), 0x3000_0000_0000_0000);

        let done = IotlbInvalidate::from_bits(0x0600_0000_0000_0000);
        assert_eq!((done.done(), done.invalidate()), (Granularity::Selective, false));
        assert_eq!(IotlbInvalidate::from_bits(1 << 48).with_drain_writes(false).into_bits(), 0);
    }

    #[test]
    fn invalidate_address_has_mask_and_hint_below_the_page() {
        let address = InvalidateAddress::new()
            .with_address(Iova::new(0x0000_7f12_3400_0000))
            .with_address_mask(9);
        assert_eq!(address.into_bits(), 0x0000_7f12_3400_0009);
        assert_eq!(address.with_leaves_only(true).into_bits(), 0x0000_7f12_3400_0049);
    }
}
