use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::ctl::plan::dump::Dump;
use crate::policy::text::parse;

#[path = "machines.rs"]
mod machines;

use machines::{CAPABILITY, DMAR, IVRS, UNIT, amd, edit, intel};

const POLICY: &str = r#"(
    reserve: "64 MiB",
    quotas: (buffers: 100, buffer_bytes: "1 GiB"),
    client_quotas: (mappings: 5000),
    clients: [(uid: 7, quotas: (mappings: 50, iova_bytes: "2 GiB")), (uid: 0, quotas: ())],
    rules: [
        (device: "8086:1533", default: identity, invalidation: deferred, reserve: "16 MiB"),
        (device: "0000:01:00.1", default: deny, quotas: (buffers: 200, requests: 8)),
        (device: "0000:00:00.0", default: identity),
        (device: "8086:1534", default: identity),
    ],
    ignore_units: { 0xfed90000: "hangs when it is turned on", 0xfed92000: "a slip of the pen" },
)"#;

fn table(bytes: &[u8]) -> Option<Table> {
    Some(Table { from: "a test".into(), bytes: bytes.into() })
}

/// Functions as lspci prints them.
fn printed(dump: &Dump) -> Option<Dump> {
    Some(Dump::parse(dump.text().as_bytes()).unwrap())
}

/// The same, of which no more than so many bytes were printed.
fn cut_off(dump: &Dump, bytes: usize) -> Option<Dump> {
    let mut cut_off = Dump::default();
    for (address, whole) in dump.functions() {
        cut_off.insert(address, whole[..bytes.min(whole.len())].to_vec());
    }
    Some(cut_off)
}

fn intel_s() -> Input {
    Input { dmar: table(&DMAR), functions: printed(&intel()), ..Input::default() }
}

fn amd_s() -> Input {
    Input { ivrs: table(&IVRS), functions: printed(&amd()), ..Input::default() }
}

#[test]
fn an_intel_machine_is_told_as_it_would_be_used() {
    let report = Report::new(intel_s());
    assert_eq!(report.text(), include_str!("golden/intel.txt"));
    assert!(!report.refuses());
}

#[test]
fn what_the_policy_changes_is_told_where_it_does() {
    let policy = parse(POLICY.as_bytes()).unwrap();
    let report = Report::new(Input { policy, ..intel_s() });
    assert_eq!(report.text(), include_str!("golden/policy.txt"));
    // What is left alone as it was told is not refused.
    assert!(!report.refuses());
}

#[test]
fn a_machine_without_an_iommu_is_refused_or_told_as_not_confined() {
    let input = Input { functions: printed(&intel()), ..Input::default() };
    let refused = Report::new(input.clone());
    assert!(refused.refuses());
    assert!(refused.text().contains("WOULD NOT START: the firmware describes no IOMMU"));
    let policy = parse(b"(without_iommu: unprotected)").unwrap();
    let report = Report::new(Input { policy, ..input });
    assert_eq!(report.text(), include_str!("golden/none.txt"));
    assert!(!report.refuses() && report.json().contains("\"without_iommu\": true"));
}

#[test]
fn an_amd_machine_is_told_with_what_is_refused() {
    let report = Report::new(amd_s());
    assert_eq!(report.text(), include_str!("golden/amd.txt"));
    assert!(report.refuses());
}

#[test]
fn without_functions_the_table_alone_is_told() {
    let report = Report::new(Input { functions: None, ..intel_s() });
    let text = report.text();
    assert!(text.contains("NOT KNOWN: devices, groups and where bridges lead"), "{text}");
    assert!(text.ends_with("\niommud would use 2 of 2 units\n"), "{text}");
    assert!(text.contains("endpoint 00:02.0") && !text.contains("8086:3e98"), "{text}");
}

#[test]
fn r5_a_table_that_cannot_be_used_is_told_with_the_reason() {
    let report = Report::new(Input { ivrs: table(&IVRS[..187]), ..amd_s() });
    assert_eq!(
        report.text(),
        "Made from the IVRS table of a test (187 bytes), 6 PCI functions.\n\niommud WOULD NOT START: the \
         firmware's IVRS table cannot be used: its length of 188 bytes is more than the 187 that there are\n"
    );
    assert!(report.refuses() && report.has_no_table());
    let report = Report::new(Input::default());
    assert!(report.text().starts_with("Made from nothing.\n\niommud WOULD NOT START: "));
    assert!(report.refuses());
}

#[test]
fn what_was_not_printed_is_not_taken_for_absent_without_a_word() {
    let text = Report::new(Input { functions: cut_off(&intel(), 64), ..intel_s() }).text();
    let wanted = "NOT KNOWN: the capability lists of 0000:00:00.0, 0000:00:02.0, 0000:00:1c.0, 0000:01:00.0, \
                  0000:01:00.1, which count as having none: call lspci with -xxxx, as root\n";
    assert!(text.contains(wanted), "{text}");
    let text = Report::new(Input { functions: cut_off(&intel(), 256), ..intel_s() }).text();
    let wanted = "NOT KNOWN: the Access Control Services of 0000:00:02.0, 0000:00:1c.0, 0000:01:00.0, \
                  0000:01:00.1, which count as having none: call lspci with -xxxx, as root\n";
    assert!(text.contains(wanted), "{text}");
    // A bus that nothing leads to, and a device that only Linux knows.
    let mut dump = intel();
    dump.insert("80:00.0".parse().unwrap(), vec![0x86, 0x80, 1, 0]);
    dump.beyond_segments = 1;
    let text = Report::new(Input { functions: Some(dump), ..intel_s() }).text();
    assert!(
        text.contains("NOT KNOWN: who translates for 0000:80:00.0, to which neither"),
        "{text}"
    );
    assert!(text.contains("NOT KNOWN: 1 PCI function in segments from 10000 on"), "{text}");
}

/// What becomes of AMD's machine with these functions.
fn amd_with(functions: Dump) -> (Report, String) {
    // Without the block of the table that is refused.
    let mut bytes = IVRS[..156].to_vec();
    bytes[4] = 156;
    let report =
        Report::new(Input { ivrs: table(&bytes), functions: Some(functions), ..Input::default() });
    let text = report.text();
    (report, text)
}

#[test]
fn r5_a_unit_whose_function_is_no_iommu_is_refused_as_iommud_would() {
    let (report, text) = amd_with(amd());
    assert!(!report.refuses() && text.contains("would use 1 of 1 unit;"), "{text}");

    let mut absent = Dump::default();
    let unit = UNIT.parse().unwrap();
    for (address, bytes) in amd().functions().filter(|(address, _)| *address != unit) {
        absent.insert(address, bytes.to_vec());
    }
    let (mut other, mut elsewhere) = (amd(), amd());
    edit(&mut other, CAPABILITY, &[0x0f, 0, 0x0a]);
    edit(&mut elsewhere, CAPABILITY + 4, &[1, 0x40]);
    for functions in [absent, other, elsewhere] {
        let (report, text) = amd_with(functions);
        assert!(report.refuses(), "{text}");
        assert!(
            text.contains("REFUSED: IVRS offset 0x30: the unit at 0xfeb80000 is not used"),
            "{text}"
        );
        assert!(
            text.contains("would use 0 of 1 unit; 0 devices would be confined, 4 would"),
            "{text}"
        );
    }
    let (report, text) = amd_with(cut_off(&amd(), 64).unwrap());
    assert!(!report.refuses(), "{text}");
    assert!(text.contains("NOT KNOWN: whether 0000:00:00.2 has an IOMMU's capability"), "{text}");
}

#[test]
fn programs_read_the_same() {
    let json = Report::new(amd_s()).json();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["units"][0]["function"], "0000:00:00.2");
    assert_eq!(value["devices"][4]["reaches"], "nothing");
    assert_eq!(value["refused"].as_array().unwrap().len(), 1);
}

proptest! {
    #[test]
    fn r5_no_table_and_no_functions_make_it_panic(
        in_table in vec((any::<Index>(), any::<u8>()), 0..8),
        in_text in vec((any::<Index>(), "[0-9a-f :.]"), 0..8),
        is_intel in any::<bool>(),
    ) {
        let machine = if is_intel { (DMAR.to_vec(), intel()) } else { (IVRS.to_vec(), amd()) };
        let (mut bytes, functions) = machine;
        for (at, byte) in in_table {
            *at.get_mut(&mut bytes) = byte;
        }
        let mut text = functions.text().into_bytes();
        for (at, char) in in_text {
            *at.get_mut(&mut text) = char.as_bytes()[0];
        }
        let mut input = Input {
            functions: Some(Dump::parse(&text).unwrap_or(functions)),
            ..Input::default()
        };
        *(if is_intel { &mut input.dmar } else { &mut input.ivrs }) = table(&bytes);
        let report = Report::new(input);
        prop_assert!(!report.text().is_empty() && !report.json().is_empty());
    }
}
