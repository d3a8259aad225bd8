//! Buffers that this process does not see.

use alloc::sync::Arc;
use core::fmt;

use dma_types::{Access, CacheType, Iova, PAGE_SIZE};

use crate::buffer::Buffer;
use crate::check::{self, Kind, Mark, Note};
use crate::handle::Handle;
use crate::io_address::{BusAddress, IoAddress};
use crate::mapping::Mapped;
use crate::protocol::call::{self, BufferInfo, Opcode, UNMAPPED};
use crate::protocol::resume::Thing;
use crate::protocol::{Error, Rights};
use crate::resume::{Piece, UnderWay};
use crate::session::Session;
use crate::shown;
use crate::stream::{Refused, Step};

/// A buffer that the device reaches and this process does not see: Linux's `DMA_ATTR_NO_KERNEL_MAPPING`.
///
/// It is a handle, to be passed to another process, which sees the memory with the rights that the handle carries. Dropping
/// it ends the device's access to the buffer; the memory is given back when nobody has a handle to it any more.
///
/// ```
/// use libdma::protocol::Rights;
/// use libdma::{Access, SharedBuffer};
///
/// # let machine = simulated::Machine::vtd();
/// # let device = machine.open();
/// let film = device.buffer("film").access(Access::Write).allocate_unmapped(1 << 20)?;
/// let address = film.iova().unwrap();     // for the device's registers
/// # machine.device_writes(address, b"picture").unwrap();
///
/// // This process has no business with the pictures. Who has gets a handle, and looks:
/// let seen = SharedBuffer::from_handle(film.share(Rights::READ | Rights::INSPECT)?)?;
/// let mut picture = [0; 7];
/// seen.read(0, &mut picture)?;
/// assert_eq!(&picture, b"picture");
/// # drop((film, seen, device));
/// # machine.check();
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// It is [`Send` and `Sync`](crate#threads).
#[must_use = "dropped, it is given back, and the device reaches it no more"]
pub struct UnmappedBuffer {
    info: BufferInfo,
    handle: Handle,
    /// Kept alive for as long as the device may use the buffer.
    session: Arc<Session>,
    mark: Mark,
}

/// What a buffer was to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Its length, where the driver says that.
    pub(crate) bytes: Option<u64>,
    /// How it is mapped, if at all.
    pub(crate) access: Option<Access>,
    /// What its I/O address is a multiple of.
    pub(crate) align: u64,
    /// The highest I/O address that it has.
    pub(crate) limit: Iova,
}

impl UnmappedBuffer {
    /// Takes over a buffer's handle that has said hello, in the request that made it.
    pub(crate) fn greeted(
        mut handle: Handle,
        session: Arc<Session>,
        under_way: Option<&UnderWay<'_>>,
    ) -> Result<Self, Error> {
        let info: BufferInfo = handle.call(Opcode::BufferInfo, &[0u8; 0])?;
        if let (Some(link), Some(under_way)) = (session.link(), under_way) {
            let number = info.buffer.get();
            let rights = Rights::from_bits_truncate(info.rights.get());
            if info.iova.get() != UNMAPPED {
                let piece = Piece { buffer: number, offset: 0, bytes: info.bytes.get() };
                under_way.learn_made(info.iova.get(), piece)?;
            }
            handle.keep(link, (Thing::Buffer, number), rights);
        } else {
            handle.keep_nowhere();
        }
        Ok(Self { info, handle, session, mark: Mark::default() })
    }

    /// This one, if it is as was asked for: the driver tells its device where it is, and uses all of it. iommud may be
    /// anybody (rule R5).
    pub(crate) fn if_it_is(self, asked: &Asked) -> Result<Self, Error> {
        let (bytes, first) = (self.bytes(), self.info.iova.get());
        let is_whole = bytes > 0 && bytes.is_multiple_of(PAGE_SIZE);
        let last = first.checked_add(bytes.saturating_sub(1));
        let is_there = match asked.access {
            Some(_) => {
                first.is_multiple_of(asked.align.max(PAGE_SIZE))
                    && last.is_some_and(|last| last <= asked.limit.get())
            }
            None => first == UNMAPPED,
        };
        let is_it = is_whole && is_there && asked.bytes.is_none_or(|asked| asked == bytes);
        if is_it { Ok(self) } else { Err(Error::BadValue) }
    }

    /// With a mark by which the checker knows it: it is the driver's own.
    #[track_caller]
    pub(crate) fn marked(mut self, kind: Kind, access: Option<Access>, label: &str) -> Self {
        self.mark = check::made(|| self.note(kind, access, label));
        self
    }

    /// Has the checker know it by this mark.
    pub(crate) fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    /// What the checker is told of it.
    pub(crate) fn note<'a>(&self, kind: Kind, access: Option<Access>, label: &'a str) -> Note<'a> {
        let (space, iova, bytes) = (self.session.space(), self.iova(), self.bytes());
        Note { kind, label, space, iova, bytes, access }
    }

    /// By what the checker knows it.
    pub(crate) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Maps it into this process.
    ///
    /// # Errors
    ///
    /// With this one, which stays as it was: [`Error::NotPermitted`] if its handle may not both read and write,
    /// [`Error::OutOfMemory`].
    pub fn map(self) -> Step<Buffer, Self> {
        let length = self.len();
        match length.and_then(|it| self.handle.map_buffer(it, true)) {
            // SAFETY: it is the memory of this buffer, mapped for it alone.
            Ok(memory) => Ok(unsafe { Buffer::from_parts(self, memory) }),
            Err(error) => Err(Refused::new(error, self)),
        }
    }

    /// Its length in bytes as this process counts, if it can.
    fn len(&self) -> Result<usize, Error> {
        usize::try_from(self.info.bytes.get()).map_err(|_| Error::TooLarge)
    }

    /// The session of the device that it is of.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Its number, by which iommud and its reports know it.
    pub fn id(&self) -> u64 {
        self.info.buffer.get()
    }

    /// Its length in bytes, a multiple of 4096.
    pub fn bytes(&self) -> u64 {
        self.info.bytes.get()
    }

    /// Where the device sees it, if it was mapped when it was allocated.
    pub fn iova(&self) -> Option<Iova> {
        match self.info.iova.get() {
            UNMAPPED => None,
            iova => Some(Iova::new(iova)),
        }
    }

    /// The same as an address that knows which device it is of.
    pub fn io_address(&self) -> Option<IoAddress<'_>> {
        Some(IoAddress::new(&self.session, self.iova()?, self.bytes()))
    }

    /// What the device may do with it, if it was mapped when it was allocated.
    pub fn access(&self) -> Option<Access> {
        call::access_from_code(self.info.access.get()).ok()
    }

    /// How CPUs that map it cache it: what was asked for, or write-back where that was not to be had.
    pub fn cache_type(&self) -> CacheType {
        call::cache_from_code(self.info.cache.get()).unwrap_or_default()
    }

    /// Its handle, to pass to another process.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for UnmappedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.session.address();
        let mut shown = shown::guard(f, "UnmappedBuffer", device, self.iova(), self.bytes());
        shown.field("id", &self.id()).finish()
    }
}

impl Drop for UnmappedBuffer {
    fn drop(&mut self) {
        if let (false, Some(iova)) = (self.session.is_confined(), self.iova()) {
            // Told so, iommud gives the memory back at once; else it would wait for the end of the session, for the
            // driver may have died with its device at work.
            let address = BusAddress::new(self.session.addresses(), iova);
            let _ = self.session.unmap(&[Mapped::new(address, self.bytes())]);
        }
    }
}
