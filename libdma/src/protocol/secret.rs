//! What proves whose a session is.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What proves after a restart of the daemon which objects are a client's: sixteen bytes that nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Secret(pub [u8; 16]);

impl Secret {
    /// What is told in place of one.
    pub const NONE: Self = Self([0; 16]);
}

impl core::fmt::Debug for Secret {
    /// Without the bytes: they are an authority, and logs are read by others.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(alloc::format!("{:?}", Secret([7; 16])), "Secret(..)");
    }
}
