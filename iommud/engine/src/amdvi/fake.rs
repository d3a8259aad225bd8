//! A unit for tests, with what it needs of a machine: it takes commands and logs events as the registers say,
//! and keeps what it did. It caches nothing.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{PciAddress, PhysAddr};

use super::capability::tests::FakeConfig;
use super::registers::{REGISTER_BYTES, RegisterFile};
use super::spec::UnitSpec;
use crate::acpi::ivrs::unit::IvhdFlags;
use crate::fakes::FakeFrames;
use crate::platform::{
    BufferRuns, ConfigSpace, ContiguityError, Instant, MsiMessage, Platform, PlatformError,
    RegisterWindow, Registers, RunId, Segment, TableFrame, TableFrames,
};

const CONTROL: usize = 0x18;
const EVENT_HEAD: usize = 0x2010;
const EVENT_TAIL: usize = 0x2018;
const COMMAND_HEAD: usize = 0x2000;
const COMMAND_TAIL: usize = 0x2008;
const STATUS: usize = 0x2020;

const RING_BYTES: u64 = 0x1000;
const TRANSLATION: u64 = 1;
const EVENT_LOG: u64 = 1 << 2;
const COMMAND_BUFFER: u64 = 1 << 12;
const OVERFLOW: u64 = 1;
const EVENT_LOG_INTERRUPT: u64 = 1 << 1;
const EVENT_LOG_RUNS: u64 = 1 << 3;
const COMMAND_BUFFER_RUNS: u64 = 1 << 4;

/// Where the unit's registers are.
pub(super) const BASE: PhysAddr = PhysAddr::new(0xfed8_0000);

/// What firmware says of the unit.
pub(super) fn spec() -> UnitSpec {
    UnitSpec {
        base: BASE,
        segment: 0,
        function: PciAddress::new(0, 0, 1, 0).unwrap(),
        capability_offset: 0x40,
        flags: IvhdFlags::new(),
        efr_image: None,
        settings: Vec::new(),
    }
}

/// Whose the unit's function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Engine,
    SomebodyElse,
}

/// A machine with one unit.
pub(super) struct FakeMachine {
    pub(super) frames: FakeFrames,
    pub(super) config: FakeConfig,
    pub(super) words: Vec<u64>,
    /// Every write: offset and value.
    pub(super) writes: Vec<(usize, u64)>,
    /// The commands that were carried out, but for marks of the ring.
    pub(super) commands: Vec<[u64; 2]>,
    /// The unit carries out so many more commands, and then waits.
    pub(super) patience: usize,
    /// The unit stops at the next command with this code.
    pub(super) stop_at: Option<u64>,
    /// Rings stop as soon as they are told to, or never.
    pub(super) stops: bool,
    pub(super) now: u64,
    /// The message that wakes somebody, if there is one.
    pub(super) message: Option<MsiMessage>,
    /// Whose function the unit's is: nobody's, ours, or somebody else's.
    pub(super) owner: Owner,
    /// EventLogInt stays so many times though it is cleared.
    pub(super) sticks: usize,
    /// Its command buffer has stopped at an error, and runs again after a change from off to on.
    pub(super) stopped: bool,
}

impl FakeMachine {
    pub(super) fn new() -> Self {
        let mut machine = Self {
            frames: FakeFrames::new(1100),
            config: FakeConfig::new(BASE.get(), true),
            words: alloc::vec![0; REGISTER_BYTES / 8],
            writes: Vec::new(),
            commands: Vec::new(),
            patience: usize::MAX,
            stop_at: None,
            stops: true,
            now: 0,
            stopped: false,
            message: None,
            owner: Owner::Nobody,
            sticks: 0,
        };
        machine.words[0x30 / 8] = 0x29d3;
        machine
    }

    /// The registers of its unit.
    pub(super) fn registers() -> RegisterFile {
        RegisterFile::new(RegisterWindow(0))
    }

    /// The codes of the commands that were carried out since the last time.
    pub(super) fn codes(&mut self) -> Vec<u64> {
        self.commands.drain(..).map(|[low, _]| low >> 60).collect()
    }

    /// The unit carries out what is in its command buffer.
    pub(super) fn run(&mut self) {
        while self.word(STATUS) & COMMAND_BUFFER_RUNS != 0
            && self.patience > 0
            && self.word(COMMAND_HEAD) != self.place(COMMAND_TAIL)
        {
            let ring = PhysAddr::new(self.word(0x08) & 0x000f_ffff_ffff_f000);
            let head = self.place(COMMAND_HEAD);
            let Some(table) = self.frames.table(ring) else { return };
            let command = [0, 1].map(|n| table[head as usize / 8 + n].load(Ordering::Relaxed));
            if self.stop_at == Some(command[0] >> 60) {
                self.stop_at = None;
                self.stopped = true;
                self.words[STATUS / 8] &= !COMMAND_BUFFER_RUNS;
                self.log([5 << 60, ring.get() + head]);
                return;
            }
            if command[0] >> 60 == 1 && command[0] & 1 != 0 {
                self.store(PhysAddr::new(command[0] & 0x000f_ffff_ffff_fff8), command[1]);
            }
            let is_mark = command[0] >> 60 == 1 && command[0] & 0xff8 == 8;
            if !is_mark {
                self.commands.push(command);
            }
            self.patience = self.patience.saturating_sub(1);
            self.words[COMMAND_HEAD / 8] = (head + 16) % RING_BYTES;
        }
    }

    /// The unit logs an event.
    pub(super) fn log(&mut self, event: [u64; 2]) {
        let (head, tail) = (self.word(EVENT_HEAD), self.place(EVENT_TAIL));
        if self.word(STATUS) & EVENT_LOG_RUNS == 0 {
            return;
        }
        if (tail + 16) % RING_BYTES == head {
            self.words[STATUS / 8] |= OVERFLOW;
            self.words[STATUS / 8] &= !EVENT_LOG_RUNS;
            return;
        }
        let at = (self.word(0x10) & 0x000f_ffff_ffff_f000) + tail;
        self.store(PhysAddr::new(at), event[0]);
        self.store(PhysAddr::new(at + 8), event[1]);
        self.words[EVENT_TAIL / 8] = (tail + 16) % RING_BYTES;
        self.words[STATUS / 8] |= EVENT_LOG_INTERRUPT;
    }

    /// Writes to memory as a unit does.
    pub(super) fn store(&self, at: PhysAddr, value: u64) {
        if let Some(table) = self.frames.table(at.page()) {
            table[at.page_offset() as usize / 8].store(value, Ordering::Relaxed);
        }
    }

    /// A place in a ring, in bytes, whatever the register holds.
    fn place(&self, offset: usize) -> u64 {
        self.word(offset) & (RING_BYTES - 16)
    }

    pub(super) fn word(&self, offset: usize) -> u64 {
        self.words[offset / 8]
    }

    fn set_control(&mut self, control: u64) {
        let before = self.word(CONTROL);
        self.words[CONTROL / 8] = control;
        if before & COMMAND_BUFFER == 0 && control & COMMAND_BUFFER != 0 {
            self.stopped = false;
        }
        let on = |bit: u64| control & TRANSLATION != 0 && control & bit != 0;
        let overflow = self.word(STATUS) & OVERFLOW != 0;
        let rings = [
            (EVENT_LOG_RUNS, on(EVENT_LOG) && !overflow),
            (COMMAND_BUFFER_RUNS, on(COMMAND_BUFFER) && !self.stopped),
        ];
        for (bit, runs) in rings {
            if runs {
                self.words[STATUS / 8] |= bit;
            } else if self.stops {
                self.words[STATUS / 8] &= !bit;
            }
        }
    }
}

impl Registers for FakeMachine {
    fn map_registers(&mut self, _: PhysAddr, _: usize) -> Result<RegisterWindow, PlatformError> {
        Ok(RegisterWindow(0))
    }

    fn read32(&mut self, _: RegisterWindow, _: usize) -> u32 {
        unreachable!("every register has 64 bits")
    }

    fn write32(&mut self, _: RegisterWindow, _: usize, _: u32) {
        unreachable!("every register has 64 bits")
    }

    fn read64(&mut self, _: RegisterWindow, offset: usize) -> u64 {
        self.word(offset)
    }

    fn write64(&mut self, _: RegisterWindow, offset: usize, value: u64) {
        self.writes.push((offset, value));
        match offset {
            CONTROL => self.set_control(value),
            STATUS => {
                let stays = value & EVENT_LOG_INTERRUPT != 0 && self.sticks > 0;
                self.sticks -= usize::from(stays);
                let kept = if stays { EVENT_LOG_INTERRUPT } else { 0 };
                self.words[STATUS / 8] &= !(value & 0b111 & !kept);
            }
            _ => self.words[offset / 8] = value,
        }
        self.run();
    }
}

impl TableFrames for FakeMachine {
    fn header_frame(&self) -> PhysAddr {
        self.frames.header_frame()
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        self.frames.alloc_frame()
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        self.frames.free_frame(frame);
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        self.frames.alloc_table(frames)
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.frames.table(frame)
    }

    fn flush_entries(&self, _: PhysAddr, _: core::ops::Range<usize>) {
        unreachable!("AMD's units snoop")
    }
}

impl BufferRuns for FakeMachine {
    fn alloc_run(&mut self, _: u64) -> Option<RunId> {
        None
    }

    fn alloc_contiguous_run(&mut self, _: u64, _: PhysAddr) -> Result<RunId, ContiguityError> {
        Err(ContiguityError::OutOfMemory)
    }

    fn longest_piece(&self) -> u64 {
        0
    }

    fn free_run(&mut self, _: RunId) {}

    fn segments(&self, _: RunId) -> &[Segment] {
        &[]
    }
}

impl ConfigSpace for FakeMachine {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        self.config.config_read(function, offset)
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        let of_messages = (0x60..0x80).contains(&offset) || offset == 4;
        assert!(!of_messages || self.owner == Owner::Engine, "it is not ours");
        self.config.config_write(function, offset, value);
    }
}

impl Platform for FakeMachine {
    fn fault_message(&mut self) -> Option<MsiMessage> {
        self.message
    }

    fn claim_function(&mut self, function: PciAddress) -> bool {
        assert_eq!(function, spec().function);
        if self.owner == Owner::Nobody {
            self.owner = Owner::Engine;
        }
        self.owner == Owner::Engine
    }

    fn acpi_table(&mut self, _: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        Ok(None)
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    fn memory(&mut self) -> Vec<Segment> {
        Vec::new()
    }

    fn arenas(&self) -> Vec<Segment> {
        Vec::new()
    }

    fn arena_changes(&self) -> u64 {
        0
    }

    fn entropy(&mut self) -> [u8; 16] {
        [0; 16]
    }
}
