//! Devices in a domain, and out of it again.

use alloc::format;
use alloc::sync::Arc;
use core::fmt;
use core::mem;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::check::{self, Mark, Note};
use crate::device::Device;
use crate::protocol::call::Opcode;
use crate::protocol::domain::{Enter, Leave};
use crate::protocol::{Error, Ticket};
use crate::resume::Link;
use crate::session::Session;
use crate::stream::{Refused, Step};

/// A device that is in a [`Domain`](super::Domain). Dropping it moves the device back into its own, where what is mapped for it is as
/// before: Linux's `iommu_detach_device`.
///
/// If it is forgotten, the device stays there until the domain ends or the device's last handle is closed.
///
/// It is [`Send` and `Sync`](crate#threads).
#[must_use = "dropped, it moves the device back into its own domain"]
pub struct Entered {
    /// Until it is moved back.
    session: Option<Arc<Session>>,
    domain: u64,
    mark: Mark,
}

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.session.as_ref().map(|it| it.address());
        f.debug_struct("Entered").field("device", &device).field("domain", &self.domain).finish()
    }
}

impl Entered {
    /// The number of the domain.
    pub fn domain(&self) -> u64 {
        self.domain
    }

    /// Moves the device back into its own domain. In between it reaches nothing; when this returns, it reaches what is
    /// mapped there and nothing of before.
    ///
    /// # Errors
    ///
    /// With what it was, so that it can be tried again: [`Error::NotEntered`] if it is not in the domain any more, because
    /// that has ended or the device has entered another. [`Error::TimedOut`] if the hardware did not confirm; its IOMMU is
    /// given up then.
    #[track_caller]
    pub fn leave(mut self) -> Step<(), Self> {
        match self.move_back() {
            Ok(()) => {
                mem::take(&mut self.mark).given_back();
                Ok(())
            }
            Err(error) => Err(Refused::new(error, self)),
        }
    }

    /// Moves it back, if it has not been moved back.
    fn move_back(&mut self) -> Result<(), Error> {
        let Some(session) = &self.session else { return Ok(()) };
        let domain = U64::new(self.domain);
        let mut is_again = false;
        session.request(|| {
            let was_asked = mem::replace(&mut is_again, true);
            match session.handle().call_once(Opcode::Leave, Leave { domain }.as_mut_bytes()) {
                // The iommud of before had done it, and not answered.
                Err(Error::NotEntered) if was_asked => Ok(()),
                left => left.map(drop),
            }
        })?;
        self.session = None;
        Ok(())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // If the domain has ended it is back already; there is nobody to be told of anything else.
        let _ = self.move_back();
    }
}

impl Device {
    /// Moves this device into the domain that a ticket is of: [`Domain::attach`](super::Domain::attach), for a domain that another process has
    /// made.
    ///
    /// ```
    /// use libdma::{Access, Error, MapRequest};
    ///
    /// # let machine = simulated::Machine::amdvi();
    /// # let camera = machine.open();
    /// # let encoder = machine.open_at(simulated::second_edu())?;
    /// // The camera's driver, with an address for its frames that is good for both:
    /// let frames = camera.allocate(1 << 16, None, "frames")?;
    /// let domain = camera.new_domain("frames").create()?;
    /// let all = MapRequest { buffer: &frames, offset: 0, bytes: 1 << 16, access: Access::ReadWrite };
    /// let place = domain.map(&[all])?[0].iova();
    /// let with_camera = domain.attach(&camera)?;
    /// let ticket = domain.ticket()?;
    ///
    /// // The encoder's, in another process, which was told the ticket:
    /// let with_encoder = encoder.enter(&ticket)?;
    /// # machine.writes(simulated::edu(), place, b"frame").unwrap();
    /// # assert_eq!(machine.reads(simulated::second_edu(), place, 5), Ok(b"frame".to_vec()));
    /// assert_eq!(encoder.enter(&ticket).err(), Some(Error::BadTicket));     // it is good once
    /// # drop((with_camera, with_encoder, domain, frames, camera, encoder));
    /// # machine.check();
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::BadTicket`] if it was used or its domain has ended, and those of [`Domain::attach`](super::Domain::attach) but for the mask, which
    /// the makers of the domain and of the device have to see to.
    #[track_caller]
    pub fn enter(&self, ticket: &Ticket) -> Result<Entered, Error> {
        let domain = Link::together([self.session().link(), None], |_| self.enter_once(ticket))?;
        Ok(self.entered(domain, None))
    }

    /// Moves it into the domain of a ticket, if iommud is there: which that is.
    pub(super) fn enter_once(&self, ticket: &Ticket) -> Result<u64, Error> {
        let mut payload = Enter { ticket: ticket.0 };
        self.handle().call_once(Opcode::Enter, payload.as_mut_bytes())?;
        let domain = payload.as_bytes().first_chunk().ok_or(Error::ShortPayload)?;
        Ok(u64::from_le_bytes(*domain))
    }

    /// This device in a domain; if it is a domain of this process's, by what the checker knows it.
    #[track_caller]
    pub(super) fn entered(&self, domain: u64, of: Option<&Mark>) -> Entered {
        let session = Some(self.session().clone());
        let mark = if check::is_on() { self.note_entered(domain, of) } else { Mark::default() };
        Entered { session, domain, mark }
    }

    /// Tells the checker that this device is in a domain, which it knows by its number if it is another process's.
    #[track_caller]
    #[cold]
    fn note_entered(&self, domain: u64, of: Option<&Mark>) -> Mark {
        let (kind, label, space) = (check::Kind::Stay, format!("{domain}"), self.session().space());
        let note = Note { kind, label: &label, space, iova: None, bytes: 0, access: None };
        check::made_of(of.as_slice(), || note)
    }
}
