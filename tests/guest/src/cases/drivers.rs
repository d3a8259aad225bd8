//! Drivers that do what they should: data goes to the device and back.

use agent::signal::Signal;

use crate::devices::{self, Function};
use crate::failure::{Failure, Outcome, require};
use crate::programs::{Program, run, start_iommud};
use crate::reports::{self, Mapping};
use crate::traces::Traces;
use crate::unit::Unit;

pub(super) fn first_device() -> Outcome {
    let [edu, _] = devices::both_edus()?;
    alone(&edu)
}

pub(super) fn second_device() -> Outcome {
    let [_, edu] = devices::both_edus()?;
    alone(&edu)
}

fn alone(edu: &Function) -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let driver = Driver::start(edu)?.pause()?;
    driver.look()?;
    driver.go_on()?;
    before.wait_for_return()
}

pub(super) fn both_at_once() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let [first, second] = devices::both_edus()?;
    let (one, other) = (Driver::start(&first)?, Driver::start(&second)?);
    let (one, other) = (one.pause()?, other.pause()?);
    let [mine, its] = [one.look()?, other.look()?];
    require!(mine[0].domain != its[0].domain, "both are in domain {}", its[0].domain);
    for (a, b) in mine.iter().flat_map(|a| its.iter().map(move |b| (a, b))) {
        require!(a.physical != b.physical, "{a:x?} and {b:x?} are the same memory");
    }
    one.go_on()?;
    other.go_on()?;
    before.wait_for_return()
}

pub(super) fn every_buffer() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    for edu in devices::both_edus()? {
        buffers(&edu, &[])?;
    }
    before.wait_for_return()?;
    run("iommuctl", &["faults", "--check"])?.expect(0)?;
    Ok(())
}

/// The kinds of buffer by which edud sends data to its device and back.
const BUFFERS: [&str; 8] = [
    "small coherent memory",
    "blocks of a pool",
    "streaming buffers",
    "strict streaming buffers",
    "slices of this process's",
    "strict slices of this process's",
    "a scatter list",
    "a buffer in one piece",
];

/// Has a driver use each kind of buffer.
pub(super) fn buffers(edu: &Function, arguments: &[&str]) -> Outcome {
    let name = edu.name();
    let arguments = [&["--device", &name, "--buffers"], arguments].concat();
    let end = run("edud", &arguments)?.expect(0)?;
    for kind in BUFFERS {
        let line = end.line(&format!("{kind}: "))?;
        require!(line.ends_with("intact"), "it said {line:?}");
    }
    Ok(())
}

/// What edud sends that iommud or, where it is iommud's seal, Linux must refuse.
const REFUSED: [&str; 15] = [
    "a device file",
    "physical memory",
    "a file",
    "a memfd that is not sealed",
    "a memfd that can be cut short",
    "a memfd that may only be read",
    "memory for a device's handle",
    "memory for a buffer that has some",
    "a memfd of nothing",
    "a memfd with more",
    "pages that Linux may move",
    "the same memory twice",
    "a hole in registered memory",
    "pages of registered memory removed",
    "registered memory cut short",
];

pub(super) fn registered() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let [edu, _] = devices::both_edus()?;
    register(&edu)?;
    before.wait_for_return()
}

/// Has a driver register memory of its own.
pub(super) fn register(edu: &Function) -> Outcome {
    let end = run("edud", &["--device", &edu.name(), "--registered"])?.expect(0)?;
    let line = end.line("registered memory at ")?;
    require!(line.ends_with("read and written by the device"), "it said {line:?}");
    end.line("pieces of registered memory, mapped in one call: read and written")?;
    for what in REFUSED {
        let line = end.line(&format!("{what}: "))?;
        require!(line.starts_with(&format!("{what}: refused: ")), "it said {line:?}");
    }
    Ok(())
}

/// A driver that moves data to its device and back, in three rounds.
struct Driver<'a> {
    edu: &'a Function,
    program: Program,
    /// What it said of its first round.
    said: String,
}

impl<'a> Driver<'a> {
    fn start(edu: &'a Function) -> Outcome<Self> {
        let program = Program::start("edud", &["--device", &edu.name(), "--rounds", "3"])?;
        Ok(Self { edu, program, said: String::new() })
    }

    /// Stops it after its first round.
    fn pause(mut self) -> Outcome<Self> {
        self.said = self.program.wait_line("round 1/3")?;
        self.program.signal(Signal::Stop)?;
        Ok(self)
    }

    /// Checks what iommud says of it, and gives what is mapped for it: the buffer that its device reads, and
    /// the one that it writes.
    fn look(&self) -> Outcome<[Mapping; 2]> {
        let device = reports::device(&self.edu.name())?;
        require!(device.state == "held", "{} is {}", device.device, device.state);
        let mut domains = reports::domains()?;
        domains.retain(|domain| domain.devices == [self.edu.name()]);
        require!(domains.len() == 1, "{} domains have {} alone", domains.len(), device.device);
        let domain = domains.remove(0);
        let mut mappings = reports::mappings()?;
        mappings.retain(|mapping| mapping.domain == domain.domain);
        require!(mappings.len() == domain.mappings, "{mappings:x?}, not {}", domain.mappings);
        // Out before in.
        mappings.sort_by(|a, b| b.label.cmp(&a.label));
        let [out, back]: [Mapping; 2] = mappings
            .try_into()
            .map_err(|other| Failure(format!("not two buffers are mapped: {other:x?}")))?;
        require!((&*out.label, &*out.access) == ("edud out", "r-"), "{out:x?}");
        let written = if Unit::find()?.can_map_write_only()? { "-w" } else { "rw" };
        require!((&*back.label, &*back.access) == ("edud in", written), "{back:x?}");
        for mapping in [&out, &back] {
            require!(mapping.iova != mapping.physical, "{mapping:x?} is not translated");
        }
        // The addresses that the device was given are those that are translated.
        let ways = [format!("from I/O {:#x} ", out.iova), format!("back to I/O {:#x} ", back.iova)];
        let given = ways.iter().all(|way| self.said.contains(way));
        require!(given, "it said {:?}, not {ways:?}", self.said);
        Ok([out, back])
    }

    /// Lets it go on to its end, which must be a good one.
    fn go_on(self) -> Outcome {
        self.program.signal(Signal::Continue)?;
        let end = self.program.finish()?.expect(0)?;
        for round in ["round 1/3", "round 2/3", "round 3/3"] {
            let line = end.line(round)?;
            require!(line.ends_with("intact"), "it said {line:?}");
        }
        Ok(())
    }
}
