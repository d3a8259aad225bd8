//! What is mapped by one handle, in all the processes that have it.
//!
//! It is for whoever starts a process while he has memory mapped by a handle that was revoked. relibc
//! (`redox-rt/src/proc.rs`, `fork_inner`) asks for each of the parent's mappings once more, for the child, and makes no child
//! if one is refused. Who has a mapping may have that.

use std::ops::Range;

use dma_types::PAGE_SIZE;

use super::request::MapRequest;

/// As many mappings of one handle are remembered. Who has more of them, and is revoked, starts no process.
const MOST: usize = 64;

/// A mapping, or what is left of one.
#[derive(Clone, Debug)]
struct Mapping {
    range: Range<u64>,
    write: bool,
}

/// The mappings by one handle.
#[derive(Debug, Default)]
pub struct Mapped {
    mappings: Vec<Mapping>,
}

impl Mapped {
    /// Notes one that somebody got.
    pub fn add(&mut self, request: MapRequest) {
        if self.mappings.len() < MOST {
            let range = pages(request.offset, request.bytes);
            self.mappings.push(Mapping { range, write: request.write });
        }
    }

    /// Forgets one, or a part of one, that is gone.
    pub fn take(&mut self, offset: u64, bytes: u64) {
        let gone = pages(offset, bytes);
        let is_whole = |mapping: &Mapping| mapping.range == gone;
        let has_it =
            |mapping: &Mapping| mapping.range.start <= gone.start && gone.end <= mapping.range.end;
        let place = self.mappings.iter().position(is_whole);
        let Some(place) = place.or_else(|| self.mappings.iter().position(has_it)) else { return };
        let Mapping { range, write } = self.mappings.swap_remove(place);
        for range in [range.start..gone.start, gone.end..range.end] {
            if !range.is_empty() {
                self.mappings.push(Mapping { range, write });
            }
        }
    }

    /// Whether all that a request is for is in a mapping that is there, and may be used as is asked for.
    pub fn has(&self, request: MapRequest) -> bool {
        let wanted = pages(request.offset, request.bytes);
        self.mappings.iter().any(|Mapping { range, write }| {
            range.start <= wanted.start && wanted.end <= range.end && (*write || !request.write)
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }
}

/// The kernel maps whole pages.
fn pages(offset: u64, bytes: u64) -> Range<u64> {
    offset..offset.saturating_add(bytes).saturating_add(PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn request(offset: u64, bytes: u64, write: bool) -> MapRequest {
        MapRequest { offset, bytes, shared: true, write, execute: false }
    }

    #[test]
    fn a_mapping_is_there_as_it_was_asked_for_and_no_other() {
        let mut mapped = Mapped::default();
        mapped.add(request(0x1000, 0x1001, false));
        assert!(
            mapped.has(request(0x1000, 0x2000, false)) && mapped.has(request(0x2000, 1, false))
        );
        for other in [
            request(0x1000, 0x2000, true),
            request(0x1000, 0x2001, false),
            request(0, 0x1000, false),
            request(0x3000, 1, false),
            request(0x2000, u64::MAX, false),
        ] {
            assert!(!mapped.has(other), "{other:?}");
        }
    }

    #[test]
    fn what_is_gone_in_parts_is_gone() {
        let mut mapped = Mapped::default();
        mapped.add(request(0, 0x3000, true));
        mapped.add(request(0x1000, 0x1000, false));
        mapped.take(0x1000, 0x1000);
        assert!(mapped.has(request(0, 0x3000, true)), "the one that is just so went");
        mapped.take(0x1000, 0x1000);
        assert!(!mapped.has(request(0, 0x3000, false)) && !mapped.has(request(0x1000, 1, false)));
        assert!(mapped.has(request(0, 0x1000, true)) && mapped.has(request(0x2000, 0x1000, true)));
        mapped.take(0x5000, 0x1000);
        mapped.take(0, 0x1000);
        mapped.take(0x2000, 0x1000);
        assert!(mapped.is_empty());
    }

    #[test]
    fn r5_who_maps_without_end_takes_no_memory_by_it() {
        let mut mapped = Mapped::default();
        (0..10_000).for_each(|_| mapped.add(request(0, 0x1000, false)));
        assert_eq!(mapped.mappings.len(), MOST);
    }
}
