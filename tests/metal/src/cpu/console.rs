//! The serial line, COM1, as QEMU leaves it: no set-up, no interrupts.

use core::fmt;

use x86_64::instructions::port::{Port, PortReadOnly};

/// The transmitter's data register.
const DATA: u16 = 0x3f8;
/// The line status register.
const LINE_STATUS: u16 = DATA + 5;
/// In the line status: there is room for a byte.
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// How often the status is read before a byte is sent all the same. A line that is stuck must not hang a
/// guest that has something to say.
const PATIENCE: u32 = 100_000;

/// The serial line. It has no state and no lock, so that an exception can print in the midst of a line.
#[derive(Clone, Copy, Debug)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut status = PortReadOnly::<u8>::new(LINE_STATUS);
        let mut data = Port::<u8>::new(DATA);
        for byte in text.bytes() {
            // SAFETY: the serial port's registers affect nothing but the serial line.
            unsafe {
                (0..PATIENCE).find(|_| status.read() & TRANSMITTER_EMPTY != 0);
                data.write(byte);
            }
        }
        Ok(())
    }
}

/// Prints a line.
pub fn print_line(text: fmt::Arguments<'_>) {
    // The console gives no errors.
    let _ = fmt::write(&mut Console, format_args!("{text}\n"));
}
