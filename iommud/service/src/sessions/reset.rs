//! Devices that are reset under their drivers.
//!
//! A reset takes time, in which the function is left alone. Nobody is waited for: [`Service::poll`] goes on with it when the
//! platform's clock says so, and answers the request at its end.
//!
//! What is to be put back is in the ledger meanwhile, for the function has it no more. A successor resets the function once
//! more, for nobody knows how far the predecessor has come, and puts it back.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use dma_types::PciAddress;
use iommu_engine::ledger::Slot;
use iommu_engine::pci;
use iommu_engine::pci::reset::{QUIET_TIME, RESET_TIME, ResetBy, Saved, is_ready, restore};
use iommu_engine::platform::{Instant, Platform};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::handle::Reset;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::error::to_client;
use crate::faults::events::{Entry, What};
use crate::handles::handle::HandleId;
use crate::pending::{Answer, Outcome, RequestId};
use crate::records::ResetRecord;
use crate::service::Service;
use crate::sessions::session::SessionId;

/// How long a function may take after its reset until it answers (PCI Express Base 6.0, 6.6.2: one second from its start).
const LONGEST: Duration = Duration::from_secs(1);

/// How far a reset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A predecessor may have begun it in the instant in which it died: it is left alone until that would be over.
    Inherited,
    /// The function does not master the bus any more; answers to what it has asked may be on their way.
    Quieting,
    /// It is left alone.
    Begun,
}

/// A reset that is under way.
#[derive(Debug)]
struct Resetting {
    by: ResetBy,
    saved: Saved,
    phase: Phase,
    /// Since when.
    since: Instant,
    /// Who waits for it, unless that was a client of a predecessor's.
    request: Option<RequestId>,
    generation: u64,
    slot: Slot,
}

/// All resets that are under way.
#[derive(Debug, Default)]
pub struct Resets {
    under_way: BTreeMap<PciAddress, Resetting>,
}

impl Resets {
    /// Whether a device is being reset.
    pub fn has(&self, device: PciAddress) -> bool {
        self.under_way.contains_key(&device)
    }

    /// Whether any device is being reset.
    pub(crate) fn is_any(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Nobody waits for them any more.
    pub(crate) fn forget_requests(&mut self) {
        self.under_way.values_mut().for_each(|reset| reset.request = None);
    }
}

impl<P: Platform> Service<P> {
    /// Begins the reset of a device.
    pub(crate) fn reset(
        &mut self,
        handle: HandleId,
        payload: &[u8],
    ) -> Result<Outcome<usize>, Error> {
        let session = self.device_of(handle, Rights::ADMINISTER)?;
        let (request, _) = Reset::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        if request.generation.get() != 0 {
            return Err(Error::BadValue);
        }
        let device = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?.device;
        if self.resets.has(device) {
            return Err(Error::TooManyRequests);
        }
        let by = ResetBy::of(&mut self.platform, device).ok_or(Error::NoReset)?;
        let saved = by.save(&mut self.platform, device);
        let record = ResetRecord { device, by, saved };
        let slot = self.engine.write_record(&mut self.platform, &record).map_err(to_client)?;
        pci::clear_bus_master(&mut self.platform, device);
        // From here on its state is not what anybody knows of it.
        let generation = self.tell_of_reset(session).ok_or(Error::SessionEnded)?;
        let request = self.pending.promise(handle);
        let (phase, since, saved) = (Phase::Quieting, self.platform.now(), record.saved);
        let asked = Some(request);
        let resetting = Resetting { by, saved, phase, since, request: asked, generation, slot };
        self.resets.under_way.insert(device, resetting);
        self.go_on_resetting();
        Ok(Outcome::Pending(request))
    }

    /// Goes on with a reset that a predecessor has written down.
    pub(crate) fn restore_reset(&mut self, slot: Slot, record: ResetRecord) {
        let ResetRecord { device, by, saved } = record;
        let session = self.sessions.of_device(device).map(|(id, _)| id);
        let generation = session.and_then(|id| self.tell_of_reset(id)).unwrap_or_default();
        let (phase, since) = (Phase::Inherited, self.platform.now());
        let resetting = Resetting { by, saved, phase, since, request: None, generation, slot };
        self.resets.under_way.insert(device, resetting);
    }

    /// Tells a session that its device starts afresh: its generation from now on.
    fn tell_of_reset(&mut self, session: SessionId) -> Option<u64> {
        let generation = self.next_generation_of(session)?;
        let what = What::DeviceReset { generation };
        self.tell(session, Entry { at: self.platform.now(), what });
        Some(generation)
    }

    /// Goes on with the resets that are under way, as far as it is time.
    pub(crate) fn go_on_resetting(&mut self) {
        if self.resets.under_way.is_empty() {
            return;
        }
        let now = self.platform.now();
        let mut over: Vec<(PciAddress, Result<(), Error>)> = Vec::new();
        let Self { resets, platform, .. } = self;
        for (device, reset) in &mut resets.under_way {
            let waited = now.since(reset.since);
            match reset.phase {
                Phase::Inherited if waited < RESET_TIME => {}
                Phase::Inherited if is_ready(platform, *device) => {
                    if ResetBy::of(platform, *device) == Some(reset.by) {
                        pci::clear_bus_master(platform, *device);
                        (reset.phase, reset.since) = (Phase::Quieting, now);
                    } else {
                        // Another function is there by now.
                        over.push((*device, Err(Error::NoReset)));
                    }
                }
                Phase::Quieting => {
                    if waited >= QUIET_TIME || !reset.by.is_pending(platform, *device) {
                        reset.by.begin(platform, *device);
                        (reset.phase, reset.since) = (Phase::Begun, now);
                    }
                }
                Phase::Begun if waited < RESET_TIME => {}
                Phase::Begun if is_ready(platform, *device) => {
                    restore(platform, *device, &reset.saved);
                    over.push((*device, Ok(())));
                }
                Phase::Inherited | Phase::Begun if waited >= LONGEST => {
                    over.push((*device, Err(Error::TimedOut)));
                }
                Phase::Inherited | Phase::Begun => {}
            }
        }
        for (device, result) in over {
            let Some(reset) = self.resets.under_way.remove(&device) else { continue };
            self.engine.strike_record(&self.platform, reset.slot);
            let Some(request) = reset.request else { continue };
            let answer = Reset { generation: U64::new(reset.generation) };
            let answer = result.map(|()| Answer::Payload(answer.as_bytes().to_vec()));
            self.pending.keep_promise(request, answer);
        }
    }
}
