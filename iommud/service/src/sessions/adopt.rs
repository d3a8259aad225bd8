//! Going on with the sessions of a daemon that has died.
//!
//! The ledger tells which sessions there were, and what they had. Each is there again under its number, with its secret,
//! its buffers, domains and peers' BARs, and its device reaches what it reached; but nobody has a handle to any of it: it is an
//! [orphan](crate::sessions::orphans). What was just being made or ended, of which the records are not whole, is gone: nobody was told
//! of it.
//!
//! Buffers that have outlived their sessions are not there again: their handles have died with the daemon. Their memory is
//! free when every unit has forgotten it, but for what is of a reserve, which a client may have mapped
//! (see [`iommu_engine::reserve`]).
//!
//! | of before | now |
//! | --- | --- |
//! | mappings, explicit domains, strictness, quarantines | as they were |
//! | resets that were under way | begun anew. Who resumes its session waits until its device is reset, and is told |
//! | restricted handles | dead, like all. Who has the session's secret is its driver, and not who had such a handle |
//! | what restricted handles had on accounts of their own | on the session's account |
//! | the page behind a mapping that stayed free | may be mapped: an overrun by the device is not told then |
//! | what a device may do by a mapping | what its table says, so that on units without zero-length reads write-only is both |
//! | faults that nobody has read, and what was mapped lately | forgotten |

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::PciAddress;
use iommu_engine::completion::Completion;
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::Engine;
use iommu_engine::engine::adopt::{
    AdoptError, BlockedDevice, HeldDevice, LeftRun, OwnedBuffer, OwnedPeerBar, Owners,
};
use iommu_engine::ledger::{Ledger, Record, Slot};
use iommu_engine::pci::reset::{ResetBy, is_ready};
use iommu_engine::platform::{ConfigSpace, Platform, RunId, TableFrames};

use crate::account::{AccountId, Usage};
use crate::handles::handle::HandleId;
use crate::handles::tree::DoneBy;
use crate::memory::buffers::quotas_of;
use crate::memory::label::Label;
use crate::memory::mapped::BufferMappings;
use crate::memory::peer_bars::{PeerBar, PeerBarId, Registers, peer_bar_usage};
use crate::records::{
    BufferRecord, ExplicitRecord, PeerBarRecord, QuarantineRecord, ResetRecord, SessionRecord,
};
use crate::service::{Service, Settings};
use crate::sessions::domains::{ExplicitDomain, Inside, ONE_DOMAIN};
use crate::sessions::session::{Buffer, BufferId, Session, SessionId};

/// By which handle something was made of which the handle has died with its daemon. No handle has this number.
const NOBODY: DoneBy = DoneBy::itself(HandleId(0));

/// What the service wrote down.
struct Written {
    sessions: BTreeMap<SessionId, (Slot, SessionRecord)>,
    domains: BTreeMap<DomainKey, (Slot, ExplicitRecord)>,
    buffers: BTreeMap<BufferId, (Slot, BufferRecord)>,
    peer_bars: BTreeMap<PeerBarId, (Slot, PeerBarRecord)>,
    quarantines: BTreeMap<PciAddress, (Slot, QuarantineRecord)>,
    resets: BTreeMap<PciAddress, (Slot, ResetRecord)>,
    /// The memory of buffers that have outlived their sessions.
    left: BTreeMap<RunId, LeftRun>,
    /// The records of what nobody has any more.
    stale: Vec<Slot>,
}

impl<P: Platform> Service<P> {
    /// Goes on with what a predecessor left in the platform's [inherited](Platform::inherited) arenas; see
    /// [`Engine::adopt`].
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if there is any doubt, with the platform given back: to [start](Self::start) with.
    pub fn adopt(mut platform: P, settings: Settings) -> Result<Self, (AdoptError, P)> {
        if !platform.inherited() {
            return Err((AdoptError::NothingInherited, platform));
        }
        let written = match Written::read(&platform) {
            Ok(written) => written,
            Err(error) => return Err((error, platform)),
        };
        if !written.resets_are_of(&mut platform) {
            return Err((AdoptError::Record, platform));
        }
        let policy = settings.policy.clone();
        match Engine::adopt(&mut platform, policy, &written.owners()) {
            Ok(engine) => {
                let mut service = Self::empty(platform, engine, settings);
                service.restore(written);
                Ok(service)
            }
            Err(error) => Err((error, platform)),
        }
    }

    fn restore(&mut self, written: Written) {
        for slot in written.stale {
            self.engine.strike_record(&self.platform, slot);
        }
        for (id, (slot, record)) in written.sessions {
            self.restore_session(id, slot, &record);
        }
        for (key, (slot, record)) in written.domains {
            self.restore_domain(key, slot, &record);
        }
        for (id, (slot, record)) in written.buffers {
            self.restore_buffer(id, slot, &record);
        }
        for (id, (slot, record)) in written.peer_bars {
            self.restore_peer_bar(id, slot, &record);
        }
        for (_, (slot, record)) in written.quarantines {
            self.restore_quarantine(slot, &record);
        }
        self.orphan_all();
        // Generations go on from what was counted until now.
        for (_, (slot, record)) in written.resets {
            self.restore_reset(slot, record);
        }
    }

    fn restore_session(&mut self, id: SessionId, slot: Slot, record: &SessionRecord) {
        let SessionRecord { device, domain, uid, .. } = *record;
        let own = DomainKey(domain);
        let attached = self.engine.group(device).and_then(|group| group.attached);
        let entered = attached.filter(|key| *key != own);
        let of_device = quotas_of(&self.engine, device);
        let of_user = self.engine.policy().for_client(uid);
        let account = self.accounts.open_session(id, (device, of_device), (uid, of_user));
        self.pay_for_table(own, account);
        let entered = entered.map(|domain| Inside { domain, by: [NOBODY; 2] });
        let session = Session { entered, ..Session::of(record, slot, account) };
        self.sessions.sessions.insert(id, session);
    }

    /// The tables of a session's domains are on its account, whichever of its handles they were made for.
    fn pay_for_table(&mut self, domain: DomainKey, account: AccountId) {
        let client = self.accounts.session_of(account);
        let Self { engine, platform, .. } = self;
        engine.put_table_on_account(platform, domain, account.into(), client.into());
    }

    fn restore_domain(&mut self, key: DomainKey, slot: Slot, record: &ExplicitRecord) {
        let sessions = &mut self.sessions.sessions;
        let is_inside = |it: &Session| it.entered.is_some_and(|inside| inside.domain == key);
        let inside = sessions.iter().filter(|(_, session)| is_inside(session));
        let inside = inside.map(|(id, _)| *id).collect();
        let Some(owner) = sessions.get_mut(&record.session) else { return };
        owner.domains.insert(key);
        let (session, account) = (record.session, owner.account);
        let (label, handles) = (label_of(&record.label).as_str().into(), 0);
        self.pay_for_table(key, account);
        self.accounts.add(account, &ONE_DOMAIN);
        let domain = ExplicitDomain { session, account, label, handles, inside, slot };
        self.domains.insert(key, domain);
    }

    fn restore_buffer(&mut self, id: BufferId, slot: Slot, record: &BufferRecord) {
        let BufferRecord { session, run, bytes, allowed, cache, is_revoked, .. } = *record;
        let Some(owner) = self.sessions.sessions.get_mut(&session) else { return };
        let spaces = core::iter::once(owner.domain).chain(owner.domains.iter().copied());
        let account = owner.account;
        self.accounts.add(account, &Usage::buffer(bytes));
        let mut mappings = BufferMappings::default();
        for key in spaces {
            let domain = self.engine.domain(key).into_iter().flat_map(|domain| domain.mappings());
            for (iova, mapping) in domain.filter(|(_, it)| it.owner.buffer() == Some(id.0)) {
                self.accounts.add(account, &Usage::mappings(1, mapping.bytes));
                mappings.insert((key, iova), NOBODY);
            }
        }
        for (key, iova) in mappings.keys() {
            self.engine.put_mapping_on_account(*key, *iova, account.into());
        }
        // It may have been unmapped since.
        let own = owner.domain;
        let first = record.first.filter(|(iova, _)| mappings.has(&(own, *iova)));
        owner.buffers.insert(id);
        let buffer = Buffer {
            session: Some(session),
            device: owner.device,
            account,
            run,
            bytes,
            cache,
            label: label_of(&record.label),
            allowed,
            rights: record.rights,
            first,
            is_told: true,
            mappings,
            handles: 0,
            revoked: 0,
            is_ended: is_revoked,
            unmapped: Completion::none(),
            is_noted_strict: record.is_strict,
            slot,
        };
        self.runs.enter(run);
        self.sessions.buffers.insert(id, buffer);
    }

    fn restore_peer_bar(&mut self, id: PeerBarId, slot: Slot, record: &PeerBarRecord) {
        let PeerBarRecord { session, of_session, place, iova, access, bar, offset, .. } = *record;
        let domain = self.sessions.sessions.get(&session).map(|session| session.domain);
        let is_there = domain.and_then(|domain| self.engine.domain(domain)).is_some_and(|it| {
            it.mapping(iova).is_some_and(|mapping| mapping.owner.buffer() == Some(id.0))
        });
        let device = self.sessions.sessions.get(&of_session).map(|session| session.device);
        let (Some(device), Some(domain), true) = (device, domain, is_there) else {
            self.engine.strike_record(&self.platform, slot);
            return;
        };
        let Some(owner) = self.sessions.sessions.get_mut(&session) else { return };
        owner.peer_bars.insert(id);
        let account = owner.account;
        self.engine.put_mapping_on_account(domain, iova, account.into());
        self.accounts.add(account, &peer_bar_usage(place.bytes));
        let registers = Registers { device, session: of_session, bar, offset, place };
        let label = label_of(&record.label);
        let handles = 0;
        let peer_bar =
            PeerBar { registers, session, domain, iova, access, account, label, handles, slot };
        self.peer_bars.insert(id, peer_bar);
    }
}

impl Written {
    /// Reads it, and sees that it does not contradict itself. What is of a session that has ended is left out.
    fn read(frames: &impl TableFrames) -> Result<Self, AdoptError> {
        let sessions = all(frames, |it: &SessionRecord| it.session)?;
        let mut domains = all(frames, |it: &ExplicitRecord| DomainKey(it.domain))?;
        let mut buffers = all(frames, |it: &BufferRecord| it.buffer)?;
        let mut peer_bars = all(frames, |it: &PeerBarRecord| it.peer_bar)?;
        let devices: BTreeSet<_> = sessions.values().map(|(_, session)| session.device).collect();
        let is_one_number = |id: &BufferId| !peer_bars.contains_key(&PeerBarId(id.0));
        let quarantines = all(frames, |it: &QuarantineRecord| it.device)?;
        let resets = all(frames, |it: &ResetRecord| it.device)?;
        if devices.len() < sessions.len() || !buffers.keys().all(is_one_number) {
            return Err(AdoptError::Record);
        }
        let mut stale = Vec::new();
        let mut is_there = |slot: Slot, there: bool| {
            if !there {
                stale.push(slot);
            }
            there
        };
        let there = |session: &SessionId| sessions.contains_key(session);
        domains.retain(|_, (slot, it)| is_there(*slot, there(&it.session)));
        peer_bars
            .retain(|_, (slot, it)| is_there(*slot, there(&it.session) && there(&it.of_session)));
        let mut left = BTreeMap::new();
        let held: BTreeSet<RunId> =
            buffers.values().filter_map(|(_, it)| there(&it.session).then_some(it.run)).collect();
        buffers.retain(|_, (slot, it)| match it.place {
            Some(place) if !there(&it.session) && !held.contains(&it.run) => {
                let BufferRecord { run, bytes, .. } = *it;
                // Of several records of the same memory one is enough.
                let other = left.insert(run, LeftRun { run, place, bytes, record: *slot });
                stale.extend(other.map(|it| it.record));
                false
            }
            place => {
                let is_there = place.is_some() && there(&it.session);
                if !is_there {
                    stale.push(*slot);
                }
                is_there
            }
        });
        Ok(Self { sessions, domains, buffers, peer_bars, quarantines, resets, left, stale })
    }

    /// Whether functions that are being reset can be reset by what is written down, as far as they answer yet.
    fn resets_are_of(&self, config: &mut impl ConfigSpace) -> bool {
        self.resets.iter().all(|(device, (_, it))| {
            !is_ready(config, *device) || ResetBy::of(config, *device) == Some(it.by)
        })
    }

    /// What of the engine's belongs to somebody.
    fn owners(&self) -> Owners {
        let own = |session: &SessionId| {
            self.sessions.get(session).map(|(_, record)| DomainKey(record.domain))
        };
        let held = self
            .sessions
            .values()
            .map(|(_, it)| HeldDevice { device: it.device, own: DomainKey(it.domain) });
        let buffers = self.buffers.values().filter_map(|(_, it)| {
            let explicit = self.domains.iter().filter(|(_, (_, of))| of.session == it.session);
            Some(OwnedBuffer {
                number: it.buffer.0,
                run: it.run,
                place: it.place?,
                bytes: it.bytes,
                domains: own(&it.session)
                    .into_iter()
                    .chain(explicit.map(|(key, _)| *key))
                    .collect(),
                first: it.first.map(|(iova, _)| iova),
            })
        });
        let peer_bars = self.peer_bars.values().filter_map(|(_, it)| {
            let domain = own(&it.session)?;
            Some(OwnedPeerBar { number: it.peer_bar.0, domain, iova: it.iova, place: it.place })
        });
        let blocked = self.quarantines.values();
        let blocked =
            blocked.map(|(_, it)| BlockedDevice { device: it.device, was_master: it.was_master });
        Owners {
            held: held.collect(),
            blocked: blocked.collect(),
            explicit: self.domains.keys().copied().collect(),
            buffers: buffers.collect(),
            peer_bars: peer_bars.collect(),
            left: self.left.values().copied().collect(),
        }
    }
}

/// Every record of a kind, by what it is of. Each must make sense and be there once.
fn all<R: Record, K: Ord>(
    frames: &impl TableFrames,
    key: impl Fn(&R) -> K,
) -> Result<BTreeMap<K, (Slot, R)>, AdoptError> {
    let records = Ledger::records::<R>(frames)?;
    let count = records.len();
    let all: BTreeMap<K, (Slot, R)> =
        records.into_iter().map(|(slot, record)| (key(&record), (slot, record))).collect();
    let whole = Ledger::count::<R>(frames)? == count && all.len() == count;
    if whole { Ok(all) } else { Err(AdoptError::Record) }
}

/// What reports call something, as in the request: that was judged when it was made.
fn label_of(bytes: &[u8; 32]) -> Label {
    Label::try_from(bytes).unwrap_or_default()
}
