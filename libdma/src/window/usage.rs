//! How much is in windows.

use dma_types::{Access, CacheType};

/// How much is in a device's windows of one kind; [`Device::window_usage`](crate::Device::window_usage) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowUsage {
    /// What the device may do with them.
    pub access: Access,
    /// How the CPU was to cache them.
    pub cache: CacheType,
    /// How many windows there are.
    pub windows: usize,
    /// How many of them nothing is taken from.
    pub idle: usize,
    /// How many bytes they are.
    pub bytes: usize,
    /// How many of those bytes are taken, with what each block is rounded up to.
    pub used: usize,
    /// How many blocks they are taken in.
    pub blocks: usize,
}

impl WindowUsage {
    /// None of this kind.
    pub(super) const fn none(access: Access, cache: CacheType) -> Self {
        Self { access, cache, windows: 0, idle: 0, bytes: 0, used: 0, blocks: 0 }
    }
}
