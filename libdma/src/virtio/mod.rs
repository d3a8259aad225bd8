//! `virtio-drivers` over a confined device (feature `virtio`).
//!
//! The crate [`virtio_drivers`] drives virtio devices for whoever gives it memory that the device can reach, by its
//! trait [`Hal`](virtio_drivers::Hal). [`DeviceHal`] is that trait over a [`Device`](crate::Device): what the crate
//! calls a physical address is an I/O address of that device, and whatever a driver of the crate's does wrong, its
//! device reaches what was given to it and nothing else.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `hal` | [`DeviceHal`]: the crate's `Hal`, and [`Tag`], which says of which device |
//! | `binding` | [`Binding`]: where the device of a tag is kept, with all that it was given |
//! | `registers` | where the device's registers are in this process |
//! | `shared` | what is shared with the device, as copies in its windows |
//! | `transport` | [`Translated`]: a transport whose device uses the IOMMU |
//! | `error` | [`Error`]: why not |
//!
//! # How memory is given
//!
//! | `Hal` | here | Linux |
//! | --- | --- | --- |
//! | `dma_alloc`, `dma_dealloc` | zeroed pages, mapped as the direction says. What the crate asks for as written by the device (the used ring) the device may read too, for devices do (QEMU 7.2, `hw/virtio/virtio.c`: `vring_used_flags_set_bit`) | `dma_alloc_coherent`, `dma_free_coherent` |
//! | `share`, `unshare` | a block of a mapped window, into which and from which is copied what the direction needs: only the bytes of the buffer itself come into the device's reach, nothing that lies beside them. What the device did not write reads as zeroes | `dma_map_single`, `dma_unmap_single`, bounced (swiotlb) |
//! | `mmio_phys_to_virt` | looked up among the [registers](DeviceHal::add_registers) that the driver mapped | `ioremap` |
//!
//! # How a driver uses it
//!
//! `Hal` has functions without a `self`, so the device is kept in a static of the driver's: a [`Tag`] says which. A
//! process that drives two devices has two.
//!
//! ```
//! use libdma::Device;
//! use libdma::virtio::{Binding, DeviceHal, Tag};
//! use virtio_drivers::device::blk::VirtIOBlk;
//! use virtio_drivers::transport::Transport;
//!
//! /// The disk that this process drives.
//! struct Disk;
//!
//! impl Tag for Disk {
//!     fn binding() -> &'static Binding {
//!         static DISK: Binding = Binding::new();
//!         &DISK
//!     }
//! }
//!
//! type DiskHal = DeviceHal<Disk>;
//!
//! fn first_sector<T: Transport>(
//!     transport: T, // for PCI: PciTransport::new::<DiskHal, _>(..)
//! ) -> Result<[u8; 512], Box<dyn std::error::Error>> {
//!     // Resets the disk, and sees to it that it goes through the IOMMU.
//!     let transport = DiskHal::translate(transport)?;
//!     let mut disk = VirtIOBlk::<DiskHal, _>::new(transport)?;
//!     let mut sector = [0; 512];
//!     disk.read_blocks(0, &mut sector)?;
//!     Ok(sector)
//! }
//!
//! # let machine = simulated::Machine::vtd();
//! # let device: Device = machine.open();
//! // Before anything else of virtio's: from now on DiskHal's memory is this device's.
//! DiskHal::bind(&device)?;
//! # use virtio_drivers::{BufferDirection, Hal};
//! # let (address, memory) = DiskHal::dma_alloc(1, BufferDirection::DriverToDevice);
//! # assert_eq!(machine.device_reads(libdma::Iova::new(address), 16), Ok(vec![0; 16]));
//! # assert_eq!(DiskHal::unbind(), Err(libdma::virtio::Error::InUse));
//! # assert_eq!(unsafe { DiskHal::dma_dealloc(address, memory, 1) }, 0);
//! # DiskHal::unbind()?;
//! # Ok::<(), libdma::virtio::Error>(())
//! ```
//!
//! An existing driver changes its `Hal` for `DeviceHal<Disk>`, says with [`add_registers`](DeviceHal::add_registers)
//! where it mapped its BARs, puts its transport through [`translate`](DeviceHal::translate), and lets its function be a
//! bus master only after that: what rings a driver before it left in the device is forgotten then. `drivers/virtio-blkd` is a whole one.
//!
//! # One device's address given to another
//!
//! The crate's addresses are numbers, and those of two devices are the same. What keeps them apart is the type: the crate
//! gives back by the type by which it was given, so that a driver of the one device never asks the other's `Hal`. Who calls
//! the functions by hand, which are unsafe, is checked all the same: memory is taken back only at the number *and* the place
//! in this process that it was given out with, and a buffer only if it is the one that was shared. What is left is one
//! buffer that is shared with two devices at once, whose numbers happen to be the same: there is nothing then by which to
//! tell whose is given back, and each gives its own back once.
//!
//! # What the trait does not let it say
//!
//! `dma_alloc` can fail, and the crate says `Error::DmaError`; [`DeviceHal::take_error`] says why.
//! `share` cannot fail: when there is no memory for it (a quota, no room below the DMA mask), or for a driver's
//! mistake (a tag without a device, a range that was not shared so), it panics and says so. An address of which the
//! device can make nothing would be worse: the driver would wait for ever, and without an IOMMU there is none.

mod binding;
mod error;
mod hal;
mod registers;
mod shared;
mod transport;

pub use binding::Binding;
pub use error::Error;
pub use hal::{DeviceHal, Tag};
pub use transport::Translated;
