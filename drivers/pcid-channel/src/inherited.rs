//! The channel that this process was started with.

use std::env;
use std::io::{self, Read, Write};

use libredox::call;

use crate::CHANNEL_VARIABLE;

/// The channel that this process was started with. It stays open, whatever becomes of this, for the program that
/// this process is to run.
#[derive(Debug)]
pub struct Inherited(usize);

impl Inherited {
    /// The descriptor that [`CHANNEL_VARIABLE`] names; `None` if it names none.
    pub fn find() -> Option<Self> {
        let number: u16 = env::var(CHANNEL_VARIABLE).ok()?.parse().ok()?;
        Some(Self(number.into()))
    }

    /// The number of the descriptor.
    pub fn descriptor(&self) -> usize {
        self.0
    }
}

impl Read for Inherited {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(call::read(self.0, out)?)
    }
}

impl Write for Inherited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(call::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
