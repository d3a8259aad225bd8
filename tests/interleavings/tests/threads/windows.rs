//! Blocks of a device's windows.

use std::sync::Arc;

use libdma::{Coherent, Device};
use loom::thread;

use crate::orders::all;
use crate::owners::Owners;

fn block(device: &Device, owners: &Owners, bytes: usize) -> Coherent<[u8]> {
    let block = device.coherent("block").bytes(bytes).unwrap();
    owners.touch(block.iova());
    block
}

#[test]
fn no_two_threads_have_a_block_at_a_time() {
    all("two threads, a block each, twice", |iommud| {
        let (device, owners) = (Arc::new(iommud.open()), Arc::new(Owners::default()));
        let other = {
            let (device, owners) = (device.clone(), owners.clone());
            thread::spawn(move || {
                drop(block(&device, &owners, 64));
                drop(block(&device, &owners, 64));
            })
        };
        let first = block(&device, &owners, 64);
        let second = block(&device, &owners, 64);
        owners.touch(first.iova());
        assert_ne!(first.iova(), second.iova());
        other.join().unwrap();
    });
}

#[test]
fn a_window_is_given_back_while_another_thread_looks_for_one() {
    all("a thread trims", |iommud| {
        let (device, owners) = (Arc::new(iommud.open()), Arc::new(Owners::default()));
        drop(block(&device, &owners, 64));
        let trims = {
            let device = device.clone();
            thread::spawn(move || device.trim())
        };
        let long = {
            let (device, owners) = (device.clone(), owners.clone());
            thread::spawn(move || drop(block(&device, &owners, 40_000)))
        };
        let mine = block(&device, &owners, 64);
        trims.join().unwrap();
        long.join().unwrap();
        owners.touch(mine.iova());
    });
}

#[test]
fn whoever_drops_the_last_of_a_device_ends_its_session() {
    all("three threads drop", |iommud| {
        let device = iommud.open();
        let owners = Owners::default();
        let (one, two) = (block(&device, &owners, 64), block(&device, &owners, 5000));
        let one = thread::spawn(move || drop(one));
        let two = thread::spawn(move || drop(two));
        drop(device);
        one.join().unwrap();
        two.join().unwrap();
    });
}
