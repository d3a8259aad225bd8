//! Why a device cannot be driven by `virtio-drivers`.

use thiserror::Error as ThisError;

/// Why a device cannot be driven by `virtio-drivers`, or has no memory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The tag has no device.
    #[error("no device has been bound to this tag")]
    NotBound,
    /// The tag has a device already.
    #[error("a device is bound to this tag already")]
    AlreadyBound,
    /// Memory of this device is still in use, so that it must stay bound.
    #[error("the driver has not given back all memory of the device that is bound to this tag")]
    InUse,
    /// The device does not offer `VIRTIO_F_ACCESS_PLATFORM`: it takes I/O addresses for physical ones (Virtio 1.2,
    /// 6.1 and 6.4), and would reach memory that is not the driver's.
    #[error(
        "the device takes every address for a physical one: it does not offer VIRTIO_F_ACCESS_PLATFORM (for QEMU: \
         iommu_platform=on)"
    )]
    NotTranslated,
    /// The device did not become idle when it was told to.
    #[error("the device does not end its reset")]
    NoReset,
    /// iommud refused.
    #[error("iommud: {0}")]
    Iommud(#[from] crate::Error),
}
