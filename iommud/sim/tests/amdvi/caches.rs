//! What stays in the caches, and what makes it go.

use crate::rig::*;
use iommu_sim::amdvi::{AmdviConfig, Violation};

#[test]
fn r2_a_removed_page_stays_reachable_until_it_is_invalidated() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.put(table(1) + 5 * 8, 0);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.submit(&[EDU, wait(1)]);
    assert_eq!(rig.dma_read(0x5000), Ok(42), "the device table cache is another cache");
    rig.submit(&[pages(0x5000), wait(2)]);
    assert_eq!(rig.dma_read(0x5000), Err(FAULT));
    let counters = rig.unit().counters();
    assert_eq!((counters.walks, counters.page_hits, counters.page_invalidations), (2, 2, 1));
}

#[test]
fn more_rights_need_an_invalidation_too() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(table(1) + 5 * 8, PAGE | R);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 5 * 8, PAGE | RW);
    assert_eq!(rig.dma_write(0x5000, 1), Err(FAULT));
    rig.submit(&[pages(0x5000)]);
    assert_eq!(rig.dma_write(0x5000, 1), Ok(()));
}

#[test]
fn r4_a_detached_device_goes_on_until_its_entry_is_invalidated() {
    let mut rig = Rig::translating(AmdviConfig::default());
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(EDU_ENTRY, 3);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.submit(&[(2 << 60 | 0x11, 0)]);
    assert_eq!(rig.dma_read(0x5000), Ok(0), "another device");
    rig.submit(&[EDU]);
    assert_eq!(rig.dma_read(0x5000), Err(FAULT));
}

#[test]
fn an_entry_that_is_half_written_when_it_is_invalidated_is_noticed() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(EDU_ENTRY + 24, 1);
    rig.submit(&[EDU]);
    assert_eq!(rig.unit().violations(), [Violation::IllegalDeviceEntry]);
}

#[test]
fn translations_are_shared_in_a_domain_and_not_between_domains() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.put(table(1) + 5 * 8, OTHER_PAGE | RW);
    rig.submit(&[EDU]);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.put(EDU_ENTRY + 8, 8);
    rig.submit(&[EDU]);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    // Another domain's invalidation is not this one's.
    rig.put(table(1) + 5 * 8, 0);
    rig.submit(&[pages(0x7fff_ffff_ffff_f003)]);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
}

#[test]
fn tables_are_cached_until_an_invalidation_with_pde() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    // The lowest table is replaced by one in which the page is somewhere else.
    rig.put(table(6) + 5 * 8, OTHER_PAGE | RW);
    rig.put(table(2), table(6) | level(1) | RW);
    rig.submit(&[pages(0x5000)]);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.submit(&[pages(0x7fff_ffff_ffff_f001)]);
    assert_eq!(rig.dma_read(0x5000), Ok(42), "the whole domain, but no tables");
    rig.submit(&[pages(0x5002)]);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    assert!(rig.unit().counters().table_hits > 0);
}

#[test]
fn a_large_page_goes_only_with_a_range_that_covers_it() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(table(2) + 8, 0x4020_0000 | RW);
    assert_eq!(rig.dma_read(0x0020_1000), Ok(0));
    rig.put(table(2) + 8, 0);
    // A page, 1 MiB, 2 MiB: the lowest clear bit is half the size.
    for (what, expected) in [(0x0020_1000, Ok(0)), (0x0027_f001, Ok(0)), (0x002f_f001, Err(FAULT))]
    {
        rig.submit(&[pages(what)]);
        assert_eq!(rig.dma_read(0x0020_1000), expected, "{what:#x}");
    }
}

#[test]
fn a_grown_root_is_used_once_the_entry_is_invalidated() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(EDU_ENTRY, DEVICE | level(3) | table(3));
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(0x5000), Ok(42));
    rig.put(table(4) + 8, table(3) | level(3) | RW);
    rig.put(EDU_ENTRY, DEVICE | level(4) | table(4));
    assert_eq!(rig.dma_read(1 << 39 | 0x5000), Err(FAULT));
    rig.submit(&[EDU]);
    assert_eq!((rig.dma_read(1 << 39 | 0x5000), rig.dma_read(0x5000)), (Ok(42), Ok(42)));
}

#[test]
fn np_cache_keeps_what_is_not_present() {
    let mut rig = Rig::translating(AmdviConfig { np_cache: true, ..AmdviConfig::default() });
    let function = "0000:00:00.2".parse().unwrap();
    assert_eq!(rig.machine.config_read(function, 0x40) >> 24, 0x1c);
    assert_eq!(rig.dma_read(0x6000), Err(FAULT));
    rig.put(table(1) + 6 * 8, PAGE | RW);
    assert_eq!(rig.dma_read(0x6000), Err(FAULT));
    rig.submit(&[pages(0x6000)]);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
    // A table that is new needs PDE.
    assert_eq!(rig.dma_read(0x0020_5000), Err(FAULT));
    rig.put(table(2) + 8, table(1) | level(1) | RW);
    rig.submit(&[pages(0x0020_5000)]);
    assert_eq!(rig.dma_read(0x0020_5000), Err(FAULT));
    rig.submit(&[pages(0x0020_5002)]);
    assert_eq!(rig.dma_read(0x0020_5000), Ok(0));
    let mut without = Rig::translating(AmdviConfig::default());
    assert_eq!(without.dma_read(0x6000), Err(FAULT));
    without.put(table(1) + 6 * 8, PAGE | RW);
    assert_eq!(without.dma_read(0x6000), Ok(0));
}

#[test]
fn an_eager_unit_has_looked_at_the_neighbours() {
    for np_cache in [false, true] {
        let unit = AmdviConfig { eager: true, np_cache, ..AmdviConfig::default() };
        let mut rig = Rig::translating(unit);
        rig.put(table(1) + 6 * 8, PAGE | RW);
        assert_eq!(rig.dma_read(0x5000), Ok(0));
        rig.put(table(1) + 6 * 8, 0);
        rig.put(table(1) + 7 * 8, PAGE | RW);
        rig.put(table(1) + 8 * 8, PAGE | RW);
        assert_eq!(rig.dma_read(0x6000), Ok(0));
        assert_eq!(rig.dma_read(0x7000), if np_cache { Err(FAULT) } else { Ok(0) });
        assert_eq!(rig.dma_read(0x8000), Ok(0), "another cache line");
    }
}

#[test]
fn without_coherency_the_unit_sees_what_was_flushed() {
    let mut rig = Rig::translating(AmdviConfig { coherent: false, ..AmdviConfig::default() });
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 6 * 8, OTHER_PAGE | RW);
    assert_eq!(rig.dma_read(0x6000), Err(FAULT));
    rig.machine.flush(table(1) + 6 * 8, 8);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
    rig.put(table(1) + 7 * 8, OTHER_PAGE | RW);
    assert_eq!(rig.dma_read(0x7000), Err(FAULT));
    rig.write64(0x18, ON | 1 << 10);
    assert_eq!(rig.dma_read(0x7000), Ok(0), "Control.Coherent");
}

#[test]
fn a_new_device_table_is_not_seen_until_the_entries_are_invalidated() {
    let mut rig = Rig::translating(AmdviConfig::default());
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    // A table in which nobody may do anything.
    rig.put(0x8_0200, 3);
    rig.write64(0, 0x8_0000);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    assert_eq!(rig.unit().violations(), [], "it may yet be invalidated");
    rig.submit(&[wait(1)]);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    assert_eq!(rig.unit().violations(), [Violation::StaleDeviceTable]);
    rig.submit(&[EDU]);
    assert_eq!(rig.dma_read(0x5000), Err(FAULT));
}
