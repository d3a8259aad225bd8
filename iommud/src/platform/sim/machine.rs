//! The whole platform.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dma_types::{PAGE_SIZE, PciAddress, PhysAddr};
use iommu_engine::platform::{
    BufferRuns, ConfigSpace, ContiguityError, Instant, MsiMessage, Platform, PlatformError,
    RegisterWindow, Registers, RunId, Segment, TableFrame, TableFrames,
};
use iommu_engine::segments::cut;
use iommu_sim::{Machine, MachineConfig};

use super::clock::Clock;
use super::memory::{ARENA, ARENA_BYTES, POISON, SimMemory};
use super::pages::{LONGEST_PIECE, PageBook};
use super::reserved;
use super::shared::SharedMemory;

/// Where the machine says that it has memory, by start and length: below the devices of the first 4 GiB, and
/// above. There is less, and devices that are let reach for the rest find nothing.
const MEMORY: [(u64, u64); 2] = [(0x1000, 0x7fff_f000), (0x1_0000_0000, 0x1f_0000_0000)];

/// How many bytes of runs there may be at a time, unless a test says otherwise.
const RUN_BYTES: u64 = 256 << 20;

/// What is given out, and what went wrong with it: for leak checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Table frames given out, the header not counted.
    pub live_frames: usize,
    /// Buffer runs given out. A divisible one is counted by its parts.
    pub live_runs: usize,
    /// Their length together in bytes.
    pub live_run_bytes: u64,
    /// How often units or devices have reached for a frame or page that was free.
    pub freed_accesses: u64,
    /// How often something was freed that was not given out.
    pub bad_frees: u64,
}

/// A run: its memory, and where that is.
#[derive(Debug)]
struct Run {
    memory: Arc<SharedMemory>,
    segments: Vec<Segment>,
    bytes: u64,
    kind: Kind,
}

/// What a run's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its own.
    Plain,
    /// Its own, to be given out in parts.
    Whole,
    /// A part of another's.
    Part,
}

/// A window of registers.
#[derive(Clone, Copy, Debug)]
struct Window {
    base: u64,
    bytes: usize,
}

/// The simulated machine as a platform. It can be moved between threads and is used by one at a time.
#[derive(Debug)]
pub struct SimPlatform {
    memory: Arc<SimMemory>,
    /// In a cell, so that asking for the time lets it pass.
    machine: RefCell<Machine<Arc<SimMemory>>>,
    runs: BTreeMap<RunId, Run>,
    next_run: u64,
    run_bytes_limit: u64,
    pages: PageBook,
    windows: Vec<Window>,
    clock: Clock,
    bad_frees: u64,
    arena_changes: u64,
    /// The memory that it says there is.
    told: Vec<(u64, u64)>,
    /// The firmware's table, where it is not what the machine is.
    table: Option<Vec<u8>>,
    fault_message: Option<MsiMessage>,
    /// What devices are to reach for in between, one for each access to registers.
    between: VecDeque<Option<(PciAddress, u64)>>,
}

impl SimPlatform {
    /// A platform over this machine, in real time. Fails when there is no memory for the table arena.
    pub fn new(config: MachineConfig) -> io::Result<Self> {
        Self::with_clock(config, Clock::real())
    }

    /// The same, with time that passes only by [`advance_time`](Self::advance_time).
    pub fn with_manual_clock(config: MachineConfig) -> io::Result<Self> {
        Self::with_clock(config, Clock::manual())
    }

    fn with_clock(config: MachineConfig, clock: Clock) -> io::Result<Self> {
        let reserved: Vec<_> = config.reserved.iter().filter_map(reserved::memory_of).collect();
        let memory = Arc::new(SimMemory::new(&reserved)?);
        Ok(Self {
            machine: RefCell::new(Machine::new(config, memory.clone())),
            memory,
            runs: BTreeMap::new(),
            next_run: 1,
            run_bytes_limit: RUN_BYTES,
            pages: PageBook::default(),
            windows: Vec::new(),
            clock,
            bad_frees: 0,
            arena_changes: 0,
            told: MEMORY.to_vec(),
            table: None,
            fault_message: None,
            between: VecDeque::new(),
        })
    }

    /// Says that memory is here, by start and length, as systems do that do not know better.
    pub fn tell_memory(&mut self, memory: &[(u64, u64)]) {
        self.told = memory.to_vec();
    }

    /// The machine, to look at.
    pub fn machine(&self) -> Ref<'_, Machine<Arc<SimMemory>>> {
        self.machine.borrow()
    }

    /// The machine, for DMA and for making its units slow, stuck or dead.
    pub fn machine_mut(&self) -> RefMut<'_, Machine<Arc<SimMemory>>> {
        self.machine.borrow_mut()
    }

    /// The descriptor of a run's memory: what a client is given. It is exactly as long as the run and
    /// sealed to stay so.
    pub fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        self.runs.get(&run).and_then(|run| run.memory.fd())
    }

    /// A run's memory, in its order, as a client sees it that has mapped it.
    pub fn run_words(&self, run: RunId) -> Option<&[AtomicU64]> {
        self.runs.get(&run).map(|run| run.memory.words())
    }

    /// What is given out, and what went wrong with it.
    pub fn usage(&self) -> Usage {
        Usage {
            live_frames: self.memory.frames().count(),
            live_runs: self.runs.values().filter(|run| run.kind != Kind::Whole).count(),
            live_run_bytes: self.run_bytes(Kind::Plain) + self.run_bytes(Kind::Part),
            freed_accesses: self.memory.freed_accesses(),
            bad_frees: self.bad_frees,
        }
    }

    /// Where the windows of registers are that have been mapped: nobody has touched any others.
    pub fn mapped_registers(&self) -> impl Iterator<Item = PhysAddr> {
        self.windows.iter().map(|window| PhysAddr::new(window.base))
    }

    /// From now on the firmware's only table is this one, which need not be true of the machine. Its first four
    /// bytes say which it is.
    pub fn replace_table(&mut self, table: Vec<u8>) {
        self.table = Some(table);
    }

    /// Has units say by this message that they have faults. Without, they are polled: the machine has no processor
    /// to interrupt, and the messages are the [machine's](Machine::take_interrupts) to look at.
    pub fn set_fault_message(&mut self, message: MsiMessage) {
        self.fault_message = Some(message);
    }

    /// Lets a device write to these I/O addresses, each just before one of the next accesses to registers, in their
    /// order: what hardware does while it is looked at.
    pub fn write_between(
        &mut self,
        device: PciAddress,
        addresses: impl IntoIterator<Item = Option<u64>>,
    ) {
        let addresses = addresses.into_iter();
        self.between = addresses.map(|address| address.map(|it| (device, it))).collect();
    }

    /// How many accesses to registers there are still such writes for.
    pub fn writes_between(&self) -> usize {
        self.between.len()
    }

    /// From now on there is memory for no more than this many table frames at a time.
    pub fn limit_frames(&mut self, frames: usize) {
        self.memory.frames().limit(frames);
    }

    /// From now on there is this many times 4 MiB below 4 GiB.
    pub fn limit_low_pieces(&mut self, pieces: u64) {
        self.pages.limit_low(pieces);
    }

    fn run_bytes(&self, kind: Kind) -> u64 {
        self.runs.values().filter(|run| run.kind == kind).map(|run| run.bytes).sum()
    }

    /// From now on there is memory for no more than this many bytes of runs at a time.
    pub fn limit_run_bytes(&mut self, bytes: u64) {
        self.run_bytes_limit = bytes;
    }

    /// Moves the clock forward, and lets everything happen whose time has come.
    pub fn advance_time(&mut self, by: Duration) {
        self.clock.advance(by);
        self.tick();
    }

    /// Lets everything happen whose time has come: transfers of devices, above all. A daemon with nothing
    /// else to do calls it now and then.
    pub fn tick(&mut self) {
        let now = self.clock.now();
        self.machine.get_mut().advance(now);
    }

    /// The address of `size` bytes at `offset` of a window.
    fn register(&mut self, window: RegisterWindow, offset: usize, size: usize) -> Option<u64> {
        self.tick();
        if let Some(Some((device, iova))) = self.between.pop_front() {
            // Its device is not told if it is blocked; the unit tells.
            let _ = self.machine.get_mut().dma_write(device, iova, &[0; 4]);
        }
        let window = self.windows.get(window.0 as usize)?;
        let end = offset.checked_add(size)?;
        (end <= window.bytes).then_some(window.base + offset as u64)
    }

    fn read(&mut self, window: RegisterWindow, offset: usize, size: usize) -> u64 {
        let address = self.register(window, offset, size);
        address.map_or(u64::MAX, |address| self.machine.get_mut().mmio_read(address, size))
    }

    fn write(&mut self, window: RegisterWindow, offset: usize, size: usize, value: u64) {
        if let Some(address) = self.register(window, offset, size) {
            self.machine.get_mut().mmio_write(address, size, value);
        }
    }
}

impl TableFrames for SimPlatform {
    fn header_frame(&self) -> PhysAddr {
        PhysAddr::new(ARENA)
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let number = self.memory.frames().take()?;
        fill(self.memory.frame(number)?, 0);
        Some(PhysAddr::new(ARENA + number as u64 * PAGE_SIZE))
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        let first = self.memory.frames().take_run(frames)?;
        for number in first..first + frames {
            fill(self.memory.frame(number)?, 0);
        }
        Some(PhysAddr::new(ARENA + first as u64 * PAGE_SIZE))
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        let number = SimMemory::frame_number(frame);
        match number.filter(|&number| self.memory.frames().put_back(number)) {
            Some(number) => fill(self.memory.frame(number).map_or(&[], |frame| frame), POISON),
            None => self.bad_frees += 1,
        }
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.memory.frame(SimMemory::frame_number(frame)?)
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        let entry = size_of::<u64>() as u64;
        let start = frame.get() + entries.start as u64 * entry;
        self.machine.borrow().flush(start, entries.len() as u64 * entry);
    }
}

impl SimPlatform {
    fn alloc(
        &mut self,
        bytes: u64,
        kind: Kind,
        take: impl FnOnce(&mut PageBook) -> Option<Vec<Segment>>,
    ) -> Result<RunId, ContiguityError> {
        let used = self.run_bytes(Kind::Plain) + self.run_bytes(Kind::Whole);
        let room = self.run_bytes_limit.saturating_sub(used);
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) || bytes > room {
            return Err(ContiguityError::OutOfMemory);
        }
        let memory = SharedMemory::new("iommud-run", bytes);
        let memory = memory.map_err(|_| ContiguityError::OutOfMemory)?;
        let segments = take(&mut self.pages).ok_or(ContiguityError::AboveLimit)?;
        Ok(self.add(memory, segments, bytes, kind))
    }

    /// Makes a run of memory that a client or a driver supplies, in pages of its own.
    pub fn supplied_run(&mut self, memory: SharedMemory) -> RunId {
        let bytes = (memory.words().len() * size_of::<u64>()) as u64;
        let segments = self.pages.take(bytes);
        self.add(memory, segments, bytes, Kind::Plain)
    }

    fn add(
        &mut self,
        memory: SharedMemory,
        segments: Vec<Segment>,
        bytes: u64,
        kind: Kind,
    ) -> RunId {
        let memory = Arc::new(memory);
        self.memory.insert(&segments, &memory);
        let id = RunId(self.next_run);
        self.next_run += 1;
        self.runs.insert(id, Run { memory, segments, bytes, kind });
        self.arena_changes += u64::from(kind != Kind::Part);
        id
    }
}

impl BufferRuns for SimPlatform {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        self.alloc(bytes, Kind::Plain, |pages| Some(pages.take(bytes))).ok()
    }

    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError> {
        if bytes > LONGEST_PIECE {
            return Err(ContiguityError::TooLong);
        }
        self.alloc(bytes, Kind::Plain, |pages| pages.take_piece(bytes, limit))
    }

    fn alloc_divisible_run(&mut self, bytes: u64) -> Option<RunId> {
        self.alloc(bytes, Kind::Whole, |pages| Some(pages.take_divisible(bytes))).ok()
    }

    fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
        let whole = self.runs.get(&whole).filter(|run| run.kind == Kind::Whole)?;
        let mut segments = Vec::new();
        cut(&whole.segments, offset, bytes, &mut segments)?;
        let memory = SharedMemory::new("iommud-run", bytes).ok()?;
        Some(self.add(memory, segments, bytes, Kind::Part))
    }

    fn free_run(&mut self, run: RunId) {
        let Some(run) = self.runs.remove(&run) else {
            self.bad_frees += 1;
            return;
        };
        self.memory.remove(&run.segments);
        if run.kind != Kind::Part {
            self.arena_changes += 1;
            self.pages.put_back(&run.segments);
        }
        if run.memory.is_own() {
            // A client that has kept the descriptor sees this.
            fill(run.memory.words(), POISON);
        }
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}

fn fill(words: &[AtomicU64], value: u64) {
    for word in words {
        word.store(value, Ordering::Relaxed);
    }
}

impl Registers for SimPlatform {
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError> {
        if !self.machine.get_mut().is_mmio(base.get(), bytes as u64) {
            return Err(PlatformError::Registers(base));
        }
        self.windows.push(Window { base: base.get(), bytes });
        Ok(RegisterWindow(self.windows.len() as u32 - 1))
    }

    fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32 {
        self.read(window, offset, 4) as u32
    }

    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
        self.write(window, offset, 4, value.into());
    }

    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
        self.read(window, offset, 8)
    }

    fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64) {
        self.write(window, offset, 8, value);
    }
}

impl ConfigSpace for SimPlatform {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        self.machine.get_mut().config_read(function, offset)
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        self.machine.get_mut().config_write(function, offset, value);
    }
}

impl Platform for SimPlatform {
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        if let Some(table) = &self.table {
            return Ok(table.starts_with(&signature).then(|| table.clone()));
        }
        let machine = self.machine.get_mut();
        let ivrs = machine.ivrs_table();
        Ok(match &signature {
            b"DMAR" if ivrs.is_none() && machine.has_units() => Some(machine.dmar_table()),
            b"IVRS" => ivrs,
            _ => None,
        })
    }

    fn now(&self) -> Instant {
        let now = self.clock.now();
        // While a test holds the machine, time passes for everybody else.
        if let Ok(mut machine) = self.machine.try_borrow_mut() {
            machine.advance(now);
        }
        Instant::from_nanos(now)
    }

    fn entropy(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // The kernel never gives less than 16 bytes; a signal may interrupt it before it has any.
        while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {}
        bytes
    }

    fn fault_message(&mut self) -> Option<MsiMessage> {
        self.fault_message
    }

    fn bar(&mut self, function: PciAddress, number: u8) -> Option<Segment> {
        let (start, bytes) = self.machine.get_mut().assigned_bar(function, number.into())?;
        Some(Segment { start: PhysAddr::new(start), bytes })
    }

    fn memory(&mut self) -> Vec<Segment> {
        self.told
            .iter()
            .map(|&(start, bytes)| Segment { start: PhysAddr::new(start), bytes })
            .collect()
    }

    fn arenas(&self) -> Vec<Segment> {
        let tables = Segment { start: PhysAddr::new(ARENA), bytes: ARENA_BYTES };
        // Parts are in their wholes.
        let runs = self.runs.values().filter(|run| run.kind != Kind::Part);
        let places = runs.flat_map(|run| run.segments.iter().copied());
        core::iter::once(tables).chain(places).collect()
    }

    fn arena_changes(&self) -> u64 {
        self.arena_changes
    }
}
