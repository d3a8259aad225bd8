//! Maps and unmaps as clients ask for them: a batch of bytes, the service, the engine, and the unit's confirmation.

use dma_types::Access;
use iommu_service::{Caller, HandleId, Outcome, Service, Settings};
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, BufferInfo, Hello, MAP_FLAG_BEHIND, MapEntry, Opcode,
    UnmapEntry, access_code,
};
use libdma::protocol::derive::{Allocate, Kind, NO_LIMITS, Restrict};
use libdma::protocol::{Rights, path};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::Operation;
use crate::counted::rounds;
use crate::machine::{Machine, device};

const KIB: u64 = 1 << 10;

pub(crate) const OPERATIONS: [Operation; 14] = [
    Operation { name: "nothing", per: 1, run: nothing },
    Operation { name: "map 4 KiB", per: 1, run: || Asked::ONE.count(true, false) },
    Operation { name: "unmap 4 KiB", per: 1, run: || Asked::ONE.count(false, true) },
    Operation { name: "map + unmap 4 KiB", per: 1, run: || Asked::ONE.count(true, true) },
    Operation { name: "map 4 KiB, strict", per: 1, run: || Asked::ONE.strict().count(true, false) },
    Operation {
        name: "unmap 4 KiB, strict",
        per: 1,
        run: || Asked::ONE.strict().count(false, true),
    },
    Operation {
        name: "map + unmap 4 KiB, strict",
        per: 1,
        run: || Asked::ONE.strict().count(true, true),
    },
    Operation {
        name: "map + unmap 4 KiB, strict, by a handle with a quota",
        per: 1,
        run: || Asked { has_quota: true, ..Asked::ONE.strict() }.count(true, true),
    },
    Operation {
        name: "map + unmap 32 x 64 KiB, strict, each",
        per: 32,
        run: || Asked { pieces: 32, bytes: 64 * KIB, ..Asked::ONE.strict() }.count(true, true),
    },
    Operation {
        name: "map + unmap a list of 16 x 4 KiB, strict, each",
        per: 16,
        run: || Asked { pieces: 16, is_list: true, ..Asked::ONE.strict() }.count(true, true),
    },
    Operation {
        name: "map a list of 16 x 4 KiB, strict, each",
        per: 16,
        run: || Asked { pieces: 16, is_list: true, ..Asked::ONE.strict() }.count(true, false),
    },
    Operation {
        name: "map + unmap 32 x 64 KiB of one buffer, each",
        per: 32,
        run: || Asked { pieces: 32, bytes: 64 * KIB, is_one: true, ..Asked::ONE }.count(true, true),
    },
    Operation {
        name: "map + unmap 32 x 64 KiB of one buffer in pages, each",
        per: 32,
        run: || {
            let one = Asked { pieces: 32, bytes: 64 * KIB, is_one: true, ..Asked::ONE };
            Asked { are_apart: true, ..one }.count(true, true);
        },
    },
    Operation {
        name: "map 32 x 64 KiB of one buffer in pages, each",
        per: 32,
        run: || {
            let one = Asked { pieces: 32, bytes: 64 * KIB, is_one: true, ..Asked::ONE };
            Asked { are_apart: true, ..one }.count(true, false);
        },
    },
];

fn nothing() {
    rounds(|counted| counted(&mut || {}));
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Asked {
    /// How many pieces at once, each of a buffer of its own.
    pieces: usize,
    /// Whether all are of one buffer instead, side by side.
    is_one: bool,
    /// Whether the pages of buffers are apart in memory.
    are_apart: bool,
    /// Of how many bytes each.
    bytes: u64,
    is_strict: bool,
    /// Whether each lies behind the one before.
    is_list: bool,
    /// Whether the handle has a quota of its own.
    has_quota: bool,
}

impl Asked {
    const ONE: Self = Self {
        pieces: 1,
        is_one: false,
        are_apart: false,
        bytes: 4 * KIB,
        is_strict: false,
        is_list: false,
        has_quota: false,
    };

    const fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }

    /// Maps and unmaps it, with as many others mapped as a driver may have.
    fn count(self, count_map: bool, count_unmap: bool) {
        let mut client = Client::new(self);
        for _ in 0..64 {
            let buffer = client.buffer(self.bytes);
            let mut batch = Self { pieces: 1, ..self }.map(&[buffer]);
            client.call(client.device, Opcode::Map, &mut batch);
        }
        let buffers: Vec<u64> = match self.is_one {
            false => (0..self.pieces).map(|_| client.buffer(self.bytes)).collect(),
            true => vec![client.buffer(self.pieces as u64 * self.bytes); self.pieces],
        };
        let asked = self.map(&buffers);
        let (mut map, mut unmap) = (asked.clone(), Vec::new());
        rounds(|counted| {
            map.copy_from_slice(&asked);
            let mut call = || client.call(client.device, Opcode::Map, &mut map);
            if count_map {
                counted(&mut call)
            } else {
                call()
            }
            self.unmap(&map, &mut unmap);
            let mut call = || client.call(client.device, Opcode::Unmap, &mut unmap);
            if count_unmap { counted(&mut call) } else { call() }
        });
    }

    fn header(self) -> BatchHeader {
        let flags = U32::new(if self.is_strict { BATCH_FLAG_STRICT } else { 0 });
        let (count, zero) = (U32::new(self.pieces as u32), U32::new(0));
        BatchHeader { count, failed: zero, errno: zero, flags }
    }

    /// The batch that maps these buffers.
    fn map(self, buffers: &[u64]) -> Vec<u8> {
        let mut batch = self.header().as_bytes().to_vec();
        for (index, buffer) in buffers.iter().enumerate() {
            let entry = MapEntry {
                buffer: U64::new(*buffer),
                offset: U64::new(if self.is_one { index as u64 * self.bytes } else { 0 }),
                bytes: U64::new(self.bytes),
                limit: U64::new(u64::MAX),
                iova: U64::new(0),
                access: U32::new(access_code(Access::ReadWrite)),
                flags: U32::new(if self.is_list && index > 0 { MAP_FLAG_BEHIND } else { 0 }),
            };
            batch.extend_from_slice(entry.as_bytes());
        }
        batch
    }

    /// The batch that unmaps what was so mapped.
    fn unmap(self, mapped: &[u8], batch: &mut Vec<u8>) {
        batch.clear();
        batch.extend_from_slice(self.header().as_bytes());
        let (_, entries) = mapped.split_at(size_of::<BatchHeader>());
        for entry in <[MapEntry]>::ref_from_bytes(entries).expect("entries") {
            let unmapped = UnmapEntry { iova: entry.iova, bytes: entry.bytes };
            batch.extend_from_slice(unmapped.as_bytes());
        }
    }
}

/// A driver that speaks the protocol itself.
struct Client {
    service: Service<Machine>,
    device: HandleId,
}

impl Client {
    fn new(Asked { has_quota, are_apart, .. }: Asked) -> Self {
        let machine = Machine::new(4096);
        let machine = if are_apart { machine.with_pages_apart() } else { machine };
        let started = Service::start(machine, Settings::default());
        let Ok(mut service) = started else { panic!("a machine with an IOMMU") };
        for _ in 0..100 {
            service.poll();
        }
        let root = service.root();
        let path = format!("{}/{}", path::DEVICE, device());
        let opened = service.open(root, &path, Caller { uid: 0 }).expect("a device");
        let Outcome::Done(handle) = opened else { panic!("the unit confirms at once") };
        let mut client = Self { service, device: handle };
        client.greet(handle);
        if has_quota {
            let kind = U32::new(Kind::Restrict as u32);
            let rights = U32::new((Rights::MAP | Rights::ALLOCATE | Rights::BUFFER).bits());
            let (access, last) = (U32::new(3), U64::new(u64::MAX));
            let limits = NO_LIMITS;
            let asked = Restrict { kind, rights, access, last, limits, ..Restrict::new_zeroed() };
            client.device = client.derive(asked.as_bytes());
        }
        client
    }

    fn call(&mut self, handle: HandleId, opcode: Opcode, payload: &mut [u8]) {
        let answered = self.service.call(handle, opcode as u64, payload);
        assert!(matches!(answered, Ok(Outcome::Done(_))), "{opcode:?}: {answered:?}");
        if let Opcode::Map | Opcode::Unmap = opcode {
            let (header, _) = BatchHeader::ref_from_prefix(payload).expect("a batch");
            assert_eq!(header.errno.get(), 0, "{opcode:?}");
        }
    }

    fn greet(&mut self, handle: HandleId) {
        self.call(handle, Opcode::Hello, Hello::new().as_mut_bytes());
    }

    fn derive(&mut self, request: &[u8]) -> HandleId {
        let derived = self.service.derive(self.device, request).expect("a handle");
        let Outcome::Done(handle) = derived else { panic!("the unit confirms at once") };
        handle
    }

    /// The number of a new buffer, which is not mapped.
    fn buffer(&mut self, bytes: u64) -> u64 {
        let mut request = Allocate::new_zeroed();
        request.kind = U32::new(Kind::Allocate as u32);
        request.bytes = U64::new(bytes);
        request.align = U64::new(4 * KIB);
        request.limit = U64::new(u64::MAX);
        request.label[..6].copy_from_slice(b"buffer");
        let handle = self.derive(request.as_bytes());
        self.greet(handle);
        let mut info = BufferInfo::new_zeroed();
        self.call(handle, Opcode::BufferInfo, info.as_mut_bytes());
        info.buffer.get()
    }
}
