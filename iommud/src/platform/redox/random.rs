//! Entropy, from the rand scheme.

use std::fs::File;
use std::io::{self, Read};

/// The rand scheme, opened: it goes on giving after the daemon left its namespace.
pub struct Random {
    source: File,
}

impl Random {
    /// Opens the scheme.
    pub fn open() -> io::Result<Self> {
        Ok(Self { source: File::open("/scheme/rand")? })
    }

    /// 128 bits that nobody can guess.
    ///
    /// Ends the process when there are none: a secret that could be guessed would give one client another's
    /// memory, and randd does not die unless somebody with uid 0 wants it to.
    pub fn bits(&mut self) -> [u8; 16] {
        let mut bits = [0; 16];
        if let Err(error) = self.source.read_exact(&mut bits) {
            eprintln!("iommud: no more entropy from /scheme/rand: {error}");
            std::process::abort();
        }
        bits
    }
}
