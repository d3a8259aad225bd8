//! Devices that go in and out of domains together.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use dma_types::PciAddress;

use super::plan::{GroupFault, PlannedGroup};
use crate::completion::{Completion, UnitId};
use crate::domain::DomainKey;
use crate::ledger::Slot;
use crate::topology;

/// Names a group: its place in the list of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub usize);

/// A group of functions that no unit can keep apart, and where it is.
#[derive(Debug)]
pub struct Group {
    /// Its functions, the source-ids that their requests carry, and why they belong together.
    pub spec: topology::Group,
    /// The unit that covers them all, if one does.
    pub unit: Option<UnitId>,
    /// Why they cannot be attached, if they cannot.
    pub refusal: Option<GroupFault>,
    /// The domain that they are all attached to.
    pub attached: Option<DomainKey>,
    /// The domain that they are attached to while nobody holds one of them: what firmware reserves for them, or
    /// what the policy lets them reach. Without one they reach nothing.
    pub home: Option<DomainKey>,
    /// The members that somebody has attached. While there are none, the group is at home.
    pub holders: BTreeSet<PciAddress>,
    /// The records of its attachments in the ledger, one for each requester.
    pub slots: Vec<Slot>,
    /// What its unit has yet to confirm before it reaches what it is attached to.
    pub entering: Completion,
    /// What its unit has yet to confirm before it reaches nothing of what it was attached to before.
    pub leaving: Completion,
    /// If it is kept from everything: what of that is to be undone when it is not any more.
    pub blocked: Option<Blocked>,
}

/// A group that is kept from everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    /// Its functions that mastered the bus.
    pub masters: Vec<PciAddress>,
}

impl Group {
    /// A group as it was planned, attached to nothing.
    pub fn planned(planned: &PlannedGroup) -> Self {
        Self {
            spec: planned.topology.clone(),
            unit: planned.unit.unwrap_or_default(),
            refusal: planned.unit.err(),
            attached: None,
            home: None,
            holders: BTreeSet::new(),
            slots: Vec::new(),
            entering: Completion::none(),
            leaving: Completion::none(),
            blocked: None,
        }
    }

    /// Its functions, at least one, by address.
    pub fn members(&self) -> &[PciAddress] {
        &self.spec.members
    }

    /// Whether somebody holds one of its members.
    pub fn is_held(&self) -> bool {
        !self.holders.is_empty()
    }
}
