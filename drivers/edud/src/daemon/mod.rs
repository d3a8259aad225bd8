//! The program `edud`: finding the device, opening it at iommud, and the jobs it can do.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | [`Options`]: the command line |
//! | [`run`] | [`run()`](run::run): from the command line to the exit code |
//! | [`claim`] | [`Claim`]: the device found and opened at iommud |
//! | [`function`] | the device found among PCI functions, and switched on |
//! | [`driver`] | [`Driver`]: the claimed device with its registers, and a clock |
//! | [`copy`] | the main job: data to the device and back |
//! | [`asking`] | asking iommud over and over meanwhile |
//! | [`buffers`] | every kind of buffer: data to the device and back |
//! | [`registered`] | memory that edud has already, made a buffer |
//! | [`rogue`] | misbehaving on purpose |
//! | [`misuse`] | mistakes with DMA memory, which libdma's checker names |
//! | [`denied`] | what the device's own handle tells of blocked accesses |
//! | `witness` | seeing by the device's own buffer what a transfer has moved |
//! | [`hold`] | transfers without end |
//! | [`traffic`] | memory of every kind, by chance, without end |
//! | [`over_map`] | asking for more than one's own |
//! | [`pass`] | passing the device on to another process |
//! | [`error`] | [`Error`]: why a job failed |
//!
//! What differs between Linux and Redox is in the crate `driver-platform`.

pub mod asking;
pub mod buffers;
pub mod claim;
pub mod copy;
pub mod denied;
pub mod driver;
pub mod error;
pub mod function;
pub mod hold;
pub mod misuse;
pub mod options;
pub mod over_map;
pub mod pass;
pub mod registered;
pub mod rogue;
pub mod run;
pub mod traffic;
mod witness;

pub use claim::Claim;
pub use driver::Driver;
pub use error::Error;
pub use options::Options;
