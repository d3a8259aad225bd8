//! The whole platform.

use std::fs::File;
use std::io::Write;
use std::rc::Rc;
use std::time;

use dma_types::{CpuAddr, PciAddress, PhysAddr};
use iommu_engine::delegate;
use iommu_engine::platform::{
    ConfigSpace, Instant, MsiMessage, Platform, PlatformError, Registers, RunId, Segment,
};
use libredox::Fd;
use libredox::errno::{ENOENT, ENOLCK};
use thiserror::Error;

use super::acpi::read_table;
use super::area::Region;
use super::bars::Bars;
use super::config_space::MappedConfigSpace;
use super::foreign::ForeignError;
use super::frames::TableArena;
use super::functions::OwnFunctions;
use super::irq::FaultInterrupt;
use super::memory::{Left, Memory};
use super::object::MemoryObject;
use super::random::Random;
use super::registers::RegisterWindows;
use super::runs::RunArena;
use crate::daemon::hand_over::Report;
use crate::daemon::log;
use crate::platform::run_places::arenas_of_tables_and_runs;

/// Where a PC's memory goes on above the addresses of its devices.
const LOW_MEMORY: u64 = 4 << 30;

/// The word of a function's configuration space with its command register, and that register's bits in it. The others are
/// the status register's, of which zeroes change nothing (PCI Local Bus 3.0, 6.2.3).
const COMMAND: u16 = 0x04;
const COMMAND_BITS: u32 = 0xffff;

/// A page of 1 GiB: few entries map a memory of whole ones.
const LARGEST_PAGE: u64 = 1 << 30;

/// A machine that runs Redox.
pub struct Redox {
    memory: Rc<Memory>,
    tables: TableArena,
    runs: RunArena,
    registers: RegisterWindows,
    config: MappedConfigSpace,
    random: Random,
    fault_interrupt: Option<FaultInterrupt>,
    functions: OwnFunctions,
    bars: Bars,
    /// As long as there is memory of a process before this one, of which nobody knows yet what is in use.
    heir: Option<Heir>,
    start: time::Instant,
}

/// What a process needs that was handed the memory of another and may not be able to adopt it.
pub struct Heir {
    /// An object of its own.
    pub own: MemoryObject,
    /// The keeper, to be told.
    pub keeper: File,
}

/// Why the platform cannot be had.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The memory scheme refused.
    #[error("cannot open the memory scheme (is this uid 0?): {0}")]
    Memory(libredox::error::Error),
    /// Not even a few frames.
    #[error("there is no memory for the IOMMU's tables")]
    OutOfMemory,
    /// The rand scheme refused.
    #[error("cannot open /scheme/rand: {0}")]
    Random(std::io::Error),
    /// The firmware's tables cannot be read.
    #[error("{0}: is acpid running?")]
    Acpi(PlatformError),
}

impl Redox {
    /// Opens every scheme that the platform needs except acpi, of which it reads one table: start the
    /// daemon after acpid. All memory that hardware may reach goes to this object. An heir takes over what is in it already.
    pub fn open(object: MemoryObject, heir: Option<Heir>) -> Result<Self, OpenError> {
        let memory = Rc::new(Memory::open(object).map_err(OpenError::Memory)?);
        let mut redox = Self {
            tables: TableArena::new(memory.clone()),
            runs: RunArena::new(memory.clone()),
            registers: RegisterWindows::new(memory.clone()),
            memory,
            config: MappedConfigSpace::find().map_err(OpenError::Acpi)?,
            random: Random::open().map_err(OpenError::Random)?,
            fault_interrupt: None,
            functions: OwnFunctions::default(),
            bars: Bars::default(),
            heir,
            start: time::Instant::now(),
        };
        if redox.heir.is_some() {
            match redox.memory.notes() {
                Ok(notes) => redox.bars = Bars::read(notes.words()),
                Err(error) => log::line(format_args!("no registers are known: {error}")),
            }
            if !redox.inherit() {
                redox.give_up();
            }
        }
        if redox.heir.is_none() {
            redox.tables.begin().ok_or(OpenError::OutOfMemory)?;
        }
        Ok(redox)
    }

    /// Finds what a process before this one left: whether all of it can be used.
    fn inherit(&mut self) -> bool {
        let all = match self.memory.inherit() {
            Ok(all) => all,
            Err(error) => {
                log::line(format_args!("what the one before left cannot be used: {error}"));
                return false;
            }
        };
        let mut refused = Vec::new();
        for left in all {
            match left.region {
                Region::Header | Region::Tables => refused.extend(self.tables.inherit(left).err()),
                Region::Runs => self.runs.inherit(left),
            }
        }
        let is_whole = refused.is_empty();
        refused.into_iter().for_each(|left: Left| left.chunk.leave());
        is_whole && self.tables.has_header()
    }

    /// Leaves to the keeper what a process before this one left. What is taken from now on goes to an object of this one's own.
    fn give_up(&mut self) {
        let Some(Heir { own, mut keeper }) = self.heir.take() else { return };
        self.tables.set_aside();
        self.runs.set_aside();
        // A keeper that is gone holds nothing.
        let _ = keeper.write_all(&[Report::SetAside as u8]);
        self.memory.replace_object(own);
        self.note_bars();
    }

    /// Writes down for a successor where registers are.
    fn note_bars(&self) {
        match self.memory.notes() {
            Ok(notes) => self.bars.write(notes.words()),
            Err(error) => {
                log::line(format_args!("a successor will know of no registers: {error}"));
            }
        }
    }

    /// Asks pcid where the registers of these functions are, and how far they go: see [`bars`](super::bars). Only before
    /// any of them has a driver. Of those that somebody has, and of bridges, nothing is learnt.
    pub fn learn_bars(&mut self, functions: impl Iterator<Item = PciAddress>) {
        for function in functions {
            if let Err(error) = self.learn_bars_of(function) {
                log::line(format_args!("the registers of {function} are unknown: {error}"));
            }
        }
        self.note_bars();
    }

    fn learn_bars_of(&mut self, function: PciAddress) -> Result<(), pcid_channel::Error> {
        let path = format!("/scheme/pci/{}/channel", function.path_name());
        let command = self.config_read(function, COMMAND) & COMMAND_BITS;
        let mut channel = match File::options().read(true).write(true).open(path) {
            Ok(channel) => channel,
            // No function with BARs, or somebody's, as iommud's own are.
            Err(error) if matches!(error.raw_os_error(), Some(ENOENT | ENOLCK)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let learnt = self.bars.learn(function, &mut channel);
        // While the channel is open, nobody else changes it.
        self.config_write(function, COMMAND, command);
        learnt
    }

    /// The interrupt by which units say that they have faults, if they were given one.
    pub fn fault_interrupt(&self) -> Option<&FaultInterrupt> {
        self.fault_interrupt.as_ref()
    }

    /// The same, to acknowledge it.
    pub fn fault_interrupt_mut(&mut self) -> Option<&mut FaultInterrupt> {
        self.fault_interrupt.as_mut()
    }

    /// Where a run is in this process: what a client's `mmap` of it is answered with, after checking that
    /// offset and length lie in the run, for the kernel maps whatever follows.
    pub fn run_address(&self, run: RunId) -> Option<CpuAddr> {
        self.runs.address(run)
    }

    /// Makes a run of memory that a client supplies: `bytes` at `address` in what it sent.
    ///
    /// # Errors
    ///
    /// [`ForeignError`]; what was sent is as it was then.
    pub fn take_over(
        &mut self,
        sent: &Fd,
        address: u64,
        bytes: u64,
    ) -> Result<RunId, ForeignError> {
        self.runs.take_over(sent, address, bytes)
    }

    /// Gives such a run back that no device has ever reached.
    pub fn give_back(&mut self, run: RunId, sent: &Fd, address: u64) {
        self.runs.give_back(run, sent, address);
    }
}

delegate!(Redox, TableFrames, tables);
delegate!(Redox, BufferRuns, runs);
delegate!(Redox, Registers, registers);

impl ConfigSpace for Redox {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        match self.config.dword(&mut self.registers, function, offset) {
            Some((window, at)) => self.registers.read32(window, at),
            None => u32::MAX,
        }
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        if let Some((window, at)) = self.config.dword(&mut self.registers, function, offset) {
            self.registers.write32(window, at, value);
        }
    }
}

impl Platform for Redox {
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        read_table(signature)
    }

    fn now(&self) -> Instant {
        let nanoseconds = self.start.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn entropy(&mut self) -> [u8; 16] {
        self.random.bits()
    }

    /// The kernel tells how much memory there is and not where. What a PC's devices hide of it below 4 GiB comes
    /// after the rest, so that all of it lies below this end; devices' registers lie there, too.
    fn memory(&mut self) -> Vec<Segment> {
        let Ok(total) = self.memory.total() else { return Vec::new() };
        let bytes = total.saturating_add(LOW_MEMORY).next_multiple_of(LARGEST_PAGE);
        vec![Segment { start: PhysAddr::new(0), bytes }]
    }

    fn fault_message(&mut self) -> Option<MsiMessage> {
        if self.fault_interrupt.is_none() {
            match FaultInterrupt::take() {
                Ok(taken) => self.fault_interrupt = taken,
                Err(error) => log::line(format_args!("no interrupt for faults: {error}")),
            }
        }
        self.fault_interrupt.as_ref().map(FaultInterrupt::message)
    }

    fn claim_function(&mut self, function: PciAddress) -> bool {
        let claimed = self.functions.claim(function);
        if let Err(error) = &claimed {
            log::line(format_args!("{function} is somebody else's: {error}"));
        }
        claimed.is_ok()
    }

    fn bar(&mut self, function: PciAddress, number: u8) -> Option<Segment> {
        self.bars.get(function, number)
    }

    /// The kernel knows: it maps no memory as registers.
    fn is_memory(&mut self, place: Segment) -> bool {
        let bytes = usize::try_from(place.bytes);
        bytes.map_or(true, |bytes| self.memory.registers(place.start, bytes).is_err())
    }

    fn arenas(&self) -> Vec<Segment> {
        self.tables.chunks().chain(self.runs.places()).collect()
    }

    arenas_of_tables_and_runs!();

    fn inherited(&self) -> bool {
        self.heir.is_some()
    }

    fn settle_inherited(&mut self) {
        self.heir = None;
        self.tables.settle();
        self.runs.settle();
    }

    fn set_aside_inherited(&mut self) {
        self.give_up();
        if self.tables.begin().is_none() {
            log::line(OpenError::OutOfMemory);
        }
    }
}
