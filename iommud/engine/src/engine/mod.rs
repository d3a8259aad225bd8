//! The machine's IOMMUs, devices and domains, as one.
//!
//! | module | what is in it |
//! | --- | --- |
//! | here | start, poll, and what there is to see |
//! | [`adopt`] | going on with the tables of a daemon that has died |
//! | `domains` | domains, from their making to their end |
//! | `at_hand` | memory in and out of domains where that takes few steps |
//! | `attachment` | devices in and out of them, a group at a time |
//! | [`blocking`] | devices that are kept from everything, and faults that are not recorded |
//! | [`chain`] | mappings at chosen addresses, and one behind the other |
//! | [`deferred`] | unmaps that units are told of together |
//! | `identity` | devices that the policy leaves unconfined |
//! | `keeping` | from when on they do not reach what is kept from them |
//! | `mapping` | memory in domains, and how units come to see it |
//! | `unmapping` | memory out of domains |
//! | `freeing` | what becomes free when hardware has confirmed |
//! | `empty_tables` | the tables that domains keep although they are empty, given up |
//! | `peer` | registers of one device in the address space of another |
//! | [`runs`] | memory for clients' buffers, and what is set aside for it |
//! | `rescan` | functions that appear while the engine runs |
//!
//! # What is promised
//!
//! Between any two calls, every device reaches exactly what is mapped in the domain it is attached to, or,
//! attached to none, what firmware reserves for it (rule R1). What a call takes away is not used again
//! before the units have confirmed that they have forgotten it (rule R2); the [`Completion`] that such a
//! call returns tells when that is, for those who must know. A call that fails has changed nothing (R7).

pub mod adopt;
mod at_hand;
mod attachment;
pub mod blocking;
pub mod chain;
pub mod deferred;
mod domains;
mod empty_tables;
mod freeing;
mod identity;
mod keeping;
mod mapping;
mod peer;
mod rescan;
pub mod runs;
mod unmapping;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Iova, PciAddress, PhysAddr};
use thiserror::Error;

use self::deferred::Deferred;
use self::keeping::Keeping;
pub use self::mapping::MapSpec;
pub use self::peer::PeerBarSpec;
use crate::completion::{Completion, Progress, Promiser, Ticket, UnitId};
use crate::domain::{Domain, DomainKey, Domains};
use crate::error::{EngineError, StartError};
use crate::fault::Fault;
use crate::ledger::{Ledger, Record, Slot};
use crate::machine::plan::{Firmware, Plan};
use crate::machine::{self, Device, Group, GroupId, Remark, UnitSlot};
use crate::payer::{Books, Payer, Purse, Turnover};
use crate::pci;
use crate::platform::{Platform, Segment};
use crate::policy::Policy;
use crate::records::{EpochRecord, Purpose};
use crate::reserve::Reserve;
use crate::retired::{Retired, RetiredList};
use crate::segments::Near;
use crate::unit::{Changed, Unit, UnitState, Unusable};

/// What happened to a unit's devices since it was last looked at.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request was blocked.
    Fault {
        /// By this unit.
        unit: UnitId,
        /// In this segment.
        segment: u16,
        /// This one.
        fault: Fault,
    },
    /// More requests were blocked than the unit could record.
    FaultsLost {
        /// This unit.
        unit: UnitId,
    },
}

/// What keeps a function from memory that is not its own, or why nothing does. It prints as a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Confinement {
    /// It reaches what is mapped for it, and nothing else.
    #[error("it reaches what is mapped for it")]
    Confined,
    /// The policy lets it reach all memory while nobody holds it.
    #[error("it reaches all memory, for the policy says so")]
    LeftOpen,
    /// The policy leaves the unit that covers it alone.
    #[error("it reaches everything, for the IOMMU in front of it is not used")]
    UnitNotUsed,
    /// The unit that covers it cannot be used. Its bus mastering was turned off, as far as it was known then.
    #[error(
        "it reaches everything once it masters the bus, for the IOMMU in front of it cannot be used"
    )]
    UnitUnusable,
    /// The machine has no IOMMU.
    #[error("it reaches all memory, for this machine has no IOMMU")]
    NoIommu,
    /// No unit covers it.
    #[error("it reaches everything, for no IOMMU covers it")]
    Uncovered,
    /// The unit that covers it has failed, and nobody knows what it still does.
    #[error("nobody knows what it reaches, for the IOMMU in front of it has failed")]
    Unknown,
}

/// The machine's IOMMUs, devices and domains.
#[derive(Debug)]
pub struct Engine {
    /// What was planned with the machine, for functions that appear later.
    plan: Plan,
    units: Vec<UnitSlot>,
    devices: BTreeMap<PciAddress, Device>,
    groups: Vec<Group>,
    remarks: Vec<Remark>,
    domains: Domains,
    next_domain: u64,
    retired: RetiredList,
    /// On whose account it is what operations take.
    books: Books,
    deferred: Deferred,
    policy: Policy,
    /// The domains of what the policy leaves unconfined while nobody holds it.
    unconfined: Vec<DomainKey>,
    /// The state of the arenas that they have followed.
    arenas_followed: Option<u64>,
    /// What units have yet to confirm before they reach nothing of what was kept from them.
    keeping: Keeping,
    ledger: Ledger,
    /// Whether units have yet to forget what they hold by a predecessor's tables.
    is_taking_over: bool,
    /// Whether every unit works, none has anything of a predecessor's to forget, and nothing is kept from the unconfined: then a
    /// mapping needs no look at any of that. As of the last [poll](Self::poll), or not so.
    is_plain: bool,
    /// Whether all units see by themselves what is mapped. As of the last poll, or not so.
    all_see: bool,
    /// What is set aside for runs in one piece.
    reserves: Vec<Reserve>,
    /// These are reused from call to call, so that the hot path allocates nothing.
    pieces: Vec<Segment>,
    near: Near,
    ranges: Vec<(Iova, u64)>,
    changes: Vec<Changed>,
    unlinked: Vec<PhysAddr>,
    payers: Vec<Payer>,
}

impl Engine {
    /// Finds the machine's IOMMUs and devices, and begins to bring the units up, as the policy says. They are up when
    /// [`is_settled`](Self::is_settled), after some [polls](Self::poll). What a predecessor left is set aside: to go on with
    /// that is to [adopt](Self::adopt) it.
    ///
    /// # Errors
    ///
    /// [`StartError`] if there is no table of IOMMUs that can be used. A single unit that cannot be used is
    /// left out, with bus mastering turned off in the devices behind it (rule R1), and the others go on.
    pub fn start(platform: &mut impl Platform, policy: Policy) -> Result<Self, StartError> {
        if platform.inherited() {
            platform.set_aside_inherited();
        }
        let ledger = Ledger::create(platform)?;
        let machine::Found { plan, units, devices, groups, remarks } =
            machine::discover(platform, &policy, &[])?;
        let mut engine = Self {
            plan,
            units,
            devices,
            groups,
            remarks,
            domains: Domains::default(),
            next_domain: 1,
            retired: RetiredList::default(),
            books: Books::default(),
            deferred: Deferred::default(),
            policy,
            unconfined: Vec::new(),
            arenas_followed: None,
            keeping: Keeping::default(),
            ledger,
            is_taking_over: false,
            is_plain: false,
            all_see: false,
            reserves: Vec::new(),
            pieces: Vec::new(),
            near: Near::default(),
            ranges: Vec::new(),
            changes: Vec::new(),
            unlinked: Vec::new(),
            payers: Vec::new(),
        };
        for unit in engine.units.iter().filter_map(|slot| slot.unit.as_ref().ok()) {
            engine.ledger.insert(platform, &unit.record())?;
        }
        engine.ledger.insert(platform, &EpochRecord(0))?;
        silence_unusable(platform, &engine.units, &engine.devices);
        engine.set_memory_aside(platform);
        for id in (0..engine.groups.len()).map(GroupId) {
            engine.make_home(platform, id);
        }
        engine.follow_arenas(platform);
        engine.poll(platform);
        Ok(engine)
    }

    /// Gives a group a home that is to reach something while nobody holds it, at the start before translation is
    /// turned on: what firmware reserves for it (rule R1), or all that the policy lets it reach.
    fn make_home(&mut self, platform: &mut impl Platform, id: GroupId) {
        self.remark_closed(id);
        let group = &self.groups[id.0];
        if group.blocked.is_some() {
            return;
        }
        let mut devices = group.members().iter().filter_map(|it| self.devices.get(it));
        let unconfined = self.is_unconfined(id);
        if group.unit.is_none() || !unconfined && devices.all(|it| it.reserved.is_empty()) {
            return;
        }
        let members = group.members().to_vec();
        let purpose = if unconfined { Purpose::Unconfined } else { Purpose::Home };
        let given = self.create_domain_for(platform, &members, None, purpose).and_then(|key| {
            self.enter(platform, id, key).inspect_err(|_| {
                // It was just made, and nothing is attached to it.
                let _ = self.destroy_domain(platform, key);
            })?;
            Ok(key)
        });
        match given {
            Ok(key) => {
                self.groups[id.0].home = Some(key);
                if unconfined {
                    self.unconfined.push(key);
                    self.is_plain = false;
                    self.arenas_followed = None;
                }
            }
            Err(error) => {
                let first = members.first().copied();
                let remark = first.map(|address| Remark::HomeNotMapped { address, error });
                self.remarks.extend(remark);
            }
        }
    }

    /// Goes on with what is under way: units that start, invalidations, and what waits for them.
    pub fn poll(&mut self, platform: &mut impl Platform) {
        for (index, slot) in self.units.iter_mut().enumerate() {
            let Ok(unit) = &mut slot.unit else { continue };
            let had_failed = unit.has_failed();
            unit.poll(platform);
            if !had_failed && unit.has_failed() {
                silence(platform, &self.devices, UnitId(index as u16));
            }
        }
        self.settle_inherited(platform);
        self.follow_arenas(platform);
        self.tell_if_due(platform);
        self.forget_batches();
        self.release(platform);
        self.look_whether_plain();
    }

    fn look_whether_plain(&mut self) {
        self.is_plain = !self.is_taking_over
            && self.unconfined.is_empty()
            && self.keeping.is_empty()
            && self.running_units().all(|unit| !unit.has_failed());
        let all_see = self.running_units().all(Unit::sees_by_itself);
        self.all_see = all_see;
    }

    /// Whether every unit either translates or has been given up.
    pub fn is_settled(&self) -> bool {
        self.running_units().all(|unit| !matches!(unit.state(), UnitState::Starting(_)))
    }

    /// Whether something waits for hardware, or has waited and is not free yet, so that the engine should be polled soon.
    pub fn is_waiting(&self) -> bool {
        !self.is_settled()
            || self.deferred.holds_any()
            || self.retired.waiting() > 0
            || self.running_units().any(|unit| !unit.has_failed() && unit.open_tickets() > 0)
    }

    /// Whether some unit records faults without saying so, so that the engine must be polled now and then.
    pub fn wants_polling(&self) -> bool {
        self.running_units().any(Unit::wants_polling)
    }

    /// Reads the faults that the units have recorded. Unless a unit [wants polling](Self::wants_polling) after
    /// that, the next fault interrupts.
    pub fn take_events(&mut self, platform: &mut impl Platform) -> Vec<Event> {
        let mut events = Vec::new();
        let mut faults = Vec::new();
        for (index, slot) in self.units.iter_mut().enumerate() {
            let unit = UnitId(index as u16);
            let Ok(hardware) = &mut slot.unit else { continue };
            let had_failed = hardware.has_failed();
            let lost = hardware.take_faults(platform, &mut faults);
            if !had_failed && hardware.has_failed() {
                silence(platform, &self.devices, unit);
            }
            let segment = hardware.segment();
            events.extend(faults.drain(..).map(|fault| Event::Fault { unit, segment, fault }));
            if lost {
                events.push(Event::FaultsLost { unit });
            }
        }
        self.look_whether_plain();
        events
    }

    /// How a completion stands. It does not change before the next [poll](Self::poll).
    #[inline]
    pub fn progress(&self, completion: &Completion) -> Progress {
        if completion.is_none() {
            return Progress::Done;
        }
        progress(&self.units, &self.deferred, completion)
    }

    /// Forgets what is confirmed of a completion that is kept for long.
    pub fn forget_confirmed(&self, completion: &mut Completion) {
        completion.retain(|part| self.progress(part) != Progress::Done);
    }

    /// What the administrator decided.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether the firmware describes an IOMMU, used or not. Where it does not, the policy says that drivers are
    /// served all the same, and nothing is confined.
    pub fn has_iommu(&self) -> bool {
        !matches!(self.plan.firmware(), Firmware::Absent)
    }

    /// The units, in the order of the firmware's table, by [`UnitId`].
    pub fn units(&self) -> &[UnitSlot] {
        &self.units
    }

    /// The PCI functions, by address.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// A PCI function.
    pub fn device(&self, address: PciAddress) -> Option<&Device> {
        self.devices.get(&address)
    }

    /// The groups in which devices go in and out of domains, by [`GroupId`].
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// What keeps a function from memory that is not its own, or why nothing does.
    pub fn confinement(&self, device: PciAddress) -> Confinement {
        if !self.has_iommu() {
            return Confinement::NoIommu;
        }
        let Some(unit) = self.devices.get(&device).and_then(|device| device.unit) else {
            return Confinement::Uncovered;
        };
        let unit = self.units.get(usize::from(unit.0)).map(|slot| &slot.unit);
        match unit {
            Some(Ok(unit)) if unit.has_failed() => Confinement::Unknown,
            Some(Ok(_)) if self.reaches_everything(device) => Confinement::LeftOpen,
            Some(Ok(_)) => Confinement::Confined,
            Some(Err(Unusable::Ignored(_))) => Confinement::UnitNotUsed,
            Some(Err(_)) | None => Confinement::UnitUnusable,
        }
    }

    /// Whether a function is not confined while nobody holds it, because the policy says so.
    pub fn reaches_everything(&self, device: PciAddress) -> bool {
        let attached = self.group(device).and_then(|group| group.attached);
        attached.is_some_and(|key| self.unconfined.contains(&key))
    }

    /// The group of a function.
    pub fn group(&self, device: PciAddress) -> Option<&Group> {
        self.groups.get(self.devices.get(&device)?.group.0)
    }

    /// What was odd about the firmware's table.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// The domains, by number.
    pub fn domains(&self) -> impl Iterator<Item = (DomainKey, &Domain)> {
        self.domains.iter()
    }

    /// A domain.
    pub fn domain(&self, key: DomainKey) -> Option<&Domain> {
        self.domains.get(&key)
    }

    /// Writes down what must survive the daemon.
    ///
    /// # Errors
    ///
    /// [`EngineError::OutOfFrames`].
    pub fn write_record(
        &mut self,
        platform: &mut impl Platform,
        record: &impl Record,
    ) -> Result<Slot, EngineError> {
        let slot = self.ledger.insert(platform, record)?;
        self.follow_arenas(platform);
        Ok(slot)
    }

    /// Writes a record over one of its kind. Whoever reads it meanwhile may see some of its words as they were.
    pub fn update_record(&self, platform: &impl Platform, slot: Slot, record: &impl Record) {
        self.ledger.update(platform, slot, record);
    }

    /// Strikes out what was written down.
    pub fn strike_record(&mut self, platform: &impl Platform, slot: Slot) {
        self.ledger.remove(platform, slot);
    }

    /// What units have yet to confirm of everything that was unmapped in a domain. Those that fail are not waited for: what
    /// is behind them reaches nothing any more.
    pub fn lasting(&self, domain: DomainKey) -> Completion {
        self.retired.lasting(domain)
    }

    /// Does something on somebody's account.
    pub fn on_account<T>(&mut self, purse: Purse, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = core::mem::replace(&mut self.books.purse, purse);
        let done = act(self);
        self.books.purse = before;
        done
    }

    /// What has come to and gone from an account that nobody was told of yet: to be asked until there is nothing.
    pub fn take_turnover(&mut self) -> Option<(Payer, Turnover)> {
        self.books.take()
    }

    /// How many bytes of addresses have come to an account, or gone from it where that is negative, that nobody was told of
    /// yet; nothing if there is anything else to be told.
    #[inline]
    pub fn owes(&self, payer: Payer) -> Option<i64> {
        self.books.owes(payer)
    }

    /// What waits for hardware to confirm before it is free, and what a unit has failed to confirm.
    pub fn retired_list(&self) -> impl Iterator<Item = &Retired> {
        self.retired.iter()
    }

    /// How many things wait for hardware to confirm before they are free.
    pub fn retired(&self) -> usize {
        self.retired.len()
    }

    fn group_of(&self, device: PciAddress) -> Result<GroupId, EngineError> {
        Ok(self.devices.get(&device).ok_or(EngineError::NoSuchDevice(device))?.group)
    }

    fn unit_in_front_of(&self, address: PciAddress) -> Result<(UnitId, &Unit), EngineError> {
        let group = &self.groups[self.group_of(address)?.0];
        if let Some(fault) = group.refusal {
            return Err(EngineError::GroupRefused(address, fault));
        }
        let id = group.unit.ok_or(EngineError::NotCovered(address))?;
        match unit_at(&self.units, id) {
            Some(unit) if !unit.has_failed() => Ok((id, unit)),
            _ => Err(EngineError::UnitNotWorking(address)),
        }
    }

    /// Refuses a device that cannot be attached now: the unit in front of it does not translate, or nobody opens
    /// such as it is.
    fn check_usable(&self, address: PciAddress) -> Result<(), EngineError> {
        if self.has_iommu() {
            return self.translating_unit(address).map(drop);
        }
        match self.devices.get(&address) {
            None => Err(EngineError::NoSuchDevice(address)),
            Some(device) if device.is_infrastructure() => Err(EngineError::NotCovered(address)),
            Some(_) => Ok(()),
        }
    }

    /// The unit in front of a device, if it translates.
    fn translating_unit(&self, address: PciAddress) -> Result<&Unit, EngineError> {
        let (_, unit) = self.unit_in_front_of(address)?;
        match unit.state() {
            UnitState::Running => Ok(unit),
            UnitState::Starting(_) | UnitState::Failed(_) => {
                Err(EngineError::UnitStarting(address))
            }
        }
    }

    fn running_units(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter_map(|slot| slot.unit.as_ref().ok())
    }
}

/// Has no device behind a unit master the bus any more. Bridges go on: what is behind them may be behind another unit; and so do
/// functions of units, which say by messages what they deny.
fn silence(platform: &mut impl Platform, devices: &BTreeMap<PciAddress, Device>, unit: UnitId) {
    let behind = |device: &&Device| device.unit == Some(unit) && !device.is_infrastructure();
    for device in devices.values().filter(behind) {
        pci::clear_bus_master(platform, device.function.address);
    }
}

/// Does so behind each unit that cannot be used, which denies nothing (rule R1). What the policy leaves alone stays as it is.
fn silence_unusable(
    platform: &mut impl Platform,
    units: &[UnitSlot],
    devices: &BTreeMap<PciAddress, Device>,
) {
    for (index, slot) in units.iter().enumerate() {
        if matches!(&slot.unit, Err(unusable) if !matches!(unusable, Unusable::Ignored(_))) {
            silence(platform, devices, UnitId(index as u16));
        }
    }
}

#[inline]
fn unit_at(units: &[UnitSlot], id: UnitId) -> Option<&Unit> {
    units.get(usize::from(id.0)).and_then(|slot| slot.unit.as_ref().ok())
}

#[inline]
fn unit_mut(units: &mut [UnitSlot], id: UnitId) -> Option<&mut Unit> {
    units.get_mut(usize::from(id.0)).and_then(|slot| slot.unit.as_mut().ok())
}

#[inline]
fn has_failed(units: &[UnitSlot], id: UnitId) -> bool {
    unit_at(units, id).is_none_or(|unit| unit.has_failed())
}

/// How a completion stands, its batches of unmaps included.
fn progress(units: &[UnitSlot], deferred: &Deferred, completion: &Completion) -> Progress {
    let of_one = |(promiser, ticket)| match promiser {
        Promiser::Unit(unit) => unit_progress(units, unit, ticket),
        Promiser::Batches(_) => {
            deferred.progress(ticket, |completion| units_progress(units, completion))
        }
    };
    let (first, more) = completion.parts();
    let first = first.map_or(Progress::Done, of_one);
    more.iter().fold(first, |all, promise| all.and(of_one(*promise)))
}

/// How what units have promised stands.
fn units_progress(units: &[UnitSlot], completion: &Completion) -> Progress {
    let tickets = completion.tickets();
    tickets.fold(Progress::Done, |all, (unit, ticket)| all.and(unit_progress(units, unit, ticket)))
}

#[inline]
fn unit_progress(units: &[UnitSlot], unit: UnitId, ticket: Ticket) -> Progress {
    match unit_at(units, unit) {
        Some(unit) if unit.confirmed() >= ticket => Progress::Done,
        Some(unit) if !unit.has_failed() => Progress::Pending,
        Some(_) | None => Progress::Failed,
    }
}
