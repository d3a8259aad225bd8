//! Random trees of handles: after each step, each has what the model says, which is within what its ancestors have, and the
//! device reaches what was mapped by those that are good, in the domain where it is by those that are good, and nothing else
//! (R2, R3).

use std::collections::{BTreeMap, BTreeSet};

use libdma::protocol::Rights;
use libdma::protocol::call::{BufferInfo, Opcode};
use libdma::protocol::derive::{Copy, Kind, NO_LIMITS, Restrict};
use libdma::protocol::domain::{Create, DomainInfo, Enter, Entered, Leave};
use libdma::protocol::handle::HandleInfo;
use libdma::{Error, Handle};
use proptest::prelude::*;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::{PAGE, number, reads, revoke};
use crate::rig::Rig;
use crate::tickets::{greeted, offer};
use crate::vendor::Vendor;

both! {
    r2_r3_random_trees_of_handles_are_what_the_model_says,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Another handle to the same, with these rights.
    Copy(usize, u32),
    /// One within bounds: so many pages from a place on.
    Restrict(usize, u32, u64, u64),
    /// A buffer that is mapped at once.
    Allocate(usize),
    /// A mapping of a buffer by a device's handle, or in a domain by that's.
    Map(usize, usize),
    /// A domain.
    Domain(usize),
    /// The device enters a domain, by a handle of its own and one of the domain's.
    Enter(usize, usize),
    /// The device is back in its own.
    Leave(usize),
    /// One revokes another.
    Revoke(usize, usize),
    /// One revokes a closed one that something is left of, if there is any.
    RevokeClosed(usize, usize),
    /// One revokes all below it.
    RevokeAll(usize),
    Close(usize),
    /// A device's handle is copied; the copy maps a buffer, is copied, if so, and closed.
    MapAndClose(usize, usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = 0..64usize;
    let step = prop_oneof![
        3 => (one.clone(), any::<u32>()).prop_map(|(at, rights)| Step::Copy(at, rights)),
        3 => (one.clone(), any::<u32>(), 0..64u64, 1..64u64)
            .prop_map(|(at, rights, first, pages)| Step::Restrict(at, rights, first, pages)),
        5 => one.clone().prop_map(Step::Allocate),
        4 => (one.clone(), one.clone()).prop_map(|(at, buffer)| Step::Map(at, buffer)),
        2 => one.clone().prop_map(Step::Domain),
        2 => (one.clone(), one.clone()).prop_map(|(at, domain)| Step::Enter(at, domain)),
        1 => one.clone().prop_map(Step::Leave),
        3 => (one.clone(), one.clone()).prop_map(|(by, what)| Step::Revoke(by, what)),
        2 => (one.clone(), one.clone()).prop_map(|(by, what)| Step::RevokeClosed(by, what)),
        2 => one.clone().prop_map(Step::RevokeAll),
        3 => one.clone().prop_map(Step::Close),
        3 => (one.clone(), one, any::<bool>())
            .prop_map(|(at, buffer, is_copied)| Step::MapAndClose(at, buffer, is_copied)),
    ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Device,
    /// The domain of this number.
    Domain(u64),
    /// The buffer of this number.
    Buffer(u64),
}

/// What the model knows of a handle.
struct Known {
    /// None once it is closed: then it is there for what came of it.
    handle: Option<Handle>,
    parent: Option<u64>,
    rights: Rights,
    /// The I/O addresses that are its own, if it has any of its own.
    range: (u64, u64),
    /// The handles within whose bounds it is, from the innermost on.
    within: Vec<u64>,
    of: Of,
    revoked: bool,
}

impl Known {
    fn is_good(&self) -> bool {
        self.handle.is_some() && !self.revoked
    }

    fn handle(&self) -> &Handle {
        self.handle.as_ref().unwrap()
    }

    /// What deriving from a device's handle is answered by one that this is not, or that may not.
    fn refuses(&self, right: Rights) -> Option<Error> {
        match () {
            () if self.revoked => Some(Error::Revoked),
            () if !self.rights.contains(right) => Some(Error::NotPermitted),
            () if self.of != Of::Device => Some(Error::WrongHandleKind),
            () => None,
        }
    }
}

/// By whom something was done.
#[derive(Clone, Copy)]
struct By {
    /// The handle; when nothing is left of it, what that came of.
    handle: u64,
    /// Whether it was done by one that came of that and of which nothing is left.
    is_left: bool,
}

impl By {
    fn itself(handle: u64) -> Self {
        Self { handle, is_left: false }
    }

    /// Whether it is by what was revoked: these, or all that came of one.
    fn is_of(&self, ended: &BTreeSet<u64>, below: Option<u64>) -> bool {
        ended.contains(&self.handle) || self.is_left && below == Some(self.handle)
    }
}

#[derive(Default)]
struct Model {
    handles: BTreeMap<u64, Known>,
    /// For each mapping, in a domain or the device's own, the buffer and by whom.
    mappings: BTreeMap<(Option<u64>, u64), (u64, By)>,
    /// The bounds that each buffer came by.
    buffers: BTreeMap<u64, Vec<u64>>,
    /// The domain that the device is in, if it is not its own, and the two by which it has entered.
    inside: Option<(u64, [By; 2])>,
}

/// Where bounds start.
const BASE: u64 = 0x2_0000_0000;

impl Model {
    /// One of those that are as wanted.
    fn pick_of(&self, at: usize, wanted: impl Fn(&Known) -> bool) -> Option<u64> {
        let all = self.handles.iter().filter(|(_, known)| wanted(known));
        let numbers: Vec<u64> = all.map(|(number, _)| *number).collect();
        numbers.get(at % numbers.len().max(1)).copied()
    }

    /// An open one.
    fn pick(&self, at: usize) -> u64 {
        self.pick_of(at, |known| known.handle.is_some()).unwrap()
    }

    /// By which an open one is picked.
    fn place_of(&self, number: u64) -> usize {
        let before = self.handles.range(..number);
        before.filter(|(_, known)| known.handle.is_some()).count()
    }

    fn below(&self, of: u64) -> BTreeSet<u64> {
        let mut below = BTreeSet::new();
        // Children have higher numbers than their parents.
        for (number, known) in &self.handles {
            if known.parent.is_some_and(|parent| parent == of || below.contains(&parent)) {
                below.insert(*number);
            }
        }
        below
    }

    /// The nearest open one that it came of.
    fn open_above(&self, of: u64) -> Option<u64> {
        let parent = self.handles[&of].parent?;
        let is_open = self.handles[&parent].handle.is_some();
        if is_open { Some(parent) } else { self.open_above(parent) }
    }

    fn add(&mut self, number: u64, known: Known) {
        self.handles.insert(number, known);
    }

    /// How many were not revoked before of those that are now: these, which are all that came of one if so.
    fn revoked(&mut self, ended: &BTreeSet<u64>, below: Option<u64>) -> u64 {
        let mut count = 0;
        for number in ended {
            let known = self.handles.get_mut(number).unwrap();
            count += u64::from(known.is_good());
            known.revoked = true;
        }
        self.mappings.retain(|_, (_, by)| !by.is_of(ended, below));
        self.inside = self.inside.filter(|(_, by)| !by.iter().any(|by| by.is_of(ended, below)));
        self.tidy();
        count
    }

    /// Forgets the mappings of buffers that nobody holds a good handle to, and domains.
    fn tidy(&mut self) {
        let held: Vec<Of> =
            self.handles.values().filter(|it| it.is_good()).map(|it| it.of).collect();
        let is_held = |domain: &u64| held.contains(&Of::Domain(*domain));
        self.mappings.retain(|(domain, _), (buffer, _)| {
            held.contains(&Of::Buffer(*buffer)) && domain.as_ref().is_none_or(is_held)
        });
        self.buffers.retain(|buffer, _| held.contains(&Of::Buffer(*buffer)));
        self.inside = self.inside.filter(|(domain, _)| is_held(domain));
    }

    /// Closes a handle. It is known for as long as one that came of it is open; then its parent has what it has mapped.
    fn close(&mut self, number: u64) {
        drop(self.handles.get_mut(&number).unwrap().handle.take());
        let mut next = Some(number);
        while let Some(number) = next.take() {
            let is_parent = self.handles.values().any(|known| known.parent == Some(number));
            if is_parent || self.handles[&number].handle.is_some() {
                break;
            }
            next = self.handles.remove(&number).unwrap().parent;
            let parent = next.unwrap();
            let entered = self.inside.iter_mut().flat_map(|(_, by)| by);
            let by = self.mappings.values_mut().map(|(_, by)| by).chain(entered);
            let left = By { handle: parent, is_left: true };
            by.filter(|by| by.handle == number).for_each(|by| *by = left);
        }
        self.tidy();
    }
}

fn run(vendor: Vendor, steps: &[Step]) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let mut model = Model::default();
    let root = number(device.handle());
    let all = Known {
        handle: Some(greeted(device.derive(Rights::DEVICE).unwrap())),
        parent: None,
        rights: Rights::DEVICE,
        range: (0, u64::MAX),
        within: Vec::new(),
        of: Of::Device,
        revoked: false,
    };
    let first = number(all.handle());
    model.add(first, all);
    let mut ever = Vec::new();
    for step in steps {
        take(&mut model, &mut ever, first, *step);
        check(&rig, &model, &ever);
    }
    assert!(root < first);
    drop((model, device));
    assert_eq!(rig.usage().live_runs, 0);
    assert_eq!(rig.service.lock().accounts().iter().count(), 0);
    rig.check();
}

fn take(model: &mut Model, ever: &mut Vec<u64>, first: u64, step: Step) {
    match step {
        Step::Copy(at, rights) => {
            let parent = model.pick(at);
            let known = &model.handles[&parent];
            let rights = Rights::from_bits_truncate(rights);
            let kind = U32::new(Kind::Copy as u32);
            let copy = Copy { kind, rights: U32::new(rights.bits()) };
            let expected = match () {
                () if known.revoked => Some(Error::Revoked),
                () if !known.rights.contains(rights) => Some(Error::NotPermitted),
                () => None,
            };
            let derived = known.handle().derive(&copy);
            assert_eq!(derived.as_ref().err().copied(), expected);
            if let Ok(handle) = derived {
                let (range, within) = (known.range, known.within.clone());
                let (of, revoked) = (known.of, false);
                let parent = Some(parent);
                let new = number(&handle);
                let handle = Some(handle);
                let copy = Known { handle, parent, rights, range, within, of, revoked };
                model.add(new, copy);
            }
        }
        Step::Restrict(at, rights, page, pages) => {
            let parent = model.pick(at);
            let known = &model.handles[&parent];
            let rights = Rights::from_bits_truncate(rights) & Rights::DEVICE;
            let (start, last) = (BASE + page * PAGE, BASE + (page + pages) * PAGE - 1);
            let request = Restrict {
                kind: U32::new(Kind::Restrict as u32),
                rights: U32::new(rights.bits()),
                access: U32::new(3),
                first: U64::new(start),
                last: U64::new(last),
                limits: NO_LIMITS,
                ..Restrict::new_zeroed()
            };
            let expected = match () {
                () if known.revoked => Some(Error::Revoked),
                () if matches!(known.of, Of::Buffer(_)) => Some(Error::WrongHandleKind),
                () if !known.rights.contains(rights) => Some(Error::NotPermitted),
                () if start < known.range.0 || last > known.range.1 => Some(Error::NotPermitted),
                () => None,
            };
            let derived = known.handle().derive(&request);
            assert_eq!(derived.as_ref().err().copied(), expected);
            if let Ok(handle) = derived {
                let new = number(&handle);
                let mut within = known.within.clone();
                within.push(new);
                let (range, parent, of) = ((start, last), Some(parent), known.of);
                let handle = Some(handle);
                let part = Known { handle, parent, rights, range, within, of, revoked: false };
                model.add(new, part);
            }
        }
        Step::Allocate(at) => {
            let parent = model.pick(at);
            let known = &model.handles[&parent];
            let expected = known.refuses(Rights::ALLOCATE);
            let derived = known.handle().derive(&crate::hostile::allocate(PAGE));
            match (derived, expected) {
                // Its addresses may all be in use.
                (Err(Error::NoAddressSpace), None) => {}
                (derived, expected) => {
                    assert_eq!(derived.as_ref().err().copied(), expected);
                    let Ok(handle) = derived else { return };
                    let handle = greeted(handle);
                    let rights = known.rights & Rights::BUFFER;
                    let (range, within) = (known.range, known.within.clone());
                    let id = number(&handle);
                    // It is told what it is only if it may ask.
                    let Ok(info) = handle.call::<BufferInfo>(Opcode::BufferInfo, &[0u8; 0]) else {
                        assert!(!rights.contains(Rights::INSPECT));
                        return;
                    };
                    let (buffer, iova) = (info.buffer.get(), info.iova.get());
                    assert!(iova >= range.0 && iova + (PAGE - 1) <= range.1);
                    ever.push(iova);
                    model.mappings.insert((None, iova), (buffer, By::itself(parent)));
                    model.buffers.insert(buffer, within.clone());
                    let (handle, parent, of) = (Some(handle), Some(parent), Of::Buffer(buffer));
                    let revoked = false;
                    let new = Known { handle, parent, rights, range, within, of, revoked };
                    model.add(id, new);
                }
            }
        }
        Step::Map(at, of) => {
            let by = model.pick(at);
            let known = &model.handles[&by];
            let of = model.pick_of(of, |it| it.handle.is_some() && matches!(it.of, Of::Buffer(_)));
            let Some(Of::Buffer(buffer)) = of.map(|of| model.handles[&of].of) else { return };
            let space = match known.of {
                Of::Domain(domain) => Some(domain),
                _ => None,
            };
            let knows = |came: &Vec<u64>| known.within.last().is_none_or(|own| came.contains(own));
            let expected = match () {
                () if known.revoked => Some(Error::Revoked),
                () if matches!(known.of, Of::Buffer(_)) => Some(Error::WrongHandleKind),
                () if !known.rights.contains(Rights::MAP) => Some(Error::NotPermitted),
                () => match model.buffers.get(&buffer) {
                    Some(came) if knows(came) => None,
                    Some(_) => Some(Error::WrongOwner),
                    // Nobody holds a good handle to it: it is revoked for those who knew it.
                    None => return,
                },
            };
            match (super::map(known.handle(), buffer), expected) {
                (Err(Error::NoAddressSpace), None) => {}
                (Ok(iova), None) => {
                    assert!(iova >= known.range.0 && iova + (PAGE - 1) <= known.range.1);
                    ever.push(iova);
                    model.mappings.insert((space, iova), (buffer, By::itself(by)));
                }
                (mapped, expected) => assert_eq!(mapped.err(), expected),
            }
        }
        Step::Domain(at) => {
            let parent = model.pick(at);
            let known = &model.handles[&parent];
            let create = Create { kind: U32::new(Kind::Domain as u32), ..Create::new_zeroed() };
            let derived = known.handle().derive(&create);
            assert_eq!(derived.as_ref().err().copied(), known.refuses(Rights::ATTACH));
            let Ok(handle) = derived else { return };
            let (handle, rights) = (greeted(handle), known.rights & Rights::DOMAIN);
            let (range, within, new) = (known.range, known.within.clone(), number(&handle));
            let Ok(info) = handle.call::<DomainInfo>(Opcode::DomainInfo, &[0u8; 0]) else {
                assert!(!rights.contains(Rights::INSPECT));
                return;
            };
            let of = Of::Domain(info.domain.get());
            let (handle, parent, revoked) = (Some(handle), Some(parent), false);
            model.add(new, Known { handle, parent, rights, range, within, of, revoked });
        }
        Step::Enter(at, domain) => {
            let may = |it: &Known, rights| it.is_good() && it.rights.contains(rights);
            let by = model.pick_of(at, |it| it.of == Of::Device && may(it, Rights::ATTACH));
            let is_domain = |it: &Known| matches!(it.of, Of::Domain(_));
            let of = model.pick_of(domain, |it| is_domain(it) && may(it, Rights::SHARE));
            let (Some(by), Some(of)) = (by, of) else { return };
            let Of::Domain(domain) = model.handles[&of].of else { return };
            if model.inside.is_some_and(|(before, _)| before == domain) {
                return;
            }
            let ticket = offer(model.handles[&of].handle(), Rights::empty(), None).unwrap();
            let enter = model.handles[&by].handle().call(Opcode::Enter, &Enter { ticket });
            let entered: Entered = enter.unwrap();
            assert_eq!(entered.domain.get(), domain);
            model.inside = Some((domain, [by, of].map(By::itself)));
        }
        Step::Leave(at) => {
            let may = |it: &Known| it.refuses(Rights::ATTACH).is_none() && it.is_good();
            let Some(by) = model.pick_of(at, may) else { return };
            let domain = U64::new(model.inside.map_or(0, |(domain, _)| domain));
            let mut leave = Leave { domain };
            let left = model.handles[&by].handle().call_bytes(Opcode::Leave, leave.as_mut_bytes());
            assert_eq!(left.is_ok(), model.inside.take().is_some());
        }
        Step::Revoke(by, what) => {
            // Closed ones too.
            let what = model.pick_of(what, |_| true).unwrap();
            revoke_one(model, by, what);
        }
        Step::RevokeClosed(by, what) => {
            let closed = model.pick_of(what, |it| it.handle.is_none());
            closed.into_iter().for_each(|what| revoke_one(model, by, what));
        }
        Step::RevokeAll(by) => {
            let by = model.pick(by);
            let ended = model.below(by);
            let known = &model.handles[&by];
            let revoked = revoke(known.handle(), 0);
            if known.revoked {
                assert_eq!(revoked, Err(Error::Revoked));
            } else {
                assert_eq!(Ok(model.revoked(&ended, Some(by))), revoked);
            }
        }
        Step::Close(at) => {
            let number = model.pick(at);
            // Somebody is to stay.
            if number != first {
                model.close(number);
            }
        }
        Step::MapAndClose(at, buffer, is_copied) => {
            let is_mapper =
                |it: &Known| it.is_good() && it.of == Of::Device && it.rights.contains(Rights::MAP);
            let Some(from) = model.pick_of(at, is_mapper) else { return };
            let rights = model.handles[&from].rights.bits();
            take(model, ever, first, Step::Copy(model.place_of(from), rights));
            let (copy, _) = model.handles.last_key_value().unwrap();
            let place = model.place_of(*copy);
            take(model, ever, first, Step::Map(place, buffer));
            if is_copied {
                take(model, ever, first, Step::Copy(place, Rights::INSPECT.bits() & rights));
            }
            take(model, ever, first, Step::Close(place));
        }
    }
}

/// One revokes another.
fn revoke_one(model: &mut Model, by: usize, what: u64) {
    let by = model.pick(by);
    let known = &model.handles[&by];
    let above = model.below(what).contains(&by);
    let administers =
        known.of == Of::Device && known.rights.contains(Rights::ADMINISTER) && by != what && !above;
    let may = model.below(by).contains(&what) || administers;
    let expected = match () {
        () if known.revoked => Err(Error::Revoked),
        () if !may => Err(Error::NotPermitted),
        () => Ok(()),
    };
    let revoked = revoke(known.handle(), what);
    assert_eq!(revoked.map(drop), expected);
    if let Ok(count) = revoked {
        let mut ended = model.below(what);
        ended.insert(what);
        assert_eq!(model.revoked(&ended, None), count);
    }
}

/// Each handle is told what the model has of it, and the device reaches what is mapped.
fn check(rig: &Rig, model: &Model, ever: &[u64]) {
    for (number, known) in &model.handles {
        let Some(handle) = &known.handle else { continue };
        let told = handle.call::<HandleInfo>(Opcode::HandleInfo, &[0u8; 0]);
        if known.revoked {
            assert_eq!(told.map(drop), Err(Error::Revoked));
            continue;
        }
        let told = told.unwrap();
        assert_eq!(told.handle.get(), *number);
        assert_eq!(told.rights.get(), known.rights.bits());
        assert_eq!((told.first.get(), told.last.get()), known.range);
        if let Some(parent) = model.open_above(*number) {
            assert_eq!(told.parent.get(), parent);
            let parent = &model.handles[&parent];
            assert!(!parent.revoked, "what came of it would be revoked too");
            assert!(parent.rights.contains(known.rights), "R3");
            assert!(parent.range.0 <= known.range.0 && known.range.1 <= parent.range.1, "R3");
        }
    }
    for iova in ever {
        let there = (model.inside.map(|(domain, _)| domain), *iova);
        assert_eq!(reads(rig, *iova), model.mappings.contains_key(&there), "{iova:#x}");
    }
}

fn r2_r3_random_trees_of_handles_are_what_the_model_says(vendor: Vendor) {
    let cases = ProptestConfig::with_cases(if vendor == Vendor::Vtd { 200 } else { 100 });
    proptest!(cases, |(steps in steps())| run(vendor, &steps));
}
