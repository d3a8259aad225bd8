//! The operations that are counted.

use std::hint::black_box;

use libdma::{Access, FromDevice, ScatterList, ToDevice};
use simulated::Machine;

/// An operation.
pub(crate) struct Row {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Does it so many times; calls what is given when all is made ready.
    pub(crate) run: fn(usize, &mut dyn FnMut()),
}

/// All of them.
pub(crate) const ROWS: &[Row] = &[
    Row { name: "stream-4k", run: |rounds, ready| stream(rounds, ready, false) },
    Row { name: "stream-buffer-4k", run: stream_buffer },
    Row { name: "bounced-64", run: |rounds, ready| bounced(rounds, ready, 64) },
    Row { name: "bounced-1500", run: |rounds, ready| bounced(rounds, ready, 1500) },
    Row { name: "copy-64", run: |rounds, ready| copy(rounds, ready, 64) },
    Row { name: "copy-1500", run: |rounds, ready| copy(rounds, ready, 1500) },
    Row { name: "raw-64", run: raw },
    Row { name: "pool-256", run: pool },
    Row { name: "coherent-4k", run: coherent },
    Row { name: "zero-4k", run: zero },
    Row { name: "list-16x4k", run: list },
    Row { name: "list-16x4k-made", run: list_made },
    Row { name: "strict-4k", run: |rounds, ready| stream(rounds, ready, true) },
    Row { name: "foreign-64k-batch-32", run: foreign },
];

/// A buffer of one page, mapped and unmapped.
fn stream(rounds: usize, ready: &mut dyn FnMut(), is_strict: bool) {
    let machine = Machine::vtd();
    let stream = machine.open().stream::<FromDevice>("rx");
    let stream = if is_strict { stream.strict() } else { stream };
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
fn list(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let stream = machine.open().stream::<FromDevice>("rx");
    let mut list = ScatterList::new(&stream);
    (0..16).for_each(|_| list.push(stream.buffer(4096).unwrap()).unwrap());
    ready();
    for _ in 0..rounds {
        let mapped = black_box(list.map()).unwrap();
        list = black_box(mapped.unmap()).unwrap();
    }
}

/// The same, put together each time.
fn list_made(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let stream = machine.open().stream::<FromDevice>("rx");
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

/// 64 KiB of memory that is in no window, mapped and unmapped in batches of 32: each of them.
fn foreign(rounds: usize, ready: &mut dyn FnMut()) {
    let machine = Machine::vtd();
    let device = machine.open();
    let buffer = || device.allocate(64 << 10, None, "foreign").unwrap();
    let buffers: Vec<_> = (0..32).map(|_| buffer()).collect();
    let request = |buffer| libdma::MapRequest {
        buffer,
        offset: 0,
        bytes: 64 << 10,
        access: Access::ReadWrite,
    };
    let requests: Vec<_> = buffers.iter().map(request).collect();
    ready();
    for _ in 0..rounds.div_ceil(requests.len()) {
        let mapped = black_box(device.map(&requests)).unwrap();
        black_box(device.unmap(&mapped)).unwrap();
    }
}
