//! Random trees of handles: after each step, each has what the model says, which is within what its ancestors have, and the
//! device reaches what was mapped by those that are good, and nothing else (R2, R3).

use std::collections::{BTreeMap, BTreeSet};

use libdma::protocol::Rights;
use libdma::protocol::call::{BufferInfo, Opcode};
use libdma::protocol::derive::{Copy, Kind, NO_LIMIT, Restrict};
use libdma::protocol::handle::HandleInfo;
use libdma::{Error, Handle};
use proptest::prelude::*;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

use super::{PAGE, number, reads, revoke};
use crate::rig::Rig;
use crate::tickets::greeted;
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
    /// A mapping of a buffer by a device's handle.
    Map(usize, usize),
    /// One revokes another.
    Revoke(usize, usize),
    /// One revokes all below it.
    RevokeAll(usize),
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = 0..64usize;
    let step = prop_oneof![
        3 => (one.clone(), any::<u32>()).prop_map(|(at, rights)| Step::Copy(at, rights)),
        3 => (one.clone(), any::<u32>(), 0..64u64, 1..64u64)
            .prop_map(|(at, rights, first, pages)| Step::Restrict(at, rights, first, pages)),
        5 => one.clone().prop_map(Step::Allocate),
        4 => (one.clone(), one.clone()).prop_map(|(at, buffer)| Step::Map(at, buffer)),
        3 => (one.clone(), one.clone()).prop_map(|(by, what)| Step::Revoke(by, what)),
        1 => one.clone().prop_map(Step::RevokeAll),
        3 => one.prop_map(Step::Close),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the model knows of a handle.
struct Known {
    handle: Handle,
    parent: Option<u64>,
    rights: Rights,
    /// The I/O addresses that are its own, if it has any of its own.
    range: (u64, u64),
    /// The handles within whose bounds it is, from the innermost on.
    within: Vec<u64>,
    /// The buffer that it is of, and by which bounds that came.
    buffer: Option<u64>,
    revoked: bool,
}

#[derive(Default)]
struct Model {
    handles: BTreeMap<u64, Known>,
    /// For each mapping the buffer, by whom, and the bounds it was made within.
    mappings: BTreeMap<u64, (u64, u64)>,
    /// The bounds that each buffer came by.
    buffers: BTreeMap<u64, Vec<u64>>,
}

/// Where bounds start.
const BASE: u64 = 0x2_0000_0000;

impl Model {
    fn pick(&self, at: usize) -> u64 {
        let numbers: Vec<u64> = self.handles.keys().copied().collect();
        numbers[at % numbers.len()]
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

    fn add(&mut self, number: u64, known: Known) {
        self.handles.insert(number, known);
    }

    fn revoked(&mut self, ended: &BTreeSet<u64>) -> u64 {
        let mut count = 0;
        for number in ended {
            let known = self.handles.get_mut(number).unwrap();
            count += u64::from(!std::mem::replace(&mut known.revoked, true));
        }
        self.mappings.retain(|_, (_, by)| !ended.contains(by));
        self.tidy();
        count
    }

    /// Forgets the mappings of buffers that nobody holds a good handle to.
    fn tidy(&mut self) {
        let held: BTreeSet<u64> =
            self.handles.values().filter(|it| !it.revoked).filter_map(|it| it.buffer).collect();
        self.mappings.retain(|_, (buffer, _)| held.contains(buffer));
        self.buffers.retain(|buffer, _| held.contains(buffer));
    }

    fn close(&mut self, number: u64) {
        let closed = self.handles.remove(&number).unwrap();
        for known in self.handles.values_mut() {
            if known.parent == Some(number) {
                known.parent = closed.parent;
            }
        }
        if let Some(parent) = closed.parent {
            for (_, by) in self.mappings.values_mut() {
                *by = if *by == number { parent } else { *by };
            }
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
        handle: greeted(device.derive(Rights::DEVICE).unwrap()),
        parent: None,
        rights: Rights::DEVICE,
        range: (0, u64::MAX),
        within: Vec::new(),
        buffer: None,
        revoked: false,
    };
    let first = number(&all.handle);
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
            let derived = known.handle.derive(&copy);
            assert_eq!(derived.as_ref().err().copied(), expected);
            if let Ok(handle) = derived {
                let (range, within) = (known.range, known.within.clone());
                let (buffer, revoked) = (known.buffer, false);
                let parent = Some(parent);
                let new = number(&handle);
                let copy = Known { handle, parent, rights, range, within, buffer, revoked };
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
                mappings: U32::new(NO_LIMIT),
                first: U64::new(start),
                last: U64::new(last),
                buffer_bytes: U64::new(u64::MAX),
                mapped_bytes: U64::new(u64::MAX),
                table_bytes: U64::new(u64::MAX),
                ..Restrict::new_zeroed()
            };
            let expected = match () {
                () if known.revoked => Some(Error::Revoked),
                () if known.buffer.is_some() => Some(Error::WrongHandleKind),
                () if !known.rights.contains(rights) => Some(Error::NotPermitted),
                () if start < known.range.0 || last > known.range.1 => Some(Error::NotPermitted),
                () => None,
            };
            let derived = known.handle.derive(&request);
            assert_eq!(derived.as_ref().err().copied(), expected);
            if let Ok(handle) = derived {
                let new = number(&handle);
                let mut within = known.within.clone();
                within.push(new);
                let (range, parent, buffer) = ((start, last), Some(parent), None);
                let part = Known { handle, parent, rights, range, within, buffer, revoked: false };
                model.add(new, part);
            }
        }
        Step::Allocate(at) => {
            let parent = model.pick(at);
            let known = &model.handles[&parent];
            let expected = match () {
                () if known.revoked => Some(Error::Revoked),
                () if known.buffer.is_some() && known.rights.contains(Rights::ALLOCATE) => {
                    Some(Error::WrongHandleKind)
                }
                () if !known.rights.contains(Rights::ALLOCATE) => Some(Error::NotPermitted),
                () => None,
            };
            let derived = known.handle.derive(&crate::hostile::allocate(PAGE));
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
                    model.mappings.insert(iova, (buffer, parent));
                    model.buffers.insert(buffer, within.clone());
                    let (parent, buffer) = (Some(parent), Some(buffer));
                    let revoked = false;
                    let new = Known { handle, parent, rights, range, within, buffer, revoked };
                    model.add(id, new);
                }
            }
        }
        Step::Map(at, of) => {
            let by = model.pick(at);
            let known = &model.handles[&by];
            let Some(buffer) = model.handles[&model.pick(of)].buffer else { return };
            let knows = |came: &Vec<u64>| known.within.last().is_none_or(|own| came.contains(own));
            let expected = match () {
                () if known.revoked => Some(Error::Revoked),
                () if known.buffer.is_some() => Some(Error::WrongHandleKind),
                () if !known.rights.contains(Rights::MAP) => Some(Error::NotPermitted),
                () => match model.buffers.get(&buffer) {
                    Some(came) if knows(came) => None,
                    Some(_) => Some(Error::WrongOwner),
                    // Nobody holds a good handle to it: it is revoked for those who knew it.
                    None => return,
                },
            };
            match (super::map(&known.handle, buffer), expected) {
                (Err(Error::NoAddressSpace), None) => {}
                (Ok(iova), None) => {
                    assert!(iova >= known.range.0 && iova + (PAGE - 1) <= known.range.1);
                    ever.push(iova);
                    model.mappings.insert(iova, (buffer, by));
                }
                (mapped, expected) => assert_eq!(mapped.err(), expected),
            }
        }
        Step::Revoke(by, what) => {
            let (by, what) = (model.pick(by), model.pick(what));
            let known = &model.handles[&by];
            let above = model.below(what).contains(&by);
            let administers = known.buffer.is_none()
                && known.rights.contains(Rights::ADMINISTER)
                && by != what
                && !above;
            let may = model.below(by).contains(&what) || administers;
            let expected = match () {
                () if known.revoked => Err(Error::Revoked),
                () if !may => Err(Error::NotPermitted),
                () => Ok(()),
            };
            let revoked = revoke(&known.handle, what);
            assert_eq!(revoked.map(drop), expected);
            if let Ok(count) = revoked {
                let mut ended = model.below(what);
                ended.insert(what);
                assert_eq!(model.revoked(&ended), count);
            }
        }
        Step::RevokeAll(by) => {
            let by = model.pick(by);
            let ended = model.below(by);
            let known = &model.handles[&by];
            let revoked = revoke(&known.handle, 0);
            if known.revoked {
                assert_eq!(revoked, Err(Error::Revoked));
            } else {
                assert_eq!(Ok(model.revoked(&ended)), revoked);
            }
        }
        Step::Close(at) => {
            let number = model.pick(at);
            // Somebody is to stay.
            if number != first {
                model.close(number);
            }
        }
    }
}

/// Each handle is told what the model has of it, and the device reaches what is mapped.
fn check(rig: &Rig, model: &Model, ever: &[u64]) {
    for (number, known) in &model.handles {
        let told = known.handle.call::<HandleInfo>(Opcode::HandleInfo, &[0u8; 0]);
        if known.revoked {
            assert_eq!(told.map(drop), Err(Error::Revoked));
            continue;
        }
        let told = told.unwrap();
        assert_eq!(told.handle.get(), *number);
        assert_eq!(told.rights.get(), known.rights.bits());
        assert_eq!((told.first.get(), told.last.get()), known.range);
        if let Some(parent) = known.parent {
            assert_eq!(told.parent.get(), parent);
            let parent = &model.handles[&parent];
            assert!(!parent.revoked, "what came of it would be revoked too");
            assert!(parent.rights.contains(known.rights), "R3");
            assert!(parent.range.0 <= known.range.0 && known.range.1 <= parent.range.1, "R3");
        }
    }
    for iova in ever {
        assert_eq!(reads(rig, *iova), model.mappings.contains_key(iova), "{iova:#x}");
    }
}

fn r2_r3_random_trees_of_handles_are_what_the_model_says(vendor: Vendor) {
    let cases = ProptestConfig::with_cases(if vendor == Vendor::Vtd { 60 } else { 30 });
    proptest!(cases, |(steps in steps())| run(vendor, &steps));
}
