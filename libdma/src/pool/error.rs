//! Why a block is not taken back.

use thiserror::Error as ThisError;

use crate::io_address::WrongDevice;

/// Why a block is not taken back by its address. The pool is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum NotTaken {
    /// No block of the pool starts there.
    #[error("no block of the pool starts at this address")]
    NoBlock,
    /// The block is free: it was given back already, or has not been given out.
    #[error("the block at this address is free: it was given back already")]
    Free,
    /// The block was not left to the device: a [`PoolBlock`](super::PoolBlock) stands for it.
    #[error("the block at this address was not left to the device: somebody holds it")]
    Held,
    /// The address is of another device than the pool, or of a domain.
    #[error(transparent)]
    WrongDevice(#[from] WrongDevice),
}
