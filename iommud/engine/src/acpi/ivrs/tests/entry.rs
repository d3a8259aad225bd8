use super::super::sample::{TABLE, ivhd, patched, table_of};
use super::*;
use crate::acpi::LengthFault;
use crate::acpi::ivrs::{AcpiId, Ivrs, Refusal, Uid};
use alloc::string::ToString;
use alloc::vec;

/// Where the device entries of [`parse`]'s unit start.
const ENTRIES: usize = 0x30 + 40;

/// A table of one unit with these device entries.
fn parse(entries: &[u8]) -> Ivrs {
    Ivrs::parse(&table_of(&[ivhd(0x40, 2, 0xfeb8_0000, entries)])).unwrap()
}

/// First and last source-id of each entry that is taken.
type Taken = Vec<(u16, u16)>;

/// Why entries are refused, by their place among the entries.
type Faults = Vec<(usize, EntryFault)>;

/// The source-ids that entries name, and why the others are refused.
fn outcome(entries: &[u8]) -> (Taken, Faults) {
    let ivrs = parse(entries);
    assert_eq!(ivrs.units.len(), 1);
    let refused = ivrs.refused.iter().map(|refused| match refused.refusal {
        Refusal::Entry(fault) => (refused.offset - ENTRIES, fault),
        ref other => panic!("{other:?}"),
    });
    let named = ivrs.units[0].entries.iter();
    (named.map(|entry| (entry.first.get(), entry.last.get())).collect(), refused.collect())
}

fn source(id: u16) -> SourceId {
    SourceId::new(id)
}

/// A device of the namespace, with this format, length and text of a unique id.
fn named(format: u8, length: u8, uid: &[u8]) -> Vec<u8> {
    let mut entry = vec![0xf0, 0x60, 0, 0];
    entry.extend(b"MSFT0201\0\0\0\0\0\0\0\0");
    entry.extend([format, length]);
    entry.extend(uid);
    entry
}

#[test]
fn r5_a_range_without_an_end_is_refused_alone() {
    let no_end = |first| EntryFault::NoEnd { first: source(first) };
    // Something else follows, another start, nothing.
    for start in [&[0x03, 8, 0, 0][..], &[0x43, 8, 0, 0, 0, 9, 0, 0], &[0x47, 8, 0, 0, 0, 0, 0, 0]]
    {
        let then = |rest: &[u8]| outcome(&[start, rest].concat());
        let last = start.len() + 4;
        assert_eq!(
            then(&[2, 1, 0, 0, 4, 9, 0, 0]),
            (vec![(1, 1)], vec![(0, no_end(8)), (last, EntryFault::NoStart { last: source(9) })])
        );
        assert_eq!(then(&[3, 1, 0, 0, 4, 9, 0, 0]), (vec![(1, 9)], vec![(0, no_end(8))]));
        assert_eq!(then(&[]), (vec![], vec![(0, no_end(8))]));
        // Padding in between is nothing.
        assert_eq!(then(&[0, 0, 0, 0, 4, 9, 0, 0]), (vec![(8, 9)], vec![]));
    }
}

#[test]
fn r5_an_end_without_a_start_is_refused_alone() {
    let no_start = |last| EntryFault::NoStart { last: source(last) };
    assert_eq!(outcome(&[4, 9, 0, 0]), (vec![], vec![(0, no_start(9))]));
    let twice = outcome(&[3, 1, 0, 0, 4, 9, 0, 0, 4, 10, 0, 0]);
    assert_eq!(twice, (vec![(1, 9)], vec![(8, no_start(10))]));
}

#[test]
fn r5_a_range_that_ends_before_it_starts_is_refused_alone() {
    let backwards = EntryFault::Backwards { first: source(9), last: source(8) };
    assert_eq!(
        outcome(&[2, 1, 0, 0, 3, 9, 0, 0, 4, 8, 0, 0]),
        (vec![(1, 1)], vec![(4, backwards)])
    );
    assert_eq!(outcome(&[3, 9, 0, 0, 4, 9, 0, 0]), (vec![(9, 9)], vec![]));
    assert_eq!(outcome(&[3, 0, 0, 0, 4, 0xff, 0xff, 0]), (vec![(0, 0xffff)], vec![]));
    assert_eq!(parse(&[3, 0, 0, 0, 4, 0xff, 0xff, 0]).units[0].entries[0].count(), 0x1_0000);
}

#[test]
fn r5_entries_of_unknown_types_are_passed_over_by_their_types_length() {
    let skipped = |kind: u8, length: usize| {
        let mut entries = vec![0xff; length];
        entries[0] = kind;
        entries.extend([2, 1, 0, 0]);
        let ivrs = parse(&entries);
        assert_eq!((ivrs.units[0].entries.len(), ivrs.refused.len()), (1, 0), "{kind:#x}");
        ivrs.skipped.len()
    };
    for kind in 5..0x40 {
        assert_eq!(skipped(kind, 4), 1);
    }
    for kind in [0x41, 0x44, 0x45, 0x49, 0x7f] {
        assert_eq!(skipped(kind, 8), 1);
    }
    for kind in 0x80..0xc0 {
        assert_eq!(skipped(kind, 16), 1);
    }
    for kind in 0xc0..0xf0 {
        assert_eq!(skipped(kind, 32), 1);
    }
    // Padding is not worth telling.
    assert_eq!((skipped(0x00, 4), skipped(0x40, 8)), (0, 0));
}

#[test]
fn r5_an_entry_whose_length_nothing_tells_loses_the_rest_of_its_block_alone() {
    for kind in 0xf1..=0xff {
        let entries = [2, 1, 0, 0, kind, 0, 0, 0, 2, 2, 0, 0];
        let other = ivhd(0x40, 0x4002, 0xfea0_0000, &[2, 3, 0, 0]);
        let table = table_of(&[ivhd(0x40, 2, 0xfeb8_0000, &entries), other]);
        let ivrs = Ivrs::parse(&table).unwrap();
        assert_eq!(ivrs.units.iter().map(|unit| unit.entries.len()).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(ivrs.refused[0].offset, ENTRIES + 4);
        assert!(
            ivrs.refused[0].refusal.to_string().contains("what follows it in its block is lost")
        );
    }
}

#[test]
fn r5_an_entry_that_runs_over_its_block_refuses_the_table() {
    let error = |entries: &[u8]| match Ivrs::parse(&table_of(&[
        ivhd(0x11, 2, 0xfeb8_0000, entries),
        vec![0; 64],
    ])) {
        Err(IvrsError::Entry { offset, fault }) => (offset - ENTRIES, fault),
        other => panic!("{other:?}"),
    };
    for left in 1..4 {
        assert_eq!(error(&[2; 3][..left]), (0, LengthFault::CutOff { left }));
    }
    for (kind, length) in [(0x42, 8), (0x43, 8), (0x46, 8), (0x47, 8), (0x48, 8), (0x40, 8)] {
        let fault = LengthFault::PastEnd { length, left: 4 };
        assert_eq!(error(&[2, 1, 0, 0, kind, 0, 0, 0]), (4, fault));
    }
    assert_eq!(error(&[0x80; 15]), (0, LengthFault::PastEnd { length: 16, left: 15 }));
    assert_eq!(error(&[0xc0; 31]), (0, LengthFault::PastEnd { length: 32, left: 31 }));
    // A named device, cut off before and within its unique id.
    let whole = named(2, 3, b"abc");
    assert_eq!(error(&whole[..21]), (0, LengthFault::PastEnd { length: 22, left: 21 }));
    assert_eq!(error(&whole[..24]), (0, LengthFault::PastEnd { length: 25, left: 24 }));
    let longest = named(2, 255, &[b'x'; 254]);
    assert_eq!(error(&longest), (0, LengthFault::PastEnd { length: 277, left: 276 }));
}

#[test]
fn r5_a_unique_id_is_read_in_every_format_and_length() {
    let uid = |format, bytes: &[u8]| {
        let ivrs = parse(&named(format, u8::try_from(bytes.len()).unwrap(), bytes));
        match ivrs.units[0].entries.first().map(|entry| &entry.kind) {
            Some(EntryKind::Named(device)) => Ok(device.uid.clone()),
            None => match ivrs.refused[0].refusal {
                Refusal::Entry(fault) => Err(fault),
                ref other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(uid(0, &[]), Ok(Uid::None));
    assert_eq!(uid(0, &[1, 2]), Ok(Uid::None));
    assert_eq!(uid(1, &[7]), Ok(Uid::Number(7)));
    assert_eq!(uid(1, &[1, 2, 3, 4, 5, 6, 7, 0x88]), Ok(Uid::Number(0x8807_0605_0403_0201)));
    assert_eq!(uid(1, &[]), Err(EntryFault::UidLength { bytes: 0 }));
    assert_eq!(uid(1, &[0; 9]), Err(EntryFault::UidLength { bytes: 9 }));
    assert_eq!(uid(2, &[]), Ok(Uid::Text(vec![])));
    assert_eq!(uid(2, &[b'x'; 255]), Ok(Uid::Text(vec![b'x'; 255])));
    assert_eq!(uid(3, &[1]), Err(EntryFault::UidFormat { format: 3 }));
}

#[test]
fn a_device_of_the_namespace_has_a_name_that_can_be_printed() {
    let nameless = Ivrs::parse(&patched(0x124, &[0; 8])).unwrap();
    assert_eq!(nameless.refused[0].offset, 0x120);
    assert!(nameless.refused[0].refusal.to_string().ends_with("without a hardware id"));
    assert_eq!(AcpiId::new(*b"PNP0C09\0").unwrap().to_string(), "PNP0C09");
    assert_eq!(AcpiId::new(*b"A\xff\n \x1b\x00B?").unwrap().to_string(), "A????");
    assert_eq!(Uid::Text(b"\\_SB\x1b[2J".into()).to_string(), "\\_SB?[2J");
    assert_eq!((Uid::Number(513).to_string(), Uid::None.to_string()), ("513".into(), "-".into()));
    // Which of several with one hardware id it is.
    let numbered = parse(&named(1, 1, &[7]));
    assert!(numbered.units[0].entries[0].to_string().contains(" 7 at "), "{numbered:?}");
}

#[test]
fn a_variety_that_is_not_known_is_kept() {
    let ivrs = Ivrs::parse(&patched(0xb7, &[7])).unwrap();
    let kind = EntryKind::Special { kind: SpecialKind::Unknown(7), handle: 0x21 };
    assert_eq!(ivrs.units[0].entries[7].kind, kind);
    assert_eq!(TABLE[0xb7], 1);
    assert_eq!(SpecialKind::Unknown(7).to_string(), "variety 7");
}
