//! An owned handle.

use alloc::sync::Arc;
use core::mem::ManuallyDrop;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::protocol::Error;
use crate::protocol::call::Opcode;
use crate::transport::{Mapping, RawHandle, Transport};

/// The environment variable by which a process leaves a device's handle to the program that it runs: the number of an
/// inherited descriptor.
pub const DEVICE_VARIABLE: &str = "IOMMU_DEVICE";

/// A handle and the transport it is of. Dropping it closes it.
///
/// It owns the handle, as an `OwnedFd` owns a descriptor: there is one `Handle` of it, which is moved and not copied, and
/// what borrows from it borrows what is open.
pub struct Handle {
    transport: Arc<dyn Transport>,
    raw: RawHandle,
}

impl Handle {
    /// Takes over a handle that is known by its number.
    ///
    /// What arrived as an owned descriptor needs none of this: `Socket::handle` and `Scheme::handle` take one.
    ///
    /// ```compile_fail,E0133
    /// use libdma::Handle;
    ///
    /// # let machine = simulated::Machine::vtd();
    /// # let device = machine.open();
    /// let buffer = device.allocate(4096, None, "one")?;
    /// // A second owner, whose end would give the memory back under the first, is nothing that safe code can make.
    /// let (transport, raw) = (buffer.handle().transport().clone(), buffer.handle().raw());
    /// drop(Handle::from_raw(transport, raw));
    /// # Ok::<(), libdma::Error>(())
    /// ```
    ///
    /// # Safety
    ///
    /// `raw` is a handle of this transport: a number means something else to another. It is open, and whoever owned it gives
    /// it up: nobody else closes it, or counts on its staying open.
    pub unsafe fn from_raw(transport: Arc<dyn Transport>, raw: RawHandle) -> Self {
        Self { transport, raw }
    }

    /// Gives it up without closing it: for a [`from_raw`](Self::from_raw), or for an owner of the transport's own kind. If
    /// nobody takes it, it stays open until the process ends.
    pub fn into_raw(self) -> RawHandle {
        let mut handle = ManuallyDrop::new(self);
        // SAFETY: it is not used again, and not dropped either.
        unsafe { core::ptr::drop_in_place(&raw mut handle.transport) };
        handle.raw
    }

    /// Opens a node by its path (see [`crate::protocol::path`]).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPath`], and of a device what [`Device::open`](crate::Device::open) says; [`Error::NotPermitted`] in a
    /// process that was only given handles, [`Error::DaemonGone`].
    pub fn open(transport: Arc<dyn Transport>, path: &str) -> Result<Self, Error> {
        let raw = transport.open(path)?;
        Ok(Self { transport, raw })
    }

    /// Makes a new handle from this one (see [`crate::protocol::derive`]).
    ///
    /// # Errors
    ///
    /// As [`derive_bytes`](Self::derive_bytes).
    pub fn derive(&self, request: &(impl IntoBytes + Immutable)) -> Result<Self, Error> {
        self.derive_bytes(request.as_bytes())
    }

    /// The same of a request that is bytes already.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if this handle does not carry the right to it (rule R3), [`Error::WrongHandleKind`] if such
    /// cannot be made of it, [`Error::NoHandshake`] before the first [`Opcode::Hello`]; [`Error::ShortPayload`] and
    /// [`Error::BadValue`] for a request that is none, [`Error::DaemonGone`]; and those of what is asked for.
    pub fn derive_bytes(&self, request: &[u8]) -> Result<Self, Error> {
        // SAFETY: the handle is open as long as this is, and of this transport.
        let raw = unsafe { self.transport.derive(self.raw, request) }?;
        Ok(Self { transport: self.transport.clone(), raw })
    }

    /// Makes a call whose answer is as long as `Answer`, or longer.
    ///
    /// # Errors
    ///
    /// As [`call_bytes`](Self::call_bytes); [`Error::BadValue`] if the request is longer than `Answer`,
    /// [`Error::ShortPayload`] if the answer is shorter.
    pub fn call<Answer: FromBytes + IntoBytes>(
        &self,
        opcode: Opcode,
        request: &(impl IntoBytes + Immutable),
    ) -> Result<Answer, Error> {
        let mut answer = Answer::new_zeroed();
        let payload = answer.as_mut_bytes();
        let request = request.as_bytes();
        payload.get_mut(..request.len()).ok_or(Error::BadValue)?.copy_from_slice(request);
        let length = self.call_bytes(opcode, payload)?;
        if length < size_of::<Answer>() { Err(Error::ShortPayload) } else { Ok(answer) }
    }

    /// Makes a call whose answer is written over its payload; how long it is.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if this handle does not carry the right to it (rule R3), [`Error::WrongHandleKind`],
    /// [`Error::UnknownCall`], [`Error::NoHandshake`] before the first [`Opcode::Hello`], [`Error::ShortPayload`] if the
    /// payload is shorter than the call's struct, [`Error::DaemonGone`]; and those of the call.
    pub fn call_bytes(&self, opcode: Opcode, payload: &mut [u8]) -> Result<usize, Error> {
        // SAFETY: the handle is open as long as this is, and of this transport.
        unsafe { self.transport.call(self.raw, opcode, payload) }
    }

    /// Reads a text node from `offset` on; how much was read, which is zero at its end.
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] for what is no text, [`Error::DaemonGone`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        // SAFETY: the handle is open as long as this is, and of this transport.
        unsafe { self.transport.read(self.raw, offset, out) }
    }

    /// Maps the first `bytes` bytes of a buffer into this process. They are to be used only while this handle is open, and
    /// stay mapped until [`Transport::unmap`] is called for them.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if it has not as many, [`Error::ZeroSize`], [`Error::NotPermitted`] if the handle does not
    /// carry the right to read or, if `writable`, to write; [`Error::WrongHandleKind`] for what is no buffer,
    /// [`Error::NotMemory`] if what came is no memory that stays; [`Error::OutOfMemory`], [`Error::DaemonGone`].
    pub fn map_buffer(&self, bytes: usize, writable: bool) -> Result<Mapping, Error> {
        // SAFETY: the handle is open as long as this is, and of this transport.
        unsafe { self.transport.map(self.raw, bytes, writable) }
    }

    /// The transport that this handle is of.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The handle as its transport numbers it, for as long as this lives.
    pub fn raw(&self) -> RawHandle {
        self.raw
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is open, of this transport and this one's alone. Who uses what was mapped by it keeps this for
        // as long, as `map_buffer` says.
        unsafe { self.transport.close(self.raw) };
    }
}

impl core::fmt::Debug for Handle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Handle").field(&self.raw.number()).finish()
    }
}
