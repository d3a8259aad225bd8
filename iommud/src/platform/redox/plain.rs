//! Whether a range of an address space is all there, and all plain memory.

use thiserror::Error;

/// The most extents that are looked at. What may be taken over at once has half as many pages, and whoever sends more
/// than that wants to keep the daemon busy.
pub const MOST_EXTENTS: usize = 8192;

/// A range of an address space that is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub start: usize,
    /// Its length.
    pub bytes: usize,
    /// Whether it is memory of its owner's own: no device registers, of no file or scheme, and not shared.
    pub is_plain: bool,
}

/// Why a range is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unfit {
    /// Not all of it is there.
    #[error("the object has less memory than was said")]
    TooShort,
    /// Not all of it is plain memory.
    #[error("the object has memory in it that is not its sender's own")]
    NotPlain,
    /// Whoever sent it wants to keep the daemon busy.
    #[error("the object is in more than {MOST_EXTENTS} pieces")]
    TooManyPieces,
}

/// Refuses a range that is not all there, or not all plain memory. Extents are as the kernel tells them, in the order of
/// their addresses.
///
/// # Errors
///
/// [`Unfit`].
pub fn judge(
    extents: impl IntoIterator<Item = Extent>,
    address: usize,
    bytes: usize,
) -> Result<(), Unfit> {
    let end = address.checked_add(bytes).ok_or(Unfit::TooShort)?;
    let mut reached = address;
    for (number, extent) in extents.into_iter().enumerate() {
        if number >= MOST_EXTENTS {
            return Err(Unfit::TooManyPieces);
        }
        let extent_end = extent.start.saturating_add(extent.bytes);
        if extent_end <= reached {
            continue;
        }
        if extent.start > reached {
            return Err(Unfit::TooShort);
        }
        if !extent.is_plain {
            return Err(Unfit::NotPlain);
        }
        reached = extent_end;
        if reached >= end {
            return Ok(());
        }
    }
    Err(Unfit::TooShort)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 0x1000;

    fn plain(page: usize, pages: usize) -> Extent {
        Extent { start: page * PAGE, bytes: pages * PAGE, is_plain: true }
    }

    fn other(page: usize, pages: usize) -> Extent {
        Extent { is_plain: false, ..plain(page, pages) }
    }

    /// Judges the pages 10, 11 and 12.
    fn judged(extents: &[Extent]) -> Result<(), Unfit> {
        judge(extents.iter().copied(), 10 * PAGE, 3 * PAGE)
    }

    #[test]
    fn a_range_that_is_all_plain_is_fit_however_many_pieces_it_is_of() {
        assert_eq!(judged(&[plain(10, 3)]), Ok(()));
        assert_eq!(judged(&[plain(0, 100)]), Ok(()));
        assert_eq!(judged(&[plain(9, 2), plain(11, 1), plain(12, 7)]), Ok(()));
        // What is beside it does not matter.
        assert_eq!(judged(&[other(0, 10), plain(10, 3), other(13, 1)]), Ok(()));
    }

    #[test]
    fn r3_no_page_of_it_is_of_another_kind() {
        for page in 10..13 {
            let pieces = (10..13).map(|it| if it == page { other(it, 1) } else { plain(it, 1) });
            assert_eq!(judged(&pieces.collect::<Vec<_>>()), Err(Unfit::NotPlain), "{page}");
        }
        assert_eq!(judged(&[other(0, 100)]), Err(Unfit::NotPlain));
        assert_eq!(judged(&[other(0, 11), plain(11, 2)]), Err(Unfit::NotPlain));
        assert_eq!(judged(&[plain(10, 2), other(12, 100)]), Err(Unfit::NotPlain));
    }

    #[test]
    fn r5_a_range_with_a_hole_is_too_short() {
        for missing in 10..13 {
            let pieces = (9..14).filter(|it| *it != missing).map(|it| plain(it, 1));
            assert_eq!(judged(&pieces.collect::<Vec<_>>()), Err(Unfit::TooShort), "{missing}");
        }
        assert_eq!(judged(&[]), Err(Unfit::TooShort));
        assert_eq!(judged(&[plain(0, 10), plain(13, 1)]), Err(Unfit::TooShort));
        // The kernel never says such things.
        assert_eq!(judged(&[plain(11, 2), plain(10, 1)]), Err(Unfit::TooShort));
        assert_eq!(judge([plain(0, 1)], usize::MAX - PAGE + 1, 2 * PAGE), Err(Unfit::TooShort));
        let last = usize::MAX - PAGE + 1;
        let at_the_end = Extent { start: last, bytes: PAGE, is_plain: true };
        assert_eq!(judge([at_the_end], last, 2 * PAGE), Err(Unfit::TooShort));
        let all = Extent { start: PAGE, bytes: usize::MAX, is_plain: true };
        assert_eq!(judged(&[all]), Ok(()));
    }

    #[test]
    fn r5_no_more_pieces_are_looked_at_than_anybody_needs() {
        let mut looked_at = 0;
        let pieces = core::iter::repeat_with(|| {
            looked_at += 1;
            plain(0, 1)
        });
        assert_eq!(judge(pieces, 10 * PAGE, 3 * PAGE), Err(Unfit::TooManyPieces));
        assert_eq!(looked_at, MOST_EXTENTS + 1);
        let below = (0..MOST_EXTENTS - 1).map(|_| plain(0, 1));
        assert_eq!(judge(below.chain([plain(10, 3)]), 10 * PAGE, 3 * PAGE), Ok(()));
    }
}
