//! A driver for QEMU's `edu` device, as an example of a driver on libdma.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`registers`] | what is where in the device's BAR |
//! | [`bar`] | [`Bar`]: ways to reach a BAR; [`MappedBar`] where there is one to map |
//! | [`simulated`] | [`SimulatedBar`]: the registers of a device that iommud simulates |
//! | [`pci`] | the little of PCI that a driver sets itself |
//! | [`edu`] | [`Edu`]: the device |
//! | [`error`] | [`Error`]: what the device can do wrong |
//! | `daemon` | the program: finding the device, and its jobs (feature `daemon`) |
//!
//! A driver needs three things: its device's registers, its device's session at iommud, and memory that
//! both sides see. This one sends a word through the device and takes it back:
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use edud::{Bar, Direction, Edu};
//! use libdma::{Access, Device};
//!
//! fn echo<B: Bar>(
//!     device: &Device,
//!     edu: &mut Edu<B>,
//!     word: u64,
//! ) -> Result<u64, Box<dyn std::error::Error>> {
//!     // What the device only reads it cannot write, and the other way round: the IOMMU sees to it.
//!     let there = device.coherent("there").access(Access::Read).value::<u64>()?;
//!     let back = device.coherent("back").access(Access::Write).value::<u64>()?;
//!     let deadline = Instant::now() + Duration::from_secs(5);
//!     let expired = || Instant::now() > deadline;
//!
//!     there.set(word);
//!     edu.transfer(Direction::ToDevice, there.iova(), 0, 8, expired)?;
//!     edu.transfer(Direction::FromDevice, back.iova(), 0, 8, expired)?;
//!     Ok(back.get())
//! } // Here the buffers end, and with them the device's access to their memory.
//! ```
#![cfg_attr(not(feature = "daemon"), no_std)]

extern crate alloc;

pub mod bar;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod edu;
pub mod error;
pub mod pci;
pub mod registers;
pub mod simulated;

pub use bar::{Bar, MappedBar};
pub use edu::{Direction, Edu};
pub use error::Error;
pub use simulated::SimulatedBar;
