//! Memory of each shape: what the device is given, what it sees, and when that ends.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::sync::{Barrier, Mutex};
use std::thread;

use libdma::check::{self, Place};
use libdma::{Dma, Iova};

use crate::driver::{as_driver, as_driver_without_iommu, connect, report};
use crate::edu::Edu;
use crate::rig::eventually;
use crate::vendor::Vendor;

both! {
    a_value_is_there_and_its_address_is_the_devices,
    r8_memory_starts_as_zeroes_one_value_or_many,
    addresses_are_as_far_aligned_as_the_kernels_memory_and_below_4_gib,
    data_moves_through_the_device,
    memory_keeps_its_place_through_every_cast,
    threads_that_ask_first_at_once_share_the_one_device,
    a_value_is_dropped_once_and_an_uninitialized_one_never,
    r4_what_is_dropped_the_device_reaches_no_more,
    what_cannot_be_had_is_an_errno,
    what_is_forgotten_is_told_as_from_where_it_was_asked_for,
}

/// The device sees `bytes` at its address, and nothing of them is at the same physical address.
fn is_mapped(address: usize, bytes: usize) -> bool {
    let iova = format!("{:#x}", address);
    report("mappings").iter().any(|row| {
        assert_ne!(row["iova"], row["physical"]);
        let same = row["iova"].as_str().map(parse) == Some(parse(&iova));
        same && row["bytes"].as_u64() == Some(bytes as u64)
    })
}

fn parse(address: &str) -> u64 {
    u64::from_str_radix(&address.trim_start_matches("0x").replace('_', ""), 16).unwrap()
}

fn a_value_is_there_and_its_address_is_the_devices(vendor: Vendor) {
    as_driver(vendor, || {
        let mut value = Dma::new([7u32; 3]).unwrap();
        assert_eq!(*value, [7, 7, 7]);
        value[1] = 8;
        assert_eq!(*value, [7, 8, 7]);
        assert_ne!(value.physical(), value.as_ptr().addr());
        assert!(is_mapped(value.physical(), 4096), "{:?}", report("mappings"));
    });
}

fn r8_memory_starts_as_zeroes_one_value_or_many(vendor: Vendor) {
    as_driver(vendor, || {
        let one = Dma::<[u64; 700]>::zeroed().unwrap();
        // SAFETY: zeroes are numbers.
        let one: Dma<[u64; 700]> = unsafe { one.assume_init() };
        assert!(one.iter().all(|word| *word == 0));
        let many = Dma::<[u16]>::zeroed_slice(5000).unwrap();
        // SAFETY: zeroes are numbers.
        let many: Dma<[u16]> = unsafe { many.assume_init() };
        assert_eq!((many.len(), many.iter().any(|word| *word != 0)), (5000, false));
    });
}

fn addresses_are_as_far_aligned_as_the_kernels_memory_and_below_4_gib(vendor: Vendor) {
    as_driver(vendor, || {
        // Something in between, so that what comes next is not aligned by chance.
        let mut held = Vec::new();
        for pages in [1, 2, 3, 5, 16, 17, 1024, 1025] {
            let memory = Dma::<[u8]>::zeroed_slice(pages * 4096).unwrap();
            let natural = (pages * 4096).next_power_of_two().min(4 << 20);
            assert_eq!(memory.physical() % natural, 0, "{pages} at {:#x}", memory.physical());
            assert!(memory.physical() + pages * 4096 <= 1 << 32);
            held.push(memory);
            held.push(Dma::<[u8]>::zeroed_slice(1).unwrap());
        }
    });
}

fn data_moves_through_the_device(vendor: Vendor) {
    as_driver(vendor, || {
        let edu = Edu::open(connect()).unwrap();
        let out = Dma::new([0x0123_4567_89ab_cdefu64; 64]).unwrap();
        let back = Dma::new([0u64; 64]).unwrap();
        edu.read(Iova::new(out.physical() as u64), 512);
        edu.write(Iova::new(back.physical() as u64), 512);
        // SAFETY: the memory is there. The device has written it, which the compiler does not know.
        assert_eq!(unsafe { (&raw const *back).read_volatile() }, *out);
        assert!(report("faults").is_empty());
    });
}

fn memory_keeps_its_place_through_every_cast(vendor: Vendor) {
    as_driver(vendor, || {
        let memory: Dma<[MaybeUninit<u32>]> = Dma::zeroed_slice(10).unwrap();
        let place = (memory.physical(), memory.as_ptr().addr());
        // SAFETY: zeroes are numbers.
        let mut memory = unsafe { memory.assume_init() };
        memory[9] = 0x8081_8283;
        // SAFETY: all bytes are bytes.
        let bytes = unsafe { memory.cast_slice::<u8>() };
        assert_eq!((bytes.physical(), bytes.as_ptr().addr()), place);
        // As base's: as many as there were, whatever their size.
        assert_eq!(bytes.len(), 10);
        // SAFETY: ten numbers are there, as before.
        let again = unsafe { bytes.cast_slice::<u32>() };
        assert_eq!(again[9], 0x8081_8283);
        assert_eq!(report("mappings").len(), 1);
    });
}

fn threads_that_ask_first_at_once_share_the_one_device(vendor: Vendor) {
    as_driver(vendor, || {
        let start = Barrier::new(8);
        let addresses: BTreeSet<usize> = thread::scope(|scope| {
            let ask = || {
                start.wait();
                let memory = Dma::new(5u64).unwrap();
                let address = memory.physical();
                // It is not sent to another thread, and is to be there until all have theirs.
                start.wait();
                address
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(addresses.len(), 8);
        eventually(|| report("mappings").is_empty().then_some(()));
    });
}

thread_local!(static DROPPED: Cell<u32> = const { Cell::new(0) });

/// Counts how often it is dropped, if it is a value at all.
struct Counted(u32);

impl Drop for Counted {
    fn drop(&mut self) {
        // The memory is there still.
        DROPPED.set(DROPPED.get() + self.0);
    }
}

fn a_value_is_dropped_once_and_an_uninitialized_one_never(vendor: Vendor) {
    as_driver(vendor, || {
        drop(Dma::new(Counted(1)).unwrap());
        assert_eq!(DROPPED.get(), 1);
        let mut memory = Dma::<Counted>::zeroed().unwrap();
        memory.write(Counted(10));
        drop(memory);
        assert_eq!(DROPPED.get(), 1);
        let mut slice = Dma::<[Counted]>::zeroed_slice(3).unwrap();
        for place in slice.iter_mut() {
            place.write(Counted(100));
        }
        // SAFETY: each was written.
        drop(unsafe { slice.assume_init() });
        assert_eq!(DROPPED.get(), 301);
        eventually(|| report("mappings").is_empty().then_some(()));
    });
}

fn r4_what_is_dropped_the_device_reaches_no_more(vendor: Vendor) {
    as_driver(vendor, || {
        let edu = Edu::open(connect()).unwrap();
        let kept = Dma::new([1u8; 4096]).unwrap();
        let gone = Dma::new([2u8; 4096]).unwrap();
        let address = gone.physical();
        edu.read(Iova::new(address as u64), 64);
        assert!(report("faults").is_empty());
        drop(gone);
        eventually(|| (!is_mapped(address, 4096)).then_some(()));
        edu.read(Iova::new(address as u64), 64);
        assert_eq!(report("faults").len(), 1);
        assert!(is_mapped(kept.physical(), 4096));
    });
}

fn what_cannot_be_had_is_an_errno(vendor: Vendor) {
    #[repr(align(8192))]
    struct Wide(#[allow(dead_code, reason = "only its alignment matters")] u8);

    as_driver(vendor, || {
        const EINVAL: i32 = 22;
        const ENOMEM: i32 = 12;
        assert_eq!(Dma::<()>::zeroed().map(drop).unwrap_err().errno(), EINVAL);
        assert_eq!(Dma::<[u8]>::zeroed_slice(0).map(drop).unwrap_err().errno(), EINVAL);
        let too_large = [usize::MAX, usize::MAX / 2, (1 << 30) + 1];
        for count in too_large {
            let refused = Dma::<[u64]>::zeroed_slice(count).map(drop).unwrap_err();
            assert_eq!(refused.errno(), ENOMEM, "{count}");
        }
        // Memory is aligned to its pages, for the process; a type may want more and must not get less.
        for _ in 0..4 {
            match Dma::<Wide>::zeroed() {
                Ok(memory) => assert!(memory.as_ptr().is_aligned()),
                Err(error) => assert_eq!(error.errno(), EINVAL),
            }
        }
        eventually(|| report("mappings").is_empty().then_some(()));
    });
}

#[test]
fn without_an_iommu_addresses_are_physical_and_the_device_is_served_all_the_same() {
    as_driver_without_iommu(|| {
        let edu = Edu::open(connect()).unwrap();
        let mut held = Vec::new();
        for pages in [1, 3, 16, 1024] {
            let memory = Dma::<[u8]>::zeroed_slice(pages * 4096).unwrap();
            assert_eq!(memory.physical() % (pages * 4096).next_power_of_two(), 0);
            held.push(memory);
        }
        for row in report("mappings") {
            assert_eq!(row["iova"], row["physical"]);
        }
        let out = Dma::new([0x5au8; 64]).unwrap();
        let back = Dma::new([0u8; 64]).unwrap();
        edu.read(Iova::new(out.physical() as u64), 64);
        edu.write(Iova::new(back.physical() as u64), 64);
        // SAFETY: the memory is there. The device has written it, which the compiler does not know.
        assert_eq!(unsafe { (&raw const *back).read_volatile() }, *out);
        // More than the kernel ever has in one piece.
        assert!(Dma::<[u8]>::zeroed_slice(1025 * 4096).is_err());
    });
}

fn what_is_forgotten_is_told_as_from_where_it_was_asked_for(vendor: Vendor) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    as_driver(vendor, || {
        check::turn_on();
        check::on_report(|report| SAID.lock().unwrap().push(report.to_string()));
        let (value, first) = (Dma::new(7u32).unwrap(), Place::here());
        let (zeroes, second) = (Dma::<u32>::zeroed().unwrap(), Place::here());
        let (many, third) = (Dma::<[u32]>::zeroed_slice(9).unwrap(), Place::here());
        assert_eq!(check::leaks(), 3);
        let said = SAID.lock().unwrap().clone();
        for (sentence, place) in said.iter().zip([first, second, third]) {
            assert!(sentence.contains(&format!("allocated at {place})")), "{sentence}");
            assert!(sentence.contains("the buffer \"Dma\""), "{sentence}");
        }
        drop((value, zeroes, many));
        assert_eq!(check::leaks(), 0);
    });
}
