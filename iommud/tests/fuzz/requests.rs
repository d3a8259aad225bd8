//! What is asked: a line for each request there is, and for each thing else that clients do.

use std::time::Duration;

use fuzz::Chance;
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::Rights;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry, Opcode, UnmapEntry,
};
use libdma::protocol::derive::{self, Kind};
use libdma::protocol::domain::Create;
use libdma::protocol::event::{EventRecord, EventsHeader};
use libdma::protocol::handle::Revoke;
use libdma::protocol::resume::{Next, Reclaim, Thing};
use libdma::protocol::ticket::Offer;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::world::{Ask, DEVICES, Held, PAGE, What, World};

/// A request: by which handle, how, and what it says.
pub(crate) type Request = (Held, Ask, Vec<u8>);

const DEVICE: &[What] = &[What::Device];
const SPACE: &[What] = &[What::Device, What::Device, What::Domain];
const BUFFER: &[What] = &[What::Buffer];
const ANY: &[What] = &[What::Device, What::Domain, What::Buffer, What::PeerBar, What::Registration];

/// Makes a request, if there is a handle to make it by.
type Maker = fn(&World, &mut Chance) -> Option<Request>;

/// Every request, and how often it is made.
pub(crate) const REQUESTS: &[(usize, Maker)] = &[
    (4, |world, chance| copy(world, chance, ANY)),
    (10, allocate),
    (1, register),
    (7, offer),
    (7, attach),
    (4, create),
    (12, map),
    (10, unmap),
    (3, restrict),
    (3, revoke),
    (1, |world, chance| call(world, chance, ANY, Opcode::HandleInfo, 40, |_, _| 0)),
    (1, |world, chance| call(world, chance, SPACE, Opcode::Limit, 48, |_, _| 0)),
    (1, |world, chance| {
        // It ends much of what others do.
        let reset = |_: &World, _: &mut Chance| 0;
        chance.once_in(4).then(|| call(world, chance, DEVICE, Opcode::Reset, 8, reset)).flatten()
    }),
    (1, |world, chance| call(world, chance, DEVICE, Opcode::Resume, 64, |_, chance| chance.next())),
    (1, |world, chance| call(world, chance, DEVICE, Opcode::EndResume, 16, |_, _| 0)),
    (2, next),
    (3, reclaim),
    (5, enter),
    (3, leave),
    (2, |world, chance| {
        call(world, chance, SPACE, Opcode::Lookup, 48, |world, chance| place(world, chance).1)
    }),
    (1, |world, chance| call(world, chance, ANY, Opcode::Hello, 8, |_, _| 0)),
    (1, |world, chance| call(world, chance, DEVICE, Opcode::DeviceInfo, 56, |_, _| 0)),
    (1, |world, chance| call(world, chance, BUFFER, Opcode::BufferInfo, 48, |_, _| 0)),
    (1, |world, chance| call(world, chance, &[What::Domain], Opcode::DomainInfo, 32, |_, _| 0)),
    (1, events),
];

/// Does something, or has it happen.
type Deed = fn(&mut World, &mut Chance);

/// What clients do beside making requests, and what happens to them, and how often.
pub(crate) const DEEDS: &[(usize, Deed)] = &[
    (9, open),
    (12, |world, chance| {
        let index = chance.below(world.held.len());
        world.close(index);
    }),
    (5, pass),
    (1, |world, chance| {
        let client = chance.below(4);
        world.die(chance, client);
    }),
    (1, |world, chance| {
        if chance.once_in(8) {
            world.restart();
            for _ in 0..chance.below(4) {
                world.resume(chance);
            }
        }
    }),
    (3, turn),
    (3, World::resume),
    (1, World::release),
    (2, World::supply),
    (8, |world, chance| {
        let time = Duration::from_micros(chance.below(400) as u64);
        world.poll(time);
    }),
    (3, |world, chance| {
        let slow = Takes::After(20_000 + chance.below(400_000) as u64);
        world.pace(if chance.once_in(2) { slow } else { Takes::Immediate });
    }),
    (2, |world, chance| {
        let platform = world.service.platform_mut();
        let limit = platform.usage().live_frames + chance.below(5);
        platform.limit_frames(if chance.once_in(2) { usize::MAX } else { limit });
    }),
];

/// One of these, as often as they say.
pub(crate) fn weighted<T: Copy>(chance: &mut Chance, all: &[(usize, T)]) -> T {
    let mut at = chance.below(all.iter().map(|(weight, _)| weight).sum());
    for (weight, one) in all {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return *one,
        }
    }
    all[0].1
}

fn open(world: &mut World, chance: &mut Chance) {
    const REPORTS: [&str; 6] =
        ["units", "devices.json", "mappings", "domains", "faults", "nothing"];
    let client = chance.below(4);
    if chance.once_in(64) {
        return world.open(client, chance.one_of(&REPORTS));
    }
    world.open(client, &format!("device/{}", chance.one_of(&DEVICES)));
}

/// A buffer is strictly mapped, and strictly unmapped.
fn turn(world: &mut World, chance: &mut Chance) {
    let Some(buffer) = world.pick(chance, BUFFER) else { return };
    let by = |it: &&Held| SPACE.contains(&it.what) && it.session == buffer.session;
    let count = world.held.iter().filter(by).count();
    let Some(of) = world.held.iter().filter(by).nth(chance.below(count)).copied() else { return };
    let flags = U32::new(BATCH_FLAG_STRICT);
    let header = BatchHeader { count: U32::new(1), flags, ..BatchHeader::new_zeroed() };
    let mut entry = MapEntry::new_zeroed();
    entry.buffer = U64::new(buffer.number);
    entry.bytes = U64::new((1 + chance.below(2) as u64) * PAGE);
    entry.limit = U64::new(u64::MAX);
    entry.access = U32::new(3);
    let mut request = [header.as_bytes(), entry.as_bytes()].concat();
    if world.send(of, Ask::Call(Opcode::Map as u64), &mut request)
        && let Ok(mapped) = MapEntry::read_from_bytes(&request[size_of::<BatchHeader>()..])
    {
        let entry = UnmapEntry { iova: mapped.iova, bytes: mapped.bytes };
        let mut request = [header.as_bytes(), entry.as_bytes()].concat();
        world.send(of, Ask::Call(Opcode::Unmap as u64), &mut request);
    }
}

/// Another client has a handle from now on.
fn pass(world: &mut World, chance: &mut Chance) {
    let index = chance.below(world.held.len());
    if let Some(held) = world.held.get_mut(index) {
        held.client = chance.below(4);
    }
}

/// A call whose payload is as long as this, and begins with this word.
fn call(
    world: &World,
    chance: &mut Chance,
    kinds: &[What],
    opcode: Opcode,
    bytes: usize,
    first: fn(&World, &mut Chance) -> u64,
) -> Option<Request> {
    let of = world.pick(chance, kinds)?;
    let mut payload = vec![0; bytes];
    payload[..8].copy_from_slice(&first(world, chance).to_le_bytes());
    if opcode == Opcode::Hello {
        payload.copy_from_slice(libdma::protocol::call::Hello::new().as_bytes());
    }
    Some((of, Ask::Call(opcode as u64), payload))
}

fn some_rights(chance: &mut Chance, of: Held) -> u32 {
    match chance.below(8) {
        0 => chance.next() as u32 & 0xff,
        1 => (of.rights & Rights::from_bits_truncate(chance.next() as u32)).bits(),
        2 | 3 => (of.rights & Rights::BUFFER).bits(),
        _ => of.rights.bits(),
    }
}

fn access(chance: &mut Chance) -> U32 {
    U32::new(if chance.once_in(3) { chance.below(5) as u32 } else { 3 })
}

fn limit(chance: &mut Chance) -> U64 {
    U64::new(if chance.once_in(6) { (1 << (12 + chance.below(40))) - 1 } else { u64::MAX })
}

fn align(chance: &mut Chance) -> U64 {
    U64::new(if chance.once_in(6) { PAGE << chance.below(14) } else { PAGE })
}

/// A place where something is mapped, or was: domain, address and length.
fn place(world: &World, chance: &mut Chance) -> (u64, u64, u64) {
    world.known.get(chance.below(world.known.len())).copied().unwrap_or((0, PAGE, PAGE))
}

fn copy(world: &World, chance: &mut Chance, kinds: &[What]) -> Option<Request> {
    let of = world.pick(chance, kinds)?;
    let rights = U32::new(some_rights(chance, of));
    let copy = derive::Copy { kind: U32::new(Kind::Copy as u32), rights };
    Some((of, Ask::Derive, copy.as_bytes().to_vec()))
}

fn restrict(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, SPACE)?;
    let mut some = |most: u64| if chance.once_in(2) { chance.next() % most } else { u64::MAX };
    // In the order of the resources' numbers.
    let most = [4, 20 * PAGE, 40 * PAGE, 40 * PAGE, 4, 6 * PAGE, 3, 4];
    let limits = most.map(|most| U64::new(some(most)));
    // One within another, and such as are not.
    let windows =
        [(0x5000_0000, 0x500f_ffff), (0x5000_0000, 0x501f_ffff), (0x4000_0000, 0x500f_ffff)];
    let whole = chance.once_in(2);
    let (first, last) = if whole { (0, u64::MAX) } else { chance.one_of(&windows) };
    let request = derive::Restrict {
        kind: U32::new(Kind::Restrict as u32),
        rights: U32::new(some_rights(chance, of)),
        access: access(chance),
        reserved: U32::new(u32::from(chance.once_in(20))),
        first: U64::new(first),
        last: U64::new(last),
        limits,
        label: [0; 32],
    };
    Some((of, Ask::Derive, request.as_bytes().to_vec()))
}

fn revoke(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, ANY)?;
    let other = world.pick(chance, ANY)?.handle.0;
    let handle = U64::new(if chance.once_in(2) { other } else { 0 });
    let revoke = Revoke { handle, reserved: U64::ZERO };
    Some((of, Ask::Call(Opcode::Revoke as u64), revoke.as_bytes().to_vec()))
}

fn allocate(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    let kind = if chance.once_in(8) { Kind::AllocateContiguous } else { Kind::Allocate };
    let access = if chance.once_in(3) { U32::ZERO } else { access(chance) };
    let request = derive::Allocate {
        kind: U32::new(kind as u32),
        access,
        bytes: U64::new((1 + chance.below(4) as u64) * PAGE),
        align: align(chance),
        limit: limit(chance),
        cache: U32::new(chance.below(4) as u32 % 3),
        reserved: U32::ZERO,
        label: [0; 32],
    };
    Some((of, Ask::Derive, request.as_bytes().to_vec()))
}

fn register(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    let request = derive::Register {
        kind: U32::new(Kind::Register as u32),
        access: access(chance),
        bytes: U64::new((1 + chance.below(4) as u64) * PAGE),
        align: align(chance),
        limit: limit(chance),
        address: U64::ZERO,
        label: [0; 32],
    };
    Some((of, Ask::Derive, request.as_bytes().to_vec()))
}

fn offer(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, &[What::Buffer, What::Buffer, What::Domain, What::Device])?;
    let mut offer = Offer::default();
    match of.what {
        What::Domain => {}
        What::Device => {
            (offer.access, offer.bytes) = (access(chance), U64::new(PAGE));
        }
        _ => {
            offer.rights = U32::new(some_rights(chance, of) & Rights::BUFFER.bits());
            offer.access = access(chance);
        }
    }
    Some((of, Ask::Call(Opcode::Offer as u64), offer.as_bytes().to_vec()))
}

fn ticket(world: &World, chance: &mut Chance, of: fn(What) -> bool) -> [u8; 16] {
    let count = world.tickets.iter().filter(|it| of(it.0)).count();
    // The later, the likelier that it is good.
    let nth = chance.below(count).max(chance.below(count));
    world.tickets.iter().filter(|it| of(it.0)).nth(nth).map_or([7; 16], |it| it.1)
}

fn attach(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    let there_is_one = world.tickets.iter().any(|it| it.0 != What::Domain);
    if !there_is_one && !chance.once_in(8) {
        return None;
    }
    let request = derive::Attach {
        kind: U32::new(Kind::Attach as u32),
        access: access(chance),
        rights: U32::new(some_rights(chance, of) & Rights::BUFFER.bits()),
        reserved: U32::ZERO,
        align: align(chance),
        limit: limit(chance),
        ticket: ticket(world, chance, |what| what != What::Domain),
        label: [0; 32],
    };
    Some((of, Ask::Derive, request.as_bytes().to_vec()))
}

fn create(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    let (base, bytes) = if chance.once_in(2) { (0x5000_0000, 1 << 22) } else { (0, 0) };
    let request = Create {
        kind: U32::new(Kind::Domain as u32),
        reserved: U32::ZERO,
        base: U64::new(base),
        bytes: U64::new(bytes),
        label: [0; 32],
    };
    Some((of, Ask::Derive, request.as_bytes().to_vec()))
}

fn header(chance: &mut Chance, count: usize) -> BatchHeader {
    let flags = U32::new(if chance.once_in(3) { BATCH_FLAG_STRICT } else { 0 });
    BatchHeader { count: U32::new(count as u32), failed: U32::ZERO, errno: U32::ZERO, flags }
}

fn map(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, SPACE)?;
    let count = if chance.once_in(64) { 120 + chance.below(9) } else { 1 + chance.below(3) };
    let mut request = header(chance, count).as_bytes().to_vec();
    for index in 0..count {
        let its_own = |it: &&Held| it.what == What::Buffer && it.session == of.session;
        let buffers = world.held.iter().filter(its_own).count();
        let buffer = world.held.iter().filter(its_own).nth(chance.below(buffers));
        if buffers == 0 && !chance.once_in(8) {
            return None;
        }
        let number = match buffer {
            Some(buffer) if !chance.once_in(16) => buffer.number,
            _ => world.pick(chance, BUFFER).map_or(0, |it| it.number),
        };
        let flags = match chance.below(8) {
            0 | 1 => MAP_FLAG_AT,
            2 | 3 if index > 0 => MAP_FLAG_BEHIND,
            _ => 0,
        };
        // Near each other, and so far up that tables grow.
        let at = [0x5000_0000, 0x5000_1000, 0x501f_f000, (1 << 41) - PAGE, 1 << 41];
        let iova = if chance.once_in(4) { place(world, chance).1 } else { chance.one_of(&at) };
        let entry = MapEntry {
            buffer: U64::new(number),
            offset: U64::new(if chance.once_in(4) { PAGE } else { 0 }),
            bytes: U64::new((1 + chance.below(2) as u64) * PAGE),
            limit: limit(chance),
            iova: U64::new(iova),
            access: access(chance),
            flags: U32::new(flags),
        };
        request.extend(entry.as_bytes());
    }
    Some((of, Ask::Call(Opcode::Map as u64), request))
}

fn unmap(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, SPACE)?;
    let count = 1 + chance.below(2);
    let mut request = header(chance, count).as_bytes().to_vec();
    for _ in 0..count {
        let there = |it: &&(u64, u64, u64)| it.0 == of.domain;
        let places = world.known.iter().filter(there).count();
        if places == 0 && !chance.once_in(8) {
            return None;
        }
        let known = world.known.iter().filter(there).nth(chance.below(places));
        let (_, iova, bytes) = known.copied().unwrap_or_else(|| place(world, chance));
        request.extend(UnmapEntry { iova: U64::new(iova), bytes: U64::new(bytes) }.as_bytes());
    }
    Some((of, Ask::Call(Opcode::Unmap as u64), request))
}

fn enter(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    let there_is_one = world.tickets.iter().any(|it| it.0 == What::Domain);
    if !there_is_one && !chance.once_in(8) {
        return None;
    }
    let ticket = ticket(world, chance, |what| what == What::Domain);
    Some((of, Ask::Call(Opcode::Enter as u64), ticket.to_vec()))
}

fn events(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    let count = chance.below(5);
    let header = EventsHeader { count: U32::new(count as u32), ..EventsHeader::new_zeroed() };
    let mut payload = header.as_bytes().to_vec();
    payload.resize(size_of::<EventsHeader>() + count * size_of::<EventRecord>(), 0);
    Some((of, Ask::Call(Opcode::Events as u64), payload))
}

/// One of these, of the latest the likelier.
fn recent(chance: &mut Chance, all: &[u64]) -> Option<u64> {
    let back = if chance.once_in(3) { all.len() } else { all.len().min(4) };
    all.iter().rev().nth(chance.below(back)).copied()
}

fn next(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, SPACE)?;
    let number = recent(chance, &world.numbers).unwrap_or(1);
    let iova = if chance.once_in(2) { 0 } else { place(world, chance).1 };
    let request = Next { iova: U64::new(iova), buffer: U64::new(number) };
    let mut payload = request.as_bytes().to_vec();
    payload.resize(64, 0);
    Some((of, Ask::Call(Opcode::Next as u64), payload))
}

fn reclaim(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    Some(reclaim_by(of, world, chance))
}

/// Asks by this handle for something that its session may have from before.
pub(crate) fn reclaim_by(of: Held, world: &World, chance: &mut Chance) -> Request {
    let (thing, numbers, rights) = match chance.once_in(3) {
        true => (Thing::Domain, &world.domains, Rights::DOMAIN),
        false => (Thing::Buffer, &world.numbers, Rights::BUFFER),
    };
    let number = recent(chance, numbers).unwrap_or(0);
    let rights = if chance.once_in(4) { some_rights(chance, of) } else { rights.bits() };
    let request = Reclaim {
        kind: U32::new(Kind::Reclaim as u32),
        rights: U32::new(rights),
        thing: U32::new(thing as u32),
        reserved: U32::ZERO,
        number: U64::new(number),
    };
    (of, Ask::Derive, request.as_bytes().to_vec())
}

fn leave(world: &World, chance: &mut Chance) -> Option<Request> {
    let of = world.pick(chance, DEVICE)?;
    let domain = recent(chance, &world.domains).unwrap_or(0);
    Some((of, Ask::Call(Opcode::Leave as u64), domain.to_le_bytes().to_vec()))
}
