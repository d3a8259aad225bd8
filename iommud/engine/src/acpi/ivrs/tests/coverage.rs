use super::super::sample::{TABLE, ivhd, patched, table_of};
use super::*;
use alloc::vec::Vec;

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn source(id: u16) -> SourceId {
    SourceId::new(id)
}

#[test]
fn the_unit_that_names_the_fewest_devices_has_the_device() {
    let all = ivhd(0x10, 0x0002, 0xfea0_0000, &[1, 0, 0, 0]);
    let range = ivhd(0x10, 0x4002, 0xfeb0_0000, &[3, 0, 0x40, 0, 4, 0xff, 0x7f, 0]);
    let one = ivhd(0x10, 0x8002, 0xfec0_0000, &[2, 0, 0x41, 0]);
    for (blocks, [for_all, for_range, for_one]) in [
        ([&all, &range, &one], [0, 1, 2]),
        ([&one, &range, &all], [2, 1, 0]),
        ([&range, &one, &all], [2, 0, 1]),
    ] {
        let ivrs = Ivrs::parse(&table_of(&blocks.map(Clone::clone))).unwrap();
        assert_eq!(ivrs.covering(at("00:01.0")), Coverage::Unit(for_all));
        assert_eq!(ivrs.covering(at("40:00.0")), Coverage::Unit(for_range));
        assert_eq!(ivrs.covering(at("7f:1f.7")), Coverage::Unit(for_range));
        assert_eq!(ivrs.covering(at("80:00.0")), Coverage::Unit(for_all));
        assert_eq!(ivrs.covering(at("41:00.0")), Coverage::Unit(for_one));
        assert_eq!(ivrs.covering(at("0001:41:00.0")), Coverage::Nobody);
        // The units translate for themselves neither by "all" nor by range.
        assert_eq!(ivrs.covering(at("00:00.2")), Coverage::Nobody);
        assert_eq!(ivrs.covering(at("40:00.2")), Coverage::Nobody);
    }
}

#[test]
fn devices_belong_to_the_segment_of_their_unit() {
    let ivrs = Ivrs::parse(&TABLE).unwrap();
    assert_eq!(ivrs.covering(at("00:0c.0")), Coverage::Unit(0));
    assert_eq!(ivrs.covering(at("0102:00:0c.0")), Coverage::Unit(1));
    assert_eq!(ivrs.covering(at("0102:00:0d.0")), Coverage::Nobody);
    assert_eq!(ivrs.covering(at("0102:40:00.2")), Coverage::Nobody);
    assert_eq!(ivrs.covering(at("40:00.2")), Coverage::Unit(0));
}

#[test]
fn what_only_sends_interrupts_covers_no_device_and_an_alias_does() {
    // An I/O APIC as 00:14.0; 03:00.0 as 00:14.4.
    let entries = [0x48, 0, 0, 0xd7, 9, 0xa0, 0, 1, 0x42, 0, 3, 0, 0, 0xa4, 0, 0];
    let ivrs = Ivrs::parse(&table_of(&[ivhd(0x11, 2, 0xfeb8_0000, &entries)])).unwrap();
    assert_eq!(ivrs.covering(at("00:14.0")), Coverage::Nobody);
    assert_eq!(ivrs.covering(at("03:00.0")), Coverage::Unit(0));
    assert_eq!(ivrs.covering(at("00:14.4")), Coverage::Unit(0));
}

#[test]
fn r1_what_a_refused_unit_covers_is_nobody_elses() {
    let broken = ivhd(0x10, 0x4002, 0, &[2, 0, 0x41, 0]);
    let table = table_of(&[ivhd(0x10, 2, 0xfea0_0000, &[1, 0, 0, 0]), broken]);
    let ivrs = Ivrs::parse(&table).unwrap();
    assert_eq!(ivrs.covering(at("41:00.0")), Coverage::Refused(0));
    assert_eq!(ivrs.covering(at("41:00.1")), Coverage::Unit(0));
    // Of two that name it alike, the one that can be used has it.
    let entries = [2, 0, 0x41, 0];
    let broken = ivhd(0x10, 0x4002, 0, &entries);
    let table = table_of(&[broken, ivhd(0x10, 2, 0xfea0_0000, &entries)]);
    assert_eq!(Ivrs::parse(&table).unwrap().covering(at("41:00.0")), Coverage::Unit(0));
}

#[test]
fn aliases_are_those_of_the_last_entry_that_names_the_device() {
    let ivrs = Ivrs::parse(&TABLE).unwrap();
    assert_eq!(ivrs.alias_of(at("03:00.0")), Some(source(0xa4)));
    assert_eq!(ivrs.alias_of(at("04:1f.7")), Some(source(0xa5)));
    assert_eq!(ivrs.alias_of(at("03:00.1")), None);
    assert_eq!(ivrs.alias_of(at("0001:03:00.0")), None);
    // 03:00.0 is an alias of 03:00.1, then of nothing, then of itself.
    let alias = |entries: &[u8]| {
        let ivrs = Ivrs::parse(&table_of(&[ivhd(0x11, 2, 0xfeb8_0000, entries)])).unwrap();
        ivrs.alias_of(at("03:00.0"))
    };
    let (other, none) = ([0x42, 0, 3, 0, 0, 1, 3, 0], [2, 0, 3, 0]);
    assert_eq!(alias(&[&none[..], &other].concat()), Some(source(0x301)));
    assert_eq!(alias(&[&other[..], &none].concat()), None);
    assert_eq!(alias(&[0x42, 0, 3, 0, 0, 0, 3, 0]), None);
    // An I/O APIC that has the same id changes nothing.
    assert_eq!(alias(&[&other[..], &[0x48, 0, 0, 0, 1, 0, 3, 1]].concat()), Some(source(0x301)));
}

#[test]
fn settings_are_those_of_the_last_entry_that_names_the_device() {
    let settings_of = |unit: &Ivhd, id| {
        let settings = unit.settings().filter(|(sources, _)| sources.contains(&source(id)));
        settings.last().map_or(0, |(_, settings)| settings.into_bits())
    };
    let unit = &Ivrs::parse(&TABLE).unwrap().units[0];
    let settings = |id| settings_of(unit, id);
    assert_eq!(settings(0x0200), 0x01);
    assert_eq!((settings(0xa0), settings(0xa1)), (0xd7, 0x00));
    assert_eq!((settings(0x100), settings(0x1ff)), (0x02, 0x02));
    assert_eq!((settings(0x300), settings(0x400)), (0x04, 0x40));
    assert_eq!((settings(0x500), settings(0x6ff)), (0x80, 0x10));
    // 00:14.4 is an alias, and "all" names it too.
    assert_eq!(settings(0xa4), 0x01);
    let entries = [0x42, 0, 3, 0x44, 0, 0xa4, 0, 0];
    let ivrs = Ivrs::parse(&table_of(&[ivhd(0x11, 2, 0xfeb8_0000, &entries)])).unwrap();
    assert_eq!(settings_of(&ivrs.units[0], 0xa4), 0x44);
    assert_eq!(settings_of(&ivrs.units[0], 0xa5), 0);
}

#[test]
fn r1_memory_is_reserved_for_those_it_names_by_themselves_or_by_alias() {
    let ivrs = Ivrs::parse(&TABLE).unwrap();
    let reserved = |device: &str| -> Vec<u64> {
        ivrs.reserved_for(at(device)).map(|memory| memory.base.get()).collect()
    };
    // 03:00.0 itself, and as 00:14.4.
    assert_eq!(reserved("03:00.0"), [0x1_0000_1000, 0x10_0000]);
    assert_eq!(reserved("00:14.4"), [0x10_0000]);
    assert_eq!(reserved("01:00.0"), [0x10_0000]);
    assert_eq!(reserved("01:00.1"), []);
    assert_eq!(reserved("04:00.0"), [0x10_0000]);
    assert_eq!(reserved("0102:03:00.0"), [0x7132_f000]);
    assert_eq!(reserved("0001:03:00.0"), []);
    // What is refused is for nobody.
    let ivrs = Ivrs::parse(&patched(0x1ae, &[0])).unwrap();
    assert_eq!(ivrs.reserved_for(at("01:00.0")).count(), 0);
}
