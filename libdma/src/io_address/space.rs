//! Whose an address is.

use core::fmt;

use dma_types::PciAddress;
use thiserror::Error as ThisError;

use crate::protocol::Error;

/// An address space: whose an I/O address is. See [the module](super) for when two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressSpace {
    /// The device. Of a domain that its driver made: the device that it was made from.
    pub device: PciAddress,
    /// Which session of that device.
    pub session: u64,
    /// The [number](crate::Domain::id) of a domain that the driver made; nothing for the device's own.
    pub domain: Option<u64>,
}

/// An I/O address was to be used with another device than the one that it is of, or in another domain. It turns into
/// [`Error::WrongOwner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[error("this I/O address is of {of} and means nothing to {given_to}: {}", self.hint())]
pub struct WrongDevice {
    /// Whose it is.
    pub of: AddressSpace,
    /// With what it was to be used.
    pub given_to: AddressSpace,
}

impl From<WrongDevice> for Error {
    fn from(_: WrongDevice) -> Self {
        Self::WrongOwner
    }
}

impl WrongDevice {
    /// What to do about it.
    fn hint(&self) -> &'static str {
        let Self { of, given_to } = self;
        if of.device != given_to.device {
            "attach the buffer to that device"
        } else if of.session != given_to.session {
            "what was mapped for a session ended with it"
        } else {
            "each domain has addresses of its own"
        }
    }
}

impl fmt::Display for AddressSpace {
    /// `0000:00:02.0 (session 3)`, `domain 7 of 0000:00:02.0 (session 3)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, session, domain } = self;
        if let Some(domain) = domain {
            write!(f, "domain {domain} of ")?;
        }
        write!(f, "{device} (session {session})")
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn it_says_whose_the_address_is_and_what_to_do() {
        let device = |text: &str| text.parse::<PciAddress>().unwrap();
        let disk = AddressSpace { device: device("0000:00:02.0"), session: 3, domain: None };
        let said = |of, given_to| WrongDevice { of, given_to }.to_string();
        assert_eq!(
            said(disk, AddressSpace { device: device("0000:01:00.0"), session: 1, ..disk }),
            "this I/O address is of 0000:00:02.0 (session 3) and means nothing to 0000:01:00.0 (session 1): \
             attach the buffer to that device"
        );
        assert_eq!(
            said(disk, AddressSpace { session: 4, ..disk }),
            "this I/O address is of 0000:00:02.0 (session 3) and means nothing to 0000:00:02.0 (session 4): \
             what was mapped for a session ended with it"
        );
        assert_eq!(
            said(AddressSpace { domain: Some(7), ..disk }, disk),
            "this I/O address is of domain 7 of 0000:00:02.0 (session 3) and means nothing to \
             0000:00:02.0 (session 3): each domain has addresses of its own"
        );
    }
}
