//! What a device may do with memory, and what it tried to do.

use core::fmt;

/// What a device may do with a mapping. The point of view is always the device's.
///
/// The hardware enforces it (rule R6): a buffer that carries data *to* a device is mapped
/// [`Access::Read`], one that carries data *from* it [`Access::Write`]. A mapping that allows
/// nothing is no mapping, so there is no variant for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// The device may read: Linux's `DMA_TO_DEVICE`.
    Read = 1,
    /// The device may write: Linux's `DMA_FROM_DEVICE`.
    Write = 2,
    /// The device may do both: Linux's `DMA_BIDIRECTIONAL`.
    ReadWrite = 3,
}

impl Access {
    /// Bit 0 if the device may read, and bit 1 if it may write.
    #[inline]
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// Whether the device may read.
    #[inline]
    pub const fn may_read(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether the device may write.
    #[inline]
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// Whether everything that `self` allows, `other` allows too.
    #[inline]
    pub const fn is_within(self, other: Self) -> bool {
        self.bits() & !other.bits() == 0
    }

    /// The access with these two permissions, or `None` if it would allow nothing.
    #[inline]
    pub const fn from_permissions(read: bool, write: bool) -> Option<Self> {
        match (read, write) {
            (true, true) => Some(Self::ReadWrite),
            (true, false) => Some(Self::Read),
            (false, true) => Some(Self::Write),
            (false, false) => None,
        }
    }
}

impl fmt::Display for Access {
    /// `r-`, `-w` or `rw`, as in every table that iommuctl prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "r-",
            Self::Write => "-w",
            Self::ReadWrite => "rw",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{self, Read, ReadWrite, Write};

    #[test]
    fn permissions_and_access_agree_both_ways() {
        for access in [Read, Write, ReadWrite] {
            let bits = u8::from(access.may_read()) | u8::from(access.may_write()) << 1;
            assert_eq!(access.bits(), bits);
            let again = Access::from_permissions(access.may_read(), access.may_write());
            assert_eq!(again, Some(access));
        }
        assert_eq!(Access::from_permissions(false, false), None);
    }

    #[test]
    fn r3_a_subset_is_recognised() {
        assert!(Read.is_within(ReadWrite) && Write.is_within(ReadWrite));
        assert!(!ReadWrite.is_within(Read) && !Write.is_within(Read));
    }
}
