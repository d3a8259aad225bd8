//! Buffers, coherent memory, pools, registered and declared memory.

use std::ptr::NonNull;

use libdma::declared::{DeviceMemory, Mode};
use libdma::{
    Access, Attributes, Coherent, Device, Error, ForeignMemory, NotRegistered, Pool, PoolBlock,
};
use simulated::Machine;

use crate::trials::{Trials, anything, device, with};

const RW: Option<Access> = Some(Access::ReadWrite);

#[test]
fn r7_a_buffer_that_cannot_be_had_leaves_nothing() {
    let mut trials = Trials::begin();
    trials.all(
        "allocate",
        device,
        with(|it: &mut Device| it.allocate(8192, RW, "buffer")),
        anything,
    );
    trials.all(
        "allocate, not mapped",
        device,
        with(|it: &mut Device| it.allocate(8192, None, "buffer")),
        anything,
    );
    trials.all(
        "allocate, aligned",
        device,
        with(|it: &mut Device| it.buffer("buffer").access(RW).align(1 << 16).allocate(4096)),
        anything,
    );
    trials.all(
        "allocate, contiguous",
        device,
        with(|it: &mut Device| it.buffer("buffer").access(RW).contiguous().allocate(1 << 16)),
        anything,
    );
    trials.all(
        "allocate, write-combining",
        device,
        with(|it: &mut Device| {
            it.buffer("buffer").access(RW).attributes(Attributes::WRITE_COMBINE).allocate(4096)
        }),
        anything,
    );
    trials.all(
        "allocate for no CPU",
        device,
        with(|it: &mut Device| it.buffer("buffer").access(RW).allocate_unmapped(4096)),
        anything,
    );
    trials.all(
        "allocate for no CPU, then map",
        device,
        with(|it: &mut Device| {
            Ok(it.buffer("buffer").access(RW).allocate_unmapped(4096)?.map()?)
        }),
        anything,
    );
    trials.all(
        "map what was allocated for no CPU",
        |machine, device| {
            let film = device.buffer("film").access(RW).allocate_unmapped(4096).unwrap();
            machine.device_writes(film.iova().unwrap(), b"picture").unwrap();
            film
        },
        |film| film.map().map_err(|it| (it.error, it.into_kept())),
        |machine, film| {
            let at = film.iova().unwrap();
            assert_eq!(machine.device_reads(at, 7).unwrap(), b"picture");
        },
    );
}

#[test]
fn r7_coherent_memory_that_cannot_be_had_leaves_nothing() {
    let mut trials = Trials::begin();
    trials.all(
        "coherent, small",
        device,
        with(|it: &mut Device| it.coherent("small").value::<u64>()),
        anything,
    );
    trials.all(
        "coherent, a page",
        device,
        with(|it: &mut Device| it.coherent("page").bytes(4096)),
        anything,
    );
    trials.all(
        "coherent, large",
        device,
        with(|it: &mut Device| it.coherent("large").bytes(3 << 20)),
        anything,
    );
    trials.all(
        "coherent, alone",
        device,
        with(|it: &mut Device| it.coherent("own").alone().bytes(64)),
        anything,
    );
    let contiguous = Attributes::FORCE_CONTIGUOUS;
    trials.all(
        "coherent, contiguous",
        device,
        with(|it: &mut Device| it.coherent("piece").attributes(contiguous).slice::<u32>(3000)),
        anything,
    );
    trials.all(
        "coherent, another window",
        |_, device| {
            let full = || device.coherent("full").bytes(64 << 10).unwrap();
            let full = [full(), full()];
            full[0].copy_from(0, b"as it was").unwrap();
            (device.clone(), full)
        },
        with(|(device, _): &mut (Device, [Coherent<[u8]>; 2])| {
            device.coherent("more").bytes(64 << 10)
        }),
        |machine, (_, full)| {
            assert_eq!(machine.device_reads(full[0].iova(), 9).unwrap(), b"as it was");
        },
    );
    trials.drops("windows that are idle", |_, device| {
        drop((device.coherent("a").bytes(64), device.coherent("b").access(Access::Read).bytes(64)));
        Trimmed(device.clone())
    });
}

/// Its idle windows are given back when it is dropped.
struct Trimmed(Device);

impl Drop for Trimmed {
    fn drop(&mut self) {
        self.0.trim();
    }
}

/// A pool all of whose blocks are given out.
struct Blocks {
    held: Vec<PoolBlock<[u8]>>,
    pool: Pool<[u8]>,
}

impl Blocks {
    /// None yet.
    fn none(_: &Machine, device: &Device) -> Self {
        Self { held: Vec::new(), pool: device.pool("blocks").bytes(1024).unwrap() }
    }

    /// So many that they fill their windows.
    fn full(machine: &Machine, device: &Device) -> Self {
        let mut blocks = Self::none(machine, device);
        let is_full = |pool: &Pool<[u8]>| {
            let stats = pool.stats();
            stats.blocks == stats.in_use
                && device.window_usage().iter().all(|usage| usage.used == usage.bytes)
        };
        while blocks.held.is_empty() || !is_full(&blocks.pool) {
            blocks.held.push(blocks.pool.alloc_zeroed().unwrap());
        }
        blocks
    }
}

#[test]
fn r7_a_pool_that_cannot_grow_is_as_it_was() {
    let mut trials = Trials::begin();
    let none = Blocks::none as fn(&_, &_) -> _;
    for (name, of) in [("a pool's first block", none), ("a pool's next chunk", Blocks::full)] {
        trials.all(name, of, with(|it: &mut Blocks| it.pool.alloc()), |_, it| {
            let stats = it.pool.stats();
            assert_eq!((stats.in_use, stats.blocks), (it.held.len(), it.held.len()));
            assert_eq!(stats.allocations, it.held.len() as u64);
        });
    }
}

/// Memory of the driver's, with something in it.
pub(crate) fn foreign(bytes: usize) -> ForeignMemory {
    #[repr(C, align(4096))]
    #[derive(Clone, Copy)]
    struct Page([u8; 4096]);
    let pages = vec![Page([5; 4096]); bytes / 4096].leak();
    let range = NonNull::slice_from_raw_parts(NonNull::from(pages).cast::<u8>(), bytes);
    // SAFETY: it was leaked just now, and nothing refers to it any more.
    unsafe { ForeignMemory::from_range(range) }.unwrap()
}

#[test]
fn r7_memory_that_cannot_be_registered_is_the_drivers_again() {
    let mut trials = Trials::begin();
    for access in [None, RW] {
        trials.confined(
            &format!("register for {access:?}"),
            |_, device| (device.clone(), foreign(3 * 4096)),
            |(device, memory)| {
                device.register(memory, access, "cache").map_err(
                    |NotRegistered { error, memory }| {
                        // It is lost when it was taken and nothing can be learned of the buffer that it is.
                        (error, (device, memory.unwrap_or_else(|| foreign(3 * 4096))))
                    },
                )
            },
            |_, (_, memory)| {
                let mut out = [0; 3];
                memory.read(3 * 4096 - 3, &mut out).unwrap();
                assert_eq!(out, [5; 3]);
            },
        );
    }
}

#[test]
fn r7_declared_memory_stays_declared() {
    let mut trials = Trials::begin();
    trials.all(
        "more than was declared",
        |_, device| {
            let buffer = device.buffer("own").access(RW).contiguous().allocate(8192).unwrap();
            device.declare_memory(DeviceMemory::from(buffer), Mode::First).unwrap();
            let full = device.coherent("full").bytes(8192).unwrap();
            (full, device.clone())
        },
        with(|(_, device): &mut (Coherent<[u8]>, Device)| device.coherent("more").bytes(64)),
        |_, (_, device)| {
            let usage = device.declared_usage().unwrap();
            assert_eq!((usage.used, usage.blocks), (8192, 1));
            assert_eq!(
                device.release_declared_memory().err().map(|it| it.to_string()).as_deref(),
                Some("blocks of the device's own memory are in use: 1")
            );
        },
    );
    for machine in Machine::each() {
        let device = machine.open();
        let buffer = device.buffer("own").access(RW).contiguous().allocate(8192).unwrap();
        device.declare_memory(DeviceMemory::from(buffer), Mode::Exclusive).unwrap();
        let full = device.coherent("full").bytes(8192).unwrap();
        let asked = machine.client.requests();
        assert_eq!(device.coherent("more").bytes(64).err(), Some(Error::OutOfMemory));
        assert_eq!(machine.client.requests(), asked);
        drop(full);
        drop(device.coherent("more").bytes(64).unwrap());
    }
}
