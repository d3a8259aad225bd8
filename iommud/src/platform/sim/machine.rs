//! The whole platform.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dma_types::{PAGE_SIZE, PciAddress, PhysAddr};
use iommu_engine::delegate;
use iommu_engine::platform::{
    ConfigSpace, Instant, MsiMessage, NotInherited, Platform, PlatformError, RegisterWindow,
    Registers, RunId, RunPlace, Segment, TableFrame, TableFrames,
};
use iommu_sim::{Machine, MachineConfig};

use super::clock::Clock;
use super::memory::{ARENA, ARENA_BYTES, POISON, SimMemory, fill};
use super::reserved;
use super::runs::{MemoryId, Runs};
use super::shared::SharedMemory;

/// Where the machine says that it has memory, by start and length: below the devices of the first 4 GiB, and
/// above. There is less, and devices that are let reach for the rest find nothing.
const MEMORY: [(u64, u64); 2] = [(0x1000, 0x7fff_f000), (0x1_0000_0000, 0x1f_0000_0000)];

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
    runs: Runs,
    windows: Vec<Window>,
    clock: Clock,
    /// How often a frame was freed that was not given out.
    bad_frees: u64,
    register_reads: u64,
    /// The memory that it says there is.
    told: Vec<(u64, u64)>,
    /// The firmware's table, where it is not what the machine is.
    table: Option<Vec<u8>>,
    fault_message: Option<MsiMessage>,
    /// What devices are to reach for in between, one for each access to registers.
    between: VecDeque<Option<(PciAddress, u64)>>,
    /// What devices reach for before each write to a register.
    always: Vec<(PciAddress, u64)>,
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
            runs: Runs::new(memory.clone()),
            memory,
            windows: Vec::new(),
            clock,
            bad_frees: 0,
            register_reads: 0,
            told: MEMORY.to_vec(),
            table: None,
            fault_message: None,
            between: VecDeque::new(),
            always: Vec::new(),
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
        self.runs.fd(run)
    }

    /// A run's memory, in its order, as a client sees it that has mapped it.
    pub fn run_words(&self, run: RunId) -> Option<&[AtomicU64]> {
        self.runs.words(run)
    }

    /// What is given out, and what went wrong with it.
    pub fn usage(&self) -> Usage {
        Usage {
            live_frames: self.memory.frames().count(),
            live_runs: self.runs.live(),
            live_run_bytes: self.runs.live_bytes(),
            freed_accesses: self.memory.freed_accesses(),
            bad_frees: self.bad_frees + self.runs.bad_frees(),
        }
    }

    /// How often registers were read.
    pub fn register_reads(&self) -> u64 {
        self.register_reads
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

    /// From now on devices write to these I/O addresses before each write to a register, whether they are bus masters or
    /// not, so that units keep whatever is there at any time.
    pub fn write_always(&mut self, all: Vec<(PciAddress, u64)>) {
        self.always = all;
    }

    /// The memory that a page is of now, also if a predecessor had it and nobody has decided about it.
    pub fn memory_at(&self, page: PhysAddr) -> Option<MemoryId> {
        self.runs.memory_at(page)
    }

    /// How many accesses to registers there are still such writes for.
    pub fn writes_between(&self) -> usize {
        self.between.len()
    }

    /// From now on frames and pages that were freed first are given out first: each is free for as long as may be, so that
    /// who reaches for it too late finds nobody in its place, and is [counted](Usage::freed_accesses). Without, the last
    /// are first, so that too early a use finds somebody.
    pub fn reuse_late(&mut self) {
        self.memory.frames().reuse_late();
        self.runs.reuse_late();
    }

    /// How many table frames are free and not as they were left: full of poison, or of zeroes, as those are that nobody
    /// ever had. Somebody has written to them, iommud itself perhaps.
    pub fn spoilt_frames(&self) -> usize {
        let is_whole = |number| {
            self.memory.frame(number).is_some_and(|frame| {
                let first = frame[0].load(Relaxed);
                matches!(first, 0 | POISON) && frame.iter().all(|word| word.load(Relaxed) == first)
            })
        };
        self.memory.frames().free().filter(|number| !is_whole(*number)).count()
    }

    /// Makes it the platform of a daemon that comes after another has died: it has
    /// [inherited](Platform::inherited) everything that was given out, and its registers are to be mapped again. The machine
    /// goes on by the tables that it has.
    pub fn inherit(&mut self) {
        self.windows.clear();
        self.memory.frames().inherit();
        self.runs.inherit();
    }

    /// From now on there is memory for no more than this many table frames at a time.
    pub fn limit_frames(&mut self, frames: usize) {
        self.memory.frames().limit(frames);
    }

    /// From now on there is this many times 4 MiB below 4 GiB.
    pub fn limit_low_pieces(&mut self, pieces: u64) {
        self.runs.limit_low_pieces(pieces);
    }

    /// Makes a run of memory that a client or a driver supplies, in pages of its own.
    pub fn supplied_run(&mut self, memory: SharedMemory) -> RunId {
        self.runs.supplied(memory)
    }

    /// From now on there is memory for no more than this many bytes of runs at a time.
    pub fn limit_run_bytes(&mut self, bytes: u64) {
        self.runs.limit_bytes(bytes);
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
            for &(device, iova) in &self.always {
                let _ = self.machine.get_mut().dma_write_unasked(device, iova, &[0; 4]);
            }
            self.machine.get_mut().mmio_write(address, size, value);
        }
    }
}

impl TableFrames for SimPlatform {
    fn header_frame(&self) -> PhysAddr {
        PhysAddr::new(ARENA + self.memory.frames().header() as u64 * PAGE_SIZE)
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

delegate!(SimPlatform, BufferRuns, runs);

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
        self.register_reads += 1;
        self.read(window, offset, 4) as u32
    }

    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
        self.write(window, offset, 4, value.into());
    }

    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
        self.register_reads += 1;
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
        core::iter::once(tables).chain(self.runs.places()).collect()
    }

    fn arena_changes(&self) -> u64 {
        self.runs.changes()
    }

    fn inherited(&self) -> bool {
        self.memory.frames().has_inherited()
    }

    fn keep_frames(&mut self, start: PhysAddr, count: usize) -> Result<(), NotInherited> {
        let first = SimMemory::frame_number(start).ok_or(NotInherited)?;
        let mut frames = self.memory.frames();
        let kept = (first..first.saturating_add(count)).all(|frame| frames.keep(frame));
        if kept { Ok(()) } else { Err(NotInherited) }
    }

    fn place(&self, run: RunId) -> Option<RunPlace> {
        self.runs.place(run)
    }

    fn keep_run(&mut self, run: RunId, place: RunPlace) -> Result<(), NotInherited> {
        self.runs.keep(run, place)
    }

    fn settle_inherited(&mut self) {
        let freed = self.memory.frames().settle();
        for frame in freed {
            fill(self.memory.frame(frame).map_or(&[], |frame| frame), POISON);
        }
        self.runs.settle();
    }

    fn set_aside_inherited(&mut self) {
        self.memory.frames().set_aside();
        let header = self.memory.frames().header();
        fill(self.memory.frame(header).map_or(&[], |frame| frame), 0);
        self.runs.set_aside();
    }
}
