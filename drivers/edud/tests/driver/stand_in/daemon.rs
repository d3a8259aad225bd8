//! A transport that answers as iommud does.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

use libdma::protocol::call::{
    self, BatchHeader, BufferInfo, DeviceInfo, MapEntry, Opcode, UNMAPPED, UnmapEntry, Welcome,
};
use libdma::protocol::derive::Allocate;
use libdma::protocol::event::{EventKind, EventRecord, EventsHeader, Place};
use libdma::protocol::fault::{Reason, Tried};
use libdma::protocol::{Error, MAX_BATCH, VERSION, path, sim};
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use edud::Bar;

use super::{Edu, Iommu, address};

/// What a handle is of.
#[derive(Clone, Copy)]
enum Object {
    Device,
    Buffer { number: u64, iova: u64, access: u32 },
    Simulated,
}

/// iommud, as far as the driver can tell.
pub(crate) struct Daemon {
    iommu: Iommu,
    handles: Mutex<BTreeMap<u64, Object>>,
    /// The device under `sim/`: its registers, and its PCI command register.
    simulated: Mutex<(Edu, u32)>,
}

impl Daemon {
    pub(crate) fn new(iommu: Iommu) -> Self {
        let simulated = Mutex::new((Edu::new(iommu.clone()), 0x0010_0000));
        Self { iommu, handles: Mutex::default(), simulated }
    }

    /// The simulated device's PCI command and status.
    pub(crate) fn simulated_command(&self) -> u32 {
        self.simulated.lock().unwrap().1
    }

    /// How many handles are open.
    pub(crate) fn open_handles(&self) -> usize {
        self.handles().len()
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<u64, Object>> {
        self.handles.lock().unwrap()
    }

    fn object(&self, handle: RawHandle) -> Result<Object, Error> {
        self.handles().get(&handle.number()).copied().ok_or(Error::BadHandle)
    }

    fn insert(&self, object: Object) -> RawHandle {
        let mut handles = self.handles();
        let number = handles.keys().last().map_or(1, |last| last + 1);
        handles.insert(number, object);
        RawHandle::from_number(number)
    }

    fn map_piece(&self, entry: &mut MapEntry) -> Result<(), Error> {
        let (_, length) = self.iommu.memory(entry.buffer.get());
        let (offset, bytes) = (entry.offset.get(), entry.bytes.get());
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(Error::OutOfBuffer);
        }
        let access = call::access_from_code(entry.access.get())?;
        entry.iova = U64::new(self.iommu.map(entry.buffer.get(), offset, bytes, access));
        Ok(())
    }

    fn unmap_piece(&self, entry: &mut UnmapEntry) -> Result<(), Error> {
        let unmapped = self.iommu.unmap(entry.iova.get(), entry.bytes.get());
        if unmapped { Ok(()) } else { Err(Error::NotMapped) }
    }

    fn simulate(&self, write: bool, payload: &mut [u8]) -> Result<usize, Error> {
        let mut simulated = self.simulated.lock().unwrap();
        let (edu, command) = &mut *simulated;
        let mut access = sim::Access::read_from_bytes(payload).map_err(|_| Error::ShortPayload)?;
        let (offset, value) = (access.offset.get(), access.value.get());
        let read = match (access.space.get(), access.width.get(), write) {
            (sim::CONFIG_SPACE, 4, false) if offset == 0 => 0x11e8_1234,
            (sim::CONFIG_SPACE, 4, false) if offset == 4 => (*command).into(),
            (sim::CONFIG_SPACE, 4, true) if offset == 4 => {
                *command = *command & !0xffff & !(value as u32) | value as u32 & 0xffff;
                value
            }
            (0, 4, false) => edu.read32(offset as usize).into(),
            (0, 8, false) => edu.read64(offset as usize),
            (0, 4, true) => {
                edu.write32(offset as usize, value as u32);
                value
            }
            (0, 8, true) => {
                edu.write64(offset as usize, value);
                value
            }
            _ => return Err(Error::BadValue),
        };
        access.value = U64::new(read);
        Ok(answer(payload, &access))
    }
}

/// Writes an answer over a payload; its length.
fn answer(payload: &mut [u8], answer: &(impl IntoBytes + Immutable)) -> usize {
    answer.write_to_prefix(payload).unwrap();
    answer.as_bytes().len()
}

/// Answers with a blocked write, and with three before it that were dropped.
fn one_event(payload: &mut [u8]) -> usize {
    let header = EventsHeader { count: U32::new(1), left: U32::ZERO, dropped: U64::new(3) };
    let mut record = EventRecord::new_zeroed();
    record.kind = U32::new(EventKind::Fault as u32);
    (record.nanoseconds, record.count) = (U64::new(20_000), U64::new(1));
    record.source = U16::new(address().source().get());
    record.address = U64::new(0x800_2010);
    record.tried = U16::new(Tried::Write as u16);
    record.reason = U32::new(Reason::NotWritable as u32);
    record.place = U32::new(Place::Unmapped as u32);
    (record.access, record.offset) = (U32::new(2), U64::new(16));
    record.span = U64::new(15_000);
    record.label[..4].copy_from_slice(b"ring");
    let length = answer(payload, &header);
    length + answer(&mut payload[length..], &record)
}

/// Does a batch of one; more is never sent here.
fn batch<Entry: FromBytes + IntoBytes + Immutable>(
    payload: &mut [u8],
    act: impl FnOnce(&mut Entry) -> Result<(), Error>,
) -> Result<usize, Error> {
    let (mut header, rest) = BatchHeader::read_from_prefix(payload).unwrap();
    assert_eq!(header.count.get(), 1);
    let mut entry = Entry::read_from_bytes(rest).map_err(|_| Error::ShortPayload)?;
    if let Err(error) = act(&mut entry) {
        header.errno = U32::new(error.errno().into());
    }
    let length = answer(payload, &header);
    Ok(length + answer(&mut payload[length..], &entry))
}

// SAFETY: the memory is leaked, and so stays valid for good; it is of atomics, page-aligned, and its length was
// checked.
unsafe impl Transport for Daemon {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        if path == path::device(address()) {
            Ok(self.insert(Object::Device))
        } else if path == sim::path(address()) {
            Ok(self.insert(Object::Simulated))
        } else {
            Err(Error::NoSuchPath)
        }
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        let Object::Device = self.object(handle)? else { return Err(Error::WrongHandleKind) };
        let request = Allocate::read_from_bytes(request).map_err(|_| Error::ShortPayload)?;
        let (bytes, code) = (request.bytes.get(), request.access.get());
        let number = self.iommu.allocate(bytes);
        let iova = match code {
            0 => UNMAPPED,
            code => self.iommu.map(number, 0, bytes, call::access_from_code(code)?),
        };
        Ok(self.insert(Object::Buffer { number, iova, access: code }))
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        match (opcode, self.object(handle)?) {
            (Opcode::Hello, _) => {
                let (version, max_batch) = (U32::new(VERSION), U32::new(MAX_BATCH as u32));
                Ok(answer(payload, &Welcome { version, max_batch }))
            }
            (Opcode::DeviceInfo, Object::Device) => {
                let mut info = DeviceInfo::new_zeroed();
                info.source = U16::new(address().source().get());
                info.address_bits = U32::new(48);
                Ok(answer(payload, &info))
            }
            (Opcode::BufferInfo, Object::Buffer { number, iova, access }) => {
                let mut info = BufferInfo::new_zeroed();
                info.buffer = U64::new(number);
                info.bytes = U64::new(self.iommu.memory(number).1);
                (info.iova, info.access) = (U64::new(iova), U32::new(access));
                Ok(answer(payload, &info))
            }
            (Opcode::Map, Object::Device) => batch(payload, |entry| self.map_piece(entry)),
            (Opcode::Unmap, Object::Device) => batch(payload, |entry| self.unmap_piece(entry)),
            (Opcode::Events, Object::Device) => Ok(one_event(payload)),
            (Opcode::SimRead, Object::Simulated) => self.simulate(false, payload),
            (Opcode::SimWrite, Object::Simulated) => self.simulate(true, payload),
            _ => Err(Error::WrongHandleKind),
        }
    }

    unsafe fn read(&self, _: RawHandle, _: u64, _: &mut [u8]) -> Result<usize, Error> {
        Err(Error::WrongHandleKind)
    }

    unsafe fn map(&self, handle: RawHandle, bytes: usize, _: bool) -> Result<Mapping, Error> {
        let Object::Buffer { number, .. } = self.object(handle)? else {
            return Err(Error::WrongHandleKind);
        };
        let (memory, length) = self.iommu.memory(number);
        if bytes as u64 > length {
            return Err(Error::OutOfBuffer);
        }
        let memory = NonNull::new(memory.cast_mut().cast()).ok_or(Error::BadAddress)?;
        Ok(Mapping { memory, length: bytes })
    }

    fn place(&self, _: &Supply) -> Result<u64, Error> {
        Err(Error::NotMemory)
    }

    unsafe fn supply(&self, _: RawHandle, _: &Supply) -> Result<(), NotSupplied> {
        Err(Error::WrongHandleKind.into())
    }

    unsafe fn unmap(&self, _: Mapping) {}

    unsafe fn close(&self, handle: RawHandle) {
        if let Some(Object::Buffer { number, .. }) = self.handles().remove(&handle.number()) {
            self.iommu.unmap_buffer(number);
        }
    }
}
