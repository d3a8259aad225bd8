//! Where memory really is.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::failure::{Outcome, require};

const PAGE: usize = 4096;

/// An entry of `/proc/self/pagemap` (Linux `Documentation/admin-guide/mm/pagemap.rst`): the page is in
/// memory, and the number of its frame.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// The physical address of a page of this process.
pub(crate) fn address_of(page: usize) -> Outcome<u64> {
    let mut entry = [0; 8];
    let index = u64::try_from(page / PAGE)?;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, index * 8)?;
    let entry = u64::from_le_bytes(entry);
    require!(entry & PRESENT != 0, "the page at {page:#x} is not in memory");
    let frame = entry & FRAME;
    require!(frame != 0, "the frame's number is hidden: not root");
    Ok(frame * PAGE as u64)
}
