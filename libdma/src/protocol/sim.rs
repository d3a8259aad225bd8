//! The registers of a simulated device: what takes the place of a BAR where there is no hardware.
//!
//! An iommud that simulates its machine (and no other) has a node `sim/ssss--bb--dd.f` for each simulated
//! function. A driver opens it and calls [`Opcode::SimRead`](super::call::Opcode::SimRead) and
//! [`Opcode::SimWrite`](super::call::Opcode::SimWrite) with an [`Access`], where on a real machine it
//! would map the BAR and read configuration space.

use alloc::format;
use alloc::string::String;

use dma_types::PciAddress;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The folder of the simulated functions.
pub const FOLDER: &str = "sim";

/// The path of a simulated function: `sim/ssss--bb--dd.f`.
pub fn path(address: PciAddress) -> String {
    format!("{FOLDER}/{}", address.path_name())
}

/// One access to a register; the answer is the same with `value` filled in.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Access {
    /// [`CONFIG_SPACE`], or the number of a BAR, 0 to 5.
    pub space: U32,
    /// How many bytes: 4, or 8 for a BAR.
    pub width: U32,
    /// Bytes from the start of the space, a multiple of `width`.
    pub offset: U64,
    /// What was read, or is to be written.
    pub value: U64,
}

/// The number of the configuration space in [`Access::space`].
pub const CONFIG_SPACE: u32 = u32::MAX;
