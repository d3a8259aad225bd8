//! A machine with one device behind one VT-d unit, which does at once what it is asked, or when it is told to.

use std::sync::atomic::Ordering;

use dma_types::{PAGE_SIZE, PciAddress, PhysAddr};
use iommu_engine::platform::{
    BufferRuns, ConfigSpace, ContiguityError, Instant, Platform, PlatformError, RegisterWindow,
    Registers, RunId, Segment, TableFrames,
};
use iommu_engine::{Engine, delegate};

use super::frames::Frames;

/// Where the unit's registers are.
const UNIT: u64 = 0xfed9_0000;

/// Where memory for buffers starts.
const BUFFERS: u64 = 0x1_0000_0000;

/// What a unit of QEMU's says of itself: 39 and 48 bits, pages of 2 MiB and 1 GiB, page-selective invalidation, and a
/// queue. It snoops.
const VERSION: u64 = 0x10;
const CAPABILITY: u64 = 0x00d2_008c_222f_0606;
const EXTENDED: u64 = 0x00f0_0f5b;

/// Registers by their offsets (VT-d 11.4).
mod register {
    pub(super) const VERSION: usize = 0x00;
    pub(super) const CAPABILITY: usize = 0x08;
    pub(super) const EXTENDED: usize = 0x10;
    pub(super) const COMMAND: usize = 0x18;
    pub(super) const STATUS: usize = 0x1c;
    pub(super) const QUEUE_HEAD: usize = 0x80;
    pub(super) const QUEUE_TAIL: usize = 0x88;
    pub(super) const QUEUE_ADDRESS: usize = 0x90;
    pub(super) const END: usize = 0x1000;
}

/// The commands that are a moment's, and stand in the status for nothing that is on (11.4.4.1).
const ONE_SHOT: u32 = 1 << 30 | 1 << 29 | 1 << 27 | 1 << 24;
const SET_ROOT_TABLE: u32 = 1 << 30;

/// A wait that writes its status (6.5.2.9).
const WAIT: u64 = 0x5;
const KIND: u64 = 0xf;

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Frames for tables.
    pub(crate) frames: Frames,
    runs: Runs,
    unit: Unit,
}

#[derive(Debug)]
struct Runs {
    runs: Vec<Vec<Segment>>,
    next: u64,
    /// Whether no two pages of a run lie side by side.
    are_apart: bool,
}

#[derive(Debug)]
struct Unit {
    registers: Vec<u32>,
    /// Whether it does something only when it is [told to](Machine::catch_up).
    is_slow: bool,
}

/// The only device.
pub(crate) fn device() -> PciAddress {
    PciAddress::from_source(0, dma_types::SourceId::new(0x0010))
}

impl Machine {
    /// A machine with so many frames for tables.
    pub(crate) fn new(frames: usize) -> Self {
        let mut unit = Unit { registers: vec![0; register::END / 4], is_slow: false };
        unit.set(register::VERSION, VERSION);
        unit.set(register::CAPABILITY, CAPABILITY);
        unit.set(register::EXTENDED, EXTENDED);
        let runs = Runs { runs: Vec::new(), next: BUFFERS, are_apart: false };
        Self { frames: Frames::new(frames), runs, unit }
    }

    /// A run of single pages, no two of which touch.
    #[allow(dead_code, reason = "not every bench has memory in pieces")]
    pub(crate) fn alloc_pages(&mut self, pages: u64) -> RunId {
        let segments = (0..pages).map(|_| {
            let start = PhysAddr::new(self.runs.next + PAGE_SIZE);
            self.runs.next = start.get() + PAGE_SIZE;
            Segment { start, bytes: PAGE_SIZE }
        });
        let segments = segments.collect();
        self.runs.runs.push(segments);
        RunId(self.runs.runs.len() as u64 - 1)
    }

    /// An engine on it, whose unit translates.
    pub(crate) fn start(&mut self) -> Engine {
        let mut engine = Engine::start(self, Default::default()).expect("a machine with an IOMMU");
        for _ in 0..100 {
            engine.poll(self);
        }
        assert!(engine.is_settled() && !engine.units()[0].unit.as_ref().unwrap().has_failed());
        engine
    }

    /// The same machine, where no two pages of a run lie side by side.
    #[allow(dead_code, reason = "not every bench has memory in pieces")]
    pub(crate) fn with_pages_apart(mut self) -> Self {
        self.runs.are_apart = true;
        self
    }

    /// Has the unit do nothing at once any more.
    #[allow(dead_code, reason = "not every bench has a slow unit")]
    pub(crate) fn slow_down(&mut self) {
        self.unit.is_slow = true;
    }

    /// Has the unit do what it was asked.
    #[allow(dead_code, reason = "not every bench has a slow unit")]
    pub(crate) fn catch_up(&mut self) {
        let head = self.unit_works();
        self.unit.set(register::QUEUE_HEAD, head);
    }

    /// Does what stands in the queue. Instructions in here are hardware's, and are not counted.
    #[inline(never)]
    fn unit_works(&mut self) -> u64 {
        let Self { frames, unit, .. } = self;
        let queue = PhysAddr::new(unit.get(register::QUEUE_ADDRESS)).page();
        let tail = unit.get(register::QUEUE_TAIL);
        let mut head = unit.get(register::QUEUE_HEAD);
        while head != tail {
            let table = frames.table(queue).expect("a queue");
            let word = head as usize / 8;
            let low = table[word].load(Ordering::Relaxed);
            if low & KIND == WAIT {
                let place = PhysAddr::new(table[word + 1].load(Ordering::Relaxed));
                let status = frames.table(place.page()).expect("a status frame");
                let word = (place.get() % PAGE_SIZE) as usize / 8;
                status[word].store(low >> 32, Ordering::Relaxed);
            }
            head = (head + 16) % PAGE_SIZE;
        }
        head
    }
}

impl Unit {
    fn get(&self, offset: usize) -> u64 {
        u64::from(self.registers[offset / 4]) | u64::from(self.registers[offset / 4 + 1]) << 32
    }

    fn set(&mut self, offset: usize, value: u64) {
        self.registers[offset / 4] = value as u32;
        self.registers[offset / 4 + 1] = (value >> 32) as u32;
    }
}

impl Registers for Machine {
    fn map_registers(&mut self, _: PhysAddr, _: usize) -> Result<RegisterWindow, PlatformError> {
        Ok(RegisterWindow(0))
    }

    fn read32(&mut self, _: RegisterWindow, offset: usize) -> u32 {
        self.unit.registers[offset / 4]
    }

    fn write32(&mut self, _: RegisterWindow, offset: usize, value: u32) {
        // The rest is cleared by writing ones, or nobody reads it.
        if offset == register::COMMAND {
            let status = &mut self.unit.registers[register::STATUS / 4];
            *status = value & !ONE_SHOT | (*status | value) & SET_ROOT_TABLE;
        }
    }

    fn read64(&mut self, _: RegisterWindow, offset: usize) -> u64 {
        self.unit.get(offset)
    }

    fn write64(&mut self, _: RegisterWindow, offset: usize, value: u64) {
        self.unit.set(offset, value);
        if offset == register::QUEUE_TAIL && !self.unit.is_slow {
            // Not the last thing that is done here, for callgrind is to see a call.
            let head = self.unit_works();
            self.unit.set(register::QUEUE_HEAD, head);
        }
    }
}

impl ConfigSpace for Machine {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        match (function == device(), offset) {
            (true, 0) => 0x11e8_1234,
            (true, 8) => 0x00ff_0010,
            (true, _) => 0,
            (false, _) => u32::MAX,
        }
    }

    fn config_write(&mut self, _: PciAddress, _: u16, _: u32) {}
}

impl BufferRuns for Runs {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        // Apart, and aligned as large pages want it.
        let start = PhysAddr::new(self.next.next_multiple_of(2 << 20));
        let page = |number| Segment {
            start: PhysAddr::new(start.get() + 2 * number * PAGE_SIZE),
            bytes: PAGE_SIZE,
        };
        self.next = start.get() + 2 * bytes;
        self.runs.push(match self.are_apart {
            false => vec![Segment { start, bytes }],
            true => (0..bytes / PAGE_SIZE).map(page).collect(),
        });
        Some(RunId(self.runs.len() as u64 - 1))
    }

    fn alloc_contiguous_run(&mut self, bytes: u64, _: PhysAddr) -> Result<RunId, ContiguityError> {
        self.alloc_run(bytes).ok_or(ContiguityError::OutOfMemory)
    }

    fn longest_piece(&self) -> u64 {
        1 << 30
    }

    fn free_run(&mut self, _: RunId) {}

    #[inline]
    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(run.0 as usize).map_or(&[], Vec::as_slice)
    }
}

delegate!(Machine, TableFrames, frames);
delegate!(Machine, BufferRuns, runs);

impl Platform for Machine {
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        Ok((&signature == b"DMAR").then(dmar))
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(0)
    }

    fn entropy(&mut self) -> [u8; 16] {
        [0; 16]
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
}

/// A DMAR table (VT-d 8.1) of one unit that covers everything (8.3).
fn dmar() -> Vec<u8> {
    let mut table = b"DMAR".to_vec();
    table.extend([0; 4]);
    table.extend([1, 0]);
    table.extend([0; 26]);
    // Addresses of 48 bits, no flags.
    table.extend([47, 0]);
    table.extend([0; 10]);
    // DRHD, 16 bytes, INCLUDE_PCI_ALL, segment 0.
    table.extend([0, 0, 16, 0, 1, 0, 0, 0]);
    table.extend(UNIT.to_le_bytes());
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    table
}
