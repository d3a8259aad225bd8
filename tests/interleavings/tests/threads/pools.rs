//! Blocks of a pool.

use std::sync::Arc;

use libdma::{Device, Error, Pool};
use loom::thread;

use crate::orders::all;
use crate::owners::Owners;

/// A pool that keeps no more than what is in use, of blocks of which two are in a chunk.
fn pool(device: &Device) -> Arc<Pool<[u8]>> {
    Arc::new(device.pool("blocks").keep(0).bytes(2048).unwrap())
}

fn use_one(pool: &Pool<[u8]>, owners: &Owners) {
    let block = pool.alloc().unwrap();
    owners.touch(block.iova());
    block.write(0, &[1]).unwrap();
}

#[test]
fn no_two_threads_have_a_block_at_a_time() {
    all("two threads, a block each, twice, of a pool", |iommud| {
        let device = iommud.open();
        let (pool, owners) = (pool(&device), Arc::new(Owners::default()));
        let other = {
            let (pool, owners) = (pool.clone(), owners.clone());
            thread::spawn(move || {
                use_one(&pool, &owners);
                use_one(&pool, &owners);
            })
        };
        let mine = pool.alloc().unwrap();
        owners.touch(mine.iova());
        use_one(&pool, &owners);
        owners.touch(mine.iova());
        other.join().unwrap();
    });
}

#[test]
fn each_of_two_threads_gets_the_block_for_which_it_made_the_pool_grow() {
    all("two threads, a chunk each", |iommud| {
        let device = iommud.open();
        let pool = Arc::new(device.pool("long").keep(0).bytes(1 << 20).unwrap());
        let owners = Arc::new(Owners::default());
        let other = {
            let (pool, owners) = (pool.clone(), owners.clone());
            thread::spawn(move || {
                let block = pool.alloc().unwrap();
                owners.touch(block.iova());
                block
            })
        };
        let mine = pool.alloc().unwrap();
        owners.touch(mine.iova());
        assert_ne!(mine.iova(), other.join().unwrap().iova());
    });
}

#[test]
fn a_block_that_was_left_to_the_device_is_got_back_once() {
    all("two threads want the same block back", |iommud| {
        let device = iommud.open();
        let (pool, owners) = (pool(&device), Arc::new(Owners::default()));
        let block = pool.alloc().unwrap();
        owners.touch(block.iova());
        let address = block.into_address();
        let taken = {
            let (pool, owners) = (pool.clone(), owners.clone());
            thread::spawn(move || pool.take(address).map(|block| owners.touch(block.iova())))
        };
        let freed = {
            let pool = pool.clone();
            thread::spawn(move || pool.free(address))
        };
        // It may be given out again meanwhile, and is not to be got back by who had left it.
        use_one(&pool, &owners);
        let (taken, freed) = (taken.join().unwrap(), freed.join().unwrap());
        assert!(taken.is_ok() != freed.is_ok(), "{taken:?}, {freed:?}");
        assert_eq!(pool.stats().in_use, 0);
    });
}

#[test]
fn three_threads_use_one_pool() {
    all("three threads, a block each, of a pool", |iommud| {
        let device = iommud.open();
        let (pool, owners) = (pool(&device), Arc::new(Owners::default()));
        let others = [0, 1].map(|_| {
            let (pool, owners) = (pool.clone(), owners.clone());
            thread::spawn(move || use_one(&pool, &owners))
        });
        use_one(&pool, &owners);
        for other in others {
            other.join().unwrap();
        }
    });
}

#[test]
fn chunks_go_back_while_blocks_are_given_out() {
    all("a thread shrinks a pool", |iommud| {
        let device = iommud.open();
        let (pool, owners) = (pool(&device), Arc::new(Owners::default()));
        use_one(&pool, &owners);
        let shrinks = {
            let pool = pool.clone();
            thread::spawn(move || pool.shrink())
        };
        let other = {
            let (pool, owners) = (pool.clone(), owners.clone());
            thread::spawn(move || use_one(&pool, &owners))
        };
        let mine = pool.alloc().unwrap();
        owners.touch(mine.iova());
        shrinks.join().unwrap();
        other.join().unwrap();
        owners.touch(mine.iova());
        assert_eq!(pool.stats().in_use, 1);
    });
}

#[test]
fn a_pool_ends_with_the_last_of_it_whoever_that_is() {
    all("pool, block and device are dropped", |iommud| {
        let device = iommud.open();
        let pool = pool(&device);
        let (one, two) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        let one = thread::spawn(move || drop(one));
        let last = thread::spawn(move || drop(pool));
        drop(two);
        drop(device);
        one.join().unwrap();
        last.join().unwrap();
    });
}

#[test]
fn one_that_finds_nothing_left_takes_what_was_given_back_meanwhile_or_is_told() {
    all("a pool may not grow", |iommud| {
        let device = iommud.open();
        let pool = Arc::new(device.pool("long").keep(1).bytes(1 << 20).unwrap());
        let held = pool.alloc().unwrap();
        iommud.refuse(Error::OutOfMemory);
        let gives_back = thread::spawn(move || drop(held));
        let failed = match pool.alloc() {
            Ok(block) => {
                drop(block);
                0
            }
            Err(error) => {
                assert_eq!(error, Error::OutOfMemory);
                1
            }
        };
        gives_back.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.failures, stats.in_use), (failed, 0));
        // What was refused once is had the next time.
        drop(pool.alloc().or_else(|_| pool.alloc()).unwrap());
    });
}
