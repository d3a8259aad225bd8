//! The whole platform.

use core::ops::Range;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time;

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::platform::{
    BufferRuns, ConfigSpace, ContiguityError, Instant, Platform, PlatformError, RegisterWindow,
    Registers, RunId, Segment, TableFrame, TableFrames,
};
use libdma::Error;
use rustix::rand::{GetRandomFlags, getrandom};

use super::acpi::read_table;
use super::config_space::SysfsConfigSpace;
use super::huge_pages::HUGE_PAGE;
use super::iomem::system_ram;
use super::pagemap::PageMap;
use super::registers::RegisterWindows;
use super::resource;
use super::runs::Runs;
use super::tables::TableArena;

/// A guest that runs Linux.
#[derive(Debug)]
pub struct Linux {
    tables: TableArena,
    runs: Runs,
    registers: RegisterWindows,
    config: SysfsConfigSpace,
    /// When the clock (`CLOCK_MONOTONIC`) began.
    start: time::Instant,
}

/// Why the platform cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel does not show physical memory.
    #[error("cannot open /dev/mem (is this root, in a guest?): {0}")]
    Memory(io::Error),
    /// The kernel does not show where pages are.
    #[error("cannot open /proc/self/pagemap: {0}")]
    PageMap(io::Error),
    /// No huge page, or none whose place is known.
    #[error("there is no huge page for the IOMMU's tables (boot with hugepages=64): {0}")]
    HugePages(io::Error),
}

impl Linux {
    /// Opens what the platform needs, and takes a huge page for tables.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open() -> Result<Self, OpenError> {
        let registers = RegisterWindows::open().map_err(OpenError::Memory)?;
        let map = Rc::new(PageMap::open().map_err(OpenError::PageMap)?);
        Ok(Self {
            tables: TableArena::new(map.clone()).map_err(OpenError::HugePages)?,
            runs: Runs::new(map),
            registers,
            config: SysfsConfigSpace::new(),
            start: time::Instant::now(),
        })
    }

    /// Makes a run of the first `bytes` of a memfd that a client sent.
    ///
    /// # Errors
    ///
    /// As [`SealedMemory::take`](crate::platform::sealed::SealedMemory::take).
    pub fn supplied_run(&mut self, sent: OwnedFd, bytes: u64) -> Result<RunId, Error> {
        self.runs.supplied_run(sent, bytes)
    }

    /// The descriptor of a run's memory: what a client is given.
    pub fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        self.runs.fd(run)
    }
}

impl TableFrames for Linux {
    fn header_frame(&self) -> PhysAddr {
        self.tables.header_frame()
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        self.tables.alloc_frame()
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        self.tables.free_frame(frame);
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        self.tables.alloc_table(frames)
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.tables.table(frame)
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        self.tables.flush_entries(frame, entries);
    }
}

impl BufferRuns for Linux {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        self.runs.alloc_run(bytes)
    }

    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError> {
        self.runs.alloc_contiguous_run(bytes, limit)
    }

    fn alloc_divisible_run(&mut self, bytes: u64) -> Option<RunId> {
        self.runs.alloc_divisible_run(bytes)
    }

    fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
        self.runs.part_run(whole, offset, bytes)
    }

    fn part_step(&self) -> u64 {
        self.runs.part_step()
    }

    fn free_run(&mut self, run: RunId) {
        self.runs.free_run(run);
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.segments(run)
    }
}

impl Registers for Linux {
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError> {
        self.registers.map_registers(base, bytes)
    }

    fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32 {
        self.registers.read32(window, offset)
    }

    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
        self.registers.write32(window, offset, value);
    }

    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
        self.registers.read64(window, offset)
    }

    fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64) {
        self.registers.write64(window, offset, value);
    }
}

impl ConfigSpace for Linux {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        self.config.config_read(function, offset)
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        self.config.config_write(function, offset, value);
    }
}

impl Platform for Linux {
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        read_table(signature)
    }

    fn now(&self) -> Instant {
        let nanoseconds = self.start.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn entropy(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // The kernel never gives less than 16 bytes; a signal may interrupt it before it has any.
        while getrandom(&mut bytes, GetRandomFlags::empty()).is_err() {}
        bytes
    }

    fn bar(&mut self, function: PciAddress, number: u8) -> Option<Segment> {
        resource::bar(function, number)
    }

    fn memory(&mut self) -> Vec<Segment> {
        system_ram().unwrap_or_default()
    }

    fn arenas(&self) -> Vec<Segment> {
        let places = self.tables.places().chain(self.runs.places());
        places.map(|start| Segment { start, bytes: HUGE_PAGE }).collect()
    }

    fn arena_changes(&self) -> u64 {
        // Tables only ever grow.
        self.tables.places().count() as u64 + self.runs.changes()
    }
}
