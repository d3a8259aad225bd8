//! What was found so far: the states, and which step leads from which to which.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::event::Step;

/// So often a way may lead elsewhere than before.
const MOST_MISSED: usize = 5;

/// All states that were found, by number; the first is the beginning.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    found: HashMap<u128, usize>,
    /// Those of which something was not tried, with how few steps lead there.
    open: BTreeSet<(usize, usize)>,
}

struct Node {
    /// How few steps lead there from the beginning, as far as is known, and from where by which the last of them does.
    after: usize,
    from: Option<(usize, Step)>,
    /// What can happen and was not tried, the last of it first.
    untried: Vec<Step>,
    /// What was, and the state that it leads to.
    next: Vec<(Step, usize)>,
    /// How often the way there has led elsewhere.
    missed: usize,
}

impl Graph {
    /// The number of a state, if it was found before.
    pub(crate) fn get(&self, key: u128) -> Option<usize> {
        self.found.get(&key).copied()
    }

    /// Adds a state in which this can happen.
    pub(crate) fn add(&mut self, key: u128, untried: Vec<Step>) -> usize {
        let number = self.nodes.len();
        self.found.insert(key, number);
        let after = if number == 0 { 0 } else { usize::MAX };
        self.nodes.push(Node { after, from: None, untried, next: Vec::new(), missed: 0 });
        self.open(number);
        number
    }

    /// Notes that the way to a state has led elsewhere. One that was missed too often is given up: whether it is.
    pub(crate) fn miss(&mut self, number: usize) -> bool {
        let node = &mut self.nodes[number];
        node.missed += 1;
        let is_lost = node.missed == MOST_MISSED;
        if is_lost {
            node.untried.clear();
            self.open.remove(&(node.after, number));
        }
        is_lost
    }

    /// How many states there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many steps lead from one to another.
    pub(crate) fn steps(&self) -> usize {
        self.nodes.iter().map(|node| node.next.len()).sum()
    }

    /// Notes that a step leads from one state to another.
    pub(crate) fn lead(&mut self, from: usize, step: Step, to: usize) {
        if self.nodes[from].next.contains(&(step, to)) {
            return;
        }
        self.nodes[from].next.push((step, to));
        let mut sooner = VecDeque::from([(from, step, to)]);
        while let Some((from, step, to)) = sooner.pop_front() {
            let after = self.nodes[from].after + 1;
            if after >= self.nodes[to].after {
                continue;
            }
            self.open.remove(&(self.nodes[to].after, to));
            (self.nodes[to].after, self.nodes[to].from) = (after, Some((from, step)));
            self.open(to);
            sooner.extend(self.nodes[to].next.iter().map(|(step, next)| (to, *step, *next)));
        }
    }

    fn open(&mut self, number: usize) {
        if !self.nodes[number].untried.is_empty() {
            self.open.insert((self.nodes[number].after, number));
        }
    }

    /// Takes a step that was not tried in a state, if fewer than so many lead there.
    pub(crate) fn take(&mut self, number: usize, within: usize) -> Option<Step> {
        if self.nodes[number].after >= within {
            return None;
        }
        let step = self.nodes[number].untried.pop()?;
        if self.nodes[number].untried.is_empty() {
            self.open.remove(&(self.nodes[number].after, number));
        }
        Some(step)
    }

    /// Has this tried next in a state.
    pub(crate) fn put(&mut self, number: usize, step: Step) {
        self.nodes[number].untried.push(step);
        self.open(number);
    }

    /// The shortest way from the beginning to what was not tried after fewer than so many steps.
    pub(crate) fn way(&self, within: usize) -> Option<Vec<(Step, usize)>> {
        let (_, mut number) = *self.open.first().filter(|(after, _)| *after < within)?;
        let mut way = Vec::new();
        while let Some((from, step)) = self.nodes[number].from {
            way.push((step, number));
            number = from;
        }
        way.reverse();
        Some(way)
    }

    /// The same from a state, of no more than `most` steps.
    pub(crate) fn way_from(
        &self,
        start: usize,
        most: usize,
        within: usize,
    ) -> Option<Vec<(Step, usize)>> {
        // By which step each was found, from which before it in the row, and after how many.
        let mut row = vec![(start, None, 0)];
        let mut seen = BTreeSet::from([start]);
        let mut at = 0;
        while let Some(&(number, _, steps)) = row.get(at) {
            let node = &self.nodes[number];
            if node.after < within && !node.untried.is_empty() {
                let mut way = Vec::new();
                while let (number, Some((before, step)), _) = row[at] {
                    way.push((step, number));
                    at = before;
                }
                way.reverse();
                return Some(way);
            }
            let further = node.next.iter().filter(|(_, next)| steps < most && seen.insert(*next));
            row.extend(further.map(|(step, next)| (*next, Some((at, *step)), steps + 1)));
            at += 1;
        }
        None
    }

    /// How many orders of so many events there are, or of fewer where nothing more can happen.
    pub(crate) fn orders(&self, events: usize) -> u128 {
        let mut ways: Vec<u128> = vec![1; self.nodes.len()];
        for _ in 0..events {
            let further = |node: &Node| match node.next.as_slice() {
                [] => 1,
                next => next.iter().map(|(_, next)| ways[*next]).sum(),
            };
            ways = self.nodes.iter().map(further).collect();
        }
        ways[0]
    }
}
