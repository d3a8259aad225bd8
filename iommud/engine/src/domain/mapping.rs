//! What lies at an address, and whose it is.

use dma_types::Access;

use crate::payer::Payer;

/// What lies at an I/O address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// How long it is.
    pub bytes: u64,
    /// What a device may do.
    pub access: Access,
    /// Whose it is.
    pub owner: Owner,
    /// Where in its owner's buffer it starts.
    pub offset: u64,
    /// On whose account its addresses are.
    pub payer: Payer,
}

/// Whose a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The firmware's: a range that it reserves for a device, mapped where it is (rule R1).
    Firmware,
    /// Nobody's: memory at its own address, for a device that the policy does not confine.
    Identity,
    /// A client's buffer, by its number.
    Buffer(u64),
}

impl Owner {
    /// The number of the client's buffer, if it is one.
    pub const fn buffer(self) -> Option<u64> {
        match self {
            Self::Buffer(number) => Some(number),
            Self::Firmware | Self::Identity => None,
        }
    }
}
