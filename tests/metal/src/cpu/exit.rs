//! The end of the machine, with a word on how it went.

use x86_64::instructions::port::PortWriteOnly;
use x86_64::instructions::{hlt, interrupts};

/// Where QEMU's `isa-debug-exit` was put.
const PORT: u16 = 0xf4;

/// How it went. QEMU's exit status is twice this, and one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every case passed. Exit status 33.
    Passed = 0x10,
    /// A case failed, or there was none to run. Exit status 35.
    Failed = 0x11,
    /// A panic or an exception of the CPU. Exit status 37.
    Crashed = 0x12,
}

/// Ends the machine.
pub fn exit(how: Exit) -> ! {
    // SAFETY: the port ends the machine, which is what the caller wants.
    unsafe { PortWriteOnly::<u8>::new(PORT).write(how as u8) };
    // Only a machine without the device gets here.
    interrupts::disable();
    loop {
        hlt();
    }
}
