//! A buffer: memory that this process and its device both see.

use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;

use dma_types::{Access, CacheType, CpuAddr, Iova};

#[cfg(feature = "virtio")]
use crate::check::Place;
use crate::check::{self, Kind, Mark};
use crate::extent::Extent;
use crate::handle::Handle;
use crate::io_address::IoAddress;
use crate::protocol::Error;
use crate::session::Session;
use crate::shown;
use crate::transport::Mapping;
use crate::unmapped::UnmappedBuffer;

/// A buffer: memory that this process and its device both see, as untyped bytes.
///
/// The device may change it at any time, so there is no `&[u8]` of it: bytes are copied in and out by
/// volatile access. [`Coherent`](crate::Coherent) puts a type on it. Dropping it ends the device's
/// access to it and gives the memory back.
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::Buffer>();
/// ```
#[must_use = "dropped, it is given back, and the device reaches it no more"]
pub struct Buffer {
    memory: Mapping,
    bytes: usize,
    /// What it is beside its memory here. Dropped after that is unmapped.
    buffer: UnmappedBuffer,
}

// SAFETY: the memory is not tied to a thread; it is a mapping of the process. It is not `Sync`: that a device
// writes meanwhile is what volatile access is for, but two threads of this process would race.
unsafe impl Send for Buffer {}
impl Buffer {
    /// A buffer and its memory, which is mapped already.
    ///
    /// # Safety
    ///
    /// The mapping is of this buffer's memory, from its start on, and nobody else's to unmap.
    pub(crate) unsafe fn from_parts(buffer: UnmappedBuffer, memory: Mapping) -> Self {
        let bytes = usize::try_from(buffer.bytes()).unwrap_or(memory.length).min(memory.length);
        Self { memory, bytes, buffer }
    }

    /// With a mark by which the checker knows it: it is the driver's own.
    #[track_caller]
    pub(crate) fn marked(self, access: Option<Access>, label: &str) -> Self {
        let mark = check::made(|| self.buffer.note(Kind::Buffer, access, label));
        self.with_mark(mark)
    }

    /// The same where the caller is not the driver: from there.
    #[cfg(feature = "virtio")]
    pub(crate) fn marked_at(self, at: Place, access: Option<Access>, label: &str) -> Self {
        let mark = check::made_at(at, &[], || self.buffer.note(Kind::Buffer, access, label));
        self.with_mark(mark)
    }

    /// With this mark, unless it has one.
    pub(crate) fn with_mark(mut self, mark: Mark) -> Self {
        if self.mark().is_none() {
            self.buffer.set_mark(mark);
        }
        self
    }

    /// By what the checker knows it.
    pub(crate) fn mark(&self) -> &Mark {
        self.buffer.mark()
    }

    /// Its number, by which iommud and its reports know it.
    pub fn id(&self) -> u64 {
        self.buffer.id()
    }

    /// Its length in bytes, a multiple of 4096.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: a buffer of no bytes cannot be allocated.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where the device sees it, if it was mapped when it was allocated.
    pub fn iova(&self) -> Option<Iova> {
        self.buffer.iova()
    }

    /// The same as an address that knows which device it is of.
    pub fn io_address(&self) -> Option<IoAddress<'_>> {
        self.buffer.io_address()
    }

    /// What the device may do with it, if it was mapped when it was allocated.
    pub fn access(&self) -> Option<Access> {
        self.buffer.access()
    }

    /// How the CPU caches it: what was asked for, or write-back where that was not to be had.
    pub fn cache_type(&self) -> CacheType {
        self.buffer.cache_type()
    }

    /// Where this process sees it.
    pub fn cpu_address(&self) -> CpuAddr {
        self.memory.memory.into()
    }

    /// The start of the memory, for access by raw pointers: volatile or atomic only.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.memory.memory
    }

    /// Its handle, to pass to another process.
    pub fn handle(&self) -> &Handle {
        self.buffer.handle()
    }

    /// The session of the device that it is of.
    pub(crate) fn session(&self) -> &Arc<Session> {
        self.buffer.session()
    }

    /// Copies bytes out, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], with nothing copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        self.extent().read(offset, out)
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], with nothing copied.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.extent().write(offset, data)
    }

    fn extent(&self) -> Extent<'_> {
        // SAFETY: it is this buffer's mapping, which lives as long as it does and is writable.
        unsafe { Extent::new(self.memory.memory, self.bytes) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, bytes) = (self.session().address(), self.bytes as u64);
        let mut shown = shown::guard(f, "Buffer", device, self.iova(), bytes);
        shown.field("id", &self.id()).finish()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is this buffer's own, and nothing borrows from it any more. It goes before
        // the handle, whose closing gives the memory back.
        unsafe { self.handle().transport().unmap(self.memory) };
    }
}
