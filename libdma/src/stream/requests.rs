//! Requests for mappings of whole buffers that streams have, and for their end.

use alloc::vec;
use alloc::vec::Vec;
use core::iter;

use dma_types::{Access, Iova};

use super::Terms;
use super::batch::Several;
use super::memory::Pages;
use crate::io_address::BusAddress;
use crate::mapping::Mapped;
use crate::mapping::wire::{Batch, Places, unmap_entry};
use crate::protocol::Error;
use crate::protocol::call::{self, BATCH_FLAG_STRICT, Opcode};
use crate::resume::{Failed, Link, Place, UnderWay};
use crate::session::Session;

/// What the header of a batch says of how strict it is.
#[inline]
fn flags(strict: bool) -> u32 {
    if strict { BATCH_FLAG_STRICT } else { 0 }
}

/// Maps those of these pages that the device has no way to, which are so many.
pub(super) fn map<P: Several + ?Sized>(
    terms: &Terms,
    access: Access,
    pieces: &mut P,
    (count, places): (usize, Places),
) -> Result<(), Error> {
    let (handle, limit, flags) = (terms.session().handle(), terms.limit(), flags(terms.strict));
    let code = call::access_code(access);
    fn waiting(pieces: &(impl Several + ?Sized)) -> impl Iterator<Item = &Pages> {
        pieces.pages().filter(|pages| pages.is_out_of_reach())
    }
    let lost = |pieces: &P| waiting(pieces).map(Pages::piece).collect::<Vec<_>>();
    handle.map_and_note(None, pieces, lost, |pieces, under_way| {
        let wanted = waiting(pieces).map(|pages| (pages.piece(), code));
        let mut batch = Batch::of_maps(flags, (count, places), limit, wanted)?;
        handle.ask_all(Opcode::Map, &mut batch)?;
        let answers = batch.entries();
        let lengths = waiting(pieces).map(|pages| pages.piece().bytes);
        places.check(answers.iter().zip(lengths), limit)?;
        let waiting = pieces.pages_mut().filter(|pages| pages.is_out_of_reach());
        let mapped = waiting.zip(answers).map(|(pages, answer)| {
            let iova = answer.iova.get();
            pages.set_mapped(Iova::new(iova), terms);
            (pages.place(), iova)
        });
        UnderWay::learn_streamed(under_way, mapped)
    })
}

/// The same of one, wherever there is room for it, without the heap.
#[inline]
pub(super) fn map_one(terms: &Terms, access: Access, pages: &mut Pages) -> Result<(), Error> {
    let under_way = Link::begun(terms.session().handle().link());
    match ask_map_one(terms, access, pages, under_way.as_ref()) {
        Ok(()) => Ok(()),
        Err(error) => map_one_after(terms, access, pages, (under_way, error)),
    }
}

/// The same once, in a request that has begun.
#[inline(always)]
fn ask_map_one(
    terms: &Terms,
    access: Access,
    pages: &mut Pages,
    under_way: Option<&UnderWay<'_>>,
) -> Result<(), Error> {
    let (handle, flags) = (terms.session().handle(), flags(terms.strict));
    let wanted = (pages.piece(), call::access_code(access));
    let iova = handle.ask_map(wanted, terms.limit(), flags)?;
    UnderWay::learn_streamed(under_way, iter::once((pages.place(), iova)))?;
    pages.set_mapped(Iova::new(iova), terms);
    Ok(())
}

/// The same after it failed so.
#[cold]
fn map_one_after(
    terms: &Terms,
    access: Access,
    pages: &mut Pages,
    failed: Failed<'_>,
) -> Result<(), Error> {
    let (handle, mut failed) = (terms.session().handle(), Some(failed));
    let piece = |pages: &Pages| iter::once(pages.piece());
    let ask = |pages: &mut Pages, under_way: Option<&UnderWay<'_>>| {
        ask_map_one(terms, access, pages, under_way)
    };
    terms.after_trimming(|| handle.map_and_note_after(None, failed.take(), pages, piece, ask))
}

/// Unmaps those of these pages that are mapped, which are so many. If that is strict, the device reaches them no more when
/// this returns.
pub(super) fn unmap<P: Several + ?Sized>(
    session: &Session,
    pieces: &mut P,
    (count, strict): (usize, bool),
) -> Result<(), Error> {
    let (handle, flags) = (session.handle(), flags(strict));
    fn mapped(pieces: &(impl Several + ?Sized)) -> impl Iterator<Item = (Iova, u64)> {
        pieces.pages().filter_map(Pages::mapping)
    }
    let unmap = |pieces: &P| {
        let mut batch = Batch::new(flags, count)?;
        mapped(pieces).for_each(|(iova, bytes)| batch.push(unmap_entry(iova, bytes)));
        handle.ask_all(Opcode::Unmap, &mut batch)
    };
    let of = |(iova, bytes)| Mapped::new(BusAddress::new(session.addresses(), iova), bytes);
    let all = |pieces: &P| mapped(pieces).map(of).collect();
    handle.unmap_and_note((None, flags), None, pieces, unmap, all, |pieces, under_way, _| {
        let mapped = pieces.pages_mut().filter(|pages| pages.mapping().is_some());
        let unmapped = mapped.map(|pages| {
            pages.set_unmapped();
            pages.place()
        });
        UnderWay::forget_streamed(under_way, unmapped);
    })
}

/// The same of one mapping, which is noted there, without the heap.
#[inline]
pub(super) fn unmap_one(
    session: &Session,
    place: &Place,
    mapping: (Iova, u64),
    strict: bool,
) -> Result<(), Error> {
    let handle = session.handle();
    let under_way = Link::begun(handle.link());
    match handle.ask_unmap(mapping, flags(strict)) {
        Ok(()) => {
            UnderWay::forget_streamed(under_way.as_ref(), iter::once(place));
            Ok(())
        }
        Err(error) => unmap_one_after(session, place, mapping, (strict, (under_way, error))),
    }
}

/// The same after it failed so.
#[cold]
fn unmap_one_after(
    session: &Session,
    place: &Place,
    (iova, bytes): (Iova, u64),
    (strict, failed): (bool, Failed<'_>),
) -> Result<(), Error> {
    let (handle, flags) = (session.handle(), flags(strict));
    let unmap = |_: &()| handle.ask_unmap((iova, bytes), flags);
    let all = |_: &()| vec![Mapped::new(BusAddress::new(session.addresses(), iova), bytes)];
    let forget = |_: &mut (), under_way: Option<&UnderWay<'_>>, _| {
        UnderWay::forget_streamed(under_way, iter::once(place));
    };
    handle.unmap_and_note((None, flags), Some(failed), &mut (), unmap, all, forget)
}
