//! Several threads, all of which do everything right.

use std::thread;

use libdma::{Access, Bidirectional, Device, FromDevice, MapRequest, Pool, ScatterList, check};
use simulated::Machine;

use crate::Checked;

/// Everything that is made and given back, by a thread that shares the device and a pool with others.
fn work(device: &Device, pool: &Pool<[u8]>) {
    let access = Access::ReadWrite;
    let (window, strict) =
        (device.stream::<FromDevice>("rx"), device.stream::<Bidirectional>("both").strict());
    for round in 0..50 {
        let left = pool.alloc().unwrap().into_address();
        drop(pool.alloc().unwrap());
        pool.free(left).unwrap();

        let mut raw = device.raw_stream("raw");
        let address = raw.map_zeroes(64, access).unwrap();
        raw.sync_single_for_cpu(address, 64, access).unwrap();
        raw.cpu_write(address, &[round; 64]).unwrap();
        raw.sync_single_for_device(address, 64, access).unwrap();
        raw.unmap_single(address, 64, access).unwrap();

        let mapped = window.buffer(256).unwrap().map().unwrap();
        // Made by one thread, and given back by another.
        thread::scope(|scope| scope.spawn(|| drop(mapped.unmap().unwrap())).join().unwrap());

        let mut list = ScatterList::new(&strict);
        for _ in 0..2 {
            list.push(strict.buffer(64).unwrap()).unwrap();
            list = list.map().unwrap().unmap().unwrap();
        }

        let buffer = device.allocate(4096, None, "pieces").unwrap();
        let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access };
        let mapped = device.map(&[piece]).unwrap();
        device.unmap(&mapped).unwrap();
        device.map(&[piece]).unwrap();
    }
}

#[test]
fn threads_that_share_a_device_and_a_pool_are_not_mentioned() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("descriptors").bytes(64).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| work(&device, &pool));
            }
        });
        drop((pool, device));
        checked.said_nothing();
        assert_eq!(check::leaks(), 0);
    }
}
