//! What is asked for, in pages.

use dma_types::PAGE_SIZE;

use super::error::IovaError;
use super::request::IovaRequest;
use crate::table::format::PAGE_SHIFT;

/// No device starts its search above 4 GiB: those that reach further have no narrower neighbours to spare.
const HIGHEST_FLOOR: u64 = (1 << 32) >> PAGE_SHIFT;

/// A request in pages, checked.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) pages: u64,
    pub(super) order: u32,
    /// The first page that the request may use.
    pub(super) first: u64,
    /// The first page that the request may not use.
    pub(super) end: u64,
}

impl Wanted {
    /// What is asked for of a space of so many pages.
    ///
    /// # Errors
    ///
    /// [`ZeroSize`](IovaError::ZeroSize), [`NotPages`](IovaError::NotPages), [`BadAlignment`](IovaError::BadAlignment).
    #[inline]
    pub(super) fn of(request: IovaRequest, pages_of_space: u64) -> Result<Self, IovaError> {
        let IovaRequest { bytes, align, first, limit } = request;
        let pages = whole_pages(bytes)?;
        if !is_alignment(align) {
            return Err(IovaError::BadAlignment { align });
        }
        let order = align.trailing_zeros() - PAGE_SHIFT;
        // None of the space is above its end.
        let first = first.get().div_ceil(PAGE_SIZE).min(pages_of_space);
        // The first page that does not lie at or below the limit with its last byte.
        let end = (limit.get().saturating_add(1) >> PAGE_SHIFT).min(pages_of_space);
        Ok(Self { pages, order, first, end })
    }

    /// The page from which on to look first.
    #[inline]
    pub(super) fn floor(self) -> u64 {
        let upper_half = self.end.next_power_of_two() / 2;
        upper_half.min(HIGHEST_FLOOR).max(self.first)
    }

    /// Whether an allocation at page `start` is what was asked for.
    #[inline]
    pub(super) fn suits(self, start: u64) -> bool {
        start + self.pages <= self.end && start & ((1 << self.order) - 1) == 0
    }
}

/// `bytes` in pages, if it is a size.
#[inline]
pub(super) fn whole_pages(bytes: u64) -> Result<u64, IovaError> {
    match bytes {
        0 => Err(IovaError::ZeroSize),
        _ if !bytes.is_multiple_of(PAGE_SIZE) => Err(IovaError::NotPages { bytes }),
        _ => Ok(bytes >> PAGE_SHIFT),
    }
}

/// Whether an address can be asked to be a multiple of this.
#[inline]
const fn is_alignment(align: u64) -> bool {
    align.is_power_of_two() && align >= PAGE_SIZE
}
