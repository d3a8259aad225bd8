//! The whole platform.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time;

use dma_types::PciAddress;
use iommu_engine::delegate;
use iommu_engine::platform::{Instant, Platform, PlatformError, RunId, Segment};
use libdma::Error;
use rustix::rand::{GetRandomFlags, getrandom};

use super::acpi::read_table;
use super::config_space::SysfsConfigSpace;
use super::huge_pages::HUGE_PAGE;
use super::iomem::system_ram;
use super::pagemap::PageMap;
use super::registers::DeviceMemory;
use super::resource;
use super::runs::Runs;
use super::tables::TableArena;
use crate::platform::windows::RegisterWindows;

/// A guest that runs Linux.
#[derive(Debug)]
pub struct Linux {
    tables: TableArena,
    runs: Runs,
    registers: RegisterWindows<DeviceMemory>,
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
        let memory = DeviceMemory::open().map_err(OpenError::Memory)?;
        let map = Rc::new(PageMap::open().map_err(OpenError::PageMap)?);
        Ok(Self {
            tables: TableArena::new(map.clone()).map_err(OpenError::HugePages)?,
            runs: Runs::new(map),
            registers: RegisterWindows::new(memory),
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

delegate!(Linux, TableFrames, tables);
delegate!(Linux, BufferRuns, runs);
delegate!(Linux, Registers, registers);
delegate!(Linux, ConfigSpace, config);

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
