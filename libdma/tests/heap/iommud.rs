//! An iommud whose buffers are memory of the test's own process, so that Miri sees every access to them, what the device
//! does included.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use libdma::protocol::call::{
    self, BATCH_FLAG_STRICT, BatchHeader, BufferInfo, DEVICE_FLAG_NOT_CONFINED, DeviceInfo,
    MAP_FLAG_BEHIND, MapEntry, Opcode, UNMAPPED, UnmapEntry, Welcome,
};
use libdma::protocol::derive::Allocate;
use libdma::protocol::{MAX_BATCH, Secret, VERSION};
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use libdma::{Access, Device, Error, Iova};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const PAGE: usize = 4096;

/// Where I/O addresses begin. None is given out twice.
const FIRST: u64 = 1 << 20;

/// One device, and an iommud that serves it.
pub(crate) struct Iommud {
    state: Mutex<State>,
    confined: bool,
}

struct State {
    /// Handle 0 is the device's, how often it is open; the others are buffers'.
    devices: u32,
    buffers: BTreeMap<u64, Memory>,
    mappings: BTreeMap<u64, Mapped>,
    last_buffer: u64,
    next: u64,
    refused: Option<Error>,
}

/// A buffer's memory: freed when its handle is closed, so that Miri finds who uses it afterwards.
struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    iova: u64,
    access: u32,
    /// How often the process has it mapped.
    views: u32,
}

// SAFETY: the memory is tied to no thread.
unsafe impl Send for Memory {}

#[derive(Clone, Copy)]
struct Mapped {
    buffer: u64,
    offset: usize,
    bytes: usize,
    access: Access,
}

impl Memory {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, PAGE).unwrap()
    }

    fn new(bytes: usize) -> Self {
        // SAFETY: it is not of no bytes.
        let start = NonNull::new(unsafe { alloc_zeroed(Self::layout(bytes)) }).unwrap();
        Self { start, bytes, iova: UNMAPPED, access: 0, views: 0 }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        assert_eq!(self.views, 0, "a handle was closed before its memory was unmapped");
        // SAFETY: it was allocated so, and the last handle is gone.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.bytes)) };
    }
}

impl State {
    /// Where so many bytes can be mapped.
    fn place(&mut self, bytes: usize, align: u64, limit: u64) -> Result<u64, Error> {
        let iova = self.next.next_multiple_of(align);
        if iova + bytes as u64 - 1 > limit {
            return Err(Error::NoAddressSpace);
        }
        self.next = iova + bytes as u64;
        Ok(iova)
    }

    fn map(&mut self, entries: &mut [MapEntry], flags: u32) -> Result<(), Error> {
        let mut made = Vec::new();
        let is_mapped =
            |it: &MapEntry| self.mappings.values().any(|at| at.buffer == it.buffer.get());
        if flags == BATCH_FLAG_STRICT && entries.iter().any(is_mapped) {
            return Err(Error::MappedElsewhere);
        }
        for entry in entries {
            let access = call::access_from_code(entry.access.get())?;
            let (buffer, offset) = (entry.buffer.get(), entry.offset.get() as usize);
            let bytes = entry.bytes.get() as usize;
            let memory = self.buffers.get(&buffer).ok_or(Error::BadHandle)?;
            assert!(offset + bytes <= memory.bytes && bytes > 0);
            assert!(offset.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE));
            if entry.flags.get() & MAP_FLAG_BEHIND == 0 {
                // A gap, so that nothing is taken for one segment that is not meant to be.
                self.next += PAGE as u64;
            }
            let Ok(iova) = self.place(bytes, PAGE as u64, entry.limit.get()) else {
                self.mappings.retain(|iova, _| !made.contains(iova));
                return Err(Error::NoAddressSpace);
            };
            entry.iova = U64::new(iova);
            self.mappings.insert(iova, Mapped { buffer, offset, bytes, access });
            made.push(iova);
        }
        Ok(())
    }

    fn unmap(&mut self, entries: &[UnmapEntry]) -> Result<(), Error> {
        for entry in entries {
            let found = self.mappings.get(&entry.iova.get()).ok_or(Error::NotMapped)?;
            if found.bytes as u64 != entry.bytes.get() {
                return Err(Error::NotMapped);
            }
        }
        self.mappings.retain(|iova, _| entries.iter().all(|it| it.iova.get() != *iova));
        Ok(())
    }

    /// The place in memory of a range that the device may use so.
    fn reach(&self, iova: Iova, bytes: usize, wanted: Access) -> Option<NonNull<u8>> {
        let (start, mapped) = self.mappings.range(..=iova.get()).next_back()?;
        let offset = (iova.get() - start) as usize;
        if offset + bytes > mapped.bytes || !wanted.is_within(mapped.access) {
            return None;
        }
        let memory = &self.buffers[&mapped.buffer];
        // SAFETY: a mapping lies in its buffer.
        Some(unsafe { memory.start.add(mapped.offset + offset) })
    }
}

impl Iommud {
    pub(crate) fn new(confined: bool) -> Arc<Self> {
        let state = State {
            devices: 0,
            buffers: BTreeMap::new(),
            mappings: BTreeMap::new(),
            last_buffer: 0,
            next: FIRST,
            refused: None,
        };
        Arc::new(Self { state: Mutex::new(state), confined })
    }

    /// With an IOMMU, and without.
    pub(crate) fn each() -> [Arc<Self>; 2] {
        [Self::new(true), Self::new(false)]
    }

    pub(crate) fn open(self: &Arc<Self>) -> Device {
        Device::open(self.clone(), "0000:00:02.0".parse().unwrap()).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Refuses the next call.
    pub(crate) fn refuse(&self, error: Error) {
        self.state().refused = Some(error);
    }

    /// How many buffers there are, and how many mappings.
    pub(crate) fn given(&self) -> (usize, usize) {
        let state = self.state();
        (state.buffers.len(), state.mappings.len())
    }

    /// What the device reads there, if it may.
    pub(crate) fn device_reads(&self, iova: Iova, bytes: usize) -> Option<Vec<u8>> {
        let state = self.state();
        let place = state.reach(iova, bytes, Access::Read)?;
        // SAFETY: `reach` found all of it in memory of a buffer that is open.
        Some((0..bytes).map(|at| unsafe { place.add(at).read_volatile() }).collect())
    }

    /// The device writes there, if it may.
    #[must_use]
    pub(crate) fn device_writes(&self, iova: Iova, data: &[u8]) -> bool {
        let state = self.state();
        let Some(place) = state.reach(iova, data.len(), Access::Write) else { return false };
        for (at, byte) in data.iter().enumerate() {
            // SAFETY: as in `device_reads`.
            unsafe { place.add(at).write_volatile(*byte) };
        }
        true
    }
}

/// Answers with this.
fn answer(payload: &mut [u8], with: &(impl IntoBytes + Immutable)) -> Result<usize, Error> {
    let bytes = with.as_bytes();
    payload.get_mut(..bytes.len()).ok_or(Error::ShortPayload)?.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// The entries of a batch, and a place for its header.
fn entries<Entry: FromBytes>(payload: &[u8]) -> Vec<Entry> {
    let (header, rest) = BatchHeader::read_from_prefix(payload).unwrap();
    assert!(header.count.get() as usize <= MAX_BATCH);
    rest.chunks_exact(size_of::<Entry>()).map(|it| Entry::read_from_bytes(it).unwrap()).collect()
}

// SAFETY: each handle is open until it is closed. `map` returns heap memory that is aligned to a page and no Rust object's; it is freed when its handle is
// closed, which is after it was unmapped.
unsafe impl Transport for Iommud {
    fn open(&self, _: &str) -> Result<RawHandle, Error> {
        self.state().devices += 1;
        // The device's.
        Ok(RawHandle::from_number(0))
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        assert_eq!(handle.number(), 0);
        let request = Allocate::read_from_bytes(request).map_err(|_| Error::UnknownCall)?;
        let mut state = self.state();
        if let Some(error) = state.refused.take() {
            return Err(error);
        }
        let bytes = request.bytes.get() as usize;
        let mut memory = Memory::new(bytes);
        state.last_buffer += 1;
        let buffer = state.last_buffer;
        if let Ok(access) = call::access_from_code(request.access.get()) {
            memory.iova = state.place(bytes, request.align.get(), request.limit.get())?;
            memory.access = request.access.get();
            state.mappings.insert(memory.iova, Mapped { buffer, offset: 0, bytes, access });
        }
        state.buffers.insert(buffer, memory);
        Ok(RawHandle::from_number(buffer))
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        let mut state = self.state();
        if let (Opcode::Map | Opcode::Unmap, Some(error)) = (opcode, state.refused) {
            state.refused = None;
            return Err(error);
        }
        match opcode {
            Opcode::Hello => {
                let max_batch = U32::new(MAX_BATCH as u32);
                answer(payload, &Welcome { version: U32::new(VERSION), max_batch })
            }
            Opcode::DeviceInfo => {
                let flags = if self.confined { 0 } else { DEVICE_FLAG_NOT_CONFINED };
                let info = DeviceInfo {
                    segment: U16::ZERO,
                    source: U16::ZERO,
                    address_bits: U32::new(39),
                    generation: U64::new(1),
                    domain: U64::new(1),
                    secret: Secret([0; 16]),
                    flags: U32::new(flags),
                    longest_piece: U32::ZERO,
                    session: U64::new(1),
                };
                answer(payload, &info)
            }
            Opcode::BufferInfo => {
                let memory = state.buffers.get(&handle.number()).ok_or(Error::BadHandle)?;
                let info = BufferInfo {
                    buffer: U64::new(handle.number()),
                    bytes: U64::new(memory.bytes as u64),
                    iova: U64::new(memory.iova),
                    access: U32::new(memory.access),
                    rights: U32::new(u32::MAX),
                    cache: U32::ZERO,
                    reserved: U32::ZERO,
                };
                answer(payload, &info)
            }
            Opcode::Map => {
                let mut entries: Vec<MapEntry> = entries(payload);
                let (header, _) = BatchHeader::read_from_prefix(payload).unwrap();
                state.map(&mut entries, header.flags.get())?;
                payload[size_of::<BatchHeader>()..].copy_from_slice(entries.as_bytes());
                Ok(payload.len())
            }
            Opcode::Unmap => {
                state.unmap(&entries(payload))?;
                Ok(payload.len())
            }
            _ => Err(Error::UnknownCall),
        }
    }

    unsafe fn read(&self, _: RawHandle, _: u64, _: &mut [u8]) -> Result<usize, Error> {
        Ok(0)
    }

    unsafe fn map(&self, handle: RawHandle, bytes: usize, _: bool) -> Result<Mapping, Error> {
        let mut state = self.state();
        let memory = state.buffers.get_mut(&handle.number()).ok_or(Error::BadHandle)?;
        assert!(bytes <= memory.bytes);
        memory.views += 1;
        Ok(Mapping { memory: memory.start, length: memory.bytes })
    }

    fn place(&self, _: &Supply) -> Result<u64, Error> {
        Err(Error::NotMemory)
    }

    unsafe fn supply(&self, _: RawHandle, _: &Supply) -> Result<(), NotSupplied> {
        Err(Error::NotMemory.into())
    }

    unsafe fn unmap(&self, mapping: Mapping) {
        let mut state = self.state();
        let memory = state.buffers.values_mut().find(|it| it.start == mapping.memory);
        memory.expect("memory that is mapped").views -= 1;
    }

    unsafe fn close(&self, handle: RawHandle) {
        let mut state = self.state();
        if handle.number() == 0 {
            state.devices -= 1;
            assert!(state.buffers.is_empty(), "a session ends after all that its device may use");
            return;
        }
        state.mappings.retain(|_, mapped| mapped.buffer != handle.number());
        state.buffers.remove(&handle.number()).expect("a buffer that is open");
    }
}
