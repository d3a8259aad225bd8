//! A place in the driver's code.

use core::fmt;
use core::panic::Location;

/// A place in the driver's code, where it made something or gave it back.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place(&'static Location<'static>);

impl Place {
    /// Where the caller is: of a function that is marked `#[track_caller]`, where that was called, and so on outwards.
    #[track_caller]
    #[inline]
    pub fn here() -> Self {
        Self(Location::caller())
    }

    /// Its file, as the compiler was given it.
    pub fn file(&self) -> &'static str {
        self.0.file()
    }

    /// Its line, counted from 1.
    pub fn line(&self) -> u32 {
        self.0.line()
    }
}

impl fmt::Display for Place {
    /// `src/ring.rs:17`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file(), self.line())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
