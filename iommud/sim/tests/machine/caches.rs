//! What stays in the caches, and what makes it go.

use crate::rig::*;
use iommu_sim::Blocked;
use iommu_sim::vtd::{FaultReason, Violation, VtdConfig};

const READ_DENIED: Result<u64, Blocked> = Err(Blocked::Fault(FaultReason::ReadDenied));

#[test]
fn r2_a_removed_page_stays_reachable_until_it_is_invalidated() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.put(table(1) + 5 * 8, 0);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.invalidate_contexts();
    assert_eq!(rig.dma_read(0x5000), Ok(42), "the context cache is another cache");
    rig.invalidate_pages();
    assert_eq!(rig.dma_read(0x5000), READ_DENIED);
    let counters = rig.unit().counters();
    assert_eq!((counters.walks, counters.iotlb_hits), (2, 2));
}

#[test]
fn more_rights_need_an_invalidation_too() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(table(1) + 5 * 8, PAGE | 1);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 5 * 8, PAGE | 3);
    assert_eq!(rig.write_fault(0x5000), FaultReason::WriteDenied);
    rig.invalidate_pages();
    assert_eq!(rig.dma_write(0x5000, 1), Ok(()));
}

#[test]
fn what_was_not_present_is_seen_at_once() {
    let mut rig = Rig::translating(VtdConfig::default());
    assert_eq!(rig.dma_read(0x6000), READ_DENIED);
    rig.put(table(1) + 6 * 8, OTHER_PAGE | 3);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
    rig.put(EDU_CONTEXT, 0);
    rig.invalidate_contexts();
    let absent = Err(Blocked::Fault(FaultReason::ContextNotPresent));
    assert_eq!(rig.dma_read(0x6000), absent);
    rig.put(EDU_CONTEXT, table(4) | 1);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
}

#[test]
fn with_caching_mode_it_is_not() {
    let mut rig = Rig::translating(VtdConfig { caching_mode: true, ..VtdConfig::default() });
    assert_eq!(rig.dma_read(0x6000), READ_DENIED);
    rig.put(table(1) + 6 * 8, OTHER_PAGE | 3);
    assert_eq!(rig.dma_read(0x6000), READ_DENIED);
    // Page-selective, domain 7.
    rig.write64(0xf0, 0x6000);
    rig.write64(0xf8, 1 << 63 | 3 << 60 | 7 << 32);
    assert_eq!(rig.dma_read(0x6000), Ok(0));

    rig.put(EDU_CONTEXT, 0);
    rig.invalidate_contexts();
    let absent = Err(Blocked::Fault(FaultReason::ContextNotPresent));
    assert_eq!(rig.dma_read(0x5000), absent);
    rig.put(EDU_CONTEXT, table(4) | 1);
    // Device-selective, first in domain 7 and then in domain 0, which tags what is not present.
    rig.write64(0x28, 1 << 63 | 3 << 61 | 0x10 << 16 | 7);
    assert_eq!(rig.dma_read(0x5000), absent);
    rig.write64(0x28, 1 << 63 | 3 << 61 | 0x10 << 16);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn with_caching_mode_domain_zero_is_reserved() {
    let mut rig = Rig::translating(VtdConfig { caching_mode: true, ..VtdConfig::default() });
    rig.put(EDU_CONTEXT + 8, 2);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    assert_eq!(rig.unit().violations(), [Violation::ReservedDomain]);
}

#[test]
fn a_context_stays_until_its_own_domain_is_invalidated() {
    let mut rig = Rig::translating(VtdConfig::default());
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(EDU_CONTEXT, 0);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.write64(0x28, 1 << 63 | 2 << 61 | 8);
    assert_eq!(rig.read64(0x28) >> 59 & 3, 2, "CAIG");
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.write64(0x28, 1 << 63 | 2 << 61 | 7);
    assert_eq!(rig.dma_read(0x5000), Err(Blocked::Fault(FaultReason::ContextNotPresent)));
}

#[test]
fn translations_are_shared_in_a_domain_and_not_between_domains() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.put(table(1) + 5 * 8, OTHER_PAGE | 3);
    // The same domain-id again for what is now another table: the old translation is found.
    rig.invalidate_contexts();
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.put(EDU_CONTEXT + 8, 8 << 8 | 2);
    rig.invalidate_contexts();
    assert_eq!(rig.dma_read(0x5000), Ok(0));
}

#[test]
fn tables_are_cached_until_an_invalidation_without_the_leaf_hint() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    // The lowest table is replaced by one in which the page is somewhere else.
    rig.put(table(6) + 5 * 8, OTHER_PAGE | 3);
    rig.put(table(2), table(6) | 3);
    let page = |hint: u64| 0x5000 | hint << 6;
    rig.write64(0xf0, page(1));
    rig.write64(0xf8, 1 << 63 | 3 << 60 | 7 << 32);
    assert_eq!(rig.read64(0xf8) >> 57 & 3, 3, "IAIG");
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.write64(0xf0, page(0));
    rig.write64(0xf8, 1 << 63 | 3 << 60 | 7 << 32);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    assert!(rig.unit().counters().table_hits > 0);
}

#[test]
fn a_large_page_goes_only_with_a_mask_that_covers_it() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(table(2) + 8, 0x4020_0000 | 0x83);
    assert_eq!(rig.dma_read(0x0020_1000), Ok(0));
    rig.put(table(2) + 8, 0);
    for (mask, expected) in [(0, Ok(0)), (8, Ok(0)), (9, READ_DENIED)] {
        rig.write64(0xf0, 0x0020_1000 | mask);
        rig.write64(0xf8, 1 << 63 | 3 << 60 | 7 << 32);
        assert_eq!(rig.dma_read(0x0020_1000), expected, "{mask}");
    }
}

#[test]
fn without_coherency_the_unit_sees_what_was_flushed() {
    let mut rig = Rig::translating(VtdConfig { coherent: false, ..VtdConfig::default() });
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 6 * 8, OTHER_PAGE | 3);
    assert_eq!(rig.dma_read(0x6000), READ_DENIED);
    rig.machine.flush(table(1) + 6 * 8, 8);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
    // A table that was never flushed is garbage.
    rig.put(table(2) + 8, table(8) | 3);
    rig.machine.flush(table(2) + 8, 8);
    assert_eq!(rig.dma_read(0x0020_0000), Err(Blocked::Fault(FaultReason::PageReserved)));
    // Data is coherent, and so is the queue.
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.turn_queue_on();
    rig.submit(&[(1 << 32 | 0x25, STATUS)]);
    assert_eq!(rig.get(STATUS), 1);
}

#[test]
fn with_a_write_buffer_stores_are_seen_once_it_is_flushed() {
    let mut rig = Rig::translating(VtdConfig { write_buffer: true, ..VtdConfig::default() });
    assert_eq!(rig.dma_read(0x6000), READ_DENIED);
    rig.put(table(1) + 6 * 8, OTHER_PAGE | 3);
    assert_eq!(rig.dma_read(0x6000), READ_DENIED);
    rig.write32(0x18, 1 << 31 | 1 << 27);
    assert_eq!(rig.read32(0x1c), 0xc000_0000);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
    // An invalidation flushes it too.
    assert_eq!(rig.dma_read(0x7000), READ_DENIED);
    rig.put(table(1) + 7 * 8, OTHER_PAGE | 3);
    rig.write64(0xf8, 1 << 63 | 2 << 60 | 99 << 32);
    assert_eq!(rig.dma_read(0x7000), Ok(0));
}

#[test]
fn without_page_selection_or_mask_the_register_says_what_it_did() {
    let mut rig = Rig::translating(VtdConfig { max_address_mask: 4, ..VtdConfig::default() });
    rig.write64(0xf0, 5);
    rig.write64(0xf8, 1 << 63 | 3 << 60 | 7 << 32);
    assert_eq!(rig.read64(0xf8) >> 57, 0x18, "IIRG 3, IAIG 0, not busy");
    let mut rig = Rig::translating(VtdConfig { page_selective: false, ..VtdConfig::default() });
    rig.write64(0xf0, 0x5000);
    rig.write64(0xf8, 1 << 63 | 3 << 60 | 7 << 32);
    assert_eq!(rig.read64(0xf8) >> 57, 0x1a, "IIRG 3, IAIG 2, not busy");
}
