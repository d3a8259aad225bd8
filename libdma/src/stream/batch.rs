//! Pages made the device's, and the CPU's again, by one request for many.

use alloc::vec::Vec;
use core::slice;

use dma_types::Access;

use super::memory::Pages;
use super::{Terms, requests};
use crate::mapping::wire::Places;
use crate::protocol::{Error, MAX_BATCH};

/// Pages, how many of their bytes are in use, and what the device may do with them.
pub(crate) struct Piece<'a> {
    pub(crate) pages: &'a mut Pages,
    pub(crate) bytes: usize,
    /// Whether they must be one segment for the device.
    pub(crate) single: bool,
}

/// Pages that are mapped, or unmapped, by one request.
pub(crate) trait Several {
    /// Those of each.
    fn pages(&self) -> impl Iterator<Item = &Pages>;

    /// The same, to be changed.
    fn pages_mut(&mut self) -> impl Iterator<Item = &mut Pages>;
}

impl Several for [Piece<'_>] {
    #[inline]
    fn pages(&self) -> impl Iterator<Item = &Pages> {
        self.iter().map(|it| &*it.pages)
    }

    #[inline]
    fn pages_mut(&mut self) -> impl Iterator<Item = &mut Pages> {
        self.iter_mut().map(|it| &mut *it.pages)
    }
}

impl Piece<'_> {
    /// Whether the device has no way to them yet.
    #[inline]
    fn must_be_mapped(&mut self, terms: &Terms, access: Access) -> bool {
        let single = self.single.then_some(self.bytes as u64);
        self.pages.must_be_mapped(terms, access, single)
    }
}

/// Makes all of these the device's, or none (rule R7).
///
/// # Errors
///
/// As [`Device::map`](crate::Device::map); on strict terms [`Error::MappedElsewhere`].
pub(crate) fn map(terms: &Terms, access: Access, pieces: &mut [Piece<'_>]) -> Result<(), Error> {
    let (mut waiting, mut single) = (0, false);
    for piece in &mut *pieces {
        waiting += usize::from(piece.must_be_mapped(terms, access));
        single |= piece.single;
    }
    if waiting > MAX_BATCH {
        return Err(Error::BatchTooLarge);
    }
    if waiting > 0
        && let Err(error) = map_waiting(terms, access, pieces, (waiting, single))
    {
        take_back(terms, pieces);
        return Err(error);
    }
    if terms.bounces() && !terms.skip_cpu_sync() {
        // What the device does not write is to be there afterwards, whichever way data goes.
        pieces.iter().for_each(|it| it.pages.copy_to_device(0, it.bytes));
    }
    Ok(())
}

/// The same of one.
#[inline]
pub(crate) fn map_one(terms: &Terms, access: Access, piece: &mut Piece<'_>) -> Result<(), Error> {
    if piece.must_be_mapped(terms, access) {
        map_or_bounce(terms, access, piece)?;
        if let Err(error) = bounce_unless_single(terms, access, piece) {
            take_back(terms, slice::from_mut(piece));
            return Err(error);
        }
    }
    if terms.bounces() && !terms.skip_cpu_sync() {
        // As for many.
        piece.pages.copy_to_device(0, piece.bytes);
    }
    Ok(())
}

/// Copies through a window what must be one segment and was not mapped so.
#[inline]
fn bounce_unless_single(terms: &Terms, access: Access, piece: &mut Piece<'_>) -> Result<(), Error> {
    if piece.single && !terms.is_single(piece.pages.iova(), piece.bytes as u64) {
        take_back(terms, slice::from_mut(piece));
        return bounce(terms, access, piece, Error::NoAddressSpace);
    }
    Ok(())
}

/// Maps those of these that the device has no way to, which are so many, each as one segment or not.
fn map_waiting(
    terms: &Terms,
    access: Access,
    pieces: &mut [Piece<'_>],
    (waiting, single): (usize, bool),
) -> Result<(), Error> {
    match terms.map(access, pieces, (waiting, single)) {
        Ok(()) => {}
        Err(error) if terms.may_bounce(error) => {
            let waiting = pieces.iter_mut().filter(|it| it.pages.is_out_of_reach());
            for piece in waiting {
                map_or_bounce(terms, access, piece)?;
            }
        }
        Err(error) => return Err(error),
    }
    if single {
        pieces.iter_mut().try_for_each(|it| bounce_unless_single(terms, access, it))?;
    }
    Ok(())
}

#[inline]
fn map_or_bounce(terms: &Terms, access: Access, piece: &mut Piece<'_>) -> Result<(), Error> {
    match requests::map_one(terms, access, piece.pages) {
        Ok(()) => Ok(()),
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

/// Makes all pages of a list on strict terms the device's, which are so many, one behind the other. Nothing, with nothing changed,
/// where it reaches some of them already, or there is not so much room in one place.
pub(crate) fn map_list(
    terms: &Terms,
    access: Access,
    list: &mut (impl Several + ?Sized),
    count: usize,
) -> Option<Result<(), Error>> {
    let is_plain = (2..=MAX_BATCH).contains(&count)
        && terms.session().is_confined()
        && list.pages().all(Pages::is_out_of_reach);
    if !is_plain {
        return None;
    }
    match requests::map(terms, access, list, (count, Places::Together)) {
        Err(Error::NoAddressSpace) => None,
        mapped => Some(mapped),
    }
}

/// Makes all pages of such a list the CPU's again, or none (rule R7). The device reaches nothing of them when this returns (rule
/// R2).
///
/// # Errors
///
/// As [`unmap`].
pub(crate) fn unmap_list(
    terms: &Terms,
    list: &mut (impl Several + ?Sized),
    count: usize,
) -> Result<(), Error> {
    requests::unmap(terms.session(), list, (count, true))
}

/// Takes back what is mapped for something that failed. Nobody was told the addresses.
#[cold]
fn take_back(terms: &Terms, pieces: &mut [Piece<'_>]) {
    if unmap_mapped(terms, pieces).is_ok() {
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
    if unmap_mapped(terms, pieces)? < pieces.len() {
        for piece in pieces {
            piece.pages.bring_back(piece.bytes);
            piece.pages.set_unmapped();
        }
    }
    Ok(())
}

/// Unmaps those of these that are mapped: how many they were.
fn unmap_mapped(terms: &Terms, pieces: &mut [Piece<'_>]) -> Result<usize, Error> {
    let (mut mapped, mut strict) = (0, false);
    for piece in &*pieces {
        mapped += usize::from(piece.pages.mapping().is_some());
        strict |= piece.pages.is_strict();
    }
    if mapped > 0 {
        requests::unmap(terms.session(), pieces, (mapped, strict))?;
    }
    Ok(mapped)
}

/// What there is of at most so many, by memory of the heap that is taken once, and only if there is any.
pub(crate) fn collected<T>(most: usize, mut all: impl Iterator<Item = T>) -> Vec<T> {
    let Some(first) = all.next() else { return Vec::new() };
    let mut collected = Vec::with_capacity(most);
    collected.push(first);
    for each in all {
        collected.push(each);
    }
    collected
}
