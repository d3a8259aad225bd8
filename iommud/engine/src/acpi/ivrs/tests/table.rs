use super::super::sample::{TABLE, ivhd, patched, table_of};
use super::*;
use crate::acpi::ivrs::{AcpiId, DeviceEntry, EntryKind, NamedDevice, SpecialKind, Uid};
use crate::acpi::sdt::{SdtError, Signature};
use crate::acpi::{LengthFault, RegionFault};
use alloc::string::{String, ToString};
use alloc::vec;
use dma_types::{Access, SourceId};
use proptest::prelude::*;

/// The table cut off after `length` bytes, as its header then says.
fn cut(length: u16) -> Vec<u8> {
    let mut table = patched(4, &length.to_le_bytes());
    table.truncate(length.into());
    table
}

/// What is refused of a table: where, and in which words.
fn told(table: &[u8]) -> Vec<(usize, String)> {
    let ivrs = Ivrs::parse(table).unwrap();
    ivrs.refused.iter().map(|refused| (refused.offset, refused.refusal.to_string())).collect()
}

fn source(id: u16) -> SourceId {
    SourceId::new(id)
}

#[test]
fn the_fields_of_the_header_are_where_the_specification_has_them() {
    let ivrs = Ivrs::parse(&TABLE).unwrap();
    assert!(ivrs.checksum_valid);
    let info = ivrs.info;
    assert!(info.extended_features() && info.dma_remap() && !info.ht_ats_reserved());
    assert_eq!((info.virtual_size(), info.physical_size()), (64, 48));
    assert_eq!(info.guest_virtual_size(), 2);
    let old = Ivrs::parse(&patched(0x24, &[0x00, 0x34, 0x60, 0x00])).unwrap().info;
    assert!(!old.extended_features() && !old.dma_remap() && old.ht_ats_reserved());
    assert_eq!((old.virtual_size(), old.physical_size()), (64, 52));
    assert_eq!(old.guest_virtual_size(), 0);
}

#[test]
fn the_fields_of_a_unit_are_where_the_specification_has_them() {
    let ivrs = Ivrs::parse(&TABLE).unwrap();
    let [first, second] = &ivrs.units[..] else { panic!("{:?}", ivrs.units) };
    assert_eq!(first.kind, IvhdKind::Type11);
    assert_eq!(first.address(), "00:00.2".parse().unwrap());
    assert_eq!((first.capability, first.registers), (0x40, PhysAddr::new(0xfeb8_0000)));
    assert_eq!(first.register_bytes, 512 << 10);
    let flags = first.flags;
    assert!(!flags.ht_tunnel() && flags.pass_posted_writes());
    assert!(flags.responses_pass_posted_writes() && flags.isochronous());
    assert!(flags.device_iotlbs() && flags.coherent());
    assert!(!flags.prefetch() && !flags.page_requests());
    assert_eq!((first.info.msi_number(), first.info.unit_id()), (0, 0x13));
    let Reported::Registers { attributes, extended, extended2 } = first.reported else {
        panic!("{:?}", first.reported)
    };
    assert_eq!(extended, 0x206d_73ef_2225_4ade);
    assert_eq!(extended2, 0x8000_0000_0000_0010);
    assert!(!attributes.host_translation_disabled());
    assert_eq!((attributes.counters(), attributes.counter_banks()), (4, 2));
    assert_eq!(attributes.msi_number_page_requests(), 0);

    assert_eq!(second.kind, IvhdKind::Type40);
    assert_eq!(second.address(), "0102:40:00.2".parse().unwrap());
    assert_eq!((second.capability, second.registers), (0x64, PhysAddr::new(0x7_feb0_4000)));
    assert_eq!(second.register_bytes, 16 << 10);
    assert!(second.flags.prefetch() && !second.flags.ht_tunnel());
    assert_eq!(ivrs.refused, []);
    let skipped: Vec<_> =
        ivrs.skipped.iter().map(|skipped| (skipped.offset, skipped.what.to_string())).collect();
    let names =
        ["IVHD 10h", "device entry of type 80h", "device entry of type EFh", "block of type 51h"];
    let offsets = [0x30, 0xc8, 0xd8, 0x1cd];
    assert_eq!(skipped, offsets.into_iter().zip(names.map(String::from)).collect::<Vec<_>>());
}

#[test]
fn the_fields_of_a_unit_of_type_10h_are_where_the_specification_has_them() {
    // Without the richer block: that of type 11h becomes unknown.
    let ivrs = Ivrs::parse(&patched(0x4c, &[0x12])).unwrap();
    let unit = &ivrs.units[0];
    assert_eq!(unit.kind, IvhdKind::Type10);
    assert!(unit.flags.ht_tunnel() && unit.flags.page_requests() && !unit.flags.prefetch());
    assert_eq!((unit.info.msi_number(), unit.info.unit_id()), (5, 13));
    let Reported::Features(features) = unit.reported else { panic!("{:?}", unit.reported) };
    // 0x80048f6e, taken apart by hand.
    assert!(!features.x2apic() && features.no_execute() && features.guest_translation());
    assert!(features.invalidate_all() && features.guest_apic() && !features.hardware_errors());
    assert_eq!((features.guest_cr3_levels(), features.pasid_max()), (1, 15));
    assert_eq!((features.counters(), features.counter_banks()), (4, 2));
    assert_eq!(features.msi_number_page_requests(), 0);
    assert_eq!((features.guest_levels(), features.host_levels()), (0, 2));
    assert_eq!(unit.register_bytes, 512 << 10);
    assert_eq!(unit.entries.len(), 1);
}

#[test]
fn the_fields_of_each_device_entry_are_where_the_specification_has_them() {
    let ivrs = Ivrs::parse(&TABLE).unwrap();
    let settings = |unit: usize| -> Vec<u8> {
        ivrs.units[unit].entries.iter().map(|entry| entry.settings.into_bits()).collect()
    };
    assert_eq!(settings(0), [0x01, 0xd7, 0x02, 0x04, 0x40, 0x80, 0x10, 0xd7, 0x00]);
    assert_eq!(settings(1), [0x40, 0x00, 0x40]);
    let [all, one, range, alias, aliases, more, mores, io_apic, hpet] = &ivrs.units[0].entries[..]
    else {
        panic!("{:?}", ivrs.units[0].entries)
    };
    let ids = |entry: &DeviceEntry| (entry.first.get(), entry.last.get());
    assert_eq!((ids(all), &all.kind), ((0, 0xffff), &EntryKind::All));
    assert!(all.settings.init_pass() && !all.settings.external_interrupt_pass());
    assert_eq!((ids(one), &one.kind), ((0xa0, 0xa0), &EntryKind::Functions));
    assert!(one.settings.init_pass() && one.settings.external_interrupt_pass());
    assert!(one.settings.nmi_pass() && one.settings.lint0_pass() && one.settings.lint1_pass());
    assert_eq!(one.settings.system_management(), 1);
    assert_eq!((ids(range), range.alias), ((0x100, 0x1ff), None));
    assert!(range.settings.external_interrupt_pass() && !range.settings.nmi_pass());
    assert_eq!((ids(alias), alias.alias), ((0x300, 0x300), Some(source(0xa4))));
    assert!(alias.settings.nmi_pass());
    assert_eq!((ids(aliases), aliases.alias), ((0x400, 0x4ff), Some(source(0xa5))));
    assert!(aliases.settings.lint0_pass() && !aliases.settings.lint1_pass());
    assert_eq!((ids(more), more.extended.ats_disabled()), ((0x500, 0x500), true));
    assert!(more.settings.lint1_pass() && !more.settings.lint0_pass());
    assert_eq!((ids(mores), mores.extended.ats_disabled()), ((0x600, 0x6ff), false));
    assert_eq!(mores.settings.system_management(), 1);
    assert_eq!(ids(io_apic), (0xa0, 0xa0));
    assert_eq!(io_apic.kind, EntryKind::Special { kind: SpecialKind::IoApic, handle: 0x21 });
    assert_eq!(ids(hpet), (0xa1, 0xa1));
    assert_eq!(hpet.kind, EntryKind::Special { kind: SpecialKind::Hpet, handle: 3 });

    let named: Vec<_> =
        ivrs.units[1].entries.iter().map(|entry| (ids(entry), &entry.kind)).collect();
    let device = |hardware_id: &[u8; 8], compatible_id: &[u8; 8], uid| {
        let hardware_id = AcpiId::new(*hardware_id).unwrap();
        EntryKind::Named(NamedDevice {
            hardware_id,
            compatible_id: AcpiId::new(*compatible_id),
            uid,
        })
    };
    let path = Uid::Text(b"\\_SB.FUR0".into());
    assert_eq!(path.to_string(), "\\_SB.FUR0");
    assert_eq!(
        named,
        [
            ((0x60, 0x60), &device(b"MSFT0201", &[0; 8], Uid::None)),
            ((0x61, 0x61), &device(b"PNP0C09\0", b"ABC\0\0\0\0\0", Uid::Number(0x0201))),
            ((0xa5, 0xa5), &device(b"AMDI0020", &[0; 8], path)),
        ]
    );
}

#[test]
fn the_fields_of_a_memory_block_are_where_the_specification_has_them() {
    let ivrs = Ivrs::parse(&TABLE).unwrap();
    let [all, one, range] = ivrs.memory[..] else { panic!("{:?}", ivrs.memory) };
    let place = |memory: Ivmd| (memory.base.get(), memory.limit.get(), memory.bytes());
    let ids = |memory: Ivmd| (memory.segment, memory.first.get(), memory.last.get());
    assert_eq!((all.kind, ids(all)), (IvmdKind::All, (0x0102, 0, 0xffff)));
    assert_eq!(place(all), (0x7132_f000, 0x7133_efff, 0x1_0000));
    assert_eq!(all.access(), Some(Access::ReadWrite));
    assert!(all.flags.unity() && !all.flags.exclusion());
    assert_eq!((one.kind, ids(one)), (IvmdKind::One, (0, 0x300, 0x300)));
    // One byte is the page that holds it.
    assert_eq!(place(one), (0x1_0000_1000, 0x1_0000_1fff, 0x1000));
    assert_eq!((one.flags.exclusion(), one.access()), (true, Some(Access::ReadWrite)));
    assert_eq!((range.kind, ids(range)), (IvmdKind::Range, (0, 0xa4, 0x100)));
    assert_eq!(place(range), (0x10_0000, 0x10_0fff, 0x1000));
    assert_eq!(range.access(), Some(Access::Read));
    let write = Ivrs::parse(&patched(0x1ae, &[0x05])).unwrap();
    assert_eq!(write.memory[2].access(), Some(Access::Write));
}

#[test]
fn a_wrong_checksum_is_told_and_the_table_used() {
    let ivrs = Ivrs::parse(&patched(9, &[0])).unwrap();
    assert!(!ivrs.checksum_valid);
    assert_eq!(ivrs.units.len(), 2);
}

#[test]
fn reserved_bits_are_ignored() {
    let sound = Ivrs::parse(&TABLE).unwrap();
    for (at, bytes) in [
        (0x28, [0xff; 8].as_slice()),
        // The high bits of IVinfo, of a special entry's head and of IVMD's flags; its reserved bytes.
        (0x27, &[0xff]),
        (0xb1, &[0xff, 0xff]),
        (0x16e, &[0xf7]),
        (0x177, &[0xff; 6]),
    ] {
        let ivrs = Ivrs::parse(&patched(at, bytes)).unwrap();
        assert_eq!((&ivrs.units, ivrs.refused.len()), (&sound.units, 0), "{at:#x}");
        assert_eq!(ivrs.memory.len(), 3);
    }
}

#[test]
fn the_richest_block_of_a_unit_is_used_whatever_the_order() {
    let block = |kind, entry: u8| ivhd(kind, 2, 0xfeb8_0000, &[2, entry, 0, 0]);
    let orders = [[0x10, 0x11, 0x40], [0x40, 0x11, 0x10], [0x11, 0x40, 0x10]];
    for order in orders {
        let table = table_of(&order.map(|kind| block(kind, kind)));
        let ivrs = Ivrs::parse(&table).unwrap();
        assert_eq!(ivrs.units.len(), 1);
        assert_eq!(
            (ivrs.units[0].kind, ivrs.units[0].entries[0].first),
            (IvhdKind::Type40, source(0x40))
        );
        assert_eq!((ivrs.refused.len(), ivrs.skipped.len()), (0, 2));
    }
    let table = table_of(&[block(0x10, 1), block(0x11, 2), ivhd(0x10, 0x4002, 0xfea0_0000, &[])]);
    let kinds: Vec<_> = Ivrs::parse(&table).unwrap().units.iter().map(|unit| unit.kind).collect();
    assert_eq!(kinds, [IvhdKind::Type11, IvhdKind::Type10]);
}

#[test]
fn r5_two_units_at_one_place_or_of_one_function_are_one_too_many() {
    let refused = |blocks: &[Vec<u8>]| {
        let table = table_of(blocks);
        assert_eq!(Ivrs::parse(&table).unwrap().units.len(), 1);
        told(&table)
    };
    let first = ivhd(0x11, 2, 0xfeb8_0000, &[]);
    let text = |text: &str| vec![(0x58, alloc::format!("an IOMMU (IVHD) is not used: {text}"))];
    assert_eq!(
        refused(&[first.clone(), ivhd(0x11, 0x4002, 0xfeb8_0000, &[])]),
        text("its registers at 0xfeb80000 are another unit's already")
    );
    assert_eq!(
        refused(&[first.clone(), ivhd(0x11, 2, 0xfea0_0000, &[])]),
        text("its function, 0000:00:00.2, is another unit's already")
    );
    assert_eq!(refused(&[first.clone(), first.clone()])[0].0, 0x58);
    assert_eq!(
        refused(&[first, ivhd(0x10, 2, 0xfea0_0000, &[])]),
        text(
            "its function, 0000:00:00.2, is that of a unit whose richer block has registers at 0xfeb80000"
        )
    );
    // The same function of another segment is another one.
    let ivrs = Ivrs::parse(&patched(0xfc, &[0x02, 0x00])).unwrap();
    assert_eq!((ivrs.units.len(), ivrs.refused.len()), (2, 0));
}

#[test]
fn r5_a_unit_at_no_usable_address_is_refused_alone() {
    let base = |base: u64| told(&patched(0x100, &base.to_le_bytes()));
    let text = |text: &str| vec![(0xf8, alloc::format!("an IOMMU (IVHD) is not used: {text}"))];
    assert_eq!(base(0), text("its registers are said to be at address zero"));
    assert_eq!(
        base(0xfeb0_2000),
        text("its registers are said to be at 0xfeb02000, which is not a multiple of 16384")
    );
    assert_eq!(base(0xffff_ffff_ffff_c000), []);
    let ivrs = Ivrs::parse(&patched(0x54, &0xffff_ffff_ffff_c000u64.to_le_bytes())).unwrap();
    assert_eq!(ivrs.units.len(), 1);
    // The block of type 10h puts the unit elsewhere.
    assert_eq!(ivrs.refused.len(), 2);
    assert!(matches!(ivrs.refused[1].refusal, Refusal::Unit(_, UnitFault::PastEnd { .. })));
}

#[test]
fn r1_a_unit_that_cannot_translate_is_refused_alone() {
    let refused = told(&patched(0x60, &[0x01]));
    let text = "an IOMMU (IVHD) is not used: it is said not to translate by host page tables";
    assert_eq!(refused, [(0x4c, text.to_string())]);
}

#[test]
fn r5_memory_that_makes_no_sense_is_refused_alone() {
    let memory = |start: u64, bytes: u64| {
        let refused =
            told(&patched(0x19d, [start.to_le_bytes(), bytes.to_le_bytes()].as_flattened()));
        let mut reason = refused.into_iter().map(|(offset, text)| {
            assert_eq!(offset, 0x18d);
            let reason = text.strip_prefix("a reserved memory block (IVMD) is not used: ");
            reason.unwrap().to_string()
        });
        reason.next().unwrap_or_default()
    };
    assert_eq!(memory(0x1000, 0), "it has no bytes, at 0x1000");
    assert_eq!(memory(0, 0), "it has no bytes, at 0x0");
    assert_eq!(
        memory(0x1000, u64::MAX),
        "its 18446744073709551615 bytes at 0x1000 run over the end of the address space"
    );
    assert_eq!(
        memory(0x1800, 0x800),
        "it is from 0x1800 to 0x1fff, which is not a range of whole pages"
    );
    assert_eq!(memory(0x1000, 1), "");
    assert_eq!(memory(0xffff_ffff_f000, 0x1000), "");
    assert_eq!(
        memory(0xffff_ffff_f000, 0x1001),
        "it ends at 0x1000000000fff, and addresses here have 48 bits"
    );
    assert!(memory(u64::MAX, 1).ends_with("which is not a range of whole pages"));
    assert_eq!(memory(0, 1 << 32), "");
    assert_eq!(
        memory(0, (1 << 32) + 1),
        "it has 4294971392 bytes, more than any reservation needs"
    );
    let flags = |flags| told(&patched(0x1ae, &[flags]));
    for nothing in [0x00, 0x01, 0x02, 0x04, 0x06, 0xf0] {
        assert_eq!(flags(nothing)[0].0, 0x1ad);
        assert!(
            flags(nothing)[0].1.ends_with("neither reading, nor writing, nor an exclusion range")
        );
    }
    assert_eq!(
        told(&patched(0x1b3, &[0xa3, 0x00])),
        [(
            0x1ad,
            "a reserved memory block (IVMD) is not used: it is for the devices from 00:14.4 to 00:14.3, \
             which is backwards"
                .to_string()
        )]
    );
}

#[test]
fn r5_no_address_width_lets_all_of_memory_be_reserved() {
    for width in 0..=127u8 {
        let mut table = patched(0x17d, &[0; 8]);
        table[0x185..0x18d].fill(0xff);
        table[0x25] = width;
        let ivrs = Ivrs::parse(&table).unwrap();
        let refused = ivrs.refused.iter().find(|refused| refused.offset == 0x16d).unwrap();
        let Refusal::Memory(_, IvmdFault::Region(fault)) = refused.refusal else {
            panic!("{refused:?}")
        };
        assert!(matches!(fault, RegionFault::OutOfReach { .. } | RegionFault::TooLarge { .. }));
    }
}

#[test]
fn r5_a_table_whose_extent_is_in_doubt_is_refused() {
    let error = |bytes: &[u8]| Ivrs::parse(bytes).unwrap_err();
    assert_eq!(error(&TABLE[..35]), SdtError::NoHeader { given: 35 }.into());
    assert_eq!(error(&TABLE[..464]), SdtError::PastEnd { length: 465, given: 464 }.into());
    assert_eq!(error(&cut(47)), SdtError::TooShort { length: 47, least: 48 }.into());
    let found = Signature(*b"DMAR");
    assert_eq!(error(&patched(0, b"DMAR")), SdtError::Signature { found }.into());
    // Nothing but a header is a table without units.
    assert_eq!(Ivrs::parse(&cut(48)).unwrap().units, []);
}

#[test]
fn r5_a_block_of_wrong_length_refuses_the_table() {
    let error = |bytes: &[u8]| match Ivrs::parse(bytes) {
        Err(IvrsError::Block { offset, fault }) => (offset, fault),
        other => panic!("{other:?}"),
    };
    for at in [0x30, 0x4c, 0xf8, 0x16d, 0x1cd] {
        for length in 0..4 {
            let fault = LengthFault::TooShort { length: length.into(), least: 4 };
            assert_eq!(error(&patched(at + 2, &[length, 0])), (at, fault));
        }
        let left = TABLE.len() - at;
        let fault = LengthFault::PastEnd { length: 0xffff, left };
        assert_eq!(error(&patched(at + 2, &[0xff, 0xff])), (at, fault));
    }
    // Blocks shorter than their own fields.
    for (at, least) in [(0x30, 24), (0x4c, 40), (0xf8, 40), (0x16d, 32), (0x18d, 32), (0x1ad, 32)] {
        let length = u8::try_from(least - 1).unwrap();
        let fault = LengthFault::TooShort { length: least - 1, least };
        assert_eq!(error(&patched(at + 2, &[length, 0])), (at, fault));
    }
    // A table that ends within the head of a block.
    for left in 1..4u8 {
        let fault = LengthFault::CutOff { left: left.into() };
        assert_eq!(error(&cut(0x30 + u16::from(left))), (0x30, fault));
        assert_eq!(error(&cut(0x1cd + u16::from(left))), (0x1cd, fault));
    }
}

#[test]
fn errors_are_sentences_with_a_place() {
    let error = Ivrs::parse(&patched(0x32, &[0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the block at offset 0x30 says it has 0 bytes, and its fields alone take 4"
    );
    let error = Ivrs::parse(&patched(0x163, &[0xff])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the device entry at offset 0x14e says it has 277 bytes where 31 are left"
    );
}

proptest! {
    #[test]
    fn r5_no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Ivrs::parse(&bytes).is_err());
    }
}
