//! On what terms a stream maps memory.

use alloc::boxed::Box;
use alloc::sync::Arc;

use dma_types::{Access, CacheType, Iova, PAGE_SIZE};

use super::batch::Piece;
use super::memory::{Memory, Pages};
use super::requests;
use crate::buffer::Buffer;
use crate::check::{self, Mark, Note, Place};
use crate::limits::Limits;
use crate::mapping::wire::Places;
use crate::protocol::Error;
use crate::protocol::derive::Kind;
use crate::session::{BufferRequest, Session};
use crate::window::{self, Block, BlockRequest, Windows};

/// What blocks of windows are aligned to at least: the CPU's cache lines, so that what the CPU writes next to a block does
/// not take the line away that a device is writing.
const LINE: usize = 64;

/// On what terms a stream maps memory.
#[derive(Clone)]
pub(crate) struct Terms {
    windows: Arc<Windows>,
    /// What the device can be given.
    limits: Limits,
    /// The highest I/O address.
    limit: Iova,
    /// As its function says.
    longest: u64,
    pub(super) label: Box<str>,
    /// Whether the device is to lose its access before an unmap returns.
    pub(crate) strict: bool,
    /// As its function says.
    pub(super) skip_cpu_sync: bool,
    /// Whether memory of the stream's is to be in one physical piece.
    pub(super) contiguous: bool,
    /// Where in the code the driver is, if it is not who maps.
    pub(super) driver: Option<Place>,
}

impl Terms {
    pub(crate) fn new(windows: Arc<Windows>, limits: Limits, limit: Iova, label: &str) -> Self {
        let (label, longest) = (label.into(), limits.longest_single());
        let (strict, skip_cpu_sync, contiguous, driver) = (false, false, false, None);
        Self { windows, limits, limit, longest, label, strict, skip_cpu_sync, contiguous, driver }
    }

    #[inline]
    pub(crate) fn session(&self) -> &Arc<Session> {
        self.windows.session()
    }

    #[inline]
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether mapping and unmapping copies nothing.
    #[inline]
    pub(crate) fn skip_cpu_sync(&self) -> bool {
        self.skip_cpu_sync
    }

    /// Refuses memory of these other terms that cannot be mapped on these.
    pub(crate) fn check_suit(&self, other: &Self) -> Result<(), Error> {
        if core::ptr::eq(self, other) {
            return Ok(());
        }
        let suits = other.limit <= self.limit && other.strict == self.strict;
        self.check_device(other)?;
        if suits { Ok(()) } else { Err(Error::OtherTerms) }
    }

    /// Refuses memory of other terms than these.
    pub(super) fn check_same(&self, other: &Self) -> Result<(), Error> {
        if core::ptr::eq(self, other) {
            return Ok(());
        }
        let terms = |it: &Self| (it.limits, it.limit, it.strict, it.skip_cpu_sync, it.contiguous);
        let same = terms(self) == terms(other);
        self.check_device(other)?;
        if same { Ok(()) } else { Err(Error::OtherTerms) }
    }

    /// Refuses what is another device's.
    pub(super) fn check_device(&self, other: &Self) -> Result<(), Error> {
        if Arc::ptr_eq(self.session(), other.session()) { Ok(()) } else { Err(Error::WrongOwner) }
    }

    /// What reports call its memory.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn limit(&self) -> Iova {
        self.limit
    }

    /// The longest piece of memory that is one segment wherever it lies.
    #[inline]
    pub(crate) fn longest(&self) -> u64 {
        self.longest
    }

    /// By what the checker knows memory that is the device's from now on.
    #[track_caller]
    #[inline]
    pub(crate) fn mark(
        &self,
        kind: check::Kind,
        of: &[&Mark],
        iova: Iova,
        bytes: u64,
        access: Access,
    ) -> Mark {
        match check::is_on() {
            true => self.note(kind, of, Some(iova), bytes, Some(access)),
            false => Mark::default(),
        }
    }

    /// By what the checker knows memory that is the CPU's.
    #[track_caller]
    #[inline]
    pub(super) fn mark_memory(&self, bytes: usize) -> Mark {
        match check::is_on() {
            true => self.note(check::Kind::StreamMemory, &[], None, bytes as u64, None),
            false => Mark::default(),
        }
    }

    #[track_caller]
    #[cold]
    fn note(
        &self,
        kind: check::Kind,
        of: &[&Mark],
        iova: Option<Iova>,
        bytes: u64,
        access: Option<Access>,
    ) -> Mark {
        let (label, space) = (&*self.label, self.session().space());
        let at = self.driver.unwrap_or(Place::here());
        check::made_at(at, of, || Note { kind, label, space, iova, bytes, access })
    }

    /// Whether a piece of memory is one segment for the device.
    #[inline]
    pub(super) fn is_single(&self, iova: Iova, bytes: u64) -> bool {
        let boundary = self.limits.segment_boundary();
        let (start, last) = (iova.get(), iova.get().saturating_add(bytes.saturating_sub(1)));
        let crosses = boundary != u64::MAX && (start ^ last) >= boundary;
        bytes <= self.limits.max_segment_bytes() && !crosses
    }

    /// What memory of this length is to be aligned to, so that it crosses no boundary of the device's if it can.
    fn align(&self, bytes: usize) -> usize {
        let boundary = self.limits.segment_boundary();
        if boundary == u64::MAX || bytes as u64 > boundary {
            return LINE;
        }
        bytes.next_power_of_two().max(LINE)
    }

    /// Memory of the stream's if it comes from a window, and is ready there.
    #[inline]
    pub(super) fn ready(&self, bytes: usize, access: Access) -> Option<Block> {
        if self.strict | self.contiguous {
            return None;
        }
        // Whatever is ready is aligned to its length, of one line at least.
        let kind = window::Kind { access, cache: CacheType::WriteBack };
        self.windows.alloc_ready(bytes, kind.index(), self.limit)
    }

    /// A piece of a window. What was in it is in it still.
    pub(crate) fn block(&self, bytes: usize, access: Access) -> Result<Block, Error> {
        let (align, limit, label) = (self.align(bytes), self.limit, &*self.label);
        self.windows.alloc(&BlockRequest { bytes, align, access, limit, label })
    }

    /// Memory of the stream's: a piece of a window; or, of a strict stream or one of contiguous memory, pages of their own that
    /// are not mapped.
    pub(crate) fn memory(&self, bytes: usize, access: Access) -> Result<Memory, Error> {
        if self.strict || self.contiguous {
            return Ok(Memory::Pages(Pages::new(self.pages(bytes)?)));
        }
        Ok(Memory::Window(self.block(bytes, access)?))
    }

    fn pages(&self, bytes: usize) -> Result<Buffer, Error> {
        let bytes = (bytes as u64).checked_next_multiple_of(PAGE_SIZE).ok_or(Error::TooLarge)?;
        let request = BufferRequest {
            kind: if self.contiguous { Kind::AllocateContiguous } else { Kind::Allocate },
            bytes,
            align: PAGE_SIZE,
            access: None,
            limit: self.limit,
            cache: CacheType::WriteBack,
            label: &self.label,
        };
        self.after_trimming(|| self.session().allocate(&request))
    }

    /// Maps those of these pages that the device has no way to, which are so many, within the limits; windows that are not in
    /// use make room for them. Several that need not be one segment each lie one behind the other, where there is room for
    /// that, so that they are few.
    pub(super) fn map(
        &self,
        access: Access,
        pieces: &mut [Piece<'_>],
        (count, single): (usize, bool),
    ) -> Result<(), Error> {
        let mut map = |places| requests::map(self, access, pieces, (count, places));
        if !single && count > 1 && self.session().is_confined() {
            match map(Places::Together) {
                Err(Error::NoAddressSpace) => {}
                other => return other,
            }
        }
        self.after_trimming(|| map(Places::Anywhere))
    }

    /// Makes a request; windows that are not in use make room for it.
    #[inline]
    pub(super) fn after_trimming<R>(
        &self,
        request: impl FnMut() -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.windows.after_trimming(request)
    }

    /// Whether memory that cannot be mapped for this reason may be copied through a window.
    pub(super) fn may_bounce(&self, error: Error) -> bool {
        self.bounces() && matches!(error, Error::NoAddressSpace | Error::NotContiguous)
    }

    /// Whether memory that cannot be mapped may be copied through a window at all.
    #[inline]
    pub(super) fn bounces(&self) -> bool {
        !self.strict && !self.contiguous
    }
}
