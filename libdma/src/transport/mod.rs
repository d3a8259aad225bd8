//! What carries requests to `iommud` and its memory back.
//!
//! | module | where | what it is |
//! | --- | --- | --- |
//! | `socket` | Linux, feature `socket` | a handle is a connected `SOCK_SEQPACKET` socket |
//! | `errand` | Redox, feature `scheme` | requests that may take long or that others wait for, by threads that can be given up |
//! | `crew` | Redox, feature `scheme` | the threads that make them |
//! | `slot` | Redox, feature `scheme` | where they leave what they bring |
//! | `patience` | Linux and Redox, features `socket`, `scheme` | how long a client waits for an iommud that was restarted |
//! | `packet` | Linux, feature `socket` | how requests lie in that socket's packets, for both ends |
//! | `kept` | Linux, feature `socket` | the sockets to which answers come that are kept from request to request |
//! | `scheme` | Redox, feature `scheme` | a handle is a descriptor of the `iommu` scheme |
//! | `object` | Redox, feature `scheme` | address spaces in which nobody runs |
//! | `shown` | Redox, feature `scheme` | how memory that iommud lends comes into this process |
//!
//! A service in the same process, as in the bare guest and in tests, is a transport too; that one lives
//! with the service (`iommu_service::in_process`), because nothing here may name the service.

use alloc::boxed::Box;
use core::ptr::NonNull;

use crate::protocol::Error;
use crate::protocol::call::Opcode;

#[cfg(any(
    all(test, target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
mod crew;
#[cfg(any(
    all(test, target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
mod errand;
#[cfg(any(
    all(test, target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
mod futex;
#[cfg(all(target_os = "linux", feature = "socket"))]
mod kept;
#[cfg(all(target_os = "redox", feature = "scheme"))]
pub(crate) mod object;
#[cfg(all(target_os = "linux", feature = "socket"))]
pub mod packet;
#[cfg(any(
    all(target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
mod patience;
#[cfg(all(target_os = "redox", feature = "scheme"))]
pub mod scheme;
#[cfg(all(target_os = "redox", feature = "scheme"))]
pub(crate) mod shown;
#[cfg(any(
    all(test, target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
mod slot;
#[cfg(all(target_os = "linux", feature = "socket"))]
pub mod socket;

/// A handle as its transport numbers it: a file descriptor where there are such.
///
/// It is a number and owns nothing, as a `RawFd`: whoever uses it with a transport promises that it is open. What owns a
/// handle is a [`Handle`](crate::Handle).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawHandle(u64);

impl RawHandle {
    /// The handle that a transport knows by this number, if it knows one.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number by which its transport knows it.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A buffer's memory in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it starts.
    pub memory: NonNull<u8>,
    /// How much was mapped: at least what was asked for, and exactly what is to be unmapped.
    pub length: usize,
}

/// Memory of this process that is to become a buffer: what [`Transport::supply`] gives to iommud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Where it is.
    pub memory: NonNull<u8>,
    /// Its length, a multiple of 4096.
    pub bytes: usize,
    /// The descriptor of the memory object of which it is the start, where the system has such.
    pub object: Option<u64>,
}

/// Why iommud did not take memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSupplied {
    /// Why.
    pub error: Error,
    /// Whether it is not this process's any more all the same: a device may reach it, or there is nothing in its place.
    pub is_gone: bool,
}

impl From<Error> for NotSupplied {
    /// The memory is where it was.
    fn from(error: Error) -> Self {
        Self { error, is_gone: false }
    }
}

/// What looks whether iommud was restarted, and says whether there is anything to look for any more.
pub type Look = Box<dyn FnMut() -> bool + Send>;

/// A way to reach `iommud`.
///
/// Drivers use it through a [`Handle`](crate::Handle), which owns what its requests are made on, so that nothing there is
/// unsafe. Here a handle is a number, and might be one that was closed, is of another transport, or is somebody else's.
///
/// # Safety
///
/// What the implementor owes: [`open`](Self::open) and [`derive`](Self::derive) return a handle that is open, and that
/// nobody else closes. [`map`](Self::map) returns memory that is valid for reads (and for writes, if
/// `writable`) of `length` bytes, which is at least `bytes`, aligned to 4096, not part of any Rust object;
/// it stays so until [`unmap`](Self::unmap) is called for it or the handle is closed, also when the daemon dies.
///
/// What the caller owes: that memory may change under it at any time, for a device and other processes
/// write to it. It must be reached only by volatile or atomic access or by copies, never through `&T`.
pub unsafe trait Transport: Send + Sync {
    /// Opens a node by its path (see [`crate::protocol::path`]). The handle is the caller's to close.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPath`], and of a device what [`Device::open`](crate::Device::open) says; [`Error::DaemonGone`].
    fn open(&self, path: &str) -> Result<RawHandle, Error>;

    /// Makes a new handle from one (see [`crate::protocol::derive`]). It is the caller's to close.
    ///
    /// # Errors
    ///
    /// Those of what is asked for; [`Error::ShortPayload`], [`Error::BadValue`] for a request that is none;
    /// [`Error::DaemonGone`].
    ///
    /// # Safety
    ///
    /// The handle is of this transport and open.
    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error>;

    /// Makes a call on a handle. The answer overwrites the payload; its length is returned. If iommud refuses or is gone, the
    /// payload is as it was.
    ///
    /// # Errors
    ///
    /// Those of the call; [`Error::ShortPayload`] if the payload has no room for its struct, [`Error::UnknownCall`],
    /// [`Error::WrongHandleKind`], [`Error::NoHandshake`]; [`Error::DaemonGone`].
    ///
    /// # Safety
    ///
    /// The handle is of this transport and open.
    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error>;

    /// Reads a text node from `offset` on; how much was read, which is zero at its end.
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] for what is no text; [`Error::DaemonGone`].
    ///
    /// # Safety
    ///
    /// The handle is of this transport and open.
    unsafe fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error>;

    /// Maps the first `bytes` bytes of a buffer.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if it has not as many, [`Error::ZeroSize`], [`Error::NotPermitted`] if the handle may not read
    /// or, if `writable`, write; [`Error::WrongHandleKind`] for what is no buffer, [`Error::NotMemory`] if what came is no
    /// memory that stays; [`Error::OutOfMemory`], [`Error::DaemonGone`].
    ///
    /// # Safety
    ///
    /// The handle is of this transport and open.
    unsafe fn map(&self, handle: RawHandle, bytes: usize, writable: bool)
    -> Result<Mapping, Error>;

    /// At which address the memory object has this memory that [`supply`](Self::supply) will send: what
    /// [`Register`](crate::protocol::derive::Register) is to say.
    ///
    /// # Errors
    ///
    /// [`Error::NotMemory`] if this transport cannot be given such memory.
    fn place(&self, supply: &Supply) -> Result<u64, Error>;

    /// Gives a handle that waits for it this memory, which is then the buffer's: it is mapped at the same place in this
    /// process, all that was mapped for it, as if by [`map`](Self::map). Returns when the device can reach it, if it
    /// was to be mapped.
    ///
    /// # Errors
    ///
    /// [`NotSupplied`], with the errors of [`Device::register`](crate::Device::register).
    ///
    /// # Safety
    ///
    /// The handle is of this transport and open. The memory is valid for reads and writes and the caller's own, of a private anonymous mapping where it is in no
    /// object, and given for good if this succeeds; no Rust object is in it, nothing uses it while this runs, and
    /// afterwards it is used as what `map` returned. On Redox no other thread maps anything while this runs. The
    /// object is an open descriptor.
    unsafe fn supply(&self, handle: RawHandle, supply: &Supply) -> Result<(), NotSupplied>;

    /// Waits a little before iommud is asked again whether it is there, for the time that this is done (`tries` is how often it
    /// was before). `false` if that was long enough, so that nobody asks again.
    ///
    /// A transport to a service that is there or is not, and never comes later, has nothing to wait for.
    fn pause(&self, tries: u32) -> bool {
        let _ = tries;
        core::hint::spin_loop();
        false
    }

    /// Has `look` called now and then, from elsewhere, until it says `false`: it looks whether iommud was restarted, for a driver
    /// that has nothing to ask would not learn of it in time.
    ///
    /// A transport that has nowhere else to call it from does nothing; then a driver that is to outlast restarts calls
    /// [`Device::resume`](crate::Device::resume) now and then.
    fn watch(&self, look: Look) {
        drop(look);
    }

    /// Unmaps what [`map`](Self::map) returned, or [`supply`](Self::supply) left mapped.
    ///
    /// # Safety
    ///
    /// `mapping` was returned by `map` of this transport or supplied by it, has not been unmapped since, and its memory
    /// is not used afterwards.
    unsafe fn unmap(&self, mapping: Mapping);

    /// Closes a handle.
    ///
    /// # Safety
    ///
    /// The handle is of this transport, open and the caller's own. Neither its number is used afterwards, nor what was mapped by it.
    unsafe fn close(&self, handle: RawHandle);
}
