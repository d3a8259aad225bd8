//! The slots of a pool against a model: a map from address to what was done with the block there.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ptr::NonNull;

use dma_types::Iova;
use proptest::prelude::*;

use super::super::NotTaken;
use super::super::layout::Shape;
use super::{Slot, Slots};

/// A chunk's memory: a box that nobody looks into while its blocks are used.
#[derive(Debug)]
struct Memory(NonNull<[u64]>);

// SAFETY: it is a box.
unsafe impl Send for Memory {}

impl Memory {
    fn new(bytes: usize) -> Self {
        let words = alloc::vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        Self(NonNull::from(Box::leak(words)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was leaked when this was made.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Slots, and where the next chunk goes.
struct Rig {
    slots: Slots<Memory>,
    shape: Shape,
    next: u64,
}

impl Rig {
    fn new(shape: Shape, keep: usize) -> Self {
        Self { slots: Slots::new(keep), shape, next: 0x10000 }
    }

    fn add(&mut self, chunk: usize) {
        let memory = Memory::new(chunk);
        let (start, layout) = (memory.0.cast(), self.shape.in_chunk(chunk));
        let iova = Iova::new(self.next.next_multiple_of(chunk as u64));
        // Neighbours, and gaps now and then.
        self.next = iova.get() + chunk as u64 + (self.next & 0x4000);
        // SAFETY: the box is as long as the chunk, and lives as long as itself.
        unsafe { self.slots.add(memory, start, iova, layout) }.unwrap();
    }

    fn alloc(&mut self) -> Slot {
        if let Some(slot) = self.slots.pop() {
            return slot;
        }
        self.add(self.shape.least_chunk() * 4);
        self.slots.pop().unwrap()
    }
}

/// Writes the block's own address all over it.
fn mark(slot: &Slot, bytes: usize) {
    for offset in 0..bytes {
        // SAFETY: the block is the test's, and so long.
        unsafe { slot.memory().add(offset).write_volatile(slot.iova().get() as u8 ^ offset as u8) };
    }
}

fn is_marked(slot: &Slot, bytes: usize) -> bool {
    (0..bytes).all(|offset| {
        // SAFETY: as in `mark`.
        let byte = unsafe { slot.memory().add(offset).read_volatile() };
        byte == slot.iova().get() as u8 ^ offset as u8
    })
}

#[derive(Clone, Debug)]
enum Step {
    Alloc,
    Free(usize),
    Leave(usize),
    Take(usize),
    TakeAnything(u64),
    Trim(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Alloc),
        4 => any::<usize>().prop_map(Step::Free),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => any::<usize>().prop_map(Step::Take),
        2 => (0x1_0000u64..0x2_0000).prop_map(Step::TakeAnything),
        1 => (0usize..20).prop_map(Step::Trim),
    ]
}

/// Miri takes a thousand times as long.
const LONGEST: usize = if cfg!(miri) { 20 } else { 300 };
const STEPS: usize = if cfg!(miri) { 20 } else { 80 };

fn shape() -> impl Strategy<Value = Shape> {
    (1usize..LONGEST, 0u32..8, 0u32..3).prop_map(|(bytes, align, more)| {
        let boundary = bytes.next_power_of_two() << more;
        Shape::new(bytes, 1 << align, Some(boundary)).unwrap()
    })
}

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 2 } else { 256 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Takes one out of what there is.
fn pick<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(which % from.len()))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn blocks_are_whole_and_apart_and_each_is_somebodys_or_free(
        shape in shape(),
        steps in prop::collection::vec(step(), 1..STEPS),
    ) {
        let (bytes, mut rig) = (shape.bytes, Rig::new(shape, 4));
        let (mut held, mut left) = (Vec::<Slot>::new(), Vec::<Iova>::new());
        let (mut marks, mut most) = (BTreeMap::<Iova, ()>::new(), 0);
        for step in steps {
            match step {
                Step::Alloc => {
                    let slot = rig.alloc();
                    mark(&slot, bytes);
                    prop_assert!(marks.insert(slot.iova(), ()).is_none(), "given out twice");
                    prop_assert!(slot.iova().is_aligned(shape.align as u64));
                    held.push(slot);
                }
                Step::Free(which) => if let Some(slot) = pick(&mut held, which) {
                    prop_assert!(is_marked(&slot, bytes), "another block lies over it");
                    marks.remove(&slot.iova());
                    if rig.slots.push(slot) {
                        rig.slots.trim_to_keep();
                    }
                },
                Step::Leave(which) => if let Some(slot) = pick(&mut held, which) {
                    left.push(rig.slots.leave(slot));
                },
                Step::Take(which) => if let Some(iova) = pick(&mut left, which) {
                    let slot = rig.slots.take(iova).unwrap();
                    prop_assert!(slot.iova() == iova && is_marked(&slot, bytes));
                    prop_assert_eq!(rig.slots.take(iova).unwrap_err(), NotTaken::Held);
                    held.push(slot);
                },
                Step::TakeAnything(address) => {
                    let (iova, before) = (Iova::new(address), rig.slots.count());
                    let expected = if left.contains(&iova) {
                        continue;
                    } else if held.iter().any(|slot| slot.iova() == iova) {
                        NotTaken::Held
                    } else if rig.slots.free().any(|note| note.iova == iova) {
                        NotTaken::Free
                    } else {
                        NotTaken::NoBlock
                    };
                    prop_assert_eq!(rig.slots.take(iova).unwrap_err(), expected);
                    prop_assert_eq!(rig.slots.count(), before);
                }
                Step::Trim(keep) => {
                    let free = rig.slots.free().count();
                    rig.slots.trim(keep);
                    prop_assert!(rig.slots.free().count() >= keep.min(free));
                }
            }
            let count = rig.slots.count();
            prop_assert_eq!(count.in_use, held.len() + left.len());
            prop_assert_eq!(rig.slots.held(), held.len());
            prop_assert_eq!(count.blocks, count.in_use + rig.slots.free().count());
            most = most.max(count.in_use);
            prop_assert_eq!(count.most_in_use, most);
        }
        // All that there is comes back.
        for iova in left {
            held.push(rig.slots.take(iova).unwrap());
        }
        for slot in held {
            prop_assert!(is_marked(&slot, bytes));
            rig.slots.push(slot);
        }
        rig.slots.trim(0);
        let count = rig.slots.count();
        prop_assert_eq!((count.blocks, count.in_use, count.chunks), (0, 0, 0));
    }
}

#[test]
fn idle_chunks_are_given_up_in_time_and_not_all_at_once() {
    let shape = Shape::new(64, 64, None).unwrap();
    let mut rig = Rig::new(shape, 8);
    let slots: Vec<Slot> = (0..400).map(|_| rig.alloc()).collect();
    let before = rig.slots.count().chunks;
    let mut trims = 0;
    for slot in slots {
        if rig.slots.push(slot) {
            trims += 1;
            rig.slots.trim_to_keep();
        }
    }
    let after = rig.slots.count();
    assert!(after.chunks < before / 4 && after.blocks >= 8, "{after:?} of {before} chunks");
    assert!(trims > 1 && trims < 50, "{trims} times");
}

#[test]
fn a_chunk_with_a_block_in_use_stays() {
    let mut rig = Rig::new(Shape::new(256, 256, None).unwrap(), 0);
    rig.add(1024);
    rig.add(1024);
    let slots: Vec<Slot> = (0..8).filter_map(|_| rig.slots.pop()).collect();
    let mut slots = slots.into_iter();
    let held = slots.next().unwrap();
    mark(&held, 256);
    for slot in slots {
        rig.slots.push(slot);
    }
    assert_eq!(rig.slots.trim(0).len(), 1);
    assert!(is_marked(&held, 256));
    let left = rig.slots.leave(held);
    assert_eq!(rig.slots.trim(0).len(), 0, "nor one with a block that the device has");
    let memory: Vec<bool> = rig.slots.into_memory().map(|(_, has_left)| has_left).collect();
    assert_eq!((memory, left.get() & 0xff), (alloc::vec![true], 0));
}

#[test]
fn a_chunk_at_another_ones_addresses_is_not_added() {
    let mut rig = Rig::new(Shape::new(64, 64, None).unwrap(), 0);
    rig.next = 0x10000;
    rig.add(1024);
    let before = rig.slots.count();
    for (at, bytes, is_apart) in [
        (0x10000, 1024, false),
        (0x10200, 1024, false),
        (0xfe00, 1024, false),
        (0x10100, 256, false),
        (0xf000, 0x2000, false),
        (0x10400, 1024, true),
        (0xfc00, 1024, true),
    ] {
        let memory = Memory::new(bytes);
        let (start, layout) = (memory.0.cast(), rig.shape.in_chunk(bytes));
        // SAFETY: the box is as long as the chunk, and lives as long as itself.
        let added = unsafe { rig.slots.add(memory, start, Iova::new(at), layout) };
        assert_eq!(added.is_ok(), is_apart, "{at:#x}");
        let chunks = rig.slots.count().chunks;
        assert_eq!(chunks > before.chunks, is_apart);
    }
    assert_eq!(rig.slots.count().blocks, 3 * before.blocks);
}
