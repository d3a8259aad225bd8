//! What lends the engine memory, registers and a clock, one for each kind of machine.
//!
//! | module | where | what it is |
//! | --- | --- | --- |
//! | [`redox`] | Redox | the product; what of it runs anywhere is compiled everywhere |
//! | [`linux`] | Linux | a QEMU guest |
//! | [`sim`] | Linux | a laptop: the machine is simulated |
//! | [`sealed`] | Linux | memory that clients supply |
//! | [`frame_book`] | all | which frames of an arena are given out |
//! | [`register_windows`] | all | register windows |
//! | [`pieces`] | all | of what a buffer is made |
//! | [`run_places`] | all | where a run is, as a daemon after this one is told |
//! | [`cache_lines`] | x86-64 | writing cache lines back, for units that do not snoop |

pub mod cache_lines;
pub mod frame_book;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod pieces;
pub mod redox;
pub mod register_windows;
pub mod run_places;
#[cfg(target_os = "linux")]
pub mod sealed;
#[cfg(target_os = "linux")]
pub mod sim;
