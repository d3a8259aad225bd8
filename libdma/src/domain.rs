//! Explicit domains: I/O address spaces of their own, for those who need a fixed device address.
//!
//! Each device is in a domain that was made for it when it was opened, in which iommud chooses the addresses. That is
//! enough for nearly all drivers. A [`Domain`] is for the others: firmware of a device that expects its memory at an
//! address that nobody can change, two devices that are to see one buffer at one address, or a driver that lays out
//! what its device sees by itself. A device that [enters](Domain::attach) it reaches what is mapped there, and nothing
//! of what is mapped in its own domain, until it leaves.
//!
//! | Linux | here |
//! | --- | --- |
//! | `iommu_domain_alloc` / `free` | [`Device::new_domain`], dropping the [`Domain`] |
//! | `arm_iommu_create_mapping` (base and size) | [`NewDomain::aperture`] |
//! | `iommu_attach_device` / `iommu_detach_device` | [`Domain::attach`], [`Device::enter`] / [`Entered::leave`], dropping it |
//! | `iommu_map` | [`Domain::map_at`], [`Device::map_at`] |
//! | `iommu_map_sg` | the same with several pieces |
//! | `iommu_unmap` | [`Domain::unmap`], [`Device::unmap`] |
//! | `iommu_iova_to_phys` | [`Domain::lookup`], [`Device::lookup`]: which buffer, and where in it |
//!
//! # Why no physical address
//!
//! `iommu_map` takes one and `iommu_iova_to_phys` gives one, which is right inside a kernel. A driver that could name one
//! could have its device reach any memory there is (rule R3); here memory is named by the buffer that it is of, and an
//! address tells the buffer.
//!
//! # Without an IOMMU
//!
//! There is nothing that could make memory be seen elsewhere than it is: a domain is [`Error::NoIommu`], and so is an
//! address at which the memory is not by itself. Pieces of a buffer can be mapped by [`Device::map_at`] at just that
//! address, which [`Device::map`] gives them too.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;

use dma_types::Iova;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::check::{self, Mark, Note, Space};
use crate::device::Device;
use crate::handle::Handle;
use crate::io_address::AddressSpace;
use crate::mapping::{Found, MapRequest, Mapped, Places};
use crate::protocol::call::{DEVICE_FLAG_WRITE_IMPLIES_READ, Hello, Opcode, Welcome};
use crate::protocol::derive::{self, Allocate, Kind};
use crate::protocol::domain::{Create, DomainInfo, Enter, Leave};
use crate::protocol::resume::Thing;
use crate::protocol::ticket::Offer;
use crate::protocol::{Error, Rights, Ticket};
use crate::resume::Link;
use crate::session::Session;
use crate::stream::{Refused, Step};
use crate::window::Windows;

/// What a [`Domain`] is to be: see [`Device::new_domain`].
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is made before `create`"]
pub struct NewDomain<'a> {
    device: &'a Device,
    aperture: Option<(Iova, u64)>,
    label: &'a str,
}

impl NewDomain<'_> {
    /// Maps at no other addresses than the `bytes` from `base` on: Linux's `arm_iommu_create_mapping`. Both are
    /// multiples of 4096.
    ///
    /// Without it the aperture is all that the device puts on its bus, by its [highest address](Device::highest_address).
    pub fn aperture(self, base: Iova, bytes: u64) -> Self {
        Self { aperture: Some((base, bytes)), ..self }
    }

    /// Makes the domain.
    ///
    /// # Errors
    ///
    /// [`Error::NoIommu`]; for an aperture [`Error::ZeroSize`], [`Error::BadAlignment`], and [`Error::Overflow`] if the
    /// device's IOMMU does not translate all of it; [`Error::QuotaExceeded`], for which a domain counts as a buffer;
    /// [`Error::OutOfMemory`], [`Error::NotPermitted`], [`Error::UnitFailed`].
    #[track_caller]
    pub fn create(self) -> Result<Domain, Error> {
        let session = self.device.session();
        let (base, bytes) = match self.aperture {
            // An aperture of nothing is not all that there is.
            Some((_, 0)) => return Err(Error::ZeroSize),
            Some(aperture) => aperture,
            None if self.device.highest_address() >= session.last_address() => (Iova::new(0), 0),
            None => (Iova::new(0), self.device.highest_address().get() + 1),
        };
        let request = Create {
            kind: U32::new(Kind::Domain as u32),
            reserved: U32::ZERO,
            base: U64::new(base.get()),
            bytes: U64::new(bytes),
            label: Allocate::label(self.label),
        };
        let windows = self.device.windows();
        let make = || {
            let mut handle = session.handle().derive_once(request.as_bytes())?;
            let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
            let info: DomainInfo = handle.call(Opcode::DomainInfo, &[0u8; 0])?;
            if let Some(link) = session.link() {
                // Who is told the session's secret has a handle with all rights.
                handle.keep(link, (Thing::Domain, info.domain.get()), Rights::DOMAIN);
            } else {
                handle.keep_nowhere();
            }
            Ok((handle, info))
        };
        let (handle, info) = windows.after_trimming(|| session.request_new(make))?;
        let domain = Some(info.domain.get());
        let space = Space::new(AddressSpace { domain, ..session.addresses() });
        let (kind, label) = (check::Kind::Domain, self.label);
        let mark = check::made(|| Note { kind, label, space, iova: None, bytes: 0, access: None });
        Ok(Domain { handle, info, space, windows: windows.clone(), mark })
    }
}

/// An I/O address space with addresses that its driver chooses: Linux's `iommu_domain_alloc`.
///
/// It belongs to the device that it was made from: that device's buffers are mapped in it, and count in that device's quota.
/// When it is dropped, the devices in it are back in their own domains, and nothing reaches what was mapped in it.
///
/// ```
/// use libdma::{Access, Device, Error, Iova, MapRequest};
///
/// let machine = simulated::Machine::vtd();
/// let device = machine.open();
/// let firmware = device.allocate(8192, None, "firmware")?;
///
/// // The device's firmware expects its memory at 0x8000_0000, whatever else is where.
/// let fixed = Iova::new(0x8000_0000);
/// let domain = device.new_domain("firmware").aperture(fixed, 1 << 20).create()?;
/// let piece = MapRequest { buffer: &firmware, offset: 0, bytes: 8192, access: Access::Read };
/// let mapped = domain.map_at(fixed, &[piece])?;
/// assert_eq!(domain.lookup(Iova::new(0x8000_1234))?.map(|found| found.offset), Some(0x1234));
/// assert_eq!(domain.map_at(Iova::new(0x1000), &[piece]), Err(Error::OutsideWindow));
///
/// let inside = domain.attach(&device)?;
/// assert!(machine.device_reads(fixed, 8).is_ok());
/// domain.unmap(&mapped)?;
/// assert!(machine.device_reads(fixed, 8).is_err());
/// inside.leave()?;            // or drop it
/// # machine.check();
/// # Ok::<(), Error>(())
/// ```
///
/// It is [`Send` and `Sync`](crate#threads).
#[must_use = "dropped, what is mapped in it is unmapped, and devices in it are back in their own"]
pub struct Domain {
    handle: Handle,
    info: DomainInfo,
    /// Its addresses, as the checker knows them.
    space: Space,
    /// Of the device that it was made from, whose session is kept alive by them: with that it would end.
    windows: Arc<Windows>,
    mark: Mark,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("id", &self.id())
            .field("base", &self.base())
            .field("bytes", &self.bytes())
            .finish()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        check::domain_dropped(self.space);
    }
}

impl Domain {
    /// Its number, as `iommuctl domains` shows it.
    pub fn id(&self) -> u64 {
        self.info.domain.get()
    }

    /// The first address of its aperture.
    pub fn base(&self) -> Iova {
        Iova::new(self.info.base.get())
    }

    /// How long its aperture is.
    pub fn bytes(&self) -> u64 {
        self.info.bytes.get()
    }

    /// The last address of its aperture.
    pub fn last(&self) -> Iova {
        Iova::new(self.info.base.get().saturating_add(self.info.bytes.get().saturating_sub(1)))
    }

    /// Whether memory that a device may write in it the device may also read: see [`Device::write_implies_read`].
    pub fn write_implies_read(&self) -> bool {
        self.info.flags.get() & DEVICE_FLAG_WRITE_IMPLIES_READ != 0
    }

    /// Moves a device into it: Linux's `iommu_attach_device`. It may be another device than the domain was made from, and
    /// several may be in it. The devices that no IOMMU can keep apart from it go with it.
    ///
    /// In between the device reaches nothing; when this returns, it reaches what is mapped here and nothing of before.
    ///
    /// # Errors
    ///
    /// [`Error::NoAddressSpace`] if the device's DMA mask is below the end of the aperture,
    /// [`Error::IncompatibleDomain`] if its IOMMU cannot walk the domain's tables or firmware reserves memory for it that
    /// the domain does not hold, [`Error::DeviceBusy`] if a device that cannot be kept apart from it is held by a
    /// driver, [`Error::AlreadyEntered`], [`Error::QuotaExceeded`] if its IOMMU tells no more domains apart than it has to for
    /// the devices behind it. It is where it was then, and has been all the time.
    /// [`Error::TimedOut`] if the hardware did not confirm; its IOMMU is given up then.
    #[track_caller]
    pub fn attach(&self, device: &Device) -> Result<Entered, Error> {
        if device.highest_address() < self.last().min(device.session().last_address()) {
            return Err(Error::NoAddressSpace);
        }
        // A ticket that is not used, since the device may not enter, is to end with a handle of its own.
        let ticket = || -> Result<_, Error> {
            let handle = self.handle.derive(&derive::Copy {
                kind: U32::new(Kind::Copy as u32),
                rights: U32::new(Rights::SHARE.bits()),
            })?;
            Ok((ticket_of(&handle)?, handle))
        };
        let links = [self.handle.link(), device.session().link()];
        let domain = Link::together(links, |is_again| {
            let (ticket, _handle) = ticket()?;
            match device.enter_once(&ticket) {
                // The iommud of before had done it, and not answered.
                Err(Error::AlreadyEntered) if is_again => Ok(self.id()),
                entered => entered,
            }
        })?;
        Ok(device.entered(domain, Some(&self.mark)))
    }

    /// What lets the driver of another device, in another process, say, [enter](Device::enter) once.
    ///
    /// # Errors
    ///
    /// [`Error::QuotaExceeded`] while too many tickets are not used.
    pub fn ticket(&self) -> Result<Ticket, Error> {
        ticket_of(&self.handle)
    }

    /// Maps pieces of buffers from an address on, each directly behind the one before, all of them or none (rule R7): Linux's
    /// `iommu_map` and `iommu_map_sg`. Each is a mapping of its own. The page behind the last may be mapped, too. Each call
    /// counts for 12 KiB beside what it maps: see [`Device::map_at`].
    ///
    /// # Errors
    ///
    /// [`Error::OutsideWindow`], [`Error::AlreadyMapped`], also if it is the page behind something that was mapped
    /// [anywhere](Self::map), [`Error::AddressReserved`], [`Error::BadAlignment`]; [`Error::NotReady`] if what was mapped
    /// there is still being forgotten; and those of [`Device::map`].
    #[track_caller]
    pub fn map_at(&self, iova: Iova, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        self.map_places(Places::From(iova), pieces)
    }

    /// Maps pieces of buffers in the aperture wherever there is room, all of them or none (rule R7). Behind each is a page that
    /// stays unmapped.
    ///
    /// # Errors
    ///
    /// [`Error::NoAddressSpace`], [`Error::WrongOwner`] for buffers of another device than the domain was made from, and
    /// those of [`Device::map`].
    #[track_caller]
    pub fn map(&self, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        self.map_places(Places::Anywhere, pieces)
    }

    /// The same, each directly behind the one before: [`Device::map_together`].
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn map_together(&self, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        self.map_places(Places::Together, pieces)
    }

    /// Maps pieces; idle windows are given back for them if they must.
    #[track_caller]
    fn map_places(&self, places: Places, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let mapped = self
            .windows
            .after_trimming(|| self.handle.map(self.addresses(), pieces, places, self.last(), 0))?;
        check::mappings::mapped(self.space, pieces, &mapped);
        Ok(mapped)
    }

    /// Unmaps what was mapped here, all of it or nothing (rule R7), with one invalidation: Linux's `iommu_unmap`. When it
    /// returns, no device reaches any of it (rule R2), and the addresses can be chosen again.
    ///
    /// # Errors
    ///
    /// As [`Device::unmap`]; [`Error::WrongOwner`] also for what is mapped in the device's own domain.
    #[track_caller]
    pub fn unmap(&self, mappings: &[Mapped]) -> Result<(), Error> {
        self.handle.unmap_checked(self.addresses(), self.space, mappings)
    }

    /// What is mapped at an address, if anything: Linux's `iommu_iova_to_phys`, with the buffer for an answer.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`].
    pub fn lookup(&self, iova: Iova) -> Result<Option<Found>, Error> {
        self.handle.lookup(self.addresses(), iova)
    }

    /// The device that it was made from, whose buffers are mapped in it.
    pub fn made_from(&self) -> dma_types::PciAddress {
        self.windows.session().address()
    }

    /// Its handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The addresses of what is mapped in it.
    pub(crate) fn addresses(&self) -> AddressSpace {
        AddressSpace { domain: Some(self.id()), ..self.windows.session().addresses() }
    }
}

/// A ticket of a domain's handle.
fn ticket_of(handle: &Handle) -> Result<Ticket, Error> {
    let mut payload = Offer::default();
    handle.call_bytes(Opcode::Offer, payload.as_mut_bytes())?;
    Ok(Ticket(*payload.as_bytes().first_chunk().ok_or(Error::ShortPayload)?))
}

/// A device that is in a [`Domain`]. Dropping it moves the device back into its own, where what is mapped for it is as
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
    /// An explicit domain made from this device, to be [created](NewDomain::create). The
    /// [label](Device#labels) is what reports call it.
    pub fn new_domain<'a>(&'a self, label: &'a str) -> NewDomain<'a> {
        NewDomain { device: self, aperture: None, label }
    }

    /// Moves this device into the domain that a ticket is of: [`Domain::attach`], for a domain that another process has
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
    /// [`Error::BadTicket`] if it was used or its domain has ended, and those of [`Domain::attach`] but for the mask, which
    /// the makers of the domain and of the device have to see to.
    #[track_caller]
    pub fn enter(&self, ticket: &Ticket) -> Result<Entered, Error> {
        let domain = Link::together([self.session().link(), None], |_| self.enter_once(ticket))?;
        Ok(self.entered(domain, None))
    }

    /// Moves it into the domain of a ticket, if iommud is there: which that is.
    fn enter_once(&self, ticket: &Ticket) -> Result<u64, Error> {
        let mut payload = Enter { ticket: ticket.0 };
        self.handle().call_once(Opcode::Enter, payload.as_mut_bytes())?;
        let domain = payload.as_bytes().first_chunk().ok_or(Error::ShortPayload)?;
        Ok(u64::from_le_bytes(*domain))
    }

    /// This device in a domain; if it is a domain of this process's, by what the checker knows it.
    #[track_caller]
    fn entered(&self, domain: u64, of: Option<&Mark>) -> Entered {
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

    /// Maps pieces of this device's buffers in its own domain from an address on, each directly behind the one before, all
    /// of them or none (rule R7).
    ///
    /// An address that iommud has not chosen can be taken: [`Error::AlreadyMapped`]. In a [`Domain`] with an aperture it is the
    /// driver alone who decides.
    ///
    /// For the quota of what may be mapped at once (`mapped_bytes` in iommud's policy) it counts as what it maps and 12 KiB more:
    /// the page tables that an address takes which lies by itself.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyMapped`], [`Error::AddressReserved`], [`Error::OutsideWindow`] beyond what the IOMMU translates,
    /// [`Error::NoAddressSpace`] beyond the DMA mask, [`Error::NotReady`] if what was mapped there is still being forgotten,
    /// [`Error::NoIommu`] if there is none and the memory is elsewhere; and those of [`map`](Self::map).
    #[track_caller]
    pub fn map_at(&self, iova: Iova, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let (handle, limit, own) =
            (self.handle(), self.highest_address(), self.session().addresses());
        let map = || handle.map(own, pieces, Places::From(iova), limit, 0);
        let mapped = self.windows().after_trimming(map)?;
        check::mappings::mapped(self.session().space(), pieces, &mapped);
        Ok(mapped)
    }

    /// Maps pieces of this device's buffers wherever there is room for all of them, each directly behind the one before,
    /// all of them or none (rule R7): the device sees one segment, as Linux's `iommu_dma_map_sg` makes it.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn map_together(&self, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let (handle, limit, own) =
            (self.handle(), self.highest_address(), self.session().addresses());
        let map = || handle.map(own, pieces, Places::Together, limit, 0);
        let mapped = self.windows().after_trimming(map)?;
        check::mappings::mapped(self.session().space(), pieces, &mapped);
        Ok(mapped)
    }

    /// What of this session's is mapped at an address in this device's own domain, if anything: Linux's
    /// `iommu_iova_to_phys`, with the buffer for an answer.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if the handle may not inspect.
    pub fn lookup(&self, iova: Iova) -> Result<Option<Found>, Error> {
        self.handle().lookup(self.session().addresses(), iova)
    }
}
