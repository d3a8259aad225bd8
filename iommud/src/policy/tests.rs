use core::time::Duration;

use dma_types::PhysAddr;
use iommu_engine::policy::{
    ClientRule, Devices, IgnoredUnit, Invalidation, Orphans, Policy, QuarantineAfter,
    QuarantineRule, Quotas, Rule, SaidQuotas, Unopened, WithoutIommu,
};

use ron::error::{Position, Span};

use super::*;

const EXAMPLE: &str = include_str!("../../iommud.ron");

/// What base's recipe puts into the initfs.
const INITFS: &str = include_str!("../../../cookbook/base/initfs.ron");

fn wrong(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_example_says_what_holds_without_it() {
    assert_eq!(parse(EXAMPLE.as_bytes()), Ok(Policy::default()));
    assert_eq!(parse(b"()"), Ok(Policy::default()));
}

#[test]
fn the_example_s_exceptions_are_right_too() {
    let text: String = EXAMPLE
        .lines()
        .map(|line| {
            let exception = line.trim_start().strip_prefix("// ");
            exception.filter(|it| it.starts_with("(device") || it.starts_with("0x")).unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let policy = parse(text.as_bytes()).unwrap();
    let nic = Devices::Id { vendor: 0x8086, device: 0x1533 };
    let sound = Devices::At("0000:00:1b.0".parse().unwrap());
    let disk = Devices::At("0000:00:1f.2".parse().unwrap());
    assert_eq!(
        policy.rules,
        [
            Rule { unopened: Some(Unopened::Identity), ..Rule::new(nic) },
            Rule {
                invalidation: Some(Invalidation::Deferred),
                quotas: SaidQuotas { buffer_bytes: Some(64 << 20), ..SaidQuotas::NOTHING },
                ..Rule::new(disk)
            },
            Rule { reserve: Some(16 << 20), ..Rule::new(sound) },
            Rule {
                quarantine: Some(QuarantineRule::After(QuarantineAfter {
                    faults: 100,
                    within: Duration::from_secs(10),
                })),
                ..Rule::new(Devices::Id { vendor: 0x10de, device: 0x0fb9 })
            },
        ]
    );
    assert_eq!(policy.ignored(PhysAddr::new(0xfed9_0000)), policy.ignored_units.first());
    assert_eq!(policy.ignored_units.len(), 1);
}

#[test]
fn r1_in_the_initfs_nothing_is_excepted_but_the_disk_of_the_root_file_system() {
    // The controller, and the functions in one group with it.
    let rules = [0x2922, 0x2918, 0x2930].map(|device| Rule {
        unopened: Some(Unopened::Identity),
        ..Rule::new(Devices::Id { vendor: 0x8086, device })
    });
    let policy = Policy { rules: rules.to_vec(), ..Policy::default() };
    assert_eq!(parse(INITFS.as_bytes()), Ok(policy));
}

#[test]
fn every_word_is_understood() {
    let text = br#"Policy(
        default: identity,
        invalidation: deferred,
        quotas: (buffers: 7, buffer_bytes: "8192", mapped_bytes: "1 TiB", iova_bytes: "2 TiB",
            mappings: 9, page_table_bytes: "4 MiB", requests: 10, operations: 11),
        client_quotas: (buffers: 12),
        clients: [(uid: 1000, quotas: (mappings: 13))],
        reserve: "64 MiB",
        quarantine: (faults: 7, within: "2 min"),
        ignore_units: { 0xfed9_0000: "why", 4_096: "not" },
        without_iommu: unprotected,
        orphans: "1500 ms",
    )"#;
    let ignored =
        |base, reason: &str| IgnoredUnit { base: PhysAddr::new(base), reason: reason.into() };
    let policy = Policy {
        default: Unopened::Identity,
        invalidation: Invalidation::Deferred,
        quotas: Quotas {
            buffers: 7,
            buffer_bytes: 8192,
            mapped_bytes: 1 << 40,
            iova_bytes: 2 << 40,
            mappings: 9,
            page_table_bytes: 4 << 20,
            requests: 10,
            operations: 11,
        },
        client_quotas: Quotas { buffers: 12, ..Quotas::UNLIMITED },
        clients: vec![ClientRule {
            uid: 1000,
            quotas: SaidQuotas { mappings: Some(13), ..SaidQuotas::NOTHING },
        }],
        reserve: 64 << 20,
        quarantine: Some(QuarantineAfter { faults: 7, within: Duration::from_secs(120) }),
        rules: vec![],
        ignored_units: vec![ignored(0xfed9_0000, "why"), ignored(4096, "not")],
        without_iommu: WithoutIommu::Unprotected,
        orphans: Orphans(Duration::from_millis(1500)),
    };
    assert_eq!(parse(text), Ok(policy));
    let text = br#"(quotas: (buffers: 1), rules: [(device: "8086:10d3", quotas: (buffers: 2))])"#;
    let policy = parse(text).unwrap();
    assert_eq!(policy.quotas, Quotas { buffers: 1, ..Quotas::default() });
    let device = policy.for_device("00:02.0".parse().unwrap(), 0x8086, 0x10d3);
    assert_eq!(device.quotas, Quotas { buffers: 2, ..Quotas::default() });
    let text = br#"(reserve: "8 MiB", rules: [
        (device: "8086:10d3", reserve: "4 KiB"),
        (device: "0000:00:03.0", reserve: "0"),
    ])"#;
    let policy = parse(text).unwrap();
    let own = |address: &str, id| policy.for_device(address.parse().unwrap(), 0x8086, id).reserve;
    assert_eq!((policy.reserve, own("00:02.0", 0x10d3), own("00:02.0", 1)), (8 << 20, 4096, 0));
    assert_eq!(own("00:03.0", 0x10d3), 0, "an exception from the exception");
    let text = br#"(quarantine: (faults: 7), rules: [
        (device: "8086:10d3", quarantine: (faults: 1, within: "20 ms")),
        (device: "0000:00:03.0", quarantine: (faults: 0)),
    ])"#;
    let policy = parse(text).unwrap();
    let own = |address: &str, id| {
        let device = policy.for_device(address.parse().unwrap(), 0x8086, id);
        device.quarantine.map(|after| (after.faults, after.within.as_millis()))
    };
    assert_eq!([own("00:02.0", 0x10d3), own("00:02.0", 1)], [Some((1, 20)), Some((7, 1000))]);
    assert_eq!(own("00:03.0", 0x10d3), None, "an exception from the exception");
}

#[test]
fn r5_unknown_words_are_told_with_their_place_and_what_there_is() {
    assert_eq!(
        wrong("(\n    defualt: deny,\n)"),
        "2:5: there is no `defualt` here, only `default`, `invalidation`, `quotas`, `client_quotas`, \
         `clients`, `reserve`, `quarantine`, `rules`, `ignore_units`, `without_iommu` or `orphans`"
    );
    assert_eq!(
        wrong("(\n    default: allow,\n)"),
        "2:14: `allow` will not do here; it has to be `deny` or `identity`"
    );
    assert_eq!(
        wrong("(rules: [\n (device: \"8086:10d3\", Default: deny)])"),
        "2:24: there is no `Default` here, only `device`, `default`, `invalidation`, `quotas`, `reserve` \
         or `quarantine`"
    );
    assert_eq!(wrong("(\n default: deny,\n default: deny,\n)"), "3:2: `default` is said twice");
}

#[test]
fn r5_bad_values_are_told_with_their_place_and_what_is_allowed() {
    for (text, answer) in [
        (
            "(rules: [\n  (device: \"8086:zz\", default: deny)])",
            "2:13: the string \"8086:zz\" will not do here; it has to be a device in quotes: its \
             address, as \"0000:00:1f.2\", or its vendor and device id, as \"8086:10d3\"",
        ),
        ("(rules: [\n  (default: deny)])", "2:17: `device` is missing before this"),
        (
            "(rules: [\n  (device: \"8086:1234\")])",
            "2:23: the rule for 8086:1234 says nothing: it has `default`, `invalidation`, `quotas`, \
             `reserve` or `quarantine`",
        ),
        (
            "(quotas: (buffers: 0))",
            "1:20: the unsigned integer `0` will not do here; it has to be a number from 1 to \
             4294967295 (without the word, there is a default limit)",
        ),
        ("(quotas: (buffers: many))", "1:20: a number is expected here"),
        ("(quotas: (buffer_bytes: 4096))", "1:25: a text in quotes is expected here"),
        (
            "(quotas: (buffer_bytes: \"1 kB\"))",
            "1:26: the string \"1 kB\" will not do here; it has to be a size in quotes, as \
             \"512 MiB\", in KiB, MiB, GiB or TiB: at least 4 KiB, and less than 16777216 TiB",
        ),
        (
            "(reserve: \"5000\")",
            "1:12: the string \"5000\" will not do here; it has to be a size in quotes, as \"64 MiB\", in \
             KiB, MiB, GiB or TiB: whole pages of 4 KiB, or \"0\" for none",
        ),
        (
            "(rules: [(device: \"8086:1234\", reserve: 4096)])",
            "1:41: a text in quotes is expected here",
        ),
        (
            "(quarantine: (faults: 65537))",
            "1:23: the unsigned integer `65537` will not do here; it has to be a number of blocked accesses from \
             1 to 65536, or 0 for never",
        ),
        (
            "(quarantine: (faults: 1, within: \"61 min\"))",
            "1:35: the string \"61 min\" will not do here; it has to be a time in quotes, as \"10 s\", in ms, s or \
             min: at most \"60 min\"",
        ),
        ("(quarantine: (within: \"1 s\"))", "1:28: `faults` is missing before this"),
        (
            "(quotas: (buffers: 99999999999))",
            "1:20: the unsigned integer `99999999999` will not do here; it has to be a number from 1 \
             to 4294967295 (without the word, there is a default limit)",
        ),
        (
            "(ignore_units: { fed90000: \"why\" })",
            "1:18: this is no number; hexadecimal ones begin with 0x",
        ),
        (
            "(ignore_units: { 0xfed90000: \"\" })",
            "1:31: a reason is a line of text of at most 160 characters: it is shown wherever the \
             unit is",
        ),
        (
            "(ignore_units: { 0x1000: \"why\", 0x1000: \"why\" })",
            "1:35: the unit at 0x1000 is there twice",
        ),
        (
            "(ignore_units: [0xfed90000])",
            "1:16: pairs are expected here, as { 0xfed90000: \"why\" }",
        ),
    ] {
        assert_eq!(wrong(text), answer, "{text}");
    }
}

#[test]
fn r5_what_is_no_policy_is_told_with_its_place() {
    for (text, answer) in [
        ("", "1:1: words are in parentheses, as (default: deny)"),
        ("default: deny", "1:1: `default` has to be in parentheses, as (default: deny)"),
        ("(\n default: deny", "2:15: a comma is expected here, or the end of the list"),
        (
            "(\n default: deny invalidation: strict)",
            "2:16: a comma is expected here, or the end of the list",
        ),
        ("(default: deny,,)", "1:16: a word without quotes is expected here"),
        ("()\n()", "2:1: nothing can come after the policy's last parenthesis"),
        ("(rules: [(device: \"00:1f.2)])", "1:19: the closing quote is missing"),
    ] {
        assert_eq!(wrong(text), answer, "{text}");
    }
    let latin1 = parse(b"(\n // gr\xfcn\n)").unwrap_err();
    assert_eq!(latin1.to_string(), "2:7: what follows is no text in UTF-8");
}

#[test]
fn r5_an_answer_is_one_short_line_whatever_the_text() {
    let long = format!("(default: {})", "x".repeat(60_000));
    let deep = "(rules: [".repeat(7_000);
    let deep_value = format!("(default: {})", "Some(".repeat(12_000));
    let control = "(rules: [(device: \"\u{1b}[2J\\n\", default: deny)])".to_string();
    for text in [long, deep, deep_value, control] {
        let answer = wrong(&text);
        assert!(answer.len() < 400, "{answer}");
        assert!(!answer.contains(|char: char| char.is_control()), "{answer:?}");
    }
}

#[test]
fn r5_an_answer_has_no_control_characters_of_the_text() {
    let found = "\u{1b}[2J\n\u{9b}".to_string();
    for code in [
        Error::InvalidValueForType { expected: "other".into(), found: found.clone() },
        Error::Message(found),
    ] {
        let place = Position { line: 1, col: 1 };
        let answer = fault(&SpannedError { code, span: Span { start: place, end: place } });
        let shown = "\u{fffd}[2J\u{fffd}\u{fffd}";
        assert!(answer.sentence.starts_with(shown), "{answer:?}");
    }
}
