//! From a request to a physical address or an event: AMD 48882, 2.2.

use dma_types::SourceId;

use super::cache::{CachedDevice, Page, Rights, Table};
use super::entries::{
    DEVICE_ENTRY, Device, Illegal, PageEntry, Route, SIZED, Target, interrupt, shift, shifted,
};
use super::event::{EventCode, EventLow, MASTER_ABORT, invalid_request};
use super::unit::{AmdviUnit, Violation};
use crate::dram::Bus;
use crate::request::Access;

/// What a request is about: enough for an event.
#[derive(Clone, Copy, Debug)]
struct Request {
    source: SourceId,
    address: u64,
    write: bool,
    interrupt: bool,
}

impl Request {
    fn event(self, code: EventCode) -> EventLow {
        EventLow::by(code, self.source).with_write(self.write).with_interrupt(self.interrupt)
    }
}

/// Why a walk did not end at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Miss {
    /// There is nothing.
    Absent,
    /// There is a page, and the request may not go there.
    Denied,
    /// An entry is wrong.
    Wrong(Illegal),
    /// A table cannot be read.
    Unreadable(u64),
}

impl AmdviUnit {
    /// Takes a request through the unit: the physical address, or the event that says why there is none.
    pub(crate) fn translate(
        &mut self,
        bus: Bus<'_>,
        source: SourceId,
        address: u64,
        access: Access,
    ) -> Result<u64, EventCode> {
        let write = access == Access::Write;
        let request = Request { source, address, write, interrupt: false };
        if !self.is_translating() || self.is_excluded(address, true) {
            return Ok(address);
        }
        let device = self.device(bus, request)?;
        let rights = Rights { read: device.read, write: device.write };
        let found = match device.route {
            Route::Untranslated => return Ok(address),
            _ if device.high.exclusion() && self.is_excluded(address, false) => return Ok(address),
            Route::Blocked => Err(Miss::Absent),
            Route::Direct => check(rights, access).map(|()| address),
            Route::Table { root, levels } => {
                let domain = device.high.domain();
                self.page(bus, domain, (root, levels), address).and_then(|(page, bits)| {
                    check(page.rights, access)?;
                    check(rights, access)?;
                    Ok(page.start | address & !(u64::MAX << bits))
                })
            }
        };
        found.map_err(|miss| self.page_fault(bus, request, device, miss))
    }

    /// Takes a request through the unit of which the device says that its address is translated already.
    pub(crate) fn pass_translated(
        &mut self,
        bus: Bus<'_>,
        source: SourceId,
        address: u64,
        access: Access,
    ) -> Result<u64, EventCode> {
        let write = access == Access::Write;
        let request = Request { source, address, write, interrupt: false };
        if !self.is_translating() {
            return Ok(address);
        }
        let device = self.device(bus, request)?;
        if device.route != Route::Untranslated && device.high.device_tlb() {
            return Ok(address);
        }
        Err(self.invalid_request(bus, request, invalid_request::PRE_TRANSLATED))
    }

    /// Takes a request to the interrupt address range through the unit. `data` is what is written, if it is
    /// a write of one dword.
    pub(crate) fn interrupt(
        &mut self,
        bus: Bus<'_>,
        source: SourceId,
        address: u64,
        data: Option<u32>,
    ) -> Result<(), EventCode> {
        let request = Request { source, address, write: true, interrupt: true };
        if !self.is_translating() {
            return Ok(());
        }
        let Some(data) = data else {
            return Err(self.invalid_request(bus, request, invalid_request::INTERRUPT_ACCESS));
        };
        let interrupts = self.device(bus, request)?.interrupts;
        if !interrupts.valid() {
            return Ok(());
        }
        // The delivery mode, in bits 10:8 of an MSI's data.
        let (passes, remaps) = match data >> 8 & 7 {
            0 | 1 => {
                (interrupts.control() == interrupt::PASS, interrupts.control() == interrupt::REMAP)
            }
            4 => (interrupts.pass_nmi(), false),
            5 => (interrupts.pass_init(), false),
            7 => (interrupts.pass_external(), false),
            _ => (false, false),
        };
        if passes {
            return Ok(());
        }
        if remaps {
            // The simulator has no interrupt tables: none of their entries is present.
            let low = request.event(EventCode::PageFault);
            self.log(bus, low, address);
            return Err(EventCode::PageFault);
        }
        Err(self.invalid_request(bus, request, invalid_request::INTERRUPT_ABORTED))
    }

    fn invalid_request(&mut self, bus: Bus<'_>, request: Request, kind: u8) -> EventCode {
        self.counters.events += 1;
        let low = EventLow::by(EventCode::InvalidRequest, request.source).with_kind(kind);
        self.log(bus, low, request.address);
        EventCode::InvalidRequest
    }

    fn page_fault(
        &mut self,
        bus: Bus<'_>,
        request: Request,
        device: Device,
        miss: Miss,
    ) -> EventCode {
        self.counters.events += 1;
        let domain = device.high.domain();
        if let Miss::Unreadable(table) = miss {
            let low = request.event(EventCode::PageTableError);
            self.log(bus, low.with_domain(domain).with_kind(MASTER_ABORT), table);
            return EventCode::PageTableError;
        }
        let faulted = match self.caches.device(request.source) {
            Some(cached) => std::mem::replace(&mut cached.faulted, true),
            None => false,
        };
        let suppressed = device.high.suppress_all() || device.high.suppress_more() && faulted;
        if !suppressed {
            let present = miss != Miss::Absent;
            let low = request
                .event(EventCode::PageFault)
                .with_domain(domain)
                .with_present(present)
                .with_write(request.write && (present || self.config.direction_always))
                .with_permission(miss == Miss::Denied)
                .with_reserved(miss == Miss::Wrong(Illegal::Reserved));
            self.log(bus, low, request.address);
        }
        EventCode::PageFault
    }

    /// Whether an address is in the exclusion range, for all devices or for those whose entries say so.
    fn is_excluded(&self, address: u64, all: bool) -> bool {
        let range = self.exclusion;
        let last = self.exclusion_limit | 0xfff;
        range.enable() && (range.allow() || !all) && (range.page() << 12..=last).contains(&address)
    }

    /// What the device table entry of a requester says, from the cache or from memory.
    fn device(&mut self, bus: Bus<'_>, request: Request) -> Result<Device, EventCode> {
        let source = request.source;
        let found = match self.caches.device(source) {
            Some(&mut cached) => {
                self.counters.device_hits += 1;
                if cached.generation != self.table_generation && self.table_awaited {
                    self.table_awaited = false;
                    self.violate(Violation::StaleDeviceTable);
                }
                cached.found
            }
            None => {
                let Some(entry) = self.device_entry(source) else {
                    return Err(self.illegal_device(bus, request, Illegal::Encoding));
                };
                let Some(words) = self.entry_words(bus, entry) else {
                    self.counters.events += 1;
                    let low = request.event(EventCode::DeviceTableError).with_kind(MASTER_ABORT);
                    self.log(bus, low, entry);
                    return Err(EventCode::DeviceTableError);
                };
                let found = Device::decode(words, &self.config);
                if found.is_err() {
                    self.violate(Violation::IllegalDeviceEntry);
                }
                let generation = self.table_generation;
                self.caches.keep_device(source, CachedDevice { found, generation, faulted: false });
                found
            }
        };
        found.map_err(|illegal| self.illegal_device(bus, request, illegal))
    }

    /// The four words of a device table entry.
    fn entry_words(&mut self, bus: Bus<'_>, entry: u64) -> Option<[u64; 4]> {
        let words = [0, 8, 16, 24].map(|at| self.table_word(bus, entry + at));
        let [Some(a), Some(b), Some(c), Some(d)] = words else { return None };
        Some([a, b, c, d])
    }

    /// Looks at an entry that software says it has written: it must be whole by now.
    pub(super) fn check_entry(&mut self, bus: Bus<'_>, source: SourceId) {
        let words = self.device_entry(source).and_then(|entry| self.entry_words(bus, entry));
        if words.is_some_and(|words| Device::decode(words, &self.config).is_err()) {
            self.violate(Violation::IllegalDeviceEntry);
        }
    }

    fn illegal_device(&mut self, bus: Bus<'_>, request: Request, illegal: Illegal) -> EventCode {
        self.counters.events += 1;
        let low = request.event(EventCode::IllegalDeviceEntry);
        self.log(bus, low.with_reserved(illegal == Illegal::Reserved), request.address);
        EventCode::IllegalDeviceEntry
    }

    /// Where the entry of a requester is, if the table is that long.
    fn device_entry(&self, source: SourceId) -> Option<u64> {
        let segment_bits = self.control.segments().min(self.config.offered().segments()).min(3);
        let rest = 16 - segment_bits;
        let segment = usize::from(source.get().checked_shr(rest.into()).unwrap_or(0));
        let table = self.device_tables.get(segment)?;
        let index = u64::from(source.get()) & !(u64::MAX << rest);
        let offset = index * DEVICE_ENTRY;
        (offset < (u64::from(table.size()) + 1) << 12).then_some((table.page() << 12) + offset)
    }

    /// The page for an address of a domain, with the bits of its size.
    fn page(
        &mut self,
        bus: Bus<'_>,
        domain: u16,
        (root, levels): (u64, u8),
        address: u64,
    ) -> Result<(Page, u8), Miss> {
        if self.config.is_beyond_device(address) || shifted(address, shift(levels) + 9) != 0 {
            return Err(Miss::Absent);
        }
        if let Some(found) = self.caches.page(domain, address) {
            self.counters.page_hits += 1;
            return Ok(found);
        }
        if self.config.np_cache && self.caches.is_absent(domain, address) {
            self.counters.page_hits += 1;
            return Err(Miss::Absent);
        }
        self.counters.walks += 1;
        let rights = Rights { read: true, write: true };
        let top = Table { start: root, level: levels, from: levels + 1, rights };
        let mut table = match self.caches.table(domain, levels, address) {
            Some(cached) => {
                self.counters.table_hits += 1;
                cached
            }
            None => top,
        };
        loop {
            // The address bits of the levels that were skipped must be zero.
            let (lowest, highest) = (shift(table.level) + 9, shift(table.from));
            if shifted(address & !(u64::MAX.checked_shl(highest.into()).unwrap_or(0)), lowest) != 0
            {
                return Err(Miss::Absent);
            }
            let index = address >> shift(table.level) & 511;
            let at = table.start | index << 3;
            let word = self.table_word(bus, at).ok_or(Miss::Unreadable(at))?;
            if self.config.eager {
                self.look_around(bus, domain, table, address, at);
            }
            match self.enter(domain, table, address, word)? {
                Step::Page(page, bits) => {
                    self.check_replicas(bus, at, word, table.level, bits);
                    return Ok((page, bits));
                }
                Step::Table(next) => table = next,
            }
        }
    }

    /// Takes an entry apart and caches what it says.
    fn enter(&mut self, domain: u16, table: Table, address: u64, word: u64) -> Result<Step, Miss> {
        let entry = PageEntry::from_bits(word);
        if !entry.present() {
            if self.config.np_cache {
                self.caches.keep_absent(domain, table.level, address);
            }
            return Err(Miss::Absent);
        }
        let target = entry.target(table.level).map_err(|illegal| {
            self.violate(Violation::IllegalPageEntry);
            Miss::Wrong(illegal)
        })?;
        let rights = Rights {
            read: table.rights.read && entry.read(),
            write: table.rights.write && entry.write(),
        };
        Ok(match target {
            Target::Page { start, bits } => {
                let page = Page { start, rights };
                self.caches.keep_page(domain, bits, address, page);
                Step::Page(page, bits)
            }
            Target::Table { start, level } => {
                let next = Table { start, level, from: table.level, rights };
                self.caches.keep_table(domain, address, next);
                Step::Table(next)
            }
        })
    }

    /// Caches the other entries of a cache line, as speculative hardware may.
    fn look_around(&mut self, bus: Bus<'_>, domain: u16, table: Table, address: u64, at: u64) {
        let line = at & !63;
        for other in (line..line + 64).step_by(8).filter(|&other| other != at) {
            let Some(word) = self.table_word(bus, other) else { continue };
            let entry = PageEntry::from_bits(word);
            let bits = shift(table.level);
            let first = address & (u64::MAX << bits);
            let there = first.wrapping_add((other / 8).wrapping_sub(at / 8) << bits);
            if !entry.present() || entry.target(table.level).is_ok() {
                let _ = self.enter(domain, table, there, word);
            }
        }
    }

    /// All entries that a large page fills must mean the same: which of them is read depends on the address.
    fn check_replicas(&mut self, bus: Bus<'_>, at: u64, word: u64, level: u8, bits: u8) {
        let meaning = |word| PageEntry::from_bits(word).meaning();
        if meaning(word).next_level() != SIZED {
            return;
        }
        let bytes = 8u64 << (bits - shift(level));
        let first = at & !(bytes - 1);
        let same = (first..first + bytes).step_by(8).all(|other| {
            bus.table_word(other, self.is_coherent()).map(meaning) == Some(meaning(word))
        });
        if !same {
            self.violate(Violation::ReplicasDiffer);
        }
    }

    /// A word of a table, as this unit sees memory.
    fn table_word(&mut self, bus: Bus<'_>, address: u64) -> Option<u64> {
        self.counters.table_reads += 1;
        if self.config.is_beyond_host(address) {
            return None;
        }
        bus.table_word(address, self.is_coherent())
    }

    fn is_coherent(&self) -> bool {
        self.config.coherent || self.control.coherent()
    }
}

/// Where a step of a walk leads.
enum Step {
    Page(Page, u8),
    Table(Table),
}

/// Whether these rights allow the access. A read of no bytes is allowed where anything is.
fn check(rights: Rights, access: Access) -> Result<(), Miss> {
    let allowed = match access {
        Access::Read => rights.read,
        Access::Write => rights.write,
        Access::ZeroLengthRead => rights.read || rights.write,
    };
    if allowed { Ok(()) } else { Err(Miss::Denied) }
}
