//! The entries of the tables by which a unit looks functions up: the root table and context tables (9.1, 9.3).

use core::ops::Range;
use core::sync::atomic::Ordering;

use dma_types::{PhysAddr, SourceId};

use super::Unit;
use crate::completion::Ticket;
use crate::platform::{Platform, TableFrame, TableFrames};
use crate::unit::{DomainId, Unusable};
use crate::vtd::context::ContextEntry;
use crate::vtd::invalidation::Invalidation;
use crate::vtd::root::RootEntry;

impl Unit {
    /// Has the unit record nothing of what a function is denied, or again everything: FPD in its context entry, whose
    /// change is one store. Without a ticket there is no memory for the entry.
    ///
    /// A fault that leads to no context entry is recorded all the same (7.1.3), so there is one afterwards.
    pub fn silence(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        silent: bool,
    ) -> Option<Ticket> {
        let table = self.context_table(platform, source.bus()).ok()?;
        let entry = entry_of(platform, table, source.devfn())?.with_faults_hidden(silent);
        self.write_entry(platform, table, source.devfn(), entry.words());
        // What is cached of the entry goes, and with it what was cached through it. One that is not present is cached
        // only in caching mode, under domain id 0 (6.2.2.1).
        let known = entry.translation().map(|translation| translation.domain);
        let domain = known.unwrap_or(DomainId::new(0));
        let forget = [Invalidation::ContextDevice { domain, source }];
        let forget = forget.into_iter().chain(known.map(Invalidation::IotlbDomain));
        Some(self.submit(platform, forget))
    }

    /// Has everything recorded of every function: FPD is clear in all context entries from now on.
    pub fn end_silences(&mut self, platform: &mut impl Platform) {
        for bus in 0..=u8::MAX {
            let Some(table) = self.root_entry(platform, bus).context_table() else { continue };
            for devfn in 0..=u8::MAX {
                let Some(entry) = entry_of(platform, table, devfn) else { break };
                if entry.faults_hidden() {
                    let entry = entry.with_faults_hidden(false);
                    self.write_entry(platform, table, devfn, entry.words());
                }
            }
        }
    }

    /// The context table of a bus, made if there is none.
    pub(super) fn context_table(
        &self,
        platform: &mut impl Platform,
        bus: u8,
    ) -> Result<PhysAddr, Unusable> {
        if let Some(table) = self.root_entry(platform, bus).context_table() {
            return Ok(table);
        }
        let table = platform.alloc_frame().ok_or(Unusable::OutOfFrames)?;
        self.flush(platform, table, 0..512);
        self.write_entry(platform, self.root, bus, RootEntry::pointing_to(table).words());
        Ok(table)
    }

    pub(super) fn root_entry(&self, platform: &impl TableFrames, bus: u8) -> RootEntry {
        let word = usize::from(bus) * 2;
        platform.table(self.root).map_or(RootEntry::BLOCKED, |table| {
            RootEntry::from_words([0, 1].map(|n| table[word + n].load(Ordering::Acquire)))
        })
    }

    pub(super) fn write_context(
        &self,
        platform: &mut impl Platform,
        table: PhysAddr,
        source: SourceId,
        entry: ContextEntry,
    ) {
        // Blocked in between: an entry is never half one and half the other.
        self.write_entry(platform, table, source.devfn(), ContextEntry::BLOCKED.words());
        self.write_entry(platform, table, source.devfn(), entry.words());
    }

    /// Writes an entry of two words, the one with the present bit last if it is set and first if not.
    fn write_entry(
        &self,
        platform: &mut impl Platform,
        frame: PhysAddr,
        index: u8,
        [low, high]: [u64; 2],
    ) {
        let word = usize::from(index) * 2;
        let Some(table) = platform.table(frame) else { return };
        if low & 1 == 0 {
            table[word].store(low, Ordering::Release);
            table[word + 1].store(high, Ordering::Release);
        } else {
            table[word + 1].store(high, Ordering::Release);
            table[word].store(low, Ordering::Release);
        }
        self.flush(platform, frame, word..word + 2);
    }

    /// Writes table entries back to memory if the unit does not snoop.
    pub(super) fn flush(&self, frames: &impl TableFrames, frame: PhysAddr, entries: Range<usize>) {
        if !self.capabilities.extended.coherent() {
            frames.flush_entries(frame, entries);
        }
    }
}

/// A function's entry in a context table.
pub(super) fn entry_in(table: &TableFrame, devfn: u8) -> ContextEntry {
    let word = usize::from(devfn) * 2;
    ContextEntry::from_words([0, 1].map(|n| table[word + n].load(Ordering::Acquire)))
}

/// A function's entry in the context table that is there, if one is.
fn entry_of(frames: &impl TableFrames, table: PhysAddr, devfn: u8) -> Option<ContextEntry> {
    frames.table(table).map(|table| entry_in(table, devfn))
}
