//! What a unit caches: device table entries, translations, and the tables on the way to them.
//!
//! Nothing leaves a cache unless an invalidation covers it; see the rules at the crate root.

use std::collections::HashMap;

use dma_types::SourceId;

use super::entries::{Device, Illegal, shift, shifted};

/// How many entries a cache holds before it starts anew, so that it does not grow without bound.
const CAPACITY: usize = 1 << 16;

/// A device table entry, good or not, as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedDevice {
    pub(crate) found: Result<Device, Illegal>,
    /// Which setting of the device table it was read under.
    pub(crate) generation: u64,
    /// Whether a page fault of the device has been logged since it was read (for SE).
    pub(crate) faulted: bool,
}

/// What every entry on the way so far allows, the device's own not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// A page in the IOTLB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) start: u64,
    pub(crate) rights: Rights,
}

/// A table in the PDE cache: what an entry of some level leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) start: u64,
    pub(crate) level: u8,
    /// The level of the entry that leads here: the bits between the two must be zero.
    pub(crate) from: u8,
    pub(crate) rights: Rights,
}

/// The translations that INVALIDATE_IOMMU_PAGES names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) domain: u16,
    /// An address in the range.
    pub(crate) address: u64,
    /// The range is `2^bits` bytes, aligned to as much; 64 is everything.
    pub(crate) bits: u8,
    /// PDE: the tables on the way too.
    pub(crate) tables: bool,
}

impl Range {
    fn covers(&self, (domain, bits, number): Key) -> bool {
        domain == self.domain
            && bits <= self.bits
            && shifted(number << bits, self.bits) == shifted(self.address, self.bits)
    }

    fn overlaps(&self, (domain, bits, number): Key) -> bool {
        let wider = bits.max(self.bits);
        domain == self.domain && shifted(number << bits, wider) == shifted(self.address, wider)
    }
}

/// A region of a domain's addresses: domain, bits of its size, and its address above those.
type Key = (u16, u8, u64);

/// The caches of one unit.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    devices: HashMap<SourceId, CachedDevice>,
    pages: HashMap<Key, Page>,
    /// Which sizes of page there ever were in `pages`, by bits.
    sizes: u64,
    tables: HashMap<Key, Table>,
    /// NpCache: regions that an entry found not present would have mapped.
    absent: HashMap<Key, ()>,
}

impl Caches {
    pub(crate) fn device(&mut self, source: SourceId) -> Option<&mut CachedDevice> {
        self.devices.get_mut(&source)
    }

    pub(crate) fn keep_device(&mut self, source: SourceId, device: CachedDevice) {
        self.devices.insert(source, device);
    }

    /// The cached page for an address, with the bits of its size.
    pub(crate) fn page(&self, domain: u16, address: u64) -> Option<(Page, u8)> {
        (12..64).filter(|bits| self.sizes >> bits & 1 != 0).find_map(|bits| {
            self.pages.get(&(domain, bits, shifted(address, bits))).map(|&page| (page, bits))
        })
    }

    pub(crate) fn keep_page(&mut self, domain: u16, bits: u8, address: u64, page: Page) {
        self.sizes |= 1 << bits;
        insert(&mut self.pages, (domain, bits, shifted(address, bits)), page);
    }

    /// The lowest cached table on the way to an address, for a root of `top` levels.
    pub(crate) fn table(&self, domain: u16, top: u8, address: u64) -> Option<Table> {
        (2..=top).find_map(|level| {
            let bits = shift(level);
            self.tables.get(&(domain, bits, shifted(address, bits))).copied()
        })
    }

    /// Keeps where an entry leads, under the level that it was read at.
    pub(crate) fn keep_table(&mut self, domain: u16, address: u64, table: Table) {
        let bits = shift(table.from);
        insert(&mut self.tables, (domain, bits, shifted(address, bits)), table);
    }

    /// Whether an entry for this address, of any level, is known to be not present.
    pub(crate) fn is_absent(&self, domain: u16, address: u64) -> bool {
        (1..=6).any(|level| {
            let bits = shift(level);
            self.absent.contains_key(&(domain, bits, shifted(address, bits)))
        })
    }

    pub(crate) fn keep_absent(&mut self, domain: u16, level: u8, address: u64) {
        let bits = shift(level);
        insert(&mut self.absent, (domain, bits, shifted(address, bits)), ());
    }

    pub(crate) fn drop_device(&mut self, source: SourceId) {
        self.devices.remove(&source);
    }

    /// Drops what the range covers whole, and, with PDE, whatever tables it touches.
    pub(crate) fn drop_range(&mut self, range: Range) {
        self.pages.retain(|&key, _| !range.covers(key));
        self.absent.retain(|&key, ()| !(range.covers(key) || range.tables && range.overlaps(key)));
        if range.tables {
            self.tables.retain(|&key, _| !range.overlaps(key));
        }
    }

    pub(crate) fn drop_all(&mut self) {
        *self = Self::default();
    }
}

fn insert<V>(map: &mut HashMap<Key, V>, key: Key, value: V) {
    if map.len() >= CAPACITY {
        map.clear();
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHTS: Rights = Rights { read: true, write: true };
    const PAGE: Page = Page { start: 0, rights: RIGHTS };

    fn range(address: u64, bits: u8, tables: bool) -> Range {
        Range { domain: 1, address, bits, tables }
    }

    #[test]
    fn a_page_goes_only_with_a_range_that_covers_it() {
        let mut caches = Caches::default();
        caches.keep_page(1, 13, 0x4000, PAGE);
        caches.keep_page(1, 21, 0x20_0000, PAGE);
        caches.keep_page(2, 12, 0x4000, PAGE);
        caches.drop_range(range(0x5000, 12, true));
        assert_eq!(caches.page(1, 0x5fff).map(|(_, bits)| bits), Some(13));
        caches.drop_range(range(0x5000, 13, false));
        assert!(caches.page(1, 0x4000).is_none());
        caches.drop_range(range(0, 21, false));
        assert!(caches.page(1, 0x2f_ffff).is_some());
        caches.drop_range(range(0, 22, false));
        assert!(caches.page(1, 0x2f_ffff).is_none());
        assert!(caches.page(2, 0x4000).is_some());
        caches.drop_range(Range { domain: 2, ..range(0, 64, false) });
        assert!(caches.page(2, 0x4000).is_none());
    }

    #[test]
    fn tables_go_with_pde_wherever_the_range_touches_them() {
        let mut caches = Caches::default();
        let table = |from| Table { start: 0, level: 1, from, rights: RIGHTS };
        caches.keep_table(1, 0x20_0000, table(2));
        caches.keep_table(1, 0x4000_0000, table(3));
        caches.drop_range(range(0x20_1000, 12, false));
        assert!(caches.table(1, 4, 0x20_0000).is_some());
        caches.drop_range(range(0x20_1000, 12, true));
        assert!(caches.table(1, 4, 0x20_0000).is_none());
        assert!(caches.table(1, 4, 0x4000_0000).is_some());
        assert!(caches.table(1, 2, 0x4000_0000).is_none(), "above the root");
    }

    #[test]
    fn what_is_absent_goes_when_covered_or_with_pde() {
        let mut caches = Caches::default();
        caches.keep_absent(1, 1, 0x5000);
        caches.keep_absent(1, 2, 0x20_0000);
        assert!(caches.is_absent(1, 0x5fff) && caches.is_absent(1, 0x3f_ffff));
        caches.drop_range(range(0x5000, 12, false));
        caches.drop_range(range(0x20_0000, 12, false));
        assert!(!caches.is_absent(1, 0x5000) && caches.is_absent(1, 0x20_0000));
        caches.drop_range(range(0x20_0000, 12, true));
        assert!(!caches.is_absent(1, 0x20_0000));
    }
}
