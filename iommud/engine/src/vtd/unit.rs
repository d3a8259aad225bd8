//! One VT-d unit: its root and context tables, its caches, its faults.

mod entries;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use dma_types::{PhysAddr, SourceId};

use self::entries::entry_in;
use super::bring_up::{BringUp, Parts, Step};
use super::context::{self, AddressWidth, ContextEntry};
use super::descriptor::PageRequests;
use super::fault_log::{self, Recorded};
use super::invalidation::Invalidation;
use super::invalidator::Invalidator;
use super::plan;
use super::probe::UnitCapabilities;
use super::registers::{GlobalStatus, RegisterFile, RootTableAddress, TranslationMode};
use super::second_stage::{ORDER_1G, ORDER_2M};
use crate::completion::Ticket;
use crate::fault::Fault;
use crate::platform::{Platform, TableFrames};
use crate::table::format::PAGE_SHIFT;
use crate::unit::{
    Abilities, Changed, DEADLINE, Depths, DomainId, DomainIds, FaultSource, InvalidatesBy,
    Requests, Summary, Translation, UnitFailure, UnitState, Unusable, Walks,
};

/// How many bytes of registers are mapped to ask a unit how many there are.
const PROBE_BYTES: usize = 4096;

/// Where a unit is in its life.
#[derive(Debug)]
enum Phase {
    Starting(BringUp),
    Running,
    Failed(UnitFailure),
}

/// One VT-d unit.
#[derive(Debug)]
pub struct Unit {
    base: PhysAddr,
    segment: u16,
    capabilities: UnitCapabilities,
    registers: RegisterFile,
    root: PhysAddr,
    domain_ids: DomainIds,
    invalidator: Invalidator,
    /// Where it knows such.
    page_requests: Option<PageRequests>,
    phase: Phase,
    found_translating: bool,
    fault_source: FaultSource,
}

impl Unit {
    /// Finds out what the unit with registers at `base` can do, and makes its tables, in which everything
    /// is blocked. The unit itself is not touched before it is [polled](Self::poll).
    pub fn new(
        platform: &mut impl Platform,
        segment: u16,
        base: PhysAddr,
    ) -> Result<Self, Unusable> {
        Self::with_root(platform, segment, base, None)
    }

    /// The same with the root table that it goes by: a predecessor's.
    ///
    /// # Errors
    ///
    /// Besides, [`Unusable::OtherTables`] if it does not translate, or not by that table.
    pub fn found(
        platform: &mut impl Platform,
        segment: u16,
        base: PhysAddr,
        root: PhysAddr,
    ) -> Result<Self, Unusable> {
        Self::with_root(platform, segment, base, Some(root))
    }

    fn with_root(
        platform: &mut impl Platform,
        segment: u16,
        base: PhysAddr,
        inherited: Option<PhysAddr>,
    ) -> Result<Self, Unusable> {
        let unreachable = |_| Unusable::Unreachable;
        let window = platform.map_registers(base, PROBE_BYTES).map_err(unreachable)?;
        let capabilities = UnitCapabilities::read(platform, window)?;
        let bytes = capabilities.window_bytes();
        let window = if bytes > PROBE_BYTES {
            platform.map_registers(base, bytes).map_err(unreachable)?
        } else {
            window
        };
        let registers = RegisterFile::new(window, bytes, &capabilities)?;
        if let Some(root) = inherited {
            let status: GlobalStatus = registers.read(platform);
            let table: RootTableAddress = registers.read(platform);
            let is_ours = table.mode() == TranslationMode::Legacy && table.table() == root;
            if status.into_bits() == u32::MAX || !status.translation() || !is_ours {
                return Err(Unusable::OtherTables);
            }
        }
        let root = inherited.or_else(|| platform.alloc_frame()).ok_or(Unusable::OutOfFrames)?;
        let UnitCapabilities { capability, extended, .. } = capabilities;
        let invalidator = Invalidator::new(
            platform,
            extended.queued_invalidation(),
            capability.drain(),
            capability.needs_write_buffer_flush(),
        );
        let Some(invalidator) = invalidator else {
            if inherited.is_none() {
                platform.free_frame(root);
            }
            return Err(Unusable::OutOfFrames);
        };
        let recorded = match inherited {
            Some(_) => Recorded::Kept,
            None => Recorded::Forgotten,
        };
        let unit = Self {
            base,
            segment,
            capabilities,
            registers,
            root,
            domain_ids: DomainIds::new(capability.domain_count()),
            invalidator,
            page_requests: capability
                .page_selective()
                .map(|mask| PageRequests::new(mask, capability.drain())),
            phase: Phase::Starting(BringUp::new(platform.now(), recorded)),
            found_translating: false,
            fault_source: FaultSource::new(false),
        };
        if inherited.is_none() {
            unit.flush(platform, root, 0..512);
        }
        Ok(unit)
    }

    /// Looks at the tables by which it looks devices up, which a predecessor left. `visit` is asked for each frame whether
    /// nothing else is in it. By what each device is translated that is not blocked; `None` for what cannot be our tables.
    pub fn examine(
        &self,
        frames: &impl TableFrames,
        visit: &mut impl FnMut(PhysAddr) -> bool,
    ) -> Option<BTreeMap<SourceId, Translation>> {
        let mut found = BTreeMap::new();
        if frames.table(self.root).is_none() || !visit(self.root) {
            return None;
        }
        for bus in 0..=u8::MAX {
            let Some(frame) = self.root_entry(frames, bus).context_table() else { continue };
            let table = frames.table(frame).filter(|_| visit(frame))?;
            for devfn in 0..=u8::MAX {
                let entry = entry_in(table, devfn);
                if !entry.present() {
                    continue;
                }
                let context::Translation { domain, table, width } = entry.translation()?;
                let source = SourceId::new(u16::from(bus) << 8 | u16::from(devfn));
                let levels = width.levels();
                found.insert(source, Translation { domain, table, levels });
            }
        }
        Some(found)
    }

    /// Gives back what it has of its own, which no unit has been told of: its root table is a predecessor's.
    pub fn abandon(self, frames: &mut impl TableFrames) {
        self.invalidator.free(frames);
    }

    /// Gives back what it has of its own, and its root table, in which everything is blocked.
    pub fn free(self, frames: &mut impl TableFrames) {
        frames.free_frame(self.root);
        self.invalidator.free(frames);
    }

    /// Where its registers are.
    pub fn base(&self) -> PhysAddr {
        self.base
    }

    /// The PCI segment that it serves.
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// What it can do.
    pub fn capabilities(&self) -> &UnitCapabilities {
        &self.capabilities
    }

    /// Its root table.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Where it is in its life.
    pub fn state(&self) -> UnitState {
        match &self.phase {
            Phase::Starting(bring_up) => UnitState::Starting(bring_up.step().what()),
            Phase::Running => UnitState::Running,
            Phase::Failed(failure) => UnitState::Failed(*failure),
        }
    }

    /// Whether it has been given up.
    #[inline]
    pub fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed(_))
    }

    /// Whether firmware or a boot loader had left translation on.
    pub fn found_translating(&self) -> bool {
        self.found_translating
    }

    /// Its domain ids.
    pub fn domain_ids(&mut self) -> &mut DomainIds {
        &mut self.domain_ids
    }

    /// How many domain ids are in use.
    pub fn domain_ids_in_use(&self) -> u32 {
        self.domain_ids.in_use()
    }

    /// Whether memory that a device may write it must be allowed to read, because the unit would block
    /// the zero-length reads that some devices do before (CAP.ZLR = 0; rule R6).
    fn write_needs_read(&self) -> bool {
        !self.capabilities.capability.zero_length_reads()
    }

    /// What tables it can walk.
    pub fn abilities(&self) -> Abilities {
        let UnitCapabilities { capability, extended, .. } = self.capabilities;
        let large = [(capability.pages_of_2m(), ORDER_2M), (capability.pages_of_1g(), ORDER_1G)];
        let page_sizes = large.iter().filter(|(has, _)| *has).map(|(_, order)| 1 << order);
        Abilities {
            walks: Walks::SecondStage,
            depths: Depths::new(capability.widths().map(AddressWidth::levels)),
            page_sizes: page_sizes.fold(1 << PAGE_SHIFT, core::ops::BitOr::bitor),
            address_bits: capability.address_bits(),
            coherent: extended.coherent(),
            write_needs_read: self.write_needs_read(),
        }
    }

    /// What it says of itself, for reports.
    pub fn summary(&self) -> Summary {
        let UnitCapabilities { version, capability, extended } = self.capabilities;
        let queued = extended.queued_invalidation();
        Summary {
            version: format!("{}.{}", version.major(), version.minor()),
            domain_ids: capability.domain_count(),
            invalidation: if queued { InvalidatesBy::Queue } else { InvalidatesBy::Registers },
            page_selective: capability.page_selective().is_some(),
            caching_mode: capability.caching_mode(),
            write_buffer_flush: capability.needs_write_buffer_flush(),
            fault_records: capability.fault_record_count().into(),
        }
    }

    /// Every ticket up to this one is confirmed.
    #[inline]
    pub fn confirmed(&self) -> Ticket {
        self.invalidator.confirmed()
    }

    /// How many tickets are not confirmed.
    pub fn open_tickets(&self) -> usize {
        self.invalidator.open()
    }

    /// Goes on with whatever is under way, and gives the unit up if it takes too long.
    pub fn poll(&mut self, platform: &mut impl Platform) {
        let result = match &mut self.phase {
            Phase::Failed(_) => return,
            Phase::Running if self.invalidator.open() == 0 => return,
            Phase::Running => self.invalidator.poll(platform, &self.registers),
            Phase::Starting(bring_up) => {
                let capability = self.capabilities.capability;
                let mut parts = Parts {
                    registers: &self.registers,
                    invalidator: &mut self.invalidator,
                    root: self.root,
                    needs_write_buffer_flush: capability.needs_write_buffer_flush(),
                    has_protected_memory: capability.has_protected_low()
                        || capability.has_protected_high(),
                };
                bring_up.advance(&mut parts, platform)
            }
        };
        let now = platform.now();
        let late = match &self.phase {
            Phase::Starting(bring_up) if bring_up.step() == Step::Finished => {
                self.found_translating = bring_up.found_translating();
                self.fault_source = bring_up.fault_source();
                self.phase = Phase::Running;
                None
            }
            Phase::Starting(bring_up) if now.since(bring_up.since()) > DEADLINE => {
                Some(UnitFailure::StartTimedOut { what: bring_up.step().what() })
            }
            Phase::Running if self.invalidator.stuck_for(now).is_some_and(|age| age > DEADLINE) => {
                Some(UnitFailure::InvalidationTimedOut)
            }
            _ => None,
        };
        if let Some(failure) = result.err().or(late) {
            self.phase = Phase::Failed(failure);
        }
    }

    /// Lets a function's requests be translated by a domain's table, which nothing translated before.
    /// The ticket, if there is one, stands for the moment from which it holds.
    ///
    /// # Errors
    ///
    /// [`Unusable::OutOfFrames`], with nothing changed.
    pub fn attach(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        translation: Translation,
    ) -> Result<Option<Ticket>, Unusable> {
        let table = self.context_table(platform, source.bus())?;
        // Domains are made for what their units can walk; of another depth there is none behind this one.
        let width = AddressWidth::from_levels(translation.levels).ok_or(Unusable::OutOfFrames)?;
        let Translation { domain, table: root, .. } = translation;
        let entry = ContextEntry::translating(context::Translation { domain, table: root, width });
        self.write_context(platform, table, source, entry);
        // A context entry that was not present is cached only in caching mode, under domain id 0 (6.2.2.1).
        let caching_mode = self.capabilities.capability.caching_mode();
        let forget = [
            Invalidation::ContextDevice { domain: DomainId::new(0), source },
            Invalidation::IotlbDomain(translation.domain),
        ];
        Ok(self.make_visible(platform, caching_mode, forget))
    }

    /// Blocks a function's requests, which were translated under this domain id. After the ticket nothing
    /// of that is left in the unit.
    pub fn detach(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        domain: DomainId,
    ) -> Option<Ticket> {
        let table = self.root_entry(platform, source.bus()).context_table()?;
        self.write_context(platform, table, source, ContextEntry::BLOCKED);
        let forget =
            [Invalidation::ContextDevice { domain, source }, Invalidation::IotlbDomain(domain)];
        Some(self.submit(platform, forget))
    }

    /// Makes the unit forget what it holds of a range of a domain: `None` if it has by now.
    #[inline]
    pub fn forget(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        change: Changed,
    ) -> Option<Ticket> {
        if let Phase::Running = self.phase
            && let Some(request) = self.page_requests.and_then(|it| it.forgetting(domain, &change))
            && let Some(asked) = self.invalidator.ask(platform, &self.registers, request)
        {
            return asked;
        }
        let ticket = self.invalidate_several(platform, domain, &[change]);
        (self.confirmed() < ticket).then_some(ticket)
    }

    /// Makes the unit forget what it holds of some ranges of a domain. The ticket may be confirmed by now.
    pub fn invalidate(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        ranges: &[Changed],
    ) -> Ticket {
        match *ranges {
            [range] => self.forget(platform, domain, range).unwrap_or_else(|| self.confirmed()),
            _ => self.invalidate_several(platform, domain, ranges),
        }
    }

    #[inline(never)]
    fn invalidate_several(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        ranges: &[Changed],
    ) -> Ticket {
        let page_selective = self.capabilities.capability.page_selective();
        let mut requests = Requests::new();
        plan::forgetting(domain, ranges, page_selective, &mut requests);
        self.submit(platform, requests.iter().copied())
    }

    /// Whether the unit sees what is mapped where nothing was without being told: not in caching mode, nor where write
    /// buffers must be flushed.
    pub fn sees_by_itself(&self) -> bool {
        let capability = self.capabilities.capability;
        !capability.caching_mode() && !capability.needs_write_buffer_flush()
    }

    /// Makes a unit that does not see it by itself see what was mapped where nothing was.
    pub fn mapped(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        range: Changed,
    ) -> Ticket {
        if self.capabilities.capability.caching_mode() {
            self.invalidate(platform, domain, &[range])
        } else {
            self.submit(platform, [])
        }
    }

    /// How it is learnt that the unit has recorded a fault.
    pub fn fault_source(&self) -> FaultSource {
        self.fault_source
    }

    /// Reads the faults that the unit recorded, and frees their records. True if more came than it could
    /// record. A unit that is gone is given up.
    pub fn take_faults(&mut self, platform: &mut impl Platform, faults: &mut Vec<Fault>) -> bool {
        if matches!(self.phase, Phase::Starting(_)) {
            return false;
        }
        let taken = fault_log::take(&self.registers, platform, &mut self.fault_source, faults);
        taken.unwrap_or_else(|failure| {
            if let Phase::Running = self.phase {
                self.phase = Phase::Failed(failure);
            }
            false
        })
    }

    /// What a unit needs after something became present: to forget that it was not, in caching mode, or
    /// to have its write buffers flushed, or nothing.
    fn make_visible(
        &mut self,
        platform: &mut impl Platform,
        forget: bool,
        invalidations: impl IntoIterator<Item = Invalidation>,
    ) -> Option<Ticket> {
        let flush = self.capabilities.capability.needs_write_buffer_flush();
        if forget {
            Some(self.submit(platform, invalidations))
        } else if flush {
            Some(self.submit(platform, []))
        } else {
            None
        }
    }

    /// Asks for invalidations. A unit that has failed is asked for nothing more; one that has not taken our
    /// root table yet will be asked to forget everything when it has, and is not touched before: its
    /// registers and its queue are still as firmware left them.
    fn submit(
        &mut self,
        platform: &mut impl Platform,
        invalidations: impl IntoIterator<Item = Invalidation>,
    ) -> Ticket {
        match self.phase {
            Phase::Failed(_) => Ticket::NEVER,
            Phase::Starting(_) if self.invalidator.is_unused() => Ticket::FIRST,
            Phase::Starting(_) | Phase::Running => {
                self.invalidator.submit(platform, &self.registers, invalidations)
            }
        }
    }
}
