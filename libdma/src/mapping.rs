//! Batches of mappings: pieces of buffers, mapped and unmapped by one request.

use alloc::vec::Vec;

use dma_types::{Access, Iova};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::buffer::Buffer;
use crate::protocol::call::{self, BatchHeader, MapEntry, Opcode, UnmapEntry};
use crate::protocol::{Error, MAX_BATCH};
use crate::session::Session;

/// A piece of a buffer to map, for [`Device::map`](crate::Device::map).
#[derive(Clone, Copy, Debug)]
pub struct MapRequest<'a> {
    /// The buffer, which must be of this device.
    pub buffer: &'a Buffer,
    /// Where in it the piece starts, a multiple of 4096.
    pub offset: u64,
    /// How long it is, a multiple of 4096.
    pub bytes: u64,
    /// What the device may do with it.
    pub access: Access,
}

/// A mapping that [`Device::map`](crate::Device::map) made: what [`Device::unmap`](crate::Device::unmap) takes back.
///
/// It is a plain value. The mapping ends with [`Device::unmap`](crate::Device::unmap), with its buffer, or with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where the device sees it.
    pub iova: Iova,
    /// How long it is.
    pub bytes: u64,
}

impl Session {
    /// As [`Device::map`](crate::Device::map), below this limit.
    pub(crate) fn map(
        &self,
        requests: &[MapRequest<'_>],
        limit: Iova,
    ) -> Result<Vec<Mapped>, Error> {
        let entries = requests.iter().map(|request| MapEntry {
            buffer: U64::new(request.buffer.id()),
            offset: U64::new(request.offset),
            bytes: U64::new(request.bytes),
            limit: U64::new(limit.get()),
            iova: U64::ZERO,
            access: U32::new(call::access_code(request.access)),
            reserved: U32::ZERO,
        });
        let answers = self.batch(Opcode::Map, entries)?;
        Ok(answers
            .iter()
            .map(|entry| Mapped { iova: Iova::new(entry.iova.get()), bytes: entry.bytes.get() })
            .collect())
    }

    /// As [`Device::unmap`](crate::Device::unmap).
    pub(crate) fn unmap(&self, mappings: &[Mapped]) -> Result<(), Error> {
        let entries = mappings.iter().map(|mapping| UnmapEntry {
            iova: U64::new(mapping.iova.get()),
            bytes: U64::new(mapping.bytes),
        });
        self.batch(Opcode::Unmap, entries).map(drop)
    }

    /// Sends a batch and gives its entries back as the daemon filled them in.
    fn batch<Entry>(
        &self,
        opcode: Opcode,
        entries: impl ExactSizeIterator<Item = Entry>,
    ) -> Result<Vec<Entry>, Error>
    where
        Entry: FromBytes + IntoBytes + zerocopy::Immutable,
    {
        let count = entries.len();
        if count == 0 || count > MAX_BATCH {
            return Err(Error::BatchTooLarge);
        }
        let header = BatchHeader {
            count: U32::new(count as u32),
            failed: U32::ZERO,
            errno: U32::ZERO,
            reserved: U32::ZERO,
        };
        let mut payload = Vec::with_capacity(size_of::<BatchHeader>() + count * size_of::<Entry>());
        payload.extend_from_slice(header.as_bytes());
        for entry in entries {
            payload.extend_from_slice(entry.as_bytes());
        }
        let length = self.handle().call_bytes(opcode, &mut payload)?;
        let answer = payload.get(..length).ok_or(Error::ShortPayload)?;
        let (header, rest) =
            BatchHeader::read_from_prefix(answer).map_err(|_| Error::ShortPayload)?;
        if header.errno.get() != 0 {
            return Err(Error::from_errno(header.errno.get() as u16));
        }
        let answers: Vec<Entry> = rest
            .chunks_exact(size_of::<Entry>())
            .filter_map(|bytes| Entry::read_from_bytes(bytes).ok())
            .collect();
        if answers.len() == count { Ok(answers) } else { Err(Error::ShortPayload) }
    }
}
