//! Per-device memory.

use std::ptr::NonNull;

use libdma::declared::{DeclareError, DeviceMemory, Mode};
use libdma::{Access, Attributes, Device, Error, Iova, Limits};
use simulated::{Machine, second_edu};

/// A device whose own memory is a buffer of this length, and where that is.
fn declared(machine: &Machine, bytes: u64, mode: Mode) -> (Device, Iova) {
    let device = machine.open();
    let buffer = device.allocate(bytes, Some(Access::ReadWrite), "its own").unwrap();
    let start = buffer.iova().unwrap();
    device.declare_memory(buffer.into(), mode).unwrap();
    (device, start)
}

/// Memory like a device's behind a BAR.
#[repr(C, align(4096))]
struct Bar([u8; 16384]);

fn bar() -> &'static mut Bar {
    Box::leak(Box::new(Bar([0xee; 16384])))
}

fn local(bar: &mut Bar, from: usize, to: usize, address: u64) -> DeviceMemory {
    let start = NonNull::from(&mut bar.0).cast::<u8>();
    // SAFETY: the range lies in memory that lives for ever and that nothing else uses.
    unsafe { DeviceMemory::local(start.add(from), to - from, Iova::new(address)) }
}

#[test]
fn coherent_memory_and_pools_come_from_there_first() {
    for machine in Machine::each() {
        let (device, start) = declared(&machine, 16384, Mode::First);
        let inside = |iova: Iova| (start.get()..start.get() + 16384).contains(&iova.get());
        let asked = machine.client.requests();
        let ring = device.coherent("ring").slice::<u64>(512).unwrap();
        let pool = device.pool("blocks").bytes(64).unwrap();
        let block = pool.alloc().unwrap();
        assert!(inside(ring.iova()) && inside(block.iova()));
        assert_eq!(machine.client.requests(), asked, "it is mapped already");
        ring.write(511, 7).unwrap();
        let seen = machine.device_reads(ring.iova_of(511).unwrap(), 8).unwrap();
        assert_eq!(seen, 7_u64.to_le_bytes());
        assert_eq!(device.window_usage(), []);
        // Then there is no more of it, and what is of another access was never there.
        let more = device.coherent("more").bytes(16384).unwrap();
        let other = device.coherent("other").access(Access::Read).bytes(64).unwrap();
        let alone = device.coherent("alone").alone().bytes(64).unwrap();
        assert!(!inside(more.iova()) && !inside(other.iova()) && !inside(alone.iova()));
        let usage = device.declared_usage().unwrap();
        assert_eq!((usage.mode, usage.bytes, usage.occupied), (Mode::First, 16384, 0));
        assert!(usage.blocks >= 2 && usage.used >= 4096 + 64);
        drop((ring, block, pool));
        assert_eq!(device.declared_usage().map(|it| (it.used, it.blocks)), Some((0, 0)));
        machine.check();
    }
}

#[test]
fn in_exclusive_mode_it_comes_from_nowhere_else() {
    for machine in Machine::each() {
        let (device, _) = declared(&machine, 8192, Mode::Exclusive);
        let begin = || device.clone();
        let refused = |it: Result<libdma::Coherent<[u8]>, Error>| it.err();
        let held = device.coherent("held").bytes(8192).unwrap();
        let full = Some(Error::OutOfMemory);
        assert_eq!(refused(begin().coherent("more").bytes(1)), full);
        drop(held);
        let one = begin();
        assert_eq!(refused(one.coherent("longer").bytes(8193)), full);
        assert_eq!(refused(one.coherent("read only").access(Access::Read).bytes(64)), full);
        assert_eq!(refused(one.coherent("alone").alone().bytes(64)), full);
        let contiguous = Attributes::FORCE_CONTIGUOUS;
        assert_eq!(refused(one.coherent("one piece").attributes(contiguous).bytes(64)), full);
        assert_eq!(refused(one.coherent("nothing").bytes(0)), Some(Error::ZeroSize));
        assert!(one.coherent("fits").bytes(64).is_ok());
        assert_eq!(device.window_usage(), []);
        machine.check();
    }
}

#[test]
fn what_is_occupied_is_never_given_out() {
    let machine = Machine::vtd();
    let (device, start) = declared(&machine, 8192, Mode::Exclusive);
    device.mark_declared_occupied(100, 28).unwrap();
    device.mark_declared_occupied(4096, 4096).unwrap();
    let refused = |offset, bytes| device.mark_declared_occupied(offset, bytes);
    assert_eq!(refused(0, 101), Err(DeclareError::Occupied), "R7: nor is the rest of it now");
    assert_eq!(refused(8192, 1), Err(DeclareError::OutOfRange));
    assert_eq!(refused(usize::MAX, 2), Err(DeclareError::OutOfRange));
    assert_eq!(device.declared_usage().unwrap().occupied, 64 + 4096);
    let mut places = Vec::new();
    while let Ok(block) = device.coherent("block").bytes(64) {
        places.push(block.iova().get() - start.get());
        std::mem::forget(block);
    }
    places.sort();
    let expected: Vec<u64> = (0..4096).step_by(64).filter(|at| *at != 64).collect();
    assert_eq!(places, expected);
    assert_eq!(refused(0, 64), Err(DeclareError::Occupied), "it is in use");
}

#[test]
fn it_is_released_when_nothing_of_it_is_in_use() {
    for machine in Machine::each() {
        let (device, start) = declared(&machine, 8192, Mode::Exclusive);
        let clone = device.clone();
        let blocks = [(); 2].map(|()| clone.coherent("held").bytes(64).unwrap());
        assert_eq!(device.release_declared_memory().err(), Some(DeclareError::InUse { blocks: 2 }));
        assert!(clone.coherent("still there").bytes(64).is_ok());
        drop(blocks);
        device.mark_declared_occupied(0, 64).unwrap();
        let buffer = device.release_declared_memory().unwrap().into_buffer().unwrap();
        assert_eq!(buffer.iova(), Some(start));
        let nothing = DeclareError::NothingDeclared;
        assert_eq!(device.release_declared_memory().err(), Some(nothing));
        assert_eq!(device.mark_declared_occupied(0, 64), Err(nothing));
        assert_eq!(device.declared_usage(), None);
        assert!(clone.coherent("from a window").bytes(64).is_ok());
        drop(buffer);
        machine.check();
    }
}

#[test]
fn r7_what_cannot_be_declared_comes_back_and_changes_nothing() {
    for machine in Machine::each() {
        let (one, other) = (machine.open(), machine.open_at(second_edu()).unwrap());
        let refused = |memory: DeviceMemory| {
            let refused = one.declare_memory(memory, Mode::Exclusive).unwrap_err();
            assert_eq!(one.declared_usage(), None);
            assert!(refused.memory.into_buffer().is_some());
            refused.error
        };
        let unmapped = one.allocate(4096, None, "unmapped").unwrap();
        assert_eq!(refused(unmapped.into()), DeclareError::NotMapped);
        let foreign = other.allocate(4096, Some(Access::ReadWrite), "another's").unwrap();
        assert_eq!(refused(foreign.into()), DeclareError::WrongDevice);
        let bar = bar();
        for (from, to, address, error) in [
            (32, 4096, 32, DeclareError::BadAlignment),
            (0, 100, 0, DeclareError::BadAlignment),
            (0, 64, 64, DeclareError::BadAlignment),
            (64, 64, 64, DeclareError::BadLength),
            (0, 4096, !0xfff, DeclareError::BadLength),
        ] {
            let refused = one.declare_memory(local(bar, from, to, address), Mode::First);
            assert_eq!(refused.unwrap_err().error, error, "{from} {to} {address:#x}");
        }
        let twice = |bytes| one.allocate(bytes, Some(Access::ReadWrite), "own").unwrap().into();
        one.declare_memory(twice(4096), Mode::First).unwrap();
        let again = one.declare_memory(twice(8192), Mode::Exclusive).unwrap_err();
        assert_eq!(again.error, DeclareError::AlreadyDeclared);
        assert_eq!(one.declared_usage().map(|it| it.bytes), Some(4096));
        assert!(again.to_string().starts_with("the device has memory of its own already"));
        machine.check();
    }
}

#[test]
fn memory_in_the_device_serves_every_access_at_the_devices_own_address() {
    let machine = Machine::amdvi();
    let mut device = machine.open();
    let bar = bar();
    let bytes = NonNull::from(&mut bar.0).cast::<u8>();
    // From the second line of the first page on, at an address across a multiple of its size.
    device.declare_memory(local(bar, 64, 16384, 0x7_e040), Mode::Exclusive).unwrap();
    let read = device.coherent("read").access(Access::Read).bytes(100).unwrap();
    let write = device.coherent("write").access(Access::Write).align(4096).bytes(100).unwrap();
    for block in [&read, &write] {
        let at = block.iova().get() - 0x7_e000;
        assert_eq!(block.cpu_address().get(), bytes.as_ptr() as u64 + at);
        assert!((64..16384).contains(&at) && at.is_multiple_of(128));
        block.write(99, 7).unwrap();
    }
    assert!(write.iova().get().is_multiple_of(4096));
    let first = read.iova().get() as usize - 0x7_e000;
    // SAFETY: it is memory for ever, which the block's owner does not use meanwhile.
    let seen = |at: usize| unsafe { bytes.add(first + at).read_volatile() };
    assert_eq!((seen(0), seen(98), seen(99), seen(100)), (0, 0, 7, 0xee), "zeroed, and no further");
    device.set_limits(Limits::NONE.coherent_mask_bits(16));
    assert_eq!(device.coherent("below").bytes(64).err(), Some(Error::OutOfMemory));
    drop((read, write));
    assert!(device.release_declared_memory().unwrap().into_buffer().is_none());
}

#[test]
fn blocks_outlive_the_device_and_so_does_its_memory() {
    let machine = Machine::vtd();
    let (device, _) = declared(&machine, 4096, Mode::First);
    let block = device.coherent("left").bytes(64).unwrap();
    drop(device);
    machine.device_writes(block.iova(), &[3; 64]).unwrap();
    assert_eq!(block.read(63), Ok(3));
    drop(block);
    assert_eq!(machine.usage().live_runs, 0);
    machine.check();
}

#[test]
fn what_is_too_little_to_be_given_out_can_be_occupied() {
    const BYTES: usize = (32 << 20) - 64;
    let machine = Machine::vtd();
    let device = machine.open();
    let memory = Vec::leak(vec![0_u64; BYTES / 8 + 4096 / 8]);
    let start = NonNull::from(memory).cast::<u8>();
    let start = start.map_addr(|at| at.checked_add(at.get().wrapping_neg() % 4096 + 64).unwrap());
    // SAFETY: the range lies in memory that lives for ever and that nothing else uses.
    let own = unsafe { DeviceMemory::local(start, BYTES - 4096, Iova::new((64 << 20) + 64)) };
    device.declare_memory(own, Mode::Exclusive).unwrap();
    // It is given out in units of 128 bytes, of which the first line is half a one.
    assert_eq!(device.mark_declared_occupied(0, 64), Ok(()));
    assert_eq!(device.mark_declared_occupied(100, 0), Ok(()));
    assert_eq!(device.declared_usage().unwrap().occupied, 0);
    assert_eq!(device.mark_declared_occupied(0, 128), Ok(()));
    assert_eq!(device.declared_usage().unwrap().occupied, 128);
    assert_eq!(device.mark_declared_occupied(64, 64), Err(DeclareError::Occupied));
}
