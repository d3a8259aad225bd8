//! How long ago something was.

use core::fmt;
use core::time::Duration;

/// How long ago something was, as far as anybody wants to know: `0.3 s`, `99.9 s`, `5 min`, `30 h`, `7 d`.
#[derive(Clone, Copy, Debug)]
pub struct Ago(pub Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.as_millis() / 100;
        let seconds = self.0.as_secs();
        match seconds {
            0..100 => write!(f, "{}.{} s", tenths / 10, tenths % 10),
            100..6000 => write!(f, "{} min", seconds / 60),
            6000..360_000 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} d", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_unit_is_the_one_that_suits() {
        for (millis, expected) in [
            (0, "0.0 s"),
            (99_999, "99.9 s"),
            (100_000, "1 min"),
            (5_999_000, "99 min"),
            (6_000_000, "1 h"),
            (359_999_000, "99 h"),
            (360_000_000, "4 d"),
        ] {
            assert_eq!(Ago(Duration::from_millis(millis)).to_string(), expected);
        }
    }
}
