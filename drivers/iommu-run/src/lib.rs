//! The program `iommu-run`: it stands before a driver's command in pcid's configuration, and starts the driver with
//! the one device that it is for.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | [`Options`]: the command line |
//! | [`allowed`] | [`Allowed`]: which schemes a driver may open, and which names it may give its own |
//! | [`request`] | what a process asks of its namespace |
//! | [`error`] | [`Error`]: why the driver was not started |
//! | `redox` | all that is done, on Redox alone |
//!
//! # What it does
//!
//! 1. It asks pcid's channel, once, which function this is.
//! 2. It opens that device at iommud, and leaves the handle open for the driver as `IOMMU_DEVICE`.
//! 3. It starts a namespace for the driver (below), and leaves its own.
//! 4. It runs the driver in its own place: the process that pcid-spawner started and waits for is the driver.
//!
//! Of its descriptors the driver gets standard input, output and error, the device handle, its folder (below), pcid's
//! channel and the pipe of `INIT_NOTIFY`. All others are closed.
//!
//! # The driver's namespace
//!
//! A driver makes a scheme of its own (a disk, a network interface) that everybody shall see. A namespace made by
//! relibc's `mkns` cannot do that: what is registered there is seen there alone, and the right to make schemes at
//! all is withheld (base 9e128703, `bootstrap/src/initnsmgr.rs`). So a second process of this program stands between
//! the driver and the namespace that pcid-spawner has. It passes on what [`Allowed`] allows and refuses the rest; it
//! ends with the last process that uses it.
//!
//! # When iommud is restarted
//!
//! The driver's handle is dead then, and it sees no `iommu` at which to resume its session. But it has a folder, which is
//! its working folder and whose descriptor it finds as `IOMMU_RESUME`, so that it has it also in the null namespace. Below that
//! the second process opens `resume/` and the driver's own function at the iommud that there is now, and nothing else:
//! not a byte of what it asks for comes from the driver. What the driver gets so is a handle that is good for one thing, to
//! tell the session's secret. A driver that does not know it gets nothing, and guessing 16 random bytes is no way to it; one that
//! does gets what it had, once. iommud lets it have no more than a few such handles at a time.
#![cfg_attr(not(target_os = "redox"), forbid(unsafe_code))]

pub mod allowed;
pub mod error;
pub mod options;
#[cfg(target_os = "redox")]
pub mod redox;
pub mod request;

pub use allowed::Allowed;
pub use error::Error;
pub use options::Options;
