//! From a request to an address or a fault.

use crate::rig::*;
use iommu_sim::vtd::{FaultReason, VtdConfig};
use iommu_sim::{Blocked, MachineConfig};

#[test]
fn after_reset_requests_pass_untranslated() {
    let mut rig = Rig::new(VtdConfig::default());
    assert_eq!(rig.read32(0x00), 0x10);
    assert_eq!(rig.read32(0x1c), 0);
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(PAGE), Ok(42));
    assert_eq!(rig.dma_write(PAGE + 8, 43), Ok(()));
    assert_eq!(rig.get(PAGE + 8), 43);
}

#[test]
fn four_levels_translate_both_ways() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(PAGE + 0x678, 42);
    assert_eq!(rig.dma_read(0x5678), Ok(42));
    assert_eq!(rig.dma_write(0x5ff8, 43), Ok(()));
    assert_eq!(rig.get(PAGE + 0xff8), 43);
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn three_and_five_levels_translate_up_to_their_widths() {
    for (levels, aw, bits) in [(3, 1, 39), (5, 3, 57)] {
        let mut rig = Rig::new(VtdConfig {
            levels: vec![levels],
            guest_address_bits: 57,
            ..VtdConfig::default()
        });
        rig.build();
        let top = table(levels.into());
        rig.put(EDU_CONTEXT, top | 1);
        rig.put(EDU_CONTEXT + 8, 7 << 8 | aw);
        if levels == 5 {
            rig.put(top, table(4) | 3);
        }
        // The last page that the width allows.
        let last = (1 << bits) - 4096;
        rig.put(top + 511 * 8, rig.get(top));
        for level in 1..u64::from(levels) {
            rig.put(table(level) + 511 * 8, rig.get(table(level)));
        }
        rig.put(table(1) + 511 * 8, OTHER_PAGE | 3);
        rig.turn_on();
        rig.put(PAGE, 1);
        rig.put(OTHER_PAGE, 2);
        assert_eq!(rig.dma_read(0x5000), Ok(1));
        assert_eq!(rig.dma_read(last), Ok(2));
        assert_eq!(rig.read_fault(1 << bits), FaultReason::AddressBeyondWidth);
    }
}

#[test]
fn large_pages_translate_at_their_levels() {
    let mut rig = Rig::translating(VtdConfig::default());
    // 2 MiB at 0x200000 and 1 GiB at 0x40000000; PS is bit 7.
    rig.put(table(2) + 8, 0x4020_0000 | 0x83);
    rig.put(table(3) + 8, 0x4000_0000 | 0x83);
    rig.put(0x4021_2348, 1);
    assert_eq!(rig.dma_read(0x0021_2348), Ok(1));
    assert_eq!(rig.dma_read(0x4021_2348), Ok(1));
    rig.put(table(2) + 16, 0x4000_1000 | 0x83);
    assert_eq!(rig.read_fault(0x0040_0000), FaultReason::PageReserved);
    rig.put(table(4) + 8, 0x83);
    assert_eq!(rig.read_fault(1 << 39), FaultReason::PageReserved);
}

#[test]
fn large_pages_are_reserved_bits_where_the_unit_has_none() {
    let mut rig =
        Rig::translating(VtdConfig { pages_2m: false, pages_1g: false, ..VtdConfig::default() });
    rig.put(table(2) + 8, 0x4020_0000 | 0x83);
    rig.put(table(3) + 8, 0x4000_0000 | 0x83);
    assert_eq!(rig.read_fault(0x0020_0000), FaultReason::PageReserved);
    assert_eq!(rig.read_fault(0x4000_0000), FaultReason::PageReserved);
}

#[test]
fn r6_permissions_of_all_levels_count() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(table(1) + 6 * 8, PAGE | 1);
    rig.put(table(1) + 7 * 8, PAGE | 2);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
    assert_eq!(rig.write_fault(0x6000), FaultReason::WriteDenied);
    assert_eq!(rig.dma_write(0x7000, 1), Ok(()));
    assert_eq!(rig.read_fault(0x7123), FaultReason::ReadDenied);
    assert_eq!(rig.read_fault(0x8000), FaultReason::ReadDenied);
    assert_eq!(rig.write_fault(0x8000), FaultReason::WriteDenied);
    rig.put(table(3), table(2) | 1);
    rig.invalidate_pages();
    assert_eq!(rig.dma_read(0x5000), Ok(1));
    assert_eq!(rig.write_fault(0x5000), FaultReason::WriteDenied);
}

#[test]
fn zero_length_reads_of_write_only_pages_are_a_capability() {
    for zero_length_read in [true, false] {
        let mut rig = Rig::translating(VtdConfig { zero_length_read, ..VtdConfig::default() });
        rig.put(table(1) + 6 * 8, PAGE | 2);
        let edu = rig.edu;
        let expected =
            if zero_length_read { Ok(()) } else { Err(Blocked::Fault(FaultReason::ReadDenied)) };
        assert_eq!(rig.machine.dma_read(edu, 0x6000, &mut []), expected);
        let denied = Err(Blocked::Fault(FaultReason::ReadDenied));
        assert_eq!(rig.machine.dma_read(edu, 0x8000, &mut []), denied);
    }
}

#[test]
fn root_entries_are_checked() {
    let mut rig = Rig::translating(VtdConfig::default());
    for (low, high, reason) in [
        (0, 0, FaultReason::RootNotPresent),
        (CONTEXT | 3, 0, FaultReason::RootReserved),
        (CONTEXT | 0x801, 0, FaultReason::RootReserved),
        (CONTEXT | 1 << 46 | 1, 0, FaultReason::RootReserved),
        (CONTEXT | 1, 1, FaultReason::RootReserved),
        (0x10_0000 | 1, 0, FaultReason::ContextTableUnreadable),
    ] {
        rig.put(ROOT, low);
        rig.put(ROOT + 8, high);
        assert_eq!(rig.read_fault(0x5000), reason, "{low:#x} {high:#x}");
    }
    rig.write64(0x20, 0x10_0000);
    rig.write32(0x18, 1 << 31 | 1 << 30);
    assert_eq!(rig.read_fault(0x5000), FaultReason::RootTableUnreadable);
}

#[test]
fn context_entries_are_checked() {
    let good = (table(4) | 1, 7 << 8 | 2);
    let mut rig = Rig::translating(VtdConfig {
        domain_id_bits: 8,
        pass_through: false,
        ..VtdConfig::default()
    });
    for (low, high, reason) in [
        (good.0 & !1, good.1, FaultReason::ContextNotPresent),
        (good.0 | 0x10, good.1, FaultReason::ContextReserved),
        (good.0 | 0x800, good.1, FaultReason::ContextReserved),
        (good.0 | 1 << 46, good.1, FaultReason::ContextReserved),
        (good.0, good.1 | 0x80, FaultReason::ContextReserved),
        (good.0, good.1 | 1 << 24, FaultReason::ContextReserved),
        (good.0, 0x100 << 8 | 2, FaultReason::ContextReserved),
        (good.0, 7 << 8, FaultReason::ContextInvalid),
        (good.0, 7 << 8 | 3, FaultReason::ContextInvalid),
        (good.0 | 1 << 2, good.1, FaultReason::ContextInvalid),
        (good.0 | 2 << 2, good.1, FaultReason::ContextInvalid),
        (good.0 | 3 << 2, good.1, FaultReason::ContextInvalid),
        (0x10_0000 | 1, good.1, FaultReason::ContextInvalid),
    ] {
        rig.put(EDU_CONTEXT, low);
        rig.put(EDU_CONTEXT + 8, high);
        rig.invalidate_contexts();
        assert_eq!(rig.read_fault(0x5000), reason, "{low:#x} {high:#x}");
    }
    rig.put(EDU_CONTEXT, good.0);
    rig.put(EDU_CONTEXT + 8, good.1 | 0x78);
    rig.invalidate_contexts();
    assert_eq!(rig.dma_read(0x5000), Ok(0), "bits 6:3 of the upper word are ignored");
}

#[test]
fn pass_through_passes_where_the_unit_has_it() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(EDU_CONTEXT, 2 << 2 | 1);
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(PAGE), Ok(42));
    rig.put(EDU_CONTEXT + 8, 7 << 8 | 1);
    rig.invalidate_contexts();
    assert_eq!(rig.read_fault(PAGE), FaultReason::ContextInvalid, "not the widest table");
}

#[test]
fn paging_entries_are_checked() {
    let mut rig = Rig::translating(VtdConfig::default());
    for (level, entry, reason) in [
        (1, PAGE | 0x803, FaultReason::PageReserved),
        (1, PAGE | 1 << 46 | 3, FaultReason::PageReserved),
        (2, table(1) | 0x803, FaultReason::PageReserved),
        (4, table(3) | 0x83, FaultReason::PageReserved),
        (2, 0x10_0000 | 3, FaultReason::NextTableUnreadable),
        (3, 0x10_0000 | 3, FaultReason::NextTableUnreadable),
        (1, PAGE | 0x800, FaultReason::ReadDenied),
    ] {
        rig.build();
        let slot = if level == 1 { table(1) + 5 * 8 } else { table(level) };
        rig.put(slot, entry);
        rig.invalidate_pages();
        assert_eq!(rig.read_fault(0x5000), reason, "{level} {entry:#x}");
    }
}

#[test]
fn fault_processing_disable_hides_qualified_faults_only() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(EDU_CONTEXT, table(4) | 3);
    assert_eq!(rig.dma_read(0x8000), Err(Blocked::Fault(FaultReason::ReadDenied)));
    assert_eq!(rig.read32(0x34), 0);
    rig.put(EDU_CONTEXT, 2);
    rig.invalidate_contexts();
    assert_eq!(rig.dma_read(0x5000), Err(Blocked::Fault(FaultReason::ContextNotPresent)));
    assert_eq!(rig.read32(0x34), 0);
    assert_eq!(rig.unit().counters().faults, 2);
    rig.put(ROOT, 0);
    assert_eq!(rig.read_fault(0x5000), FaultReason::RootNotPresent);
}

#[test]
fn addresses_beyond_the_units_own_width_are_blocked() {
    let mut rig = Rig::translating(VtdConfig { guest_address_bits: 39, ..VtdConfig::default() });
    assert_eq!(rig.read_fault(1 << 39), FaultReason::AddressBeyondWidth);
    assert_eq!(rig.read_fault(0x7fff_ffff << 8), FaultReason::ReadDenied);
    assert_eq!(rig.write_fault(u64::MAX << 12), FaultReason::AddressBeyondWidth);
}

#[test]
fn r2_translated_requests_are_blocked_unless_the_context_allows_them() {
    let mut rig = Rig::translating(VtdConfig { device_tlb: true, ..VtdConfig::default() });
    let edu = rig.edu;
    let blocked = Err(Blocked::Fault(FaultReason::RequestTypeBlocked));
    assert_eq!(rig.machine.dma_write_translated(edu, OTHER_PAGE, &[1]), blocked);
    assert_eq!(rig.take_record(), (OTHER_PAGE, 0x8000_000d_0000_0010));
    rig.put(EDU_CONTEXT, table(4) | 1 << 2 | 1);
    rig.invalidate_contexts();
    assert_eq!(rig.machine.dma_write_translated(edu, OTHER_PAGE, &[1]), Ok(()));
    assert_eq!(rig.dma_read(0x5000), Ok(0), "untranslated requests are translated");
}

#[test]
fn the_interrupt_range_is_not_translated() {
    let mut rig = Rig::translating(VtdConfig::default());
    let edu = rig.edu;
    assert_eq!(rig.machine.dma_write(edu, 0xfee0_1000, &[0x41, 0, 0, 0]), Ok(()));
    let interrupts = rig.machine.take_interrupts();
    assert_eq!(interrupts.len(), 1);
    assert_eq!((interrupts[0].address, interrupts[0].data), (0xfee0_1000, 0x41));
    assert_eq!(rig.dma_read(0xfee0_0000), Err(Blocked::InterruptRange));
    assert_eq!(rig.unit().counters().walks, 0);
}

#[test]
fn a_request_is_split_at_pages_and_blocked_pages_read_as_zeroes() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(table(1) + 7 * 8, OTHER_PAGE | 3);
    rig.put(PAGE + 0xff8, u64::MAX);
    rig.put(OTHER_PAGE, u64::MAX);
    let mut data = [9; 0x1010];
    let edu = rig.edu;
    let outcome = rig.machine.dma_read(edu, 0x5ff8, &mut data);
    assert_eq!(outcome, Err(Blocked::Fault(FaultReason::ReadDenied)));
    assert_eq!(data[..8], [0xff; 8]);
    assert!(data[8..0x1008].iter().all(|&byte| byte == 0));
    assert_eq!(data[0x1008..], [0xff; 8]);
}

#[test]
fn each_function_has_its_own_context_and_bus_mastering_counts() {
    let config = MachineConfig::default().with_root_port();
    let (port, behind) = (config.bridges[0].address, config.edus[1].address);
    let mut rig = Rig::with(config);
    rig.build();
    rig.turn_on();
    let mut word = [0; 8];
    assert_eq!(rig.machine.dma_read(behind, 0x5000, &mut word), Err(Blocked::NotMaster));
    rig.machine.config_write(behind, 4, 6);
    let blocked = Err(Blocked::Fault(FaultReason::RootNotPresent));
    assert_eq!(rig.machine.dma_read(behind, 0x5000, &mut word), blocked);
    assert_eq!(rig.take_record().1, 0xc000_0001_0000_0100);
    // Bus 1, device 0, function 0, with a context table of its own.
    rig.put(ROOT + 16, 0x22000 | 1);
    rig.put(0x22000, table(4) | 1);
    rig.put(0x22008, 7 << 8 | 2);
    assert_eq!(rig.machine.dma_read(behind, 0x5000, &mut word), Ok(()));
    rig.machine.config_write(port, 4, 2);
    assert_eq!(rig.machine.dma_read(behind, 0x5000, &mut word), Err(Blocked::NotMaster));
    let nobody = "0000:00:1f.0".parse().unwrap();
    assert_eq!(rig.machine.dma_read(nobody, 0, &mut word), Err(Blocked::NoFunction));
}
