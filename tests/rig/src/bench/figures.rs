//! What a guest tells of what it counted: lines `bench NAME MEDIAN MEAN MEDIAN MEAN`, of an operation and of the one that
//! undoes it.

use std::collections::BTreeMap;

/// What comes before a figure.
const OPENING: &str = "bench ";

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
pub(super) struct Figures(BTreeMap<String, Figure>);

impl Figures {
    /// Reads them out of all that it wrote.
    pub(super) fn read(lines: &[String]) -> Self {
        Self(lines.iter().filter_map(|line| Figure::parse(line)).collect())
    }

    /// Puts others in, of the same machine.
    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The same with something before their names.
    pub(super) fn named(self, prefix: &str) -> Self {
        Self(self.0.into_iter().map(|(name, figure)| (format!("{prefix}{name}"), figure)).collect())
    }

    /// The figure of this name.
    pub(super) fn get(&self, name: &str) -> Option<Figure> {
        self.0.get(name).copied()
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Figure)> {
        self.0.iter().map(|(name, figure)| (name.as_str(), *figure))
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
        assert!(figures.named("there/").get("there/stream/4k").is_some());
    }
}
