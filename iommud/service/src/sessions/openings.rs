//! Openings of devices that may be free soon.
//!
//! Who dies while hardware has yet to confirm an opening is known to be gone only when the answer finds nobody: until then a
//! transport has nothing to close. And a device that is being reset may have lost its driver. Whoever opens such a device is not
//! refused, for the next driver gets the device (rule R4), but waits until it is known whether somebody has it: who was given a
//! handle says something on it, or it is closed.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use dma_types::PciAddress;
use iommu_engine::platform::{Instant, Platform};
use libdma::Error;

use crate::handles::handle::{Greeting, HandleId};
use crate::pending::{Answer, Outcome, RequestId};
use crate::service::{Caller, Service};

/// How long who was given a handle that took a while may take to say something on it, before whoever waits is told that somebody
/// has the device.
const GRACE: Duration = Duration::from_millis(100);

/// The most openings that wait at a time, for whichever devices.
const MOST: usize = 64;

/// The openings that took a while, and those that wait for what becomes of these.
#[derive(Debug, Default)]
pub struct Openings {
    slow: BTreeMap<PciAddress, Slow>,
    waiting: Vec<Waiting>,
}

/// An opening that was not answered at once.
#[derive(Clone, Copy, Debug)]
struct Slow {
    handle: HandleId,
    /// When it was answered, if it was.
    answered: Option<Instant>,
}

/// Who waits, and for what.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: RequestId,
    device: PciAddress,
    caller: Caller,
}

impl<P: Platform> Service<P> {
    /// Opens a device, if nobody holds it, when that is known.
    pub(crate) fn open_in_turn(
        &mut self,
        directory: HandleId,
        device: PciAddress,
        caller: Caller,
    ) -> Result<Outcome<HandleId>, Error> {
        if !self.may_be_free_soon(device) {
            return self.open_now(device, caller);
        }
        if self.openings.waiting.len() >= MOST {
            return Err(Error::DeviceBusy);
        }
        let request = self.pending.promise(directory);
        self.openings.waiting.push(Waiting { request, device, caller });
        Ok(Outcome::Pending(request))
    }

    fn open_now(&mut self, device: PciAddress, caller: Caller) -> Result<Outcome<HandleId>, Error> {
        let opened = self.open_device(device, caller)?;
        if let Outcome::Pending(request) = opened
            && let Some(handle) = self.pending.handle_of(request)
        {
            self.openings.slow.insert(device, Slow { handle, answered: None });
        }
        Ok(opened)
    }

    /// Takes note that a handle is given to who has waited for it.
    pub(crate) fn opened(&mut self, handle: HandleId) {
        let now = self.platform.now();
        let mut slow = self.openings.slow.values_mut();
        if let Some(slow) = slow.find(|slow| slow.handle == handle) {
            slow.answered = Some(now);
        }
    }

    /// Whether it may turn out that nobody holds a device that is held.
    fn may_be_free_soon(&self, device: PciAddress) -> bool {
        let slow = self.openings.slow.get(&device);
        self.resets.has(device) || slow.is_some_and(|slow| self.is_silent(slow))
    }

    /// Whether nobody has said anything on a handle, and may do so yet.
    fn is_silent(&self, slow: &Slow) -> bool {
        let handle = self.handles.get(slow.handle);
        let in_time = |answered| self.platform.now().since(answered) < GRACE;
        handle.is_ok_and(|handle| handle.greeting == Greeting::None)
            && slow.answered.is_none_or(in_time)
    }

    /// Goes on with the openings that wait, each in its turn.
    pub(crate) fn go_on_opening(&mut self) {
        let slow = core::mem::take(&mut self.openings.slow);
        let slow = slow.into_iter().filter(|(_, slow)| self.is_silent(slow)).collect();
        self.openings.slow = slow;
        for waiting in core::mem::take(&mut self.openings.waiting) {
            let Waiting { request, device, caller } = waiting;
            // Revoked: nobody is to get the device.
            if !self.pending.is_promised(request) {
                continue;
            }
            if self.may_be_free_soon(device) {
                self.openings.waiting.push(waiting);
                continue;
            }
            match self.open_now(device, caller) {
                Ok(Outcome::Pending(other)) => self.pending.go_on_as(request, other),
                Ok(Outcome::Done(handle)) => {
                    // Who has waited for it may have died, too.
                    let answered = Some(self.platform.now());
                    self.openings.slow.insert(device, Slow { handle, answered });
                    self.pending.keep_promise(request, Ok(Answer::Handle(handle)));
                }
                Err(error) => self.pending.keep_promise(request, Err(error)),
            }
        }
    }
}
