//! Foreign memory that the device reaches a copy of.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use core::{mem, slice};

use dma_types::Iova;

use super::batch::{self, Piece};
use super::memory::Memory;
use super::{DeviceOwned, HasAddress, Owner, Refused, Step, Synced, Terms};
use crate::check::{self, Kind, Mark};
use crate::copy;
use crate::direction::{Bidirectional, Direction};
use crate::io_address::IoAddress;
use crate::protocol::Error;
use crate::shown;

/// A slice of which the device reaches a copy, so that nothing that lies in the same page is the device's too (rule R8):
/// Linux's `dma_map_single` through swiotlb.
///
/// What is copied when is [in a table](super#what-is-copied-and-when).
///
/// It borrows the slice until it is unmapped or dropped, which is the same. What the device may write comes back then;
/// what it did not write is as it was. Forgetting it is sound: the device reaches the copy and nothing else, and only the
/// copy's memory is lost.
///
/// ```
/// use libdma::FromDevice;
///
/// # let machine = simulated::Machine::vtd();
/// # let device = machine.open();
/// let stream = device.stream::<FromDevice>("rx");
/// let mut packet = *b"..............";
/// let mapped = stream.map_slice_mut(&mut packet[2..9])?;
/// // The device writes four bytes of seven, and beyond them, which are nobody's:
/// machine.device_writes(mapped.iova(), b"head").unwrap();
/// # let beyond = libdma::Iova::new(mapped.iova().get() + 7);
/// # machine.device_writes(beyond, b"what?").unwrap();
/// mapped.unmap()?;
/// assert_eq!(&packet, b"..head........");
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// ```compile_fail,E0506
/// # fn f(stream: libdma::Stream<libdma::FromDevice>) -> Result<(), libdma::Error> {
/// let mut header = [0; 14];
/// let mapped = stream.map_slice_mut(&mut header)?;
/// header[0] = 1;
/// mapped.unmap()?;
/// # Ok(())
/// # }
/// ```
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::stream::Bounced<libdma::ToDevice>>();
/// ```
#[must_use = "dropped, it is unmapped, and its address means nothing any more"]
pub struct Bounced<'a, D: Direction, O: Owner = DeviceOwned> {
    copy: Copied<'a>,
    of: PhantomData<fn() -> (D, O)>,
}

/// The slice that there is a copy of.
pub(crate) enum Origin<'a> {
    /// The device only reads.
    Shared(&'a [u8]),
    /// The device writes, too.
    Exclusive(&'a mut [u8]),
}

impl Origin<'_> {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Exclusive(bytes) => bytes,
        }
    }
}

/// A slice and its copy. It is seven words, for each step moves one.
struct Copied<'a> {
    memory: Memory,
    slice: Slice<'a>,
    mark: Mark,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Copied<'_>>() == 56);

/// The slice of a copy, and whether what the device wrote comes back to it: in two words, which compilers move in one step each.
struct Slice<'a> {
    start: NonNull<u8>,
    /// How long it is, and flags.
    word: usize,
    of: PhantomData<&'a mut [u8]>,
}

// SAFETY: it is one of the two slices that it is made of, both of which may be sent.
unsafe impl Send for Slice<'_> {}

impl<'a> Slice<'a> {
    /// The device writes, too: it is borrowed exclusively.
    const EXCLUSIVE: usize = 1 << (usize::BITS - 1);
    /// What it writes comes back at the end of its turns.
    const RETURNS: usize = 1 << (usize::BITS - 2);
    /// It is its turn, so that this is still to be done.
    const IS_DUE: usize = 1 << (usize::BITS - 3);
    /// What is longer has no copy.
    const LONGEST: usize = Self::IS_DUE - 1;

    #[inline]
    fn new(origin: Origin<'a>, returns: bool) -> Self {
        let (bytes, flags) = match origin {
            Origin::Shared(bytes) => (NonNull::from(bytes), 0),
            Origin::Exclusive(bytes) => {
                let returns = if returns { Self::RETURNS | Self::IS_DUE } else { 0 };
                (NonNull::from(bytes), Self::EXCLUSIVE | returns)
            }
        };
        debug_assert!(bytes.len() <= Self::LONGEST);
        Self { start: bytes.cast(), word: bytes.len() | flags, of: PhantomData }
    }

    #[inline]
    fn len(&self) -> usize {
        self.word & Self::LONGEST
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: it was made of a slice of this length, which is borrowed for as long as this lives.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if self.word & Self::EXCLUSIVE == 0 {
            return None;
        }
        // SAFETY: as in `bytes`, and it is borrowed exclusively.
        Some(unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) })
    }

    /// Whether what the device wrote is to come back still.
    #[inline]
    fn is_due(&self) -> bool {
        self.word & Self::IS_DUE != 0
    }

    /// The turn changes: with the device's, what it writes is to come back again, if it is to at all.
    fn turn(&mut self, is_of_device: bool) {
        let is_due = is_of_device && self.word & Self::RETURNS != 0;
        self.word = self.word & !Self::IS_DUE | if is_due { Self::IS_DUE } else { 0 };
    }
}

impl Copied<'_> {
    /// Copies the slice to where the device reads.
    #[inline]
    fn bring(&self) {
        // SAFETY: the copy is as long as the slice.
        unsafe { copy::copy_in(self.memory.as_ptr(), self.slice.bytes()) };
    }

    /// Copies a range back that the device may have written; the range of the slice.
    fn bring_back(&mut self, range: Range<usize>) -> Option<&[u8]> {
        let place = self.memory.as_ptr();
        if let Some(bytes) = self.slice.bytes_mut() {
            let out = bytes.get_mut(range.clone())?;
            // SAFETY: the range lies in the slice, and the copy is as long.
            unsafe { copy::copy_out(place.add(range.start), out) };
        }
        self.slice.bytes().get(range)
    }

    /// The end of the device's turn, for good.
    #[inline]
    fn end(&mut self) -> Result<(), Error> {
        if let Memory::Pages(pages) = &mut self.memory {
            pages.revoke()?;
        }
        if self.slice.is_due() {
            self.slice.turn(false);
            fence(Ordering::Acquire);
            self.bring_back(0..self.slice.len());
        }
        Ok(())
    }
}

impl Drop for Copied<'_> {
    #[inline]
    fn drop(&mut self) {
        // Who wants to know whether the device lost its access unmaps.
        let _ = self.end();
    }
}

impl<'a, D: Direction> Bounced<'a, D> {
    #[track_caller]
    #[inline]
    pub(super) fn new(terms: &Terms, origin: Origin<'a>) -> Result<Self, Error> {
        let bytes = origin.bytes().len();
        if bytes as u64 <= terms.longest()
            && check::is_known_off()
            && let Some(block) = terms.ready(bytes, D::ACCESS)
        {
            return Ok(Self::filled(terms, origin, Memory::Window(block), Mark::default()));
        }
        Self::new_otherwise(terms, origin)
    }

    /// The same where no memory is ready, the checker may be told, or it is refused.
    #[track_caller]
    #[cold]
    fn new_otherwise(terms: &Terms, origin: Origin<'a>) -> Result<Self, Error> {
        let bytes = origin.bytes().len();
        if bytes == 0 {
            return Err(Error::ZeroSize);
        }
        if bytes as u64 > terms.longest() || bytes > Slice::LONGEST {
            return Err(Error::SegmentTooLong);
        }
        let mut memory = terms.memory(bytes, D::ACCESS)?;
        if let Memory::Pages(pages) = &mut memory {
            batch::map_one(terms, D::ACCESS, &mut Piece { pages, bytes, single: true })?;
        }
        let mark = terms.mark(Kind::Stream, &[], memory.iova(), bytes as u64, D::ACCESS);
        Ok(Self::filled(terms, origin, memory, mark))
    }

    #[inline]
    fn filled(terms: &Terms, origin: Origin<'a>, memory: Memory, mark: Mark) -> Self {
        let is_copied = !terms.skip_cpu_sync();
        let copy = Copied { memory, slice: Slice::new(origin, is_copied), mark };
        if is_copied {
            // Where data only comes from the device, too: what it does not write is to stay as it was.
            copy.bring();
        }
        fence(Ordering::Release);
        Self { copy, of: PhantomData }
    }

    /// The CPU's turn with the slice: Linux's `dma_sync_single_for_cpu`. What the device wrote is in it.
    pub fn sync_for_cpu(mut self) -> Bounced<'a, D, Synced> {
        fence(Ordering::Acquire);
        if D::ACCESS.may_write() {
            self.copy.bring_back(0..self.len());
        }
        // From here on the slice is newer than the copy.
        self.copy.slice.turn(false);
        Bounced { copy: self.copy, of: PhantomData }
    }

    /// A range of the slice, as the device wrote it, for as long as it is borrowed: Linux's
    /// `dma_sync_single_range_for_cpu`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`].
    pub fn sync_range_for_cpu(&mut self, range: Range<usize>) -> Result<&[u8], Error> {
        fence(Ordering::Acquire);
        self.copy.bring_back(range).ok_or(Error::OutOfBuffer)
    }
}

impl<'a, D: Direction> Bounced<'a, D, Synced> {
    /// The slice.
    pub fn as_slice(&self) -> &[u8] {
        self.copy.slice.bytes()
    }

    /// The device's turn again: Linux's `dma_sync_single_for_device`.
    pub fn sync_for_device(mut self) -> Bounced<'a, D> {
        if D::ACCESS.may_read() {
            self.copy.bring();
        }
        self.copy.slice.turn(true);
        fence(Ordering::Release);
        Bounced { copy: self.copy, of: PhantomData }
    }
}

impl Bounced<'_, Bidirectional, Synced> {
    /// The slice, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.copy.slice.bytes_mut().unwrap_or_default()
    }
}

impl<D: Direction, O: HasAddress> Bounced<'_, D, O> {
    /// Where the device sees the copy: what to write into its registers.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.copy.memory.iova()
    }

    /// The same as an address that knows which device it is of.
    pub fn io_address(&self) -> IoAddress<'_> {
        IoAddress::new(self.copy.memory.session(), self.iova(), self.len() as u64)
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.copy.slice.len()
    }

    /// Never: an empty slice is not mapped.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Ends it: Linux's `dma_unmap_single`. What the device wrote is in the slice then, which is the caller's again.
    ///
    /// # Errors
    ///
    /// In a window never. Of a strict stream as [`Device::unmap`](crate::Device::unmap), with the slice as it was.
    #[track_caller]
    #[inline]
    pub fn unmap(self) -> Step<(), Self> {
        match self.copy.memory {
            // Being dropped is all.
            Memory::Window(_) if self.copy.mark.is_none() => Ok(()),
            _ => self.unmap_otherwise(),
        }
    }

    /// The same where that may fail, or the checker is told.
    #[track_caller]
    #[inline(never)]
    fn unmap_otherwise(mut self) -> Step<(), Self> {
        match self.copy.end() {
            Ok(()) => {
                mem::take(&mut self.copy.mark).given_back();
                Ok(())
            }
            Err(error) => Err(Refused::new(error, self)),
        }
    }
}

impl<D: Direction, O: Owner> fmt::Debug for Bounced<'_, D, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Copied { memory, slice, .. } = &self.copy;
        let (device, bytes) = (memory.session().address(), slice.len() as u64);
        shown::guard(f, "Bounced", device, Some(memory.iova()), bytes).finish()
    }
}
