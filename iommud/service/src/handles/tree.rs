//! Which handle was derived from which.
//!
//! A handle has the parents that it was derived from: one, or two if it was attached by a ticket, or none if it was opened.
//! When a handle is closed, what was derived from it belongs to its parents from then on. So all that is left of what was
//! derived from a handle, at whatever remove, is [below](Tree::below) it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::handles::handle::HandleId;

/// Who is derived from whom. Every handle that is open is in it.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<HandleId, Node>,
}

#[derive(Debug, Default)]
struct Node {
    parents: Vec<HandleId>,
    children: BTreeSet<HandleId>,
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

    /// Takes a handle out: its parents are in its place for what was derived from it.
    pub(crate) fn leave(&mut self, handle: HandleId) {
        let Some(Node { parents, children }) = self.nodes.remove(&handle) else { return };
        for parent in &parents {
            if let Some(node) = self.nodes.get_mut(parent) {
                node.children.remove(&handle);
                node.children.extend(&children);
            }
        }
        for child in &children {
            let Some(node) = self.nodes.get_mut(child) else { continue };
            node.parents.retain(|parent| *parent != handle);
            for parent in &parents {
                if !node.parents.contains(parent) {
                    node.parents.push(*parent);
                }
            }
        }
    }

    /// What a handle was derived from, as far as that is open.
    pub fn parents(&self, handle: HandleId) -> &[HandleId] {
        self.nodes.get(&handle).map_or(&[], |node| &node.parents)
    }

    /// What was derived from it itself.
    pub fn children(&self, handle: HandleId) -> impl Iterator<Item = HandleId> {
        self.nodes.get(&handle).into_iter().flat_map(|node| node.children.iter().copied())
    }

    /// Everything that was derived from a handle, at whatever remove; not itself.
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

    #[test]
    fn r3_what_was_derived_from_a_closed_handle_is_its_parents() {
        let mut tree = tree(&[(1, &[]), (2, &[1]), (3, &[2]), (5, &[]), (6, &[5, 2]), (7, &[6])]);
        tree.leave(HandleId(2));
        assert_eq!(below(&tree, 1), [3, 6, 7]);
        tree.leave(HandleId(6));
        assert_eq!((below(&tree, 1), below(&tree, 5)), (alloc::vec![3, 7], alloc::vec![7]));
        assert_eq!(tree.parents(HandleId(7)), [HandleId(5), HandleId(1)]);
        tree.leave(HandleId(1));
        tree.leave(HandleId(5));
        assert!(tree.parents(HandleId(7)).is_empty());
        tree.leave(HandleId(7));
        tree.leave(HandleId(3));
        assert!(tree.nodes.is_empty());
    }
}
