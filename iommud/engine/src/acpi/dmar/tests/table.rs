use super::*;
use crate::acpi::dmar::{LengthFault, PathStep, ScopeKind};
use crate::acpi::sdt::{SdtError, Signature};
use alloc::string::ToString;
use alloc::vec;
use dma_types::PhysAddr;
use proptest::prelude::*;

/// One structure of each kind and one scope of each kind, every byte written by hand from 8.1 to 8.9.
#[rustfmt::skip]
const TABLE: [u8; 222] = [
    // 0x00: length 222, revision 1, checksum; addresses of 39 bits; INTR_REMAP and opt-in.
    b'D', b'M', b'A', b'R', 0xde, 0, 0, 0, 1, 0x9c, b'O', b'E', b'M', b'I', b'D', b' ',
    b'T', b'A', b'B', b'L', b'E', b' ', b' ', b' ', 1, 0, 0, 0, b'I', b'N', b'T', b'L',
    1, 0, 0, 0, 0x26, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    // 0x30 DRHD, 36 bytes: 8 KiB of registers at 0xfed90000, segment 0x0102.
    0x00, 0x00, 0x24, 0x00, 0x00, 0x01, 0x02, 0x01, 0x00, 0x00, 0xd9, 0xfe, 0x00, 0x00, 0x00, 0x00,
    //   0x40: endpoint 00:02.0
    0x01, 0x08, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00,
    //   0x48: bridge, from bus 0x80 by 1c.4 and 00.0 to 1f.7
    0x02, 0x0c, 0x00, 0x00, 0x00, 0x80, 0x1c, 0x04, 0x00, 0x00, 0x1f, 0x07,
    // 0x54 DRHD, 48 bytes: INCLUDE_PCI_ALL, 4 KiB of registers above 4 GiB, segment 0.
    0x00, 0x00, 0x30, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x10, 0xd9, 0xfe, 0x07, 0x00, 0x00, 0x00,
    //   0x64: I/O APIC 2, HPET 1, ACPI device 3, kind 9
    0x03, 0x08, 0x00, 0x00, 0x02, 0xf0, 0x1f, 0x00,
    0x04, 0x08, 0x00, 0x00, 0x01, 0xf0, 0x0f, 0x00,
    0x05, 0x08, 0x00, 0x00, 0x03, 0x00, 0x15, 0x01,
    0x09, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    // 0x84 RMRR, 32 bytes: 0x9b800000 to 0x9f9fffff, segment 0, for 00:02.0.
    0x01, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x9b, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0x9f, 0x9f, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x08, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00,
    // 0xa4 ATSR, 0xac RHSA, 0xc0 ANDD, 0xca SATC, 0xd2 SIDP, 0xda kind 0x1234.
    0x02, 0x00, 0x08, 0x00, 0x01, 0x00, 0x00, 0x00,
    0x03, 0x00, 0x14, 0x00, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, 1, 0, 0, 0,
    0x04, 0x00, 0x0a, 0x00, 0, 0, 0, 3, b'X', 0,
    0x05, 0x00, 0x08, 0x00, 0, 0, 0, 0,
    0x06, 0x00, 0x08, 0x00, 0, 0, 0, 0,
    0x34, 0x12, 0x04, 0x00,
];

/// The table with these bytes written over it.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut table = TABLE.to_vec();
    table[at..at + bytes.len()].copy_from_slice(bytes);
    table
}

/// The table cut off after `length` bytes, as its header then says.
fn cut(length: u8) -> Vec<u8> {
    let mut table = patched(4, &[length]);
    table.truncate(length.into());
    table
}

/// What is refused of the table with these bytes written over it: where, and in which words.
fn refusals(at: usize, bytes: &[u8]) -> Vec<(usize, alloc::string::String)> {
    let dmar = Dmar::parse(&patched(at, bytes)).unwrap();
    dmar.refused.iter().map(|refused| (refused.offset, refused.refusal.to_string())).collect()
}

fn step(device: u8, function: u8) -> PathStep {
    PathStep::new(device, function).unwrap()
}

#[test]
fn every_field_is_where_the_specification_has_it() {
    let dmar = Dmar::parse(&TABLE).unwrap();
    assert!(dmar.checksum_valid);
    assert_eq!(dmar.host_address_width, 39);
    assert!(dmar.flags.interrupt_remapping() && dmar.flags.dma_control_opt_in());
    assert!(!dmar.flags.x2apic_opt_out());
    let scope = |kind, enumeration_id, start_bus, path: &[PathStep]| DeviceScope {
        kind,
        enumeration_id,
        start_bus,
        path: path.to_vec(),
    };
    let first = Drhd {
        offset: 0x30,
        segment: 0x0102,
        include_pci_all: false,
        registers: PhysAddr::new(0xfed9_0000),
        register_bytes: 8192,
        scopes: vec![
            scope(ScopeKind::Endpoint, 0, 0, &[step(2, 0)]),
            scope(ScopeKind::SubHierarchy, 0, 0x80, &[step(0x1c, 4), step(0, 0), step(31, 7)]),
        ],
    };
    let second = Drhd {
        offset: 0x54,
        segment: 0,
        include_pci_all: true,
        registers: PhysAddr::new(0x7_fed9_1000),
        register_bytes: 4096,
        scopes: vec![
            scope(ScopeKind::IoApic, 2, 0xf0, &[step(31, 0)]),
            scope(ScopeKind::Hpet, 1, 0xf0, &[step(15, 0)]),
            scope(ScopeKind::NamespaceDevice, 3, 0, &[step(0x15, 1)]),
            scope(ScopeKind::Unknown(9), 0, 0, &[step(0, 0)]),
        ],
    };
    assert_eq!(dmar.units, [first, second]);
    let region = Rmrr {
        offset: 0x84,
        segment: 0,
        base: PhysAddr::new(0x9b80_0000),
        limit: PhysAddr::new(0x9f9f_ffff),
        scopes: vec![scope(ScopeKind::Endpoint, 0, 0, &[step(2, 0)])],
    };
    assert_eq!(region.bytes(), 66 << 20);
    assert_eq!(dmar.reserved, [region]);
    assert_eq!(dmar.refused, []);
    let skipped: Vec<_> =
        dmar.skipped.iter().map(|skipped| (skipped.offset, skipped.kind.to_string())).collect();
    let names = ["ATSR", "RHSA", "ANDD", "SATC", "SIDP", "kind 4660"].map(ToString::to_string);
    let offsets = [0xa4, 0xac, 0xc0, 0xca, 0xd2, 0xda];
    assert_eq!(skipped, offsets.into_iter().zip(names).collect::<Vec<_>>());
}

#[test]
fn a_wrong_checksum_is_told_and_the_table_used() {
    let dmar = Dmar::parse(&patched(9, &[0])).unwrap();
    assert!(!dmar.checksum_valid);
    assert_eq!(dmar.units.len(), 2);
}

#[test]
fn reserved_bits_are_ignored() {
    let mut table = patched(0x25, &[0xfd]);
    table[0x34] = 0xfe;
    table[0x35] = 0xf1;
    table[0x42] = 0xff;
    let dmar = Dmar::parse(&table).unwrap();
    let sound = Dmar::parse(&TABLE).unwrap();
    assert_eq!((dmar.units, dmar.flags.x2apic_opt_out()), (sound.units, false));
}

#[test]
fn r5_the_longest_path_a_scope_can_have_is_read() {
    // One unit with one scope of 254 bytes, which is 124 steps.
    let mut table = TABLE[..0x40].to_vec();
    table[4..6].copy_from_slice(&[0x3e, 0x01]);
    table[0x32..0x34].copy_from_slice(&[0x0e, 0x01]);
    table.extend([0x01, 0xfe, 0, 0, 0, 0]);
    table.extend([0x1f, 0x07].repeat(124));
    let dmar = Dmar::parse(&table).unwrap();
    assert_eq!(dmar.units[0].scopes[0].path, vec![step(31, 7); 124]);
}

#[test]
fn r5_a_table_whose_extent_is_in_doubt_is_refused() {
    let error = |bytes: &[u8]| Dmar::parse(bytes).unwrap_err();
    assert_eq!(error(&TABLE[..35]), SdtError::NoHeader { given: 35 }.into());
    assert_eq!(error(&TABLE[..221]), SdtError::PastEnd { length: 222, given: 221 }.into());
    assert_eq!(error(&cut(47)), SdtError::TooShort { length: 47, least: 48 }.into());
    let found = Signature(*b"IVRS");
    assert_eq!(error(&patched(0, b"IVRS")), SdtError::Signature { found }.into());
    // Nothing but a header is a table without units.
    assert_eq!(Dmar::parse(&cut(48)).unwrap().units, []);
}

#[test]
fn r5_a_structure_of_wrong_length_refuses_the_table() {
    let error = |bytes: &[u8]| match Dmar::parse(bytes) {
        Err(DmarError::Structure { offset, fault }) => (offset, fault),
        other => panic!("{other:?}"),
    };
    for (at, least) in [(0x30, 4), (0xa4, 4), (0xda, 4)] {
        for length in 0..4 {
            let fault = LengthFault::TooShort { length: length.into(), least };
            assert_eq!(error(&patched(at + 2, &[length])), (at, fault));
        }
    }
    // A unit and a region shorter than their own fields.
    let fault = LengthFault::TooShort { length: 15, least: 16 };
    assert_eq!(error(&patched(0x32, &[15])), (0x30, fault));
    let fault = LengthFault::TooShort { length: 23, least: 24 };
    assert_eq!(error(&patched(0x86, &[23])), (0x84, fault));
    // One that runs over the end of the table, by a byte and by as much as can be.
    let fault = LengthFault::PastEnd { length: 5, left: 4 };
    assert_eq!(error(&patched(0xdc, &[5])), (0xda, fault));
    let fault = LengthFault::PastEnd { length: 0xffff, left: 0xae };
    assert_eq!(error(&patched(0x32, &[0xff, 0xff])), (0x30, fault));
    // A table that ends within the head of a structure.
    for left in 1..4u8 {
        let fault = LengthFault::CutOff { left: left.into() };
        assert_eq!(error(&cut(0x30 + left)), (0x30, fault));
        assert_eq!(error(&cut(0xda + left)), (0xda, fault));
    }
}

#[test]
fn r5_a_scope_of_wrong_length_refuses_the_table() {
    let error = |at, bytes: &[u8]| match Dmar::parse(&patched(at, bytes)) {
        Err(DmarError::Scope { offset, fault }) => (offset, fault),
        other => panic!("{other:?}"),
    };
    for length in 0..6 {
        let fault = LengthFault::TooShort { length: length.into(), least: 6 };
        assert_eq!(error(0x41, &[length]), (0x40, fault));
    }
    // One that runs over the end of its unit, though not of the table, and one of a region.
    let fault = LengthFault::PastEnd { length: 14, left: 12 };
    assert_eq!(error(0x49, &[14]), (0x48, fault));
    let fault = LengthFault::PastEnd { length: 10, left: 8 };
    assert_eq!(error(0x9d, &[10]), (0x9c, fault));
    // A path of two and a half steps.
    assert_eq!(
        Dmar::parse(&patched(0x49, &[11])),
        Err(DmarError::HalfStep { offset: 0x48, bytes: 5 })
    );
    // A scope that leaves a byte of its unit over.
    let fault = LengthFault::TooShort { length: 0, least: 6 };
    assert_eq!(error(0x41, &[18]), (0x52, LengthFault::CutOff { left: 2 }));
    assert_eq!(error(0x49, &[0]), (0x48, fault));
}

#[test]
fn r5_a_unit_at_no_usable_address_is_refused_alone() {
    let base = |base: u64| refusals(0x38, &base.to_le_bytes());
    let told =
        |text: &str| vec![(0x30, alloc::format!("a remapping unit (DRHD) is not used: {text}"))];
    assert_eq!(base(0), told("its registers are said to be at address zero"));
    assert_eq!(
        base(0xfed9_0800),
        told("its registers are said to be at 0xfed90800, which is not a multiple of 4096")
    );
    assert_eq!(
        base(0xffff_ffff_ffff_f000),
        told(
            "its 8192 bytes of registers at 0xfffffffffffff000 run over the end of the address space"
        )
    );
    assert_eq!(base(0xffff_ffff_ffff_e000), []);
    // It is the second of two at one address that is refused.
    let refused = base(0x7_fed9_1000);
    assert_eq!(refused[0].0, 0x54);
    assert!(refused[0].1.ends_with("its registers at 0x7fed91000 are another unit's already"));
    assert_eq!(Dmar::parse(&patched(0x38, &[0; 8])).unwrap().units.len(), 1);
}

#[test]
fn r5_a_region_that_is_no_range_of_pages_is_refused_alone() {
    let region = |base: u64, limit: u64| {
        let refused = refusals(0x8c, [base.to_le_bytes(), limit.to_le_bytes()].as_flattened());
        refused
            .into_iter()
            .map(|(offset, text)| {
                assert_eq!(offset, 0x84);
                text.strip_prefix("a reserved memory region (RMRR) is not used: ")
                    .unwrap()
                    .to_string()
            })
            .next()
            .unwrap_or_default()
    };
    assert_eq!(region(0x2000, 0x1fff), "it ends at 0x1fff, before its start at 0x2000");
    assert_eq!(region(0, 0), "it is from 0x0 to 0x0, which is not a range of whole pages");
    assert!(region(0x1001, 0x1fff).contains("whole pages"));
    assert!(region(0x1000, 0x2000).contains("whole pages"));
    assert_eq!(region(0x1000, 0x1fff), "");
    assert_eq!(region(0x7f_ffff_f000, 0x7f_ffff_ffff), "");
    assert_eq!(
        region(0x80_0000_0000, 0x80_0000_0fff),
        "it ends at 0x8000000fff, and addresses here have 39 bits"
    );
    assert!(region(0, u64::MAX).contains("39 bits"));
    assert_eq!(region(0, 0xffff_ffff), "");
    assert_eq!(
        region(0, 0x1_0000_0fff),
        "it has 4294971392 bytes, more than any reservation needs"
    );
}

#[test]
fn r5_no_address_width_lets_all_of_memory_be_reserved() {
    for width in [0, 62, 63, 64, 254, 255] {
        let mut table = patched(0x8c, &[0; 8]);
        table[0x94..0x9c].fill(0xff);
        table[0x24] = width;
        let dmar = Dmar::parse(&table).unwrap();
        assert_eq!(dmar.reserved, []);
        assert!(matches!(dmar.refused[0].refusal, Refusal::Region(..)));
    }
}

#[test]
fn r5_a_scope_that_names_no_function_is_refused_alone() {
    assert_eq!(
        refusals(0x46, &[0x20, 0x00]),
        [(0x40, "a device scope is not used: its path goes through device 0x20 function 0x0, which PCI cannot have".to_string())]
    );
    assert_eq!(refusals(0x53, &[8])[0].0, 0x48);
    // A path of no steps: the unit ends right after the scope's head, and something unknown follows.
    let mut table = patched(0x32, &[0x16]);
    table[0x41] = 6;
    table[0x46..0x4a].copy_from_slice(&[0xff, 0xff, 0x0e, 0x00]);
    let dmar = Dmar::parse(&table).unwrap();
    assert_eq!(
        dmar.refused,
        [Refused { offset: 0x40, refusal: Refusal::Scope(ScopeFault::NoPath) }]
    );
    assert_eq!(dmar.units[0].scopes, []);
    assert_eq!(dmar.units.len(), 2);
}

#[test]
fn errors_are_sentences_with_a_place() {
    let error = Dmar::parse(&patched(0x32, &[0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the structure at offset 0x30 says it has 0 bytes, and its fields alone take 4"
    );
}

/// Whatever was parsed, each structure is accounted for once: its kind and place, by a walk of its own.
fn check_accounts(bytes: &[u8], dmar: &Dmar) {
    let (mut at, mut units, mut regions, mut others) = (48, 0, 0, vec![]);
    let end = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    while at < end {
        match (bytes[at], bytes[at + 1]) {
            (0, 0) => units += 1,
            (1, 0) => regions += 1,
            _ => others.push(at),
        }
        at += usize::from(u16::from_le_bytes([bytes[at + 2], bytes[at + 3]]));
    }
    assert_eq!(at, end);
    let refused = |wanted: fn(&Refusal) -> bool| {
        dmar.refused.iter().filter(|refused| wanted(&refused.refusal)).count()
    };
    assert_eq!(dmar.units.len() + refused(|it| matches!(it, Refusal::Unit(..))), units);
    assert_eq!(dmar.reserved.len() + refused(|it| matches!(it, Refusal::Region(..))), regions);
    assert_eq!(dmar.skipped.iter().map(|it| it.offset).collect::<Vec<_>>(), others);
}

proptest! {
    #[test]
    fn r5_no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Dmar::parse(&bytes).is_err());
    }

    #[test]
    fn r5_any_structures_after_a_sound_header_are_refused_or_accounted_for(
        // Small numbers, so that lengths and kinds are often right.
        tail in prop::collection::vec(prop_oneof![0..40u8, any::<u8>()], 0..200),
    ) {
        let mut table = TABLE[..48].to_vec();
        table.extend(tail);
        table[4] = table.len() as u8;
        if let Ok(dmar) = Dmar::parse(&table) {
            check_accounts(&table, &dmar);
        }
    }

    #[test]
    fn r5_a_sound_table_with_bytes_changed_is_refused_or_accounted_for(
        changes in prop::collection::vec((4..TABLE.len(), any::<u8>()), 1..6),
        length in prop_oneof![Just(TABLE.len()), 0..TABLE.len()],
    ) {
        let mut table = TABLE.to_vec();
        for (at, byte) in changes {
            table[at] = byte;
        }
        table.truncate(length);
        if let Ok(dmar) = Dmar::parse(&table) {
            check_accounts(&table, &dmar);
        }
    }
}
