use proptest::prelude::*;

use super::*;

/// What `lspci -v -x` prints of QEMU's q35 with an edu device, shortened.
const EDU: &str = "\
00:00.0 Host bridge: Intel Corporation 82G33/G31/P35/P31 Express DRAM Controller
\tSubsystem: Red Hat, Inc. QEMU Virtual Machine
\tFlags: fast devsel
00: 86 80 c0 29 03 00 00 00 00 00 00 06 00 00 00 00
10: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00

00:02.0 Unclassified device [00ff]: Device 1234:11e8 (rev 10)
00: 34 12 e8 11 07 00 10 00 10 00 ff 00 00 00 00 00

";

fn at(address: &str) -> PciAddress {
    address.parse().unwrap()
}

fn fault(text: &str) -> (usize, DumpFault) {
    let DumpError { line, fault } = Dump::parse(text.as_bytes()).unwrap_err();
    (line, fault)
}

#[test]
fn what_lspci_prints_is_configuration_space() {
    let mut dump = Dump::parse(EDU.as_bytes()).unwrap();
    let known: Vec<_> = dump.functions().map(|(address, bytes)| (address, bytes.len())).collect();
    assert_eq!(known, [(at("00:00.0"), 32), (at("00:02.0"), 16)]);
    assert_eq!(dump.config_read(at("00:02.0"), 0), 0x11e8_1234);
    assert_eq!(dump.config_read(at("00:02.0"), 8), 0x00ff_0010);
    assert_eq!(dump.config_read(at("00:02.0"), 12), 0);
    dump.config_write(at("00:02.0"), 0, 0);
    assert_eq!(dump.config_read(at("00:02.0"), 0), 0x11e8_1234);
}

#[test]
fn what_is_not_known_reads_as_what_is_absent() {
    let mut dump = Dump::parse(EDU.as_bytes()).unwrap();
    assert_eq!(dump.config_read(at("00:02.0"), 16), u32::MAX);
    assert_eq!(dump.config_read(at("00:03.0"), 0), u32::MAX);
    assert_eq!(dump.config_read(at("0001:00:02.0"), 0), u32::MAX);
    let mut dump = Dump::parse(b"00:02.0\n00: 34 12 e8 11 07 00\n").unwrap();
    assert_eq!(dump.config_read(at("00:02.0"), 4), u32::MAX);
    assert_eq!(dump.config_read(at("00:02.0"), u16::MAX - 3), u32::MAX);
}

#[test]
fn segments_may_be_named_or_left_out() {
    let text = "\
0000:00:02.0 a\n00: 01\n0001:00:02.0 b\n00: 02\n# a remark\n10000:e0:1d.0 behind a VMD\n00: 03\r\n";
    let dump = Dump::parse(text.as_bytes()).unwrap();
    let found: Vec<_> = dump.functions().map(|(address, bytes)| (address, bytes[0])).collect();
    assert_eq!(found, [(at("00:02.0"), 1), (at("0001:00:02.0"), 2)]);
    assert_eq!(dump.beyond_segments, 1);
}

#[test]
fn names_in_any_encoding_do_no_harm() {
    assert!(Dump::parse(b"00:02.0 Andr\xe9's device\n00: 34 12\n").is_ok());
}

#[test]
fn r5_what_lspci_would_not_print_is_told_with_its_line() {
    for (text, line, wanted) in [
        ("", 1, DumpFault::Empty),
        ("10000:00:02.0\n00: 01\n", 3, DumpFault::Empty),
        ("DMAR\n", 1, DumpFault::Strange),
        ("\n00:20.0 no such device\n", 2, DumpFault::Strange),
        ("00:02.8 no such function\n", 1, DumpFault::Strange),
        ("+0:02.0 no such bus\n", 1, DumpFault::Strange),
        ("00: 01\n", 1, DumpFault::NoFunction),
        ("00:02.0 edu\n", 1, DumpFault::NoBytes),
        ("00:02.0 edu\n00:03.0 edu\n00: 01\n", 1, DumpFault::NoBytes),
        ("00:02.0\n00: 01\n0000:00:02.0\n00: 01\n", 3, DumpFault::Twice(at("00:02.0"))),
        ("00:02.0\n10: 01\n", 2, DumpFault::NotNext { expected: 0, found: 16 }),
        ("00:02.0\n00: 01\n00: 01\n", 3, DumpFault::NotNext { expected: 1, found: 0 }),
        ("00:02.0\n00:\n", 2, DumpFault::Byte),
        ("00:02.0\n00: 1\n", 2, DumpFault::Byte),
        ("00:02.0\n00: 0x\n", 2, DumpFault::Byte),
        ("00:02.0\n00: 01 \u{fc}\n", 2, DumpFault::Byte),
        ("00:02.0\n00: 0 1 2 3\n", 2, DumpFault::Byte),
        ("00:02.0\n0000: 01\n", 2, DumpFault::Strange),
        ("Slot: 00:02.0\n", 1, DumpFault::Strange),
        ("00:02.0\0\n", 1, DumpFault::NotText),
    ] {
        assert_eq!(fault(text), (line, wanted), "{text:?}");
    }
    let long = format!("00:02.0\n00:{}\n", " 01".repeat(17));
    assert_eq!(fault(&long), (2, DumpFault::Byte));
    assert_eq!(
        Dump::parse(b"00:02.0\n00: 1\n").unwrap_err().to_string(),
        "2: a line has up to 16 bytes, each of two hexadecimal digits"
    );
}

#[test]
fn r5_a_function_has_no_more_than_its_4096_bytes() {
    let mut whole = Dump::default();
    whole.insert(at("00:02.0"), vec![0; WHOLE + 5]);
    let text = whole.text();
    assert_eq!(Dump::parse(text.as_bytes()), Ok(whole));
    let more = text.trim_end().to_string() + "\nfff: 00\n";
    let wanted = DumpFault::NotNext { expected: WHOLE, found: 0xfff };
    assert_eq!(fault(&more).1, wanted);
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        functions in proptest::collection::btree_map(
            (0_u16..3, any::<u8>(), 0_u8..32, 0_u8..8),
            proptest::collection::vec(any::<u8>(), 1..300),
            1..6,
        )
    ) {
        let mut dump = Dump::default();
        for ((segment, bus, device, function), bytes) in functions {
            dump.insert(PciAddress::new(segment, bus, device, function).unwrap(), bytes);
        }
        prop_assert_eq!(Dump::parse(dump.text().as_bytes()), Ok(dump));
    }

    #[test]
    fn r5_no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Dump::parse(&text);
    }

    #[test]
    fn r5_no_text_like_it_makes_it_panic(text in "([0-9a-f:. \n]|00:0[0-9].0\n|00: [0-9a-f ]{3}){0,60}") {
        if let Err(error) = Dump::parse(text.as_bytes()) {
            prop_assert!(error.line <= text.split('\n').count());
        }
    }
}
