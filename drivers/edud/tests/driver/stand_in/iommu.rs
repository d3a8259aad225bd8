//! Memory, and where in it the device may go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use libdma::Access;

/// Whether an IOMMU does what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// The device reaches what is mapped, in the direction that is allowed.
    Firm,
    /// Mappings allow everything, reach to the end of their buffer, and stay when they are taken away; the
    /// CPU's addresses do as well, and everywhere else there is something to be read.
    Absent,
}

#[repr(align(4096))]
struct Page([AtomicU8; 4096]);

/// Memory that is never given back: the tests are short.
type Memory = &'static [Page];

#[derive(Clone, Copy)]
struct Mapping {
    iova: u64,
    bytes: u64,
    buffer: u64,
    offset: u64,
    access: Access,
    live: bool,
}

struct State {
    guard: Guard,
    buffers: BTreeMap<u64, Memory>,
    mappings: Vec<Mapping>,
    next_iova: u64,
}

/// The IOMMU, shared between the device and the daemon.
#[derive(Clone)]
pub(crate) struct Iommu(Arc<Mutex<State>>);

impl Iommu {
    pub(crate) fn new(guard: Guard) -> Self {
        let state =
            State { guard, buffers: BTreeMap::new(), mappings: Vec::new(), next_iova: 0x10000 };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Makes a buffer; its number.
    pub(crate) fn allocate(&self, bytes: u64) -> u64 {
        let mut state = self.state();
        let pages = (0..bytes / 4096).map(|_| Page([const { AtomicU8::new(0) }; 4096]));
        let number = state.buffers.len() as u64 + 1;
        state.buffers.insert(number, pages.collect::<Vec<_>>().leak());
        number
    }

    /// Where the CPU sees a buffer, and its length.
    pub(crate) fn memory(&self, buffer: u64) -> (*const AtomicU8, u64) {
        let memory = self.state().buffers[&buffer];
        (memory.as_ptr().cast(), memory.len() as u64 * 4096)
    }

    /// Maps a piece of a buffer, with a guard page behind it; where.
    pub(crate) fn map(&self, buffer: u64, offset: u64, bytes: u64, access: Access) -> u64 {
        let mut state = self.state();
        let iova = state.next_iova;
        state.next_iova += bytes + 4096;
        state.mappings.push(Mapping { iova, bytes, buffer, offset, access, live: true });
        iova
    }

    /// Takes a mapping away; whether there was one.
    pub(crate) fn unmap(&self, iova: u64, bytes: u64) -> bool {
        let mut state = self.state();
        let mut mappings = state.mappings.iter_mut();
        let found = mappings.find(|each| each.live && each.iova == iova && each.bytes == bytes);
        found.map(|mapping| mapping.live = false).is_some()
    }

    /// Takes all mappings of a buffer away.
    pub(crate) fn unmap_buffer(&self, buffer: u64) {
        let mut state = self.state();
        state.mappings.iter_mut().filter(|each| each.buffer == buffer).for_each(|m| m.live = false);
    }

    /// How many mappings there are.
    pub(crate) fn live_mappings(&self) -> usize {
        self.state().mappings.iter().filter(|mapping| mapping.live).count()
    }

    /// The device reads a byte. What is blocked reads as zero.
    pub(crate) fn device_reads(&self, address: u64) -> u8 {
        let state = self.state();
        match state.translate(address, Access::Read) {
            Some(byte) => byte.load(Ordering::Relaxed),
            None if state.guard == Guard::Absent => 0x99,
            None => 0,
        }
    }

    /// The device writes a byte. What is blocked is lost.
    pub(crate) fn device_writes(&self, address: u64, value: u8) {
        if let Some(byte) = self.state().translate(address, Access::Write) {
            byte.store(value, Ordering::Relaxed);
        }
    }
}

impl State {
    fn translate(&self, address: u64, access: Access) -> Option<&'static AtomicU8> {
        let firm = self.guard == Guard::Firm;
        let mapped = self.mappings.iter().find_map(|mapping| {
            let memory = self.buffers[&mapping.buffer];
            let whole = memory.len() as u64 * 4096 - mapping.offset;
            let bytes = if firm { mapping.bytes } else { whole };
            let allowed = !firm || (mapping.live && access.is_within(mapping.access));
            let at = address.checked_sub(mapping.iova).filter(|at| *at < bytes && allowed)?;
            Some(byte_of(memory, mapping.offset + at))
        });
        let by_cpu_address = || {
            self.buffers.values().find_map(|memory| {
                let at = address.checked_sub(memory.as_ptr() as u64)?;
                (at < memory.len() as u64 * 4096).then(|| byte_of(memory, at))
            })
        };
        mapped.or_else(|| if firm { None } else { by_cpu_address() })
    }
}

fn byte_of(memory: Memory, at: u64) -> &'static AtomicU8 {
    &memory[at as usize / 4096].0[at as usize % 4096]
}
