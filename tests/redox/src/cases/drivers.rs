//! Drivers that do what they should: data goes to the device and back.

use agent::bench::faults;
use agent::failure::{Outcome, require};
use agent::reports::{self, Mapping};
use agent::traces::Traces;

use crate::machine::Machine;

/// What iommud takes nobody's word for that it is memory of the client's own.
const REFUSED: [&str; 10] = [
    "a descriptor that is no object",
    "an object with nothing in it",
    "an object with too little",
    "device registers in an object",
    "iommud's own memory in an object",
    "memory for a device's handle",
    "memory for a buffer that has some",
    "more than may be registered",
    "a private copy of a buffer",
    "writing by a handle that may only read",
];

/// How many kinds of buffer edud knows, and what it says of each.
pub(super) const KINDS: usize = 8;
pub(super) const BACK: &str = "to the device and back: intact";

pub(super) fn data_goes_and_comes() -> Outcome {
    let bench = Machine::bench()?;
    let (before, blocked) = (Traces::now()?, faults()?);
    let end = bench.edud(&["--rounds", "3"])?.expect(0)?;
    for round in ["round 1/3", "round 2/3", "round 3/3"] {
        let line = end.line(round)?;
        require!(line.ends_with("intact"), "it said {line:?}");
    }
    before.wait_for_return()?;
    // The same buffers, and where they are.
    let driver = bench.hold()?;
    let [out, back] = ["edud hold out", "edud hold in"].map(reports::mapping);
    let (out, back) = (out?, back?);
    require!(out.access == "r-", "{out:x?}");
    let written = if bench.write_only { "-w" } else { "rw" };
    require!(back.access == written, "{back:x?}");
    for mapping in [out, back] {
        require!(mapping.iova != mapping.physical, "{mapping:x?} is not translated");
    }
    driver.kill()?;
    before.wait_for_return()?;
    require!(faults()? == blocked, "something was blocked");
    Ok(())
}

/// Coherent, from a pool, streaming, scattered, in one piece: data goes there and back by all of them.
pub(super) fn every_kind_of_buffer() -> Outcome {
    let bench = Machine::bench()?;
    let (before, blocked) = (Traces::now()?, faults()?);
    let end = bench.edud(&["--buffers"])?.expect(0)?;
    let intact = end.lines.iter().filter(|line| line.ends_with(BACK)).count();
    require!(intact == KINDS, "{intact} of {KINDS} kinds: {:?}", end.lines);
    before.wait_for_return()?;
    require!(faults()? == blocked, "something was blocked");
    Ok(())
}

/// Memory that the driver had before becomes a buffer; what is not its own, or too much, does not.
pub(super) fn registered() -> Outcome {
    let bench = Machine::bench()?;
    let (before, blocked) = (Traces::now()?, faults()?);
    let end = bench.edud(&["--registered"])?.expect(0)?;
    require!(
        end.line("registered memory at ")?.ends_with("read and written by the device"),
        "it said {:?}",
        end.lines
    );
    end.line("pieces of registered memory, mapped in one call: read and written")?;
    for what in REFUSED {
        let line = end.line(&format!("{what}: "))?;
        require!(line.starts_with(&format!("{what}: refused: ")), "it said {line:?}");
    }
    before.wait_for_return()?;
    require!(faults()? == blocked, "something was blocked");
    Ok(())
}

pub(super) fn two_at_once() -> Outcome {
    let (first, second) = (Machine::bench()?, Machine::second_bench()?);
    let before = Traces::now()?;
    let (one, other) = (first.hold()?, second.hold()?);
    let domains = reports::domains()?;
    let domain_of = |device: &String| {
        let alone = domains.iter().find(|domain| domain.devices == std::slice::from_ref(device));
        alone.map(|domain| domain.domain)
    };
    let (mine, its) = (domain_of(&first.device), domain_of(&second.device));
    require!(mine.is_some() && its.is_some() && mine != its, "domains {mine:?} and {its:?}");
    let mut mappings = reports::mappings()?;
    mappings.retain(|mapping| [mine, its].contains(&Some(mapping.domain)));
    require!(mappings.len() == 4, "{mappings:x?}");
    let places = |domain| mappings.iter().filter(move |it: &&Mapping| Some(it.domain) == domain);
    for (a, b) in places(mine).flat_map(|a| places(its).map(move |b| (a, b))) {
        require!(a.physical != b.physical, "{a:x?} and {b:x?} are the same memory");
    }
    one.kill()?;
    other.kill()?;
    before.wait_for_return()
}
