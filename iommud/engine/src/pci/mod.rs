//! The PCI functions of the machine, read from their configuration space.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`mod@function`] | a function, what it says of itself, and finding them all |
//! | [`express`] | what a PCI Express function is: an endpoint, or a port of which kind |
//! | [`bar`] | base address registers: where a function's own registers are |
//! | [`acs`] | Access Control Services: what keeps functions from reaching each other unseen |
//! | `capability` | the lists of capabilities |
//! | [`msi`] | the message by which a function interrupts |
//! | [`reset`] | resetting a function, and nothing else of its device |
//! | `registers` | the registers that every function has |

pub mod acs;
pub mod bar;
mod capability;
pub mod express;
pub mod function;
pub mod msi;
mod registers;
pub mod reset;

pub use acs::{Acs, AcsServices};
pub use express::PortType;
pub use function::{
    BusRange, Function, clear_bus_master, function, is_bus_master, scan, set_bus_master,
};
