//! The operations that are counted.

use std::hint::black_box;

use libdma::{Access, Device, FromDevice, ScatterList, Stream, ToDevice};
use simulated::Machine;

use crate::alone;

/// An operation.
pub(crate) struct Row {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Does it so many times; calls what is given when all is made ready.
    pub(crate) run: fn(usize, &mut dyn FnMut()),
}

/// All of them.
pub(crate) const ROWS: &[Row] = &[
    Row { name: "stream-4k", run: |rounds, ready| stream(rounds, ready, windows()) },
    Row { name: "stream-buffer-4k", run: stream_buffer },
    Row { name: "bounced-64", run: |rounds, ready| bounced(rounds, ready, 64) },
    Row { name: "bounced-1500", run: |rounds, ready| bounced(rounds, ready, 1500) },
    Row { name: "copy-64", run: |rounds, ready| copy(rounds, ready, 64) },
    Row { name: "copy-1500", run: |rounds, ready| copy(rounds, ready, 1500) },
    Row { name: "raw-64", run: raw },
    Row { name: "pool-256", run: pool },
    Row { name: "coherent-4k", run: coherent },
    Row { name: "zero-4k", run: zero },
    Row { name: "list-16x4k", run: |rounds, ready| list(rounds, ready, windows()) },
    Row { name: "list-16x4k-anew", run: list_anew },
    Row { name: "strict-4k", run: |rounds, ready| stream(rounds, ready, strict()) },
    Row { name: "strict-4k-alone", run: |rounds, ready| stream(rounds, ready, alone_strict()) },
    Row { name: "strict-list-16x4k", run: |rounds, ready| list(rounds, ready, strict()) },
    Row {
        name: "strict-list-16x4k-alone",
        run: |rounds, ready| list(rounds, ready, alone_strict()),
    },
    Row { name: "strict-batch-32", run: |rounds, ready| batch(rounds, ready, strict()) },
    Row {
        name: "strict-batch-32-alone",
        run: |rounds, ready| batch(rounds, ready, alone_strict()),
    },
    Row { name: "foreign-64k-batch-32", run: |rounds, ready| foreign(rounds, ready, open()) },
    Row {
        name: "foreign-64k-batch-32-alone",
        run: |rounds, ready| foreign(rounds, ready, alone::device()),
    },
];

/// A device of a simulated machine.
fn open() -> Device {
    Machine::vtd().open()
}

fn windows() -> Stream<FromDevice> {
    open().stream("rx")
}

fn strict() -> Stream<FromDevice> {
    windows().strict()
}

fn alone_strict() -> Stream<FromDevice> {
    alone::device().stream("rx").strict()
}

/// A buffer of one page, mapped and unmapped.
fn stream(rounds: usize, ready: &mut dyn FnMut(), stream: Stream<FromDevice>) {
    let mut buffer = stream.buffer(4096).unwrap();
    ready();
    for _ in 0..rounds {
        let mapped = black_box(buffer.map()).unwrap();
        buffer = black_box(mapped.unmap()).unwrap();
    }
}

/// The same, with memory that is taken for it and given back.
fn stream_buffer(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let stream = machine.open().stream::<FromDevice>("rx");
    let _kept = stream.buffer(64).unwrap();
    ready();
    for _ in 0..rounds {
        let buffer = stream.buffer(4096).unwrap();
        drop(black_box(black_box(buffer.map()).unwrap().unmap()).unwrap());
    }
}

/// Memory of the driver's own, copied through a window.
fn bounced(rounds: usize, ready: &mut dyn FnMut(), bytes: usize) {
    let machine = Machine::vtd();
    let stream = machine.open().stream::<ToDevice>("tx");
    let data = vec![1; bytes];
    stream.map_slice(&data).unwrap().unmap().unwrap();
    ready();
    for _ in 0..rounds {
        let mapped = black_box(stream.map_slice(&data)).unwrap();
        black_box(mapped.unmap()).unwrap();
    }
}

/// Nothing but the copy.
fn copy(rounds: usize, ready: &mut dyn FnMut(), bytes: usize) {
    let machine = Machine::vtd();
    let stream = machine.open().stream::<ToDevice>("tx");
    let data = vec![1; bytes];
    let mut buffer = stream.buffer(bytes).unwrap();
    ready();
    for _ in 0..rounds {
        buffer.write(0, black_box(&data)).unwrap();
    }
}

/// The same by I/O addresses.
fn raw(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let mut stream = machine.open().raw_stream("tx");
    let data = [1; 64];
    let _kept = stream.map_single(&data, Access::Read).unwrap();
    ready();
    for _ in 0..rounds {
        let address = black_box(stream.map_single(&data, Access::Read)).unwrap();
        black_box(stream.unmap_single(address, 64, Access::Read)).unwrap();
    }
}

/// A pool's block.
fn pool(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let pool = machine.open().pool("blocks").bytes(256).unwrap();
    drop(pool.alloc().unwrap());
    ready();
    for _ in 0..rounds {
        drop(black_box(pool.alloc()).unwrap());
    }
}

/// A page of coherent memory out of a window.
fn coherent(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let device = machine.open();
    drop(device.coherent("ring").bytes(4096).unwrap());
    ready();
    for _ in 0..rounds {
        drop(black_box(device.coherent("ring").bytes(4096)).unwrap());
    }
}

/// A page that is zeroed, which is in the above.
fn zero(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let mut buffer = machine.open().stream::<ToDevice>("tx").buffer(4096).unwrap();
    ready();
    for _ in 0..rounds {
        black_box(&mut buffer).clear().unwrap();
    }
}

/// Sixteen pages as one list.
fn list(rounds: usize, ready: &mut dyn FnMut(), stream: Stream<FromDevice>) {
    let mut list = ScatterList::new(&stream);
    (0..16).for_each(|_| list.push(stream.buffer(4096).unwrap()).unwrap());
    ready();
    for _ in 0..rounds {
        let mapped = black_box(list.map()).unwrap();
        list = black_box(mapped.unmap()).unwrap();
    }
}

/// The same, put together each time.
fn list_anew(rounds: usize, ready: &mut dyn FnMut()) {
    let stream = windows();
    let mut buffers: Vec<_> = (0..16).map(|_| stream.buffer(4096).unwrap()).collect();
    let mut list = ScatterList::new(&stream);
    ready();
    for _ in 0..rounds {
        buffers.drain(..).for_each(|it| list.push(it).unwrap());
        let mapped = black_box(list.map()).unwrap();
        list = black_box(mapped.unmap()).unwrap();
        buffers.extend(list.clear());
    }
}

/// Buffers that are mapped by one request for 32, and unmapped by one: each of them.
fn batch(rounds: usize, ready: &mut dyn FnMut(), stream: Stream<FromDevice>) {
    let mut idle: Vec<_> = (0..BATCH).map(|_| stream.buffer(4096).unwrap()).collect();
    ready();
    for _ in 0..rounds.div_ceil(BATCH) {
        let mapped = black_box(stream.map_all(idle)).unwrap();
        let mut gather = stream.gather(BATCH);
        mapped.into_iter().for_each(|it| black_box(gather.unmap_later(it)).unwrap());
        idle = std::iter::from_fn(|| gather.take()).collect();
    }
}

/// How many are one request.
const BATCH: usize = 32;

/// 64 KiB of memory that is in no window, mapped and unmapped in batches of 32: each of them.
fn foreign(rounds: usize, ready: &mut dyn FnMut(), device: Device) {
    let buffer = || device.allocate(64 << 10, None, "foreign").unwrap();
    let buffers: Vec<_> = (0..BATCH).map(|_| buffer()).collect();
    let request = |buffer| libdma::MapRequest {
        buffer,
        offset: 0,
        bytes: 64 << 10,
        access: Access::ReadWrite,
    };
    let requests: Vec<_> = buffers.iter().map(request).collect();
    ready();
    for _ in 0..rounds.div_ceil(BATCH) {
        let mapped = black_box(device.map(&requests)).unwrap();
        black_box(device.unmap(&mapped)).unwrap();
    }
}
