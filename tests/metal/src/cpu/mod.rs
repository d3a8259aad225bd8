//! The processor, and the two devices that the guest speaks through.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`traps`] | exceptions, reported |
//! | [`console`] | the serial line |
//! | [`exit`] | the end of the machine |

pub mod console;
pub mod exit;
pub mod traps;
