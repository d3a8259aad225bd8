//! Numbers on a command line.

use std::num::ParseIntError;

/// A number in C's notation: hexadecimal behind 0x.
///
/// # Errors
///
/// If it is none, or longer than 64 bits.
pub fn number(text: &str) -> Result<u64, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}
