extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Who has which unit, the simple way.
struct Model {
    buddy: Buddy,
    taken: Vec<bool>,
    blocks: Vec<(usize, u32)>,
}

impl Model {
    fn new(units: usize) -> Self {
        Self { buddy: Buddy::new(units), taken: vec![false; units], blocks: Vec::new() }
    }

    fn alloc(&mut self, order: u32) -> Option<usize> {
        let size = 1_usize << order;
        let could = (0..self.taken.len()).step_by(size).any(|start| {
            self.taken.get(start..start + size).is_some_and(|part| !part.contains(&true))
        });
        let got = self.buddy.alloc(order);
        assert_eq!(got.is_some(), could, "there is a block if there is room for one");
        let start = got?;
        assert!(start.is_multiple_of(size), "at a multiple of its size");
        assert!(!self.taken[start..start + size].contains(&true), "nobody else's");
        self.taken[start..start + size].fill(true);
        self.blocks.push((start, order));
        Some(start)
    }

    fn free(&mut self, which: usize) {
        if self.blocks.is_empty() {
            return;
        }
        let (start, order) = self.blocks.swap_remove(which % self.blocks.len());
        self.taken[start..start + (1 << order)].fill(false);
        self.buddy.free(start, order);
    }

    fn take(&mut self, units: Range<usize>) {
        let were_free = !self.taken[units.clone()].contains(&true);
        assert_eq!(self.buddy.take(units.clone()), were_free, "all of them or none");
        if were_free {
            self.taken[units].fill(true);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(u32),
    Free(usize),
    Take(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..9_u32).prop_map(Step::Alloc),
        6 => any::<usize>().prop_map(Step::Free),
        1 => (0..256_usize, 0..9_usize).prop_map(|(start, count)| Step::Take(start, count)),
    ]
}

/// Miri takes a thousand times as long.
const STEPS: usize = if cfg!(miri) { 20 } else { 200 };
const UNITS: usize = if cfg!(miri) { 32 } else { 256 };

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 2 } else { 300 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn blocks_are_given_out_as_a_simple_model_says(steps in prop::collection::vec(step(), 1..STEPS)) {
        let mut model = Model::new(UNITS);
        for step in steps {
            match step {
                Step::Alloc(order) => {
                    model.alloc(order);
                }
                Step::Free(which) => model.free(which),
                Step::Take(start, count) => {
                    let start = start % UNITS;
                    model.take(start..(start + count).min(UNITS));
                }
            }
        }
    }
}

#[test]
fn all_of_a_span_is_one_block_again_when_all_was_given_back() {
    let mut model = Model::new(64);
    for _ in 0..3 {
        while model.alloc(0).is_some() {}
        assert_eq!(model.blocks.len(), 64);
        while !model.blocks.is_empty() {
            model.free(7);
        }
        assert_eq!(model.alloc(6), Some(0));
        model.free(0);
    }
}

#[test]
fn a_block_given_back_is_the_next_one_of_its_size() {
    let mut buddy = Buddy::new(1024);
    let first = buddy.alloc(6).unwrap();
    buddy.free(first, 6);
    assert_eq!((buddy.orders[6].held, buddy.orders[6].count), (1, 1), "apart from its buddy");
    assert_eq!(buddy.alloc(6), Some(first));
}

#[test]
fn more_than_the_whole_span_is_never_there() {
    let mut buddy = Buddy::new(4);
    assert_eq!((buddy.alloc(3), buddy.alloc(31), buddy.alloc(32)), (None, None, None));
    assert_eq!(buddy.alloc(2), Some(0));
    assert_eq!(buddy.alloc(0), None);
}

#[test]
fn a_span_need_not_be_free_from_end_to_end() {
    let mut buddy = Buddy::taken(64);
    buddy.free_range(5..50);
    let mut units = Vec::new();
    while let Some(unit) = buddy.alloc(0) {
        units.push(unit);
    }
    units.sort();
    assert_eq!(units, (5..50).collect::<Vec<_>>());
    buddy.free_range(5..50);
    assert_eq!(buddy.alloc(4).map(|start| start % 16), Some(0));
}
