//! What streaming memory in windows costs: no request to iommud, and no allocation.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use libdma::{Access, Bidirectional, Device, FromDevice, ScatterList, ToDevice};
use simulated::Machine;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is done by the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests and allocations of what is done twice, the second time.
fn costs(machine: &Machine, mut act: impl FnMut()) -> (u64, u64) {
    act();
    let before = (machine.client.requests(), ALLOCATIONS.get());
    act();
    (machine.client.requests() - before.0, ALLOCATIONS.get() - before.1)
}

fn each(case: impl Fn(&Machine, &Device)) {
    // It writes down what it is told.
    libdma::check::turn_off();
    for machine in Machine::each() {
        let device = machine.open();
        case(&machine, &device);
        machine.check();
    }
}

#[test]
fn a_buffer_is_had_mapped_synced_and_given_back_without_a_request() {
    each(|machine, device| {
        let stream = device.stream::<Bidirectional>("both");
        let cost = costs(machine, || {
            for bytes in [1, 64, 1500, 4096, 9000, 64 << 10] {
                let mapped = stream.buffer(bytes).unwrap().map().unwrap();
                let mut mapped = mapped.sync_for_cpu().sync_for_device();
                drop(mapped.sync_range_for_cpu(0..1).unwrap());
                drop(mapped.unmap().unwrap());
            }
        });
        assert_eq!(cost, (0, 0));
    });
}

#[test]
fn a_slice_is_bounced_without_a_request() {
    each(|machine, device| {
        let (tx, rx) = (device.stream::<ToDevice>("tx"), device.stream::<FromDevice>("rx"));
        let (sent, mut received) = ([1; 1500], [0; 300]);
        let cost = costs(machine, || {
            tx.map_slice(&sent).unwrap().unmap().unwrap();
            let mapped = rx.map_slice_mut(&mut received).unwrap();
            mapped.sync_for_cpu().sync_for_device().unmap().unwrap();
        });
        assert_eq!(cost, (0, 0));
    });
}

#[test]
fn a_list_is_mapped_and_unmapped_without_a_request() {
    each(|machine, device| {
        let stream = device.stream::<ToDevice>("tx");
        let (header, trailer) = ([1; 14], [2; 4]);
        let mut buffers: Vec<_> = (0..16).map(|_| stream.buffer(512).unwrap()).collect();
        let mut kept = Some(ScatterList::new(&stream));
        let cost = costs(machine, || {
            let mut list = kept.take().unwrap().emptied();
            list.push_slice(&header).unwrap();
            buffers.drain(..).for_each(|it| list.push(it).unwrap());
            list.push_slice(&trailer).unwrap();
            let mut list = list.map().unwrap().sync_for_cpu().sync_for_device().unmap().unwrap();
            buffers.extend(list.clear());
            kept = Some(list.emptied());
        });
        assert_eq!(cost, (0, 0));
    });
}

/// It finds its memory in a tree.
#[test]
fn raw_memory_is_mapped_and_unmapped_without_a_request() {
    each(|machine, device| {
        let mut stream = device.raw_stream("raw");
        let (requests, _) = costs(machine, || {
            let iova = stream.map_single(b"data", Access::Read).unwrap();
            stream.sync_single_for_cpu(iova, 4, Access::Read).unwrap();
            stream.sync_single_for_device(iova, 4, Access::Read).unwrap();
            stream.unmap_single(iova, 4, Access::Read).unwrap();
        });
        assert_eq!(requests, 0);
    });
}
