//! Where a run is, as a daemon after this one is told.

use iommu_engine::platform::{PLACE_WORDS, RunPlace};

/// How many words a platform needs.
pub const WORDS: usize = 3;

/// A platform's words as those that are written down.
pub fn run_place(words: [u64; WORDS]) -> RunPlace {
    let mut place = [0; PLACE_WORDS];
    for (word, value) in place.iter_mut().zip(words) {
        *word = value;
    }
    RunPlace(place)
}

/// A platform's words out of what was written down; `None` if there is more.
pub fn run_words(place: RunPlace) -> Option<[u64; WORDS]> {
    let (words, rest) = place.0.split_first_chunk()?;
    rest.iter().all(|word| *word == 0).then_some(*words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_finds_its_words_and_no_others() {
        assert_eq!(run_words(run_place([1, 2, u64::MAX])), Some([1, 2, u64::MAX]));
        let mut more = [0; PLACE_WORDS];
        more[WORDS] = 1;
        assert_eq!(run_words(RunPlace(more)), None);
    }
}
