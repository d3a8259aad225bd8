//! Per-device memory: coherent memory that a driver sets aside, or that its device brings along.
//!
//! | Linux | here |
//! | --- | --- |
//! | `dma_declare_coherent_memory` | [`Device::declare_memory`] |
//! | `DMA_MEMORY_EXCLUSIVE` | [`Mode::Exclusive`] |
//! | `dma_mark_declared_memory_occupied` | [`Device::mark_declared_occupied`] |
//! | `dma_release_declared_memory` | [`Device::release_declared_memory`] |
//!
//! From then on the device's coherent memory and its pools are taken from there first, or from nowhere else:
//!
//! ```
//! use libdma::declared::{DeviceMemory, Mode};
//! use libdma::{Access, Error};
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! let buffer = device.allocate(8192, Some(Access::ReadWrite), "its own")?;
//! let start = buffer.iova().unwrap();
//! device.declare_memory(DeviceMemory::from(buffer), Mode::Exclusive)?;
//! // The device's firmware lives in the first page.
//! device.mark_declared_occupied(0, 4096)?;
//!
//! let ring = device.coherent("ring").bytes(4096)?;
//! assert_eq!(ring.iova().get(), start.get() + 4096);
//! let refused = device.coherent("more").bytes(64);
//! assert_eq!(refused.err(), Some(Error::OutOfMemory));
//!
//! drop(ring);
//! device.release_declared_memory()?;
//! # machine.check();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | `error` | [`DeclareError`]: why memory is not declared or released |
//! | `memory` | [`DeviceMemory`]: what can be declared |
//! | `span` | what is taken of it |

mod error;
mod memory;
mod span;

use dma_types::PAGE_SIZE;

pub use error::{DeclareError, NotDeclared};
pub use memory::DeviceMemory;
pub use span::DeclaredUsage;
pub(crate) use span::{Span, Taken};

use crate::device::Device;

/// Where a device's coherent memory comes from once it has memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// From there as long as there is any, and from windows then.
    First,
    /// From there alone: when it is full there is no more, [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    Exclusive,
}

impl Device {
    /// Has coherent memory taken from there, for this value and all its clones: Linux's `dma_declare_coherent_memory`.
    ///
    /// Memory whose access is another than the buffer's is not taken from there (rule R6), nor is what is asked for
    /// [`alone`](crate::coherent::Builder::alone) or contiguous: in exclusive mode there is none.
    ///
    /// # Errors
    ///
    /// [`NotDeclared`], which has the memory: [`DeclareError::AlreadyDeclared`], [`DeclareError::NotMapped`] for a
    /// buffer that the device does not see, [`DeclareError::WrongDevice`] for another device's,
    /// [`DeclareError::BadAlignment`].
    #[track_caller]
    pub fn declare_memory(&self, memory: DeviceMemory, mode: Mode) -> Result<(), NotDeclared> {
        match Span::check(&memory, self.session()) {
            Ok(geometry) => {
                let span = Span::new(memory, geometry, mode, self.session());
                self.windows().declare(span)
            }
            Err(error) => Err(NotDeclared { error, memory }),
        }
    }

    /// Takes a range out of the declared memory, for what lies there already: Linux's
    /// `dma_mark_declared_memory_occupied`. It stays so until the memory is released.
    ///
    /// # Errors
    ///
    /// [`DeclareError::Occupied`] if any of it is in use or occupied, [`DeclareError::OutOfRange`],
    /// [`DeclareError::NothingDeclared`]; nothing has changed then (rule R7).
    pub fn mark_declared_occupied(&self, offset: usize, bytes: usize) -> Result<(), DeclareError> {
        self.windows().with_declared(|span| span.occupy(offset, bytes))
    }

    /// Gives the declared memory back: Linux's `dma_release_declared_memory`.
    ///
    /// # Errors
    ///
    /// [`DeclareError::InUse`] as long as any of it is, [`DeclareError::NothingDeclared`].
    pub fn release_declared_memory(&self) -> Result<DeviceMemory, DeclareError> {
        self.windows().release_declared()
    }

    /// How much is taken of the declared memory, if there is any.
    pub fn declared_usage(&self) -> Option<DeclaredUsage> {
        self.windows().with_declared(|span| Ok(span.usage())).ok()
    }
}

/// What both addresses of a piece of memory are the same modulo, so that what is aligned for the device is for the CPU.
const PAGE: usize = PAGE_SIZE as usize;
