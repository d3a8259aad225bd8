//! The keeper, as the process that serves knows it.
//!
//! All memory that hardware is to reach goes to the keeper first. When this process dies, the keeper has it, and hands it
//! to the next; so nobody is given memory that a unit may still walk or a device reach (rule R2). When the keeper dies, this
//! process starts another, which is given all of it.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::pagemap::PageMap;
use super::parcel::{self, NoParcel, Parcel, Piece, Purpose, Shown};
use crate::daemon::hand_over::Report;
use crate::daemon::log;

/// Where memory comes from and who keeps it.
#[derive(Debug)]
pub struct Source {
    /// Where it is in physical memory.
    pub map: PageMap,
    /// Who keeps it.
    pub keeper: Rc<Keeper>,
}

/// How far apart two looks are of which the second tells more than the first.
const APART: Duration = Duration::from_millis(20);

/// Starts another keeper: the way to it.
pub type Start = Box<dyn FnMut() -> io::Result<OwnedFd>>;

/// The way to the keeper.
pub struct Keeper {
    socket: RefCell<OwnedFd>,
    /// The number of the last memory.
    last: Cell<u64>,
    /// What it has yet to be told is gone: it did not read.
    unsaid: RefCell<Vec<u64>>,
    /// What it was told of the units.
    report: Cell<Option<Report>>,
    start: RefCell<Start>,
    /// At how many looks, one after the other, it was gone.
    gone: Cell<u32>,
    /// When it was seen so last.
    seen: Cell<Option<Instant>>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("last", &self.last).finish_non_exhaustive()
    }
}

/// Memory that the keeper has, too. It is told when this is dropped.
#[derive(Debug)]
pub struct Kept {
    /// `None` once it is not to be told.
    keeper: Option<Rc<Keeper>>,
    number: u64,
}

impl Keeper {
    /// The keeper at the other end of this socket, and the memory that it hands over: what processes before have left.
    ///
    /// # Errors
    ///
    /// Something else is there.
    pub fn at(socket: OwnedFd, start: Start) -> io::Result<(Rc<Self>, Vec<Piece>)> {
        let mut pieces: Vec<Piece> = Vec::new();
        let last = loop {
            match parcel::receive(&socket, RecvFlags::empty()) {
                Ok(Parcel::Piece(piece)) => pieces.push(piece),
                Ok(Parcel::End(last)) => break last,
                Err(NoParcel::System(errno)) => return Err(errno.into()),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let keeper = Self {
            socket: RefCell::new(socket),
            last: Cell::new(last),
            unsaid: RefCell::default(),
            report: Cell::default(),
            start: RefCell::new(start),
            gone: Cell::default(),
            seen: Cell::default(),
        };
        Ok((Rc::new(keeper), pieces))
    }

    /// Has new memory kept.
    ///
    /// # Errors
    ///
    /// The keeper cannot take more now.
    pub fn keep(
        self: &Rc<Self>,
        purpose: Purpose,
        bytes: u64,
        memory: BorrowedFd<'_>,
    ) -> io::Result<Kept> {
        self.say_gone();
        let number = self.last.get() + 1;
        match parcel::send_piece(&*self.socket.borrow(), purpose, number, bytes, memory) {
            // The next keeper is given it with all the rest, and this process has it as long as it lives.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.last.set(number);
        Ok(self.kept(number))
    }

    /// What was handed over, and is this process's now.
    pub fn kept(self: &Rc<Self>, number: u64) -> Kept {
        Kept { keeper: Some(self.clone()), number }
    }

    /// Tells it what became of the units. A keeper that is gone is not waited for.
    pub fn report(&self, report: Report) {
        self.say_gone();
        self.report.set(Some(report));
        let _ = parcel::send(&*self.socket.borrow(), &Parcel::Report(report));
    }

    /// Starts another keeper if this one is gone, and gives it all these pieces. To be called now and then, how often does not
    /// matter; one that is gone for a while is not just before its server in being killed.
    pub fn look<'a>(&self, now: Instant, pieces: impl Iterator<Item = Shown<'a>>) {
        let found = parcel::receive(&*self.socket.borrow(), RecvFlags::DONTWAIT);
        if matches!(found, Err(NoParcel::None)) {
            return self.gone.set(0);
        }
        let is_soon = |seen: Instant| now.saturating_duration_since(seen) < APART;
        if self.gone.get() > 0 && self.seen.get().is_some_and(is_soon) {
            return;
        }
        self.seen.set(Some(now));
        let looks = self.gone.get().saturating_add(1);
        self.gone.set(looks);
        // Where it cannot be done, it is tried again, ever more seldom.
        if !looks.is_power_of_two() || looks < 2 {
            return;
        }
        match self.replace(pieces) {
            Ok(()) => log::line("the keeper is gone: another is started"),
            Err(error) => log::line(format_args!(
                "the keeper is gone, and no other can be started: nobody starts iommud again when it dies, or has what devices reach: {error}"
            )),
        }
    }

    fn replace<'a>(&self, pieces: impl Iterator<Item = Shown<'a>>) -> io::Result<()> {
        let socket = self.start.borrow_mut()()?;
        for Shown { purpose, number, bytes, memory } in pieces {
            parcel::send_piece(&socket, purpose, number, bytes, memory)?;
        }
        if let Some(report) = self.report.get() {
            parcel::send(&socket, &Parcel::Report(report))?;
        }
        parcel::send(&socket, &Parcel::End(self.last.get()))?;
        self.unsaid.borrow_mut().clear();
        self.socket.replace(socket);
        self.gone.set(0);
        Ok(())
    }

    /// Tells it what is gone, as far as it can hear. What it is not told it keeps, which harms nobody.
    fn say_gone(&self) {
        self.unsaid.borrow_mut().retain(|number| {
            parcel::send(&*self.socket.borrow(), &Parcel::Gone(*number)) == Err(Errno::AGAIN)
        });
    }
}

impl Kept {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Gives it up here, while the keeper goes on having it.
    pub fn leave(mut self) {
        self.keeper = None;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.unsaid.borrow_mut().push(self.number);
            keeper.say_gone();
        }
    }
}
