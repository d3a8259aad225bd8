//! What lives, and what lived lately.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use dma_types::{Access, Iova};

use super::note::Tag;
use super::note::raw::Named;
use super::report::{Act, Found, Report};
use super::{Kind, Note, Place, Space, Thing};
use crate::io_address::WrongDevice;

/// How many things that are gone are remembered.
const REMEMBERED: usize = 1024;

/// What lives, and what lived lately.
pub(super) struct Registry {
    pub(super) live: BTreeMap<u64, Live>,
    /// The same, by address space and I/O address: there may be several at one address.
    by_address: BTreeSet<(u64, u64, u64)>,
    /// Oldest first.
    pub(super) gone: VecDeque<Gone>,
    last: u64,
}

pub(super) struct Live {
    pub(super) thing: Thing,
    pub(super) space: Space,
    /// Since where it is the device's; nothing while it is the CPU's, and for what both see at once.
    of_device: Option<Place>,
    /// What it is made of, and ends with: a mapping's buffer, a stream's memory, the domain of a stay.
    of: Vec<Tag>,
    /// The address space of that domain, if it is a stay.
    pub(super) within: Option<Space>,
}

pub(super) struct Gone {
    pub(super) thing: Thing,
    pub(super) space: Space,
    pub(super) within: Option<Space>,
    pub(super) at: Option<Place>,
}

impl Registry {
    pub(super) const fn new() -> Self {
        Self { live: BTreeMap::new(), by_address: BTreeSet::new(), gone: VecDeque::new(), last: 0 }
    }

    /// Something was made. What the device alone may touch for now is `of_device`.
    pub(super) fn made(&mut self, note: &Note<'_>, made: Place, of_device: bool) -> Tag {
        let Note { kind, label, space, iova, bytes, access } = *note;
        self.last += 1;
        let number = self.last;
        if let Some(iova) = iova {
            self.by_address.insert((space.number, iova.get(), number));
        }
        let label: Arc<str> = Arc::from(label);
        let thing = Thing { kind, label, device: space.device(), iova, bytes, access, made };
        let of_device = of_device.then_some(made);
        self.live.insert(number, Live { thing, space, of_device, of: Vec::new(), within: None });
        Tag(number)
    }

    /// Something was made of what has these tags, and ends with the first of them that ends.
    pub(super) fn made_of(&mut self, note: &Note<'_>, made: Place, of: Vec<Tag>) -> Tag {
        let tag = self.made(note, made, false);
        let first = of.first().and_then(|first| self.live.get(&first.0));
        // What has no name of its own has that of what it is made of.
        let label = first.map(|live| live.thing.label.clone());
        let within = first.map(|live| live.space).filter(|_| note.kind == Kind::Stay);
        if let Some(live) = self.live.get_mut(&tag.0) {
            (live.of, live.within) = (of, within);
            if matches!(note.kind, Kind::Mapping | Kind::Stay | Kind::Declared) {
                live.thing.label = label.unwrap_or(live.thing.label.clone());
            }
        }
        tag
    }

    /// It was given back.
    pub(super) fn gone(&mut self, tag: Tag, at: Option<Place>) {
        let Some(Live { thing, space, within, .. }) = self.live.remove(&tag.0) else { return };
        if let Some(iova) = thing.iova {
            self.by_address.remove(&(space.number, iova.get(), tag.0));
        }
        let is_made_of = matches!(thing.kind, Kind::Buffer | Kind::StreamMemory | Kind::Domain);
        // Nobody asks for what had no address, but for where the device was.
        if thing.iova.is_some() || within.is_some() {
            if self.gone.len() >= REMEMBERED {
                self.gone.pop_front();
            }
            self.gone.push_back(Gone { thing, space, within, at });
        }
        if is_made_of {
            self.end_all(None, |live| live.of.contains(&tag));
        }
    }

    /// What of this kind lives at this address: the newest for which `fits`, or else the newest.
    pub(super) fn find(
        &self,
        space: Space,
        kind: Kind,
        iova: Iova,
        fits: impl Fn(&Thing) -> bool,
    ) -> Option<Tag> {
        let at = (space.number, iova.get(), 0)..=(space.number, iova.get(), u64::MAX);
        let of_kind = || {
            self.by_address.range(at.clone()).rev().filter_map(|&(_, _, number)| {
                let thing = &self.live.get(&number)?.thing;
                (thing.kind == kind).then_some((number, thing))
            })
        };
        let found = of_kind().find(|(_, thing)| fits(thing)).or_else(|| of_kind().next());
        found.or_else(|| self.by_another_handle(space, kind, iova)).map(|(number, _)| Tag(number))
    }

    /// What lives at this address in this session, and was made by another handle of the device's.
    fn by_another_handle(&self, space: Space, kind: Kind, iova: Iova) -> Option<(u64, &Thing)> {
        let is_it = |live: &Live| {
            let Live { thing, .. } = live;
            thing.iova == Some(iova) && thing.kind == kind && live.space.is_own_of(space)
        };
        let found = self.live.iter().rev().find(|(_, live)| is_it(live));
        found.map(|(&number, live)| (number, &live.thing))
    }

    /// What was given back last, of what was at this address.
    pub(super) fn last_gone(
        &self,
        space: Space,
        kind: Kind,
        iova: Iova,
    ) -> Option<(&Thing, Option<Place>)> {
        self.find_gone(space, kind, |thing| thing.iova == Some(iova))
    }

    /// What was given back last, of what `is_it`.
    fn find_gone(
        &self,
        space: Space,
        kind: Kind,
        is_it: impl Fn(&Thing) -> bool,
    ) -> Option<(&Thing, Option<Place>)> {
        let last = |is_in: &dyn Fn(Space) -> bool| {
            let was = |it: &&Gone| is_in(it.space) && it.thing.kind == kind && is_it(&it.thing);
            self.gone.iter().rev().find(was).map(|gone| (&gone.thing, gone.at))
        };
        // Or by another handle of the session's.
        last(&|it| it == space).or_else(|| last(&|it| it.is_own_of(space)))
    }

    /// Something of this kind was given back by its address. What is wrong about it, and it stays then.
    pub(super) fn given_back(
        &mut self,
        space: Space,
        kind: Kind,
        iova: Iova,
        bytes: Option<u64>,
        access: Option<Access>,
        at: Place,
    ) -> Vec<Report> {
        let reports = self.wrong(space, kind, iova, bytes, access, at);
        // What does not match exactly unmaps nothing (rule R7).
        if reports.is_empty()
            && let Some(tag) = self.find(space, kind, iova, fits(bytes, access))
        {
            self.gone(tag, Some(at));
        }
        reports
    }

    /// What is wrong about giving this back, if anything.
    pub(super) fn wrong(
        &self,
        space: Space,
        kind: Kind,
        iova: Iova,
        bytes: Option<u64>,
        access: Option<Access>,
        at: Place,
    ) -> Vec<Report> {
        let found = self.find(space, kind, iova, fits(bytes, access));
        let Some(thing) = found.and_then(|tag| self.thing(tag)) else {
            return self.not_there(space, kind, iova, Act::GiveBack, at);
        };
        let (thing, mut reports) = (thing.clone(), Vec::new());
        if let Some(bytes) = bytes.filter(|&bytes| bytes != thing.bytes) {
            let (thing, address, act) = (thing.clone(), iova, Act::GiveBack);
            reports.push(Report::WrongSize { thing, address, bytes, act, at });
        }
        if let Some(access) = access.filter(|&access| Some(access) != thing.access) {
            reports.push(Report::WrongDirection { thing, access, act: Act::GiveBack, at });
        }
        reports
    }

    /// What of these mappings, which one call was to unmap, it named more than once.
    pub(super) fn named_twice(
        &self,
        space: Space,
        mappings: &[(Iova, u64)],
        at: Place,
    ) -> Vec<Report> {
        let again = mappings.iter().enumerate().filter(|&(index, mapping)| {
            mappings.iter().take(index).filter(|it| *it == mapping).count() == 1
        });
        let thing = |&(iova, bytes): &(Iova, u64)| {
            let tag = self.find(space, Kind::Mapping, iova, |_| true)?;
            let thing = self.thing(tag).filter(|thing| thing.bytes == bytes)?.clone();
            Some(Report::NamedTwice { thing, at })
        };
        again.filter_map(|(_, mapping)| thing(mapping)).collect()
    }

    /// Something is not at the address where it should be: because it was given back, or because it never was.
    pub(super) fn not_there(
        &self,
        space: Space,
        kind: Kind,
        iova: Iova,
        act: Act,
        at: Place,
    ) -> Vec<Report> {
        let gone = match act {
            Act::GiveBack => self.last_gone(space, kind, iova),
            Act::Sync | Act::Read | Act::Write => {
                self.find_gone(space, kind, |thing| thing.offset_of(iova).is_some())
            }
        };
        alloc::vec![match gone {
            Some((thing, first)) if act == Act::GiveBack => {
                Report::DoubleFree { thing: thing.clone(), first, again: at }
            }
            Some((thing, freed)) => Report::UseAfterFree { thing: thing.clone(), freed, act, at },
            None => Report::Unknown { device: space.device(), address: iova, act, at },
        }]
    }

    /// Something was to be taken from the device that the driver itself holds.
    pub(super) fn held_by_driver(
        &self,
        space: Space,
        kind: Kind,
        iova: Iova,
        at: Place,
    ) -> Vec<Report> {
        let found = self.find(space, kind, iova, |_| true).and_then(|tag| self.thing(tag));
        let held = |thing: &Thing| Report::Held { thing: thing.clone(), at };
        found.map(held).into_iter().collect()
    }

    /// The pool or stream of this name has nothing at an address that was named to it: what has, or had.
    pub(super) fn not_of(
        &self,
        space: Space,
        kind: Kind,
        name: &str,
        iova: Iova,
        act: Act,
        at: Place,
    ) -> Vec<Report> {
        let found = self.around(space, kind, iova).and_then(|number| self.thing(Tag(number)));
        let Some(thing) = found.cloned() else {
            return self.not_there(space, kind, iova, act, at);
        };
        alloc::vec![if act == Act::GiveBack && thing.iova != Some(iova) {
            Report::Inside { thing, address: iova, at }
        } else {
            Report::WrongOwner { thing, given_to: Arc::from(name), act, at }
        }]
    }

    /// An address was refused as another device's: what is there for that device.
    pub(super) fn wrong_device(
        &self,
        address: Iova,
        wrong: WrongDevice,
        act: Act,
        at: Place,
    ) -> Report {
        let is_it = |live: &&Live| {
            live.space.addresses == Some(wrong.of) && live.thing.offset_of(address).is_some()
        };
        let thing = self.live.values().rev().find(is_it).map(|live| live.thing.clone());
        Report::WrongDevice { thing, address, wrong, act, at }
    }

    /// A free block was written: what it was before.
    pub(super) fn written(
        &self,
        space: Space,
        iova: Iova,
        (offset, value): (u64, u8),
        again: Place,
    ) -> Option<Report> {
        let (thing, freed) = self.last_gone(space, Kind::Block, iova)?;
        Some(Report::WriteAfterFree { thing: thing.clone(), freed, offset, value, again })
    }

    /// What is given out of something of which no more can be given back, as it was dropped: `is_its` says which addresses
    /// are its own. They are told once, and forgotten to live.
    pub(super) fn dropped(
        &mut self,
        space: Space,
        kind: Kind,
        found: Found,
        is_its: impl Fn(Iova) -> bool,
    ) -> Vec<Report> {
        let is_out = |live: &Live| {
            live.space == space && live.thing.kind == kind && live.thing.iova.is_some_and(&is_its)
        };
        let leaks = self.leaks(found, is_out);
        self.end_all(None, is_out);
        leaks
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.live.clear();
        self.by_address.clear();
        self.gone.clear();
    }

    /// What of this kind has this range in it, and where in it the range starts.
    fn around(&self, space: Space, kind: Kind, iova: Iova) -> Option<u64> {
        let before = (space.number, 0, 0)..=(space.number, iova.get(), u64::MAX);
        self.by_address.range(before).rev().map(|&(_, _, number)| number).find(|number| {
            self.live.get(number).is_some_and(|Live { thing, .. }| {
                thing.kind == kind && thing.offset_of(iova).is_some()
            })
        })
    }

    /// A range was synced: it is the device's from now on, or not any more. What is wrong about it.
    pub(super) fn synced(&mut self, named: &Named<'_>, to_device: bool, at: Place) -> Vec<Report> {
        let (Named { space, iova, bytes, access, .. }, act) = (*named, Act::Sync);
        let found = self.around(space, Kind::Raw, iova);
        let Some(live) = found.and_then(|number| self.live.get_mut(&number)) else {
            return self.not_there(space, Kind::Raw, iova, act, at);
        };
        let (thing, mut reports) = (&live.thing, Vec::new());
        let offset = thing.offset_of(iova).unwrap_or_default();
        if bytes > thing.bytes - offset {
            let (thing, address) = (thing.clone(), iova);
            reports.push(Report::WrongSize { thing, address, bytes, act, at });
        }
        if let (Some(access), Some(mapped)) = (access, thing.access)
            && !access.is_within(mapped)
        {
            reports.push(Report::WrongDirection { thing: thing.clone(), access, act, at });
        }
        // What was refused changes nothing (rule R7).
        if reports.is_empty() {
            live.of_device = to_device.then_some(at);
        }
        reports
    }

    /// The CPU read or wrote so many bytes from this address on. What is wrong about it.
    pub(super) fn touched(&self, named: &Named<'_>, act: Act, at: Place) -> Vec<Report> {
        let Named { space, iova, bytes, .. } = *named;
        let found = self.around(space, Kind::Raw, iova);
        let Some(live) = found.and_then(|number| self.live.get(&number)) else {
            return self.not_there(space, Kind::Raw, iova, act, at);
        };
        let (thing, mut reports) = (&live.thing, Vec::new());
        if bytes > thing.bytes - thing.offset_of(iova).unwrap_or_default() {
            let (thing, address) = (thing.clone(), iova);
            reports.push(Report::WrongSize { thing, address, bytes, act, at });
        }
        if let Some(since) = live.of_device {
            reports.push(Report::MissingSync { thing: thing.clone(), since, act, at });
        }
        reports
    }

    /// What lives and has to be given back by itself, oldest first: not what ends with its buffer, and memory not
    /// beside what stands for it.
    pub(super) fn held(&self) -> Vec<Report> {
        let stands = self.live.values().filter(|live| live.thing.kind.stands_for_its_memory());
        let stood_for: BTreeSet<u64> = stands.flat_map(|live| &live.of).map(|tag| tag.0).collect();
        let of = |(number, live): (&u64, &Live)| {
            let is_held = live.thing.kind != Kind::Mapping && !stood_for.contains(number);
            is_held.then(|| Report::Leak { thing: live.thing.clone(), found: Found::Asked })
        };
        self.live.iter().filter_map(of).collect()
    }

    /// What lives and is `wanted`, oldest first.
    pub(super) fn leaks(&self, found: Found, wanted: impl Fn(&Live) -> bool) -> Vec<Report> {
        let leak = |live: &Live| Report::Leak { thing: live.thing.clone(), found };
        self.live.values().filter(|live| wanted(live)).map(leak).collect()
    }

    /// What lives and is `wanted` is gone.
    fn end_all(&mut self, at: Option<Place>, wanted: impl Fn(&Live) -> bool) {
        let of = |(&number, live): (&u64, &Live)| wanted(live).then_some(number);
        let ended: Vec<u64> = self.live.iter().filter_map(of).collect();
        for number in ended {
            self.gone(Tag(number), at);
        }
    }

    /// The lists that this memory was in are not mapped any more.
    pub(super) fn lists_gone(&mut self, memory: Tag, at: Place) {
        let is_list = |it: &Live| it.thing.kind == Kind::Scatter && it.of.contains(&memory);
        self.end_all(Some(at), is_list);
    }

    /// An address space is gone, and what is mapped in it.
    pub(super) fn space_dropped(&mut self, space: Space) {
        self.end_all(None, |live| live.space == space);
    }

    /// How many things that are gone are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.gone.len()
    }

    /// The thing with this tag, while it lives.
    pub(super) fn thing(&self, tag: Tag) -> Option<&Thing> {
        self.live.get(&tag.0).map(|live| &live.thing)
    }
}

/// Whether a thing is so long and mapped so, where that was said.
fn fits(bytes: Option<u64>, access: Option<Access>) -> impl Fn(&Thing) -> bool {
    move |thing| {
        bytes.is_none_or(|bytes| bytes == thing.bytes)
            && (access.is_none() || access == thing.access)
    }
}
