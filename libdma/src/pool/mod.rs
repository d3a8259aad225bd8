//! Pools: blocks of one size, given out and taken back without a word to iommud.
//!
//! | module | what is in it | Linux |
//! | --- | --- | --- |
//! | `builder` | [`PoolBuilder`]: what a pool is to be | `dma_pool_create` |
//! | `alloc` | [`Pool`]: blocks of one size | `dma_pool_alloc`, `dma_pool_zalloc`, `dma_pool_destroy` |
//! | `block` | [`PoolBlock`]: one of them | `dma_pool_free` |
//! | `error` | [`NotTaken`]: why a block is not taken back | |
//! | `stats` | [`PoolStats`]: how much of a pool is used | `/sys/devices/…/pools` |
//! | `layout` | where the blocks lie in a chunk | |
//! | `slots` | which blocks there are, and which are free | |
//! | `poison` | a pattern in free blocks, which shows who writes to them | `POOL_POISON_FREED` |
//! | `supply` | what a pool and its blocks share | |
//!
//! A driver keeps a block while it works on it, and leaves it to the device by its address:
//!
//! ```
//! use libdma::pool::NotTaken;
//! use zerocopy::little_endian::{U32, U64};
//! use zerocopy::{FromBytes, Immutable, IntoBytes};
//!
//! #[derive(FromBytes, IntoBytes, Immutable)]
//! #[repr(C)]
//! struct Descriptor {
//!     buffer: U64,
//!     length: U32,
//!     flags: U32,
//! }
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! let pool = device.pool("descriptors").align(16).boundary(4096).of::<Descriptor>()?;
//!
//! let block = pool.alloc_zeroed()?;
//! block.set(Descriptor { buffer: U64::new(0x1000), length: U32::new(512), flags: U32::new(1) });
//! // All that the driver keeps is the address; its number, address.iova(), it writes into a register:
//! let address = block.into_address();
//! # machine.device_writes(address.plus(12).unwrap().iova(), &[3]).unwrap();
//!
//! // The device says that it has finished with the descriptor there:
//! let block = pool.take(address)?;
//! assert_eq!(block.get().flags, 3);
//! drop(block);
//! assert_eq!(pool.free(address), Err(NotTaken::Free));
//! assert_eq!((pool.stats().in_use, pool.stats().most_in_use), (0, 1));
//! # drop((pool, device));
//! # machine.check();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alloc;
mod block;
mod builder;
mod error;
mod layout;
mod poison;
mod slots;
mod stats;
mod supply;

pub use self::alloc::Pool;
pub use block::PoolBlock;
pub use builder::PoolBuilder;
pub use error::NotTaken;
pub use stats::PoolStats;
