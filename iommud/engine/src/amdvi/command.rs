//! Commands as the command buffer carries them, 128 bits each (2.4).
//!
//! Not here are the commands for what is never turned on: INVALIDATE_IOTLB_PAGES, of devices' own caches
//! (rule R2), COMPLETE_PPR_REQUEST, and PREFETCH_IOMMU_PAGES, which only saves time to who knows what a device
//! will ask for.

use bitfield_struct::bitfield;
use dma_types::{Iova, PhysAddr, SourceId};

use super::invalidation::Invalidation;
use crate::blocks::PageBlock;
use crate::field::{from_page, page};
use crate::unit::{DomainId, Touched};

/// COMPLETION_WAIT (2.4.1).
const COMPLETION_WAIT: u8 = 0x1;
/// INVALIDATE_DEVTAB_ENTRY (2.4.2).
const INVALIDATE_DEVICE: u8 = 0x2;
/// INVALIDATE_IOMMU_PAGES (2.4.3).
const INVALIDATE_PAGES: u8 = 0x3;
/// INVALIDATE_INTERRUPT_TABLE (2.4.5).
const INVALIDATE_INTERRUPTS: u8 = 0x5;
/// INVALIDATE_IOMMU_ALL (2.4.8).
const INVALIDATE_ALL: u8 = 0x8;

/// The order from which a page is mapped by an entry above the lowest table, which a unit may keep among
/// those that point to tables: 2 MiB.
const ABOVE_LOWEST_TABLE: u8 = 9;

/// A command of any kind, ready for the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(u128);

impl Command {
    /// The command that asks for this.
    pub const fn invalidating(invalidation: Invalidation) -> Self {
        Self(match invalidation {
            Invalidation::All => InvalidateAll::new().into_bits(),
            Invalidation::Device(source) => InvalidateDevice::new().with_source(source).into_bits(),
            Invalidation::Interrupts(source) => {
                InvalidateInterrupts::new().with_source(source).into_bits()
            }
            Invalidation::Domain(domain) => {
                return Self::forgetting(domain, PageBlock::EVERYTHING, Touched::Tables);
            }
            Invalidation::Pages { domain, pages, touched } => {
                return Self::forgetting(domain, pages, touched);
            }
        })
    }

    /// The command that asks to forget some pages of a domain, in whose table this has changed.
    #[inline]
    pub const fn forgetting(domain: DomainId, pages: PageBlock, touched: Touched) -> Self {
        const EMPTY: u128 = InvalidatePages::new().into_bits();
        const SEVERAL: u128 = InvalidatePages::new().with_several(true).into_bits() & !EMPTY;
        const TABLES: u128 = InvalidatePages::new().with_tables(true).into_bits() & !EMPTY;
        let mut bits = EMPTY | (domain.get() as u128) << InvalidatePages::DOMAIN_OFFSET;
        if matches!(touched, Touched::Tables) || pages.order() >= ABOVE_LOWEST_TABLE {
            bits |= TABLES;
        }
        if pages.order() > 0 {
            bits |= SEVERAL;
        }
        Self(bits | (InvalidatePages::address_of(pages).get() as u128) << u64::BITS)
    }

    /// The command that is done when all before it are, and then writes `data` to `store`, a multiple of 8.
    #[inline]
    pub const fn storing(data: u64, store: PhysAddr) -> Self {
        const EMPTY: u128 = CompletionWait::new().with_store(true).into_bits();
        debug_assert!(store.is_aligned(8));
        // So its low bits, which are other fields', are zero; what has more than 52 is no memory.
        Self(EMPTY | store.get() as u128 | (data as u128) << CompletionWait::STORE_DATA_OFFSET)
    }

    /// The command that holds back what comes after it until all before it is done.
    pub const fn barrier() -> Self {
        Self(CompletionWait::new().with_flush_queue(true).into_bits())
    }

    /// The command as two words of the buffer, the lower address first.
    #[inline]
    pub const fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }
}

/// COMPLETION_WAIT: say when everything before is done (2.4.1).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct CompletionWait {
    /// s: write `store_data` to `store_address`, bit 0.
    pub store: bool,
    /// i: raise an interrupt, bit 1.
    pub interrupt: bool,
    /// f: what follows in the buffer waits, too, bit 2.
    pub flush_queue: bool,
    /// StoreAddress: where, a multiple of 8, bits 51:3. The unit snoops when it writes there.
    #[bits(49, from = quadword, into = from_quadword, default = PhysAddr::new(0))]
    pub store_address: PhysAddr,
    #[bits(8)]
    __: u8,
    /// Opcode, bits 63:60.
    #[bits(4, default = COMPLETION_WAIT, access = RO)]
    pub opcode: u8,
    /// StoreData: what, bits 127:64.
    #[bits(64)]
    pub store_data: u64,
}

/// INVALIDATE_DEVTAB_ENTRY: forget the device table entry of one requester (2.4.2).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct InvalidateDevice {
    /// DeviceID, bits 15:0.
    #[bits(16, from = SourceId::new, into = SourceId::get, default = SourceId::new(0))]
    pub source: SourceId,
    #[bits(44)]
    __: u64,
    /// Opcode, bits 63:60.
    #[bits(4, default = INVALIDATE_DEVICE, access = RO)]
    pub opcode: u8,
    #[bits(64)]
    __: u64,
}

/// INVALIDATE_IOMMU_PAGES: forget translations of one domain (2.4.3).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct InvalidatePages {
    /// Bits 31:0. The PASID, for guest translation.
    #[bits(32)]
    __: u32,
    /// DomainID, bits 47:32.
    #[bits(16, from = DomainId::new, into = DomainId::get, default = DomainId::new(0))]
    pub domain: DomainId,
    #[bits(12)]
    __: u16,
    /// Opcode, bits 63:60.
    #[bits(4, default = INVALIDATE_PAGES, access = RO)]
    pub opcode: u8,
    /// S: more than one page, whose number the low bits of the address tell, bit 64.
    pub several: bool,
    /// PDE: what is kept of the entries that point to tables, too, bit 65.
    pub tables: bool,
    /// Bits 75:66. GN, guest translation, and reserved.
    #[bits(10)]
    __: u16,
    /// Address, bits 127:76.
    #[bits(52, from = page, into = from_page, default = Iova::new(0))]
    pub address: Iova,
}

impl InvalidatePages {
    /// The address that names these pages, a page's. Of a block of two to the power of *n* pages, *n* not zero, the lowest
    /// *n* - 1 bits of the page number are set and the one above them is clear.
    #[inline]
    const fn address_of(pages: PageBlock) -> Iova {
        match pages.order().checked_sub(1) {
            None => pages.first(),
            Some(ones) => Iova::new(pages.first().get() | page((1 << ones) - 1).get()),
        }
    }
}

/// INVALIDATE_INTERRUPT_TABLE: forget the interrupt remapping table of one requester (2.4.5).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct InvalidateInterrupts {
    /// DeviceID, bits 15:0.
    #[bits(16, from = SourceId::new, into = SourceId::get, default = SourceId::new(0))]
    pub source: SourceId,
    #[bits(44)]
    __: u64,
    /// Opcode, bits 63:60.
    #[bits(4, default = INVALIDATE_INTERRUPTS, access = RO)]
    pub opcode: u8,
    #[bits(64)]
    __: u64,
}

/// INVALIDATE_IOMMU_ALL: forget everything (2.4.8).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct InvalidateAll {
    #[bits(60)]
    __: u64,
    /// Opcode, bits 63:60.
    #[bits(4, default = INVALIDATE_ALL, access = RO)]
    pub opcode: u8,
    #[bits(64)]
    __: u64,
}

const fn quadword(field: u64) -> PhysAddr {
    PhysAddr::new(field << 3)
}

const fn from_quadword(address: PhysAddr) -> u64 {
    debug_assert!(address.is_aligned(8));
    address.get() >> 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: DomainId = DomainId::new(0x1234);
    const SOURCE: SourceId = SourceId::new(0xabcd);

    fn words(invalidation: Invalidation) -> [u64; 2] {
        Command::invalidating(invalidation).words()
    }

    fn pages(first: u64, order: u8, touched: Touched) -> [u64; 2] {
        let pages = PageBlock::new(Iova::new(first), order).unwrap();
        words(Invalidation::Pages { domain: DOMAIN, pages, touched })
    }

    #[test]
    fn a_completion_wait_has_the_spec_s_bits() {
        let store = PhysAddr::new(0x000f_edcb_a987_6ff8);
        let wait = Command::storing(0xcafe_babe_dead_beef, store);
        assert_eq!(wait.words(), [0x100f_edcb_a987_6ff9, 0xcafe_babe_dead_beef]);
        assert_eq!(Command::barrier().words(), [0x1000_0000_0000_0004, 0]);
        let interrupt = CompletionWait::new().with_interrupt(true).into_bits();
        assert_eq!(interrupt, 0x1000_0000_0000_0002);
    }

    #[test]
    fn commands_about_a_device_have_the_spec_s_bits() {
        assert_eq!(words(Invalidation::Device(SOURCE)), [0x2000_0000_0000_abcd, 0]);
        assert_eq!(words(Invalidation::Interrupts(SOURCE)), [0x5000_0000_0000_abcd, 0]);
    }

    #[test]
    fn forgetting_everything_has_the_spec_s_bits() {
        assert_eq!(words(Invalidation::All), [0x8000_0000_0000_0000, 0]);
    }

    #[test]
    fn forgetting_a_domain_names_the_spec_s_address_of_everything() {
        let domain = words(Invalidation::Domain(DOMAIN));
        assert_eq!(domain, [0x3000_1234_0000_0000, 0x7fff_ffff_ffff_f003]);
    }

    #[test]
    fn one_page_is_named_by_its_address() {
        let one = |touched| pages(0x7f12_3456_7000, 0, touched);
        assert_eq!(one(Touched::Leaves), [0x3000_1234_0000_0000, 0x7f12_3456_7000]);
        assert_eq!(one(Touched::Tables), [0x3000_1234_0000_0000, 0x7f12_3456_7002]);
    }

    #[test]
    fn the_lowest_clear_bit_of_the_address_tells_how_many_pages() {
        let address = |first, order| pages(first, order, Touched::Leaves)[1];
        // 8, 16 and 32 KiB, 1 MiB.
        assert_eq!(address(0x2000, 1), 0x2001);
        assert_eq!(address(0x4000, 2), 0x5001);
        assert_eq!(address(0x8000, 3), 0xb001);
        assert_eq!(address(0x10_0000, 8), 0x17_f001);
        // 2 MiB, 1 GiB and 512 GiB: as large as pages above the lowest table, so these are forgotten, too.
        assert_eq!(address(0x20_0000, 9), 0x2f_f003);
        assert_eq!(address(0x4000_0000, 18), 0x5fff_f003);
        assert_eq!(address(0x80_0000_0000, 27), 0xbf_ffff_f003);
    }

    #[test]
    fn a_command_has_these_bytes_in_memory() {
        let [low, high] = pages(0x2000, 1, Touched::Leaves);
        assert_eq!(low.to_le_bytes(), [0, 0, 0, 0, 0x34, 0x12, 0, 0x30]);
        assert_eq!(high.to_le_bytes(), [0x01, 0x20, 0, 0, 0, 0, 0, 0]);
    }
}
