//! What a pool's blocks are found in.

use std::mem;

use libdma::pool::NotTaken;
use libdma::{Iova, check};
use simulated::Machine;

use crate::{Checked, line};

#[test]
fn a_driver_that_gives_everything_back_is_not_mentioned() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("descriptors").bytes(64).unwrap();
        let (held, left) = (pool.alloc().unwrap(), pool.alloc_zeroed().unwrap().into_address());
        drop(held);
        pool.free(left).unwrap();
        let again = pool.alloc().unwrap();
        again.write(0, &[1; 64]).unwrap();
        drop(pool.take(again.into_address()));
        drop((pool, device));
    }
    assert_eq!(check::leaks(), 0);
    checked.said_nothing();
}

#[test]
fn what_others_wrote_into_a_chunk_that_was_given_up_is_not_mentioned() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let block = pool.alloc().unwrap();
    let address = block.iova();
    drop(block);
    assert_eq!(pool.shrink(), 1);
    let others = device.coherent("others").bytes(4096).unwrap();
    assert_eq!(others.iova(), address);
    others.copy_from(0, &[1; 4096]).unwrap();
    drop(others);
    assert_eq!(pool.alloc().unwrap().iova(), address);
    checked.said_nothing();
}

#[test]
fn blocks_that_are_out_when_their_pool_is_dropped_are_leaks() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let (left, first) = (pool.alloc().unwrap().into_address(), line());
    let (forgotten, second) = (pool.alloc().unwrap(), line());
    let address = forgotten.iova();
    mem::forget(forgotten);
    drop(pool);
    let leak = |address, line| {
        format!(
            "leak on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address} that the device may read \
             and write, allocated at line {line}) was not given back before its pool was dropped"
        )
    };
    assert_eq!(checked.said(), [leak(left.iova(), first), leak(address, second)]);
    assert_eq!(check::leaks(), 0, "they were told");
}

#[test]
fn a_double_free_names_where_it_was_freed_first() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let (address, made) = (pool.alloc().unwrap().into_address(), line());
    let (freed, first) = (pool.free(address), line());
    assert_eq!(freed, Ok(()));
    checked.said_nothing();
    let (freed, again) = (pool.free(address), line());
    assert_eq!(freed, Err(NotTaken::Free));
    let address = address.iova();
    assert_eq!(
        checked.said(),
        [format!(
            "double free on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address} that the device \
             may read and write, allocated at line {made}) was given back at line {first}, and was to be again at \
             line {again}"
        )]
    );
}

#[test]
fn addresses_that_are_no_blocks_and_blocks_that_the_driver_holds_are_named() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let (block, made) = (pool.alloc().unwrap(), line());
    let (taken, at) = (pool.take(device.bus_address(Iova::new(0x5000))), line());
    assert_eq!(taken.err(), Some(NotTaken::NoBlock));
    assert_eq!(
        checked.said(),
        [format!(
            "unknown address on 0000:00:02.0: 0x5000 was to be given back at line {at}, but nothing that the \
             checker knows of is or was there"
        )]
    );
    let address = block.iova();
    let (taken, at) = (pool.take(block.io_address().bus_address()), line());
    assert_eq!(taken.err(), Some(NotTaken::Held));
    assert_eq!(
        checked.said(),
        [format!(
            "not the device's on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address} that the \
             device may read and write, allocated at line {made}) was to be taken back from the device at line {at}, \
             but the driver holds it"
        )]
    );
}

#[test]
fn a_device_that_writes_to_a_free_block_is_found_when_the_block_is_given_out() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("descriptors").bytes(64).unwrap();
        let (address, made) = (pool.alloc().unwrap().into_address(), line());
        let (_, freed) = (pool.free(address).unwrap(), line());
        machine.device_writes(address.plus(17).unwrap().iova(), &[0x41, 0x42]).unwrap();
        checked.said_nothing();
        let (block, again) = (pool.alloc().unwrap(), line());
        let address = address.iova();
        assert_eq!(block.iova(), address);
        assert_eq!(
            checked.said(),
            [format!(
                "write after free on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address} that the \
                 device may read and write, allocated at line {made}) was given back at line {freed} and has been \
                 written to since: byte 17 is 0x41, as was found when it was given out again at line {again}"
            )]
        );
        drop(block);
        drop(pool.alloc().unwrap());
        checked.said_nothing();
    }
}

#[test]
fn what_the_driver_itself_wrote_while_the_checker_was_off_is_not_mentioned() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    // With the pattern in it from now on.
    drop(pool.alloc().unwrap());
    check::turn_off();
    // And written, by somebody whom the checker does not hear of.
    let block = pool.alloc().unwrap();
    block.write(0, &[1; 64]).unwrap();
    let address = block.iova();
    drop(block);
    check::turn_on();
    assert_eq!(pool.alloc().unwrap().iova(), address);
    checked.said_nothing();
}

#[test]
fn chunks_that_were_given_up_and_come_back_are_not_mistaken_for_written() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(1024).unwrap();
    let other = device.pool("others").bytes(1024).unwrap();
    for _ in 0..3 {
        let blocks: Vec<_> = (0..40).map(|_| pool.alloc().unwrap()).collect();
        drop(blocks);
        pool.shrink();
        let others: Vec<_> = (0..40).map(|_| other.alloc_zeroed().unwrap()).collect();
        drop(others);
        other.shrink();
    }
    checked.said_nothing();
}

#[test]
fn a_block_of_another_pool_is_named_and_so_is_the_middle_of_one() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let (commands, frames) =
            (device.pool("commands").bytes(64).unwrap(), device.pool("frames").bytes(64).unwrap());
        let (address, made) = (commands.alloc().unwrap().into_address(), line());
        // So that the other has a chunk too.
        let held = frames.alloc().unwrap();
        let (freed, at) = (frames.free(address), line());
        assert_eq!(freed, Err(NotTaken::NoBlock));
        let thing = format!(
            "the block of pool \"commands\" (64 bytes at {} that the device may read and write, allocated at line \
             {made})",
            address.iova()
        );
        assert_eq!(
            checked.said(),
            [format!(
                "wrong pool on 0000:00:02.0: {thing} was to be given back at line {at} to another pool, \"frames\""
            )]
        );
        let inside = address.plus(8).unwrap();
        let (taken, at) = (commands.take(inside), line());
        assert_eq!(taken.err(), Some(NotTaken::NoBlock));
        assert_eq!(
            checked.said(),
            [format!(
                "wrong address on 0000:00:02.0: {} was to be given back at line {at}, but is byte 8 of {thing}, which \
                 is given back by the address of its first",
                inside.iova()
            )]
        );
        commands.free(address).unwrap();
        drop(held);
        checked.said_nothing();
    }
}
