//! Streaming memory by its I/O addresses.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use dma_types::{Access, Iova};

use super::RawError;
use crate::check::raw::{self, Named};
use crate::check::{self, Act, Kind, Note};
use crate::copy;
use crate::device::Device;
use crate::io_address::{BusAddress, WrongDevice};
use crate::protocol::Error;
use crate::stream::batch::{self, Piece};
use crate::stream::{Memory, Terms};

/// Streaming memory by its I/O addresses; see the [module](super).
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::RawStream>();
/// ```
#[must_use = "dropped, it unmaps all that is mapped in it"]
pub struct RawStream {
    terms: Arc<Terms>,
    mapped: BTreeMap<Iova, Entry>,
}

/// What is mapped at an address.
struct Entry {
    memory: Memory,
    bytes: usize,
    access: Access,
    of_device: bool,
}

impl Device {
    /// Streaming memory that is known by its I/O addresses alone, within the [limits](Device::limits) as they are now.
    /// The [label](Device#labels) is what reports call it.
    pub fn raw_stream(&self, label: &str) -> RawStream {
        let terms =
            Terms::new(self.windows().clone(), self.limits(), self.highest_address(), label);
        RawStream { terms: Arc::new(terms), mapped: BTreeMap::new() }
    }
}

impl RawStream {
    /// The same, [strict](crate::Stream::strict), for what is mapped from now on.
    pub fn strict(mut self) -> Self {
        Arc::make_mut(&mut self.terms).strict = true;
        self
    }

    /// Maps a copy of these bytes, which is the device's then: Linux's `dma_map_single`. What the device writes there is in
    /// the copy, for [`cpu_read`](Self::cpu_read).
    ///
    /// # Errors
    ///
    /// [`RawError::Failed`]: as [`Stream::map_slice`](crate::Stream::map_slice).
    #[track_caller]
    pub fn map_single(&mut self, data: &[u8], access: Access) -> Result<BusAddress, RawError> {
        self.map(data.len(), access, |place| {
            // SAFETY: the memory is as long as the data.
            unsafe { copy::copy_in(place, data) };
        })
    }

    /// Maps so many zeroes, which are the device's then: Linux's `dma_alloc_noncoherent`, and `dma_map_single` of them.
    ///
    /// # Errors
    ///
    /// As [`map_single`](Self::map_single).
    #[track_caller]
    pub fn map_zeroes(&mut self, bytes: usize, access: Access) -> Result<BusAddress, RawError> {
        self.map(bytes, access, |place| {
            // SAFETY: the memory is as long.
            unsafe { copy::zero(place, bytes) };
        })
    }

    #[track_caller]
    fn map(
        &mut self,
        bytes: usize,
        access: Access,
        fill: impl FnOnce(NonNull<u8>),
    ) -> Result<BusAddress, RawError> {
        if bytes == 0 {
            return Err(Error::ZeroSize.into());
        }
        if bytes as u64 > self.terms.longest() {
            return Err(Error::SegmentTooLong.into());
        }
        let mut memory = self.terms.memory(bytes, access)?;
        fill(memory.as_ptr());
        if let Some(pages) = memory.pages() {
            batch::map(&self.terms, access, &mut [Piece { pages, bytes, single: true }])?;
        }
        fence(Ordering::Release);
        let iova = memory.iova();
        self.mapped.insert(iova, Entry { memory, bytes, access, of_device: true });
        raw::mapped(|| Note {
            kind: Kind::Raw,
            label: self.terms.label(),
            space: self.terms.session().space(),
            iova: Some(iova),
            bytes: bytes as u64,
            access: Some(access),
        });
        Ok(BusAddress::new(self.terms.session().addresses(), iova))
    }

    /// Unmaps it and gives its memory back: Linux's `dma_unmap_single`. Length and direction must be those that it was
    /// mapped with.
    ///
    /// # Errors
    ///
    /// [`RawError::WrongDevice`], [`RawError::NotMapped`], [`RawError::WrongSize`], [`RawError::WrongDirection`];
    /// [`RawError::Failed`] as
    /// [`StreamBuffer::unmap`](crate::StreamBuffer::unmap).
    #[track_caller]
    pub fn unmap_single(
        &mut self,
        address: BusAddress,
        bytes: u64,
        access: Access,
    ) -> Result<(), RawError> {
        let iova = self.own(address, Act::GiveBack)?;
        let checked = self.exactly(iova, bytes, access);
        let unmapped = checked.and_then(|()| Ok(self.take_back(iova)?));
        let named = || self.named(iova, bytes, Some(access));
        match unmapped {
            Ok(()) => raw::unmapped(named),
            Err(why) => raw::refused(named, Act::GiveBack, why),
        }
        unmapped
    }

    /// Whether this was mapped exactly so.
    fn exactly(&self, iova: Iova, bytes: u64, access: Access) -> Result<(), RawError> {
        let entry = self.mapped.get(&iova).ok_or(RawError::NotMapped)?;
        if entry.bytes as u64 != bytes {
            return Err(RawError::WrongSize { mapped: entry.bytes as u64 });
        }
        if entry.access != access {
            return Err(RawError::WrongDirection { mapped: entry.access });
        }
        Ok(())
    }

    fn take_back(&mut self, iova: Iova) -> Result<(), Error> {
        if let Some(pages) = self.mapped.get_mut(&iova).and_then(|it| it.memory.pages()) {
            pages.revoke()?;
        }
        self.mapped.remove(&iova);
        Ok(())
    }

    /// The CPU's turn with what is mapped around a range: Linux's `dma_sync_single_for_cpu` and
    /// `dma_sync_single_range_for_cpu`. All of what was mapped together is the CPU's then.
    ///
    /// # Errors
    ///
    /// [`RawError::WrongDevice`], [`RawError::NotMapped`], [`RawError::WrongSize`] beyond the end of what is mapped, [`RawError::WrongDirection`] if it
    /// was mapped for less. What is mapped for both directions may be synced for one of them.
    #[track_caller]
    pub fn sync_single_for_cpu(
        &mut self,
        address: BusAddress,
        bytes: u64,
        access: Access,
    ) -> Result<(), RawError> {
        self.sync(address, bytes, access, false)?;
        fence(Ordering::Acquire);
        Ok(())
    }

    /// The device's turn again: Linux's `dma_sync_single_for_device` and `dma_sync_single_range_for_device`.
    ///
    /// # Errors
    ///
    /// As [`sync_single_for_cpu`](Self::sync_single_for_cpu).
    #[track_caller]
    pub fn sync_single_for_device(
        &mut self,
        address: BusAddress,
        bytes: u64,
        access: Access,
    ) -> Result<(), RawError> {
        self.sync(address, bytes, access, true)?;
        fence(Ordering::Release);
        Ok(())
    }

    #[track_caller]
    fn sync(
        &mut self,
        address: BusAddress,
        bytes: u64,
        access: Access,
        to_device: bool,
    ) -> Result<(), RawError> {
        let iova = self.own(address, Act::Sync)?;
        let synced = self.turn(iova, bytes, access, to_device);
        let named = || self.named(iova, bytes, Some(access));
        match synced {
            Ok(()) => raw::synced(named, to_device),
            Err(why) => raw::refused(named, Act::Sync, why),
        }
        synced
    }

    fn turn(
        &mut self,
        iova: Iova,
        bytes: u64,
        access: Access,
        to_device: bool,
    ) -> Result<(), RawError> {
        let (entry, _) = self.around(iova, bytes)?;
        if !access.is_within(entry.access) {
            return Err(RawError::WrongDirection { mapped: entry.access });
        }
        entry.of_device = to_device;
        Ok(())
    }

    /// Copies bytes out of what is mapped there, in the CPU's turn.
    ///
    /// # Errors
    ///
    /// [`RawError::WrongDevice`], [`RawError::NotMapped`], [`RawError::WrongSize`] beyond the end of what is mapped, [`RawError::OfDevice`] while it is
    /// the device's; nothing is copied then.
    #[track_caller]
    pub fn cpu_read(&mut self, address: BusAddress, out: &mut [u8]) -> Result<(), RawError> {
        let place = self.touch(address, out.len(), Act::Read)?;
        // SAFETY: `touch` checked that all of it lies in memory that this holds.
        unsafe { copy::copy_out(place, out) };
        Ok(())
    }

    /// Copies bytes into what is mapped there, in the CPU's turn.
    ///
    /// # Errors
    ///
    /// As [`cpu_read`](Self::cpu_read).
    #[track_caller]
    pub fn cpu_write(&mut self, address: BusAddress, data: &[u8]) -> Result<(), RawError> {
        let place = self.touch(address, data.len(), Act::Write)?;
        // SAFETY: as in `cpu_read`.
        unsafe { copy::copy_in(place, data) };
        Ok(())
    }

    #[track_caller]
    fn touch(
        &mut self,
        address: BusAddress,
        bytes: usize,
        act: Act,
    ) -> Result<NonNull<u8>, RawError> {
        let iova = self.own(address, act)?;
        let place = self.of_cpu(iova, bytes as u64);
        if let Err(why) = place {
            raw::refused(|| self.named(iova, bytes as u64, None), act, why);
        }
        place
    }

    /// Where the CPU sees a range, in its turn.
    fn of_cpu(&mut self, iova: Iova, bytes: u64) -> Result<NonNull<u8>, RawError> {
        let (entry, offset) = self.around(iova, bytes)?;
        if entry.of_device {
            return Err(RawError::OfDevice);
        }
        // SAFETY: `around` checked the range, whose start is at most the memory's end.
        Ok(unsafe { entry.memory.as_ptr().add(offset) })
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.mapped.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.mapped.is_empty()
    }

    /// The number of an address that something is to be done with, if it is one of this stream's device.
    #[track_caller]
    fn own(&self, address: BusAddress, act: Act) -> Result<Iova, WrongDevice> {
        let own = address.within(self.terms.session().addresses());
        if let Err(wrong) = own {
            check::wrong_device(address.iova(), wrong, act);
        }
        own
    }

    /// A range, as a call names it.
    fn named(&self, iova: Iova, bytes: u64, access: Option<Access>) -> Named<'_> {
        let (stream, space) = (self.terms.label(), self.terms.session().space());
        Named { stream, space, iova, bytes, access }
    }

    /// What is mapped around a range, and where in it that starts.
    fn around(&mut self, iova: Iova, bytes: u64) -> Result<(&mut Entry, usize), RawError> {
        let (start, entry) =
            self.mapped.range_mut(..=iova).next_back().ok_or(RawError::NotMapped)?;
        let (offset, mapped) = (iova.get() - start.get(), entry.bytes as u64);
        if offset >= mapped {
            return Err(RawError::NotMapped);
        }
        if bytes > mapped - offset {
            return Err(RawError::WrongSize { mapped });
        }
        Ok((entry, offset as usize))
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        // What is mapped ends with its memory.
        raw::stream_dropped(self.terms.session().space(), |iova| self.mapped.contains_key(&iova));
    }
}

impl fmt::Debug for RawStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawStream")
            .field("device", &self.terms.session().address())
            .field("mapped", &self.mapped.keys())
            .finish()
    }
}
