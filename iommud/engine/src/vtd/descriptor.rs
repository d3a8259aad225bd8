//! Requests as the invalidation queue carries them, 128 bits each (6.5.2).
//!
//! The type of a descriptor is in two fields, bits 11:9 and 3:0; the upper is zero in all that legacy
//! mode knows.

use bitfield_struct::bitfield;
use dma_types::{PhysAddr, SourceId};

use super::invalidation::Invalidation;
use super::registers::{Drain, Granularity, InvalidateAddress};
use crate::blocks::{PageBlock, Pages};
use crate::unit::{Changed, DomainId, Touched};

/// Type of a context-cache invalidation (6.5.2.1).
const CONTEXT_CACHE: u8 = 0x1;
/// Type of an IOTLB invalidation (6.5.2.3).
const IOTLB: u8 = 0x2;
/// Type of a wait (6.5.2.9).
const WAIT: u8 = 0x5;

/// A descriptor of any type, ready for the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(u128);

impl Descriptor {
    /// The descriptor that asks for this. `drain` is what the unit can drain
    /// ([`Capability::drain`](super::registers::Capability::drain)).
    pub const fn invalidating(invalidation: Invalidation, drain: Drain) -> Self {
        let granularity = invalidation.granularity();
        let context = ContextCacheInvalidate::new().with_granularity(granularity);
        let iotlb = IotlbInvalidateDescriptor::new()
            .with_granularity(granularity)
            .with_drain_reads(drain.reads)
            .with_drain_writes(drain.writes);
        Self(match invalidation {
            Invalidation::ContextGlobal => context.into_bits(),
            Invalidation::ContextDomain(domain) => context.with_domain(domain).into_bits(),
            Invalidation::ContextDevice { domain, source } => {
                context.with_domain(domain).with_source(source).into_bits()
            }
            Invalidation::IotlbGlobal => iotlb.into_bits(),
            Invalidation::IotlbDomain(domain) => iotlb.with_domain(domain).into_bits(),
            Invalidation::IotlbPages { domain, pages, touched } => iotlb
                .with_domain(domain)
                .with_pages(InvalidateAddress::of(pages, touched))
                .into_bits(),
        })
    }

    /// The descriptor as two words of the queue, the lower address first.
    #[inline]
    pub const fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }
}

/// What a unit's requests to forget pages have in common.
#[derive(Clone, Copy, Debug)]
pub struct PageRequests {
    /// The lower word, for domain id 0.
    low: u64,
    /// The order of the largest block of pages.
    mask: u8,
}

impl PageRequests {
    /// For a unit that takes blocks of at most this order, and can drain this.
    pub const fn new(mask: u8, drain: Drain) -> Self {
        let (domain, touched) = (DomainId::new(0), Touched::Leaves);
        let pages = PageBlock::EVERYTHING;
        let request = Invalidation::IotlbPages { domain, pages, touched };
        let [low, _] = Descriptor::invalidating(request, drain).words();
        Self { low, mask }
    }

    /// The request, as two words of the queue, that makes the unit forget a change by which a single block of pages is out of
    /// use, as most are. `None` where it takes more than that.
    #[inline]
    pub const fn forgetting(&self, domain: DomainId, change: &Changed) -> Option<[u64; 2]> {
        let Some(block) = Pages::one_block(change.start, change.bytes) else { return None };
        if block.order() > self.mask {
            return None;
        }
        let domain = (domain.get() as u64) << IotlbInvalidateDescriptor::DOMAIN_OFFSET;
        Some([self.low | domain, InvalidateAddress::of(block, change.touched).into_bits()])
    }
}

impl From<WaitDescriptor> for Descriptor {
    fn from(wait: WaitDescriptor) -> Self {
        Self(wait.into_bits())
    }
}

/// cc_inv_dsc: forget context entries (6.5.2.1).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct ContextCacheInvalidate {
    /// Type, bits 3:0.
    #[bits(4, default = CONTEXT_CACHE, access = RO)]
    pub kind: u8,
    /// G: which, bits 5:4.
    #[bits(2)]
    pub granularity: Granularity,
    /// Bits 15:6. Reserved, but for the upper part of the type.
    #[bits(10)]
    __: u16,
    /// DID: the domain id, bits 31:16.
    #[bits(16, from = DomainId::new, into = DomainId::get, default = DomainId::new(0))]
    pub domain: DomainId,
    /// SID: the function, bits 47:32.
    #[bits(16, from = SourceId::new, into = SourceId::get, default = SourceId::new(0))]
    pub source: SourceId,
    /// FM: how many of the function's low bits are ignored, bits 49:48. For phantom functions.
    #[bits(2)]
    pub function_mask: u8,
    #[bits(14)]
    __: u16,
    #[bits(64)]
    __: u64,
}

/// iotlb_inv_dsc: forget translations (6.5.2.3).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct IotlbInvalidateDescriptor {
    /// Type, bits 3:0.
    #[bits(4, default = IOTLB, access = RO)]
    pub kind: u8,
    /// G: which, bits 5:4.
    #[bits(2)]
    pub granularity: Granularity,
    /// DW: drain writes before the next wait is done, bit 6.
    pub drain_writes: bool,
    /// DR: drain reads before the next wait is done, bit 7.
    pub drain_reads: bool,
    /// Bits 15:8. Reserved, but for the upper part of the type.
    #[bits(8)]
    __: u8,
    /// DID: the domain id, bits 31:16.
    #[bits(16, from = DomainId::new, into = DomainId::get, default = DomainId::new(0))]
    pub domain: DomainId,
    #[bits(32)]
    __: u32,
    /// AM, IH and ADDR: which pages, bits 127:64, as in IVA_REG.
    #[bits(64)]
    pub pages: InvalidateAddress,
}

/// inv_wait_dsc: say when everything before is done (6.5.2.9).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct WaitDescriptor {
    /// Type, bits 3:0.
    #[bits(4, default = WAIT, access = RO)]
    pub kind: u8,
    /// IF: set ICS_REG.IWC, and raise an interrupt, bit 4.
    pub interrupt: bool,
    /// SW: write `status_data` to `status_address`, bit 5.
    pub write_status: bool,
    /// FN: what follows in the queue waits too, bit 6.
    pub fence: bool,
    /// Bits 31:7. Reserved, but for the upper part of the type and for page-request drain.
    #[bits(25)]
    __: u32,
    /// Status data: 32 bits, written at once, bits 63:32.
    #[bits(32)]
    pub status_data: u32,
    #[bits(2)]
    __: u8,
    /// Status address: where, a multiple of 4, bits 127:66. The unit snoops when it writes there.
    #[bits(62, from = dword, into = from_dword, default = PhysAddr::new(0))]
    pub status_address: PhysAddr,
}

impl WaitDescriptor {
    /// A wait that ends with `data` written at `status`, a multiple of 4.
    #[inline]
    pub const fn writing(data: u32, status: PhysAddr) -> Self {
        const EMPTY: u128 = WaitDescriptor::new().with_write_status(true).into_bits();
        debug_assert!(status.is_aligned(4));
        // So its low bits, which are no field's, are zero.
        let status = (status.get() as u128) << 64;
        Self::from_bits(EMPTY | status | (data as u128) << Self::STATUS_DATA_OFFSET)
    }
}

const fn dword(field: u64) -> PhysAddr {
    PhysAddr::new(field << 2)
}

const fn from_dword(address: PhysAddr) -> u64 {
    debug_assert!(address.is_aligned(4));
    address.get() >> 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use dma_types::Iova;

    const DOMAIN: DomainId = DomainId::new(0x1234);
    const SOURCE: SourceId = SourceId::new(0xabcd);
    const ALL: Drain = Drain { reads: true, writes: true };
    const NONE: Drain = Drain { reads: false, writes: false };

    fn words(invalidation: Invalidation, drain: Drain) -> [u64; 2] {
        Descriptor::invalidating(invalidation, drain).words()
    }

    #[test]
    fn context_cache_descriptors_have_the_spec_s_bits() {
        assert_eq!(words(Invalidation::ContextGlobal, ALL), [0x11, 0]);
        assert_eq!(words(Invalidation::ContextDomain(DOMAIN), ALL), [0x1234_0021, 0]);
        let device = Invalidation::ContextDevice { domain: DOMAIN, source: SOURCE };
        assert_eq!(words(device, ALL), [0x0000_abcd_1234_0031, 0]);
        let masked = ContextCacheInvalidate::new().with_function_mask(3).into_bits();
        assert_eq!(masked, 0x0003_0000_0000_0001);
    }

    #[test]
    fn iotlb_descriptors_have_the_spec_s_bits() {
        assert_eq!(words(Invalidation::IotlbGlobal, NONE), [0x12, 0]);
        assert_eq!(words(Invalidation::IotlbGlobal, ALL), [0xd2, 0]);
        assert_eq!(words(Invalidation::IotlbDomain(DOMAIN), NONE), [0x1234_0022, 0]);
        assert_eq!(words(Invalidation::IotlbDomain(DOMAIN), ALL), [0x1234_00e2, 0]);
        let writes = Drain { reads: false, writes: true };
        assert_eq!(words(Invalidation::IotlbGlobal, writes), [0x52, 0]);

        let pages = PageBlock::new(Iova::new(0x7f12_3440_0000), 9).unwrap();
        let tables = Invalidation::IotlbPages { domain: DOMAIN, pages, touched: Touched::Tables };
        assert_eq!(words(tables, ALL), [0x1234_00f2, 0x7f12_3440_0009]);
        let leaves = Invalidation::IotlbPages { domain: DOMAIN, pages, touched: Touched::Leaves };
        assert_eq!(words(leaves, ALL), [0x1234_00f2, 0x7f12_3440_0049]);
    }

    #[test]
    fn wait_descriptors_have_the_spec_s_bits() {
        let wait = WaitDescriptor::writing(0xcafe_f00d, PhysAddr::new(0x1_2345_6ffc));
        let words = |wait: WaitDescriptor| Descriptor::from(wait).words();
        assert_eq!(words(wait), [0xcafe_f00d_0000_0025, 0x1_2345_6ffc]);
        assert_eq!(words(wait.with_fence(true))[0], 0xcafe_f00d_0000_0065);
        assert_eq!(words(wait.with_interrupt(true))[0], 0xcafe_f00d_0000_0035);
        assert_eq!(words(WaitDescriptor::new().with_interrupt(true)), [0x15, 0]);
    }

    #[test]
    fn a_descriptor_has_these_bytes_in_memory() {
        let pages = PageBlock::new(Iova::new(0x1000), 0).unwrap();
        let invalidation =
            Invalidation::IotlbPages { domain: DOMAIN, pages, touched: Touched::Leaves };
        let [low, high] = words(invalidation, ALL);
        assert_eq!(low.to_le_bytes(), [0xf2, 0x00, 0x34, 0x12, 0, 0, 0, 0]);
        assert_eq!(high.to_le_bytes(), [0x40, 0x10, 0, 0, 0, 0, 0, 0]);
    }
}
