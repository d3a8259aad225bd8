//! What the keeper leaves to the process that serves.
//!
//! Two descriptors, whose numbers are in an environment variable with how it came to be started:
//! `MEMORY REPORT START`, as in `5 7 init`.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// The environment variable. Who finds it serves; who does not is the keeper, or starts one.
pub const HAND_OVER_VARIABLE: &str = "IOMMUD_KEEPER";

/// What the keeper leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// The descriptor of an empty memory object, for all that hardware is to reach.
    pub memory: usize,
    /// The descriptor of a pipe, on which a [`Report`] is awaited.
    pub report: usize,
    /// How it came to be started.
    pub start: Start,
}

/// How the process that serves came to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By init, which gives the scheme its name.
    Init,
    /// By hand.
    Hand,
    /// After another one, which has died.
    Again,
}

/// What the keeper is told once the units were brought up: one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Every unit translates by the tables of this process, and has forgotten all others.
    AllTranslate = 1,
    /// Some unit may still walk the tables of a process that is dead, or translates nothing at all.
    SomeDoNot = 2,
}

/// The variable's value is none of the keeper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{HAND_OVER_VARIABLE} is for iommud itself: start it without")]
pub struct NotByKeeper;

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Hand => "hand",
            Self::Again => "again",
        })
    }
}

impl fmt::Display for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.memory, self.report, self.start)
    }
}

impl FromStr for HandOver {
    type Err = NotByKeeper;

    fn from_str(value: &str) -> Result<Self, NotByKeeper> {
        let mut words = value.split(' ');
        let mut number = || words.next()?.parse().ok();
        let (memory, report) = number().zip(number()).ok_or(NotByKeeper)?;
        let start = match (words.next(), words.next()) {
            (Some("init"), None) => Start::Init,
            (Some("hand"), None) => Start::Hand,
            (Some("again"), None) => Start::Again,
            _ => return Err(NotByKeeper),
        };
        Ok(Self { memory, report, start })
    }
}

impl Report {
    /// What a byte from the pipe says.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::AllTranslate, Self::SomeDoNot].into_iter().find(|it| *it as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found() {
        for start in [Start::Init, Start::Hand, Start::Again] {
            let left = HandOver { memory: 5, report: 17, start };
            assert_eq!(left.to_string().parse(), Ok(left));
        }
        assert_eq!(HandOver { memory: 5, report: 7, start: Start::Init }.to_string(), "5 7 init");
        for report in [Report::AllTranslate, Report::SomeDoNot] {
            assert_eq!(Report::from_byte(report as u8), Some(report));
        }
        assert_eq!(Report::from_byte(0), None);
    }

    #[test]
    fn r5_a_variable_that_somebody_else_set_is_refused() {
        for value in ["", "5", "5 7", "5 7 ", "5 7 Init", "5 7 init 9", "-1 7 init", "5  7 init"] {
            assert_eq!(value.parse::<HandOver>(), Err(NotByKeeper), "{value:?}");
        }
    }
}
