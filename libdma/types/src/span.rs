//! Spans of time, as people are shown them.

use core::fmt;
use core::time::Duration;

/// A span of time in the unit that suits: it prints as `15 µs`, `1500 ms`, `10 s` or `2 h`.
///
/// It is the largest unit in which nothing is lost, or of which there are a hundred. What is less than a microsecond is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The units, with what each is in microseconds.
const UNITS: [(&str, u128); 5] =
    [("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("µs", 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let suits = |(_, unit): &&(_, u128)| {
            micros >= 100 * unit || micros > 0 && micros.is_multiple_of(*unit)
        };
        let (name, unit) = UNITS.iter().find(suits).copied().unwrap_or(("µs", 1));
        write!(f, "{} {name}", micros / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn the_unit_is_the_largest_that_loses_little() {
        for (micros, expected) in [
            (0, "0 µs"),
            (15, "15 µs"),
            (99_999, "99999 µs"),
            (100_000, "100 ms"),
            (100_001, "100 ms"),
            (1_000_000, "1 s"),
            (1_500_000, "1500 ms"),
            (90_000_000, "90 s"),
            (120_000_000, "2 min"),
            (250_000_000, "250 s"),
            (3_600_000_000, "1 h"),
            (7_300_000_000, "121 min"),
        ] {
            assert_eq!(Span(Duration::from_micros(micros)).to_string(), expected);
        }
        assert_eq!(Span(Duration::from_nanos(999)).to_string(), "0 µs");
    }
}
