//! Handles to a device within bounds, and handles that are taken back.
//!
//! Who drives a device can have parts of it driven by others: a codec in a process of its own, a queue for a client. Each gets
//! a handle to the device by which it can do as much as its work takes, and no more (rule R3): with fewer [rights](Rights),
//! read-only or write-only for the device, within a range of I/O addresses, and with a quota of its own. What it derives from
//! that is within the same bounds.
//!
//! ```
//! use libdma::protocol::Rights;
//! use libdma::{Access, Device, Error, Iova};
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! let (handle, codec) = device
//!     .restricted("codec")
//!     .rights(Rights::ALLOCATE | Rights::MAP | Rights::READ | Rights::WRITE | Rights::INSPECT)
//!     .access(Access::Read)
//!     .addresses(Iova::new(0x1_0000_0000), Iova::new(0x1_00ff_ffff))
//!     .buffer_bytes(1 << 20)
//!     .hand_out()?;
//!
//! // The other process, which was passed the handle:
//! let part = Device::from_handle(handle)?;
//! let frames = part.allocate(65536, Some(Access::Read), "frames")?;
//! let address = frames.iova().unwrap();
//! assert!((0x1_0000_0000..=0x1_00ff_ffff).contains(&address.get()));
//! let refused = part.allocate(4096, Some(Access::Write), "status");
//! assert_eq!(refused.err(), Some(Error::NotPermitted));
//! let refused = part.allocate(2 << 20, Some(Access::Read), "too much");
//! assert_eq!(refused.err(), Some(Error::QuotaExceeded));
//! assert!(machine.device_reads(address, 8).is_ok());
//!
//! // Whatever it does: from here on the device reaches nothing of it.
//! codec.revoke()?;
//! assert!(machine.device_reads(address, 8).is_err());
//! let refused = part.allocate(4096, Some(Access::Read), "more");
//! assert_eq!(refused.err(), Some(Error::Revoked));
//! # drop((frames, part));
//! # machine.check();
//! # Ok::<(), Error>(())
//! ```
//!
//! # Taking back
//!
//! A handle can be revoked by whoever holds the handle that it was derived from, and with it everything that was derived from
//! it, also where it was itself copied and closed: copies do not outlive the right to take it back. When that is done, no device reaches anything by any of them (rule R2). What their holders see of their memory they go
//! on seeing; it is not used again before they have closed it.
//!
//! | to take back | |
//! | --- | --- |
//! | a handle to the device within bounds | the [`Revocable`] that came with it |
//! | any other handle that was derived from this device's | [`Device::revocable`], before it is passed on |
//! | every handle to a buffer that was passed on | [`Buffer::revoke_shares`], [`UnmappedBuffer::revoke_shares`] |

use alloc::sync::Arc;

use dma_types::{Access, Iova};
use zerocopy::little_endian::{U32, U64};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::handle::Handle;
use crate::protocol::call::{self, Opcode};
use crate::protocol::derive::{Allocate, Kind, NO_LIMITS, Restrict};
use crate::protocol::handle::{HandleInfo, Revoke, Revoked};
use crate::protocol::limit::Resource;
use crate::protocol::{Error, Rights};
use crate::session::Session;
use crate::unmapped::UnmappedBuffer;

/// What a handle within bounds is to be: see [`Device::restricted`].
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is made before `hand_out`"]
pub struct Restricted<'a> {
    device: &'a Device,
    label: &'a str,
    rights: Rights,
    access: Access,
    addresses: (Iova, Iova),
    limits: [U64; 8],
}

impl Restricted<'_> {
    /// What it allows; without this, all that a device's handle can but [`Rights::ADMINISTER`] and [`Rights::ATTACH`]. Without
    /// [`Rights::INSPECT`] it cannot be asked what it is of, as [`Device::from_handle`] does.
    pub fn rights(self, rights: Rights) -> Self {
        Self { rights, ..self }
    }

    /// The most that the device may do with what is mapped by it: [`Access::Read`] makes it read-only, [`Access::Write`]
    /// write-only, for the device (which may read all the same where its IOMMU
    /// [cannot tell](Device::write_implies_read) the two apart).
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Nothing is mapped by it but from the first of these I/O addresses to the last, that is included: a multiple of 4096,
    /// and one less than another.
    pub fn addresses(self, first: Iova, last: Iova) -> Self {
        Self { addresses: (first, last), ..self }
    }

    /// The most buffers, windows of registers and [domains](crate::Domain).
    pub fn buffers(self, buffers: u32) -> Self {
        self.limit(Resource::Buffers, buffers.into())
    }

    /// The most memory in buffers, in bytes.
    pub fn buffer_bytes(self, buffer_bytes: u64) -> Self {
        self.limit(Resource::BufferBytes, buffer_bytes)
    }

    /// The most that is mapped at a time, in bytes.
    pub fn mapped_bytes(self, mapped_bytes: u64) -> Self {
        self.limit(Resource::MappedBytes, mapped_bytes)
    }

    /// The most I/O addresses, in bytes: those that are mapped, and those that the IOMMU has yet to forget.
    pub fn iova_bytes(self, iova_bytes: u64) -> Self {
        self.limit(Resource::IovaBytes, iova_bytes)
    }

    /// The most mappings at a time.
    pub fn mappings(self, mappings: u32) -> Self {
        self.limit(Resource::Mappings, mappings.into())
    }

    /// The most memory in page tables, in bytes: 4096 for each table.
    pub fn table_bytes(self, table_bytes: u64) -> Self {
        self.limit(Resource::PageTableBytes, table_bytes)
    }

    /// The most requests that wait for the IOMMU, one at least if it is to do anything. What goes beyond is
    /// [`Error::TooManyRequests`].
    pub fn requests(self, requests: u32) -> Self {
        self.limit(Resource::Requests, requests.into())
    }

    /// The most unmaps that the IOMMU has not confirmed; as many as it unmaps in one request at least. What goes beyond is
    /// [`Error::TooManyRequests`]. What it closes counts too, and is not refused: that is no more than it may have
    /// [mappings](Self::mappings).
    pub fn operations(self, operations: u32) -> Self {
        self.limit(Resource::Operations, operations.into())
    }

    fn limit(mut self, resource: Resource, most: u64) -> Self {
        // They are numbered from one.
        self.limits[resource as usize - 1] = U64::new(most);
        self
    }

    /// Makes the handle, to pass to another process, and what takes it back.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if this device's handle does not have all of that itself (rule R3), [`Error::BadAlignment`] and
    /// [`Error::BadValue`] for addresses that are no range of pages.
    pub fn hand_out(self) -> Result<(Handle, Revocable), Error> {
        let (first, last) = self.addresses;
        let handle = self.device.handle().derive(&Restrict {
            kind: U32::new(Kind::Restrict as u32),
            rights: U32::new(self.rights.bits()),
            access: U32::new(call::access_code(self.access)),
            reserved: U32::ZERO,
            first: U64::new(first.get()),
            last: U64::new(last.get()),
            limits: self.limits,
            label: Allocate::label(self.label),
        })?;
        let revocable = self.device.revocable(&handle)?;
        Ok((handle, revocable))
    }
}

/// The right to take a handle back that was derived from a device's, with everything that was derived from it. It need not be
/// used, and does nothing when it is dropped.
#[derive(Clone, Debug)]
pub struct Revocable {
    by: Arc<Session>,
    number: u64,
}

impl Revocable {
    /// The number of the handle, as `iommuctl handles` shows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Takes the handle back, and what was derived from it, also if it is closed itself: how many handles ended that were open
    /// and had not ended before. When this returns, no device reaches anything
    /// by them (rule R2), and every request on them is [`Error::Revoked`].
    ///
    /// Without an IOMMU handles end, and the device reaches what it was told of, which is kept for it until its session ends.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if the hardware did not confirm: they are revoked all the same, the IOMMU is given up, the devices
    /// behind it are cut off, and the memory is never used again. [`Error::NotPermitted`] if the handle is closed and all
    /// that was derived from it, so that there is nothing to be taken back; [`Error::Revoked`] if this device's own was revoked, [`Error::DeviceReset`].
    pub fn revoke(&self) -> Result<u64, Error> {
        revoke(self.by.handle(), self.number)
    }
}

impl Device {
    /// Begins a handle to this device within bounds, for another process. Without more said it is bounded by nothing but its
    /// [rights](Restricted::rights). Its [label](Self#labels) is what reports call it.
    ///
    /// What it has counts for this device, too. A holder who is not trusted is given limits of everything that must not run
    /// out for the rest of the device: also of [requests](Restricted::requests) and [operations](Restricted::operations), for
    /// who floods the IOMMU fills the session's.
    ///
    /// Whatever its rights, its holder has no part in what is the whole device's: it reads no [events](Self::events) and is not
    /// told of any, and [offers](Self::offer_bar) no registers. A plain [copy](Self::derive) of this handle does.
    pub fn restricted<'a>(&'a self, label: &'a str) -> Restricted<'a> {
        Restricted {
            device: self,
            label,
            rights: Rights::DEVICE - Rights::ADMINISTER - Rights::ATTACH,
            access: Access::ReadWrite,
            addresses: (Iova::new(0), Iova::new(u64::MAX)),
            limits: NO_LIMITS,
        }
    }

    /// What takes a handle back that was derived from this device's, or, with
    /// [`Rights::ADMINISTER`], any of its session. It is asked before the handle is passed on.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::DeviceReset`], [`Error::DaemonGone`], [`Error::NoHandshake`] on a handle that nothing has
    /// been said on and that is not of the kind of what it was derived from.
    pub fn revocable(&self, handle: &Handle) -> Result<Revocable, Error> {
        let info: HandleInfo = handle.call(Opcode::HandleInfo, &[0u8; 0])?;
        Ok(Revocable { by: self.session().clone(), number: info.handle.get() })
    }
}

impl Buffer {
    /// Takes back every handle to this buffer that was passed on, and the attachments that were made of them, for whichever
    /// device: how many handles ended. This one stays. As [`Revocable::revoke`].
    ///
    /// # Errors
    ///
    /// As [`Revocable::revoke`].
    pub fn revoke_shares(&self) -> Result<u64, Error> {
        revoke(self.handle(), 0)
    }
}

impl UnmappedBuffer {
    /// Takes back every handle to this buffer that was passed on: see [`Buffer::revoke_shares`].
    ///
    /// # Errors
    ///
    /// As [`Revocable::revoke`].
    pub fn revoke_shares(&self) -> Result<u64, Error> {
        revoke(self.handle(), 0)
    }
}

/// Takes back a handle by its number, or for zero everything that was derived from this one.
fn revoke(by: &Handle, number: u64) -> Result<u64, Error> {
    let request = Revoke { handle: U64::new(number), reserved: U64::ZERO };
    by.call::<Revoked>(Opcode::Revoke, &request).map(|revoked| revoked.handles.get())
}
