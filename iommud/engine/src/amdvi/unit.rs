//! One AMD-Vi unit: its device table, its caches, its faults.

use alloc::string::ToString;
use alloc::vec::Vec;

use dma_types::{PhysAddr, SourceId};

use super::bring_up::{BringUp, Parts, Step};
use super::capability::Capability;
use super::command_buffer::CommandBuffer;
use super::device_table::DeviceTable;
use super::event_log::{self, EventLog};
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
    Abilities, Changed, DEADLINE, Depths, DomainId, DomainIds, InvalidatesBy, Summary, Translation,
    UnitFailure, UnitState, Unusable, Walks,
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
    domain_ids: DomainIds,
    invalidator: Invalidator,
    phase: Phase,
    found_translating: bool,
}

impl Unit {
    /// Finds out what the unit can do, and makes its tables, in which everything is blocked. Its registers are
    /// made to answer if they do not; the unit itself is not touched before it is [polled](Self::poll).
    ///
    /// # Errors
    ///
    /// [`Unusable`], with no memory kept.
    pub fn new(platform: &mut impl Platform, spec: &UnitSpec) -> Result<Self, Unusable> {
        let capability = Capability::read(platform, spec.function, spec.capability_offset)?;
        capability.enable(platform, spec.function, spec.capability_offset, spec.base)?;
        let window =
            platform.map_registers(spec.base, REGISTER_BYTES).map_err(|_| Unusable::Unreachable)?;
        let registers = RegisterFile::new(window);
        let capabilities =
            UnitCapabilities::read(platform, &registers, &capability, spec.efr_image)?;
        let features = capabilities.features;
        let (table, buffer, event_log) =
            memory(platform, features.segments_order(), spec).ok_or(Unusable::OutOfFrames)?;
        // Only a virtual unit keeps what is not present, and only a virtual one must be told of each entry.
        let named = if capabilities.header.caches_absent() {
            spec.settings.iter().map(|(sources, _)| sources.clone()).collect()
        } else {
            Vec::new()
        };
        Ok(Self {
            base: spec.base,
            segment: spec.segment,
            capabilities,
            registers,
            control: spec.control(table.segments_order()),
            table,
            event_log,
            domain_ids: DomainIds::new(DOMAIN_IDS),
            invalidator: Invalidator::new(buffer, features.invalidate_all(), named),
            phase: Phase::Starting(BringUp::new(platform.now())),
            found_translating: false,
        })
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
            Phase::Running => self.invalidator.poll(platform, &self.registers),
            Phase::Starting(bring_up) => {
                let mut parts = Parts {
                    registers: &self.registers,
                    invalidator: &mut self.invalidator,
                    event_log: &self.event_log,
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

    /// Has a requester translated by another root of its domain's table, which has grown above the old one. What
    /// the old root translates stays as it is; after the ticket the rest is translated, too.
    ///
    /// A requester that is not attached to that domain stays as it is, and the ticket is never confirmed.
    pub fn retarget(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        translation: Translation,
    ) -> Ticket {
        if self.table.retarget(platform, source, translation) {
            self.submit(platform, self.after_change(source, translation.domain))
        } else {
            Ticket::NEVER
        }
    }

    /// Makes the unit forget what it holds of a range of a domain.
    pub fn invalidate(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        range: Changed,
    ) -> Ticket {
        self.submit(platform, plan::forgetting(domain, range))
    }

    /// Makes the unit see what was mapped where nothing was. Only a virtual unit needs something for that.
    pub fn mapped(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        range: Changed,
    ) -> Option<Ticket> {
        let caches_absent = self.capabilities.header.caches_absent();
        caches_absent.then(|| self.invalidate(platform, domain, range))
    }

    /// Reads the events that the unit logged, and makes room for more. True if more came than it had room for.
    pub fn take_faults(&mut self, platform: &mut impl Platform, faults: &mut Vec<Fault>) -> bool {
        if matches!(self.phase, Phase::Starting(_)) {
            return false;
        }
        self.event_log.take(platform, &self.registers, faults)
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
            Phase::Starting(_) if self.invalidator.is_unused() => Ticket::FIRST,
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
) -> Option<(DeviceTable, CommandBuffer, EventLog)> {
    let buffer = CommandBuffer::new(frames)?;
    let Some(event_log) = EventLog::new(frames) else {
        buffer.free(frames);
        return None;
    };
    match DeviceTable::new(frames, most_segments_order, &spec.settings) {
        Some(table) => Some((table, buffer, event_log)),
        None => {
            event_log.free(frames);
            buffer.free(frames);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{BASE, FakeMachine, spec};
    use super::super::probe::UnitRefusal;
    use super::*;
    use crate::acpi::ivrs::DteSettings;
    use crate::fault::{FaultReason, Tried};
    use crate::unit::Touched;
    use dma_types::Iova;

    const DEVICE: SourceId = SourceId::new(0x0010);
    const DOMAIN: DomainId = DomainId::new(5);
    const ROOT: PhysAddr = PhysAddr::new(0x5000);
    const TRANSLATION: Translation = Translation { domain: DOMAIN, table: ROOT, levels: 3 };
    const CHANGED: Changed =
        Changed { start: Iova::new(0x2000), bytes: 0x2000, touched: Touched::Leaves };

    /// NpCache, in the header of the capability.
    const CACHES_ABSENT: u32 = 1 << 26;

    /// A unit that runs: a real one, which keeps nothing that is not present, or a virtual one.
    fn running(caches_absent: bool) -> (FakeMachine, Unit) {
        let mut machine = FakeMachine::new();
        if !caches_absent {
            machine.config.words[0x40 / 4] &= !CACHES_ABSENT;
        }
        let mut unit = Unit::new(&mut machine, &spec()).unwrap();
        unit.poll(&mut machine);
        assert_eq!(unit.state(), UnitState::Running);
        machine.commands.clear();
        (machine, unit)
    }

    fn entry(machine: &FakeMachine, unit: &Unit) -> [u64; 2] {
        let table = machine.frames.table(unit.root()).unwrap();
        let word = usize::from(DEVICE.get()) * 4;
        [0, 1].map(|n| table[word + n].load(core::sync::atomic::Ordering::Relaxed))
    }

    #[test]
    fn r2_attaching_makes_the_unit_forget_that_the_device_was_blocked() {
        let (mut machine, mut unit) = running(false);
        let ticket = unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
        assert_eq!(ticket, Some(unit.confirmed()));
        assert_eq!(entry(&machine, &unit), [0x6000_0000_0000_5603, 5]);
        assert_eq!(machine.codes(), [2, 1]);
        let (mut machine, mut unit) = running(true);
        unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
        assert_eq!(machine.codes(), [2, 1, 3, 1]);
    }

    #[test]
    fn r2_detaching_makes_the_unit_forget_the_entry_and_then_the_domain() {
        let (mut machine, mut unit) = running(false);
        unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
        machine.commands.clear();
        let ticket = unit.detach(&mut machine, DEVICE, DOMAIN);
        assert_eq!(ticket, Some(unit.confirmed()));
        assert_eq!(entry(&machine, &unit), [0x3, 0]);
        assert_eq!(machine.commands[2], [0x3000_0005_0000_0000, 0x7fff_ffff_ffff_f003]);
        assert_eq!(machine.codes(), [2, 1, 3, 1]);
    }

    #[test]
    fn a_root_that_grew_needs_the_entry_forgotten_alone() {
        let (mut machine, mut unit) = running(false);
        unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
        machine.commands.clear();
        let grown = Translation { table: PhysAddr::new(0x6000), levels: 4, ..TRANSLATION };
        let ticket = unit.retarget(&mut machine, DEVICE, grown);
        assert_eq!((ticket, machine.codes()), (unit.confirmed(), [2, 1].into()));
        assert_eq!(entry(&machine, &unit), [0x6000_0000_0000_6803, 5]);
        // A device that is attached to no domain, or to another, has no root that grew.
        assert_eq!(unit.retarget(&mut machine, SourceId::new(0x18), grown), Ticket::NEVER);
        let other = Translation { domain: DomainId::new(6), ..grown };
        assert_eq!(unit.retarget(&mut machine, DEVICE, other), Ticket::NEVER);
    }

    #[test]
    fn what_changed_is_forgotten_and_what_is_new_only_where_absence_is_kept() {
        let (mut machine, mut unit) = running(false);
        unit.invalidate(&mut machine, DOMAIN, CHANGED);
        assert_eq!(machine.commands[0], [0x3000_0005_0000_0000, 0x2001]);
        assert_eq!(machine.codes(), [3, 1]);
        assert_eq!(unit.mapped(&mut machine, DOMAIN, CHANGED), None);
        let (mut machine, mut unit) = running(true);
        let ticket = unit.mapped(&mut machine, DOMAIN, CHANGED);
        assert_eq!((ticket, machine.codes()), (Some(unit.confirmed()), [3, 1].into()));
    }

    #[test]
    fn r1_a_table_of_no_depth_is_not_attached() {
        let (mut machine, mut unit) = running(false);
        for levels in [0, 7] {
            let translation = Translation { levels, ..TRANSLATION };
            let refused = unit.attach(&mut machine, DEVICE, translation);
            assert_eq!(refused, Err(Unusable::OutOfFrames));
        }
        assert_eq!((entry(&machine, &unit), machine.codes()), ([0x3, 0], [].into()));
    }

    #[test]
    fn a_unit_that_does_not_run_yet_is_asked_for_nothing() {
        let mut machine = FakeMachine::new();
        let mut unit = Unit::new(&mut machine, &spec()).unwrap();
        let ticket = unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
        assert_eq!((ticket, machine.writes.len()), (Some(Ticket::FIRST), 0));
        unit.poll(&mut machine);
        assert_eq!(unit.confirmed(), Ticket::FIRST);
    }

    #[test]
    fn r2_a_unit_that_confirms_nothing_is_given_up_and_asked_for_nothing_more() {
        let (mut machine, mut unit) = running(false);
        machine.patience = 0;
        let ticket = unit.invalidate(&mut machine, DOMAIN, CHANGED);
        unit.poll(&mut machine);
        machine.now += DEADLINE.as_nanos() as u64 + 1;
        unit.poll(&mut machine);
        assert_eq!(unit.state(), UnitState::Failed(UnitFailure::InvalidationTimedOut));
        assert!(unit.confirmed() < ticket);
        assert_eq!(unit.invalidate(&mut machine, DOMAIN, CHANGED), Ticket::NEVER);
        assert_eq!(unit.detach(&mut machine, DEVICE, DOMAIN), Some(Ticket::NEVER));
    }

    #[test]
    fn r2_a_command_buffer_that_stopped_confirms_nothing_and_goes_on() {
        let (mut machine, mut unit) = running(false);
        machine.stop_at = Some(3);
        let ticket = unit.invalidate(&mut machine, DOMAIN, CHANGED);
        assert!(unit.confirmed() < ticket);
        unit.poll(&mut machine);
        assert_eq!((unit.state(), machine.codes()), (UnitState::Running, [8, 1].into()));
        assert!(unit.confirmed() > ticket);
        // And the log says what it stopped at.
        let mut faults = Vec::new();
        assert!(!unit.take_faults(&mut machine, &mut faults));
        assert_eq!((faults[0].device, faults[0].reason), (None, FaultReason::Command));
    }

    #[test]
    fn faults_are_read_once_the_unit_runs() {
        let (mut machine, mut unit) = running(false);
        machine.log([0x2020_0000_0000_0010, 0xdead_b000]);
        let mut faults = Vec::new();
        assert!(!unit.take_faults(&mut machine, &mut faults));
        let told = (faults[0].device, faults[0].tried, faults[0].reason);
        assert_eq!(told, (Some(DEVICE), Tried::Write, FaultReason::NoDomain));
    }

    #[test]
    fn a_virtual_unit_is_told_of_every_entry_that_firmware_names() {
        let mut machine = FakeMachine::new();
        let settings = alloc::vec![(DEVICE..=SourceId::new(0x12), DteSettings::new())];
        let mut unit = Unit::new(&mut machine, &UnitSpec { settings, ..spec() }).unwrap();
        unit.poll(&mut machine);
        assert_eq!(unit.state(), UnitState::Running);
        assert_eq!(machine.codes(), [8, 2, 2, 2, 1]);
    }

    #[test]
    fn r5_a_unit_that_makes_no_sense_keeps_no_memory() {
        let mut machine = FakeMachine::new();
        let elsewhere = UnitSpec { base: PhysAddr::new(0xfeb8_0000), ..spec() };
        let refusal = UnitRefusal::Elsewhere { base: BASE };
        assert_eq!(Unit::new(&mut machine, &elsewhere).unwrap_err(), refusal.into());
        let nowhere = UnitSpec { capability_offset: 0x44, ..spec() };
        let refusal = UnitRefusal::NoCapability { offset: 0x44 };
        assert_eq!(Unit::new(&mut machine, &nowhere).unwrap_err(), refusal.into());
        machine.words.fill(u64::MAX);
        let refusal = UnitRefusal::AllOnes("control");
        assert_eq!(Unit::new(&mut machine, &spec()).unwrap_err(), refusal.into());
        let mut machine = FakeMachine::new();
        while machine.frames.alloc_table(512).is_some() {}
        let live = machine.frames.live();
        assert_eq!(Unit::new(&mut machine, &spec()).unwrap_err(), Unusable::OutOfFrames);
        assert_eq!(machine.frames.live(), live);
    }

    #[test]
    fn what_it_can_do_is_told() {
        let (_, mut unit) = running(true);
        let abilities = unit.abilities();
        assert_eq!((abilities.walks, abilities.address_bits), (Walks::AmdV1, 48));
        assert!(abilities.depths.contains(6) && abilities.coherent);
        assert!(unit.summary().caching_mode);
        assert_eq!(unit.domain_ids().take(), Some(DomainId::new(1)));
        assert_eq!((unit.domain_ids_in_use(), unit.base(), unit.segment()), (1, BASE, 0));
    }
}
