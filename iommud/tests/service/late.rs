//! A thread is in a request when iommud dies and is told nothing for long, or is slow to take its answer: it delays nobody else,
//! and what it did counts once (R2, R4, R7).

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libdma::protocol::call::Opcode;
use libdma::protocol::domain::Found;
use libdma::protocol::resume::Next;
use libdma::{Access, Device, Error, MapRequest};
use simulated::Machine;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::restarts::{machine, mappings};
use crate::vendor::Vendor;

both! {
    r4_who_is_told_nothing_when_iommud_dies_delays_nobody,
    r7_what_was_mapped_and_is_told_late_is_mapped_once,
    r7_what_was_made_and_is_told_late_is_made_once,
    r2_a_buffer_that_is_told_late_is_not_taken_for_what_is_there_now,
    r7_what_was_unmapped_and_is_told_late_is_unmapped,
    r7_what_was_lost_and_cannot_be_unmapped_yet_is_unmapped_later,
    r5_an_iommud_that_tells_of_mappings_for_good_is_not_listened_to_for_good,
}

/// For how long anything is waited for that is to come: far longer than a driver is to wait, and never forever.
const LONG: Duration = Duration::from_secs(60);

/// What becomes of a request that is under way when iommud dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Refused,
    /// It was carried out, and is not answered.
    Lost,
    /// It was answered, and whoever asked is slow to hear of it.
    Answered,
}

const FATES: [Fate; 3] = [Fate::Refused, Fate::Lost, Fate::Answered];

/// A thread that is in a request when iommud dies, and is told what became of that when this is let go.
struct Blocked<R> {
    let_go: Sender<()>,
    thread: JoinHandle<R>,
}

impl<R: Send + 'static> Blocked<R> {
    /// Has a thread do this, of which the next request has this fate; then iommud is restarted.
    fn at(machine: &Machine, fate: Fate, act: impl FnOnce() -> R + Send + 'static) -> Self {
        Self::after(machine, 0, fate, act)
    }

    /// The same of the request after so many.
    fn after(
        machine: &Machine,
        requests: u64,
        fate: Fate,
        act: impl FnOnce() -> R + Send + 'static,
    ) -> Self {
        let (let_go, blocked): (_, Receiver<()>) = mpsc::channel();
        let (enter, entered) = mpsc::channel();
        match fate {
            Fate::Refused => machine.client.refuse(requests, 1, Error::DaemonGone),
            Fate::Lost => machine.client.lose(requests),
            Fate::Answered => machine.client.delay(requests),
        }
        machine.client.meanwhile(move || {
            enter.send(()).unwrap();
            let _ = blocked.recv();
        });
        let thread = thread::spawn(act);
        entered.recv_timeout(LONG).unwrap();
        machine.client.refuse_none();
        machine.restart();
        Self { let_go, thread }
    }

    /// Has it told, and waits for what comes of it.
    fn let_go(self) -> R {
        drop(self.let_go);
        self.thread.join().unwrap()
    }
}

/// Another thread has memory, and is not waited for any longer than [`LONG`].
fn asks(device: &Device) {
    let (done, has_done) = mpsc::channel();
    let device = device.clone();
    let asks = move || {
        let allocated = device.allocate(4096, Some(Access::Read), "other").map(drop);
        // Nobody listens any more after so long.
        let _ = done.send(allocated);
    };
    drop(thread::spawn(asks));
    assert_eq!(has_done.recv_timeout(LONG), Ok(Ok(())));
}

fn r4_who_is_told_nothing_when_iommud_dies_delays_nobody(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let first = device.clone();
    let blocked = Blocked::at(&machine, Fate::Refused, move || first.events().map(drop));
    asks(&device);
    // Nor when it dies again.
    machine.restart();
    asks(&device);
    assert_eq!(blocked.let_go(), Ok(()));
    asks(&device);
    drop(device);
    machine.check();
}

fn r7_what_was_mapped_and_is_told_late_is_mapped_once(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let before = mappings(&machine);
    for fate in FATES {
        let (first, pieces) = (device.clone(), device.allocate(4096, None, "piece").unwrap());
        let blocked = Blocked::at(&machine, fate, move || {
            let piece = |offset| MapRequest {
                buffer: &pieces,
                offset,
                bytes: 4096,
                access: Access::ReadWrite,
            };
            let mapped = first.map(&[piece(0)])?;
            Ok::<_, Error>((pieces, mapped))
        });
        asks(&device);
        let (pieces, mapped) = blocked.let_go().unwrap();
        assert_eq!(mappings(&machine), before + 1);
        assert!(machine.device_writes(mapped[0].iova(), &[1]).is_ok());
        device.unmap(&mapped).unwrap();
        assert!(machine.device_writes(mapped[0].iova(), &[1]).is_err());
        assert_eq!(mappings(&machine), before);
        drop(pieces);
    }
    drop(device);
    machine.check();
}

fn r7_what_was_made_and_is_told_late_is_made_once(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let before = mappings(&machine);
    for fate in FATES {
        let first = device.clone();
        let allocate = move || first.allocate(4096, Some(Access::ReadWrite), "late");
        let blocked = Blocked::at(&machine, fate, allocate);
        asks(&device);
        let buffer = blocked.let_go().unwrap();
        assert_eq!(mappings(&machine), before + 1);
        assert!(machine.device_writes(buffer.iova().unwrap(), &[1]).is_ok());
        drop(buffer);
        assert_eq!(mappings(&machine), before);
    }
    drop(device);
    machine.check();
}

fn r2_a_buffer_that_is_told_late_is_not_taken_for_what_is_there_now(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let access = Access::ReadWrite;
    let first = device.clone();
    let allocate = move || first.allocate(4096, Some(access), "late");
    // It is made, greeted, and asked where it is.
    let blocked = Blocked::after(&machine, 2, Fate::Answered, allocate);
    let other = device.allocate(4096, Some(access), "other").unwrap();
    let late = blocked.let_go().unwrap();
    assert_ne!(late.iova(), other.iova());
    // Of the two mappings of the other, what is taken back is the one that nobody was told.
    let before = mappings(&machine);
    machine.client.die_once(true);
    let piece = MapRequest { buffer: &other, offset: 0, bytes: 4096, access };
    let mapped = device.map(&[piece]).unwrap();
    for iova in [other.iova().unwrap(), late.iova().unwrap(), mapped[0].iova()] {
        assert!(machine.device_writes(iova, &[1]).is_ok());
    }
    assert_eq!(mappings(&machine), before + 1);
    drop((late, other, device));
    machine.check();
}

fn r7_what_was_unmapped_and_is_told_late_is_unmapped(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let buffer = device.allocate(4096, None, "late").unwrap();
    let before = mappings(&machine);
    for fate in FATES {
        let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
        let mapped = device.map(&[piece]).unwrap();
        let (first, iova) = (device.clone(), mapped[0].iova());
        let blocked = Blocked::at(&machine, fate, move || first.unmap(&mapped));
        asks(&device);
        // Where it was may be another's by now.
        let others = match fate {
            Fate::Refused => device.map(&[piece]).unwrap(),
            Fate::Lost | Fate::Answered => device.map_at(iova, &[piece]).unwrap(),
        };
        assert_eq!(blocked.let_go(), Ok(()));
        assert_eq!(mappings(&machine), before + 1);
        assert!(machine.device_reads(others[0].iova(), 1).is_ok());
        device.unmap(&others).unwrap();
        assert_eq!(mappings(&machine), before);
    }
    drop((buffer, device));
    machine.check();
}

fn r7_what_was_lost_and_cannot_be_unmapped_yet_is_unmapped_later(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let buffer = device.allocate(4096, None, "piece").unwrap();
    let before = mappings(&machine);
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
    machine.client.die_once(true);
    machine.client.stand_in(|opcode, _| match opcode {
        Opcode::Unmap => Some(Err(Error::TooManyRequests)),
        _ => None,
    });
    let mapped = device.map(&[piece]).unwrap();
    assert_eq!(mappings(&machine), before + 2);
    machine.client.stand_in_none();
    machine.restart();
    let _ = device.events();
    assert_eq!(mappings(&machine), before + 1, "the one that the driver was told of");
    device.unmap(&mapped).unwrap();
    drop((buffer, device));
    machine.check();
}

fn r5_an_iommud_that_tells_of_mappings_for_good_is_not_listened_to_for_good(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let buffer = device.allocate(4096, None, "piece").unwrap();
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
    machine.client.die_once(true);
    machine.client.stand_in(|opcode, payload| {
        let (next, _) = Next::read_from_prefix(payload).ok().filter(|_| opcode == Opcode::Next)?;
        let (zero, buffer) = (U64::ZERO, next.buffer);
        let (access, reserved) = (U32::new(1), U32::ZERO);
        let found = Found { start: next.iova, bytes: zero, buffer, offset: zero, access, reserved };
        payload[..size_of::<Found>()].copy_from_slice(found.as_bytes());
        Some(Ok(size_of::<Found>()))
    });
    let mapped = device.map(&[piece]).unwrap();
    machine.client.stand_in_none();
    device.unmap(&mapped).unwrap();
    drop((buffer, device));
    machine.check();
}
