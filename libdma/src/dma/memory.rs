//! Memory, and where it comes from.

use core::ptr::NonNull;
use std::sync::OnceLock;

use dma_types::{Access, PAGE_SIZE};

use super::error::DmaError;
#[cfg(target_os = "redox")]
use super::plain::Plain;
use crate::buffer::Buffer;
use crate::device::Device;
use crate::handed::HandedError;
use crate::protocol::Error;

/// How far I/O addresses are aligned to the size of what lies there, at most. The kernel's contiguous memory is,
/// up to this largest piece of it, and hardware relies on it: an IDE controller's pieces must not cross 64 KiB.
const NATURAL: u64 = 4 << 20;

/// How many bits of an address every device has. Base's drivers have no word for a device's DMA mask, so that
/// addresses are taken from below 4 GiB as long as there are any.
const LOW_BITS: u32 = 32;

/// Where this process's memory comes from, or why there is none. It is found out once.
fn source() -> Result<&'static Source, DmaError> {
    static SOURCE: OnceLock<Result<Source, DmaError>> = OnceLock::new();
    let source = SOURCE.get_or_init(|| {
        let source = Source::find();
        if let Err(error) = &source {
            // The driver learns an errno from `Dma`, and many end on it without a word.
            eprintln!("libdma: {error}");
        }
        source
    });
    source.as_ref().map_err(Clone::clone)
}

/// Whether this process has DMA memory: for a driver that would rather say so at its start than in its first
/// allocation.
///
/// # Errors
///
/// [`DmaError::NoDevice`], [`DmaError::NoPlainMemory`].
pub fn check() -> Result<(), DmaError> {
    source().map(drop)
}

/// Where memory comes from.
#[derive(Debug)]
enum Source {
    /// From iommud, for one device.
    Device {
        /// With its DMA mask.
        low: Device,
        /// Without.
        any: Device,
    },
    /// From the kernel, for whichever device reads or writes there.
    #[cfg(target_os = "redox")]
    Plain,
}

impl Source {
    fn find() -> Result<Self, DmaError> {
        let any = match Device::handed() {
            #[cfg(target_os = "redox")]
            Err(HandedError::Unconfined) => return Ok(Self::Plain),
            #[cfg(target_os = "linux")]
            Err(HandedError::Unconfined) => return Err(DmaError::NoPlainMemory),
            handed => handed?,
        };
        let mut low = any.clone();
        low.set_dma_mask(LOW_BITS)?;
        Ok(Self::Device { low, any })
    }
}

/// Memory that this process and its device both see. It is given back when dropped.
#[derive(Debug)]
pub(super) enum Memory {
    /// The device that it was allocated for reaches it, and no other.
    Confined(Buffer),
    /// Whichever device knows its address reaches it.
    #[cfg(target_os = "redox")]
    Plain(Plain),
}

impl Memory {
    /// Zeroes, whole pages of them, starting at a page's start.
    #[track_caller]
    pub(super) fn allocate(bytes: usize) -> Result<Self, DmaError> {
        // What is wrong with the process comes before what is wrong with the request.
        let source = source()?;
        if bytes == 0 {
            return Err(DmaError::Empty);
        }
        match source {
            Source::Device { low, any } => {
                let pages = (bytes as u64).checked_next_multiple_of(PAGE_SIZE);
                let pages = pages.ok_or(DmaError::TooLarge(bytes))?;
                let align = pages.checked_next_power_of_two().unwrap_or(NATURAL).min(NATURAL);
                let wanted = |from: &'static Device| {
                    from.buffer("Dma").access(Access::ReadWrite).align(align)
                };
                // Not in the closure: the checker asks for this function's caller.
                let buffer = match wanted(low).allocate(pages) {
                    Err(Error::NoAddressSpace) => wanted(any).allocate(pages),
                    other => other,
                };
                match buffer {
                    Ok(buffer) => Ok(Self::Confined(buffer)),
                    Err(Error::TooLarge) => Err(DmaError::TooLarge(bytes)),
                    Err(error) => Err(error.into()),
                }
            }
            #[cfg(target_os = "redox")]
            Source::Plain => Plain::allocate(bytes).map(Self::Plain),
        }
    }

    /// Where this process sees it.
    pub(super) fn start(&self) -> NonNull<u8> {
        match self {
            Self::Confined(buffer) => buffer.as_ptr(),
            #[cfg(target_os = "redox")]
            Self::Plain(plain) => plain.start(),
        }
    }

    /// How many bytes are there.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Confined(buffer) => buffer.len(),
            #[cfg(target_os = "redox")]
            Self::Plain(plain) => plain.len(),
        }
    }

    /// Where the device sees it.
    pub(super) fn device_address(&self) -> Result<usize, DmaError> {
        match self {
            Self::Confined(buffer) => {
                let iova = buffer.iova().ok_or(Error::BadValue)?;
                usize::try_from(iova.get()).map_err(|_| Error::Overflow.into())
            }
            #[cfg(target_os = "redox")]
            Self::Plain(plain) => Ok(plain.physical()),
        }
    }
}
