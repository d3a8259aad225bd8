//! What a guest tells of what it counted: lines `bench NAME MEDIAN MEAN MEDIAN MEAN`, of an operation and of the one that
//! undoes it; and lines `ends NAME claim` or `ends NAME access`, where a device tried what the latter ends.

use std::collections::BTreeMap;

/// What comes before a figure.
const OPENING: &str = "bench ";

/// What comes before what an undoing ends.
const ENDS: &str = "ends ";

/// Guest instructions of an operation and of the one that undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figure {
    /// The operation, in the median.
    pub(super) make: u64,
    /// The operation, in the mean.
    pub(super) make_mean: u64,
    /// What undoes it, in the median.
    pub(super) undo: u64,
    /// What undoes it, in the mean.
    pub(super) undo_mean: u64,
}

impl Figure {
    /// Both, in the median.
    pub(super) fn both(self) -> u64 {
        self.make + self.undo
    }

    fn parse(line: &str) -> Option<(String, Self)> {
        let mut words = line.trim().strip_prefix(OPENING)?.split_whitespace();
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        let figure =
            Self { make: number()?, make_mean: number()?, undo: number()?, undo_mean: number()? };
        words.next().is_none().then_some((name, figure))
    }
}

/// All that one guest told.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    figures: BTreeMap<String, Figure>,
    ends: BTreeMap<String, String>,
}

impl Figures {
    /// Reads them out of all that it wrote.
    pub(super) fn read(lines: &[String]) -> Self {
        let ends = |line: &String| {
            let (name, what) = line.trim().strip_prefix(ENDS)?.split_once(' ')?;
            Some((name.to_owned(), what.to_owned()))
        };
        Self {
            figures: lines.iter().filter_map(|line| Figure::parse(line)).collect(),
            ends: lines.iter().filter_map(ends).collect(),
        }
    }

    /// Puts others in, of the same machine.
    pub(super) fn extend(&mut self, others: Self) {
        self.figures.extend(others.figures);
        self.ends.extend(others.ends);
    }

    /// The same with something before their names.
    pub(super) fn named(self, prefix: &str) -> Self {
        let Self { figures, ends } = self;
        let of_figure = |(name, figure)| (format!("{prefix}{name}"), figure);
        let of_end = |(name, ends)| (format!("{prefix}{name}"), ends);
        Self {
            figures: figures.into_iter().map(of_figure).collect(),
            ends: ends.into_iter().map(of_end).collect(),
        }
    }

    /// The figure of this name.
    pub(super) fn get(&self, name: &str) -> Option<Figure> {
        self.figures.get(name).copied()
    }

    /// What undoing the operation of this name ends, if a device tried.
    pub(super) fn ends(&self, name: &str) -> Option<&str> {
        self.ends.get(name).map(String::as_str)
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Figure)> {
        self.figures.iter().map(|(name, figure)| (name.as_str(), *figure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_between_other_lines() {
        let lines = [
            "bench stream/4k 91 92 42 43\r",
            "case bench/streams ... ok",
            "ends stream/4k claim\r",
            "ends",
            "bench broken 1 2 3",
            "bench broken 1 2 3 4 5",
            "bench broken 1 2 3 x",
            "a bench is no figure 1 2 3 4",
        ];
        let figures = Figures::read(&lines.map(String::from));
        let expected = Figure { make: 91, make_mean: 92, undo: 42, undo_mean: 43 };
        assert_eq!(figures.iter().collect::<Vec<_>>(), [("stream/4k", expected)]);
        assert_eq!(figures.get("stream/4k").map(Figure::both), Some(133));
        assert!(figures.get("broken").is_none());
        assert_eq!((figures.ends("stream/4k"), figures.ends("broken")), (Some("claim"), None));
        let named = figures.named("there/");
        assert!(named.get("there/stream/4k").is_some() && named.ends("there/stream/4k").is_some());
    }
}
