//! What the engine needs from the world, and all of it.
//!
//! The engine never opens, prints, sleeps, spawns or waits. A platform lends it memory, registers,
//! configuration space, firmware tables, a clock and randomness; `redox`, `linux`, `sim` and the
//! bare guest in `tests/metal` each implement [`Platform`], and the tests' fakes the parts they need.
//!
//! # The two kinds of memory
//!
//! [`TableFrames`] are single 4 KiB frames that hardware walks. [`BufferRuns`] are clients' buffers:
//! contiguous in the daemon's address space, with a list of physical segments. Both come from arenas
//! that outlive the daemon; the [ledger](crate::ledger) tells a restarted daemon what is in them.
//!
//! # What a predecessor left
//!
//! A daemon that is started after another has died is given the arenas of that one, with units walking the tables in them.
//! The platform does not know what in them is in use, but the engine does, once it has read the ledger:
//!
//! | step | who | what |
//! | --- | --- | --- |
//! | 1 | platform | says that it has [inherited](Platform::inherited), and gives out nothing of what it has |
//! | 2 | engine | reads the ledger from the inherited [header frame](TableFrames::header_frame) on, and walks the tables |
//! | 3 | engine | says which [frames](Platform::keep_frames) and [runs](Platform::keep_run) are in use |
//! | 4 | engine | has every unit forget everything, and waits until all have confirmed it (rule R2) |
//! | 5 | engine | says that [all else is free](Platform::settle_inherited) |
//!
//! Or, instead of 3 to 5, that [nothing of it](Platform::set_aside_inherited) can be used. A platform that never has a
//! predecessor's arenas implements none of this.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::time::Duration;

use dma_types::{CacheType, PAGE_SIZE, PciAddress, PhysAddr};
use thiserror::Error;

use crate::segments;

/// One 4 KiB hardware table as the CPU sees it: 512 words that hardware may read at any time.
///
/// Words are atomic because the IOMMU walks them while the engine writes. x86 is little-endian and so
/// are both vendors' tables, so that a word here is a word there.
pub type TableFrame = [AtomicU64; 512];

/// Frames for structures that hardware walks.
pub trait TableFrames {
    /// The arena's first frame, at its fixed place: it always exists and is never given out. The engine
    /// keeps its [ledger](crate::ledger) there. Of arenas that were [inherited](Platform::inherited) it is the one that the
    /// predecessor had, until they are [set aside](Platform::set_aside_inherited).
    fn header_frame(&self) -> PhysAddr;

    /// A frame of zeroes that nobody else holds, or `None` when there is no memory for one.
    fn alloc_frame(&mut self) -> Option<PhysAddr>;

    /// Takes a frame back. It may be given out again at once, so no unit may still be able to walk it
    /// (rule R2): the engine frees only after the invalidation has been confirmed.
    fn free_frame(&mut self, frame: PhysAddr);

    /// That many frames of zeroes, adjacent in physical memory, for a structure larger than a frame (AMD's
    /// device table). It starts at a multiple of its size, rounded up to a power of two. `None` when there is no
    /// such memory, or for no frames. Each is then a frame like others.
    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr>;

    /// Takes back what [`alloc_table`](Self::alloc_table) gave out, as [`free_frame`](Self::free_frame) does.
    fn free_table(&mut self, start: PhysAddr, frames: usize) {
        for frame in 0..frames as u64 {
            self.free_frame(PhysAddr::new(start.get() + frame * PAGE_SIZE));
        }
    }

    /// The contents of the table frame at this physical address, which must be a multiple of 4096.
    ///
    /// `None` when the address is in none of the table arenas: a pointer read back from a table that
    /// somebody else wrote is not trusted (rule R5).
    fn table(&self, frame: PhysAddr) -> Option<&TableFrame>;

    /// Writes the cache lines that hold these entries of a table back to memory, for units that do not
    /// snoop (VT-d ECAP.C = 0). Ordered after the stores before it and before the stores after it.
    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>);
}

/// Names a buffer run: a platform gives the number out, takes it back, and never gives it out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// A piece of a run that is contiguous in physical memory. Start and length are multiples of 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the piece starts.
    pub start: PhysAddr,
    /// Its length in bytes.
    pub bytes: u64,
}

/// How many words tell where a run is.
pub const PLACE_WORDS: usize = 5;

/// Where a run is, in words that survive the daemon: a platform makes them ([`Platform::place`]) and a later one of the same
/// kind, which has inherited the run's memory, understands them ([`Platform::keep_run`]). To anybody else they mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunPlace(pub [u64; PLACE_WORDS]);

/// It is not among what was inherited, or has been kept already. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no such memory was inherited")]
pub struct NotInherited;

/// Memory for clients' buffers.
pub trait BufferRuns {
    /// A run of `bytes` (a multiple of 4096, not zero) of zeroes (rule R8), or `None` when memory is short.
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId>;

    /// The same as one segment, which starts at a multiple of its length rounded up to a power of two, and has no byte
    /// above `limit`.
    ///
    /// # Errors
    ///
    /// [`ContiguityError`] tells what will never be from what is not to be had now.
    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError>;

    /// The longest run that can be one segment, in bytes: more is [`ContiguityError::TooLong`], and as much may be had.
    fn longest_piece(&self) -> u64;

    /// A run to be given out in [parts](Self::part_run), in physical pieces as large as they are to be had (two that happen to be
    /// adjacent are one segment): of `bytes` (a
    /// multiple of 4096, not zero), or less. `None` when memory is short, or runs cannot be parted here.
    fn alloc_divisible_run(&mut self, _bytes: u64) -> Option<RunId> {
        None
    }

    /// Some of the memory of such a run as a run of its own: `bytes` of zeroes (rule R8) from `offset` on. Freeing it leaves
    /// the memory with the whole. `None` when the whole is not that long.
    fn part_run(&mut self, _whole: RunId, _offset: u64, _bytes: u64) -> Option<RunId> {
        None
    }

    /// Has CPUs cache a run's memory in this way, before anybody but the platform sees it, and says how they cache it
    /// now: as before where the platform cannot do it. A run is write-back when it is given out, and again once it was
    /// taken back. Devices see no difference.
    fn set_cache_type(&mut self, _run: RunId, _cache: CacheType) -> CacheType {
        CacheType::WriteBack
    }

    /// Takes a run back, once no device can reach it and no client is known to see it. Where one may see it nevertheless, the
    /// platform gives its memory to nobody else before that has ended (rule R8).
    fn free_run(&mut self, run: RunId);

    /// The physical pieces of a run, in order. Empty for a run that does not exist.
    fn segments(&self, run: RunId) -> &[Segment];
}

/// Why there is no run that is one piece of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContiguityError {
    /// The platform never gives as much in one piece.
    #[error("so much memory is never to be had in one physical piece")]
    TooLong,
    /// What there is lies above the limit, as far as that was tried.
    #[error("no memory of this length in one physical piece was found below the limit")]
    AboveLimit,
    /// There is none now. Another time there may be.
    #[error("no memory of this length in one physical piece is free")]
    OutOfMemory,
}

/// Names a window of device registers: a platform gives the number out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegisterWindow(pub u32);

/// Memory-mapped registers.
pub trait Registers {
    /// Maps `bytes` of registers at `base`, uncached. Asked again for a window it has already mapped, a
    /// platform may give the same one.
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError>;

    /// Reads 32 bits, `offset` bytes into the window. Past its end: all ones, as from an absent device.
    fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32;

    /// Writes 32 bits, `offset` bytes into the window. Past its end: nothing.
    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32);

    /// Reads 64 bits, in one access, `offset` bytes into the window. Past its end: all ones.
    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64;

    /// Writes 64 bits, in one access, `offset` bytes into the window. Past its end: nothing.
    fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64);
}

/// PCI configuration space, by whole dwords: narrower writes become a read-modify-write on Redox, which
/// would clear write-1-to-clear bits beside the one meant.
pub trait ConfigSpace {
    /// Reads the dword at `offset` (a multiple of 4). All ones for a function that does not exist.
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32;

    /// Writes the dword at `offset` (a multiple of 4). Nothing for a function that does not exist.
    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32);
}

/// A message-signaled interrupt (PCI 3.0, 6.8): writing these data to this address interrupts a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where it is written, a multiple of 4.
    pub address: PhysAddr,
    /// What is written.
    pub data: u16,
}

/// A moment, in nanoseconds since some start that does not change while the daemon lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanoseconds` after the start.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Everything together: one machine, real or simulated.
pub trait Platform: TableFrames + BufferRuns + Registers + ConfigSpace {
    /// The ACPI table with this signature, whole, or `None` when the machine has none. What it says is
    /// not checked; that is the parsers' job.
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError>;

    /// The time now. It never goes back.
    fn now(&self) -> Instant;

    /// 128 bits that nobody can guess.
    fn entropy(&mut self) -> [u8; 16];

    /// The message by which units say that they have recorded a fault: it wakes whoever polls the engine. The
    /// same for all units, and each time that it is asked for. `None` where no interrupt is to be had: then units
    /// are [polled](crate::Engine::wants_polling).
    fn fault_message(&mut self) -> Option<MsiMessage> {
        None
    }

    /// Makes a unit's own PCI function the engine's for as long as the platform lives, so that nobody else sets it
    /// up. `false` where somebody else has it: what the engine says to it may not hold.
    fn claim_function(&mut self, _function: PciAddress) -> bool {
        true
    }

    /// The machine's memory, whole pages, in pieces ordered by where they start: what a device reaches that the
    /// policy leaves unconfined. Empty where the platform cannot tell.
    fn memory(&mut self) -> Vec<Segment>;

    /// Whether some of a place, whole pages, is memory.
    fn is_memory(&mut self, place: Segment) -> bool {
        segments::overlap(&self.memory(), &[place])
    }

    /// Where the memory BAR of this number is, and how long it is, as the operating system or the firmware has it in its
    /// records. Nothing is written to the function to find out: its driver may be at work. `None` where there is no such
    /// BAR, or nobody has a record of it.
    fn bar(&mut self, _function: PciAddress, _number: u8) -> Option<Segment> {
        None
    }

    /// Where the arenas are now: all memory that table frames and runs are given out of, free or not. None of these pieces is
    /// of both.
    fn arenas(&self) -> Vec<Segment>;

    /// How often [`arenas`](Self::arenas) has changed.
    fn arena_changes(&self) -> u64;

    /// Whether the arenas hold what a [predecessor left](self#what-a-predecessor-left), of which nothing has been decided
    /// yet.
    ///
    /// As long as that is so, everything that is given out lies outside the inherited arenas, whatever in them was free: a
    /// unit may still walk or write anything there (rule R2). [`TableFrames::table`] reads and writes inherited frames as
    /// it does others, and [`arenas`](Self::arenas) names them.
    fn inherited(&self) -> bool {
        false
    }

    /// Says that inherited frames, so many from `start` on, are in use. Each is from then on as if it had been
    /// [given out](TableFrames::alloc_frame), and it is kept once.
    ///
    /// # Errors
    ///
    /// [`NotInherited`] if one of them is no frame of an inherited table arena, or kept already.
    fn keep_frames(&mut self, _start: PhysAddr, _count: usize) -> Result<(), NotInherited> {
        Err(NotInherited)
    }

    /// Where a run is, to be written down before hardware may see the run: a successor [keeps](Self::keep_run) it by that.
    /// It does not change. `None` for a run that does not exist, or where no successor will have its memory.
    fn place(&self, _run: RunId) -> Option<RunPlace> {
        None
    }

    /// Says that an inherited run is in use: it is the same run again, by the same number, with the same segments in the
    /// same order, and the memory in it as it is. Its [cache type](BufferRuns::set_cache_type) is as it was. Parts of a
    /// [divisible](BufferRuns::alloc_divisible_run) run are kept after the whole. Runs that are allocated from then on have
    /// other numbers.
    ///
    /// # Errors
    ///
    /// [`NotInherited`] for a place that no inherited run is in, or one that is kept already.
    fn keep_run(&mut self, _run: RunId, _place: RunPlace) -> Result<(), NotInherited> {
        Err(NotInherited)
    }

    /// Says that nothing of the inherited arenas is in use but what was kept, nor reached by any unit: the rest is free from
    /// now on.
    fn settle_inherited(&mut self) {}

    /// Says that the engine goes on without the inherited arenas: they are not used, nor freed while this process lives,
    /// for units may reach anything in them until they are told of other tables. The
    /// [header frame](TableFrames::header_frame) is another from now on, all of it zero, in an arena that was not inherited.
    fn set_aside_inherited(&mut self) {}
}

/// The world did not give what was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlatformError {
    /// The registers could not be mapped: no right to, or no such memory.
    #[error("the registers at {0} cannot be mapped")]
    Registers(PhysAddr),
    /// The firmware's tables could not be read, which is not the same as that there are none.
    #[error("the ACPI tables cannot be read")]
    Acpi,
}
