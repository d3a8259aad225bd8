//! Accesses that must be blocked, and be reported with device, address and direction.

use agent::bench::{PAGE, address_of};
use edud::Direction;

use crate::devices::{self, Function};
use crate::dma;
use crate::failure::{Outcome, require};
use crate::huge_pages::HugePages;
use crate::programs::{Program, run, start_iommud};
use crate::reports::{self, wait_for_fault};
use crate::traces::Traces;
use crate::unit::Unit;

/// How many bytes a transfer moves: less than a page.
const BYTES: u64 = 512;

pub(super) fn r1_without_a_domain() -> Outcome {
    let _iommud = start_iommud()?;
    reach_nothing(&devices::both_edus()?)
}

pub(super) fn r1_after_its_driver() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let edu = devices::edu()?;
    run("edud", &["--device", &edu.name(), "--rounds", "1"])?.expect(0)?;
    // When it is free, bus mastering is off. Were that to come later, it would be what stops the device.
    before.wait_for_return()?;
    reach_nothing(&[edu])
}

/// That devices reach nothing, even when somebody lets them make requests. Nothing is translated afterwards.
fn reach_nothing(edus: &[Function]) -> Outcome {
    let canary = HugePages::new(1)?;
    for edu in edus {
        let name = edu.name();
        dma::transfer(edu, Direction::FromDevice, canary.first(), BYTES)?;
        require!(canary.are_intact()?, "{name} wrote to memory");
        wait_for_fault(&name, "write", canary.first())?;
        dma::transfer(edu, Direction::ToDevice, canary.first(), BYTES)?;
        wait_for_fault(&name, "read", canary.first())?;
    }
    // What they have read, they can bring only when nothing holds them back.
    Unit::find()?.turn_off()?;
    for edu in edus {
        let (map, place) = (canary.map(), 2 * PAGE);
        dma::transfer(edu, Direction::FromDevice, canary.first() + place, BYTES)?;
        let (there, brought) = (map.read64(0)?, map.read64(usize::try_from(place)?)?);
        require!(brought != there, "{} read memory", edu.name());
    }
    Ok(())
}

pub(super) fn read() -> Outcome {
    // Somewhere that has something to read.
    let canary = HugePages::new(1)?;
    let address = format!("{:#x}", canary.first());
    rogue("read", "read", 0, &["--dma-mask", "64", "--address", &address])
}

pub(super) fn write() -> Outcome {
    rogue("write", "write", 0, &[])
}

/// The transfer starts in the page that is mapped, and what is blocked is the rest of it.
pub(super) fn past_the_end() -> Outcome {
    rogue("past-the-end", "write", PAGE, &[])
}

pub(super) fn read_only() -> Outcome {
    rogue("read-only", "write", 0, &[])
}

/// On a unit that cannot do that, driver and user are told so.
pub(super) fn write_only() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    devices::bench()?.write_only_is_blocked_or_refused()?;
    before.wait_for_return()
}

pub(super) fn after_free() -> Outcome {
    rogue("after-free", "read", 0, &[])
}

/// What the device's own handle tells of the place, for each way to misbehave with a buffer, before the buffer's name
/// and at the end. How long before something was unmapped is said in µs or ms; what may be written may also be read
/// where a unit cannot do better (rule R6).
const BEHIND: [(&str, &str, &str, &str); 4] = [
    ("write", "was offset 0x0", "was mapped for reading and writing and unmapped ", "s before"),
    (
        "after-free",
        "was offset 0x0",
        "was mapped for reading and writing and unmapped ",
        "s before",
    ),
    ("read-only", "is offset 0x0", "is mapped for reading", ""),
    ("past-the-end", "would be offset 0x1000", "is mapped for ", "writing and ends before it"),
];

/// The owner learns which buffer it was, where in it, and whether it was unmapped just before.
pub(super) fn behind() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let bench = devices::bench()?;
    for (kind, that, which, end) in BEHIND {
        let ended = bench.edud(&["--rogue", kind])?.expect(0)?;
        if !bench.tells {
            ended.line("the device's handle tells of no fault")?;
            continue;
        }
        let told = ended.line("the device's handle tells: ")?;
        let behind = format!("; that {that} of buffer \"edud rogue\", which {which}");
        let rest = told.split_once(&behind).map(|(_, rest)| rest);
        let is_told =
            rest.is_some_and(|rest| rest.ends_with(end) && rest.is_empty() == end.is_empty());
        require!(is_told, "{kind}: it said {told:?}, and not {behind:?} and {end:?}");
    }
    before.wait_for_return()
}

/// A driver knows where memory is, and gives that address to its device. It is the memory of another driver,
/// and then memory that has nothing to do with any device.
pub(super) fn physical() -> Outcome {
    let _iommud = start_iommud()?;
    let [edu, other] = devices::both_edus()?;
    let mut driver = Program::start("edud", &["--device", &other.name(), "--hold"])?;
    driver.wait_line("holding")?;
    let canary = HugePages::new(1)?;
    for place in [reports::mapping("edud hold in")?.physical, canary.first()] {
        let (address, name) = (format!("{place:#x}"), edu.name());
        let rogue = ["--dma-mask", "64", "--rogue", "physical", "--address", &address];
        let end = devices::bench()?.edud(&rogue)?.expect(0)?;
        let blocked = address_of(&end)?;
        require!(blocked == place, "it was {blocked:#x} and not {place:#x} that was blocked");
        wait_for_fault(&name, "read", place)?;
    }
    Ok(())
}

/// Lets a driver misbehave, and checks that one access to the page `beyond` bytes after that of the address it tells
/// was blocked.
fn rogue(kind: &str, tried: &str, beyond: u64, further: &[&str]) -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    devices::bench()?.is_blocked(kind, tried, beyond, further)?;
    before.wait_for_return()
}
