//! Which handle was derived from which.
//!
//! A handle has the parents that it was derived from: one, or two if it was attached by a ticket, or none if it was opened.
//! A handle that is closed stays for as long as something that was derived from it, at whatever remove, is open: so who knows
//! its number can take all of that back still, however often its holder copied it and closed what was copied. All that is left
//! of what was derived from a handle is [below](Tree::below) it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::handles::handle::HandleId;

/// Who is derived from whom. Every handle that is open is in it, and every closed one that one of those came of.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<HandleId, Node>,
}

#[derive(Debug, Default)]
struct Node {
    parents: Vec<HandleId>,
    children: BTreeSet<HandleId>,
    is_closed: bool,
}

/// A handle that is not in the tree any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The handle.
    pub handle: HandleId,
    /// The nearest that it came of, by the first of its parents and the first of theirs, and that is left.
    pub heir: Option<HandleId>,
}

/// By which handle something was done that lasts: a mapping, say. There are many of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoneBy(u64);

impl DoneBy {
    /// Set besides the handle's number: no handle has one so high.
    const LEFT: u64 = 1 << 63;

    /// By this very handle.
    #[inline]
    pub(crate) const fn itself(handle: HandleId) -> Self {
        Self(handle.0)
    }

    /// The handle; once nothing is left of that, the nearest that it was derived from.
    pub const fn handle(self) -> HandleId {
        HandleId(self.0 & !Self::LEFT)
    }

    /// Whether it was done by one that was derived from that, and of which nothing is left.
    pub const fn is_left(self) -> bool {
        self.0 & Self::LEFT != 0
    }

    /// Leaves it to who has it from now on of what its handle has done, if that is somebody else.
    pub(crate) fn leave_to(&mut self, heir: Option<HandleId>) {
        if let Some(handle) = heir {
            *self = Self(handle.0 | Self::LEFT);
        }
    }
}

impl Tree {
    /// Enters a handle that was derived from these.
    pub(crate) fn enter(&mut self, handle: HandleId, parents: &[HandleId]) {
        let mut node = Node::default();
        for parent in parents {
            let Some(known) = self.nodes.get_mut(parent) else { continue };
            if known.children.insert(handle) {
                node.parents.push(*parent);
            }
        }
        self.nodes.insert(handle, node);
    }

    /// Closes a handle. What is gone with it, if nothing that was derived from it is open: itself, and what it came of and was
    /// there for its sake alone.
    pub(crate) fn close(&mut self, handle: HandleId) -> Vec<Gone> {
        if let Some(node) = self.nodes.get_mut(&handle) {
            node.is_closed = true;
        }
        let mut gone: Vec<Gone> = Vec::new();
        let mut next = alloc::vec![handle];
        while let Some(handle) = next.pop() {
            let is_over = |node: &Node| node.is_closed && node.children.is_empty();
            if !self.nodes.get(&handle).is_some_and(is_over) {
                continue;
            }
            let Some(Node { parents, .. }) = self.nodes.remove(&handle) else { continue };
            for parent in &parents {
                if let Some(node) = self.nodes.get_mut(parent) {
                    node.children.remove(&handle);
                }
            }
            gone.push(Gone { handle, heir: parents.first().copied() });
            next.extend(parents);
        }
        // Each is behind all that came of it.
        let mut heirs: BTreeMap<HandleId, Option<HandleId>> = BTreeMap::new();
        for Gone { handle, heir } in gone.iter_mut().rev() {
            *heir = heir.and_then(|heir| heirs.get(&heir).copied().unwrap_or(Some(heir)));
            heirs.insert(*handle, *heir);
        }
        gone
    }

    /// What a handle was derived from, closed or not.
    pub fn parents(&self, handle: HandleId) -> &[HandleId] {
        self.nodes.get(&handle).map_or(&[], |node| &node.parents)
    }

    /// What a handle was derived from and is open; in place of what is closed, what that was derived from.
    pub fn open_above(&self, handle: HandleId) -> Vec<HandleId> {
        let mut open = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next: Vec<HandleId> = self.parents(handle).iter().rev().copied().collect();
        while let Some(parent) = next.pop() {
            match self.nodes.get(&parent).filter(|_| seen.insert(parent)) {
                Some(node) if node.is_closed => next.extend(node.parents.iter().rev()),
                Some(_) => open.push(parent),
                None => {}
            }
        }
        open
    }

    /// The same of all that there are at once, for whoever asks for many: one that came of many closed ones is far from what
    /// is open.
    pub fn all_open_above(&self) -> BTreeMap<HandleId, Vec<HandleId>> {
        let mut all: BTreeMap<HandleId, Vec<HandleId>> = BTreeMap::new();
        // What was derived from a handle has a higher number.
        for (handle, node) in &self.nodes {
            let mut above = Vec::new();
            for parent in &node.parents {
                let is_closed = self.nodes.get(parent).is_some_and(|node| node.is_closed);
                let itself = core::slice::from_ref(parent);
                let open =
                    if is_closed { all.get(parent).map_or(&[][..], |it| it) } else { itself };
                for handle in open {
                    if !above.contains(handle) {
                        above.push(*handle);
                    }
                }
            }
            all.insert(*handle, above);
        }
        all
    }

    /// What was derived from it itself.
    fn children(&self, handle: HandleId) -> impl Iterator<Item = HandleId> {
        self.nodes.get(&handle).into_iter().flat_map(|node| node.children.iter().copied())
    }

    /// Everything that was derived from a handle, at whatever remove, as far as that is open or something that is open
    /// came of it; not itself.
    pub fn below(&self, handle: HandleId) -> BTreeSet<HandleId> {
        let mut below = BTreeSet::new();
        let mut next: Vec<HandleId> = self.children(handle).collect();
        while let Some(child) = next.pop() {
            if below.insert(child) {
                next.extend(self.children(child));
            }
        }
        below
    }

    /// Whether a handle was derived from another, at whatever remove.
    pub fn is_below(&self, handle: HandleId, of: HandleId) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = self.parents(handle).to_vec();
        while let Some(parent) = next.pop() {
            if parent == of {
                return true;
            }
            if seen.insert(parent) {
                next.extend(self.parents(parent));
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(edges: &[(u64, &[u64])]) -> Tree {
        let mut tree = Tree::default();
        for (handle, parents) in edges {
            let parents: Vec<HandleId> = parents.iter().copied().map(HandleId).collect();
            tree.enter(HandleId(*handle), &parents);
        }
        tree
    }

    fn below(tree: &Tree, handle: u64) -> Vec<u64> {
        tree.below(HandleId(handle)).into_iter().map(|it| it.0).collect()
    }

    #[test]
    fn r3_what_is_below_a_handle_is_all_that_came_of_it() {
        let tree = tree(&[(1, &[]), (2, &[1]), (3, &[2]), (4, &[1]), (5, &[]), (6, &[5, 3])]);
        assert_eq!(below(&tree, 1), [2, 3, 4, 6]);
        assert_eq!(below(&tree, 2), [3, 6]);
        assert_eq!(below(&tree, 5), [6]);
        assert_eq!(below(&tree, 6), [0u64; 0]);
        assert!(tree.is_below(HandleId(6), HandleId(1)) && tree.is_below(HandleId(6), HandleId(5)));
        assert!(!tree.is_below(HandleId(1), HandleId(1)));
        assert!(!tree.is_below(HandleId(4), HandleId(2)));
    }

    fn close(tree: &mut Tree, handle: u64) -> Vec<(u64, Option<u64>)> {
        let gone = tree.close(HandleId(handle)).into_iter();
        gone.map(|it| (it.handle.0, it.heir.map(|heir| heir.0))).collect()
    }

    fn open_above(tree: &Tree, handle: u64) -> Vec<u64> {
        let above = tree.open_above(HandleId(handle));
        assert_eq!(tree.all_open_above()[&HandleId(handle)], above);
        above.into_iter().map(|it| it.0).collect()
    }

    #[test]
    fn r3_what_was_derived_from_a_closed_handle_is_below_it_still() {
        let mut tree = tree(&[(1, &[]), (2, &[1]), (3, &[2]), (5, &[]), (6, &[5, 2]), (7, &[6])]);
        assert_eq!(close(&mut tree, 2), []);
        assert_eq!(below(&tree, 2), [3, 6, 7]);
        assert_eq!(below(&tree, 1), [2, 3, 6, 7]);
        assert_eq!(
            (open_above(&tree, 3), open_above(&tree, 6)),
            (alloc::vec![1], alloc::vec![5, 1])
        );
        assert_eq!(close(&mut tree, 6), []);
        assert!(tree.is_below(HandleId(7), HandleId(2)));
        assert_eq!(open_above(&tree, 7), [5, 1]);
        assert_eq!(close(&mut tree, 1), []);
        assert_eq!(open_above(&tree, 7), [5]);
        assert_eq!(close(&mut tree, 5), []);
        assert_eq!(open_above(&tree, 7), [0u64; 0]);
    }

    #[test]
    fn r3_a_closed_handle_is_gone_with_the_last_that_came_of_it() {
        let mut tree = tree(&[(1, &[]), (2, &[1]), (3, &[2]), (4, &[3]), (5, &[]), (6, &[5, 3])]);
        for closed in [2, 3, 5] {
            assert_eq!(close(&mut tree, closed), []);
        }
        assert_eq!(close(&mut tree, 4), [(4, Some(3))]);
        // Both that it came of were there for its sake alone.
        assert_eq!(close(&mut tree, 6), [(6, None), (3, Some(1)), (2, Some(1)), (5, None)]);
        assert_eq!(close(&mut tree, 6), []);
        assert_eq!(close(&mut tree, 1), [(1, None)]);
        assert!(tree.nodes.is_empty());
    }
}
