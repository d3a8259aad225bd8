//! Buffers of the driver's that the device sees, as copies.

use virtio_drivers::{BufferDirection, PhysAddr};

use crate::check::Place;
use crate::device::Device;
use crate::direction::{Bidirectional, FromDevice, ToDevice};
use crate::protocol::Error;
use crate::stream::{DeviceOwned, Stream, StreamBuffer};

/// Where the copies come from: windows of a device, one for each direction.
#[derive(Debug)]
pub(super) struct Streams {
    to_device: Stream<ToDevice>,
    from_device: Stream<FromDevice>,
    both: Stream<Bidirectional>,
}

impl Streams {
    /// Those of a device that was bound there, within its limits as they are now.
    pub(super) fn new(device: &Device, driver: Place) -> Self {
        Self {
            to_device: device.stream("virtio out").on_behalf_of(driver),
            from_device: device.stream("virtio in").on_behalf_of(driver),
            both: device.stream("virtio both").on_behalf_of(driver),
        }
    }
}

/// A copy that is the device's.
#[derive(Debug)]
pub(super) enum Shared {
    ToDevice(StreamBuffer<ToDevice, DeviceOwned>),
    FromDevice(StreamBuffer<FromDevice, DeviceOwned>),
    Both(StreamBuffer<Bidirectional, DeviceOwned>),
}

impl Shared {
    /// Copies what the device is to read. What it is to write starts as zeroes: what another buffer left in a window
    /// must not come back as if the device had written it.
    pub(super) fn new(
        streams: &Streams,
        buffer: &[u8],
        direction: BufferDirection,
    ) -> Result<Self, Error> {
        Ok(match direction {
            BufferDirection::DriverToDevice => {
                Self::ToDevice(streams.to_device.copy_of(buffer)?.map()?)
            }
            BufferDirection::DeviceToDriver => {
                Self::FromDevice(streams.from_device.buffer(buffer.len())?.map()?)
            }
            BufferDirection::Both => Self::Both(streams.both.copy_of(buffer)?.map()?),
        })
    }

    /// Where the device sees it.
    pub(super) fn address(&self) -> PhysAddr {
        match self {
            Self::ToDevice(copy) => copy.iova().get(),
            Self::FromDevice(copy) => copy.iova().get(),
            Self::Both(copy) => copy.iova().get(),
        }
    }

    /// How long it is.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::ToDevice(copy) => copy.len(),
            Self::FromDevice(copy) => copy.len(),
            Self::Both(copy) => copy.len(),
        }
    }

    /// Which way data goes.
    pub(super) fn direction(&self) -> BufferDirection {
        match self {
            Self::ToDevice(_) => BufferDirection::DriverToDevice,
            Self::FromDevice(_) => BufferDirection::DeviceToDriver,
            Self::Both(_) => BufferDirection::Both,
        }
    }

    /// Brings back what the device may have written, into a buffer as long as this, and ends it. That iommud cannot be
    /// told so keeps nobody from the data: what was the device's is not used again then.
    pub(super) fn end(self, buffer: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::ToDevice(_) => Ok(()),
            Self::FromDevice(copy) => copy.sync_for_cpu().read(0, buffer),
            Self::Both(copy) => copy.sync_for_cpu().read(0, buffer),
        }
    }
}
