//! What the keeper leaves to the process that serves.
//!
//! Descriptors, whose numbers are in an environment variable with how it came to be started: `5 7 init`, or
//! `5 7 9 again 2` after two deaths. Which they are:
//!
//! | | Redox | Linux |
//! | --- | --- | --- |
//! | first | a memory object, for all that hardware is to reach: with what the one before left in it, if one did | a socket, on which memory goes both ways, and a [`Report`] is awaited |
//! | second | a pipe, on which a [`Report`] is awaited | the socket to which clients connect |
//! | third | after a death: an empty memory object, for a process that cannot adopt what is in the first | none |

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// The environment variable. Who finds it serves; who does not is the keeper, or starts one.
pub const HAND_OVER_VARIABLE: &str = "IOMMUD_KEEPER";

/// What the report calls how it was started.
pub const STARTED: &str = "started";

/// The most descriptors that are left.
const MOST_DESCRIPTORS: usize = 3;

/// What the keeper leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// The numbers of the descriptors, two or three.
    pub descriptors: Vec<usize>,
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
    /// After others, of which so many have died.
    Again(u32),
}

/// What the keeper is told: one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The units were brought up. Every one translates by the tables of this process, and has forgotten all others.
    AllTranslate = 1,
    /// The units were brought up, but some may still walk the tables of a process that is dead, or translates nothing
    /// at all.
    SomeDoNot = 2,
    /// Said before the others, if at all: what the one before left is not adopted. It is to be held until
    /// [`AllTranslate`](Self::AllTranslate) and handed to nobody else.
    SetAside = 3,
}

/// The variable's value is none of the keeper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{HAND_OVER_VARIABLE} is for iommud itself: start it without")]
pub struct NotByKeeper;

impl Start {
    /// Names and values for the report.
    pub fn settings(self) -> Vec<(&'static str, String)> {
        let (started, restarts) = match self {
            Self::Init => ("by init", 0),
            Self::Hand => ("by hand", 0),
            Self::Again(deaths) => ("again", deaths),
        };
        vec![(STARTED, started.into()), ("restarts", restarts.to_string())]
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init => f.write_str("init"),
            Self::Hand => f.write_str("hand"),
            Self::Again(deaths) => write!(f, "again {deaths}"),
        }
    }
}

impl fmt::Display for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for descriptor in &self.descriptors {
            write!(f, "{descriptor} ")?;
        }
        self.start.fmt(f)
    }
}

impl FromStr for HandOver {
    type Err = NotByKeeper;

    fn from_str(value: &str) -> Result<Self, NotByKeeper> {
        let words: Vec<&str> = value.split(' ').collect();
        let numbers = words.iter().take(MOST_DESCRIPTORS).map_while(|word| word.parse().ok());
        let descriptors: Vec<usize> = numbers.collect();
        let start = match words.get(descriptors.len()..) {
            Some(["init"]) => Start::Init,
            Some(["hand"]) => Start::Hand,
            Some(["again", deaths]) => Start::Again(deaths.parse().map_err(|_| NotByKeeper)?),
            _ => return Err(NotByKeeper),
        };
        match descriptors.len() {
            2 | 3 => Ok(Self { descriptors, start }),
            _ => Err(NotByKeeper),
        }
    }
}

impl Report {
    /// What a byte from the pipe says.
    pub fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::AllTranslate, Self::SomeDoNot, Self::SetAside];
        all.into_iter().find(|it| *it as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found() {
        for start in [Start::Init, Start::Hand, Start::Again(0), Start::Again(u32::MAX)] {
            for descriptors in [vec![5, 17], vec![5, 17, 9]] {
                let left = HandOver { descriptors, start };
                assert_eq!(left.to_string().parse(), Ok(left));
            }
        }
        let shown = |descriptors: &[usize], start| {
            HandOver { descriptors: descriptors.to_vec(), start }.to_string()
        };
        assert_eq!(shown(&[5, 7], Start::Init), "5 7 init");
        assert_eq!(shown(&[5, 7, 9], Start::Again(2)), "5 7 9 again 2");
        for report in [Report::AllTranslate, Report::SomeDoNot, Report::SetAside] {
            assert_eq!(Report::from_byte(report as u8), Some(report));
        }
        assert_eq!(Report::from_byte(0), None);
    }

    #[test]
    fn r5_a_variable_that_somebody_else_set_is_refused() {
        for value in [
            "",
            "5",
            "5 7",
            "5 init",
            "5 7 ",
            "5 7 Init",
            "5 7 init 9",
            "-1 7 init",
            "5  7 init",
            "5 7 again",
            "5 7 again -1",
            "5 7 9 11 init",
        ] {
            assert_eq!(value.parse::<HandOver>(), Err(NotByKeeper), "{value:?}");
        }
    }
}
