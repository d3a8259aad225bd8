//! The engine, and what there is to see of it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Iova, PciAddress, PhysAddr};

use super::deferred::Deferred;
use super::keeping::Keeping;
use crate::completion::Completion;
use crate::domain::{Domain, DomainKey, Domains};
use crate::error::EngineError;
use crate::ledger::{Ledger, Record, Slot};
use crate::machine::plan::{Firmware, Plan};
use crate::machine::{Device, Found, Group, Remark, UnitSlot};
use crate::payer::{Books, Payer, Purse, Turnover};
use crate::platform::{Platform, Segment};
use crate::policy::Policy;
use crate::reserve::Reserve;
use crate::retired::{Retired, RetiredList};
use crate::segments::Near;
use crate::unit::Changed;

/// The machine's IOMMUs, devices and domains.
#[derive(Debug)]
pub struct Engine {
    /// What was planned with the machine, for functions that appear later.
    pub(super) plan: Plan,
    pub(super) units: Vec<UnitSlot>,
    pub(super) devices: BTreeMap<PciAddress, Device>,
    pub(super) groups: Vec<Group>,
    pub(super) remarks: Vec<Remark>,
    pub(super) domains: Domains,
    pub(super) next_domain: u64,
    pub(super) retired: RetiredList,
    /// On whose account it is what operations take.
    pub(super) books: Books,
    pub(super) deferred: Deferred,
    pub(super) policy: Policy,
    /// The domains of what the policy leaves unconfined while nobody holds it.
    pub(super) unconfined: Vec<DomainKey>,
    /// The state of the arenas that they have followed.
    pub(super) arenas_followed: Option<u64>,
    /// What units have yet to confirm before they reach nothing of what was kept from them.
    pub(super) keeping: Keeping,
    pub(super) ledger: Ledger,
    /// Whether units have yet to forget what they hold by a predecessor's tables.
    pub(super) is_taking_over: bool,
    /// Whether every unit works, none has anything of a predecessor's to forget, and nothing is kept from the unconfined: then a
    /// mapping needs no look at any of that. As of the last [poll](Self::poll), or not so.
    pub(super) is_plain: bool,
    /// Whether all units see by themselves what is mapped. As of the last poll, or not so.
    pub(super) all_see: bool,
    /// What is set aside for runs in one piece.
    pub(super) reserves: Vec<Reserve>,
    /// These are reused from call to call, so that the hot path allocates nothing.
    pub(super) pieces: Vec<Segment>,
    pub(super) near: Near,
    pub(super) ranges: Vec<(Iova, u64)>,
    pub(super) changes: Vec<Changed>,
    pub(super) unlinked: Vec<PhysAddr>,
    pub(super) payers: Vec<Payer>,
}

impl Engine {
    /// For the machine that was found, with no domains yet.
    pub(super) fn new(found: Found, policy: Policy, ledger: Ledger) -> Self {
        let Found { plan, units, devices, groups, remarks } = found;
        Self {
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
        }
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

    /// The units, in the order of the firmware's table, by [`UnitId`](crate::completion::UnitId).
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

    /// The groups in which devices go in and out of domains, by [`GroupId`](crate::machine::GroupId).
    pub fn groups(&self) -> &[Group] {
        &self.groups
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
}
