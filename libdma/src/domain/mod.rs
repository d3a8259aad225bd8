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

mod create;
mod entered;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use dma_types::Iova;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

pub use self::create::NewDomain;
pub use self::entered::Entered;
use crate::check::{self, Mark, Space};
use crate::device::Device;
use crate::handle::Handle;
use crate::io_address::AddressSpace;
use crate::mapping::wire::Places;
use crate::mapping::{Found, MapRequest, Mapped};
use crate::protocol::call::{DEVICE_FLAG_WRITE_IMPLIES_READ, Opcode};
use crate::protocol::derive::{self, Kind};
use crate::protocol::domain::DomainInfo;
use crate::protocol::ticket::Offer;
use crate::protocol::{Error, Rights, Ticket};
use crate::resume::Link;
use crate::window::Windows;

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
/// assert_eq!(domain.map_at(Iova::new(0x1000), &[piece]), Err(Error::OutsideAperture));
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
    /// [`Error::OutsideAperture`], [`Error::AlreadyMapped`], also if it is the page behind something that was mapped
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
            .after_trimming(|| self.handle.map(self.addresses(), pieces, places, self.last()))?;
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
