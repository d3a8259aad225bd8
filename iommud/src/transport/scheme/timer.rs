//! The time at which to look at the hardware again.
//!
//! An event queue on Redox waits for ever; what ends the wait is a descriptor of a clock. A point in time that
//! is written to it makes it readable then, and nothing takes that back, so each timer is set anew only after
//! it went off.

use std::time::Duration;

/// A point in time as the time scheme wants it: seconds and nanoseconds of its clock, in 64 and 32 bits, and
/// four bytes of nothing behind them.
pub fn deadline(seconds: i64, nanoseconds: i64, wait: Duration) -> [u8; 16] {
    let nanoseconds = nanoseconds.clamp(0, NANOS_PER_SECOND - 1) + i64::from(wait.subsec_nanos());
    let wait_seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
    let carry = nanoseconds / NANOS_PER_SECOND;
    let seconds = seconds.saturating_add(wait_seconds).saturating_add(carry);
    let nanoseconds = (nanoseconds % NANOS_PER_SECOND) as i32;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seconds.to_ne_bytes());
    bytes[8..12].copy_from_slice(&nanoseconds.to_ne_bytes());
    bytes
}

const NANOS_PER_SECOND: i64 = 1_000_000_000;

#[cfg(target_os = "redox")]
pub use redox::Timer;

#[cfg(target_os = "redox")]
mod redox {
    use std::time::Duration;

    use libredox::Fd;
    use libredox::call::clock_gettime;
    use libredox::error::Result;
    use libredox::flag::{CLOCK_MONOTONIC, O_CLOEXEC, O_RDWR};

    /// A timer that goes off after always the same time.
    pub struct Timer {
        clock: Fd,
        wait: Duration,
        is_set: bool,
    }

    impl Timer {
        /// A timer that goes off `wait` after it was set.
        ///
        /// # Errors
        ///
        /// Those of opening the clock.
        pub fn new(wait: Duration) -> Result<Self> {
            let path = format!("/scheme/time/{CLOCK_MONOTONIC}");
            Ok(Self { clock: Fd::open(&path, O_RDWR | O_CLOEXEC, 0)?, wait, is_set: false })
        }

        /// The descriptor that becomes readable when it goes off.
        pub fn descriptor(&self) -> usize {
            self.clock.raw()
        }

        /// Sets it, unless it is set.
        ///
        /// # Errors
        ///
        /// Those of the clock.
        pub fn set(&mut self) -> Result<()> {
            if !self.is_set {
                let now = clock_gettime(CLOCK_MONOTONIC)?;
                self.clock.write(&super::deadline(now.tv_sec, now.tv_nsec, self.wait))?;
                self.is_set = true;
            }
            Ok(())
        }

        /// It went off.
        pub fn went_off(&mut self) {
            self.is_set = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanoseconds: i32) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seconds.to_ne_bytes());
        bytes[8..12].copy_from_slice(&nanoseconds.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_deadline_is_as_far_off_as_the_wait() {
        assert_eq!(deadline(5, 20, Duration::from_nanos(30)), at(5, 50));
        assert_eq!(deadline(5, 999_999_999, Duration::from_millis(50)), at(6, 49_999_999));
        assert_eq!(deadline(5, 1, Duration::from_secs(2)), at(7, 1));
        assert_eq!(deadline(i64::MAX, 999_999_999, Duration::MAX), at(i64::MAX, 999_999_998));
    }
}
