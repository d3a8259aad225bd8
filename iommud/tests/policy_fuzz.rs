//! The policy's parser on texts that nobody would write: it never panics, and what it complains of is in the
//! text.
//!
//! How many texts are tried, and how one that fails is had again, is in the crate `fuzz`.

use std::cell::Cell;

use fuzz::{Chance, Trial};
use iommud::policy::text::parse;

/// Texts that are right, to be changed a little.
const SEEDS: [&str; 3] = [
    include_str!("../iommud.ron"),
    r#"(default: identity, rules: [
        (device: "8086:1533", default: identity),
        (device: "0000:00:1f.2", invalidation: deferred, quotas: (buffer_bytes: "64 MiB")),
        (device: "0000:00:1b.0", reserve: "16 MiB"),
    ], ignore_units: { 0xfed90000: "hangs", 0xfed9_1000: "hangs, too" })"#,
    r#"Policy(quotas: Quotas(buffers: 7, buffer_bytes: "8192", mapped_bytes: "1 TiB"),
        invalidation: strict, default: deny)"#,
];

/// What the texts are made of: the policy's own words, and what RON has beside them.
const PIECES: [&str; 53] = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "\"",
    "'",
    "\\",
    "\n",
    " ",
    "//",
    "/*",
    "*/",
    "#",
    "r#\"",
    "\"#",
    "b\"",
    "default",
    "deny",
    "identity",
    "invalidation",
    "strict",
    "deferred",
    "quotas",
    "buffers",
    "reserve",
    "buffer_bytes",
    "mapped_bytes",
    "rules",
    "device",
    "ignore_units",
    "Policy",
    "Rule",
    "Some",
    "None",
    "()",
    "0",
    "-1",
    "1_0",
    "0xfed90000",
    "0b2",
    "1e999",
    "inf",
    "\"8086:10d3\"",
    "\"00:02.0\"",
    "\"4 GiB\"",
    "#![enable(implicit_some)]",
    "\\u{110000}",
    "ü",
    "\u{0}",
];

fn any_bytes(chance: &mut Chance) -> Vec<u8> {
    (0..chance.below(200)).map(|_| chance.next() as u8).collect()
}

fn pieces(chance: &mut Chance) -> Vec<u8> {
    let count = chance.below(60);
    (0..count).flat_map(|_| PIECES[chance.below(PIECES.len())].bytes()).collect()
}

/// The same few bytes many times: the way deep into the parser.
fn repeated(chance: &mut Chance) -> Vec<u8> {
    let few: Vec<&str> =
        (0..1 + chance.below(4)).map(|_| PIECES[chance.below(PIECES.len())]).collect();
    let mut text = pieces(chance);
    text.extend(few.concat().repeat(chance.below(300)).bytes());
    text
}

fn changed(chance: &mut Chance) -> Vec<u8> {
    let mut text = SEEDS[chance.below(SEEDS.len())].as_bytes().to_vec();
    for _ in 0..1 + chance.below(6) {
        let from = chance.below(text.len() + 1);
        let to = (from + chance.below(12)).min(text.len());
        match chance.below(5) {
            0 => drop(text.drain(from..to)),
            1 => drop(text.splice(from..from, PIECES[chance.below(PIECES.len())].bytes())),
            2 => {
                let part = text[from..to].to_vec();
                let place = chance.below(text.len() + 1);
                drop(text.splice(place..place, part));
            }
            3 => text.truncate(from.max(1)),
            _ => {
                if let Some(byte) = text.get_mut(from) {
                    *byte ^= 1 << chance.below(8);
                }
            }
        }
    }
    text
}

fn input(chance: &mut Chance) -> Vec<u8> {
    match chance.below(8) {
        0 => any_bytes(chance),
        1 | 2 => pieces(chance),
        3 => repeated(chance),
        _ => changed(chance),
    }
}

/// What is wrong with a text is said of a place in it. Whether anything is.
fn is_wrong(text: &[u8]) -> bool {
    let Err(fault) = parse(text) else { return false };
    // A part that is no text in UTF-8 is told by where it starts.
    let lines = String::from_utf8_lossy(text);
    let line = lines.split('\n').nth(fault.line - 1);
    let inside = line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&fault.column));
    assert!(inside, "{fault} in {lines:?}");
    assert!(!fault.sentence.is_empty() && fault.sentence.len() < 600, "{fault}");
    let plain = !fault.sentence.contains(|char: char| char.is_control());
    assert!(plain, "{fault:?}");
    true
}

#[test]
fn r5_no_text_makes_the_policy_parser_panic_and_every_fault_is_in_the_text() {
    let wrong = Cell::new(0);
    let trial = Trial { name: "policy", steps: 20_000, each: 1 };
    trial.run(|mut steps| {
        let Some(mut chance) = steps.next() else { return false };
        let is_wrong = is_wrong(&input(&mut chance));
        wrong.set(wrong.get() + u64::from(is_wrong));
        !is_wrong
    });
    assert!(wrong.get() > 0);
}
