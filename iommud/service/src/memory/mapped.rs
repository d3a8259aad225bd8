//! Where one buffer is mapped.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;

use super::mappings::MappedAt;
use crate::handles::tree::DoneBy;

/// All mappings of a buffer, by domain and address, each with the handle by which it was made. How long they are, and on whose
/// account, the engine notes.
///
/// Most buffers have one at the most, and it is made and taken away with each transfer: such a one lies here itself, and takes no
/// memory of the heap.
#[derive(Clone, Debug, Default)]
pub struct BufferMappings {
    /// The only one.
    one: Option<Entry>,
    /// All, where there are or were several.
    many: Sorted,
}

type Entry = (MappedAt, DoneBy);

/// How many mappings are one piece of memory.
const CHUNK: usize = 128;

/// Mappings in the order of their places, in pieces of memory that are nearly full where they were made in that order, or in
/// the other one. There may be a million of them, and most go as they came: at an end.
#[derive(Clone, Debug, Default)]
struct Sorted {
    /// None is empty, but for the only one.
    chunks: Vec<VecDeque<Entry>>,
    count: usize,
}

impl Sorted {
    /// In which chunk this place is, or would be.
    #[inline]
    fn chunk_of(&self, at: &MappedAt) -> usize {
        match &self.chunks[..] {
            [] | [_] => 0,
            [_, later @ ..] => later.partition_point(|chunk| chunk[0].0 <= *at),
        }
    }

    /// In which chunk a place is, and where in that: if not, where it would be.
    #[inline]
    fn find(&self, at: &MappedAt) -> (usize, Result<usize, usize>) {
        let number = self.chunk_of(at);
        let Some(chunk) = self.chunks.get(number) else { return (number, Err(0)) };
        let found = match (chunk.front(), chunk.back()) {
            (Some((first, _)), _) if at == first => Ok(0),
            (Some((first, _)), _) if at < first => Err(0),
            (_, Some((last, _))) if at > last => Err(chunk.len()),
            _ => chunk.binary_search_by_key(at, |(at, _)| *at),
        };
        (number, found)
    }

    fn insert(&mut self, (at, by): Entry) {
        let (number, found) = self.find(&at);
        if self.chunks.is_empty() {
            self.chunks.push(VecDeque::new());
        }
        let chunk = &mut self.chunks[number];
        match found {
            Ok(place) => {
                chunk[place].1 = by;
                return;
            }
            Err(place) if chunk.len() < CHUNK => chunk.insert(place, (at, by)),
            // Before the first of all, or behind the last: what is full stays so.
            Err(0) => self.chunks.insert(number, VecDeque::from([(at, by)])),
            Err(CHUNK) => self.chunks.insert(number + 1, VecDeque::from([(at, by)])),
            Err(place) => {
                let mut upper = chunk.split_off(CHUNK / 2);
                match place.checked_sub(CHUNK / 2) {
                    Some(place) => upper.insert(place, (at, by)),
                    None => chunk.insert(place, (at, by)),
                }
                self.chunks.insert(number + 1, upper);
            }
        }
        self.count += 1;
    }

    fn remove(&mut self, at: &MappedAt) -> Option<DoneBy> {
        let (number, found) = self.find(at);
        let (_, by) = self.chunks[number].remove(found.ok()?)?;
        self.count -= 1;
        if self.chunks.len() > 1 {
            self.join(number);
        }
        Some(by)
    }

    /// Joins a chunk with the next if it is empty, or both together are no more than half of one, so that there are no more chunks
    /// than the mappings need.
    fn join(&mut self, number: usize) {
        if self.chunks[number].is_empty() {
            self.chunks.remove(number);
            return;
        }
        let number = number.min(self.chunks.len() - 2);
        if self.chunks[number].len() + self.chunks[number + 1].len() <= CHUNK / 2 {
            let upper = self.chunks.remove(number + 1);
            self.chunks[number].extend(upper);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }
}

impl BufferMappings {
    /// Puts one in.
    #[inline]
    pub(crate) fn insert(&mut self, at: MappedAt, by: DoneBy) {
        if self.many.count == 0 && self.one.is_none_or(|(other, _)| other == at) {
            self.one = Some((at, by));
        } else {
            self.insert_beside(at, by);
        }
    }

    #[inline(never)]
    fn insert_beside(&mut self, at: MappedAt, by: DoneBy) {
        self.one.take().into_iter().chain([(at, by)]).for_each(|entry| self.many.insert(entry));
    }

    /// Takes one out.
    #[inline]
    pub(crate) fn remove(&mut self, at: &MappedAt) -> Option<DoneBy> {
        match self.one {
            Some((one, by)) if one == *at => {
                self.one = None;
                Some(by)
            }
            Some(_) => None,
            None => self.remove_beside(at),
        }
    }

    #[inline(never)]
    fn remove_beside(&mut self, at: &MappedAt) -> Option<DoneBy> {
        if self.many.count == 0 { None } else { self.many.remove(at) }
    }

    /// Whether there is one at this place.
    #[inline]
    pub fn has(&self, at: &MappedAt) -> bool {
        match &self.one {
            Some((one, _)) => one == at,
            None => self.many.count > 0 && self.many.find(at).1.is_ok(),
        }
    }

    /// All, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (&MappedAt, &DoneBy)> {
        self.one.iter().chain(self.many.iter()).map(|(at, by)| (at, by))
    }

    /// Where they are.
    pub fn keys(&self) -> impl Iterator<Item = &MappedAt> {
        self.iter().map(|(at, _)| at)
    }

    /// By which handles they were made, to be changed.
    pub(crate) fn makers_mut(&mut self) -> impl Iterator<Item = &mut DoneBy> {
        self.one.iter_mut().chain(self.many.chunks.iter_mut().flatten()).map(|(_, by)| by)
    }

    /// The first that is there or behind.
    pub(crate) fn at_or_behind(&self, from: MappedAt) -> Option<MappedAt> {
        if let Some((at, _)) = self.one {
            return (at >= from).then_some(at);
        }
        let (number, Ok(place) | Err(place)) = self.many.find(&from);
        let rest = self.many.chunks.get(number..)?;
        rest.iter().flatten().nth(place).map(|(at, _)| *at)
    }

    /// Keeps those whose place is such.
    pub(crate) fn retain(&mut self, stays: impl Fn(&MappedAt) -> bool) {
        let kept = mem::take(self);
        kept.iter().filter(|(at, _)| stays(at)).for_each(|(at, by)| self.insert(*at, *by));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.one.is_some()) + self.many.count
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.one.is_none() && self.many.count == 0
    }
}

impl FromIterator<(MappedAt, DoneBy)> for BufferMappings {
    fn from_iter<I: IntoIterator<Item = (MappedAt, DoneBy)>>(mappings: I) -> Self {
        let mut all = Self::default();
        mappings.into_iter().for_each(|(at, by)| all.insert(at, by));
        all
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use dma_types::Iova;
    use iommu_engine::domain::DomainKey;

    use super::*;
    use crate::handles::handle::HandleId;

    fn at(place: u64) -> MappedAt {
        (DomainKey(place % 2), Iova::new(place << 12))
    }

    fn by(number: usize) -> DoneBy {
        DoneBy::itself(HandleId(number as u64))
    }

    /// Puts each of these in, or takes it out if it is there.
    fn are_as_in_a_tree(places: impl IntoIterator<Item = u64>) -> BufferMappings {
        let (mut mappings, mut all) = (BufferMappings::default(), BTreeMap::new());
        for (number, place) in places.into_iter().enumerate() {
            let at = at(place);
            assert_eq!(mappings.has(&at), all.contains_key(&at));
            if let Some(gone) = all.remove(&at) {
                assert_eq!(mappings.remove(&at), Some(gone));
            } else {
                assert_eq!(mappings.remove(&at), None);
                all.insert(at, by(number));
                mappings.insert(at, by(number));
            }
            assert_eq!((mappings.len(), mappings.is_empty()), (all.len(), all.is_empty()));
            let from = self::at(place / 2);
            let behind = all.range(from..).next().map(|(at, _)| *at);
            assert_eq!(mappings.at_or_behind(from), behind);
            if number % 61 < 8 {
                assert!(mappings.iter().eq(&all));
            }
        }
        assert!(mappings.iter().eq(&all));
        mappings
    }

    #[test]
    fn one_or_many_they_are_what_a_tree_would_have() {
        // One alone, several, and none in between.
        for places in ["11", "1221", "123321", "121323", "3123121", "12345", "5432112345", "1122"] {
            let mut mappings = are_as_in_a_tree(places.bytes().map(u64::from));
            mappings.makers_mut().for_each(|it| *it = by(7));
            let of_one = |at: &MappedAt| at.0 == DomainKey(1);
            let kept: Vec<_> = mappings.keys().copied().filter(of_one).collect();
            mappings.retain(of_one);
            assert!(mappings.keys().eq(&kept) && mappings.iter().all(|(_, it)| *it == by(7)));
        }
    }

    #[test]
    fn very_many_are_too_and_take_no_more_memory_than_they_need() {
        let most = 20 * CHUNK as u64;
        let capacity = |mappings: &BufferMappings| {
            mappings.many.chunks.iter().map(VecDeque::capacity).sum::<usize>()
        };
        let ascending = are_as_in_a_tree((0..most).map(|it| 2 * it));
        let descending = are_as_in_a_tree((0..most).rev().map(|it| 2 * it));
        for in_order in [ascending, descending] {
            assert!(capacity(&in_order) <= most as usize + CHUNK);
        }
        // Some twice, in no order.
        let mixed = are_as_in_a_tree((0..4 * most).map(|it| it * 7919 % 6007 % most));
        assert!(!mixed.is_empty() && capacity(&mixed) <= 8 * mixed.len() + CHUNK);
        let gone = (0..most).chain((0..most).map(|it| it * 7919 % most));
        let gone = are_as_in_a_tree(gone);
        assert!(gone.is_empty() && gone.many.chunks.len() == 1);
    }
}
