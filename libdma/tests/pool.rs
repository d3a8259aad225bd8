//! Pools on simulated machines: VT-d, AMD-Vi, and none.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::thread;

use libdma::declared::{DeviceMemory, Mode};
use libdma::pool::NotTaken;
use libdma::{Access, Device, Error, Iova, Pool, PoolBlock};
use simulated::Machine;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a device follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    buffer: U64,
    length: U32,
    flags: U32,
}

fn descriptor(number: u32) -> Descriptor {
    Descriptor { buffer: U64::new(0x8000), length: U32::new(number), flags: U32::new(1) }
}

#[test]
fn a_device_reads_and_writes_blocks_by_their_address() {
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("descriptors").of::<Descriptor>().unwrap();
        let blocks: Vec<_> = (0..100).map(|_| pool.alloc_zeroed().unwrap()).collect();
        for (number, block) in blocks.iter().enumerate() {
            block.set(descriptor(number as u32));
        }
        for (number, block) in blocks.iter().enumerate() {
            let seen = machine.device_reads(block.iova(), 16).unwrap();
            assert_eq!(seen, descriptor(number as u32).as_bytes());
            machine.device_writes(Iova::new(block.iova().get() + 12), &[7]).unwrap();
            assert_eq!(block.get(), Descriptor { flags: U32::new(7), ..descriptor(number as u32) });
        }
        drop((blocks, pool, device));
        assert_eq!(machine.usage().live_runs, 0);
        machine.check();
    }
}

#[test]
fn r6_blocks_are_for_the_direction_that_the_pool_says() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let pool = device.pool("commands").access(Access::Read).bytes(64).unwrap();
        let block = pool.alloc().unwrap();
        block.write(0, b"command").unwrap();
        assert_eq!(machine.device_reads(block.iova(), 7).unwrap(), b"command");
        assert!(machine.device_writes(block.iova(), &[0; 7]).is_err());
        let mut found = [0; 7];
        block.read(0, &mut found).unwrap();
        assert_eq!(&found, b"command");
        machine.check();
    }
}

#[test]
fn what_lies_beyond_a_block_cannot_be_reached() {
    let machine = Machine::vtd();
    let device = machine.open();
    let block = device.pool("blocks").bytes(64).unwrap().alloc().unwrap();
    for (offset, length) in [(0, 65), (64, 1), (65, 0), (usize::MAX, 2)] {
        let mut bytes = vec![0; length];
        assert_eq!(block.read(offset, &mut bytes), Err(Error::OutOfBuffer));
        assert_eq!(block.write(offset, &bytes), Err(Error::OutOfBuffer));
    }
    block.write(64, &[]).unwrap();
}

#[test]
fn zeroes_are_zeroes_after_any_use() {
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("blocks").bytes(100).unwrap();
    let used = pool.alloc().unwrap();
    used.write(0, &[0xff; 100]).unwrap();
    let address = used.iova();
    drop(used);
    let block = pool.alloc_zeroed().unwrap();
    assert_eq!(block.iova(), address, "the one that the CPU has in its cache");
    let mut found = [1; 100];
    block.read(0, &mut found).unwrap();
    assert_eq!(found, [0; 100]);
}

#[test]
fn addresses_keep_alignment_and_boundary() {
    for machine in Machine::each() {
        let device = machine.open();
        for (bytes, align, boundary) in [
            (1, 1, 1),
            (24, 8, 32),
            (100, 64, 256),
            (192, 16, 4096),
            (3000, 512, 4096),
            (9000, 4096, 1 << 16),
        ] {
            let pool = device.pool("blocks").align(align).boundary(boundary).bytes(bytes).unwrap();
            let blocks: Vec<_> = (0..70).map(|_| pool.alloc().unwrap()).collect();
            let mut places = BTreeSet::new();
            for block in &blocks {
                let (first, last) = (block.iova().get(), block.iova().get() + bytes as u64 - 1);
                assert!(first.is_multiple_of(align as u64), "{first:#x} of {align}");
                assert!(block.cpu_address().get().is_multiple_of(align as u64));
                assert_eq!(first / boundary as u64, last / boundary as u64, "{first:#x} crosses");
                places.insert(first);
            }
            let places: Vec<u64> = places.into_iter().collect();
            assert_eq!(places.len(), 70);
            assert!(places.windows(2).all(|two| two[1] - two[0] >= bytes as u64), "they overlap");
        }
        machine.check();
    }
}

#[test]
fn a_pool_that_no_block_can_be_of_is_an_error() {
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = || device.pool("blocks");
    assert_eq!(pool().bytes(0).err(), Some(Error::ZeroSize));
    assert_eq!(pool().of::<[u64; 0]>().err(), Some(Error::ZeroSize));
    assert_eq!(pool().bytes(usize::MAX).err(), Some(Error::TooLarge));
    assert_eq!(pool().align(0).of::<u64>().err(), Some(Error::BadAlignment));
    assert_eq!(pool().align(24).bytes(8).err(), Some(Error::BadAlignment));
    assert_eq!(pool().boundary(96).bytes(8).err(), Some(Error::BadBoundary));
    assert_eq!(pool().boundary(64).bytes(65).err(), Some(Error::BadBoundary));
}

#[test]
fn a_block_is_taken_back_once_and_only_if_it_was_left_to_the_device() {
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").of::<Descriptor>().unwrap();
    let block = pool.alloc().unwrap();
    block.set(descriptor(5));
    let held = block.io_address().bus_address();
    assert_eq!(pool.take(held).err(), Some(NotTaken::Held));
    let left = block.into_address();
    assert_eq!(left, held);
    let in_use = |pool: &Pool<Descriptor>| pool.stats().in_use;
    assert_eq!(in_use(&pool), 1);
    let number = left.iova().get();
    for beside in [number + 1, number - 1, 0, u64::MAX] {
        let beside = device.bus_address(Iova::new(beside));
        assert_eq!(pool.take(beside).err(), Some(NotTaken::NoBlock));
        assert_eq!(pool.free(beside), Err(NotTaken::NoBlock));
    }
    let other = device.pool("others").of::<Descriptor>().unwrap();
    let _there = other.alloc().unwrap();
    assert_eq!(other.take(left).err(), Some(NotTaken::NoBlock), "it is another pool's");
    let block = pool.take(left).unwrap();
    assert_eq!(block.get(), descriptor(5));
    assert_eq!(pool.take(left).err(), Some(NotTaken::Held), "one has it");
    let left = block.into_address();
    assert_eq!((pool.free(left), in_use(&pool)), (Ok(()), 0));
    assert_eq!((pool.free(left), in_use(&pool)), (Err(NotTaken::Free), 0));
    assert_eq!(pool.take(left).err(), Some(NotTaken::Free));
}

#[test]
fn blocks_are_given_out_and_back_without_a_word_to_iommud() {
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("blocks").bytes(256).unwrap();
    drop(pool.alloc().unwrap());
    let asked = machine.client.requests();
    for _ in 0..100 {
        let blocks: Vec<_> = (0..10).map(|_| pool.alloc().unwrap()).collect();
        let left: Vec<_> = blocks.into_iter().map(PoolBlock::into_address).collect();
        left.into_iter().for_each(|iova| pool.free(iova).unwrap());
    }
    assert_eq!(machine.client.requests(), asked);
}

#[test]
fn statistics_count_what_happened_in_one_line() {
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(256).unwrap();
    let mut blocks: Vec<_> = (0..20).map(|_| pool.alloc().unwrap()).collect();
    blocks.truncate(3);
    machine.client.refuse(0, 99, Error::QuotaExceeded);
    let more: Vec<_> = std::iter::from_fn(|| pool.alloc().ok()).collect();
    assert_eq!(more.len(), 253, "all of the window");
    drop(more);
    let stats = pool.stats();
    assert_eq!(
        format!("{}\n{stats}", libdma::pool::PoolStats::HEADER),
        "POOL             IN USE   MOST BLOCKS  BYTES CHUNKS  ALLOCATIONS FAILED\n\
         descriptors           3    256     48    256      3          273      1"
    );
}

/// Asks for blocks until there are none to be had.
fn exhaust(pool: &Pool<[u8]>) -> (Vec<PoolBlock<[u8]>>, Error) {
    let mut blocks = Vec::new();
    loop {
        match pool.alloc() {
            Ok(block) => blocks.push(block),
            Err(error) => return (blocks, error),
        }
    }
}

#[test]
fn r7_a_small_mask_is_exhausted_with_a_typed_error_and_nothing_changed() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let mut device = machine.open();
        device.set_dma_mask(15).unwrap();
        let pool = device.pool("blocks").bytes(1024).unwrap();
        let (mut blocks, error) = exhaust(&pool);
        assert_eq!(error, Error::NoAddressSpace);
        // Page zero is never given out.
        assert!(blocks.len() >= 4 && blocks.len() <= 28, "{} blocks", blocks.len());
        assert!(blocks.iter().all(|block| block.iova().get() + 1023 <= 0x7fff));
        let before = pool.stats();
        assert_eq!(pool.alloc().err(), Some(Error::NoAddressSpace));
        let after = pool.stats();
        assert_eq!((after.blocks, after.in_use), (before.blocks, before.in_use));
        let address = blocks.pop().unwrap().iova();
        assert_eq!(pool.alloc().unwrap().iova(), address, "one came back");
        drop((blocks, pool, device));
        assert_eq!(machine.usage().live_runs, 0);
        machine.check();
    }
}

#[test]
fn r7_whatever_step_of_growing_fails_the_pool_is_as_it_was() {
    for machine in Machine::each() {
        let device = machine.open();
        let keeps = device.pool("other").bytes(64).unwrap().alloc().unwrap();
        for error in [Error::OutOfMemory, Error::QuotaExceeded, Error::DaemonGone] {
            for after in 0..10 {
                let pool = device.pool("blocks").bytes(100_000).unwrap();
                let before = machine.usage();
                machine.client.refuse(after, 99, error);
                let block = pool.alloc();
                machine.client.refuse_none();
                let stats = pool.stats();
                match block {
                    Ok(_) => assert_eq!((stats.in_use, stats.failures), (1, 0)),
                    Err(found) => {
                        assert_eq!((found, stats.blocks, stats.failures), (error, 0, 1));
                        // Without an IOMMU iommud keeps what nobody could tell it is not in use.
                        if device.is_confined() {
                            assert_eq!(machine.usage(), before);
                        }
                    }
                }
            }
        }
        drop(keeps);
        machine.check();
    }
}

#[test]
fn what_comes_back_while_a_pool_fails_to_grow_is_given_out() {
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("blocks").bytes(1024).unwrap();
        let mut held = vec![pool.alloc().unwrap()];
        machine.client.refuse(0, u64::MAX, Error::OutOfMemory);
        while let Ok(block) = pool.alloc() {
            held.push(block);
        }
        assert_eq!(pool.stats().failures, 1);
        // It is free neither before the pool asks for more, nor when the answer is there.
        let back = held.pop().unwrap();
        let address = back.iova();
        machine.client.meanwhile(move || drop(back));
        let block = pool.alloc().unwrap();
        assert_eq!((block.iova(), pool.stats().failures), (address, 1));
        assert_eq!(pool.alloc().err(), Some(Error::OutOfMemory));
        assert_eq!(pool.stats().failures, 2);
        machine.check();
    }
}

#[test]
fn idle_chunks_go_back_to_the_windows_and_to_iommud_with_the_device() {
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("blocks").bytes(1024).unwrap();
        let blocks: Vec<_> = (0..256).map(|_| pool.alloc().unwrap()).collect();
        let most = pool.stats().chunks;
        drop(blocks);
        let idle = pool.stats();
        assert!(idle.chunks < most && idle.in_use == 0, "{idle}");
        assert_eq!(pool.shrink(), idle.chunks);
        assert_eq!((pool.stats().chunks, pool.stats().blocks), (0, 0));
        assert_eq!(pool.shrink(), 0);
        pool.alloc().unwrap().write(0, &[1]).unwrap();
        drop((pool, device));
        assert_eq!(machine.usage().live_runs, 0);
        machine.check();
    }
}

#[test]
fn blocks_outlive_their_pool_and_their_device() {
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("blocks").bytes(64).unwrap();
        let block = pool.alloc().unwrap();
        drop((pool, device));
        block.write(0, b"still here").unwrap();
        assert_eq!(machine.device_reads(block.iova(), 10).unwrap(), b"still here");
        drop(block);
        assert_eq!(machine.usage().live_runs, 0);
        machine.check();
    }
}

#[test]
fn what_a_device_was_left_is_nobody_elses_when_the_pool_is_gone() {
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("blocks").bytes(64).unwrap();
        let address = pool.alloc().unwrap().into_address();
        drop(pool);
        let other = device.pool("others").bytes(64).unwrap();
        let blocks: Vec<_> = (0..1000).map(|_| other.alloc_zeroed().unwrap()).collect();
        // The device may be at work still.
        let _ = machine.device_writes(address.iova(), &[0xee; 64]);
        for block in &blocks {
            let mut found = [1; 64];
            block.read(0, &mut found).unwrap();
            assert_eq!(found, [0; 64]);
        }
        drop((blocks, other, device));
        assert_eq!(machine.usage().live_runs, 0);
    }
}

#[test]
fn a_large_block_that_a_device_was_left_stays_its_own_until_the_device_is_closed() {
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("large").bytes(2 << 20).unwrap();
        let address = pool.alloc().unwrap().into_address();
        drop(pool);
        machine.device_writes(address.iova(), &[1; 64]).unwrap();
        assert_eq!(machine.usage().live_runs, 1);
        drop(device);
        assert_eq!(machine.usage().live_runs, 0);
        machine.check();
    }
}

#[test]
fn a_block_that_is_forgotten_harms_nobody() {
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("blocks").bytes(64).unwrap();
    let forgotten = pool.alloc().unwrap();
    let address = forgotten.io_address().bus_address();
    core::mem::forget(forgotten);
    assert_eq!(pool.take(address).err(), Some(NotTaken::Held));
    drop(pool);
    machine.device_writes(address.iova(), &[1; 64]).unwrap();
    machine.check();
}

/// Memory like a device's behind a BAR.
#[repr(C, align(4096))]
struct Bar([u8; 4096]);

#[test]
fn blocks_of_one_address_are_never_two() {
    let machine = Machine::vtd();
    let device = machine.open();
    let first_window = device.coherent("there").bytes(4096).unwrap();
    let address = first_window.iova();
    let bar = Box::leak(Box::new(Bar([0; 4096])));
    // The device knows its own memory by a number at which it sees a window, too.
    // SAFETY: the memory lives for ever, and nothing else uses it.
    let own = unsafe { DeviceMemory::local(NonNull::from(&mut bar.0).cast(), 4096, address) };
    device.declare_memory(own, Mode::First).unwrap();
    drop(first_window);
    let pool = device.pool("blocks").bytes(256).unwrap();
    let (mut blocks, refused) = exhaust(&pool);
    assert_eq!((refused, blocks.len(), blocks[0].iova()), (Error::NoAddressSpace, 16, address));
    let left = blocks.swap_remove(0).into_address();
    blocks[0].write(0, b"mine").unwrap();
    assert_eq!(pool.free(left), Ok(()));
}

fn is_send_and_sync<T: Send + Sync>(_: &T) {}
fn is_send<T: Send>(_: &T) {}

#[test]
fn threads_share_a_pool_and_pass_blocks_on() {
    let machine = Machine::vtd();
    let device: Device = machine.open();
    let pool = device.pool("blocks").of::<u64>().unwrap();
    is_send_and_sync(&pool);
    is_send(&pool.alloc().unwrap());
    let work = |thread: u64| {
        let (mut held, mut passed) = (Vec::new(), Vec::new());
        for round in 0..300 {
            let block = pool.alloc().unwrap();
            block.set(thread << 32 | round);
            held.push((round, block));
            if round % 3 == 0 {
                let (round, block) = held.swap_remove(held.len() / 2);
                assert_eq!(block.get(), thread << 32 | round, "it is another thread's, too");
                let iova = block.into_address();
                pool.free(iova).unwrap();
            }
            if round % 7 == 0 {
                passed.extend(held.pop());
            }
        }
        passed
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn({
                    let work = &work;
                    move || work(number)
                })
            })
            .collect();
        for (number, thread) in threads.into_iter().enumerate() {
            for (round, block) in thread.join().unwrap() {
                assert_eq!(block.get(), (number as u64) << 32 | round);
            }
        }
    });
    assert_eq!(pool.stats().in_use, 0);
    drop((pool, device));
    assert_eq!(machine.usage().live_runs, 0);
    machine.check();
}
