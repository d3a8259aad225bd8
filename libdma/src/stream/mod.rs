//! Streaming memory: CPU and device take turns with it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `stream` | [`Stream`]: where streaming buffers of one direction come from |
//! | `owner` | whose turn it is, as types |
//! | `buffer` | [`StreamBuffer`]: memory of a stream's, or a [`Buffer`](crate::Buffer) that it took over |
//! | `range` | [`SyncedRange`]: the CPU's turn with a part |
//! | `bounced` | [`Bounced`]: a slice of which the device reaches a copy |
//! | `gather` | [`Gather`]: unmaps that are one request; [`NotUnmapped`] |
//! | `refused` | [`Refused`]: a step that failed, and what it was about; [`Step`] |
//! | `sizes` | how large mappings can be |
//! | `terms`, `memory`, `batch`, `requests` | what is beneath |
//!
//! | Linux | here |
//! | --- | --- |
//! | `dma_map_single`, `dma_map_page`, `dma_unmap_*` | [`StreamBuffer::map`], [`StreamBuffer::unmap`]; [`Stream::map_slice`], [`Stream::map_slice_mut`] |
//! | the same `_attrs` | [`Stream::attributes`] |
//! | `dma_map_sg`, `dma_map_sgtable`, `dma_unmap_sg` | [`ScatterList`](crate::ScatterList) |
//! | `dma_sync_single_for_cpu`, `_for_device` | [`StreamBuffer::sync_for_cpu`], [`StreamBuffer::sync_for_device`] |
//! | `dma_sync_single_range_for_cpu`, `_for_device` | [`StreamBuffer::sync_range_for_cpu`] |
//! | `dma_mapping_error` | `Result`, with why |
//! | `dma_alloc_noncoherent`, `dma_alloc_pages` | [`Stream::buffer`] |
//! | `dma_max_mapping_size`, `dma_opt_mapping_size` | [`Device::max_mapping_size`](crate::Device::max_mapping_size), [`Device::optimal_mapping_size`](crate::Device::optimal_mapping_size) |
//! | `dma_get_required_mask` | [`Device::required_mask_bits`](crate::Device::required_mask_bits) |
//! | swiotlb | [`Bounced`] for slices; [`Stream::adopt`] for memory that cannot be mapped as it is |
//! | `iommu.strict=1` | [`Stream::strict`] |
//!
//! # What is copied, and when
//!
//! Of memory in a window, and of memory that is mapped as it is, nothing. What the device reaches a copy of is a slice
//! ([`Stream::map_slice`], [`Stream::map_slice_mut`], and in a [`ScatterList`](crate::ScatterList)) and a buffer that was
//! [adopted](Stream::adopt) and cannot be mapped within the limits. Of that is copied what the direction needs, *in* to where
//! the device reaches it or *out* of there:
//!
//! | | [`ToDevice`](crate::ToDevice) | [`FromDevice`](crate::FromDevice) | [`Bidirectional`](crate::Bidirectional) |
//! | --- | --- | --- | --- |
//! | `map` | in | in | in |
//! | `sync_for_cpu` | | out | out |
//! | `sync_for_device` | in | in if the CPU wrote in its turn, as it can to a [`StreamBuffer`] | in |
//! | `sync_range_for_cpu` | | out: the range | out: the range |
//! | the end of a [`SyncedRange`] that was written to | in: the range | | in: the range |
//! | `unmap`, and dropping | | out, but in the CPU's turn | out, but in the CPU's turn |
//!
//! Mapping copies in what a device is only to write as well, for nobody knows how much of it the device will write: the rest
//! is to be afterwards as it was before, and not what somebody else left in the window. Linux's swiotlb does the same (6.1, `kernel/dma/swiotlb.c`: `swiotlb_tbl_map_single`). With
//! [`SKIP_CPU_SYNC`](crate::Attributes::SKIP_CPU_SYNC) `map`, `unmap` and dropping copy nothing.
//!
//! # An example
//!
//! ```
//! use libdma::{FromDevice, ToDevice};
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! // The device reads what we wrote.
//! let mut packet = device.stream::<ToDevice>("tx").buffer(60)?;
//! packet.write(0, b"hello")?;
//! let packet = packet.map()?;
//! assert_eq!(machine.device_reads(packet.iova(), 5), Ok(b"hello".to_vec()));
//!
//! // It writes what we read.
//! let block = device.stream::<FromDevice>("rx").buffer(512)?.map()?;
//! machine.device_writes(block.iova(), &[7; 512]).unwrap();
//! let mut first = [0; 4];
//! block.unmap()?.read(0, &mut first)?;
//! assert_eq!(first, [7; 4]);
//! # Ok::<(), libdma::Error>(())
//! ```

pub(crate) mod batch;
mod bounced;
mod buffer;
mod gather;
mod memory;
mod owner;
mod range;
mod refused;
mod requests;
mod sizes;
#[allow(clippy::module_inception, reason = "it is the module's main noun")]
mod stream;
mod terms;

pub use bounced::Bounced;
pub(crate) use bounced::Origin;
pub use buffer::StreamBuffer;
pub use gather::{Gather, NotUnmapped};
pub(crate) use memory::{Memory, Pages};
pub use owner::{CpuMay, CpuOwned, DeviceOwned, HasAddress, Owner, Synced};
pub use range::SyncedRange;
pub use refused::{Refused, Step};
pub use stream::Stream;
pub(crate) use terms::Terms;
