//! Coherent memory, pools and declared memory, of each shape.

use std::mem;
use std::sync::atomic::Ordering;
use std::thread;

use libdma::declared::{DeviceMemory, Mode};
use libdma::{Access, Error};

use crate::iommud::Iommud;

#[test]
fn coherent_memory_is_what_device_and_cpu_see() {
    for iommud in Iommud::each() {
        let device = iommud.open();
        let value = device.coherent("tail").value::<[u16; 5]>().unwrap();
        value.set([1, 2, 3, 4, 5]);
        assert_eq!(iommud.device_reads(value.iova(), 4).unwrap(), [1, 0, 2, 0]);
        assert!(iommud.device_writes(value.iova(), &[9, 9]));
        assert_eq!(value.get(), [0x0909, 2, 3, 4, 5]);
        assert_eq!(value.load::<u32>(2, Ordering::Acquire), Err(Error::BadAlignment));
        assert_eq!(value.load::<u32>(8, Ordering::Acquire), Err(Error::OutOfBuffer));
        value.store(4, 0x0102_0304_u32, Ordering::Release).unwrap();
        assert_eq!(value.get(), [0x0909, 2, 0x0304, 0x0102, 5]);

        let ring = device.coherent("ring").align(256).slice::<[u32; 3]>(21).unwrap();
        assert!(ring.iova().get().is_multiple_of(256));
        ring.copy_from(18, &[[1; 3], [2; 3], [3; 3]]).unwrap();
        assert_eq!(ring.copy_from(19, &[[1; 3]; 3]), Err(Error::OutOfBuffer));
        assert_eq!(ring.write(21, [0; 3]), Err(Error::OutOfBuffer));
        assert_eq!(ring.read(usize::MAX), Err(Error::OutOfBuffer));
        let mut out = [[0; 3]; 2];
        ring.copy_to(19, &mut out).unwrap();
        assert_eq!(out, [[2; 3], [3; 3]]);
        assert_eq!((ring.iova_of(20).is_some(), ring.iova_of(21)), (true, None));
        ring.store(20, 8, 7_u32, Ordering::Relaxed).unwrap();
        assert_eq!(ring.read(20), Ok([3, 3, 7]));

        // A buffer of its own, and one that shares a window with nothing but what was given back.
        let alone = device.coherent("alone").alone().bytes(5000).unwrap();
        alone.copy_from(4999, &[1]).unwrap();
        let large = device.coherent("large").bytes((1 << 20) + 1).unwrap();
        large.write(1 << 20, 1).unwrap();
        drop((value, ring, alone, large));
        let again = device.coherent("again").value::<u64>().unwrap();
        assert_eq!(again.get(), 0);
    }
}

#[test]
fn memory_outlives_the_device_and_the_pool_that_it_is_of() {
    for iommud in Iommud::each() {
        let device = iommud.open();
        let pool = device.pool("descriptors").of::<u64>().unwrap();
        let (block, left) = (pool.alloc().unwrap(), pool.alloc().unwrap().into_address());
        let ring = device.coherent("ring").slice::<u64>(4).unwrap();
        drop((device, pool));
        assert!(iommud.device_writes(left.iova(), &[7; 8]));
        block.set(3);
        ring.write(3, block.get()).unwrap();
        assert_eq!(iommud.device_reads(block.iova(), 1).unwrap(), [3]);
        drop((block, ring));
        assert_eq!(iommud.given(), (0, 0));
    }
}

#[test]
fn blocks_of_pools_do_not_overlap_and_go_between_threads() {
    let iommud = Iommud::new(true);
    let device = iommud.open();
    for (bytes, align, boundary) in [(1, 1, 4096), (48, 16, 64), (256, 256, 4096), (1500, 8, 4096)]
    {
        let pool = device.pool("blocks").align(align).boundary(boundary).bytes(bytes).unwrap();
        let mut blocks: Vec<_> = (0..12).map(|_| pool.alloc().unwrap()).collect();
        for (index, block) in blocks.iter().enumerate() {
            block.write(0, &vec![index as u8 + 1; bytes]).unwrap();
            assert!(block.write(1, &vec![0; bytes]).is_err());
        }
        for (index, block) in blocks.iter().enumerate() {
            let seen = iommud.device_reads(block.iova(), bytes).unwrap();
            assert!(seen.iter().all(|it| usize::from(*it) == index + 1));
        }
        let half = blocks.split_off(6);
        thread::scope(|scope| {
            scope.spawn(|| drop(half));
            scope.spawn(|| {
                let left = pool.alloc_zeroed().unwrap().into_address();
                pool.free(left).unwrap();
                let nothing = left.plus(1).unwrap();
                assert!(pool.take(left).is_err() && pool.take(nothing).is_err());
            });
            drop(blocks);
        });
        assert_eq!(pool.stats().in_use, 0);
        mem::forget(pool.alloc().unwrap());
        pool.shrink();
    }
    device.trim();
}

#[test]
fn integers_of_blocks_are_in_one_piece_with_the_device() {
    for iommud in Iommud::each() {
        let device = iommud.open();
        let words = device.pool("words").of::<[u32; 3]>().unwrap();
        let bytes = device.pool("bytes").align(8).bytes(11).unwrap();
        let (word, untyped) = (words.alloc().unwrap(), bytes.alloc().unwrap());
        word.set([1, 2, 3]);
        word.store(8, 0x0102_0304_u32, Ordering::Release).unwrap();
        assert_eq!(word.get(), [1, 2, 0x0102_0304]);
        assert_eq!(iommud.device_reads(word.iova(), 12).unwrap()[8..], [4, 3, 2, 1]);
        assert!(iommud.device_writes(word.iova(), &[9; 4]));
        assert_eq!(word.load(0, Ordering::Acquire), Ok(0x0909_0909_u32));
        assert_eq!(word.load::<u32>(2, Ordering::Acquire), Err(Error::BadAlignment));
        assert_eq!(word.store(12, 7_u8, Ordering::Release), Err(Error::OutOfBuffer));
        assert_eq!(word.load::<u32>(usize::MAX, Ordering::Acquire), Err(Error::OutOfBuffer));

        untyped.store(0, 0x1112_1314_1516_1718_u64, Ordering::Release).unwrap();
        assert_eq!(untyped.load(6, Ordering::Acquire), Ok(0x1112_u16));
        untyped.store(10, 3_u8, Ordering::Relaxed).unwrap();
        // Beyond its end are the next block's bytes.
        assert_eq!(untyped.load::<u16>(10, Ordering::Acquire), Err(Error::OutOfBuffer));
        assert_eq!(untyped.load::<u64>(8, Ordering::Acquire), Err(Error::OutOfBuffer));
    }
}

#[test]
fn declared_memory_is_given_out_and_comes_back() {
    let iommud = Iommud::new(true);
    let device = iommud.open();
    let memory = device.allocate(8192, Some(Access::ReadWrite), "its own").unwrap();
    device.declare_memory(DeviceMemory::from(memory), Mode::Exclusive).unwrap();
    device.mark_declared_occupied(64, 64).unwrap();
    let blocks: Vec<_> = (0..4).map(|_| device.coherent("own").bytes(1000).unwrap()).collect();
    for block in &blocks {
        block.copy_from(0, &[0xee; 1000]).unwrap();
    }
    assert!(device.coherent("more").bytes(8192).is_err());
    assert!(device.release_declared_memory().is_err(), "blocks of it live");
    drop(blocks);
    drop(device.release_declared_memory().unwrap());
}
