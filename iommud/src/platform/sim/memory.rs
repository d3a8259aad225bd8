//! What is at each simulated physical address.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{Segment, TableFrame};
use iommu_sim::memory::{copy_from_words, copy_to_words};
use iommu_sim::{HeapMemory, Memory};

use super::frames::FrameBook;
use super::shared::SharedMemory;

/// What a freed frame or page is filled with. As an entry of either vendor's it is present with reserved bits set,
/// so that a unit that still walks it faults.
pub const POISON: u64 = 0x5b5b_5b5b_5b5b_5b5b;

/// Where the table arena is.
pub const ARENA: u64 = 0x1_0000_0000;
/// Its length in bytes.
pub const ARENA_BYTES: u64 = 64 << 20;
/// Where the memory is that firmware keeps.
pub const FIRMWARE: u64 = 0x7e00_0000;
/// Its length in bytes.
pub const FIRMWARE_BYTES: usize = 1 << 20;

/// A physical piece of a run, or what is left of it.
#[derive(Debug)]
struct Piece {
    bytes: u64,
    /// The run's memory and where in it the piece starts, or `None` once the run is freed.
    within: Option<(Arc<SharedMemory>, u64)>,
}

/// The machine's memory: the table arena, the runs, and what firmware keeps.
#[derive(Debug)]
pub struct SimMemory {
    arena: SharedMemory,
    firmware: HeapMemory,
    frames: Mutex<FrameBook>,
    pieces: Mutex<BTreeMap<u64, Piece>>,
    freed_accesses: AtomicU64,
}

impl SimMemory {
    /// Memory with an empty arena and no runs; `reserved` are the regions that firmware reserves.
    pub(super) fn new(reserved: &[(u64, usize)]) -> io::Result<Self> {
        let mut firmware = vec![(FIRMWARE, FIRMWARE_BYTES)];
        firmware.extend_from_slice(reserved);
        Ok(Self {
            arena: SharedMemory::new("iommud-tables", ARENA_BYTES)?,
            firmware: HeapMemory::new(&firmware),
            frames: Mutex::new(FrameBook::new((ARENA_BYTES / PAGE_SIZE) as usize)),
            pieces: Mutex::default(),
            freed_accesses: AtomicU64::new(0),
        })
    }

    /// The book of table frames.
    pub(super) fn frames(&self) -> MutexGuard<'_, FrameBook> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the frame at a physical address.
    pub(super) fn frame_number(frame: PhysAddr) -> Option<usize> {
        let offset = frame.get().checked_sub(ARENA).filter(|&offset| offset < ARENA_BYTES)?;
        frame.is_aligned(PAGE_SIZE).then_some((offset / PAGE_SIZE) as usize)
    }

    /// The frame with this number.
    pub(super) fn frame(&self, number: usize) -> Option<&TableFrame> {
        self.arena.words().chunks_exact(512).nth(number)?.try_into().ok()
    }

    /// Puts a run's memory at these addresses.
    pub(super) fn insert(&self, segments: &[Segment], memory: &Arc<SharedMemory>) {
        let mut pieces = self.pieces();
        let mut offset = 0;
        for segment in segments {
            // What was left here of a freed run may have been in other pieces.
            let end = segment.start.get() + segment.bytes;
            let stale: Vec<u64> = pieces.range(segment.start.get()..end).map(|it| *it.0).collect();
            for start in stale {
                pieces.remove(&start);
            }
            let within = Some((memory.clone(), offset));
            pieces.insert(segment.start.get(), Piece { bytes: segment.bytes, within });
            offset += segment.bytes;
        }
    }

    /// Takes a run's memory away from these addresses; they are free from now on.
    pub(super) fn remove(&self, segments: &[Segment]) {
        let mut pieces = self.pieces();
        for segment in segments {
            let (start, bytes) = (segment.start.get(), segment.bytes);
            pieces.remove(&start);
            for page in (start..start + bytes).step_by(PAGE_SIZE as usize) {
                pieces.insert(page, Piece { bytes: PAGE_SIZE, within: None });
            }
        }
    }

    /// How often the machine has reached for memory that was free.
    pub fn freed_accesses(&self) -> u64 {
        self.freed_accesses.load(Relaxed)
    }

    fn pieces(&self) -> MutexGuard<'_, BTreeMap<u64, Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reaches for memory within one page. `None`: there is none. `Some(None)`: it is free.
    fn reach<R>(
        &self,
        address: u64,
        access: impl FnOnce(&[AtomicU64], u64) -> R,
    ) -> Option<Option<R>> {
        if let Some(number) = Self::frame_number(PhysAddr::new(address).page()) {
            if !self.frames().is_live(number) {
                self.freed_accesses.fetch_add(1, Relaxed);
            }
            // A free frame is still there, and full of poison.
            return Some(Some(access(self.arena.words(), address - ARENA)));
        }
        let pieces = self.pieces();
        let (&start, piece) = pieces.range(..=address).next_back()?;
        let at = address - start;
        if at >= piece.bytes {
            return None;
        }
        let Some((memory, offset)) = &piece.within else {
            self.freed_accesses.fetch_add(1, Relaxed);
            return Some(None);
        };
        Some(Some(access(memory.words(), offset + at)))
    }

    fn is_firmware(&self, address: u64) -> bool {
        self.firmware.read(address, &mut [0])
    }
}

impl Memory for SimMemory {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        if self.is_firmware(address) {
            return self.firmware.read(address, out);
        }
        let mut at = address;
        let mut rest = out;
        while !rest.is_empty() {
            let (page, later) = rest.split_at_mut(in_page(at, rest.len()));
            match self.reach(at, |words, offset| copy_from_words(words, offset, page)) {
                Some(Some(true)) => {}
                Some(None) => page.fill(POISON.to_le_bytes()[0]),
                _ => return false,
            }
            at = at.wrapping_add(page.len() as u64);
            rest = later;
        }
        true
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        if self.is_firmware(address) {
            return self.firmware.write(address, data);
        }
        let mut at = address;
        let mut rest = data;
        while !rest.is_empty() {
            let (page, later) = rest.split_at(in_page(at, rest.len()));
            match self.reach(at, |words, offset| copy_to_words(words, offset, page)) {
                Some(Some(true) | None) => {}
                _ => return false,
            }
            at = at.wrapping_add(page.len() as u64);
            rest = later;
        }
        true
    }
}

/// How many of `length` bytes from `address` on lie in its page.
fn in_page(address: u64, length: usize) -> usize {
    length.min((PAGE_SIZE - address % PAGE_SIZE) as usize)
}

/// Makes each of these words this one.
pub(super) fn fill(words: &[AtomicU64], value: u64) {
    for word in words {
        word.store(value, Relaxed);
    }
}
