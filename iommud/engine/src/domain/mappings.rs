//! What is mapped in a domain: clients' buffers, each noted with the addresses that it was given, and what lies at its own
//! addresses.

use dma_types::{Access, Iova, PAGE_SIZE};

use super::{Domain, Mapping, Owner};
use crate::iova::IovaRange;
use crate::payer::Payer;

/// What is noted of a client's mapping. There are many of these: how long it is its addresses tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Note {
    /// The number of its buffer.
    buffer: u64,
    part: Part,
    payer: Payer,
}

/// Which part of its buffer a mapping is of, and what a device may do: where in the buffer it starts, which is a page, and in
/// the bits below a page the [bits](Access::bits) of what it may.
#[derive(Clone, Copy, Debug, Default)]
struct Part(u64);

impl Part {
    #[inline]
    const fn new(offset: u64, access: Access) -> Self {
        Self(offset | access.bits() as u64)
    }

    #[inline]
    const fn offset(self) -> u64 {
        self.0 & !(PAGE_SIZE - 1)
    }

    #[inline]
    const fn access(self) -> Access {
        // By what its bits are. Nothing is mapped for nothing.
        const ALL: [Access; 4] =
            [Access::ReadWrite, Access::Read, Access::Write, Access::ReadWrite];
        ALL[(self.0 & Access::ReadWrite.bits() as u64) as usize]
    }
}

impl Note {
    /// What is noted of a mapping of this buffer.
    #[inline]
    pub(super) const fn of(buffer: u64, mapping: &Mapping) -> Self {
        let Mapping { access, offset, payer, .. } = *mapping;
        Self { buffer, part: Part::new(offset, access), payer }
    }

    /// The mapping of which this is noted, with its length.
    #[inline]
    pub(super) const fn mapping(self, bytes: u64) -> Mapping {
        let Self { buffer, part, payer } = self;
        let (access, owner, offset) = (part.access(), Owner::Buffer(buffer), part.offset());
        Mapping { bytes, access, owner, offset, payer }
    }
}

impl Domain {
    /// Notes what is mapped at an address from now on. A client's addresses have been taken.
    #[inline]
    pub(super) fn note(&mut self, iova: Iova, mapping: &Mapping) {
        match mapping.owner.buffer() {
            Some(buffer) => self.addresses.note(iova, Note::of(buffer, mapping)),
            None => drop(self.fixed.insert(iova, *mapping)),
        }
    }

    /// Puts the addresses of a client's mapping on an account; how long it is.
    pub(crate) fn put_on_account(&mut self, iova: Iova, payer: Payer) -> Option<u64> {
        self.break_chain(iova);
        let (bytes, note) = self.addresses.noted(iova)?;
        self.addresses.note(iova, Note { payer, ..note });
        Some(bytes)
    }

    /// The mapping that starts at this address.
    #[inline]
    pub fn mapping(&self, iova: Iova) -> Option<Mapping> {
        let noted = self.addresses.noted(iova).map(|(bytes, note)| note.mapping(bytes));
        noted.or_else(|| self.chains.at(iova)).or_else(|| self.fixed.get(&iova).copied())
    }

    /// The mapping in which this address lies, and where that starts.
    pub fn lookup(&self, iova: Iova) -> Option<(Iova, Mapping)> {
        let of_client = self.addresses.noted_around(iova).map(as_mapping);
        of_client.or_else(|| self.chains.around(iova)).or_else(|| {
            let (start, mapping) = self.fixed.range(..=iova).next_back()?;
            (iova.get() - start.get() < mapping.bytes).then_some((*start, *mapping))
        })
    }

    /// Whether something is mapped in this range.
    pub fn overlaps(&self, iova: Iova, bytes: u64) -> bool {
        let last = iova.get().saturating_add(bytes.saturating_sub(1));
        let of_client = self.addresses.noted_from(iova).next().map(|(range, _)| range.start);
        let fixed = self.fixed.range(iova..).next().map(|(start, _)| *start);
        let mut next = of_client.into_iter().chain(self.chains.first_from(iova)).chain(fixed);
        self.lookup(iova).is_some() || next.any(|start| start.get() <= last)
    }

    /// Every mapping, by address.
    pub fn mappings(&self) -> impl Iterator<Item = (Iova, Mapping)> {
        let fixed = self.fixed.iter().map(|(iova, mapping)| (*iova, *mapping));
        let of_clients = self.addresses.noted_from(Iova::new(0)).map(as_mapping);
        in_order(fixed, in_order(of_clients, self.chains.mappings()))
    }

    /// How many bytes are mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.mappings().map(|(_, mapping)| mapping.bytes).sum()
    }
}

/// What both have, by address, as each has its own.
fn in_order(
    these: impl Iterator<Item = (Iova, Mapping)>,
    those: impl Iterator<Item = (Iova, Mapping)>,
) -> impl Iterator<Item = (Iova, Mapping)> {
    let (mut these, mut those) = (these.peekable(), those.peekable());
    core::iter::from_fn(move || match (these.peek(), those.peek()) {
        (Some((one, _)), Some((other, _))) if one < other => these.next(),
        (_, Some(_)) => those.next(),
        (_, None) => these.next(),
    })
}

fn as_mapping((range, note): (IovaRange, Note)) -> (Iova, Mapping) {
    (range.start, note.mapping(range.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_the_whole_mapping() {
        for access in [Access::Read, Access::Write, Access::ReadWrite] {
            for offset in [0, PAGE_SIZE, !(PAGE_SIZE - 1)] {
                let (owner, payer) = (Owner::Buffer(u64::MAX - 1), Payer(7));
                let mapping = Mapping { bytes: 3 * PAGE_SIZE, access, owner, offset, payer };
                let note = Note::of(u64::MAX - 1, &mapping);
                assert_eq!(note.mapping(3 * PAGE_SIZE), mapping);
            }
        }
    }
}
