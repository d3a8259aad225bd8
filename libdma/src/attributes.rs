//! What is wanted of memory beside its size.

use bitflags::bitflags;
use dma_types::CacheType;

bitflags! {
    /// What is wanted of memory beside its size: Linux's `DMA_ATTR_*`, and what each does here on x86.
    ///
    /// None is an order: what cannot be had is done without, as on Linux.
    /// [`Buffer::cache_type`](crate::Buffer::cache_type) says how a buffer is cached in the end. Except for
    /// [`FORCE_CONTIGUOUS`](Self::FORCE_CONTIGUOUS), which is refused where there is no such memory, and
    /// [`NO_CPU_MAPPING`](Self::NO_CPU_MAPPING), which is always had.
    ///
    /// A device's view of memory is the same with all of them. x86 DMA looks into the CPUs' caches: VT-d's and AMD-Vi's
    /// page tables have bits for how they snoop (SNP, FC), and iommud asks for nothing else than that.
    ///
    /// ```
    /// use libdma::{Access, Attributes, CacheType, Error};
    ///
    /// # let machine = simulated::Machine::vtd();
    /// # let device = machine.open();
    /// let wanted = Attributes::WRITE_COMBINE | Attributes::FORCE_CONTIGUOUS | Attributes::WEAK_ORDERING;
    /// let frame = device.buffer("frame").access(Access::Read).attributes(wanted).allocate(1 << 16)?;
    /// // In one piece, for that is no wish; but a process on Redox or Linux does not get it write-combined.
    /// assert_eq!(frame.cache_type(), CacheType::WriteBack);
    ///
    /// // The builders of coherent memory and of streams take them, too.
    /// let ring = device.coherent("ring").attributes(Attributes::UNCACHED).slice::<u64>(512)?;
    /// let stream = device.stream::<libdma::ToDevice>("tx").attributes(Attributes::SKIP_CPU_SYNC)?;
    /// # drop((frame, ring, stream, device));
    /// # machine.check();
    /// # Ok::<(), Error>(())
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Attributes: u32 {
        /// `DMA_ATTR_WRITE_COMBINE`: the CPU's stores are gathered and written in bursts. Loads are slow, and between what
        /// was written and the device's being told of it there must be a [`fence`](core::sync::atomic::fence) of the order
        /// `SeqCst`: on x86 a weaker one is no instruction.
        ///
        /// On Redox and Linux memory stays write-back, which is correct and coherent: neither lets a process map shared
        /// memory otherwise (Redox: kernel 663e6641, `src/context/memory.rs`, `Grant::borrow`). It is had where driver and
        /// iommud share an address space and the page tables are their own, as in the tests' bare guest.
        const WRITE_COMBINE = 1 << 0;
        /// The CPU does not cache it: what Linux's `dma_alloc_coherent` gives where devices do not snoop, and
        /// `set_memory_uc` on x86. No device needs it on x86. It goes before `WRITE_COMBINE`, and is had where that is.
        const UNCACHED = 1 << 1;
        /// `DMA_ATTR_FORCE_CONTIGUOUS`: in one physical piece. Devices behind an IOMMU see every buffer in one piece as it
        /// is; this is for what goes round it. It comes out of the contiguous reserve where the policy sets one aside.
        const FORCE_CONTIGUOUS = 1 << 2;
        /// `DMA_ATTR_NO_KERNEL_MAPPING`: this process does not map it. What there is then is a handle, to be passed on or
        /// mapped for the device: an [`UnmappedBuffer`](crate::UnmappedBuffer).
        const NO_CPU_MAPPING = 1 << 3;
        /// `DMA_ATTR_NON_CONSISTENT` (in Linux until 5.10): the driver says when CPU and device see each other's
        /// changes. On x86 they always do, so that this allows what is given anyway.
        const NON_CONSISTENT = 1 << 4;
        /// `DMA_ATTR_SKIP_CPU_SYNC`: mapping and unmapping moves no data; the driver syncs what it needs. Only buffers that
        /// are bounced have data to be moved.
        const SKIP_CPU_SYNC = 1 << 5;
        /// `DMA_ATTR_WEAK_ORDERING`: the device's accesses may pass each other. It does nothing here: on x86 it is the device
        /// that asks for it, request by request (PCI Express, relaxed ordering), and no page table has a bit for it. Linux
        /// ignores it on x86, too.
        const WEAK_ORDERING = 1 << 6;
        /// `DMA_ATTR_WRITE_BARRIER` (in Linux until 2019): the device's writes to this memory push all its earlier writes
        /// before them. It does nothing here: PCI orders posted writes of one device that way (PCI Local Bus 3.0,
        /// appendix E), unless it asks for relaxed ordering itself. Linux had it for one machine alone, SGI's Altix.
        const WRITE_BARRIER = 1 << 7;
    }
}

impl Attributes {
    /// How CPUs are to cache memory with these attributes.
    pub const fn cache_type(self) -> CacheType {
        if self.contains(Self::UNCACHED) {
            CacheType::Uncached
        } else if self.contains(Self::WRITE_COMBINE) {
            CacheType::WriteCombining
        } else {
            CacheType::WriteBack
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uncached_goes_before_write_combining() {
        assert_eq!(Attributes::empty().cache_type(), CacheType::WriteBack);
        assert_eq!(Attributes::WRITE_COMBINE.cache_type(), CacheType::WriteCombining);
        assert_eq!(Attributes::UNCACHED.cache_type(), CacheType::Uncached);
        let both = Attributes::UNCACHED | Attributes::WRITE_COMBINE;
        assert_eq!(both.cache_type(), CacheType::Uncached);
        assert_eq!(Attributes::all().difference(both).cache_type(), CacheType::WriteBack);
    }
}
