//! The policy's parser on texts that nobody would write: it never panics, and what it complains of is in the
//! text.
//!
//! `IOMMUD_FUZZ_INPUTS` says how many texts are tried. Each is made from its number alone, so that one that
//! fails can be had again.

use std::env;
use std::time::Instant;

use iommud::policy::text::parse;

/// How many texts are tried when nobody says.
const INPUTS: u64 = 20_000;

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

/// Numbers that look like chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

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

fn input(number: u64) -> Vec<u8> {
    let mut chance = Chance(number);
    match chance.below(8) {
        0 => any_bytes(&mut chance),
        1 | 2 => pieces(&mut chance),
        3 => repeated(&mut chance),
        _ => changed(&mut chance),
    }
}

#[test]
fn r5_no_text_makes_the_policy_parser_panic_and_every_fault_is_in_the_text() {
    let told = env::var("IOMMUD_FUZZ_INPUTS").ok().and_then(|number| number.parse().ok());
    let inputs = told.unwrap_or(INPUTS);
    let start = Instant::now();
    let (mut right, mut wrong, mut longest) = (0_u64, 0_u64, 0);
    for number in 0..inputs {
        let text = input(number);
        longest = longest.max(text.len());
        let Err(fault) = parse(&text) else {
            right += 1;
            continue;
        };
        wrong += 1;
        // A part that is no text in UTF-8 is told by where it starts.
        let lines = String::from_utf8_lossy(&text);
        let line = lines.split('\n').nth(fault.line - 1);
        let inside =
            line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&fault.column));
        assert!(inside, "input {number}: {fault} in {lines:?}");
        assert!(
            !fault.sentence.is_empty() && fault.sentence.len() < 600,
            "input {number}: {fault}"
        );
        let plain = !fault.sentence.contains(|char: char| char.is_control());
        assert!(plain, "input {number}: {fault:?}");
    }
    println!(
        "{inputs} texts of up to {longest} bytes in {:.0} s: {right} were policies, {wrong} were told why not",
        start.elapsed().as_secs_f64()
    );
    assert!(right > 0 && wrong > 0);
}
