//! From a request to a physical address or a fault: VT-d 3.1, 3.4 to 3.7 and 7.1.3.

use dma_types::SourceId;

use super::cache::{Context, ContextFault, Rights, Step};
use super::config::is_beyond;
use super::entries::{ContextHigh, ContextLow, PageEntry, RootEntry, kind, shift};
use super::fault::FaultReason;
use super::unit::{Violation, VtdUnit};
use crate::dram::Bus;
use crate::request::Access;

/// Why a unit did not let a request through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A fault, recorded or not.
    Fault(FaultReason),
    /// A protected memory region; it is never recorded.
    Protected,
}

impl VtdUnit {
    /// Takes a request through the unit: the physical address, or why there is none.
    pub(crate) fn translate(
        &mut self,
        bus: Bus<'_>,
        source: SourceId,
        address: u64,
        access: Access,
    ) -> Result<u64, Refusal> {
        if !self.is_translating() {
            return self.unprotected(address);
        }
        let found = self.context(bus, source).and_then(|context| {
            self.second_stage(bus, context, address, access)
                .map_err(|reason| ContextFault { reason, fault_disable: context.fault_disable })
        });
        match found {
            Ok(physical) => self.unprotected(physical),
            Err(fault) => Err(self.fault(source, address, access, fault)),
        }
    }

    /// Takes a request through the unit of which the device says that its address is translated already.
    pub(crate) fn pass_translated(
        &mut self,
        bus: Bus<'_>,
        source: SourceId,
        address: u64,
        access: Access,
    ) -> Result<u64, Refusal> {
        if self.is_translating() {
            let blocked = |context: Context| ContextFault {
                reason: FaultReason::RequestTypeBlocked,
                fault_disable: context.fault_disable,
            };
            let found = self.context(bus, source);
            let allowed =
                found.and_then(
                    |context| {
                        if context.device_tlb { Ok(()) } else { Err(blocked(context)) }
                    },
                );
            allowed.map_err(|fault| self.fault(source, address, access, fault))?;
        }
        self.unprotected(address)
    }

    fn unprotected(&self, address: u64) -> Result<u64, Refusal> {
        if self.protected.blocks(address) { Err(Refusal::Protected) } else { Ok(address) }
    }

    fn fault(
        &mut self,
        source: SourceId,
        address: u64,
        access: Access,
        fault: ContextFault,
    ) -> Refusal {
        self.counters.faults += 1;
        let is_recorded = !(fault.fault_disable && fault.reason.is_qualified());
        if self.config.records_faults && is_recorded {
            let read = access != Access::Write;
            let message = self.faults.record(source, address, fault.reason, read);
            self.messages.extend(message);
        }
        Refusal::Fault(fault.reason)
    }

    /// What the context entry of a function says, from the cache or from memory.
    fn context(&mut self, bus: Bus<'_>, source: SourceId) -> Result<Context, ContextFault> {
        if let Some(cached) = self.caches.context(source) {
            self.counters.context_hits += 1;
            return cached;
        }
        let found = self.read_context(bus, source);
        if found.is_ok() || self.config.caching_mode {
            self.caches.keep_context(source, found);
        }
        if self.config.caching_mode && found.is_ok_and(|context| context.domain == 0) {
            self.violate(Violation::ReservedDomain);
        }
        found
    }

    fn read_context(&mut self, bus: Bus<'_>, source: SourceId) -> Result<Context, ContextFault> {
        use FaultReason::*;
        let early = |reason| ContextFault { reason, fault_disable: false };
        let root = self.root.page() << 12 | u64::from(source.bus()) << 4;
        let words = self.entry(bus, root).ok_or(early(RootTableUnreadable))?;
        let root = RootEntry::from_bits(words.0);
        if !root.present() {
            return Err(early(RootNotPresent));
        }
        let table = root.context_page() << 12;
        if root.reserved() != 0 || words.1 != 0 || self.config.is_beyond_host(table) {
            return Err(early(RootReserved));
        }
        let context = table | u64::from(source.devfn()) << 4;
        let words = self.entry(bus, context).ok_or(early(ContextTableUnreadable))?;
        let (low, high) = (ContextLow::from_bits(words.0), ContextHigh::from_bits(words.1));
        let fault = |reason| ContextFault { reason, fault_disable: low.fault_disable() };
        if !low.present() {
            return Err(fault(ContextNotPresent));
        }
        let table = low.table_page() << 12;
        if low.reserved() != 0
            || high.reserved()
            || high.reserved_high() != 0
            || self.config.is_beyond_host(table)
            || self.config.is_beyond_domains(high.domain())
        {
            return Err(fault(ContextReserved));
        }
        let levels = high.width() + 2;
        let mut supported = self.config.levels.contains(&levels);
        let mut through = Some((table, levels));
        match low.kind() {
            kind::SECOND_STAGE => {}
            kind::DEVICE_TLB => supported &= self.config.device_tlb,
            kind::PASS_THROUGH => {
                // 9.3, AW: with TT = 10b it must name the widest table that the unit walks.
                let widest = self.config.levels.iter().max() == Some(&levels);
                supported &= widest && self.config.pass_through;
                through = None;
            }
            _ => supported = false,
        }
        if !supported {
            return Err(fault(ContextInvalid));
        }
        Ok(Context {
            domain: high.domain(),
            fault_disable: low.fault_disable(),
            device_tlb: low.kind() == kind::DEVICE_TLB,
            table: through,
        })
    }

    /// The two words of a root or context entry.
    fn entry(&mut self, bus: Bus<'_>, address: u64) -> Option<(u64, u64)> {
        Some((self.table_word(bus, address)?, self.table_word(bus, address | 8)?))
    }

    fn second_stage(
        &mut self,
        bus: Bus<'_>,
        context: Context,
        address: u64,
        access: Access,
    ) -> Result<u64, FaultReason> {
        let Some((table, levels)) = context.table else { return Ok(address) };
        let bits = self.config.guest_address_bits.min(12 + 9 * levels);
        if is_beyond(address, bits) {
            return Err(FaultReason::AddressBeyondWidth);
        }
        let domain = context.domain;
        if let Some((page, level)) = self.caches.page(domain, address) {
            self.counters.iotlb_hits += 1;
            self.check(page.rights, access)?;
            return Ok(page.address | address & ((1 << shift(level)) - 1));
        }
        let write = access == Access::Write;
        if let Some(reason) = self.caches.fault(domain, address, write) {
            self.counters.iotlb_hits += 1;
            return Err(reason);
        }
        self.counters.walks += 1;
        let found = self.walk(bus, domain, (table, levels), address, access);
        if let Err(reason) = found
            && self.config.caching_mode
        {
            self.caches.keep_fault(domain, address, write, reason);
        }
        found
    }

    /// Walks the tables from the lowest one cached, and caches what it finds.
    fn walk(
        &mut self,
        bus: Bus<'_>,
        domain: u16,
        (top_table, top): (u64, u8),
        address: u64,
        access: Access,
    ) -> Result<u64, FaultReason> {
        let start = Step { address: top_table, rights: Rights { read: true, write: true } };
        let (mut step, mut level) = match self.caches.table(domain, top, address) {
            Some(cached) => {
                self.counters.table_hits += 1;
                cached
            }
            None => (start, top),
        };
        self.check(step.rights, access)?;
        loop {
            let index = address >> shift(level) & 511;
            let word = self.table_word(bus, step.address | index << 3).ok_or(if level == top {
                FaultReason::ContextInvalid
            } else {
                FaultReason::NextTableUnreadable
            })?;
            let entry = PageEntry::from_bits(word);
            let present = entry.read() || entry.write();
            if present && entry.has_reserved(level, &self.config) {
                return Err(FaultReason::PageReserved);
            }
            step.address = entry.page() << 12;
            step.rights.read &= entry.read();
            step.rights.write &= entry.write();
            self.check(step.rights, access)?;
            if entry.is_leaf(level) {
                self.caches.keep_page(domain, level, address, step);
                return Ok(step.address | address & ((1 << shift(level)) - 1));
            }
            self.caches.keep_table(domain, level, address, step);
            level -= 1;
        }
    }

    /// Whether these rights allow the access.
    fn check(&self, rights: Rights, access: Access) -> Result<(), FaultReason> {
        let flush = self.config.zero_length_read && rights.write;
        match access {
            Access::Write if !rights.write => Err(FaultReason::WriteDenied),
            Access::Read if !rights.read => Err(FaultReason::ReadDenied),
            Access::ZeroLengthRead if !(rights.read || flush) => Err(FaultReason::ReadDenied),
            _ => Ok(()),
        }
    }

    /// A word of a table, as this unit sees memory.
    ///
    /// A unit with a write buffer (CAP.RWBF) goes on seeing what it has once read until the buffer is
    /// flushed (6.8).
    fn table_word(&mut self, bus: Bus<'_>, address: u64) -> Option<u64> {
        self.counters.table_reads += 1;
        if !self.config.write_buffer {
            return bus.table_word(address, self.config.coherent);
        }
        if let Some(&seen) = self.write_buffer.get(&address) {
            return Some(seen);
        }
        let word = bus.table_word(address, self.config.coherent)?;
        self.write_buffer.insert(address, word);
        Some(word)
    }
}
