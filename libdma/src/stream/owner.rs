//! Whose turn it is with a streaming buffer, as types.

mod sealed {
    pub trait Sealed {}
}

/// Whose turn it is with a streaming buffer.
pub trait Owner: sealed::Sealed + Send + Sync + 'static {}

/// Whoever it is, the CPU may read and write: [`CpuOwned`] and [`Synced`].
pub trait CpuMay: Owner {}

/// Whoever it is, the device has an address for it: [`DeviceOwned`] and [`Synced`].
pub trait HasAddress: Owner {}

/// The CPU's alone: the device has not been given it.
#[derive(Clone, Copy, Debug)]
pub enum CpuOwned {}

/// The device's: safe code can neither read nor write it, until it is synced or unmapped.
#[derive(Clone, Copy, Debug)]
pub enum DeviceOwned {}

/// Given to the device, which leaves it alone for the moment: the CPU's turn, until it is synced for the device again.
#[derive(Clone, Copy, Debug)]
pub enum Synced {}

impl sealed::Sealed for CpuOwned {}
impl sealed::Sealed for DeviceOwned {}
impl sealed::Sealed for Synced {}
impl Owner for CpuOwned {}
impl Owner for DeviceOwned {}
impl Owner for Synced {}
impl CpuMay for CpuOwned {}
impl CpuMay for Synced {}
impl HasAddress for DeviceOwned {}
impl HasAddress for Synced {}
