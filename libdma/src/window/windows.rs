//! All windows of a device.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;

use dma_types::{CacheType, Iova, PAGE_SIZE};

use super::block::{Piece, Place, Position, WindowNumber};
use super::window::{Found, Kind, KindIndex, UNIT, Window};
use super::{Block, BlockRequest, WindowUsage};
use crate::buffer::Buffer;
use crate::declared::{DeclareError, DeviceMemory, NotDeclared, Span, Taken};
use crate::mapping::Mapped;
use crate::protocol::derive;
use crate::protocol::{Error, MAX_BATCH};
use crate::session::{BufferRequest, Session};
use crate::sync::Mutex;

/// How long the first window of a kind is: as little as is worth a request.
const FIRST_WINDOW: usize = 64 << 10;

/// How long the longest are: what one large page maps (Intel SDM volume 3, 5.5; AMD48882, 2.2.3).
const LONGEST_WINDOW: usize = 2 << 20;

/// The longest block that shares a window.
pub(crate) const LONGEST_BLOCK: usize = LONGEST_WINDOW / 2;

/// Without an IOMMU, the most that a block is aligned to because of its length: longer pieces come out of a reserve, which
/// aligns them to no more.
const MOST_UNCONFINED: u64 = 4 << 20;

/// All windows of a device. Its blocks hold on to it, and it to the session, so that a [`Device`](crate::Device) can be
/// dropped before its blocks.
pub(crate) struct Windows {
    session: Arc<Session>,
    /// Never held over a request: who asks iommud for a window keeps nobody else from blocks.
    table: Mutex<Table>,
    /// Buffers that the device may use though nobody stands for them any more.
    retired: Mutex<Vec<Buffer>>,
}

/// The windows that there are.
#[derive(Default)]
struct Table {
    /// With gaps where windows were given back: blocks know theirs by its place.
    windows: Vec<Option<Window>>,
    /// For each kind, which window the last block was taken from or given back to.
    recent: [WindowNumber; Kind::COUNT],
    /// For each kind, how many windows there are that nothing is taken from.
    idle: [usize; Kind::COUNT],
    /// The device's own memory, if some was declared.
    declared: Option<Span>,
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windows").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Windows {
    /// None yet.
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session, table: Mutex::default(), retired: Mutex::new(Vec::new()) }
    }

    /// The session whose windows they are.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Gives out a block that CPUs cache as all other memory. What is in it is what was in it before: it is not zeroed.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`](crate::Device::allocate).
    pub(crate) fn alloc(self: &Arc<Self>, request: &BlockRequest<'_>) -> Result<Block, Error> {
        self.alloc_cached(request, CacheType::WriteBack)
    }

    /// The same, for CPUs to cache as said.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`](crate::Device::allocate).
    pub(crate) fn alloc_cached(
        self: &Arc<Self>,
        request: &BlockRequest<'_>,
        cache: CacheType,
    ) -> Result<Block, Error> {
        request.check()?;
        let BlockRequest { bytes, align, access, limit, .. } = *request;
        match self.alloc_ready(bytes.max(align), Kind { access, cache }.index(), limit) {
            Some(block) => Ok(block),
            None => self.alloc_otherwise(request, cache),
        }
    }

    /// A block of a window that is ready, in a few steps: the [request](Self::alloc) has the others. It has as many bytes at
    /// least, not zero, and is aligned to that rounded up to a power of two.
    pub(crate) fn alloc_ready(
        self: &Arc<Self>,
        bytes: usize,
        kind: KindIndex,
        limit: Iova,
    ) -> Option<Block> {
        let order = order_of(bytes)?;
        let found = self.table.lock().find_ready(kind, limit, order)?;
        Some(self.block(found, order))
    }

    /// The same where no block is ready.
    #[cold]
    fn alloc_otherwise(
        self: &Arc<Self>,
        request: &BlockRequest<'_>,
        cache: CacheType,
    ) -> Result<Block, Error> {
        let Some(order) = order_of(request.bytes.max(request.align)) else {
            return self.alloc_alone(request, derive::Kind::Allocate, cache);
        };
        let kind = Kind { access: request.access, cache };
        let found = self.table.lock().find(kind.index(), request.limit, order);
        match found {
            Some(found) => Ok(self.block(found, order)),
            None => self.grow(kind, request.limit, order),
        }
    }

    /// What was found, as a block.
    #[inline]
    fn block(self: &Arc<Self>, (window, found): (WindowNumber, Found), order: u32) -> Block {
        let Found { start, iova, unit } = found;
        let at = Position::in_window(window, unit, order);
        let piece = Piece { windows: self.clone(), at };
        Block::new(start, iova, Place::Shared(piece))
    }

    /// The same for coherent memory, which comes out of the device's own if that was declared.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`](crate::Device::allocate).
    pub(crate) fn alloc_coherent(
        self: &Arc<Self>,
        request: &BlockRequest<'_>,
        cache: CacheType,
    ) -> Result<Block, Error> {
        request.check()?;
        let BlockRequest { bytes, align, access, limit, .. } = *request;
        match self.alloc_coherent_ready(bytes.max(align), Kind { access, cache }.index(), limit) {
            Some(block) => Ok(block),
            None => self.alloc_declared(request, cache),
        }
    }

    /// The same as [`alloc_ready`](Self::alloc_ready), unless the device has memory of its own.
    pub(crate) fn alloc_coherent_ready(
        self: &Arc<Self>,
        bytes: usize,
        kind: KindIndex,
        limit: Iova,
    ) -> Option<Block> {
        let order = order_of(bytes)?;
        let mut table = self.table.lock();
        if table.declared.is_some() {
            return None;
        }
        let found = table.find_ready(kind, limit, order)?;
        drop(table);
        Some(self.block(found, order))
    }

    /// The same, where it may come out of the device's own or takes a request.
    #[cold]
    fn alloc_declared(
        self: &Arc<Self>,
        request: &BlockRequest<'_>,
        cache: CacheType,
    ) -> Result<Block, Error> {
        let (taken, is_exclusive) = match &mut self.table.lock().declared {
            Some(span) => (span.alloc(request), span.is_exclusive()),
            None => (None, false),
        };
        match taken {
            Some(Taken { start, iova, unit, order }) => {
                let piece = Piece { windows: self.clone(), at: Position::declared(unit, order) };
                Ok(Block::new(start, iova, Place::Shared(piece)))
            }
            None if is_exclusive => Err(Error::OutOfMemory),
            None => self.alloc_cached(request, cache),
        }
    }

    /// The same for coherent memory that is to be a buffer of its own.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`](crate::Device::allocate).
    pub(crate) fn alloc_coherent_alone(
        &self,
        request: &BlockRequest<'_>,
        kind: derive::Kind,
        cache: CacheType,
    ) -> Result<Block, Error> {
        request.check()?;
        if self.table.lock().declared.as_ref().is_some_and(Span::is_exclusive) {
            return Err(Error::OutOfMemory);
        }
        self.alloc_alone(request, kind, cache)
    }

    /// Gives out a block that is a buffer of its own, of zeroes: the device's access to it ends with it.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`](crate::Device::allocate).
    fn alloc_alone(
        &self,
        request: &BlockRequest<'_>,
        kind: derive::Kind,
        cache: CacheType,
    ) -> Result<Block, Error> {
        let BlockRequest { bytes, align, access, limit, label } = *request;
        let whole = (bytes as u64).checked_next_multiple_of(PAGE_SIZE).ok_or(Error::TooLarge)?;
        // What is longer than any buffer is refused as that, not for its alignment.
        let natural = whole.checked_next_power_of_two().unwrap_or(PAGE_SIZE);
        let most = if self.session.is_confined() { natural } else { MOST_UNCONFINED };
        let align = natural.min(most).max(align as u64);
        let request =
            BufferRequest { kind, bytes: whole, align, access: Some(access), limit, cache, label };
        let buffer = self.after_trimming(|| self.session.allocate(&request))?;
        let iova = buffer.iova().ok_or(Error::BadValue)?;
        if buffer.len() < bytes {
            return Err(Error::BadValue);
        }
        Ok(Block::new(buffer.as_ptr(), iova, Place::Own(buffer.into())))
    }

    /// Has coherent memory taken from there.
    pub(crate) fn declare(&self, span: Span) -> Result<(), NotDeclared> {
        let declared = &mut self.table.lock().declared;
        if declared.is_some() {
            let error = DeclareError::AlreadyDeclared;
            return Err(NotDeclared { error, memory: span.into_memory() });
        }
        *declared = Some(span);
        Ok(())
    }

    /// Does something with the device's own memory.
    pub(crate) fn with_declared<R>(
        &self,
        act: impl FnOnce(&mut Span) -> Result<R, DeclareError>,
    ) -> Result<R, DeclareError> {
        let declared = &mut self.table.lock().declared;
        act(declared.as_mut().ok_or(DeclareError::NothingDeclared)?)
    }

    /// Gives the device's own memory back, if no block of it lives.
    pub(crate) fn release_declared(&self) -> Result<DeviceMemory, DeclareError> {
        let declared = &mut self.table.lock().declared;
        declared.as_ref().ok_or(DeclareError::NothingDeclared)?.check_unused()?;
        declared.take().map(Span::into_memory).ok_or(DeclareError::NothingDeclared)
    }

    /// Gets another window, and takes a block from it.
    #[cold]
    fn grow(self: &Arc<Self>, kind: Kind, limit: Iova, order: u32) -> Result<Block, Error> {
        let least = (UNIT << order).max(PAGE_SIZE as usize);
        let largest = self.table.lock().largest(kind);
        let wanted = (2 * largest).clamp(FIRST_WINDOW, LONGEST_WINDOW).max(2 * least);
        let mut bytes = wanted;
        let buffer = loop {
            let request = BufferRequest {
                kind: derive::Kind::Allocate,
                bytes: bytes as u64,
                align: bytes as u64,
                access: Some(kind.access),
                limit,
                cache: kind.cache,
                label: kind.label(),
            };
            match self.after_trimming(|| self.session.allocate(&request)) {
                // Where there is little left, less will do.
                Err(error) if is_scarcity(error) && bytes > least => bytes /= 2,
                other => break other?,
            }
        };
        let mut window = Window::new(kind, buffer)?;
        let found = window.alloc(order).ok_or(Error::BadValue)?;
        let mut window = Some(window);
        let number = self.table.lock().insert(&mut window);
        // One that there is no number for is given back when the lock is not held any more.
        let number = number.ok_or(Error::OutOfMemory)?;
        Ok(self.block((number, found), order))
    }

    /// Gives back a block in a few steps, if it takes no more; whether it was given back.
    #[inline]
    pub(super) fn give_back_ready(&self, at: Position) -> bool {
        self.table.lock().free_ready(at)
    }

    /// Gives back a block, and a window if there are two of its kind now that nothing is taken from.
    pub(super) fn give_back(&self, at: Position) {
        let idle = self.table.lock().free(at);
        // Its buffer is closed after the lock is.
        drop(idle);
    }

    /// Keeps a block as it is, mapped and given out to nobody else, until the windows end with their device: the
    /// device may go on to write to it.
    pub(crate) fn retire(&self, block: Block) {
        // What is part of a window stays taken from it.
        if let Some(buffer) = block.leave() {
            self.retired.lock().push(buffer);
        }
    }

    /// Makes a request, and if iommud has no more to give, gives it back all windows that nothing is taken from and
    /// makes it again.
    #[inline]
    pub(crate) fn after_trimming<R>(
        &self,
        mut request: impl FnMut() -> Result<R, Error>,
    ) -> Result<R, Error> {
        // One place where it is made, so that it is no function of its own.
        let mut is_again = false;
        loop {
            match request() {
                Err(error) if !is_again && self.has_trimmed_for(error) => is_again = true,
                done => return done,
            }
        }
    }

    /// Whether windows were given back because of this error.
    #[cold]
    fn has_trimmed_for(&self, error: Error) -> bool {
        is_scarcity(error) && self.trim() > 0
    }

    /// Gives back all windows that nothing is taken from: how many bytes they were.
    pub(crate) fn trim(&self) -> usize {
        let idle = self.table.lock().take_idle();
        if self.session.is_confined() {
            // When the answer is there, no unit knows of any of them, and closing them gives their memory back at once.
            let mappings: Vec<Mapped> = idle.iter().map(Window::mapped).collect();
            for batch in mappings.chunks(MAX_BATCH) {
                // What cannot be unmapped is not given back either, when it is closed.
                let _ = self.session.unmap_strictly(batch);
            }
        }
        idle.iter().map(Window::bytes).sum()
    }

    /// How much is in windows, for each kind of which there are any.
    pub(crate) fn usage(&self) -> Vec<WindowUsage> {
        let table = self.table.lock();
        let mut usage: Vec<WindowUsage> = Vec::new();
        for window in table.windows.iter().flatten() {
            let Kind { access, cache } = window.kind;
            let same = |row: &WindowUsage| (row.access, row.cache) == (access, cache);
            let row = match usage.iter().position(same) {
                Some(row) => row,
                None => {
                    usage.push(WindowUsage::none(access, cache));
                    usage.len() - 1
                }
            };
            let Some(row) = usage.get_mut(row) else { continue };
            row.windows += 1;
            row.idle += usize::from(window.is_idle());
            row.bytes += window.bytes();
            row.used += window.used();
            row.blocks += window.blocks;
        }
        usage
    }
}

impl Table {
    /// Takes a block from a window that there is.
    fn find(&mut self, kind: KindIndex, limit: Iova, order: u32) -> Option<(WindowNumber, Found)> {
        let recent = self.recent[kind.get()];
        if let Some(found) = self.take(recent, kind, limit, order) {
            return Some((recent, found));
        }
        for number in 0..self.windows.len() as WindowNumber {
            if let Some(found) = self.take(number, kind, limit, order) {
                self.recent[kind.get()] = number;
                return Some((number, found));
            }
        }
        None
    }

    /// The same if a block is ready, in a few steps.
    #[inline]
    fn find_ready(
        &mut self,
        kind: KindIndex,
        limit: Iova,
        order: u32,
    ) -> Option<(WindowNumber, Found)> {
        let recent = self.recent[kind.get()];
        let window = self.suiting(recent, kind, limit)?;
        let found = window.alloc_ready(order)?;
        if window.blocks == 1 {
            self.idle[kind.get()] -= 1;
        }
        Some((recent, found))
    }

    /// Takes a block from this window, if it has one of this kind.
    fn take(
        &mut self,
        number: WindowNumber,
        kind: KindIndex,
        limit: Iova,
        order: u32,
    ) -> Option<Found> {
        let window = self.suiting(number, kind, limit)?;
        let found = window.alloc(order)?;
        if window.blocks == 1 {
            self.idle[kind.get()] -= 1;
        }
        Some(found)
    }

    /// The window of this number, if it is of this kind and the device reaches all of it.
    #[inline]
    fn suiting(
        &mut self,
        number: WindowNumber,
        kind: KindIndex,
        limit: Iova,
    ) -> Option<&mut Window> {
        let window = self.windows.get_mut(usize::from(number))?.as_mut()?;
        (window.kind_index == kind && window.is_below(limit)).then_some(window)
    }

    /// How long the largest window of a kind is.
    fn largest(&self, kind: Kind) -> usize {
        let same = self.windows.iter().flatten().filter(|window| window.kind == kind);
        same.map(Window::bytes).max().unwrap_or(0)
    }

    /// Enters a window that a block is taken from, if there is a number for it: which.
    fn insert(&mut self, window: &mut Option<Window>) -> Option<WindowNumber> {
        let gap = self.windows.iter().position(Option::is_none).unwrap_or(self.windows.len());
        let number = WindowNumber::try_from(gap).ok().filter(|it| *it < WindowNumber::MAX)?;
        let window = window.take()?;
        self.recent[window.kind_index.get()] = number;
        match self.windows.get_mut(gap) {
            Some(place) => *place = Some(window),
            None => self.windows.push(Some(window)),
        }
        Some(number)
    }

    /// Gives back a block, if it is to be kept ready and its window stays; whether it was given back.
    #[inline]
    fn free_ready(&mut self, at: Position) -> bool {
        // Where the device's own memory is, there is no window.
        let Some(Some(window)) = self.windows.get_mut(usize::from(at.window())) else {
            return false;
        };
        let kind = window.kind_index.get();
        let becomes_idle = window.blocks == 1;
        if becomes_idle && self.idle[kind] > 0 {
            return false;
        }
        let is_done = window.free_ready(at.unit(), at.order());
        if is_done {
            self.recent[kind] = at.window();
            self.idle[kind] += usize::from(becomes_idle);
        }
        is_done
    }

    /// Gives back a block; the window that is to be given back for it.
    fn free(&mut self, at: Position) -> Option<Window> {
        if at.is_declared() {
            // There is some as long as a block of it lives.
            if let Some(span) = &mut self.declared {
                span.free(at.unit(), at.order());
            }
            return None;
        }
        let window = self.windows.get_mut(usize::from(at.window()))?.as_mut()?;
        window.free(at.unit(), at.order());
        let (kind, is_idle) = (window.kind_index.get(), window.is_idle());
        self.recent[kind] = at.window();
        match self.idle[kind] {
            _ if !is_idle => None,
            0 => {
                self.idle[kind] = 1;
                None
            }
            _ => self.windows[usize::from(at.window())].take(),
        }
    }

    /// Takes out all windows that nothing is taken from.
    fn take_idle(&mut self) -> Vec<Window> {
        self.idle = [0; Kind::COUNT];
        let idle = |window: &Option<Window>| window.as_ref().is_some_and(Window::is_idle);
        self.windows.iter_mut().filter(|window| idle(window)).filter_map(mem::take).collect()
    }
}

/// How long a block of so many bytes is in a window, in units: 2 to this power. None, if it shares none.
#[inline]
fn order_of(bytes: usize) -> Option<u32> {
    // What is shorter than a unit is one.
    let last = bytes.wrapping_sub(1) | (UNIT - 1);
    (last < LONGEST_BLOCK).then(|| last.ilog2() + 1 - UNIT.ilog2())
}

/// Whether another request would be granted if iommud had more to give.
fn is_scarcity(error: Error) -> bool {
    matches!(error, Error::QuotaExceeded | Error::OutOfMemory | Error::NoAddressSpace)
}
