//! How a CPU caches memory.

use core::fmt;

/// How CPUs cache a buffer's memory. It is a matter of their page tables alone (Intel SDM volume 3, 12.3; AMD APM
/// volume 2, 7.4): a device's view of a buffer does not change with it. x86 DMA looks into the CPUs' caches, and no
/// unit is told not to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheType {
    /// As all other memory, coherent with devices.
    #[default]
    WriteBack,
    /// Not cached. Stores are gathered and written in bursts, in no order until a fence; loads are slow. For memory that
    /// the CPU fills from one end to the other and only the device reads.
    WriteCombining,
    /// Not cached. Every load and store goes to memory by itself, in its order, and is slow.
    Uncached,
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WriteBack => "write-back",
            Self::WriteCombining => "write-combining",
            Self::Uncached => "uncached",
        })
    }
}
