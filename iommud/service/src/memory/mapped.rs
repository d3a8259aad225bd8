//! Where one buffer is mapped.

use alloc::collections::BTreeMap;

use super::mappings::{BufferMapping, MappedAt};

/// All mappings of a buffer, by domain and address.
///
/// Most buffers have one at the most, and it is made and taken away with each transfer: such a one lies here itself, and takes no
/// memory of the heap.
#[derive(Clone, Debug, Default)]
pub struct BufferMappings {
    /// The only one.
    one: Option<(MappedAt, BufferMapping)>,
    /// All, where there are or were several.
    many: BTreeMap<MappedAt, BufferMapping>,
}

impl BufferMappings {
    /// Puts one in.
    #[inline]
    pub(crate) fn insert(&mut self, at: MappedAt, mapping: BufferMapping) {
        if self.many.is_empty() && self.one.is_none_or(|(other, _)| other == at) {
            self.one = Some((at, mapping));
        } else {
            self.many.extend(self.one.take());
            self.many.insert(at, mapping);
        }
    }

    /// Takes one out.
    #[inline]
    pub(crate) fn remove(&mut self, at: &MappedAt) -> Option<BufferMapping> {
        match self.one {
            Some((one, mapping)) if one == *at => {
                self.one = None;
                Some(mapping)
            }
            Some(_) => None,
            None => self.many.remove(at),
        }
    }

    /// The one at this place.
    #[inline]
    pub fn get(&self, at: &MappedAt) -> Option<&BufferMapping> {
        match &self.one {
            Some((one, mapping)) => (one == at).then_some(mapping),
            None => self.many.get(at),
        }
    }

    /// All, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (&MappedAt, &BufferMapping)> {
        self.one.iter().map(|(at, mapping)| (at, mapping)).chain(&self.many)
    }

    /// Where they are.
    pub fn keys(&self) -> impl Iterator<Item = &MappedAt> {
        self.iter().map(|(at, _)| at)
    }

    /// What they are.
    pub fn values(&self) -> impl Iterator<Item = &BufferMapping> {
        self.iter().map(|(_, mapping)| mapping)
    }

    /// The same, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut BufferMapping> {
        self.one.iter_mut().map(|(_, mapping)| mapping).chain(self.many.values_mut())
    }

    /// The first.
    #[inline]
    pub(crate) fn first(&self) -> Option<&BufferMapping> {
        match &self.one {
            Some((_, mapping)) => Some(mapping),
            None => self.many.first_key_value().map(|(_, mapping)| mapping),
        }
    }

    /// The first that is there or behind.
    pub(crate) fn at_or_behind(&self, from: MappedAt) -> Option<MappedAt> {
        match self.one {
            Some((at, _)) => (at >= from).then_some(at),
            None => self.many.range(from..).next().map(|(at, _)| *at),
        }
    }

    /// Keeps those of which this is true.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&MappedAt, &mut BufferMapping) -> bool) {
        if let Some((at, mapping)) = &mut self.one
            && !stays(at, mapping)
        {
            self.one = None;
        }
        self.many.retain(stays);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.one.is_some()) + self.many.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.one.is_none() && self.many.is_empty()
    }
}

impl FromIterator<(MappedAt, BufferMapping)> for BufferMappings {
    fn from_iter<I: IntoIterator<Item = (MappedAt, BufferMapping)>>(mappings: I) -> Self {
        let mut all = Self::default();
        mappings.into_iter().for_each(|(at, mapping)| all.insert(at, mapping));
        all
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use dma_types::Iova;
    use iommu_engine::domain::DomainKey;

    use super::*;
    use crate::account::AccountId;
    use crate::handles::handle::HandleId;
    use crate::handles::tree::DoneBy;

    fn at(place: u64) -> MappedAt {
        (DomainKey(place % 2), Iova::new(place << 12))
    }

    fn mapping(bytes: u64) -> BufferMapping {
        let by = DoneBy::itself(HandleId(1));
        BufferMapping { bytes, account: AccountId::NOBODY, is_strict: false, by }
    }

    #[test]
    fn one_or_many_they_are_what_a_tree_would_have() {
        // Each digit puts one in, or takes it out if it is there: one alone, several, and none in between.
        for places in ["11", "1221", "123321", "121323", "3123121", "12345", "5432112345", "1122"] {
            let (mut mappings, mut all) = (BufferMappings::default(), BTreeMap::new());
            for (bytes, place) in places.bytes().enumerate() {
                let (at, bytes) = (at(place.into()), bytes as u64);
                if let Some(gone) = all.remove(&at) {
                    assert_eq!(mappings.remove(&at), Some(gone));
                } else {
                    all.insert(at, mapping(bytes));
                    mappings.insert(at, mapping(bytes));
                }
                assert!(mappings.iter().eq(&all), "{places}");
                assert_eq!((mappings.len(), mappings.is_empty()), (all.len(), all.is_empty()));
                assert_eq!(mappings.first(), all.values().next());
                for place in 0..64 {
                    let at = self::at(place);
                    assert_eq!(mappings.get(&at), all.get(&at));
                    let behind = all.range(at..).next().map(|(at, _)| *at);
                    assert_eq!(mappings.at_or_behind(at), behind);
                }
            }
            mappings.values_mut().for_each(|it| it.bytes += 1);
            all.values_mut().for_each(|it| it.bytes += 1);
            let of_one = |at: &MappedAt| at.0 == DomainKey(1);
            mappings.retain(|at, _| of_one(at));
            all.retain(|at, _| of_one(at));
            assert_eq!(mappings.values().collect::<Vec<_>>(), all.values().collect::<Vec<_>>());
        }
    }
}
