//! The machine: every part of the platform together.

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use dma_types::PciAddress;
use iommu_engine::delegate;
use iommu_engine::platform::{Instant, MsiMessage, Platform, PlatformError, RunId, Segment};
use iommu_service::in_process::RunMemory;
use libdma::Error;
use x86_64::instructions::random::RdRand;

use super::acpi::Acpi;
use super::clock::Clock;
use super::config::{self, Configuration};
use super::frames::Frames;
use super::registers::Windows;
use super::runs::Runs;
use crate::memory::{layout, physical};
use crate::start_info::StartInfo;

/// The machine that the guest runs on. There is one.
#[derive(Debug)]
pub struct Metal {
    frames: Frames,
    runs: Runs,
    windows: Windows,
    config: Configuration,
    acpi: Acpi,
    clock: Clock,
    random: RdRand,
    fault_message: Option<MsiMessage>,
}

/// What is handed out just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Table frames, the header frame not counted.
    pub frames: usize,
    /// Buffer runs.
    pub runs: usize,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} table frames and {} buffers", self.frames, self.runs)
    }
}

/// The machine lacks what the guest stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The firmware's tables cannot be read, or do not tell where the power-management timer is.
    #[error("the firmware does not tell where the power-management timer is")]
    Timer,
    /// The processor has no source of randomness.
    #[error("the processor has no rdrand: boot it with -cpu max")]
    Random,
}

impl Metal {
    /// Takes the machine over.
    ///
    /// # Errors
    ///
    /// When it lacks what the guest stands on.
    ///
    /// # Safety
    ///
    /// There is no other, and the places of [`layout`] are memory, mapped to itself below 4 GiB.
    pub unsafe fn new(start_info: &StartInfo) -> Result<Self, MachineError> {
        let acpi = Acpi::new(start_info.rsdp);
        let timer = acpi.power_management_timer(physical::copy).ok_or(MachineError::Timer)?;
        let mcfg = acpi.table(*b"MCFG", physical::copy).ok().flatten();
        Ok(Self {
            // SAFETY: as the caller says.
            frames: unsafe { Frames::new(layout::TABLES) },
            // SAFETY: as the caller says.
            runs: unsafe { Runs::new(layout::BUFFERS) },
            windows: Windows::default(),
            config: Configuration::new(mcfg.as_deref()),
            acpi,
            clock: Clock::new(timer),
            random: RdRand::new().ok_or(MachineError::Random)?,
            fault_message: None,
        })
    }

    /// Has units of engines that start from now on say by this message that they have faults, or not at all.
    pub fn set_fault_message(&mut self, message: Option<MsiMessage>) {
        self.fault_message = message;
    }

    /// What is handed out just now: a case that leaves more than it found leaks.
    pub fn in_use(&self) -> InUse {
        InUse { frames: self.frames.in_use(), runs: self.runs.in_use() }
    }

    /// Takes back all that is handed out: whoever held it is gone, and translation is off.
    pub fn take_all_back(&mut self) {
        self.frames.take_all_back();
        self.runs.take_all_back();
    }

    /// Where the CPU sees a run, all of it, or `None` for a run that does not exist. It is there until the
    /// run is freed; a page behind its end is not mapped.
    pub fn run_pointer(&self, run: RunId) -> Option<NonNull<u8>> {
        self.runs.pointer(run)
    }

    /// The clock's source itself, for those who check the clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

delegate!(Metal, TableFrames, frames);
delegate!(Metal, BufferRuns, runs);
delegate!(Metal, Registers, windows);
delegate!(Metal, ConfigSpace, config);

impl Platform for Metal {
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        self.acpi.table(signature, physical::copy)
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn entropy(&mut self) -> [u8; 16] {
        let word = || {
            // Intel's advice: a source that fails ten times in a row is broken.
            (0..10).find_map(|_| self.random.get_u64()).expect("rdrand gives nothing")
        };
        let mut bytes = [0; 16];
        let (low, high) = bytes.split_at_mut(8);
        low.copy_from_slice(&word().to_ne_bytes());
        high.copy_from_slice(&word().to_ne_bytes());
        bytes
    }

    fn fault_message(&mut self) -> Option<MsiMessage> {
        self.fault_message
    }

    fn bar(&mut self, function: PciAddress, number: u8) -> Option<Segment> {
        config::bar(&mut self.config, function, number)
    }

    fn memory(&mut self) -> Vec<Segment> {
        alloc::vec![Segment { start: layout::ALL.start, bytes: layout::ALL.bytes }]
    }

    fn arenas(&self) -> Vec<Segment> {
        [layout::TABLES, layout::BUFFERS]
            .map(|it| Segment { start: it.start, bytes: it.bytes })
            .into()
    }

    fn arena_changes(&self) -> u64 {
        0
    }
}

// SAFETY: a run is mapped from its allocation until it is freed, is memory that no Rust object is in, and
// this guest has one thread.
unsafe impl RunMemory for Metal {
    fn run_memory(&self, run: RunId) -> Option<NonNull<u8>> {
        self.run_pointer(run)
    }

    unsafe fn adopt(&mut self, memory: NonNull<u8>, bytes: u64) -> Result<RunId, Error> {
        self.runs.adopt(memory, bytes).ok_or(Error::NotOwnMemory)
    }
}
