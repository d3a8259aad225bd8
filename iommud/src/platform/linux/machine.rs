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
use super::huge_pages::{HUGE_PAGE, HugePages};
use super::iomem::system_ram;
use super::keeper::{Keeper, Source};
use super::pagemap::PageMap;
use super::parcel::{Piece, Purpose};
use super::registers::DeviceMemory;
use super::resource;
use super::runs::Runs;
use super::tables::TableArena;
use crate::daemon::hand_over::Report;
use crate::daemon::log;
use crate::platform::register_windows::RegisterWindows;
use crate::platform::run_places::arenas_of_tables_and_runs;

/// A guest that runs Linux.
#[derive(Debug)]
pub struct Linux {
    tables: TableArena,
    runs: Runs,
    registers: RegisterWindows<DeviceMemory>,
    config: SysfsConfigSpace,
    /// Whether there is memory of a process before this one, of which nobody knows yet what is in use.
    inherited: bool,
    keeper: Rc<Keeper>,
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
    /// Opens what the platform needs, and takes over the memory that a process before this one left with the keeper, if one
    /// did. Else, or if some of it is not to be had, it takes a huge page for tables.
    ///
    /// The first that a keeper starts has nothing to take over. If there was an iommud before that keeper, the units still
    /// walk its tables, in huge pages that are free now. So before any memory is taken, of which those may be, every device is
    /// stopped; drivers let theirs go on when they have it.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(keeper: Rc<Keeper>, left: Vec<Piece>, is_first: bool) -> Result<Self, OpenError> {
        let memory = DeviceMemory::open().map_err(OpenError::Memory)?;
        let map = PageMap::open().map_err(OpenError::PageMap)?;
        let source = Rc::new(Source { map, keeper: keeper.clone() });
        let mut linux = Self {
            tables: TableArena::new(source.clone()),
            runs: Runs::new(source.clone()),
            registers: RegisterWindows::new(memory),
            config: SysfsConfigSpace::new(),
            inherited: !left.is_empty(),
            keeper,
            start: time::Instant::now(),
        };
        if is_first {
            let stopped = linux.config.stop_all();
            if stopped > 0 {
                log::line(format_args!("{stopped} devices might have been at work: stopped"));
            }
        }
        if linux.inherited
            && let Err(error) = linux.inherit(left, &source)
        {
            log::line(format_args!("what the one before left cannot be used: {error}"));
            linux.give_up();
        }
        if !linux.inherited {
            linux.tables.begin().map_err(OpenError::HugePages)?;
        }
        Ok(linux)
    }

    /// Finds what a process before this one left.
    fn inherit(&mut self, left: Vec<Piece>, source: &Source) -> io::Result<()> {
        let mut result = Ok(());
        for piece in left {
            // Whatever cannot be used is left to the keeper, and so is all the rest.
            let taken = match piece.purpose {
                Purpose::Tables => {
                    HugePages::inherited(piece, source).and_then(|page| self.tables.inherit(page))
                }
                Purpose::Run | Purpose::Clients => self.runs.inherit(piece),
            };
            result = result.and(taken);
        }
        result.and_then(|()| self.tables.find_header())
    }

    /// Leaves to the keeper what a process before this one left.
    fn give_up(&mut self) {
        self.inherited = false;
        self.tables.set_aside();
        self.runs.set_aside();
        self.keeper.report(Report::SetAside);
    }

    /// Sees to it that there is a keeper, which has all the memory that hardware may reach.
    pub fn look_after_keeper(&self) {
        self.keeper.look(time::Instant::now(), self.tables.pieces().chain(self.runs.pieces()));
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

    arenas_of_tables_and_runs!();

    fn inherited(&self) -> bool {
        self.inherited
    }

    fn settle_inherited(&mut self) {
        self.inherited = false;
        self.tables.settle();
        self.runs.settle();
    }

    fn set_aside_inherited(&mut self) {
        self.give_up();
        if let Err(error) = self.tables.begin() {
            log::line(OpenError::HugePages(error));
        }
    }
}
