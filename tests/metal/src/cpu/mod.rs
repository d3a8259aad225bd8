//! The processor, its APIC, and the two devices that the guest speaks through.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`apic`] | interrupts that devices ask for, as they come |
//! | [`traps`] | exceptions, reported |
//! | [`console`] | the serial line |
//! | [`exit`] | the end of the machine |

pub mod apic;
pub mod console;
pub mod exit;
pub mod traps;
