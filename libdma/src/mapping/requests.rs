//! Requests for mappings of pieces, and for their end.

use alloc::vec;
use alloc::vec::Vec;
use core::iter;

use dma_types::Iova;
use zerocopy::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

use super::wire::{Batch, One, Places, map_entry, unmap_entry};
use super::{MapRequest, Mapped};
use crate::check::{self, Act, Space};
use crate::handle::Handle;
use crate::io_address::{AddressSpace, BusAddress};
use crate::protocol::Error;
use crate::protocol::call::{self, BATCH_FLAG_STRICT, MapEntry, Opcode};
use crate::protocol::domain::{Found, Lookup};
use crate::resume::{Failed, Link, Lost, Piece, UnderWay};
use crate::session::Session;

/// What is to be mapped, and the [`access_code`](call::access_code).
fn wanted(request: &MapRequest<'_>) -> (Piece, u32) {
    let MapRequest { buffer, offset, bytes, access } = *request;
    (Piece { buffer: buffer.id(), offset, bytes }, call::access_code(access))
}

impl Session {
    /// As [`Device::map`](crate::Device::map), below this limit.
    pub(crate) fn map(
        &self,
        requests: &[MapRequest<'_>],
        limit: Iova,
    ) -> Result<Vec<Mapped>, Error> {
        self.handle().map(self.addresses(), requests, Places::Anywhere, limit)
    }

    /// As [`Device::unmap`](crate::Device::unmap).
    pub(crate) fn unmap(&self, mappings: &[Mapped]) -> Result<(), Error> {
        self.handle().unmap(None, mappings, 0)
    }

    /// The same, but when it returns no device reaches them whatever the policy says (rule R2).
    pub(crate) fn unmap_strictly(&self, mappings: &[Mapped]) -> Result<(), Error> {
        self.handle().unmap(None, mappings, BATCH_FLAG_STRICT)
    }
}

impl Handle {
    /// Maps pieces of buffers in the address space of this handle, which is a device's or a domain's.
    pub(crate) fn map(
        &self,
        space: AddressSpace,
        requests: &[MapRequest<'_>],
        places: Places,
        limit: Iova,
    ) -> Result<Vec<Mapped>, Error> {
        let mapped = |iova, bytes| Mapped::new(BusAddress::new(space, Iova::new(iova)), bytes);
        if let ([request], Places::Anywhere) = (requests, places) {
            let wanted = wanted(request);
            let pieces = |_: &()| iter::once(wanted.0);
            return self.map_and_note(space.domain, &mut (), pieces, |_, under_way| {
                let iova = self.ask_map(wanted, limit, 0)?;
                if let Some(under_way) = under_way {
                    under_way.learn(space.domain, iter::once((iova, wanted.0)))?;
                }
                Ok(vec![mapped(iova, request.bytes)])
            });
        }
        let pieces = || requests.iter().map(|request| wanted(request).0);
        self.map_and_note(
            space.domain,
            &mut (),
            |_| pieces(),
            |_, under_way| {
                let mut batch = Batch::of_maps(
                    0,
                    (requests.len(), places),
                    limit,
                    requests.iter().map(wanted),
                )?;
                self.ask_all(Opcode::Map, &mut batch)?;
                let answers = batch.entries();
                places.check(answers.iter().zip(requests.iter().map(|it| it.bytes)), limit)?;
                if let Some(under_way) = under_way {
                    let iovas = answers.iter().map(|entry| entry.iova.get());
                    under_way.learn(space.domain, iovas.zip(pieces()))?;
                }
                let mapped = |entry: &MapEntry| mapped(entry.iova.get(), entry.bytes.get());
                Ok(answers.iter().map(mapped).collect())
            },
        )
    }

    /// Asks for a mapping of one piece with this access code, wherever there is room for it, below a limit and with these flags
    /// in the batch's header, without the heap: where it is.
    #[inline(always)]
    pub(crate) fn ask_map(
        &self,
        wanted: (Piece, u32),
        limit: Iova,
        flags: u32,
    ) -> Result<u64, Error> {
        let places = Places::Anywhere;
        let [place, _] = places.of_entries();
        let mut one = One::new(flags, map_entry(wanted, limit, place));
        self.ask_one(Opcode::Map, &mut one)?;
        places.check(iter::once((&one.entry, wanted.0.bytes)), limit)?;
        Ok(one.entry.iova.get())
    }

    /// The same for the end of a mapping.
    #[inline(always)]
    pub(crate) fn ask_unmap(&self, (iova, bytes): (Iova, u64), flags: u32) -> Result<(), Error> {
        self.ask_one(Opcode::Unmap, &mut One::new(flags, unmap_entry(iova, bytes)))
    }

    /// Makes a request for mappings of these pieces of something, which notes what was mapped, if that is kept over restarts;
    /// after a restart it is made again.
    #[inline]
    pub(crate) fn map_and_note<C: ?Sized, R, Pieces: IntoIterator<Item = Piece>>(
        &self,
        domain: Option<u64>,
        of: &mut C,
        pieces: impl Fn(&C) -> Pieces,
        map: impl FnMut(&mut C, Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.map_and_note_after(domain, None, of, pieces, map)
    }

    /// The same, for who has begun it and made it once, by a way of their own, and it failed so.
    #[inline]
    pub(crate) fn map_and_note_after<C: ?Sized, R, Pieces: IntoIterator<Item = Piece>>(
        &self,
        domain: Option<u64>,
        failed: Option<Failed<'_>>,
        of: &mut C,
        pieces: impl Fn(&C) -> Pieces,
        mut map: impl FnMut(&mut C, Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let lose = |of: &C| {
            if let Some(link) = self.link() {
                link.lose(pieces(of).into_iter().map(|piece| Lost { domain, piece }));
            }
        };
        if let Some((_, Error::DaemonGone)) = failed {
            lose(of);
        }
        Link::request_after(self.link(), failed, |under_way| {
            let mapped = map(of, under_way);
            if let Err(Error::DaemonGone) = mapped {
                lose(of);
            }
            mapped
        })
    }

    /// Unmaps what was so mapped, with these flags in the batch's header.
    pub(crate) fn unmap(
        &self,
        domain: Option<u64>,
        mappings: &[Mapped],
        flags: u32,
    ) -> Result<(), Error> {
        let unmap = |_: &()| self.unmap_once(mappings, flags);
        let all = |_: &()| mappings.to_vec();
        self.unmap_and_note((domain, flags), None, &mut (), unmap, all, |_, under_way, noted| {
            let at = |mapping: &Mapped| (domain, mapping.iova().get());
            if let Some(under_way) = under_way {
                under_way.forget(mappings.iter().map(at), noted);
            }
        })
    }

    /// Unmaps what a driver says was mapped in this address space, which is this handle's. What is another's is told the
    /// checker, and not iommud, to which it would be a number like any.
    #[track_caller]
    pub(crate) fn unmap_checked(
        &self,
        addresses: AddressSpace,
        space: Space,
        mappings: &[Mapped],
    ) -> Result<(), Error> {
        for mapping in mappings {
            if let Err(wrong) = mapping.address().within(addresses) {
                check::wrong_device(mapping.iova(), wrong, Act::GiveBack);
                return Err(wrong.into());
            }
        }
        let unmapped = self.unmap(addresses.domain, mappings, 0);
        check::mappings::unmapped(space, mappings, unmapped);
        unmapped
    }

    /// Makes a request that `unmap`s something's mappings in a domain, and has it noted that they are not there any more: but
    /// for what was mapped there since so many had been noted. After a restart what is left of `all` of them is unmapped, with
    /// these flags. It may have been begun and made once by another way, and have `failed`.
    #[inline]
    pub(crate) fn unmap_and_note<C: ?Sized>(
        &self,
        (domain, flags): (Option<u64>, u32),
        failed: Option<Failed<'_>>,
        of: &mut C,
        unmap: impl Fn(&C) -> Result<(), Error>,
        all: impl Fn(&C) -> Vec<Mapped>,
        mut forget: impl FnMut(&mut C, Option<&UnderWay<'_>>, u64),
    ) -> Result<(), Error> {
        // What is known of these places by a higher number was mapped by another thread since this was asked for.
        let mut noted = failed.as_ref().and_then(|(it, _)| it.as_ref()).map(UnderWay::noted);
        Link::request_after(self.link(), failed, |under_way| {
            match noted {
                None => {
                    noted = under_way.map(UnderWay::noted);
                    unmap(of)?;
                }
                Some(noted) => self.unmap_rest((domain, flags), all(of), noted)?,
            }
            forget(of, under_way, noted.unwrap_or_default());
            Ok(())
        })
    }

    /// Unmaps what is left of a batch after a restart.
    #[cold]
    fn unmap_rest(
        &self,
        (domain, flags): (Option<u64>, u32),
        mappings: Vec<Mapped>,
        noted: u64,
    ) -> Result<(), Error> {
        match &*self.still_mapped(domain, mappings, noted)? {
            [] => Ok(()),
            rest => self.unmap_once(rest, flags),
        }
    }

    /// What of a batch is to be unmapped still, after a restart of iommud: all of it, unless there is something that was
    /// mapped for sure, as is known, and is not any more, for which the batch was good and in part done. What was mapped
    /// there since by another thread, after so many had been noted, is that one's.
    fn still_mapped(
        &self,
        domain: Option<u64>,
        mappings: Vec<Mapped>,
        noted: u64,
    ) -> Result<Vec<Mapped>, Error> {
        let mut rest = Vec::with_capacity(mappings.len());
        let mut is_begun = false;
        for mapping in &mappings {
            let start = mapping.iova().get();
            let mut found = Found::new_zeroed();
            let request = Lookup { iova: U64::new(start) };
            let payload = found.as_mut_bytes();
            payload[..size_of::<Lookup>()].copy_from_slice(request.as_bytes());
            self.call_once(Opcode::Lookup, payload)?;
            let number = self.link().and_then(|link| link.known((domain, start)));
            let is_there = found.access.get() != 0 && number.is_none_or(|number| number <= noted);
            if is_there && (found.start.get(), found.bytes.get()) == (start, mapping.bytes()) {
                rest.push(*mapping);
            } else {
                is_begun |= number.is_some();
            }
        }
        Ok(if is_begun { rest } else { mappings })
    }

    /// Unmaps, if iommud is there.
    #[inline]
    fn unmap_once(&self, mappings: &[Mapped], flags: u32) -> Result<(), Error> {
        if let [mapping] = mappings {
            return self.ask_unmap((mapping.iova(), mapping.bytes()), flags);
        }
        let mut batch = Batch::new(flags, mappings.len())?;
        for mapping in mappings {
            batch.push(unmap_entry(mapping.iova(), mapping.bytes()));
        }
        self.ask_all(Opcode::Unmap, &mut batch)
    }
}
