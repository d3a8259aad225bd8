//! The device that this process was handed by whoever started it.

use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use std::env;
use std::ffi::OsStr;
use std::sync::{Mutex, PoisonError};

use thiserror::Error as ThisError;

use crate::device::Device;
use crate::handle::{DEVICE_VARIABLE, Handle};
use crate::protocol::Error;
use crate::window::Windows;

/// The value of [`DEVICE_VARIABLE`] for a device that is not to be confined.
const UNCONFINED: &str = "none";

/// Why this process has no device that it was handed.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum HandedError {
    /// The variable is not set.
    #[error(
        "IOMMU_DEVICE is not set: start the driver through iommu-run, or set it to `none` for a device \
         that shall not be confined"
    )]
    NotSet,
    /// The variable is `none`: there is no handle, for the device is not to be confined.
    #[error(
        "IOMMU_DEVICE is `none`: the device is not to be confined, and iommud has no part in it"
    )]
    Unconfined,
    /// The variable has a value that means nothing.
    #[error("IOMMU_DEVICE is {0:?}, which is neither the number of a descriptor nor `none`")]
    Meaningless(String),
    /// No handle of iommud's that this process inherited has this number.
    #[error("IOMMU_DEVICE is {0}, but descriptor {0} is no device handle of iommud's")]
    NotHanded(usize),
    /// iommud does not serve the handle.
    #[error("iommud does not serve the device of descriptor {descriptor}: {error}")]
    Refused {
        /// The number of the handle.
        descriptor: usize,
        /// What iommud said.
        error: Error,
    },
    /// It was taken over before, and nobody in this process holds it any more.
    #[error("the device of IOMMU_DEVICE was taken over before, and has been closed since")]
    Closed,
}

/// What has become of the handle that the variable names.
enum Slot {
    /// Nobody has asked for it.
    Unasked,
    /// It is the device's as long as somebody holds that.
    Taken(Weak<Windows>),
    /// There is none.
    Nothing(HandedError),
}

static SLOT: Mutex<Slot> = Mutex::new(Slot::Unasked);

impl Device {
    /// The device whose handle this process was started with, as by `iommu-run`: a driver need not know its address, nor
    /// open anything.
    ///
    /// The handle is the descriptor whose number the environment variable [`DEVICE_VARIABLE`] is. The first to ask takes
    /// it over, so that no program run from here inherits it; whoever asks again gets a clone of the same device, without
    /// limits, as long as somebody holds one. Its session ends with the last of them.
    ///
    /// The variable is the word of whoever started this process. A process that opens sockets of its own which its children
    /// inherit, or devices, asks before it does, for a variable that is left from elsewhere could name one of those.
    ///
    /// It never falls back on anything else. A driver that can open a device itself does so on [`HandedError::NotSet`];
    /// `Dma`, of the feature `port`, is of the same device.
    ///
    /// ```no_run
    /// use libdma::Device;
    ///
    /// let device = Device::handed()?;
    /// let ring = device.coherent("ring").slice::<u64>(64)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`HandedError`]; the same one whenever it is asked again.
    pub fn handed() -> Result<Self, HandedError> {
        let mut slot = SLOT.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Taken(windows) => {
                windows.upgrade().map(Self::from_windows).ok_or(HandedError::Closed)
            }
            Slot::Nothing(error) => Err(error.clone()),
            Slot::Unasked => {
                let taken = take(env::var_os(DEVICE_VARIABLE).as_deref());
                *slot = match &taken {
                    Ok(device) => Slot::Taken(Arc::downgrade(device.windows())),
                    Err(error) => Slot::Nothing(error.clone()),
                };
                taken
            }
        }
    }
}

/// The device that this value of the variable names. Asked once.
fn take(value: Option<&OsStr>) -> Result<Device, HandedError> {
    let value = value.ok_or(HandedError::NotSet)?.to_string_lossy();
    if value == UNCONFINED {
        return Err(HandedError::Unconfined);
    }
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse::<usize>().ok().filter(|_| digits);
    let descriptor = number.ok_or_else(|| HandedError::Meaningless(value.to_string()))?;
    // SAFETY: whoever started this process set the variable, and made the descriptor over by that. It is asked for once.
    let handle = unsafe { Handle::inherited(descriptor) };
    let handle = handle.ok_or(HandedError::NotHanded(descriptor))?;
    Device::from_handle(handle).map_err(|error| HandedError::Refused { descriptor, error })
}

impl Handle {
    /// Takes over the handle that another process left open for this one as this descriptor, and sees to it that no
    /// program run from here inherits it. `None`, with nothing done, if the descriptor is not one of iommud's, or (as far as
    /// the system tells, which Linux does) was opened by this process itself.
    ///
    /// # Safety
    ///
    /// If there is a descriptor of this number, whoever started this process made it over to it, and nobody else in it has
    /// taken it over or will.
    pub unsafe fn inherited(descriptor: usize) -> Option<Self> {
        adopt(descriptor)
    }
}

/// See [`Handle::inherited`].
#[cfg(target_os = "redox")]
fn adopt(descriptor: usize) -> Option<Handle> {
    use crate::transport::scheme::{Scheme, is_of_scheme};
    use libredox::flag::{F_SETFD, O_CLOEXEC};
    use libredox::{Fd, call};

    if is_of_scheme(descriptor) != Ok(true) {
        return None;
    }
    // The flag has the same value among a descriptor's flags as among those of open.
    call::fcntl(descriptor, F_SETFD as usize, O_CLOEXEC as usize).ok()?;
    // By the promise of who asks it is this process's own, and nobody's yet.
    Some(Scheme::inherited(Fd::new(descriptor)))
}

/// The same on Linux, where a handle is a socket.
#[cfg(target_os = "linux")]
fn adopt(descriptor: usize) -> Option<Handle> {
    use crate::transport::socket::Socket;
    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
    use rustix::net::{AddressFamily, SocketType, sockopt};
    use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

    let number = RawFd::try_from(descriptor).ok()?;
    // SAFETY: it is borrowed for these calls alone, which fail if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // What was inherited is not closed on exec. What is, this process opened, and it has an owner here.
    let is_inherited = !fcntl_getfd(borrowed).ok()?.contains(FdFlags::CLOEXEC);
    let family = sockopt::socket_domain(borrowed).ok()?;
    let kind = sockopt::socket_type(borrowed).ok()?;
    if !is_inherited || (family, kind) != (AddressFamily::UNIX, SocketType::SEQPACKET) {
        return None;
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and by the promise of who asks this process's own and nobody's yet.
    Some(Socket::handle(unsafe { OwnedFd::from_raw_fd(number) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: &str) -> HandedError {
        take(Some(value.as_ref())).map(drop).unwrap_err()
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no such sockets")]
    fn what_says_nothing_of_a_device_gives_none() {
        assert_eq!(take(None).map(drop), Err(HandedError::NotSet));
        assert_eq!(refused("none"), HandedError::Unconfined);
        for value in ["", " ", "None", "none ", "-1", "+3", "3 ", "0x3", "99999999999999999999"] {
            assert_eq!(refused(value), HandedError::Meaningless(value.to_string()));
        }
        assert_eq!(refused("987654"), HandedError::NotHanded(987_654));
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no such sockets")]
    fn a_descriptor_that_has_an_owner_here_is_left_alone() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        use std::os::fd::{AsRawFd, OwnedFd};

        let kind = SocketType::SEQPACKET;
        let (socket, _other) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        for owned in [socket, file] {
            let number = owned.as_raw_fd();
            assert_eq!(refused(&number.to_string()), HandedError::NotHanded(number as usize));
            rustix::fs::fstat(&owned).unwrap();
        }
    }
}
