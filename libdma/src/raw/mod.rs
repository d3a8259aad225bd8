//! Streaming memory by its I/O addresses, for drivers that keep nothing else.
//!
//! A driver in the shape of one in C keeps an address beside a descriptor and a length with it, and has no place for a
//! guard. [`RawStream`] holds the memory for it, and finds it by the address. What the types of [`stream`](crate::stream)
//! make impossible is found at run time here: each call checks what it is told, and refuses with a [`RawError`] what is
//! not so. With the [checker](crate::check) on, each such mistake is told with both places in the code, and so is what is
//! mapped still when the stream is dropped.
//!
//! | Linux | here |
//! | --- | --- |
//! | `dma_map_single` | [`RawStream::map_single`] of bytes, [`RawStream::map_zeroes`] of memory to be written |
//! | `dma_unmap_single` | [`RawStream::unmap_single`] |
//! | `dma_sync_single_for_cpu`, `_range_for_cpu` | [`RawStream::sync_single_for_cpu`] |
//! | `dma_sync_single_for_device`, `_range_for_device` | [`RawStream::sync_single_for_device`] |
//! | a load or store of the CPU's | [`RawStream::cpu_read`], [`RawStream::cpu_write`] |
//!
//! Drivers that are new are better off with [`Stream`](crate::Stream): looking an address up costs time, and memory is
//! copied in always.
//!
//! ```
//! use libdma::{Access, RawError};
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! let mut stream = device.raw_stream("rx");
//! let address = stream.map_zeroes(2048, Access::Write)?;
//! machine.device_writes(address.iova(), b"packet").unwrap();
//!
//! let mut packet = [0; 6];
//! assert_eq!(stream.cpu_read(address, &mut packet), Err(RawError::OfDevice));
//! stream.sync_single_for_cpu(address, 6, Access::Write)?;
//! stream.cpu_read(address, &mut packet)?;
//! assert_eq!(&packet, b"packet");
//!
//! let wrong = stream.unmap_single(address, 6, Access::Write);
//! assert_eq!(wrong, Err(RawError::WrongSize { mapped: 2048 }));
//! stream.unmap_single(address, 2048, Access::Write)?;
//! # Ok::<(), RawError>(())
//! ```

mod error;
mod stream;

pub use error::RawError;
pub use stream::RawStream;
