//! The keeper, as the process that serves knows it.
//!
//! All memory that hardware is to reach goes to the keeper first. When this process dies, the keeper has it, and hands it
//! to the next; so nobody is given memory that a unit may still walk or a device reach (rule R2).

use core::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::pagemap::PageMap;
use super::parcel::{self, NoParcel, Parcel, Piece, Purpose};
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

/// The way to the keeper.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    /// The number of the last memory.
    last: Cell<u64>,
    /// Whether it is known to be gone.
    is_alone: Cell<bool>,
    /// What it has yet to be told is gone: it did not read.
    unsaid: RefCell<Vec<u64>>,
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
    pub fn at(socket: OwnedFd) -> io::Result<(Rc<Self>, Vec<Piece>)> {
        let mut pieces: Vec<Piece> = Vec::new();
        let last = loop {
            match parcel::receive(&socket, RecvFlags::empty()) {
                Ok(Parcel::Piece(piece)) => pieces.push(piece),
                Ok(Parcel::End(last)) => break last,
                Err(NoParcel::System(errno)) => return Err(errno.into()),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let (is_alone, unsaid) = (Cell::default(), RefCell::default());
        Ok((Rc::new(Self { socket, last: Cell::new(last), is_alone, unsaid }), pieces))
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
        match parcel::send_piece(&self.socket, purpose, number, bytes, memory) {
            Ok(()) => {}
            // Nobody comes after this process, and what it has it keeps as long as it lives.
            Err(Errno::PIPE | Errno::CONNRESET) => self.say_alone(),
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
        let _ = parcel::send(&self.socket, &Parcel::Report(report));
    }

    fn say_alone(&self) {
        if !self.is_alone.replace(true) {
            log::line(
                "the keeper is gone: nobody starts iommud again when it dies, or has what devices reach",
            );
        }
    }

    /// Tells it what is gone, as far as it can hear. What it is not told it keeps, which harms nobody.
    fn say_gone(&self) {
        self.unsaid.borrow_mut().retain(|number| {
            parcel::send(&self.socket, &Parcel::Gone(*number)) == Err(Errno::AGAIN)
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
