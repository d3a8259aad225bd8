//! The memory of the process that serves, which its keeper has, too.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair, sockopt};

use crate::daemon::hand_over::{Report, Start};
use crate::daemon::keeping::Keeping;
use crate::daemon::log;
use crate::platform::linux::parcel::{self, NoParcel, Parcel, Piece};

/// How much may be on its way to a process that has just been started: a packet takes about 1 KiB there, so that this is
/// some thousands.
const HAND_OVER_BYTES: usize = 16 << 20;

/// The memory of one process.
#[derive(Debug, Default)]
pub struct Memory {
    pieces: BTreeMap<u64, Piece>,
}

/// All memory that there is, and what the numbers of the next begin with.
#[derive(Debug, Default)]
pub struct Store {
    pub(super) keeping: Keeping<Memory>,
    last: u64,
    /// Whether a process that was there before has yet to say that this is all that it has.
    is_partial: bool,
    /// Whether something was heard that made no sense.
    has_complained: bool,
}

/// Whether something was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// There may be more.
    Something,
    /// There may be, later.
    Nothing,
    /// Nor will there be.
    NothingAnyMore,
}

impl Store {
    /// For a process that serves already, after so many deaths. It is told all that the process has.
    pub(super) fn of_another(deaths: u32) -> Self {
        let mut keeping = Keeping::after(deaths);
        keeping.started(Memory::default());
        Self { keeping, is_partial: true, ..Self::default() }
    }

    /// How the next process is started. If the one before was killed when it had not told all that it had, the rest is free
    /// while devices reach it: as after the deaths of both, they are stopped before anything of it is taken (rule R2).
    pub(super) fn next_start(&mut self) -> Start {
        match core::mem::take(&mut self.is_partial) {
            true => Start::Hand,
            false => Start::Again(self.keeping.deaths()),
        }
    }

    /// A new way to a process, with all on it that the process is handed. What is too much to be handed over is held, and the
    /// process begins with memory of its own.
    pub(super) fn pair(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (near, far) = pair()?;
        if let Err(errno) = self.hand_over(near.as_fd()) {
            log::line(format_args!("what is left cannot be handed over: {errno}"));
            self.keeping.hold();
            let (near, far) = pair()?;
            self.hand_over(near.as_fd())?;
            return Ok((near, far));
        }
        Ok((near, far))
    }

    /// Sends all that the next process is handed.
    fn hand_over(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        for piece in self.keeping.current().into_iter().flat_map(|it| it.pieces.values()) {
            let Piece { purpose, number, bytes, memory } = piece;
            parcel::send_piece(socket, *purpose, *number, *bytes, memory.as_fd())?;
        }
        parcel::send(socket, &Parcel::End(self.last))
    }

    /// Hears what the process that serves says.
    pub fn hear(&mut self, socket: impl AsFd) -> Heard {
        match parcel::receive(socket, RecvFlags::DONTWAIT) {
            Ok(Parcel::Piece(piece)) => self.keep(piece),
            Ok(Parcel::Gone(number)) => {
                if let Some(memory) = self.keeping.current_mut() {
                    memory.pieces.remove(&number);
                }
            }
            Ok(Parcel::Report(Report::SetAside)) => self.keeping.set_aside(),
            Ok(Parcel::Report(report)) => self.keeping.touched(report == Report::AllTranslate),
            Ok(Parcel::End(last)) if self.is_partial => {
                self.last = self.last.max(last);
                self.is_partial = false;
            }
            Ok(Parcel::End(_)) | Err(NoParcel::Garbled) => self.complain(),
            Err(NoParcel::None) => return Heard::Nothing,
            // Nobody can do anything about it.
            Err(NoParcel::Closed | NoParcel::System(_)) => return Heard::NothingAnyMore,
        }
        Heard::Something
    }

    /// Keeps memory. What has the number of other memory is not kept in that one's place.
    fn keep(&mut self, piece: Piece) {
        self.last = self.last.max(piece.number);
        let pieces = self.keeping.current_mut().map(|memory| &mut memory.pieces);
        match pieces {
            Some(pieces) if !pieces.contains_key(&piece.number) => {
                pieces.insert(piece.number, piece);
            }
            _ => self.complain(),
        }
    }

    fn complain(&mut self) {
        if !self.has_complained {
            log::line("the process that serves says what makes no sense to its keeper");
        }
        self.has_complained = true;
    }
}

/// Two sockets for parcels, with room for many.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&near, &far] {
        // Where that is refused, less fits, and it is told when something does not.
        let _ = sockopt::set_socket_send_buffer_size_force(end, HAND_OVER_BYTES);
    }
    Ok((near, far))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::net::SendFlags;

    use super::*;
    use crate::daemon::keeping::{End, Next};
    use crate::platform::linux::keeper::{Keeper, Kept};
    use crate::platform::linux::parcel::{Purpose, Shown};

    const SOON: Duration = Duration::from_millis(900);

    /// A process that serves, and what its keeper has of it.
    struct Served {
        keeper: Rc<Keeper>,
        left: Vec<Piece>,
        socket: OwnedFd,
    }

    fn started(store: &mut Store) -> Served {
        let (socket, theirs) = store.pair().unwrap();
        store.keeping.started(Memory::default());
        let nobody = Box::new(|| Err(io::ErrorKind::NotFound.into()));
        let (keeper, left) = Keeper::at(theirs, nobody).unwrap();
        Served { keeper, left, socket }
    }

    fn memfd(name: &str) -> OwnedFd {
        let memory = memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, 4096).unwrap();
        memory
    }

    /// How many descriptors this process has of a memfd of this name.
    fn open(name: &str) -> usize {
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let names = all.filter_map(|entry| fs::read_link(entry.path()).ok());
        names.filter(|path| path.to_string_lossy().contains(name)).count()
    }

    fn hear_all(store: &mut Store, served: &Served) {
        while store.hear(&served.socket) == Heard::Something {}
    }

    fn died(store: &mut Store, served: Served) {
        let Served { keeper, left, socket } = served;
        drop(left);
        // The socket is closed, and nothing more is told.
        let Ok(()) = Rc::try_unwrap(keeper).map(drop) else { panic!("the dead hold memory") };
        while store.hear(&socket) == Heard::Something {}
        assert!(matches!(store.keeping.ended(End::Crash, SOON), Next::Again(_)));
    }

    #[test]
    fn r2_what_is_sent_is_kept_until_it_is_told_to_be_gone() {
        let mut store = Store::default();
        let served = started(&mut store);
        let memory = memfd("keeper-kept");
        let kept = served.keeper.keep(Purpose::Run, 4096, memory.as_fd()).unwrap();
        drop(memory);
        assert_eq!(open("keeper-kept"), 0, "it is on its way");
        hear_all(&mut store, &served);
        assert_eq!(open("keeper-kept"), 1);
        drop(kept);
        hear_all(&mut store, &served);
        assert_eq!(open("keeper-kept"), 0);
        assert!(!store.has_complained);
    }

    #[test]
    fn r2_a_server_that_dies_between_sending_and_telling_loses_nothing() {
        let mut store = Store::default();
        let served = started(&mut store);
        for purpose in [Purpose::Tables, Purpose::Run, Purpose::Clients] {
            let memory = memfd("keeper-between");
            served.keeper.keep(purpose, 4096, memory.as_fd()).unwrap().leave();
        }
        // The keeper has read nothing yet.
        died(&mut store, served);
        assert_eq!(open("keeper-between"), 3);
        let next = started(&mut store);
        let found: Vec<_> = next.left.iter().map(|it| (it.number, it.purpose)).collect();
        assert_eq!(found, [(1, Purpose::Tables), (2, Purpose::Run), (3, Purpose::Clients)]);
        // New memory has a number that none ever had.
        let memory = memfd("keeper-between");
        let kept = next.keeper.keep(Purpose::Run, 4096, memory.as_fd()).unwrap();
        assert_eq!(kept.number(), 4);
    }

    #[test]
    fn r2_what_is_not_adopted_is_held_until_all_units_translate_and_handed_to_nobody() {
        let mut store = Store::default();
        let first = started(&mut store);
        let memory = memfd("keeper-aside");
        first.keeper.keep(Purpose::Tables, 4096, memory.as_fd()).unwrap().leave();
        drop(memory);
        died(&mut store, first);
        let mut second = started(&mut store);
        second.keeper.report(Report::SetAside);
        second.left.clear();
        hear_all(&mut store, &second);
        assert_eq!((open("keeper-aside"), store.keeping.held()), (1, 1));
        died(&mut store, second);
        let third = started(&mut store);
        assert!(third.left.is_empty());
        third.keeper.report(Report::SomeDoNot);
        hear_all(&mut store, &third);
        assert_eq!(open("keeper-aside"), 1);
        third.keeper.report(Report::AllTranslate);
        hear_all(&mut store, &third);
        assert_eq!((open("keeper-aside"), store.keeping.held()), (0, 0));
    }

    #[test]
    fn r5_garbage_from_the_server_neither_ends_the_keeper_nor_takes_memory_away() {
        let mut store = Store::default();
        let (socket, theirs) = store.pair().unwrap();
        store.keeping.started(Memory::default());
        let memory = memfd("keeper-garbage");
        let send = |number| {
            parcel::send_piece(&theirs, Purpose::Run, number, 4096, memory.as_fd()).unwrap();
        };
        send(u64::MAX);
        send(u64::MAX);
        for bytes in [&b"?"[..], &[0xff; 24], &[0; 24], &[7; 60_000]] {
            rustix::net::send(&theirs, bytes, SendFlags::empty()).unwrap();
        }
        parcel::send(&theirs, &Parcel::Gone(5)).unwrap();
        parcel::send(&theirs, &Parcel::End(0)).unwrap();
        parcel::send(&theirs, &Parcel::Report(Report::SetAside)).unwrap();
        drop(memory);
        while store.hear(&socket) == Heard::Something {}
        assert!(store.has_complained);
        assert_eq!((open("keeper-garbage"), store.keeping.held()), (1, 0));
        parcel::send(&theirs, &Parcel::Gone(u64::MAX)).unwrap();
        drop(theirs);
        while store.hear(&socket) == Heard::Something {}
        assert_eq!(open("keeper-garbage"), 0);
    }

    #[test]
    fn r2_a_keeper_that_is_gone_is_replaced_by_one_that_has_all_that_it_had() {
        let mut first = Store::default();
        let (socket, theirs) = first.pair().unwrap();
        let mut second = Store::of_another(3);
        let (near, far) = pair().unwrap();
        // At first there is no memory for it.
        let mut starts = vec![Ok(near), Err(io::ErrorKind::OutOfMemory.into())];
        let start = Box::new(move || starts.pop().unwrap());
        let (keeper, _) = Keeper::at(theirs, start).unwrap();
        let names = ["keeper-handed", "keeper-alone", "keeper-after"];
        let memory = names.map(memfd);
        let [handed, alone, after] = &memory;
        let keep = |memory: &OwnedFd| keeper.keep(Purpose::Run, 4096, memory.as_fd()).unwrap();
        let mut kept = vec![keep(handed), keep(handed)];
        keeper.report(Report::AllTranslate);
        let shown = |kept: &[Kept]| -> Vec<(u64, BorrowedFd<'_>)> {
            let memory = [handed, alone].into_iter();
            kept.iter().map(Kept::number).zip(memory.map(|it| it.as_fd())).collect()
        };
        let began = Instant::now();
        let look_at = |after: u32, kept: &[Kept]| {
            let (purpose, bytes) = (Purpose::Run, 4096);
            let shown = shown(kept).into_iter();
            let shown = shown.map(|(number, memory)| Shown { purpose, number, bytes, memory });
            keeper.look(began + after * Duration::from_secs(1), shown);
        };
        let mut seconds = 0;
        let mut look = |kept: &[Kept]| {
            seconds += 1;
            look_at(seconds, kept);
        };
        look(&kept);
        look(&kept);
        drop((first, socket));
        // However often it looks, the keeper may be just before it in being killed.
        (0..9).for_each(|_| look_at(3, &kept));
        assert_eq!(second.hear(&far), Heard::Nothing);
        // What went while nobody heard of it is not handed over, and what came is.
        kept.pop();
        kept.push(keep(alone));
        (0..4).for_each(|_| look(&kept));
        kept.push(keep(after));
        kept.remove(0);
        while second.hear(&far) == Heard::Something {}
        assert_eq!(names.map(open), [1, 2, 2]);
        assert!(!second.has_complained && !second.is_partial);
        assert_eq!((second.keeping.held(), second.last), (0, 4));
        // It starts the next one when this one dies.
        kept.into_iter().for_each(Kept::leave);
        drop(keeper);
        while second.hear(&far) == Heard::Something {}
        assert!(matches!(second.keeping.ended(End::Crash, SOON), Next::Again(_)));
        assert_eq!(second.keeping.deaths(), 4);
        let Served { left, .. } = started(&mut second);
        assert_eq!(left.iter().map(|it| it.number).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn r2_devices_are_stopped_when_a_process_was_killed_before_it_had_told_all_to_another_keeper() {
        let mut store = Store::of_another(3);
        let (near, far) = pair().unwrap();
        let memory = memfd("keeper-partial");
        let tell = |number| {
            parcel::send_piece(&near, Purpose::Run, number, 4096, memory.as_fd()).unwrap();
        };
        tell(1);
        while store.hear(&far) == Heard::Something {}
        assert!(matches!(store.keeping.ended(End::Crash, SOON), Next::Again(_)));
        assert_eq!(store.next_start(), Start::Hand);
        store.keeping.started(Memory::default());
        assert_eq!(store.next_start(), Start::Again(4), "it is of the next one that it has all");
        let mut whole = Store::of_another(3);
        tell(1);
        parcel::send(&near, &Parcel::End(7)).unwrap();
        while whole.hear(&far) == Heard::Something {}
        assert!(matches!(whole.keeping.ended(End::Crash, SOON), Next::Again(_)));
        assert_eq!((whole.next_start(), whole.last), (Start::Again(4), 7));
        parcel::send(&near, &Parcel::End(9)).unwrap();
        whole.hear(&far);
        assert!(whole.has_complained, "that is said once");
    }
}
