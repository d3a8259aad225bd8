//! Memory of the agent's own whose place is known: huge pages, which stay where they are.

use std::fs;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::failure::{Failure, Outcome};
use crate::map::Map;
use crate::physical;

/// The length of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// How much of each page, from its start, is filled and looked at: as much as the first windows of a driver are long, and
/// more than any transfer moves.
const WATCHED: usize = 64 << 10;

/// Huge pages that no device has any business with.
pub(crate) struct HugePages {
    map: Map,
    physical: Vec<u64>,
}

impl HugePages {
    /// Takes this many pages, filled with something that no device writes.
    pub(crate) fn new(count: usize) -> Outcome<Self> {
        let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::CLOEXEC;
        let memory = memfd_create("canary", flags)?;
        ftruncate(&memory, (count * HUGE_PAGE) as u64)?;
        let map = Map::of(&memory, 0, count * HUGE_PAGE)?;
        let mut pages = Self { map, physical: Vec::new() };
        for page in 0..count {
            for offset in (0..WATCHED).step_by(8) {
                pages.map.write64(page * HUGE_PAGE + offset, canary(page, offset))?;
            }
            let place = physical::address_of(pages.map.address() + page * HUGE_PAGE)?;
            pages.physical.push(place);
        }
        Ok(pages)
    }

    /// Where each page is in physical memory.
    pub(crate) fn physical(&self) -> &[u64] {
        &self.physical
    }

    /// Where the first page is in physical memory.
    pub(crate) fn first(&self) -> u64 {
        self.physical.first().copied().unwrap_or_default()
    }

    /// The pages as memory.
    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// Whether all is as it was filled.
    pub(crate) fn are_intact(&self) -> Outcome<bool> {
        for page in 0..self.physical.len() {
            for offset in (0..WATCHED).step_by(8) {
                if self.map.read64(page * HUGE_PAGE + offset)? != canary(page, offset) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// A word that differs from all others, in most of its bits, and is not zero.
fn canary(page: usize, offset: usize) -> u64 {
    ((page * WATCHED + offset) as u64 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// How many huge pages Linux has to give.
pub(crate) fn free() -> Outcome<usize> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let free = memory.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    let free = free.ok_or_else(|| Failure("/proc/meminfo has no HugePages_Free".into()))?;
    Ok(free.trim().parse()?)
}
