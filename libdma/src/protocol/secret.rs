//! What proves whose a session is.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What proves after a restart of the daemon which objects are a client's: sixteen bytes that nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Secret(pub [u8; 16]);

impl Secret {
    /// What is told in place of one.
    pub const NONE: Self = Self([0; 16]);

    /// Whether it is this one, in a time that does not depend on how much of a guess is right. [`Secret::NONE`] is none, not
    /// even itself.
    pub fn is(&self, other: &Self) -> bool {
        let differs = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        let said = other.0.iter().fold(0, |all, byte| all | byte);
        differs == 0 && said != 0
    }
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
    fn a_secret_is_itself_and_no_other() {
        let secret = Secret(*b"0123456789abcdef");
        assert!(secret.is(&secret));
        for byte in 0..16 {
            let mut other = secret;
            other.0[byte] ^= 1;
            assert!(!other.is(&secret));
        }
        assert!(!Secret::NONE.is(&Secret::NONE));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(alloc::format!("{:?}", Secret([7; 16])), "Secret(..)");
    }
}
