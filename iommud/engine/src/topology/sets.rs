//! Joining sets: the union-find structure.

use alloc::vec::Vec;

/// Things numbered from zero, in sets that can be joined.
pub(super) struct Sets {
    parents: Vec<usize>,
}

impl Sets {
    /// Each of `count` things in a set of its own.
    pub(super) fn new(count: usize) -> Self {
        Self { parents: (0..count).collect() }
    }

    /// The thing that stands for the set that this one is in.
    pub(super) fn find(&mut self, thing: usize) -> usize {
        let mut here = thing;
        while let Some(&parent) = self.parents.get(here) {
            if parent == here {
                break;
            }
            // Each visit halves the way for the next.
            let grandparent = self.parents.get(parent).copied().unwrap_or(parent);
            if let Some(slot) = self.parents.get_mut(here) {
                *slot = grandparent;
            }
            here = grandparent;
        }
        here
    }

    /// Makes the sets of two things one. Whether they were two before.
    pub(super) fn join(&mut self, one: usize, other: usize) -> bool {
        let (one, other) = (self.find(one), self.find(other));
        // The lower number stands for both, so that the outcome does not depend on the order.
        let (low, high) = (one.min(other), one.max(other));
        if let Some(slot) = self.parents.get_mut(high) {
            *slot = low;
        }
        low != high
    }
}
