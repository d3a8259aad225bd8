//! An owned handle.

use alloc::boxed::Box;
use alloc::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::protocol::call::Opcode;
use crate::protocol::resume::Thing;
use crate::protocol::{Error, Rights};
use crate::resume::{Kept, Link, Open, Place};
use crate::transport::{Mapping, RawHandle, Transport};

/// The environment variable by which a process leaves a device's handle to the program that it runs: the number of an
/// inherited descriptor.
pub const DEVICE_VARIABLE: &str = "IOMMU_DEVICE";

/// The environment variable by which it is told where the program can resume the device's session, if it sees no `iommu`: the
/// number of an inherited descriptor of a folder, below which is [`path::resume`](crate::protocol::path::resume) of the device.
pub const RESUME_VARIABLE: &str = "IOMMU_RESUME";

/// A handle and the transport it is of. Dropping it closes it.
///
/// It owns the handle, as an `OwnedFd` owns a descriptor: there is one `Handle` of it, which is moved and not copied, and
/// what borrows from it borrows what is open.
///
/// When iommud is restarted, all handles of before are dead. Those to what a [`Device`](crate::Device) has in this process
/// come to be good again by themselves. Those of a [`SharedBuffer`](crate::SharedBuffer), and of a device that is a part of
/// another process's, answer [`Error::HandleLost`] from then on: whoever passed them on passes others. What was made to be
/// passed on and has no owner yet answers [`Error::DaemonGone`].
pub struct Handle {
    /// What gives it a new number after a restart, if anything does. Dropped before that is closed.
    kept: Option<Box<Kept>>,
    /// Whether it is known that nothing does.
    is_passing: bool,
    place: Arc<Place>,
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
        // SAFETY: as the caller promises.
        let open = unsafe { Open::new(transport, raw) };
        Self { kept: None, is_passing: false, place: Place::new(open) }
    }

    /// The handle that is in a place, which is nobody's to keep over restarts.
    pub(crate) fn of_place(place: Arc<Place>) -> Self {
        Self { kept: None, is_passing: false, place }
    }

    /// Gives it up without closing it: for a [`from_raw`](Self::from_raw), or for an owner of the transport's own kind. If
    /// nobody takes it, it stays open until the process ends.
    pub fn into_raw(self) -> RawHandle {
        let open = self.place.open();
        open.give_up();
        open.raw()
    }

    /// Opens a node by its path (see [`crate::protocol::path`]).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPath`], and of a device what [`Device::open`](crate::Device::open) says; [`Error::NotPermitted`] in a
    /// process that was only given handles, but for [where a session is resumed](crate::protocol::path::resume);
    /// [`Error::DaemonGone`].
    pub fn open(transport: Arc<dyn Transport>, path: &str) -> Result<Self, Error> {
        let raw = transport.open(path)?;
        // SAFETY: the transport has just opened it, for nobody else.
        Ok(unsafe { Self::from_raw(transport, raw) })
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
        self.over_restarts(|| self.derive_once(request))
    }

    /// The same, but that is not done again when iommud was restarted.
    pub(crate) fn derive_once(&self, request: &[u8]) -> Result<Self, Error> {
        let open = self.place.open();
        // SAFETY: the handle is open as long as that is, and of this transport.
        let derived = unsafe { self.transport().derive(open.raw(), request) };
        let raw = derived.map_err(|error| self.told(error))?;
        // SAFETY: the transport has just opened it, for nobody else.
        Ok(unsafe { Self::from_raw(self.transport().clone(), raw) })
    }

    /// Makes a request, and again when iommud was restarted, if this handle comes to be good again then.
    fn over_restarts<R>(&self, mut make: impl FnMut() -> Result<R, Error>) -> Result<R, Error> {
        Link::request(self.link(), |_| make())
    }

    /// What a failure means to who has this handle.
    #[cold]
    fn told(&self, error: Error) -> Error {
        match error {
            Error::DaemonGone if self.is_passing => Error::HandleLost,
            error => error,
        }
    }

    /// Takes note that nobody in this process can have it again after a restart.
    pub(crate) fn keep_nowhere(&mut self) {
        self.is_passing = true;
    }

    /// What keeps it over restarts, if anything does.
    #[inline]
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.kept.as_ref().map(|kept| &kept.link)
    }

    /// Has it kept over restarts, as the handle of the device itself.
    pub(crate) fn keep_device(&mut self, link: &Arc<Link>) {
        self.kept = Some(Box::new(link.keep_device(&self.place)));
    }

    /// The same as a handle to something that the session has.
    pub(crate) fn keep(&mut self, link: &Arc<Link>, thing: (Thing, u64), rights: Rights) {
        self.kept = Some(Box::new(link.keep(thing, rights, &self.place)));
    }

    /// Where its number is.
    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Puts its number in another place, and the one there here.
    pub(crate) fn swap(&self, place: &Place) {
        self.place.swap(place);
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
    ///
    /// [`Error::DaemonGone`] comes at once for calls of which nobody could say whether they were done already:
    /// [`Opcode::Map`], [`Opcode::Unmap`], [`Opcode::Enter`] and [`Opcode::Leave`].
    pub fn call_bytes(&self, opcode: Opcode, payload: &mut [u8]) -> Result<usize, Error> {
        match opcode {
            Opcode::Map | Opcode::Unmap | Opcode::Enter | Opcode::Leave => {
                self.call_once(opcode, payload)
            }
            _ => self.over_restarts(|| self.call_once(opcode, payload)),
        }
    }

    /// The same, but that it is not done again when iommud was restarted.
    #[inline]
    pub(crate) fn call_once(&self, opcode: Opcode, payload: &mut [u8]) -> Result<usize, Error> {
        let open = self.place.open();
        // SAFETY: the handle is open as long as that is, and of this transport.
        unsafe { self.transport().call(open.raw(), opcode, payload) }
            .map_err(|error| self.told(error))
    }

    /// Reads a text node from `offset` on; how much was read, which is zero at its end.
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] for what is no text, [`Error::DaemonGone`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        let open = self.place.open();
        // SAFETY: the handle is open as long as that is, and of this transport.
        unsafe { self.transport().read(open.raw(), offset, out) }
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
        self.over_restarts(|| {
            let open = self.place.open();
            // SAFETY: the handle is open as long as that is, and of this transport.
            unsafe { self.transport().map(open.raw(), bytes, writable) }
                .map_err(|error| self.told(error))
        })
    }

    /// The transport that this handle is of.
    #[inline]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        self.place.transport()
    }

    /// The handle as its transport numbers it, for as long as this lives and iommud does: after a restart it has another
    /// number.
    pub fn raw(&self) -> RawHandle {
        self.place.open().raw()
    }
}

impl core::fmt::Debug for Handle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Handle").field(&self.raw().number()).finish()
    }
}
