//! Whose memory the disk is given: the driver's, or (on purpose) somebody else's.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use libdma::virtio::{Binding, DeviceHal, Tag};
use virtio_drivers::device::blk::SECTOR_SIZE;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// The one disk that this process drives.
pub(crate) struct TheDisk;

impl Tag for TheDisk {
    fn binding() -> &'static Binding {
        static THE_DISK: Binding = Binding::new();
        &THE_DISK
    }
}

/// What virtio-drivers gets the disk's memory from.
pub(crate) type DiskHal = DeviceHal<TheDisk>;

/// The same for a driver that misbehaves: what the disk reads from its medium it is to put where this process says,
/// whether that was mapped for it or not. Requests and their results stay as they are, so that the disk tries.
pub(crate) struct Astray;

/// Where that is.
static ADDRESS: AtomicU64 = AtomicU64::new(0);

impl Astray {
    /// Says where that is.
    pub(crate) fn lead_to(address: PhysAddr) {
        ADDRESS.store(address, Ordering::Relaxed);
    }

    /// Whether a buffer is one for sectors, and not for the result of a request.
    fn is_data(buffer: NonNull<[u8]>, direction: BufferDirection) -> bool {
        direction == BufferDirection::DeviceToDriver && buffer.len() >= SECTOR_SIZE
    }
}

// SAFETY: memory is given by `DiskHal`, which keeps what the trait asks. Of a buffer that is led astray this process
// gives nothing away, and reads nothing back; what becomes of the memory at the address that the disk is given instead is
// exactly what the IOMMU is there for. (Without one this is as dangerous as it looks, and the user's wish.)
unsafe impl Hal for Astray {
    fn dma_alloc(pages: usize, direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        DiskHal::dma_alloc(pages, direction)
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller keeps the same rules.
        unsafe { DiskHal::dma_dealloc(paddr, vaddr, pages) }
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        // SAFETY: the caller keeps the same rules.
        unsafe { DiskHal::mmio_phys_to_virt(paddr, size) }
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        if Self::is_data(buffer, direction) {
            return ADDRESS.load(Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the same rules.
        unsafe { DiskHal::share(buffer, direction) }
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        if !Self::is_data(buffer, direction) {
            // SAFETY: the caller keeps the same rules.
            unsafe { DiskHal::unshare(paddr, buffer, direction) };
        }
    }
}
