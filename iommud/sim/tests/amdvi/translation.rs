//! From a request to an address or an event.

use crate::rig::*;
use iommu_sim::amdvi::{AmdviConfig, EventCode, Violation};
use iommu_sim::{Blocked, MachineConfig};

/// The upper half of a page fault's first word, without flags: code 2, domain 7.
const PAGE_FAULT: u64 = 0x2000_0007;

fn of_edu(upper: u64) -> u64 {
    upper << 32 | 0x10
}

#[test]
fn after_reset_requests_pass_untranslated() {
    let mut rig = Rig::new(AmdviConfig::default());
    assert_eq!((rig.read64(0x18), rig.read64(0x2020)), (0, 0));
    rig.put(PAGE, 42);
    assert_eq!(rig.dma_read(PAGE), Ok(42));
    assert_eq!(rig.dma_write(PAGE + 8, 43), Ok(()));
    assert_eq!(rig.get(PAGE + 8), 43);
}

#[test]
fn four_levels_translate_both_ways() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(PAGE + 0x678, 42);
    assert_eq!(rig.dma_read(0x5678), Ok(42));
    assert_eq!(rig.dma_write(0x5ff8, 43), Ok(()));
    assert_eq!(rig.get(PAGE + 0xff8), 43);
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn one_to_six_levels_translate_up_to_their_widths() {
    for levels in 1..=6u64 {
        let mut rig = Rig::new(AmdviConfig::default());
        rig.build();
        for upper in 5..=6 {
            rig.put(table(upper), table(upper - 1) | level(upper - 1) | RW);
        }
        rig.put(EDU_ENTRY, DEVICE | level(levels) | table(levels));
        // The last page that the width allows. Level 6 has 7 bits.
        for at in 1..=levels {
            let slot = if at == 6 { 127 } else { 511 };
            let entry = if at == 1 { OTHER_PAGE | RW } else { rig.get(table(at)) };
            rig.put(table(at) + slot * 8, entry);
        }
        rig.turn_on();
        rig.put(PAGE, 1);
        rig.put(OTHER_PAGE, 2);
        let width = 12 + 9 * levels as u32;
        let last = 1u64.checked_shl(width).unwrap_or(0).wrapping_sub(4096);
        assert_eq!((rig.dma_read(0x5000), rig.dma_read(last)), (Ok(1), Ok(2)), "{levels}");
        if levels < 6 {
            assert_eq!(rig.read_event(1 << width), (of_edu(PAGE_FAULT), 1 << width));
        }
        assert_eq!(rig.unit().violations(), []);
    }
}

#[test]
fn nothing_is_found_beyond_the_width_that_the_unit_translates() {
    let unit = AmdviConfig { device_address_bits: 40, ..AmdviConfig::default() };
    let mut rig = Rig::translating(unit);
    // Each entry of the fourth level is for 512 GiB: the second is within, the third beyond.
    rig.put(table(4) + 8, table(3) | level(3) | RW);
    rig.put(table(4) + 16, table(3) | level(3) | RW);
    rig.put(PAGE, 1);
    assert_eq!(rig.dma_read((1 << 39) + 0x5000), Ok(1));
    assert_eq!(rig.read_event((1 << 40) + 0x5000), (of_edu(PAGE_FAULT), (1 << 40) + 0x5000));
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn more_levels_than_the_unit_has_are_an_illegal_entry() {
    for (depth, most) in [(0, 4), (1, 5), (2, 6)] {
        for levels in most - 1..=7 {
            let unit = AmdviConfig { table_depth: depth, ..AmdviConfig::default() };
            let mut rig = Rig::new(unit);
            rig.build();
            rig.put(EDU_ENTRY, DEVICE | level(levels) | table(levels.min(6)));
            rig.turn_on();
            let illegal =
                rig.dma_read(0x5000) == Err(Blocked::Event(EventCode::IllegalDeviceEntry));
            assert_eq!(illegal, levels > most, "{depth} {levels}");
        }
    }
}

#[test]
fn pages_of_any_power_of_two_translate_at_their_levels() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(0x4020_1000, 1);
    rig.put(0x4000_3008, 2);
    rig.put(0x4000_7010, 3);
    rig.put(0x4050_0000, 4);
    // 2 MiB at 0x200000 and 1 GiB at 0x40000000, by NextLevel 0.
    rig.put(table(2) + 8, 0x4020_0000 | RW);
    rig.put(table(3) + 8, 0x4000_0000 | RW);
    assert_eq!(rig.dma_read(0x0020_1000), Ok(1));
    assert_eq!(rig.dma_read(0x4020_1000), Ok(1));
    // 16 KiB at 0x8000 in four entries: bits 13:12 of the address are 01b.
    for slot in 8..12 {
        rig.put(table(1) + slot * 8, 0x4000_1000 | level(7) | RW);
    }
    assert_eq!(rig.dma_read(0xb008), Ok(2));
    // 8 KiB at 0x10000 in two entries.
    for slot in 16..18 {
        rig.put(table(1) + slot * 8, 0x4000_6000 | level(7) | RW);
    }
    assert_eq!(rig.dma_read(0x11010), Ok(3));
    // 4 MiB at 0x400000 in two entries of level 2: bits 20:12 are ones.
    for slot in 2..4 {
        rig.put(table(2) + slot * 8, 0x405f_f000 | level(7) | RW);
    }
    assert_eq!(rig.dma_read(0x0050_0000), Ok(4));
    assert_eq!(rig.unit().violations(), []);
    // A page of which one entry differs is not to be.
    rig.put(table(1) + 20 * 8, 0x4000_1000 | level(7) | RW);
    assert_eq!(rig.dma_read(0x14000), Ok(0));
    assert_eq!(rig.unit().violations(), [Violation::ReplicasDiffer]);
}

#[test]
fn levels_may_be_skipped_where_the_address_is_zero() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(PAGE, 42);
    // The second entry of level 4 leads to level 1.
    rig.put(table(4) + 8, table(1) | level(1) | RW);
    assert_eq!(rig.dma_read(1 << 39 | 0x5000), Ok(42));
    for address in [1 << 39 | 1 << 21 | 0x5000, 1 << 39 | 1 << 38 | 0x5000] {
        assert_eq!(rig.read_event(address), (of_edu(PAGE_FAULT), address));
    }
    // From the cached table too.
    assert_eq!(rig.dma_read(1 << 39 | 0x5008), Ok(0));
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn r6_permissions_of_all_levels_count() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(table(1) + 6 * 8, PAGE | R);
    rig.put(table(1) + 7 * 8, PAGE | W);
    rig.put(table(1) + 8 * 8, PAGE | 1);
    assert_eq!(rig.dma_read(0x6000), Ok(0));
    // PR, RW and PE; then PR and PE.
    assert_eq!(rig.write_event(0x6000), (of_edu(PAGE_FAULT | 0x0070_0000), 0x6000));
    assert_eq!(rig.dma_write(0x7000, 1), Ok(()));
    assert_eq!(rig.read_event(0x7128), (of_edu(PAGE_FAULT | 0x0050_0000), 0x7128));
    assert_eq!(rig.read_event(0x8000), (of_edu(PAGE_FAULT | 0x0050_0000), 0x8000));
    assert_eq!(rig.write_event(0x9000), (of_edu(PAGE_FAULT | 0x0020_0000), 0x9000), "only RW");
    rig.put(table(3), table(2) | level(2) | R);
    rig.submit(&[ALL]);
    assert_eq!(rig.dma_read(0x5000), Ok(1));
    assert_eq!(rig.dma_write(0x5000, 2), Err(FAULT));
    rig.put(table(3), table(2) | level(2) | RW);
    rig.put(EDU_ENTRY, 0x2000_0000_0000_0003 | level(4) | table(4));
    rig.submit(&[ALL]);
    assert_eq!(rig.dma_read(0x5000), Ok(1));
    assert_eq!(rig.dma_write(0x5000, 2), Err(FAULT));
}

#[test]
fn reads_of_nothing_are_allowed_where_anything_is() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(table(1) + 7 * 8, PAGE | W);
    let edu = rig.edu;
    assert_eq!(rig.machine.dma_read(edu, 0x7000, &mut []), Ok(()));
    assert_eq!(rig.machine.dma_read(edu, 0x8000, &mut []), Err(FAULT));
}

#[test]
fn r1_what_a_device_entry_says_without_a_table() {
    for (entry, expected, flags) in [
        // V = 0: all passes, whatever else is there.
        (0, Ok(1), 0),
        (!1, Ok(1), 0),
        // TV = 0: nothing does.
        (0x6000_0000_0000_0001, Err(FAULT), 0),
        // No table: IR and IW decide. Neither is default deny.
        (DEVICE, Ok(1), 0),
        (0x3, Err(FAULT), 0x0050_0000),
        (0x4000_0000_0000_0003, Err(FAULT), 0x0050_0000),
    ] {
        let mut rig = Rig::new(AmdviConfig::default());
        rig.put(EDU_ENTRY, entry);
        rig.put(EDU_ENTRY + 8, 7);
        rig.put(PAGE, 1);
        rig.turn_on();
        assert_eq!(rig.dma_read(PAGE), expected, "{entry:#x}");
        let event = expected.is_err().then_some((of_edu(PAGE_FAULT | flags), PAGE));
        assert_eq!(rig.take_event(), event);
        assert_eq!(rig.unit().violations(), []);
    }
}

#[test]
fn a_wrong_page_entry_is_a_fault_with_its_flag() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(table(1) + 6 * 8, PAGE | RW | 1 << 52);
    rig.put(table(2) + 8, 0x4010_0000 | RW);
    rig.put(table(1) + 7 * 8, PAGE | RW | level(1));
    rig.put(table(3) + 8, table(2) | level(3) | RW);
    rig.put(table(2) + 16, 0x400f_f000 | level(7) | RW);
    // PR and RZ for what is reserved; PR alone for a level or a size that means nothing there.
    for (address, flags) in [
        (0x6000, 0x0090_0000),
        (0x0020_0000, 0x0090_0000),
        (0x7000, 0x0010_0000),
        (0x4000_0000, 0x0010_0000),
        (0x0040_0000, 0x0010_0000),
    ] {
        assert_eq!(rig.read_event(address), (of_edu(PAGE_FAULT | flags), address));
    }
    assert_eq!(rig.unit().violations(), [Violation::IllegalPageEntry; 5]);
}

#[test]
fn a_table_that_is_nowhere_is_a_hardware_error_with_its_address() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(table(3) + 8, 0x9000_0000 | level(2) | RW);
    // Code 4, Type 01b, RW in bit 21.
    assert_eq!(rig.write_event(0x4000_0000), (of_edu(0x4220_0007), 0x9000_0000));
    // Beyond the width of physical addresses.
    let mut rig = Rig::translating(AmdviConfig { host_address_bits: 21, ..AmdviConfig::default() });
    assert_eq!(rig.dma_read(0x5000), Err(Blocked::Event(EventCode::DeviceTableError)));
}

#[test]
fn a_device_table_that_is_nowhere_or_too_short_is_an_event() {
    let mut rig = Rig::new(AmdviConfig::default());
    rig.turn_on();
    rig.write64(0, 0x9000_01ff);
    rig.submit(&[ALL]);
    assert_eq!(rig.read_event(0x5000), (of_edu(0x3200_0000), 0x9000_0200));
    let mut config = MachineConfig::with_amdvi(AmdviConfig::default());
    config.edus[0].address = "0000:00:10.0".parse().unwrap();
    let mut rig = Rig::with(config);
    rig.turn_on();
    rig.write64(0, DEVICES);
    rig.submit(&[ALL]);
    // Source-id 0080h is the first without an entry.
    assert_eq!(rig.read_event(0x5000), (0x1000_0000 << 32 | 0x80, 0x5000));
}

#[test]
fn an_illegal_device_entry_is_an_event_with_its_flag() {
    for (low, high, flag) in [
        (DEVICE | 1 << 2, 7, 0x0080_0000),
        (DEVICE | level(4) | table(4), 7 | 1 << 32, 0x0080_0000),
        (DEVICE | level(7), 7, 0),
    ] {
        let mut rig = Rig::new(AmdviConfig::default());
        rig.put(EDU_ENTRY, low);
        rig.put(EDU_ENTRY + 8, high);
        rig.turn_on();
        assert_eq!(rig.read_event(0x5000), (of_edu(0x1000_0000 | flag), 0x5000));
        assert_eq!(rig.unit().violations(), [Violation::IllegalDeviceEntry]);
        assert_eq!(rig.write_event(0x5000).0, of_edu(0x1020_0000 | flag));
        assert_eq!(rig.unit().violations().len(), 1, "the entry is cached");
    }
}

#[test]
fn the_exclusion_range_is_not_translated_for_all_or_for_some() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(OTHER_PAGE, 42);
    rig.write64(0x20, OTHER_PAGE | 1);
    rig.write64(0x28, OTHER_PAGE | 0xfff);
    assert_eq!(rig.read64(0x28), OTHER_PAGE);
    assert_eq!(rig.dma_read(OTHER_PAGE), Err(FAULT));
    rig.write64(0x20, OTHER_PAGE | 3);
    assert_eq!(rig.dma_read(OTHER_PAGE), Ok(42));
    assert_eq!(rig.dma_read(OTHER_PAGE + 0x1000), Err(FAULT));
    rig.write64(0x20, OTHER_PAGE | 1);
    rig.put(EDU_ENTRY + 8, 7 | 1 << 39);
    rig.submit(&[EDU]);
    assert_eq!(rig.dma_read(OTHER_PAGE + 8), Ok(0));
    assert_eq!(rig.dma_read(0x5000), Ok(0), "the rest is translated");
}

#[test]
fn translated_requests_are_not_for_devices_without_a_cache() {
    let mut rig = Rig::translating(AmdviConfig::default());
    let edu = rig.edu;
    let refused = Err(Blocked::Event(EventCode::InvalidRequest));
    assert_eq!(rig.machine.dma_write_translated(edu, PAGE, &[1; 8]), refused);
    // Code 8, Type 001b.
    assert_eq!(rig.take_event(), Some((of_edu(0x8200_0000), PAGE)));
    rig.put(EDU_ENTRY, 0);
    rig.submit(&[EDU]);
    assert_eq!(rig.machine.dma_write_translated(edu, PAGE, &[1; 8]), refused, "V = 0");
    let mut rig = Rig::new(AmdviConfig { device_tlb: true, ..AmdviConfig::default() });
    rig.build();
    rig.put(EDU_ENTRY + 8, 7 | 1 << 32);
    rig.turn_on();
    assert_eq!(rig.machine.dma_write_translated(edu, PAGE, &[1; 8]), Ok(()));
}

#[test]
fn segments_of_the_device_table_are_chosen_by_the_highest_bits() {
    let unit = AmdviConfig { segments: 2, ..AmdviConfig::default() };
    let mut config = MachineConfig::with_amdvi(unit);
    config
        .functions
        .push(iommu_sim::machine::FunctionConfig::endpoint("0000:40:00.0".parse().unwrap()));
    let mut rig = Rig::with(config);
    rig.build();
    assert_eq!(rig.read64(0x30), 0x80_0000_0840);
    rig.write64(0x100, 0x8_0000);
    rig.write64(0x110, 0x9_0000);
    rig.write64(0x118, 0xa_0000);
    assert_eq!((rig.read64(0x100), rig.read64(0x110), rig.read64(0x118)), (0x8_0000, 0x9_0000, 0));
    rig.write64(0, DEVICE_TABLE);
    rig.write64(0x10, EVENT_BASE);
    // Four segments: 4000h to 7fffh are the second.
    rig.write64(0x18, 2 << 34 | 5);
    rig.put(0x8_0000, DEVICE);
    let card = "0000:40:00.0".parse().unwrap();
    rig.machine.config_write(card, 4, 6);
    assert_eq!(rig.machine.dma_write(card, PAGE, &[1; 8]), Ok(()));
    assert_eq!(rig.dma_read(0x5000), Ok(0x0101_0101_0101_0101), "and the first is as it was");
    rig.write64(0x18, 5);
    assert_eq!(rig.unit().violations(), [Violation::SegmentsWhileOn]);
}
