//! Which way data goes, as types.

use dma_types::Access;

mod sealed {
    pub trait Sealed {}
}

/// Which way the data of a streaming buffer goes: Linux's `enum dma_data_direction`.
pub trait Direction: sealed::Sealed + Send + Sync + 'static {
    /// What the device may do with the memory; the hardware enforces it (rule R6).
    const ACCESS: Access;
}

/// The device reads: [`ToDevice`] and [`Bidirectional`].
pub trait DeviceReads: Direction {}

/// The device writes: [`FromDevice`] and [`Bidirectional`].
pub trait DeviceWrites: Direction {}

/// The device reads what the CPU wrote: Linux's `DMA_TO_DEVICE`.
#[derive(Clone, Copy, Debug)]
pub enum ToDevice {}

/// The device writes what the CPU will read: Linux's `DMA_FROM_DEVICE`.
#[derive(Clone, Copy, Debug)]
pub enum FromDevice {}

/// Both: Linux's `DMA_BIDIRECTIONAL`.
#[derive(Clone, Copy, Debug)]
pub enum Bidirectional {}

impl sealed::Sealed for ToDevice {}
impl sealed::Sealed for FromDevice {}
impl sealed::Sealed for Bidirectional {}

impl DeviceReads for ToDevice {}
impl DeviceReads for Bidirectional {}
impl DeviceWrites for FromDevice {}
impl DeviceWrites for Bidirectional {}

impl Direction for ToDevice {
    const ACCESS: Access = Access::Read;
}

impl Direction for FromDevice {
    const ACCESS: Access = Access::Write;
}

impl Direction for Bidirectional {
    const ACCESS: Access = Access::ReadWrite;
}
