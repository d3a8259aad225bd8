//! Why a job failed.

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
    /// The device could not be had, or the system did not do something.
    #[error(transparent)]
    Platform(#[from] driver_platform::Error),
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
}
