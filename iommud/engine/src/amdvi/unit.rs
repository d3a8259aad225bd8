//! One AMD-Vi unit: its device table, its caches, its faults.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use dma_types::{PhysAddr, SourceId};

use super::bring_up::{BringUp, Parts, Step};
use super::capability::Capability;
use super::command_buffer::CommandBuffer;
use super::device_table::DeviceTable;
use super::event_log::{self, EventLog};
use super::interrupt;
use super::invalidation::Invalidation;
use super::invalidator::Invalidator;
use super::page_table::AmdV1;
use super::plan;
use super::probe::UnitCapabilities;
use super::registers::{Control, REGISTER_BYTES, RegisterFile};
pub use super::spec::UnitSpec;
use crate::completion::Ticket;
use crate::fault::Fault;
use crate::platform::{Platform, TableFrames};
use crate::unit::{
    Abilities, Changed, DEADLINE, Depths, DomainId, DomainIds, FaultSource, InvalidatesBy,
    Requests, Summary, Translation, UnitFailure, UnitState, Unusable, Walks,
};

/// A domain id has 16 bits, in every unit.
const DOMAIN_IDS: u32 = 1 << 16;

/// Where a unit is in its life.
#[derive(Debug)]
enum Phase {
    Starting(BringUp),
    Running,
    Failed(UnitFailure),
}

/// One AMD-Vi unit.
#[derive(Debug)]
pub struct Unit {
    base: PhysAddr,
    segment: u16,
    capabilities: UnitCapabilities,
    registers: RegisterFile,
    /// How its control register is to be in the end.
    control: Control,
    table: DeviceTable,
    event_log: EventLog,
    fault_source: FaultSource,
    domain_ids: DomainIds,
    invalidator: Invalidator,
    phase: Phase,
    found_translating: bool,
}

impl Unit {
    /// Finds out what the unit can do, and makes its tables, in which everything is blocked. Its registers are
    /// made to answer if they do not, and its function is told how to interrupt; the unit itself is not touched
    /// before it is [polled](Self::poll).
    ///
    /// # Errors
    ///
    /// [`Unusable`], with no memory kept.
    pub fn new(platform: &mut impl Platform, spec: &UnitSpec) -> Result<Self, Unusable> {
        Self::with_table(platform, spec, None)
    }

    /// The same with the device table that it goes by: a predecessor's.
    ///
    /// # Errors
    ///
    /// Besides, [`Unusable::OtherTables`] if it does not translate, or not by that table.
    pub fn found(
        platform: &mut impl Platform,
        spec: &UnitSpec,
        table: DeviceTable,
    ) -> Result<Self, Unusable> {
        Self::with_table(platform, spec, Some(table))
    }

    fn with_table(
        platform: &mut impl Platform,
        spec: &UnitSpec,
        inherited: Option<DeviceTable>,
    ) -> Result<Self, Unusable> {
        let capability = Capability::read(platform, spec.function, spec.capability_offset)?;
        capability.enable(platform, spec.function, spec.capability_offset, spec.base)?;
        let window =
            platform.map_registers(spec.base, REGISTER_BYTES).map_err(|_| Unusable::Unreachable)?;
        let registers = RegisterFile::new(window);
        let capabilities =
            UnitCapabilities::read(platform, &registers, &capability, spec.efr_image)?;
        let features = capabilities.features;
        let is_inherited = inherited.is_some();
        if let Some(table) = &inherited
            && !table.is_announced(platform, &registers)
        {
            return Err(Unusable::OtherTables);
        }
        let (table, buffer, event_log) =
            memory(platform, features.segments_order(), spec, inherited)
                .ok_or(Unusable::OutOfFrames)?;
        // Only a virtual unit keeps what is not present, and only a virtual one must be told of each entry.
        let named = if capabilities.header.caches_absent() {
            spec.settings.iter().map(|(sources, _)| sources.clone()).collect()
        } else {
            Vec::new()
        };
        let interrupts = interrupt::set_up(platform, spec.function);
        let control = spec.control(table.segments_order(), interrupts);
        Ok(Self {
            base: spec.base,
            segment: spec.segment,
            capabilities,
            registers,
            control,
            table,
            event_log,
            fault_source: FaultSource::new(interrupts),
            domain_ids: DomainIds::new(DOMAIN_IDS),
            invalidator: Invalidator::new(buffer, control, features.invalidate_all(), named),
            phase: Phase::Starting(BringUp::new(platform.now(), is_inherited)),
            found_translating: false,
        })
    }

    /// Its device table.
    pub fn table(&self) -> &DeviceTable {
        &self.table
    }

    /// Looks at the tables by which it looks devices up, which a predecessor left. `visit` is asked for each frame whether
    /// nothing else is in it. By what each device is translated that is not blocked; `None` for what cannot be our tables.
    pub fn examine(
        &self,
        frames: &impl TableFrames,
        visit: &mut impl FnMut(PhysAddr) -> bool,
    ) -> Option<BTreeMap<SourceId, Translation>> {
        self.table.examine(frames, visit)
    }

    /// Has a requester named whenever everything is to be forgotten, where a unit needs that, for its entry is a
    /// predecessor's.
    pub fn name(&mut self, source: SourceId) {
        if self.capabilities.header.caches_absent() {
            self.invalidator.name([Invalidation::Device(source)]);
        }
    }

    /// Gives back what it has of its own, which no unit has been told of: its device table is a predecessor's.
    pub fn abandon(self, frames: &mut impl TableFrames) {
        self.event_log.free(frames);
        self.invalidator.free(frames);
    }

    /// Gives back what it has of its own, and its device table, in which everything is blocked.
    pub fn free(self, frames: &mut impl TableFrames) {
        self.table.free(frames);
        self.event_log.free(frames);
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

    /// Its device table, or the first segment of that.
    pub fn root(&self) -> PhysAddr {
        self.table.start()
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

    /// What tables it can walk. Every unit snoops when it does, and takes writes without reads.
    pub fn abilities(&self) -> Abilities {
        Abilities {
            walks: Walks::AmdV1,
            depths: Depths::new(1..=self.capabilities.most_levels),
            page_sizes: AmdV1::PAGE_SIZES,
            address_bits: self.capabilities.address_bits,
            coherent: true,
            write_needs_read: false,
        }
    }

    /// What it says of itself, for reports.
    pub fn summary(&self) -> Summary {
        let header = self.capabilities.header;
        Summary {
            version: header.revision().to_string(),
            domain_ids: DOMAIN_IDS,
            invalidation: InvalidatesBy::Queue,
            page_selective: true,
            caching_mode: header.caches_absent(),
            write_buffer_flush: false,
            fault_records: event_log::ROOM,
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
                let mut parts = Parts {
                    registers: &self.registers,
                    invalidator: &mut self.invalidator,
                    event_log: &mut self.event_log,
                    table: &self.table,
                    control: self.control,
                };
                bring_up.advance(&mut parts, platform)
            }
        };
        let now = platform.now();
        let stuck = self.invalidator.stuck_for(now).is_some_and(|age| age > DEADLINE);
        let late = match &self.phase {
            Phase::Starting(bring_up) if bring_up.step() == Step::Finished => {
                self.found_translating = bring_up.found_translating();
                self.phase = Phase::Running;
                None
            }
            Phase::Starting(bring_up) => {
                // Forgetting everything can be a long line, of which the unit does some all the time.
                let late = match bring_up.step() {
                    Step::Invalidate(_) => stuck,
                    _ => now.since(bring_up.since()) > DEADLINE,
                };
                late.then_some(UnitFailure::StartTimedOut { what: bring_up.step().what() })
            }
            Phase::Running if stuck => Some(UnitFailure::InvalidationTimedOut),
            _ => None,
        };
        if let Some(failure) = result.err().or(late) {
            self.phase = Phase::Failed(failure);
        }
    }

    /// Lets a requester be translated by a domain's table, which nothing translated before. The ticket stands
    /// for the moment from which it holds: an entry that blocks is cached as any other, being valid.
    ///
    /// # Errors
    ///
    /// [`Unusable::OutOfFrames`], with nothing changed, for a table of a depth that there is not. Whoever
    /// attaches has looked at the [abilities](Self::abilities) before.
    pub fn attach(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        translation: Translation,
    ) -> Result<Option<Ticket>, Unusable> {
        if !self.table.attach(platform, source, translation) {
            return Err(Unusable::OutOfFrames);
        }
        let domain = translation.domain;
        Ok(Some(self.submit(platform, self.after_change(source, domain))))
    }

    /// Blocks a requester, which was translated under this domain id. After the ticket nothing of that is left
    /// in the unit.
    pub fn detach(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        domain: DomainId,
    ) -> Option<Ticket> {
        self.table.block(platform, source);
        Some(self.submit(platform, [Invalidation::Device(source), Invalidation::Domain(domain)]))
    }

    /// Has the unit log nothing of what a requester is denied, or again everything: SA in its device table entry.
    pub fn silence(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        silent: bool,
    ) -> Option<Ticket> {
        self.table.silence(platform, source, silent);
        Some(self.submit(platform, [Invalidation::Device(source)]))
    }

    /// Has everything logged of every requester: SA is clear in all entries from now on.
    pub fn end_silences(&mut self, platform: &mut impl Platform) {
        self.table.end_silences(platform);
    }

    /// Has a requester translated by another root of its domain's table, which has grown above the old one. What
    /// the old root translates stays as it is; after the ticket the rest is translated, too.
    ///
    /// A requester that is not attached to that domain stays as it is, and there is nothing to wait for.
    pub fn retarget(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        translation: Translation,
    ) -> Option<Ticket> {
        let changed = self.table.retarget(platform, source, translation);
        changed.then(|| self.submit(platform, self.after_change(source, translation.domain)))
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
            && let Some(command) = plan::of_one_block(domain, &change)
            && let Some(asked) = self.invalidator.ask(platform, &self.registers, command)
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
        let mut requests = Requests::new();
        plan::forgetting(domain, ranges, &mut requests);
        self.submit(platform, requests.iter().copied())
    }

    /// Whether the unit sees what is mapped where nothing was without being told. Only a virtual one does not.
    pub fn sees_by_itself(&self) -> bool {
        !self.capabilities.header.caches_absent()
    }

    /// Makes a unit that does not see it by itself see what was mapped where nothing was.
    pub fn mapped(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        range: Changed,
    ) -> Ticket {
        self.invalidate(platform, domain, &[range])
    }

    /// How it is learnt that the unit has logged an event.
    pub fn fault_source(&self) -> FaultSource {
        self.fault_source
    }

    /// Reads the events that the unit logged, and makes room for more. True if more came than it had room for.
    /// A unit that is gone is given up.
    pub fn take_faults(&mut self, platform: &mut impl Platform, faults: &mut Vec<Fault>) -> bool {
        if matches!(self.phase, Phase::Starting(_)) {
            return false;
        }
        let Self { event_log, registers, fault_source, .. } = self;
        let taken = event_log.take(platform, registers, fault_source, faults);
        taken.unwrap_or_else(|failure| {
            if let Phase::Running = self.phase {
                self.phase = Phase::Failed(failure);
            }
            false
        })
    }

    /// What must be forgotten after a requester's entry allows more than before: the entry, and by a unit that
    /// keeps what is not present, that.
    fn after_change(
        &self,
        source: SourceId,
        domain: DomainId,
    ) -> impl Iterator<Item = Invalidation> + use<> {
        let absent = self.capabilities.header.caches_absent();
        let absent = absent.then_some(Invalidation::Domain(domain));
        core::iter::once(Invalidation::Device(source)).chain(absent)
    }

    /// Asks for invalidations. A unit that has failed is asked for nothing more; one that has not taken our
    /// device table yet will be asked to forget everything when it has, and is not touched before: its
    /// registers and its command buffer are still as firmware left them.
    fn submit(
        &mut self,
        platform: &mut impl Platform,
        invalidations: impl IntoIterator<Item = Invalidation>,
    ) -> Ticket {
        match self.phase {
            Phase::Failed(_) => Ticket::NEVER,
            Phase::Starting(_) if self.invalidator.is_unused() => {
                if self.capabilities.header.caches_absent() {
                    self.invalidator.name(invalidations);
                }
                Ticket::FIRST
            }
            Phase::Starting(_) | Phase::Running => {
                self.invalidator.submit(platform, &self.registers, invalidations)
            }
        }
    }
}

/// The memory that a unit uses, or none of it.
fn memory(
    frames: &mut impl TableFrames,
    most_segments_order: u8,
    spec: &UnitSpec,
    inherited: Option<DeviceTable>,
) -> Option<(DeviceTable, CommandBuffer, EventLog)> {
    let buffer = CommandBuffer::new(frames)?;
    let Some(event_log) = EventLog::new(frames) else {
        buffer.free(frames);
        return None;
    };
    let table = inherited.or_else(|| DeviceTable::new(frames, most_segments_order, &spec.settings));
    match table {
        Some(table) => Some((table, buffer, event_log)),
        None => {
            event_log.free(frames);
            buffer.free(frames);
            None
        }
    }
}

#[cfg(test)]
mod tests;
