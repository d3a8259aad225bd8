//! Memory that clients supply.
//!
//! A client puts memory of its own into a memory object and sends the object's descriptor. The memory is *moved* out of
//! it, first to an object that nobody else has, where it is looked at, and from there to the daemon's own
//! ([`object`](super::object)); the client sees it again by mapping its buffer, as any other. The daemon never maps
//! what was sent, and this is why:
//!
//! - What was sent cannot be told from the address space of a process that runs: both are the same to the kernel
//!   (663e6641, `src/scheme/proc.rs`). Whoever maps a piece of one keeps all of it alive after its process has ended,
//!   and would be caught in itself when giving up the last of one in which the daemon's own memory is mapped. Of what
//!   is moved, nothing of that is true: it is the daemon's alone.
//! - The sender may have kept a descriptor of it, and put something else there after it was looked at.
//! - When the daemon dies, the memory is the keeper's still, so that no device reaches memory of others.
//!
//! Only plain memory is taken, of which the kernel says that it is neither device registers, nor of a file or a scheme,
//! nor shared. Pages of which a fork has left a second owner are copied when they are first touched here, before a
//! device is told of them. What cannot be checked is whose memory it was: the sender had it mapped or held
//! the whole authority over the process that had.

use iommu_engine::platform::Segment;
use libredox::Fd;
use libredox::call::dup;
use libredox::errno::{EINVAL, ENOENT};
use libredox::error::Error as SystemError;
use thiserror::Error;

use super::closing::close_apart;
use super::memory::{Chunk, Memory, Place};
use super::object::{Extents, MemoryObject, move_memory, thread};
use super::plain::{Unfit, judge};

/// Why memory was not taken over.
#[derive(Debug, Error)]
pub enum ForeignError {
    /// It is no memory object.
    #[error("what was sent is no memory object")]
    NotAnObject,
    /// What is to be taken is not there, or not to be had.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The kernel refused.
    #[error("the memory cannot be moved: {0}")]
    System(#[from] SystemError),
}

/// Takes `bytes` at `address` out of what was sent. When that fails, it is there again.
///
/// # Errors
///
/// [`ForeignError`].
pub fn take_over(
    memory: &Memory,
    sent: &Fd,
    address: usize,
    bytes: usize,
) -> Result<(Chunk, Vec<Segment>), ForeignError> {
    let sent = object(sent)?;
    // What an honest sender got wrong is told before anything has moved.
    check(sent.extents(), address, bytes)?;
    let [first, second] = places(memory, address, bytes)?;
    let staging = first.start().addr().get();
    let apart = MemoryObject::create()?;
    let chunk = match through(memory, &sent, address, &apart, staging, second) {
        Ok(chunk) => chunk,
        Err(error) => {
            // Whoever sends what is not plain after all has changed it meanwhile, and may find it as it likes.
            let _ = move_memory(sent.descriptor(), address, bytes, apart.descriptor(), staging);
            // It may even have seen to it that this did not work, and then what is left is a scheme's of its own.
            close_apart(vec![apart.into_descriptor()]);
            return Err(error);
        }
    };
    match memory.translate_all(chunk.start(), bytes) {
        Ok(segments) => Ok((chunk, segments)),
        Err(error) => {
            // There is no memory for a page that was not there yet, and so there may be none to undo this.
            let _ = memory.return_to(chunk, sent.descriptor(), address);
            Err(error.into())
        }
    }
}

/// Moves memory to an object that nobody else has, looks at it there, and moves it to its place.
fn through(
    memory: &Memory,
    sent: &Sent<'_>,
    address: usize,
    apart: &MemoryObject,
    staging: usize,
    place: Place,
) -> Result<Chunk, ForeignError> {
    apart.receive(staging, place.bytes(), sent.descriptor(), address)?;
    check(apart.extents(), staging, place.bytes())?;
    Ok(memory.receive(place, apart.descriptor(), staging)?)
}

/// What was sent, if the memory of an address space can be taken from it. Only the kernel is asked: a descriptor of some
/// scheme would ask that scheme, which may never answer.
fn object(sent: &Fd) -> Result<Sent<'_>, ForeignError> {
    // The kernel looks whether it is a descriptor of its own scheme for processes (`verify_scheme`: EBADF), and
    // then whether it is an authority over them, which it is not (ENOENT).
    match dup(thread(), format!("auth-{}-attrs", sent.raw()).as_bytes()) {
        Err(error) if error.errno() == ENOENT => {}
        Err(_) => return Err(ForeignError::NotAnObject),
        Ok(attributes) => {
            drop(Fd::new(attributes));
            return Err(ForeignError::NotAnObject);
        }
    }
    // Of all that this scheme has, only an address space can be asked for an empty one.
    match sent.dup(b"empty") {
        Ok(empty) => drop(Fd::new(empty)),
        Err(_) => return Err(ForeignError::NotAnObject),
    }
    Ok(Sent(sent))
}

/// A descriptor that is an address space's.
struct Sent<'a>(&'a Fd);

impl Sent<'_> {
    fn descriptor(&self) -> &Fd {
        self.0
    }

    fn extents(&self) -> Extents<'_> {
        super::object::extents(self.0)
    }
}

/// Refuses a range that is not all there, or not all plain memory.
fn check(mut extents: Extents<'_>, address: usize, bytes: usize) -> Result<(), ForeignError> {
    let judged = judge(&mut extents, address, bytes);
    match extents.failure() {
        Some(error) => Err(error.into()),
        None => Ok(judged?),
    }
}

/// Two places of this length with nothing in them. The kernel moves memory only to addresses other than those it is
/// at, though in another address space: so neither overlaps `address`. A range overlaps at most two of several that are
/// as long and do not overlap each other.
fn places(memory: &Memory, address: usize, bytes: usize) -> Result<[Place; 2], SystemError> {
    let mut free = Vec::new();
    let mut overlapping = Vec::new();
    for _ in 0..4 {
        let place = memory.reserve(bytes)?;
        let start = place.start().addr().get();
        let apart = start >= address + bytes || address >= start + bytes;
        if apart { free.push(place) } else { overlapping.push(place) }
    }
    match (free.pop(), free.pop()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => Err(SystemError::new(EINVAL)),
    }
}
