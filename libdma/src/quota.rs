//! Which limit was reached.
//!
//! iommud answers [`Error::QuotaExceeded`] and [`Error::TooManyRequests`] for many limits: of memory, of mappings, of requests
//! that wait; a device's, a user's, a handle's own. [`Device::quota_reached`] tells which it was.
//!
//! ```
//! use libdma::{Access, Device, Error};
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! let (handle, _) = device.restricted("codec").mapped_bytes(64 << 20).hand_out()?;
//! let part = Device::from_handle(handle)?;
//! let frames = part.allocate(60 << 20, Some(Access::Read), "frames")?;
//! let refused = part.allocate(8 << 20, Some(Access::Read), "more");
//! assert_eq!(refused.err(), Some(Error::QuotaExceeded));
//! assert_eq!(
//!     part.quota_reached()?.unwrap().to_string(),
//!     "the handle's quota of mapped bytes (64 MiB) would be passed: 60 MiB held, 8 MiB more asked for"
//! );
//! # drop((frames, part));
//! # Ok::<(), Error>(())
//! ```

use core::fmt;

use crate::device::Device;
use crate::protocol::Error;
use crate::protocol::call::Opcode;
use crate::protocol::limit::Limit;
pub use crate::protocol::limit::{Level, Resource};

/// A limit that was reached. Written out it is a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaReached {
    /// Of what.
    pub resource: Resource,
    /// Whose.
    pub level: Level,
    /// How much may be held.
    pub limit: u64,
    /// How much was held.
    pub held: u64,
    /// How much more was asked for. Of page tables it is the least that was too much.
    pub wanted: u64,
}

impl QuotaReached {
    /// What was answered, if it says anything.
    fn from_wire(told: &Limit) -> Result<Option<Self>, Error> {
        if told.resource.get() == 0 {
            return Ok(None);
        }
        let resource = Resource::try_from(told.resource.get())?;
        let level = Level::try_from(told.level.get())?;
        let (limit, held, wanted) = (told.limit.get(), told.held.get(), told.wanted.get());
        Ok(Some(Self { resource, level, limit, held, wanted }))
    }
}

impl fmt::Display for QuotaReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.level {
            Level::Handle => "handle",
            Level::Device => "device",
            Level::User => "user",
        };
        let (what, in_bytes) = match self.resource {
            Resource::Buffers => ("buffers", false),
            Resource::BufferBytes => ("bytes in buffers", true),
            Resource::MappedBytes => ("mapped bytes", true),
            Resource::IovaBytes => ("bytes of I/O addresses", true),
            Resource::Mappings => ("mappings", false),
            Resource::PageTableBytes => ("bytes of page tables", true),
            Resource::Requests => ("requests that wait", false),
            Resource::Operations => ("unmaps that are not confirmed", false),
        };
        write!(f, "the {whose}'s quota of {what} (")?;
        amount(f, self.limit, in_bytes)?;
        f.write_str(") would be passed: ")?;
        amount(f, self.held, in_bytes)?;
        f.write_str(" held, ")?;
        amount(f, self.wanted, in_bytes)?;
        f.write_str(" more asked for")
    }
}

fn amount(f: &mut fmt::Formatter<'_>, amount: u64, in_bytes: bool) -> fmt::Result {
    if in_bytes { write!(f, "{}", Size(amount)) } else { write!(f, "{amount}") }
}

/// A number of bytes, written in the largest unit of which it is a whole number: `12 KiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let bytes = self.0;
        match UNITS.iter().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift)) {
            Some((unit, shift)) => write!(f, "{} {unit}", bytes >> shift),
            None => write!(f, "{bytes}"),
        }
    }
}

impl Device {
    /// The limit that something was last refused by on this device's handle, or on another that counts on the same account:
    /// after [`Error::QuotaExceeded`] or [`Error::TooManyRequests`]. It is told once.
    ///
    /// `None` if nothing was refused by a quota since this was last asked. Some limits are not quotas of the policy: how many
    /// handles and tickets there may be, how deep handles may be derived from each other, and how many domains an IOMMU can
    /// tell apart.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] without [`Rights::INSPECT`](crate::protocol::Rights::INSPECT), [`Error::Revoked`],
    /// [`Error::DeviceReset`], [`Error::DaemonGone`].
    pub fn quota_reached(&self) -> Result<Option<QuotaReached>, Error> {
        QuotaReached::from_wire(&self.handle().call(Opcode::Limit, &[0u8; 0])?)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use zerocopy::FromZeros;
    use zerocopy::little_endian::{U32, U64};

    use super::*;

    #[test]
    fn a_limit_is_told_as_a_sentence_with_exact_amounts() {
        let mut reached = QuotaReached {
            resource: Resource::MappedBytes,
            level: Level::Device,
            limit: 64 << 20,
            held: (64 << 20) - 4096,
            wanted: 1 << 20,
        };
        let sentence = "the device's quota of mapped bytes (64 MiB) would be passed: 65532 KiB held, \
                        1 MiB more asked for";
        assert_eq!(reached.to_string(), sentence);
        reached = QuotaReached { resource: Resource::Buffers, level: Level::User, ..reached };
        (reached.limit, reached.held, reached.wanted) = (4096, 4096, 1);
        let sentence =
            "the user's quota of buffers (4096) would be passed: 4096 held, 1 more asked for";
        assert_eq!(reached.to_string(), sentence);
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (4096, "4 KiB"),
            (4097, "4097"),
            (3 << 20, "3 MiB"),
            ((3 << 20) + 4096, "3076 KiB"),
            (4 << 30, "4 GiB"),
            (5 << 40, "5 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn r5_what_is_no_limit_is_an_error_and_nothing_is_none() {
        let told = |resource, level| {
            let (resource, level) = (U32::new(resource), U32::new(level));
            let told = Limit { resource, level, limit: U64::new(3), ..Limit::new_zeroed() };
            QuotaReached::from_wire(&told)
        };
        assert_eq!(told(0, 0), Ok(None));
        assert!(matches!(told(8, 3), Ok(Some(reached)) if reached.limit == 3));
        assert_eq!(told(9, 1), Err(Error::BadValue));
        assert_eq!(told(1, 0), Err(Error::BadValue));
        assert_eq!(told(1, 4), Err(Error::BadValue));
    }
}
