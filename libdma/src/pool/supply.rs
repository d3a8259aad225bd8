//! What a pool and its blocks share.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use dma_types::{Access, CacheType, Iova, PAGE_SIZE};

use super::layout::Shape;
use super::poison::Poison;
use super::slots::{Slot, Slots};
use super::{NotTaken, PoolStats};
use crate::check::{self, Act, Kind, Mark, Note, Place};
use crate::io_address::BusAddress;
use crate::protocol::Error;
use crate::session::Session;
use crate::sync::{AtomicU64, Mutex};
use crate::window::{Block, BlockRequest, Windows};

/// What a pool and its blocks share: the memory, which lasts until the last of them is gone.
#[derive(Debug)]
pub(super) struct Supply {
    state: Mutex<State>,
    failures: AtomicU64,
    shape: Shape,
    access: Access,
    limit: Iova,
    label: Arc<str>,
    poison: Poison,
    windows: Arc<Windows>,
}

#[derive(Debug)]
struct State {
    slots: Slots<Block>,
    /// When the pool is gone: keeps the supply for the blocks that are given out. They count themselves in `slots`, and
    /// have no share each.
    kept: Option<Arc<Supply>>,
}

impl State {
    /// What keeps the supply, if nobody has a block of it any more.
    fn last(&mut self) -> Option<Arc<Supply>> {
        if self.slots.held() == 0 { self.kept.take() } else { None }
    }
}

/// A block that was given out.
pub(super) struct Given {
    slot: Slot,
    supply: NonNull<Supply>,
}

// SAFETY: both may be used by any thread.
unsafe impl Send for Given {}

impl Given {
    #[inline]
    pub(super) fn new(slot: Slot, supply: &Arc<Supply>) -> Self {
        Self { slot, supply: NonNull::from(&**supply) }
    }

    #[inline]
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Where it comes from.
    #[inline]
    pub(super) fn supply(&self) -> &Supply {
        // SAFETY: as long as a block is given out, the pool is there, or what it left behind for its blocks.
        unsafe { self.supply.as_ref() }
    }

    /// Gives it back, since it was dropped.
    #[inline(always)]
    pub(super) fn give_back_dropped(self) {
        let Self { slot, supply } = self;
        // SAFETY: as in `supply`. When the lock is not held any more, the supply may be gone.
        let state = unsafe { &supply.as_ref().state };
        let not_taken =
            if check::is_known_off() { state.lock().slots.push_few(slot) } else { Some(slot) };
        if let Some(slot) = not_taken {
            Self { slot, supply }.give_back_otherwise();
        }
    }

    /// The same where that takes more than a few steps.
    #[cold]
    fn give_back_otherwise(self) {
        self.give_back(None);
    }

    /// Gives it back: from where, if anybody said so.
    pub(super) fn give_back(self, at: Option<Place>) {
        // SAFETY: as in `supply`. No function that may still run when the lock is not held any more is given a reference, for
        // the supply may be gone then.
        let supply = unsafe { self.supply.as_ref() };
        if check::is_on() {
            supply.note_given_back(&self.slot, at);
        }
        let mut state = supply.state.lock();
        let is_time = state.slots.push(self.slot);
        let last = state.last();
        // What is left of a pool that is gone ends as a whole.
        let is_going = last.is_some() || state.kept.is_some();
        let idle = if is_time && !is_going { supply.trim(&mut state.slots) } else { Vec::new() };
        // What is given up goes when others may have the lock.
        drop(state);
        drop((idle, last));
    }

    /// Leaves it to the device.
    pub(super) fn leave(self) -> BusAddress {
        // SAFETY: as in `give_back`.
        let supply = unsafe { self.supply.as_ref() };
        let addresses = supply.session().addresses();
        let mut state = supply.state.lock();
        let left = state.slots.leave(self.slot);
        let last = state.last();
        drop(state);
        drop(last);
        BusAddress::new(addresses, left)
    }
}

impl Supply {
    pub(super) fn new(
        windows: Arc<Windows>,
        label: &str,
        shape: Shape,
        (access, limit): (Access, Iova),
        keep: usize,
    ) -> Self {
        Self {
            state: Mutex::new(State { slots: Slots::new(keep), kept: None }),
            failures: AtomicU64::new(0),
            shape,
            access,
            limit,
            label: Arc::from(label),
            poison: Poison::new(),
            windows,
        }
    }

    /// By what the checker knows the pool.
    #[track_caller]
    pub(super) fn mark(&self) -> Mark {
        let (kind, label, space) = (Kind::Pool, &*self.label, self.session().space());
        check::made(|| Note { kind, label, space, iova: None, bytes: 0, access: None })
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Gives a block out that is free, if nobody is to be told.
    #[inline(always)]
    pub(super) fn give_out_free(&self) -> Option<Slot> {
        if check::is_known_off() { self.state.lock().slots.pop() } else { None }
    }

    /// Gives a block out.
    #[track_caller]
    pub(super) fn give_out(&self) -> Result<Slot, Error> {
        let free = self.state.lock().slots.pop();
        let slot = match free {
            Some(slot) => slot,
            None => self.grow()?,
        };
        if check::is_on() {
            self.note_given_out(slot.memory(), slot.iova(), Place::here());
        }
        Ok(slot)
    }

    /// The session of the device that its blocks are for.
    pub(super) fn session(&self) -> &Session {
        self.windows.session()
    }

    /// Takes a block from the device, to which it was left.
    #[track_caller]
    pub(super) fn take(&self, address: BusAddress) -> Result<Slot, NotTaken> {
        if let Err(wrong) = address.within(self.session().addresses()) {
            check::wrong_device(address.iova(), wrong, Act::GiveBack);
            return Err(wrong.into());
        }
        let iova = address.iova();
        let taken = self.state.lock().slots.take(iova);
        if let Err(why) = taken
            && check::is_on()
        {
            check::blocks::refused(self.session().space(), &self.label, iova, why, Place::here());
        }
        taken
    }

    /// Gives idle chunks back to the device's windows, all of them.
    pub(super) fn shrink(&self) -> usize {
        let idle = self.state.lock().slots.trim(0);
        self.forget(&idle);
        idle.len()
    }

    pub(super) fn stats(&self) -> PoolStats {
        let count = self.state.lock().slots.count();
        PoolStats {
            label: self.label.clone(),
            block_bytes: self.shape.bytes,
            blocks: count.blocks,
            in_use: count.in_use,
            most_in_use: count.most_in_use,
            chunks: count.chunks,
            allocations: count.given_out,
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// The pool ends, though not what is left of it.
    pub(super) fn end_pool(self: &Arc<Self>) {
        if check::is_on() {
            let of_pool = |iova| self.state.lock().slots.contains(iova);
            check::blocks::pool_dropped(self.windows.session().space(), of_pool);
        }
        let mut state = self.state.lock();
        if state.slots.held() > 0 {
            state.slots.push_no_few();
            state.kept = Some(self.clone());
        }
    }

    /// Asks the device's windows for a chunk, of one block if they have no more. Nobody else waits meanwhile.
    #[cold]
    fn grow(&self) -> Result<Slot, Error> {
        let mut bytes = self.shape.usual_chunk();
        let error = loop {
            match self.chunk(bytes) {
                Ok(slot) => return Ok(slot),
                // Without an IOMMU a chunk is one physical piece, which may be too long to be had.
                Err(
                    Error::OutOfMemory
                    | Error::NoAddressSpace
                    | Error::QuotaExceeded
                    | Error::NotContiguous,
                ) if bytes > self.shape.least_chunk() => {
                    bytes /= 2;
                }
                Err(error) => break error,
            }
        };
        // Somebody may have given one back meanwhile.
        let given_back = self.state.lock().slots.pop();
        given_back.ok_or_else(|| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            error
        })
    }

    /// Adds a chunk of this length, a power of two; a block of it.
    fn chunk(&self, bytes: usize) -> Result<Slot, Error> {
        let align = self.shape.align.min(PAGE_SIZE as usize);
        let (access, limit, label) = (self.access, self.limit, &*self.label);
        let request = BlockRequest { bytes, align, access, limit, label };
        let block = self.windows.alloc_coherent(&request, CacheType::WriteBack)?;
        let (start, iova, layout) = (block.as_ptr(), block.iova(), self.shape.in_chunk(bytes));
        let io_align = layout.chunk_align().max(self.shape.align as u64);
        if !iova.is_aligned(io_align) || !start.addr().get().is_multiple_of(align) {
            return Err(Error::BadAlignment);
        }
        let mut state = self.state.lock();
        // SAFETY: the chunk is `bytes` long, for which the layout was made, and it is this pool's as long as `block` is
        // not dropped.
        let added = unsafe { state.slots.add(block, start, iova, layout) };
        let slot = if added.is_ok() { state.slots.pop() } else { None };
        // What was not added is given back when the lock is not held any more.
        drop(state);
        slot.ok_or(Error::NoAddressSpace)
    }

    /// Gives up chunks that are idle and beyond what is to be kept.
    #[cold]
    fn trim(&self, slots: &mut Slots<Block>) -> Vec<(Block, usize)> {
        let idle = slots.trim_to_keep();
        self.forget(&idle);
        idle
    }

    /// What these chunks' blocks were filled with is nobody's concern any more.
    fn forget(&self, idle: &[(Block, usize)]) {
        for (chunk, bytes) in idle {
            self.poison.forget(chunk.iova(), *bytes);
        }
    }

    #[cold]
    fn note_given_out(&self, memory: NonNull<u8>, iova: Iova, place: Place) {
        let space = self.windows.session().space();
        // SAFETY: the block is the caller's alone, and as long as this.
        if let Some((offset, value)) = unsafe { self.poison.check(memory, iova, self.shape.bytes) }
        {
            check::blocks::written(space, iova, (offset, value), place);
        }
        let (iova, access) = (Some(iova), Some(self.access));
        let bytes = self.shape.bytes as u64;
        let note = Note { kind: Kind::Block, label: &self.label, space, iova, bytes, access };
        check::blocks::given_out(&note, place);
    }

    #[cold]
    fn note_given_back(&self, slot: &Slot, at: Option<Place>) {
        let (memory, iova) = (slot.memory(), slot.iova());
        check::blocks::given_back(self.windows.session().space(), iova, at);
        // SAFETY: the block is the caller's alone, and as long as this.
        unsafe { self.poison.fill(memory, iova, self.shape.bytes) };
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        let slots = mem::replace(&mut self.state.get_mut().slots, Slots::new(0));
        for (chunk, has_left) in slots.into_memory() {
            // A device that was left a block may write to it at any time.
            if has_left {
                self.windows.retire(chunk);
            }
        }
    }
}
