//! Coherent memory.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use libdma::{Access, Attributes, Coherent, Error, Limits};
use simulated::Machine;
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    owner: u32,
}

const fn is_send<T: Send>() {}
const _: () = is_send::<Coherent<Descriptor>>();
const _: () = is_send::<Coherent<[u8]>>();
const _: () = is_send::<libdma::Device>();
const fn is_sync<T: Sync>() {}
const _: () = is_sync::<libdma::Device>();

#[test]
fn it_is_zeroes_also_where_something_was_before() {
    for machine in Machine::each() {
        let device = machine.open();
        for attributes in [Attributes::empty(), Attributes::WRITE_COMBINE] {
            let dirty = device.coherent("dirty").attributes(attributes).bytes(4096).unwrap();
            dirty.copy_from(0, &[0xee; 4096]).unwrap();
            let iova = dirty.iova();
            drop(dirty);
            for (len, at) in [(1, 0), (100, 64), (1000, 1024)] {
                let clean = device.coherent("clean").attributes(attributes).bytes(len).unwrap();
                let mut out = vec![1; len];
                clean.copy_to(0, &mut out).unwrap();
                assert_eq!(out, vec![0; len], "{at}");
                std::mem::forget(clean);
            }
            let seen = machine.device_reads(iova, 1).unwrap();
            assert_eq!(seen, [0], "the first of them is where that was");
        }
        machine.check();
    }
}

#[test]
fn a_slice_is_read_and_written_by_value_by_range_and_by_word() {
    for machine in Machine::each() {
        let device = machine.open();
        let ring = device.coherent("ring").slice::<Descriptor>(16).unwrap();
        assert_eq!((ring.len(), ring.byte_len(), ring.is_empty()), (16, 256, false));
        let one = |number| Descriptor { address: number, length: 2, owner: 3 };
        let some: Vec<_> = (1..=5).map(one).collect();
        ring.copy_from(11, &some).unwrap();
        assert_eq!(ring.read(15), Ok(one(5)));
        ring.write(0, one(9)).unwrap();
        let mut out = [one(0); 5];
        ring.copy_to(11, &mut out).unwrap();
        assert_eq!(out[..], some);
        let owner = offset_of!(Descriptor, owner);
        ring.store(15, owner, 0x0a0b_0c0d_u32, Ordering::Release).unwrap();
        let at = ring.iova_of(15).unwrap();
        let seen = machine.device_reads(at, 16).unwrap();
        assert_eq!(seen, [5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a]);
        machine.device_writes(at, &[0x11; 16]).unwrap();
        assert_eq!(ring.load(15, owner, Ordering::Acquire), Ok(0x1111_1111_u32));
        assert_eq!(ring.load(15, owner + 2, Ordering::Acquire), Ok(0x1111_u16));
        assert_eq!(ring.load(15, owner + 3, Ordering::Acquire), Ok(0x11_u8));
        assert_eq!(ring.load(15, 0, Ordering::Relaxed), Ok(0x1111_1111_1111_1111_u64));
        machine.check();
    }
}

#[test]
fn what_does_not_lie_in_it_is_refused_and_nothing_copied() {
    let machine = Machine::vtd();
    let device = machine.open();
    let ring = device.coherent("ring").slice::<u32>(8).unwrap();
    let beyond = Err(Error::OutOfBuffer);
    assert_eq!((ring.read(8), ring.write(8, 1)), (Err(Error::OutOfBuffer), beyond));
    assert_eq!((ring.copy_from(7, &[1, 2]), ring.copy_from(usize::MAX, &[1])), (beyond, beyond));
    let mut out = [7; 2];
    assert_eq!((ring.copy_to(7, &mut out), out), (beyond, [7; 2]));
    assert_eq!((ring.read(7), ring.iova_of(8)), (Ok(0), None));
    assert_eq!((ring.copy_from(8, &[]), ring.copy_to(8, &mut [])), (Ok(()), Ok(())));
    let order = Ordering::Relaxed;
    assert_eq!(ring.load::<u32>(8, 0, order), Err(Error::OutOfBuffer));
    assert_eq!(ring.load::<u64>(0, 0, order), Err(Error::OutOfBuffer), "it is longer than a value");
    assert_eq!(ring.load::<u16>(0, 3, order), Err(Error::OutOfBuffer));
    assert_eq!(ring.load::<u16>(0, 1, order), Err(Error::BadAlignment));
    assert_eq!(ring.store(0, usize::MAX, 1_u16, order), beyond);
    assert_eq!(ring.store(usize::MAX, 0, 1_u16, order), beyond);
    let value = device.coherent("value").value::<u32>().unwrap();
    assert_eq!(value.store(2, 7_u16, order), Ok(()));
    assert_eq!((value.get(), value.load(2, order)), (7 << 16, Ok(7_u16)));
    assert_eq!(value.load::<u32>(1, order), Err(Error::OutOfBuffer));
}

#[test]
fn what_cannot_be_is_a_typed_error_and_leaves_nothing() {
    for machine in Machine::each() {
        let device = machine.open();
        let begin = || device.coherent("refused");
        assert_eq!(begin().bytes(0).err(), Some(Error::ZeroSize));
        assert_eq!(begin().slice::<u64>(usize::MAX).err(), Some(Error::TooLarge));
        assert_eq!(begin().bytes(usize::MAX).err(), Some(Error::TooLarge));
        assert_eq!(begin().bytes(2 << 30).err(), Some(Error::TooLarge));
        for align in [0, 3, 96] {
            assert_eq!(begin().align(align).bytes(64).err(), Some(Error::BadAlignment), "{align}");
        }
        let unmapped = begin().attributes(Attributes::NO_CPU_MAPPING).bytes(64);
        assert_eq!(unmapped.err(), Some(Error::NoCpuMapping));
        let whole = begin().attributes(Attributes::FORCE_CONTIGUOUS).bytes((4 << 20) + 1);
        assert_eq!(whole.err(), Some(Error::NotContiguous));
        #[derive(FromBytes, IntoBytes, Immutable)]
        #[repr(C, align(8192))]
        struct Huge([u8; 8192]);
        assert_eq!(begin().value::<Huge>().err(), Some(Error::BadAlignment));
        assert_eq!((device.window_usage(), machine.usage().live_runs), (Vec::new(), 0));
        machine.check();
    }
}

#[test]
fn one_that_is_alone_is_a_buffer_that_ends_with_it() {
    for machine in Machine::each() {
        let device = machine.open();
        let alone = device.coherent("alone").access(Access::Write).alone().bytes(64).unwrap();
        assert_eq!(alone.buffer().map(|buffer| buffer.len()), Some(4096));
        assert!(machine.text("mappings").contains("alone"));
        let iova = alone.iova();
        machine.device_writes(iova, &[1; 64]).unwrap();
        drop(alone);
        assert_eq!(machine.device_writes(iova, &[1; 64]).is_err(), device.is_confined());
        let shares = device.coherent("shares").bytes(64).unwrap();
        assert!(shares.buffer().is_none());
        let long = device.coherent("long").bytes((1 << 20) + 1).unwrap();
        assert!(long.buffer().is_some());
        let whole = device.coherent("whole").attributes(Attributes::FORCE_CONTIGUOUS);
        let whole = whole.bytes(3 * 4096).unwrap();
        assert!(whole.buffer().is_some());
        let pieces: serde_json::Value =
            serde_json::from_str(&machine.text("mappings.json")).unwrap();
        let row = pieces.as_array().unwrap().iter().find(|row| row["label"] == "whole").unwrap();
        assert_eq!(row["pieces"], 1);
    }
}

#[test]
fn it_keeps_to_the_coherent_mask() {
    let machine = Machine::amdvi();
    let mut device = machine.open();
    device.set_limits(Limits::NONE.coherent_mask_bits(20));
    for len in [64, 4096, 300 << 10] {
        let block = device.coherent("low").bytes(len).unwrap();
        assert!(block.iova().get() + len as u64 <= 1 << 20);
    }
    let beyond = device.coherent("longer than what is below").bytes(1 << 20);
    assert_eq!(beyond.err(), Some(Error::NoAddressSpace));
    machine.check();
}
