//! Where a run is, as a daemon after this one is told; and what platforms answer alike whose memory outlives them.

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

/// Of `impl Platform`, what is alike where table frames come from a field `tables` and runs from a field `runs`: where they
/// are, and which of those that are inherited are in use.
macro_rules! arenas_of_tables_and_runs {
    () => {
        fn arena_changes(&self) -> u64 {
            self.tables.changes() + self.runs.changes()
        }

        fn keep_frames(
            &mut self,
            start: ::dma_types::PhysAddr,
            count: usize,
        ) -> Result<(), ::iommu_engine::platform::NotInherited> {
            let kept = self.tables.keep(start, count);
            kept.then_some(()).ok_or(::iommu_engine::platform::NotInherited)
        }

        fn place(
            &self,
            run: ::iommu_engine::platform::RunId,
        ) -> Option<::iommu_engine::platform::RunPlace> {
            self.runs.place(run).map($crate::platform::run_places::run_place)
        }

        fn keep_run(
            &mut self,
            run: ::iommu_engine::platform::RunId,
            place: ::iommu_engine::platform::RunPlace,
        ) -> Result<(), ::iommu_engine::platform::NotInherited> {
            let words = $crate::platform::run_places::run_words(place);
            let kept = words.is_some_and(|words| self.runs.keep(run, words));
            kept.then_some(()).ok_or(::iommu_engine::platform::NotInherited)
        }
    };
}

pub(crate) use arenas_of_tables_and_runs;

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
