//! Why a job failed.

use std::io;
use std::time::Duration;

use dma_types::PciAddress;
use thiserror::Error as ThisError;
use virtio_drivers::transport::pci::VirtioPciError;

/// Why a job failed.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    /// The machine has no virtio disk, or this process is not told of it.
    #[error("there is no virtio disk here: name the device with --device")]
    NoDevice,
    /// The device of this address is another one.
    #[error("{0} is no virtio disk")]
    NotADisk(PciAddress),
    /// The handle or the channel that was passed to this process is not for the device to be driven.
    #[error("what was passed to this process is for {passed}, not for {wanted}")]
    OtherDevice {
        /// Which device was passed.
        passed: PciAddress,
        /// Which device was to be driven.
        wanted: PciAddress,
    },
    /// `IOMMU_DEVICE` is not the number of an open descriptor.
    #[error("IOMMU_DEVICE is not the number of an open descriptor")]
    NoPassedHandle,
    /// iommud did not give the device.
    #[error("cannot open {address} at iommud: {error}")]
    Open {
        /// Which device.
        address: PciAddress,
        /// Why not.
        error: libdma::Error,
    },
    /// iommud refused something.
    #[error("iommud: {0}")]
    Iommud(#[from] libdma::Error),
    /// The device cannot be driven over libdma.
    #[error("{0}")]
    Hal(#[from] libdma::virtio::Error),
    /// The function does not show the registers of a virtio device.
    #[error("the device has no virtio registers that can be used: {0}")]
    Registers(VirtioPciError),
    /// The disk did not do what it was asked.
    #[error("the disk failed: {0}")]
    Disk(#[from] virtio_drivers::Error),
    /// The disk did not answer.
    #[error("the disk has not answered for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// There are no such sectors.
    #[error("sectors {sector} to {} were asked for, and the disk has {capacity}", .sector.saturating_add(.count.saturating_sub(1)))]
    NoSuchSectors {
        /// The first.
        sector: u64,
        /// How many.
        count: u64,
        /// How many there are.
        capacity: u64,
    },
    /// No sectors were asked for.
    #[error("there is nothing to be done: no sectors")]
    NoSectors,
    /// What is to be written are no whole sectors.
    #[error("standard input has {0} bytes, which are no whole sectors of 512")]
    NotWhole(u64),
    /// The disk cannot be written to.
    #[error("the disk is read-only")]
    ReadOnly,
    /// pcid does not say what the function is.
    #[cfg(target_os = "redox")]
    #[error(transparent)]
    Pcid(#[from] pcid_channel::Error),
    /// The operating system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was tried when the operating system refused.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, error }
    }
}
