//! A pattern in free blocks, so that it shows if the device, or a pointer that was kept, writes to one.

use alloc::collections::BTreeMap;

use core::ptr::NonNull;

use dma_types::Iova;

use crate::check;
use crate::copy;
use crate::sync::Mutex;

/// What is in free blocks while the checker is on. Linux has the same (`POOL_POISON_FREED`, `include/linux/poison.h`), and
/// who has looked at it once knows it again in a dump.
const PATTERN: u8 = 0xa7;

/// Which free blocks have the pattern, by their I/O addresses, each with the checker's run in which it was put there.
#[derive(Debug)]
pub(super) struct Poison(Mutex<BTreeMap<Iova, u64>>);

impl Poison {
    pub(super) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Fills a block.
    ///
    /// # Safety
    ///
    /// The block is the caller's, and has so many bytes, which are valid for volatile access.
    pub(super) unsafe fn fill(&self, memory: NonNull<u8>, iova: Iova, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { copy::fill(memory, PATTERN, bytes) };
        self.0.lock().insert(iova, check::run());
    }

    /// The first byte that has changed since the block was filled, and what is there now.
    ///
    /// # Safety
    ///
    /// As for [`fill`](Self::fill).
    pub(super) unsafe fn check(
        &self,
        memory: NonNull<u8>,
        iova: Iova,
        bytes: usize,
    ) -> Option<(u64, u8)> {
        // While the checker was off, the block may have been somebody's.
        self.0.lock().remove(&iova).filter(|&run| run == check::run())?;
        (0..bytes).find_map(|offset| {
            // SAFETY: the caller's promise.
            let value = unsafe { memory.add(offset).read_volatile() };
            (value != PATTERN).then_some((offset as u64, value))
        })
    }

    /// A chunk of so many bytes is the pool's no more.
    pub(super) fn forget(&self, chunk: Iova, bytes: usize) {
        self.0.lock().retain(|iova, _| iova.get().wrapping_sub(chunk.get()) >= bytes as u64);
    }
}
