//! Memory of drivers' own, which they give iommud. When a driver has died and no device has any of it, it is the next
//! one's.

use std::ptr::NonNull;

/// One piece of it.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// How long a piece is, in pages, and how many there are.
const PIECE: usize = 2;
const PIECES: usize = 8;

/// All of it.
pub(crate) struct Pages {
    all: NonNull<[Page]>,
    taken: usize,
}

impl Pages {
    pub(crate) fn new() -> Self {
        let all: Vec<Page> = (0..PIECE * PIECES).map(|_| Page([0; 4096])).collect();
        Self { all: NonNull::from(Box::leak(all.into_boxed_slice())), taken: 0 }
    }

    /// A piece that no driver of this life has had.
    pub(crate) fn take(&mut self) -> Option<NonNull<[u8]>> {
        let first = self.taken * PIECE;
        if first >= self.all.len() {
            return None;
        }
        self.taken += 1;
        let bytes = PIECE * size_of::<Page>();
        let start = self.all.cast::<Page>().as_ptr().wrapping_add(first).cast::<u8>();
        NonNull::new(start).map(|start| NonNull::slice_from_raw_parts(start, bytes))
    }

    /// Nobody has any of it any more.
    pub(crate) fn all_back(&mut self) {
        self.taken = 0;
    }
}
