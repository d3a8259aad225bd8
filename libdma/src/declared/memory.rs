//! What can be declared.

use core::ptr::NonNull;

use dma_types::{Access, Iova};

use crate::buffer::Buffer;

/// Memory to be a device's own: a buffer, or memory that the device brings along.
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::declared::DeviceMemory>();
/// ```
#[derive(Debug)]
pub struct DeviceMemory(Kind);

#[derive(Debug)]
enum Kind {
    Buffer(Buffer),
    Local { start: NonNull<u8>, bytes: usize, address: Iova },
}

// SAFETY: a buffer can be sent, and whoever made the other kind promised that it can be used by any thread.
unsafe impl Send for DeviceMemory {}

impl From<Buffer> for DeviceMemory {
    /// A buffer that was allocated for the device, mapped: in one physical piece, say, or at an address of the driver's
    /// choice.
    fn from(buffer: Buffer) -> Self {
        Self(Kind::Buffer(buffer))
    }
}

impl DeviceMemory {
    /// Memory in the device itself, as behind a BAR, which this process has mapped. `address` is where the device knows
    /// it: its own number, which no IOMMU translates.
    ///
    /// It is tested on the simulator alone. QEMU's `edu` cannot show it: its buffer is at 0x40000 for its own DMA engine,
    /// and its BAR answers there as if there were nothing (QEMU 7.2, `hw/misc/edu.c`, `edu_mmio_read`), so that no CPU
    /// reaches it. What could is the controller memory buffer of `nvme`, by a driver for that.
    ///
    /// # Safety
    ///
    /// From `start` on, `bytes` bytes are valid for reads and writes of 1, 2, 4 and 8 bytes by any thread, by volatile
    /// and atomic access, and part of no Rust object. They stay so, and nobody else in this process uses them, until the
    /// memory has been [released](crate::Device::release_declared_memory) or every clone of the device and all that was
    /// taken from it are gone.
    pub const unsafe fn local(start: NonNull<u8>, bytes: usize, address: Iova) -> Self {
        Self(Kind::Local { start, bytes, address })
    }

    /// The buffer, if it is one.
    pub fn into_buffer(self) -> Option<Buffer> {
        match self.0 {
            Kind::Buffer(buffer) => Some(buffer),
            Kind::Local { .. } => None,
        }
    }

    pub(super) fn buffer(&self) -> Option<&Buffer> {
        match &self.0 {
            Kind::Buffer(buffer) => Some(buffer),
            Kind::Local { .. } => None,
        }
    }

    /// Where the CPU sees it.
    pub(super) fn start(&self) -> NonNull<u8> {
        match &self.0 {
            Kind::Buffer(buffer) => buffer.as_ptr(),
            Kind::Local { start, .. } => *start,
        }
    }

    /// How long it is.
    pub(super) fn len(&self) -> usize {
        match &self.0 {
            Kind::Buffer(buffer) => buffer.len(),
            Kind::Local { bytes, .. } => *bytes,
        }
    }

    /// Where the device sees it, if it does.
    pub(super) fn address(&self) -> Option<Iova> {
        match &self.0 {
            Kind::Buffer(buffer) => buffer.iova(),
            Kind::Local { address, .. } => Some(*address),
        }
    }

    /// Whether it can serve who asks for memory of this access. Nothing stands between a device and its own memory.
    pub(super) fn serves(&self, access: Access) -> bool {
        match &self.0 {
            Kind::Buffer(buffer) => buffer.access() == Some(access),
            Kind::Local { .. } => true,
        }
    }
}
