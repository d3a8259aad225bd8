//! What those who make and give back tell the checker.
//!
//! Each function costs one relaxed load while the checker is off. What a note says is written down where it is asked
//! for, so that nothing is computed for it otherwise.

use alloc::format;
use alloc::vec::Vec;
use core::num::NonZero;
use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::{Access, Iova, PciAddress};
use spin::{Mutex, MutexGuard};

use super::registry::Registry;
use super::report::{Act, Found, Report};
use super::sink::report;
use super::{Kind, Place, is_on};
use crate::fault::Fault;
use crate::io_address::{AddressSpace, WrongDevice};
use crate::mapping::{MapRequest, Mapped};
use crate::pool::NotTaken;
use crate::protocol::Error;
use crate::raw::RawError;

static REGISTRY: Mutex<Registry> = Mutex::new(Registry::new());

/// An address space, by a number that is no other's in this process, and which it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(super) number: u64,
    /// Which it is; nobody's, for memory of other processes.
    pub(super) addresses: Option<AddressSpace>,
}

impl Space {
    /// A new number for it.
    pub(crate) fn new(addresses: AddressSpace) -> Self {
        Self { addresses: Some(addresses), ..Self::of_nobody() }
    }

    /// A new one, which no device has.
    pub(crate) fn of_nobody() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self { number: LAST.fetch_add(1, Ordering::Relaxed), addresses: None }
    }

    /// Whose it is, if anybody's.
    pub(super) fn device(self) -> Option<PciAddress> {
        self.addresses.map(|it| it.device)
    }

    /// Whether both are a device's own in one session, though it may be by two handles.
    pub(super) fn is_own_of(self, other: Self) -> bool {
        self.addresses == other.addresses
    }
}

impl PartialEq for Space {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

/// What is made: see [`Thing`](super::Thing).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note<'a> {
    pub(crate) kind: Kind,
    pub(crate) label: &'a str,
    pub(crate) space: Space,
    pub(crate) iova: Option<Iova>,
    pub(crate) bytes: u64,
    pub(crate) access: Option<Access>,
}

/// By which the registry knows something that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u64);

/// By which the checker knows something that was made. It is a field of it, and dropped with it: then it was given back,
/// and nobody can tell where. Without anything behind it where the checker was off.
#[derive(Default)]
#[must_use = "what is made is given back when this is dropped"]
pub(crate) struct Mark(Option<NonZero<u64>>);

impl Mark {
    fn tag(&self) -> Option<Tag> {
        self.0.map(|number| Tag(number.get()))
    }

    /// Whether there is nothing behind it.
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The lists that what it marks is in were taken back by a call, whose place the report shall tell.
    #[track_caller]
    #[inline]
    pub(crate) fn lists_given_back(&self) {
        if let Some(tag) = self.tag() {
            REGISTRY.lock().lists_gone(tag, Place::here());
        }
    }

    /// What it marks was given back by a call, whose place the report shall tell.
    #[track_caller]
    #[inline]
    pub(crate) fn given_back(mut self) {
        if let Some(number) = self.0.take() {
            gone(number, Some(Place::here()));
        }
    }
}

impl Drop for Mark {
    #[inline]
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            gone(number, None);
        }
    }
}

#[cold]
fn gone(number: NonZero<u64>, at: Option<Place>) {
    REGISTRY.lock().gone(Tag(number.get()), at);
}

/// Something was made, where the caller of this and of all that is `#[track_caller]` around it is.
#[track_caller]
#[inline]
pub(crate) fn made<'a>(note: impl FnOnce() -> Note<'a>) -> Mark {
    if is_on() { enter(&note(), Place::here(), &[]) } else { Mark(None) }
}

/// The same, made of what has these marks. What ends them, ends it; and of a stream and its memory only the stream is told.
#[track_caller]
#[inline]
pub(crate) fn made_of<'a>(of: &[&Mark], note: impl FnOnce() -> Note<'a>) -> Mark {
    if is_on() { enter(&note(), Place::here(), of) } else { Mark(None) }
}

/// The same at another place than where the caller is, who may not be the driver.
#[inline]
pub(crate) fn made_at<'a>(at: Place, of: &[&Mark], note: impl FnOnce() -> Note<'a>) -> Mark {
    if is_on() { enter(&note(), at, of) } else { Mark(None) }
}

#[cold]
fn enter(note: &Note<'_>, at: Place, of: &[&Mark]) -> Mark {
    let of = of.iter().filter_map(|mark| mark.tag()).collect();
    Mark(locked().and_then(|mut registry| NonZero::new(registry.made_of(note, at, of).0)))
}

/// The registry, for what is made; nothing if the checker was turned off since it was asked, and forgot everything.
fn locked() -> Option<MutexGuard<'static, Registry>> {
    let registry = REGISTRY.lock();
    is_on().then_some(registry)
}

/// The device was denied this: reports what was there, if anything.
pub(crate) fn denied(space: Space, fault: &Fault) {
    if is_on() {
        tell(|registry| registry.explain(space, fault));
    }
}

/// An address was refused, for it is another device's or of another domain. What it names here is left as it is.
#[track_caller]
#[inline]
pub(crate) fn wrong_device(address: Iova, wrong: WrongDevice, act: Act) {
    if is_on() {
        let at = Place::here();
        tell(|registry| Some(registry.wrong_device(address, wrong, act, at)));
    }
}

/// Forgets everything.
pub(super) fn forget() {
    REGISTRY.lock().forget();
}

/// Reports everything that lives, of every device; how many there are. At a driver's end, when it believes that it has
/// given everything back, this finds what it forgot ([`core::mem::forget`]) or left to the device. The
/// [module](super) has a table of what is among them.
pub fn leaks() -> usize {
    tell(|registry| registry.held())
}

/// What pools tell, which ask first whether the checker is on. Blocks are known by their I/O addresses.
pub(crate) mod blocks {
    use super::*;

    /// A block was given out.
    #[cold]
    pub(crate) fn given_out(note: &Note<'_>, at: Place) {
        if let Some(mut registry) = locked() {
            registry.made(note, at, false);
        }
    }

    /// A block was given back: where, if anybody said so.
    #[cold]
    pub(crate) fn given_back(space: Space, iova: Iova, at: Option<Place>) {
        let mut registry = REGISTRY.lock();
        if let Some(tag) = registry.find(space, Kind::Block, iova, |_| true) {
            registry.gone(tag, at);
        }
    }

    /// A block was not taken back by the pool of this name, for the reason that the pool has.
    #[cold]
    pub(crate) fn refused(space: Space, pool: &str, iova: Iova, why: NotTaken, at: Place) {
        let (kind, act) = (Kind::Block, Act::GiveBack);
        tell(|registry| match why {
            // That is told where the two devices are known.
            NotTaken::WrongDevice(_) => Vec::new(),
            NotTaken::NoBlock => registry.not_of(space, kind, pool, iova, act, at),
            NotTaken::Free => registry.not_there(space, kind, iova, act, at),
            NotTaken::Held => registry.held_by_driver(space, kind, iova, at),
        });
    }

    /// A block was written between being given back and being given out again: at this offset is this.
    #[cold]
    pub(crate) fn written(space: Space, iova: Iova, found: (u64, u8), again: Place) {
        tell(|registry| registry.written(space, iova, found, again));
    }

    /// A pool ends: what it gave out and is not given back, is a leak.
    #[cold]
    pub(crate) fn pool_dropped(space: Space, is_its: impl Fn(Iova) -> bool) {
        tell(|registry| registry.dropped(space, Kind::Block, Found::PoolDropped, is_its));
    }
}

/// What is told of mappings, which are known by their I/O addresses.
pub(crate) mod mappings {
    use super::*;

    /// Pieces of buffers were mapped.
    #[track_caller]
    #[inline]
    pub(crate) fn mapped(space: Space, pieces: &[MapRequest<'_>], mapped: &[Mapped]) {
        if is_on() {
            note(space, pieces, mapped, Place::here());
        }
    }

    #[cold]
    fn note(space: Space, pieces: &[MapRequest<'_>], mapped: &[Mapped], here: Place) {
        for (piece, mapped) in pieces.iter().zip(mapped) {
            let label = format!("buffer {}", piece.buffer.id());
            let (kind, label, iova) = (Kind::Mapping, &*label, Some(mapped.iova()));
            let (bytes, access) = (mapped.bytes(), Some(piece.access));
            let note = Note { kind, label, space, iova, bytes, access };
            // It ends with its buffer, which the checker does not know of if it was off then.
            if let Some(buffer) = piece.buffer.mark().tag()
                && let Some(mut registry) = locked()
            {
                registry.made_of(&note, here, [buffer].into());
            }
        }
    }

    /// Mappings were to be unmapped. Reports what is wrong about them, if they were not because they are not what is mapped.
    #[track_caller]
    #[inline]
    pub(crate) fn unmapped(space: Space, mappings: &[Mapped], result: Result<(), Error>) {
        if is_on() && matches!(result, Ok(()) | Err(Error::NotMapped)) {
            end(space, mappings, result.is_ok(), Place::here());
        }
    }

    #[cold]
    fn end(space: Space, mappings: &[Mapped], are_gone: bool, here: Place) {
        if !are_gone {
            let named: Vec<_> = mappings.iter().map(|it| (it.iova(), it.bytes())).collect();
            tell(|registry| registry.named_twice(space, &named, here));
        }
        for mapping in mappings {
            let (iova, bytes) = (mapping.iova(), Some(mapping.bytes()));
            if are_gone {
                // What the checker does not know of was mapped while it was off.
                let _ = REGISTRY.lock().given_back(space, Kind::Mapping, iova, bytes, None, here);
            } else {
                tell(|registry| registry.wrong(space, Kind::Mapping, iova, bytes, None, here));
            }
        }
    }
}

/// A domain was dropped, and what was mapped in it is not mapped any more.
pub(crate) fn domain_dropped(space: Space) {
    if is_on() {
        REGISTRY.lock().space_dropped(space);
    }
}

/// What the raw layer tells: memory that is known by its I/O address alone, so that a driver can be wrong about it.
pub(crate) mod raw {
    use super::*;

    /// A range was mapped, and is the device's. Its kind is [`Kind::Raw`].
    #[track_caller]
    #[inline]
    pub(crate) fn mapped<'a>(note: impl FnOnce() -> Note<'a>) {
        if is_on() {
            let (here, note) = (Place::here(), note());
            if let Some(mut registry) = locked() {
                registry.made(&note, here, true);
            }
        }
    }

    /// A range, as a call names it.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Named<'a> {
        /// What the stream is called that was called.
        pub(crate) stream: &'a str,
        pub(crate) space: Space,
        pub(crate) iova: Iova,
        pub(crate) bytes: u64,
        /// Nothing for what the CPU touches, which names none.
        pub(crate) access: Option<Access>,
    }

    /// A range was unmapped.
    #[track_caller]
    #[inline]
    pub(crate) fn unmapped<'a>(named: impl FnOnce() -> Named<'a>) {
        if is_on() {
            let (Named { space, iova, bytes, access, .. }, here) = (named(), Place::here());
            // What the checker does not know of was mapped while it was off.
            let _ = REGISTRY.lock().given_back(space, Kind::Raw, iova, Some(bytes), access, here);
        }
    }

    /// A stream ends, and with it what is mapped in it: that is a leak.
    pub(crate) fn stream_dropped(space: Space, is_its: impl Fn(Iova) -> bool) {
        if is_on() {
            tell(|registry| registry.dropped(space, Kind::Raw, Found::StreamDropped, is_its));
        }
    }

    /// A range was synced for the device (`to_device`) or for the CPU.
    #[track_caller]
    #[inline]
    pub(crate) fn synced<'a>(named: impl FnOnce() -> Named<'a>, to_device: bool) {
        if is_on() {
            // As with what was unmapped.
            let _ = REGISTRY.lock().synced(&named(), to_device, Place::here());
        }
    }

    /// A range was refused, for the reason that the stream has. Reports a double unmap, what never was mapped or is another
    /// stream's, what is the device's, a wrong length, a wrong direction.
    #[track_caller]
    #[inline]
    pub(crate) fn refused<'a>(named: impl FnOnce() -> Named<'a>, act: Act, why: RawError) {
        if is_on() {
            tell_refused(&named(), act, why, Place::here());
        }
    }

    #[cold]
    fn tell_refused(named: &Named<'_>, act: Act, why: RawError, here: Place) {
        let Named { stream, space, iova, bytes, access } = *named;
        tell(|registry| match (why, act) {
            // That the IOMMU or iommud failed is no mistake, and the other is told where the two devices are known.
            (RawError::Failed(_) | RawError::WrongDevice(_), _) => Vec::new(),
            (RawError::NotMapped, _) => registry.not_of(space, Kind::Raw, stream, iova, act, here),
            (_, Act::GiveBack) => registry.wrong(space, Kind::Raw, iova, Some(bytes), access, here),
            (_, Act::Sync) => registry.synced(named, false, here),
            (_, Act::Read | Act::Write) => registry.touched(named, act, here),
        });
    }
}

/// Hands over what was found, when the lock is not held any more; how much it was.
fn tell<Reports: IntoIterator<Item = Report>>(
    find: impl FnOnce(&mut Registry) -> Reports,
) -> usize {
    let found = find(&mut REGISTRY.lock());
    found.into_iter().inspect(report).count()
}
