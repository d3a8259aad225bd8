//! What a unit caches: context entries, translations, and the tables on the way to them. VT-d 3.1, 6.2.
//!
//! Nothing leaves a cache unless an invalidation covers it; see the rules at the crate root.

use std::collections::HashMap;

use dma_types::SourceId;

use super::entries::shift;
use super::fault::FaultReason;

/// How many entries a cache holds before it starts anew, so that it does not grow without bound.
const CAPACITY: usize = 1 << 16;

/// What a context entry says, once it has been found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) domain: u16,
    pub(crate) fault_disable: bool,
    /// Whether the device may send translated requests (TT = 01b).
    pub(crate) device_tlb: bool,
    /// The top table and its level, or `None` to pass through.
    pub(crate) table: Option<(u64, u8)>,
}

/// A fault that has to do with the context entry, and whether FPD hides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContextFault {
    pub(crate) reason: FaultReason,
    pub(crate) fault_disable: bool,
}

/// What every entry on the way so far allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Where a paging entry leads: to a page in the IOTLB, to a table in the paging-structure cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) address: u64,
    pub(crate) rights: Rights,
}

/// Which context entries to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContextScope {
    Global,
    Domain(u16),
    /// Functions whose source-id equals `source` but for the bits of `mask`, in this domain.
    Device {
        domain: u16,
        source: u16,
        mask: u16,
    },
}

/// Which translations to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IotlbScope {
    Global,
    Domain(u16),
    /// `2^mask` pages from `page` (low `mask` bits ignored); the tables on the way too unless
    /// `leaf_only`.
    Pages {
        domain: u16,
        page: u64,
        mask: u8,
        leaf_only: bool,
    },
}

/// A paging entry: domain, level, and the input address above what its level covers.
type Key = (u16, u8, u64);

/// The caches of one unit.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    /// By source-id, with the domain-id of the tag: that of the entry, or 0 for one that is not present or
    /// wrong, which only caching mode caches (6.1).
    contexts: HashMap<SourceId, (u16, Result<Context, ContextFault>)>,
    pages: HashMap<Key, Step>,
    tables: HashMap<Key, Step>,
    /// Caching mode: translations that failed, by domain, page number and whether it was a write.
    faults: HashMap<(u16, u64, bool), FaultReason>,
}

impl Caches {
    pub(crate) fn context(&self, source: SourceId) -> Option<Result<Context, ContextFault>> {
        self.contexts.get(&source).map(|&(_, context)| context)
    }

    pub(crate) fn keep_context(&mut self, source: SourceId, found: Result<Context, ContextFault>) {
        let domain = found.map_or(0, |context| context.domain);
        self.contexts.insert(source, (domain, found));
    }

    /// The cached page for an address, with the level it was mapped at.
    pub(crate) fn page(&self, domain: u16, address: u64) -> Option<(Step, u8)> {
        (1..=3).find_map(|level| {
            self.pages.get(&key(domain, level, address)).map(|&step| (step, level))
        })
    }

    pub(crate) fn keep_page(&mut self, domain: u16, level: u8, address: u64, step: Step) {
        insert(&mut self.pages, key(domain, level, address), step);
    }

    /// The lowest cached table on the way to an address, below `top`, with its level.
    pub(crate) fn table(&self, domain: u16, top: u8, address: u64) -> Option<(Step, u8)> {
        (2..=top).find_map(|level| {
            self.tables.get(&key(domain, level, address)).map(|&step| (step, level - 1))
        })
    }

    /// Keeps where the entry read at `level` leads.
    pub(crate) fn keep_table(&mut self, domain: u16, level: u8, address: u64, step: Step) {
        insert(&mut self.tables, key(domain, level, address), step);
    }

    pub(crate) fn fault(&self, domain: u16, address: u64, write: bool) -> Option<FaultReason> {
        self.faults.get(&(domain, address >> 12, write)).copied()
    }

    pub(crate) fn keep_fault(&mut self, domain: u16, address: u64, write: bool, why: FaultReason) {
        insert(&mut self.faults, (domain, address >> 12, write), why);
    }

    pub(crate) fn drop_contexts(&mut self, scope: ContextScope) {
        self.contexts.retain(|source, &mut (tag, _)| match scope {
            ContextScope::Global => false,
            ContextScope::Domain(domain) => tag != domain,
            ContextScope::Device { domain, source: wanted, mask } => {
                tag != domain || (source.get() ^ wanted) & !mask != 0
            }
        });
    }

    pub(crate) fn drop_pages(&mut self, scope: IotlbScope) {
        let (domain, page, mask, leaf_only) = match scope {
            IotlbScope::Global => {
                self.pages.clear();
                self.tables.clear();
                self.faults.clear();
                return;
            }
            IotlbScope::Domain(domain) => {
                self.pages.retain(|key, _| key.0 != domain);
                self.tables.retain(|key, _| key.0 != domain);
                self.faults.retain(|key, _| key.0 != domain);
                return;
            }
            IotlbScope::Pages { domain, page, mask, leaf_only } => (domain, page, mask, leaf_only),
        };
        let covers = |number: u64| number.checked_shr(mask.into()) == page.checked_shr(mask.into());
        // IVA_REG.AM: "at least 9" for a page of 2 MiB, so a smaller mask leaves it where it is.
        self.pages.retain(|&(tag, level, number), _| {
            let bits = shift(level) - 12;
            tag != domain || u32::from(mask) < bits || !covers(number << bits)
        });
        self.faults.retain(|&(tag, number, _), _| tag != domain || !covers(number));
        if !leaf_only {
            // A table stays unless its region and the pages overlap.
            self.tables.retain(|&(tag, level, number), _| {
                let bits = (shift(level) - 12).max(mask.into());
                let region = number << (shift(level) - 12);
                tag != domain || region.checked_shr(bits) != page.checked_shr(bits)
            });
        }
    }
}

fn key(domain: u16, level: u8, address: u64) -> Key {
    (domain, level, address.checked_shr(shift(level)).unwrap_or(0))
}

fn insert<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= CAPACITY {
        map.clear();
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step { address: 0, rights: Rights { read: true, write: true } };

    #[test]
    fn a_page_selective_invalidation_drops_a_large_page_only_if_it_covers_it() {
        let mut caches = Caches::default();
        caches.keep_page(1, 2, 0x20_0000, STEP);
        caches.keep_page(1, 1, 0x40_0000, STEP);
        caches.keep_page(2, 1, 0x40_0000, STEP);
        let pages = |page, mask| IotlbScope::Pages { domain: 1, page, mask, leaf_only: true };
        caches.drop_pages(pages(0x200, 8));
        assert!(caches.page(1, 0x20_1000).is_some());
        caches.drop_pages(pages(0x3ff, 9));
        assert!(caches.page(1, 0x20_1000).is_none());
        assert!(caches.page(1, 0x40_0000).is_some());
        caches.drop_pages(pages(0x400, 0));
        assert!(caches.page(1, 0x40_0000).is_none());
        assert!(caches.page(2, 0x40_0000).is_some());
        caches.drop_pages(IotlbScope::Domain(2));
        assert!(caches.page(2, 0x40_0000).is_none());
    }

    #[test]
    fn tables_stay_with_a_leaf_only_hint_and_go_without() {
        let mut caches = Caches::default();
        caches.keep_table(1, 2, 0x20_0000, STEP);
        caches.keep_table(1, 3, 0x4000_0000, STEP);
        let pages = |leaf_only| IotlbScope::Pages { domain: 1, page: 0x201, mask: 0, leaf_only };
        caches.drop_pages(pages(true));
        assert!(caches.table(1, 4, 0x20_0000).is_some());
        caches.drop_pages(pages(false));
        assert!(caches.table(1, 4, 0x20_0000).is_none());
        assert!(caches.table(1, 4, 0x4000_0000).is_some());
    }

    #[test]
    fn contexts_go_by_domain_and_by_source_under_a_mask() {
        let context =
            |domain| Ok(Context { domain, fault_disable: false, device_tlb: false, table: None });
        let mut caches = Caches::default();
        for (source, domain) in [(0x10, 1), (0x14, 1), (0x17, 1), (0x18, 1), (0x11, 2)] {
            caches.keep_context(SourceId::new(source), context(domain));
        }
        let device = |mask| ContextScope::Device { domain: 1, source: 0x10, mask };
        let left = |caches: &Caches| {
            let mut left: Vec<_> = caches.contexts.keys().map(|source| source.get()).collect();
            left.sort_unstable();
            left
        };
        caches.drop_contexts(device(4));
        assert_eq!(left(&caches), [0x11, 0x17, 0x18]);
        caches.drop_contexts(device(7));
        assert_eq!(left(&caches), [0x11, 0x18]);
        caches.drop_contexts(ContextScope::Domain(2));
        assert_eq!(left(&caches), [0x18]);
        caches.drop_contexts(ContextScope::Global);
        assert_eq!(left(&caches), []);
    }
}
