//! Pages made the device's, and the CPU's again, by one request for many.

use alloc::vec::Vec;
use core::slice;

use dma_types::Access;

use super::Terms;
use super::memory::Pages;
use crate::mapping::Mapped;
use crate::protocol::{Error, MAX_BATCH};

/// Pages, how many of their bytes are in use, and what the device may do with them.
pub(crate) struct Piece<'a> {
    pub(crate) pages: &'a mut Pages,
    pub(crate) bytes: usize,
    /// Whether they must be one segment for the device.
    pub(crate) single: bool,
}

/// Makes all of these the device's, or none (rule R7).
///
/// # Errors
///
/// As [`Device::map`](crate::Device::map); on strict terms [`Error::MappedElsewhere`].
pub(crate) fn map(terms: &Terms, access: Access, pieces: &mut [Piece<'_>]) -> Result<(), Error> {
    let most = pieces.len();
    let mut waiting = collected(
        most,
        pieces.iter_mut().filter_map(|it| {
            let single = it.single.then_some(it.bytes as u64);
            it.pages.must_be_mapped(terms, access, single).then_some(it)
        }),
    );
    if waiting.len() > MAX_BATCH {
        return Err(Error::BatchTooLarge);
    }
    if !waiting.is_empty()
        && let Err(error) = map_waiting(terms, access, &mut waiting)
    {
        take_back(terms, &mut waiting);
        return Err(error);
    }
    if !terms.skip_cpu_sync() {
        // What the device does not write is to be there afterwards, whichever way data goes.
        pieces.iter().for_each(|it| it.pages.copy_to_device(0, it.bytes));
    }
    Ok(())
}

/// The same of one.
pub(crate) fn map_one(terms: &Terms, access: Access, piece: &mut Piece<'_>) -> Result<(), Error> {
    let single = piece.single.then_some(piece.bytes as u64);
    if piece.pages.must_be_mapped(terms, access, single) {
        map_or_bounce(terms, access, piece)?;
        if let Err(error) = bounce_unless_single(terms, access, piece) {
            take_back(terms, &mut [piece]);
            return Err(error);
        }
    }
    if !terms.skip_cpu_sync() {
        // As for many.
        piece.pages.copy_to_device(0, piece.bytes);
    }
    Ok(())
}

/// Copies through a window what must be one segment and was not mapped so.
#[inline(always)]
fn bounce_unless_single(terms: &Terms, access: Access, piece: &mut Piece<'_>) -> Result<(), Error> {
    if piece.single && !terms.is_single(piece.pages.iova(), piece.bytes as u64) {
        take_back(terms, &mut [&mut *piece]);
        return bounce(terms, access, piece, Error::NoAddressSpace);
    }
    Ok(())
}

fn map_waiting(terms: &Terms, access: Access, waiting: &mut [&mut Piece<'_>]) -> Result<(), Error> {
    let requests: Vec<_> = waiting.iter().map(|it| it.pages.request(access)).collect();
    let single = waiting.iter().any(|it| it.single);
    match terms.map(&requests, single) {
        Ok(mapped) => {
            drop(requests);
            waiting
                .iter_mut()
                .zip(mapped)
                .for_each(|(it, mapped)| it.pages.set_mapped(mapped, terms));
        }
        Err(error) if terms.may_bounce(error) => {
            drop(requests);
            waiting.iter_mut().try_for_each(|it| map_or_bounce(terms, access, it))?;
        }
        Err(error) => return Err(error),
    }
    waiting.iter_mut().try_for_each(|it| bounce_unless_single(terms, access, it))
}

#[inline(always)]
fn map_or_bounce(terms: &Terms, access: Access, piece: &mut Piece<'_>) -> Result<(), Error> {
    match terms.map_one(&piece.pages.request(access)) {
        Ok(mapped) => {
            piece.pages.set_mapped(mapped, terms);
            Ok(())
        }
        Err(error) => bounce(terms, access, piece, error),
    }
}

/// Copies through a window what cannot be mapped for this reason.
#[cold]
fn bounce(terms: &Terms, access: Access, piece: &mut Piece<'_>, error: Error) -> Result<(), Error> {
    if !terms.may_bounce(error) {
        return Err(error);
    }
    piece.pages.go_through_window(terms, piece.bytes, access)
}

/// Takes back what was mapped for something that failed. Nobody was told the addresses.
#[cold]
fn take_back(terms: &Terms, pieces: &mut [&mut Piece<'_>]) {
    let mapped: Vec<Mapped> = pieces.iter().filter_map(|it| it.pages.mapping().copied()).collect();
    if mapped.is_empty() || terms.session().unmap(&mapped).is_ok() {
        pieces.iter_mut().for_each(|it| it.pages.set_unmapped());
    }
}

/// Makes all of these the CPU's again, or none (rule R7). If some were mapped on strict terms, the device reaches nothing
/// when this returns that was mapped for it (rule R2).
///
/// # Errors
///
/// As [`Device::unmap`](crate::Device::unmap).
pub(crate) fn unmap(terms: &Terms, pieces: &mut [Piece<'_>]) -> Result<(), Error> {
    let mapped =
        collected(pieces.len(), pieces.iter().filter_map(|it| it.pages.mapping().copied()));
    if !mapped.is_empty() {
        let is_strict = pieces.iter().any(|it| it.pages.is_strict());
        revoke(terms, &mapped, is_strict)?;
    }
    for piece in pieces {
        piece.pages.bring_back(piece.bytes);
        piece.pages.set_unmapped();
    }
    Ok(())
}

/// The same of one.
pub(crate) fn unmap_one(terms: &Terms, pages: &mut Pages, bytes: usize) -> Result<(), Error> {
    if let Some(mapping) = pages.mapping() {
        revoke(terms, slice::from_ref(mapping), pages.is_strict())?;
    }
    pages.bring_back(bytes);
    pages.set_unmapped();
    Ok(())
}

#[inline]
fn revoke(terms: &Terms, mapped: &[Mapped], is_strict: bool) -> Result<(), Error> {
    match is_strict {
        true => terms.session().unmap_strictly(mapped),
        false => terms.session().unmap(mapped),
    }
}

/// What there is of at most so many, by memory of the heap that is taken once, and only if there is any.
pub(crate) fn collected<T>(most: usize, all: impl Iterator<Item = T>) -> Vec<T> {
    let mut collected = Vec::new();
    for each in all {
        if collected.is_empty() {
            collected.reserve_exact(most);
        }
        collected.push(each);
    }
    collected
}
