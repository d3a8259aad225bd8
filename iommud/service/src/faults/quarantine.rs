//! Devices that were denied more than the policy allows: they reach nothing until the administrator releases them.
//!
//! A device goes in with all of its group, for no unit could tell them apart. It is blocked (see
//! [`blocking`](iommu_engine::engine::blocking)), its drivers are told, and what they map for it is refused. They keep their
//! sessions, and may unmap and give back what they hold. Nobody opens a device that is in quarantine.
//!
//! Only the administrator releases it, by `iommuctl release`: a driver that could would, the first thing in its handler. Each
//! driver's session has another generation afterwards, for its device has stood still and is to be set up anew.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use dma_types::{PciAddress, Span};
use iommu_engine::fault::{Fault, Tried};
use iommu_engine::ledger::Slot;
use iommu_engine::machine::GroupId;
use iommu_engine::platform::{Instant, Platform};
use iommu_engine::policy::QuarantineAfter;
use libdma::Error;
use libdma::protocol::Rights;

use crate::calls::Answered;
use crate::error::to_client;
use crate::faults::events::{Entry, What};
use crate::faults::storms::Requester;
use crate::handles::handle::{HandleId, Object};
use crate::records::QuarantineRecord;
use crate::report::ago::Ago;
use crate::service::Service;
use crate::sessions::session::SessionId;

/// Why a group is in quarantine.
#[derive(Clone, Debug)]
pub struct Quarantine {
    /// Who signed the accesses for which it is.
    pub requester: PciAddress,
    /// How many they were.
    pub faults: u32,
    /// Within which time.
    pub within: Duration,
    /// When it began, and with which of them, the last; nothing if that was before the daemon was restarted.
    pub began: Option<(Instant, Fault)>,
    /// What the ledger has of it, one record for each of its functions.
    records: Vec<(Slot, QuarantineRecord)>,
}

impl Quarantine {
    /// Why, and for how long by now: `in quarantine for 12.3 s: 0000:00:02.0 was denied 32 accesses within 1 s, the last a write
    /// at 0x5000; ...`.
    pub fn why(&self, now: Instant) -> String {
        let Self { requester, faults, within, began, .. } = self;
        let accesses = if *faults == 1 { "access" } else { "accesses" };
        let mut why = match began {
            Some((since, _)) => format!("in quarantine for {}: ", Ago(now.since(*since))),
            None => "in quarantine since before iommud was restarted: ".to_string(),
        };
        why += &format!("{requester} was denied {faults} {accesses} within {}", Span(*within));
        if let Some((_, Fault { tried, address, .. })) = began {
            let last = match tried {
                Tried::Read => "a read",
                Tried::Write => "a write",
                _ => "one",
            };
            why += &format!(", the last {last} at {address}");
        }
        why + "; `iommuctl release` ends it"
    }

    /// What drivers are told of it.
    const fn event(&self) -> What {
        let source = self.requester.source();
        What::Quarantined { source, faults: self.faults, within: self.within }
    }
}

impl<P: Platform> Service<P> {
    /// Puts the group of a requester in quarantine, whose last fault was this one. Whether it went in: what is there already,
    /// or no unit can block, stays as it is.
    pub(crate) fn quarantine(
        &mut self,
        now: Instant,
        (segment, source): Requester,
        fault: Fault,
        limit: QuarantineAfter,
    ) -> bool {
        let Some(source) = source else { return false };
        let signer = self.engine.signers(segment, source).first().map(|device| device.group);
        let Some(group) = signer else { return false };
        let members = self.members(group);
        let Some(first) = members.first().copied() else { return false };
        let Self { engine, platform, .. } = self;
        if engine.is_blocked(first) {
            return false;
        }
        let requester = PciAddress::from_source(segment, source);
        let QuarantineAfter { faults, within } = limit;
        let mut records = Vec::new();
        for device in members {
            let was_master = engine.masters(platform, device);
            let record = QuarantineRecord { device, was_master, requester, faults, within };
            // First of all, so that it does not end with a daemon that dies meanwhile. Without memory for it, it does.
            records.extend(engine.write_record(platform, &record).map(|slot| (slot, record)));
        }
        if engine.block(platform, first).is_err() {
            records.iter().for_each(|(slot, _)| engine.strike_record(platform, *slot));
            return false;
        }
        let why = Quarantine { requester, faults, within, began: Some((now, fault)), records };
        let what = why.event();
        self.quarantines.insert(group, why);
        for session in self.sessions_of(group) {
            self.tell(session, Entry { at: now, what });
        }
        true
    }

    /// Goes on with a quarantine that a predecessor has written down, of one of the functions in it.
    pub(crate) fn restore_quarantine(&mut self, slot: Slot, record: &QuarantineRecord) {
        let QuarantineRecord { device, requester, faults, within, .. } = *record;
        let known = self.engine.device(device).filter(|_| self.engine.is_blocked(device));
        let Some(group) = known.map(|known| known.group) else {
            // It is there no more.
            return self.engine.strike_record(&self.platform, slot);
        };
        let why = || Quarantine { requester, faults, within, began: None, records: Vec::new() };
        self.quarantines.entry(group).or_insert_with(why).records.push((slot, *record));
    }

    /// Releases the device of a handle of the administrator's.
    pub(crate) fn release(&mut self, handle: HandleId) -> Result<Answered, Error> {
        let handle = self.handles.get(handle)?;
        let Object::Quarantine(device) = handle.object else { return Err(Error::WrongHandleKind) };
        handle.require(Rights::ADMINISTER)?;
        // What was blocked before is not for another quarantine.
        self.log_faults();
        let group = self.engine.device(device).ok_or(Error::NoSuchDevice)?.group;
        if !self.quarantines.contains_key(&group) {
            return Err(Error::NotQuarantined);
        }
        let sessions = self.sessions_of(group);
        let first = sessions.first().and_then(|id| self.sessions.sessions.get(id));
        let domain = first.map(|session| session.entered.map_or(session.domain, |it| it.domain));
        let Self { engine, platform, .. } = self;
        let completion = engine.unblock(platform, device, domain).map_err(to_client)?;
        if let Some(quarantine) = self.quarantines.remove(&group) {
            for (slot, _) in quarantine.records {
                self.engine.strike_record(&self.platform, slot);
            }
        }
        let now = self.platform.now();
        self.forgive(group, now);
        for id in sessions {
            let Some(generation) = self.next_generation_of(id) else { continue };
            self.tell(id, Entry { at: now, what: What::Released { generation } });
        }
        Ok(Answered::after(0, completion))
    }

    /// Why a device is in quarantine, if it is.
    pub fn quarantine_of(&self, device: PciAddress) -> Option<&Quarantine> {
        self.quarantines.get(&self.engine.device(device)?.group)
    }

    /// Refuses what would let a session's device reach something while it is in quarantine.
    #[inline]
    pub(crate) fn check_released(&self, session: SessionId) -> Result<(), Error> {
        // Each that is blocked is in one.
        if self.quarantines.is_empty() { Ok(()) } else { self.check_not_blocked(session) }
    }

    #[inline(never)]
    fn check_not_blocked(&self, session: SessionId) -> Result<(), Error> {
        let session = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        if self.engine.is_blocked(session.device) { Err(Error::Quarantined) } else { Ok(()) }
    }

    /// Counts the faults of a group anew, of which everything is recorded now.
    fn forgive(&mut self, group: GroupId, now: Instant) {
        let Some(group) = self.engine.groups().get(group.0) else { return };
        for source in &group.spec.requesters {
            self.storms.forgive((group.spec.segment, Some(*source)), now);
        }
    }

    /// Tells the faults of a device from the first again, for a session of it has begun or ended.
    pub(crate) fn tell_anew(&mut self, device: PciAddress) {
        let now = self.platform.now();
        let Some(group) = self.engine.group(device) else { return };
        if group.holders.iter().all(|holder| *holder == device) {
            for source in &group.spec.requesters {
                self.storms.tell_anew((group.spec.segment, Some(*source)), now);
            }
        }
    }

    /// Takes note that a device in quarantine has been given up: whoever had it master the bus is gone.
    pub(crate) fn given_up_in_quarantine(&mut self, device: PciAddress) {
        let Self { engine, platform, quarantines, .. } = self;
        let group = engine.device(device).map(|device| device.group);
        let Some(quarantine) = group.and_then(|group| quarantines.get_mut(&group)) else { return };
        for (slot, record) in quarantine.records.iter_mut().filter(|it| it.1.device == device) {
            record.was_master = false;
            engine.update_record(platform, *slot, record);
        }
    }

    /// Tells a session that has come back of the quarantine that its device is in.
    pub(crate) fn tell_of_quarantine(&mut self, session: SessionId) {
        let device = self.sessions.sessions.get(&session).map(|session| session.device);
        let why = device.and_then(|device| self.quarantine_of(device));
        if let Some(what) = why.map(Quarantine::event) {
            self.tell(session, Entry { at: self.platform.now(), what });
        }
    }

    /// Takes note that a device has gone to another domain, and that its unit records everything of it again.
    pub(crate) fn moved(&mut self, device: PciAddress) {
        let Some(group) = self.engine.group(device) else { return };
        for source in &group.spec.requesters {
            self.storms.unsilenced((group.spec.segment, Some(*source)));
        }
    }

    fn members(&self, group: GroupId) -> Vec<PciAddress> {
        let group = self.engine.groups().get(group.0);
        group.map_or_else(Vec::new, |group| group.members().to_vec())
    }

    /// The sessions of a group's devices.
    fn sessions_of(&self, group: GroupId) -> Vec<SessionId> {
        let members = self.members(group);
        let sessions = self.sessions.sessions.iter();
        sessions.filter(|(_, it)| members.contains(&it.device)).map(|(id, _)| *id).collect()
    }
}
