//! An iommud that does next to nothing, so that what is counted is libdma's own.

use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libdma::protocol::call::{
    BatchHeader, BufferInfo, DeviceInfo, MAP_FLAG_BEHIND, MapEntry, Opcode, UNMAPPED, Welcome,
};
use libdma::protocol::derive::Allocate;
use libdma::protocol::{MAX_BATCH, Secret, VERSION};
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use libdma::{Device, Error};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const PAGE: u64 = 4096;

/// It gives out numbers, each once: of buffers, whose handles' numbers are their lengths beside it; and I/O addresses.
struct Nobody {
    buffers: AtomicU64,
    next: AtomicU64,
}

/// A device of it, whose session would be resumed after a restart, as all are.
pub(crate) fn device() -> Device {
    let nobody = Nobody { buffers: AtomicU64::new(0), next: AtomicU64::new(PAGE) };
    Device::open(Arc::new(nobody), "0000:00:02.0".parse().unwrap()).unwrap()
}

fn answer(payload: &mut [u8], with: &(impl IntoBytes + Immutable)) -> Result<usize, Error> {
    let bytes = with.as_bytes();
    payload.get_mut(..bytes.len()).ok_or(Error::ShortPayload)?.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// How many of a handle's bits are the buffer's number. The others are its length in pages.
const NUMBER_BITS: u32 = 32;
/// Of these, the one that says that it is mapped from the start, and where.
const MAPPED: u64 = 1 << 31;
const WINDOW: u64 = 1 << 40;

fn bytes_of(handle: RawHandle) -> u64 {
    (handle.number() >> NUMBER_BITS) * PAGE
}

// SAFETY: what is mapped is memory of the heap, which is never freed.
unsafe impl Transport for Nobody {
    fn open(&self, _: &str) -> Result<RawHandle, Error> {
        Ok(RawHandle::from_number(0))
    }

    unsafe fn derive(&self, _: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        let request = Allocate::read_from_bytes(request).map_err(|_| Error::UnknownCall)?;
        let number = self.buffers.fetch_add(1, Ordering::Relaxed) + 1;
        let mapped = if request.access.get() == 0 { 0 } else { MAPPED };
        Ok(RawHandle::from_number(number | mapped | (request.bytes.get() / PAGE) << NUMBER_BITS))
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        match opcode {
            Opcode::Map => {
                let rest = &mut payload[size_of::<BatchHeader>()..];
                let Ok(entries) = <[MapEntry]>::mut_from_bytes(rest) else {
                    return Err(Error::ShortPayload);
                };
                let mut next = self.next.load(Ordering::Relaxed);
                for entry in entries {
                    // A gap, but in a chain.
                    next += if entry.flags.get() == MAP_FLAG_BEHIND { 0 } else { PAGE };
                    entry.iova = U64::new(next);
                    next += entry.bytes.get();
                }
                self.next.store(next, Ordering::Relaxed);
                Ok(payload.len())
            }
            Opcode::Unmap => {
                self.next.store(PAGE, Ordering::Relaxed);
                Ok(payload.len())
            }
            Opcode::Hello => {
                let max_batch = U32::new(MAX_BATCH as u32);
                answer(payload, &Welcome { version: U32::new(VERSION), max_batch })
            }
            Opcode::DeviceInfo => {
                let info = DeviceInfo {
                    segment: U16::ZERO,
                    source: U16::new(0x10),
                    address_bits: U32::new(48),
                    generation: U64::new(1),
                    domain: U64::new(1),
                    secret: Secret([1; 16]),
                    flags: U32::ZERO,
                    longest_piece: U32::ZERO,
                    session: U64::new(1),
                };
                answer(payload, &info)
            }
            Opcode::BufferInfo => {
                let is_mapped = handle.number() & MAPPED != 0;
                let info = BufferInfo {
                    buffer: U64::new(handle.number() & u64::from(u32::MAX)),
                    bytes: U64::new(bytes_of(handle)),
                    iova: U64::new(if is_mapped { WINDOW } else { UNMAPPED }),
                    access: U32::new(if is_mapped { 3 } else { 0 }),
                    rights: U32::new(u32::MAX),
                    cache: U32::ZERO,
                    reserved: U32::ZERO,
                };
                answer(payload, &info)
            }
            _ => Err(Error::UnknownCall),
        }
    }

    unsafe fn read(&self, _: RawHandle, _: u64, _: &mut [u8]) -> Result<usize, Error> {
        Ok(0)
    }

    unsafe fn map(&self, _: RawHandle, bytes: usize, _: bool) -> Result<Mapping, Error> {
        let layout = Layout::from_size_align(bytes, PAGE as usize).map_err(|_| Error::TooLarge)?;
        // SAFETY: no buffer is of no bytes.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Error::OutOfMemory)?;
        Ok(Mapping { memory, length: bytes })
    }

    fn place(&self, _: &Supply) -> Result<u64, Error> {
        Err(Error::NotMemory)
    }

    unsafe fn supply(&self, _: RawHandle, _: &Supply) -> Result<(), NotSupplied> {
        Err(Error::NotMemory.into())
    }

    unsafe fn unmap(&self, _: Mapping) {}

    unsafe fn close(&self, _: RawHandle) {}
}
