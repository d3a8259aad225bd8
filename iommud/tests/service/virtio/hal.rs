//! The `Hal` by itself: what it gives, and what driver and device see of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use iommu_engine::policy::{Policy, Quotas};
use libdma::Error as Refused;
use libdma::virtio::{DeviceHal, Error};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE};

use super::{Other, OurHal};
use crate::rig::Rig;
use crate::vendor::Vendor;

use BufferDirection::{Both, DeviceToDriver, DriverToDevice};

both! {
    r8_pages_are_zeroed_aligned_and_mapped_as_the_direction_says,
    r2_pages_given_back_are_out_of_reach_and_only_once_given_back,
    r6_a_shared_buffer_is_copied_as_the_direction_says,
    what_the_device_does_not_write_reads_as_zeroes,
    a_wrong_unshare_ends_the_driver_and_changes_nothing,
    r7_where_there_is_no_memory_pages_are_an_error_with_a_cause,
    a_tag_has_one_device_and_two_tags_have_two,
    r3_a_number_of_one_device_is_not_taken_for_the_others,
}

/// A rig whose edu is bound to the tag of this test.
fn bound(vendor: Vendor) -> Rig {
    let rig = Rig::new(vendor);
    OurHal::bind(&rig.open()).unwrap();
    rig
}

fn share(buffer: &mut [u8], direction: BufferDirection) -> u64 {
    // SAFETY: the buffer is borrowed, and so nobody else's.
    unsafe { OurHal::share(NonNull::from(buffer), direction) }
}

fn unshare(address: u64, buffer: &mut [u8], direction: BufferDirection) {
    // SAFETY: the buffer is borrowed, and so nobody else's. That the rest fits is what is tested.
    unsafe { OurHal::unshare(address, NonNull::from(buffer), direction) };
}

/// Whether unsharing so panics.
fn ends(address: u64, buffer: &mut [u8], direction: BufferDirection) -> bool {
    catch_unwind(AssertUnwindSafe(|| unshare(address, buffer, direction))).is_err()
}

fn r8_pages_are_zeroed_aligned_and_mapped_as_the_direction_says(vendor: Vendor) {
    let rig = bound(vendor);
    for (direction, may_write) in [(DriverToDevice, false), (DeviceToDriver, true), (Both, true)] {
        let (address, memory) = OurHal::dma_alloc(3, direction);
        assert!(address != 0 && address % PAGE_SIZE as u64 == 0, "{address:#x}");
        assert_eq!(memory.addr().get() % PAGE_SIZE, 0);
        assert_eq!(rig.device_reads(address, 3 * PAGE_SIZE).unwrap(), vec![0; 3 * PAGE_SIZE]);
        let last = 3 * PAGE_SIZE - 1;
        // SAFETY: it is the last byte of the pages.
        unsafe { memory.add(last).write_volatile(7) };
        assert_eq!(rig.device_reads(address + last as u64, 1).unwrap(), [7]);
        assert_eq!(rig.device_writes(address + last as u64, &[8]).is_ok(), may_write);
        // SAFETY: as above.
        assert_eq!(unsafe { memory.add(last).read_volatile() }, if may_write { 8 } else { 7 });
        // SAFETY: they are not used any more.
        assert_eq!(unsafe { OurHal::dma_dealloc(address, memory, 3) }, 0);
    }
    OurHal::unbind().unwrap();
    rig.check();
}

fn r2_pages_given_back_are_out_of_reach_and_only_once_given_back(vendor: Vendor) {
    let rig = bound(vendor);
    let (address, memory) = OurHal::dma_alloc(2, Both);
    // SAFETY: they are not used any more.
    assert_eq!(unsafe { OurHal::dma_dealloc(address, memory, 2) }, 0);
    // With the table that the domain keeps from then on.
    let before = rig.usage();
    let (address, memory) = OurHal::dma_alloc(2, Both);
    // SAFETY: the page behind the first is one of the pages.
    let second = unsafe { memory.add(PAGE_SIZE) };
    let wrong = [(address, memory, 1), (address, second, 2), (address + 4096, memory, 2)];
    for (address, memory, pages) in wrong {
        // SAFETY: that it is none of what was given is what is tested.
        assert_eq!(unsafe { OurHal::dma_dealloc(address, memory, pages) }, -1);
    }
    assert_eq!(OurHal::unbind(), Err(Error::InUse));
    rig.device_writes(address + 4096, b"still there").unwrap();
    // SAFETY: they are not used any more, and the second time there are none such.
    unsafe {
        assert_eq!(OurHal::dma_dealloc(address, memory, 2), 0);
        assert_eq!(OurHal::dma_dealloc(address, memory, 2), -1);
    }
    rig.device_reads(address, 1).unwrap_err();
    assert_eq!(rig.usage(), before);
    rig.check();
}

fn r6_a_shared_buffer_is_copied_as_the_direction_says(vendor: Vendor) {
    let rig = bound(vendor);
    // Of an odd length and at an odd place, so that what is copied are no whole words.
    for (direction, is_seen, comes_back) in
        [(DriverToDevice, true, false), (DeviceToDriver, false, true), (Both, true, true)]
    {
        let mut memory = *b".from the driver's own memory.";
        let buffer = &mut memory[1..28];
        let length = buffer.len();
        let address = share(buffer, direction);
        let seen = rig.device_reads(address, length).unwrap_or_default();
        assert_eq!(seen == buffer[..], is_seen, "{direction:?}: {seen:?}");
        let wrote = rig.device_writes(address, &vec![b'D'; length]).is_ok();
        assert_eq!(wrote, comes_back, "{direction:?}");
        assert_eq!(
            buffer, b"from the driver's own memor",
            "it is the driver's as long as it is shared"
        );
        unshare(address, buffer, direction);
        assert_eq!(buffer == [b'D'; 27], comes_back, "{direction:?}");
        assert_eq!((memory[0], &memory[28..]), (b'.', &b"y."[..]), "what lies beside it");
    }
    rig.check();
}

fn what_the_device_does_not_write_reads_as_zeroes(vendor: Vendor) {
    let rig = bound(vendor);
    let mut secret = [b's'; 600];
    let address = share(&mut secret, DeviceToDriver);
    rig.device_writes(address, &[b'S'; 600]).unwrap();
    unshare(address, &mut secret, DeviceToDriver);
    let mut next = [b'n'; 600];
    let address = share(&mut next, DeviceToDriver);
    rig.device_writes(address, b"short").unwrap();
    unshare(address, &mut next, DeviceToDriver);
    assert_eq!((&next[..5], &next[5..]), (&b"short"[..], &[0; 595][..]));
    rig.check();
}

fn a_wrong_unshare_ends_the_driver_and_changes_nothing(vendor: Vendor) {
    let rig = bound(vendor);
    let mut buffer = [1; 64];
    let address = share(&mut buffer, DeviceToDriver);
    rig.device_writes(address, &[2; 64]).unwrap();
    assert!(ends(address + 64, &mut buffer, DeviceToDriver), "another address");
    assert!(ends(address, &mut buffer[1..], DeviceToDriver), "another length");
    assert!(ends(address, &mut buffer, Both), "another direction");
    assert_eq!(buffer, [1; 64]);
    unshare(address, &mut buffer, DeviceToDriver);
    assert_eq!(buffer, [2; 64]);
    assert!(ends(address, &mut buffer, DeviceToDriver), "twice");
    rig.check();
}

fn r7_where_there_is_no_memory_pages_are_an_error_with_a_cause(vendor: Vendor) {
    let quotas = Quotas { buffer_bytes: 16 * 4096, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    assert_eq!(OurHal::dma_alloc(1, Both).0, 0);
    assert_eq!(OurHal::take_error(), Some(Error::NotBound));
    OurHal::bind(&rig.open()).unwrap();
    let before = rig.usage();
    for (pages, cause) in
        [(17, Refused::QuotaExceeded), (0, Refused::ZeroSize), (usize::MAX, Refused::TooLarge)]
    {
        assert_eq!(OurHal::dma_alloc(pages, Both).0, 0);
        assert_eq!(OurHal::take_error(), Some(Error::Iommud(cause)), "{pages}");
        assert_eq!(OurHal::take_error(), None);
    }
    assert_eq!(rig.usage(), before);
    let mut large = vec![0; 17 * 4096];
    assert!(catch_unwind(AssertUnwindSafe(|| share(&mut large, Both))).is_err());
    assert_eq!(rig.usage(), before);
    // The lock is free, and what there is room for is given.
    let (address, memory) = OurHal::dma_alloc(16, Both);
    assert_ne!(address, 0);
    // SAFETY: they are not used any more.
    assert_eq!(unsafe { OurHal::dma_dealloc(address, memory, 16) }, 0);
    rig.check();
}

fn a_tag_has_one_device_and_two_tags_have_two(vendor: Vendor) {
    let [first, second] = [Rig::new(vendor), Rig::new(vendor)];
    OurHal::bind(&first.open()).unwrap();
    assert_eq!(OurHal::bind(&second.open()), Err(Error::AlreadyBound));
    DeviceHal::<Other>::bind(&second.open()).unwrap();
    let mut buffer = *b"for the first";
    let address = share(&mut buffer, DriverToDevice);
    assert_eq!(first.device_reads(address, 13).unwrap(), b"for the first");
    second.device_reads(address, 13).unwrap_err();
    unshare(address, &mut buffer, DriverToDevice);
    OurHal::unbind().unwrap();
    // The session was the tag's, and has ended with it.
    first.open_again().unwrap();
    assert!(second.open_again().is_err());
}

/// Each device's numbers are the other's, too.
fn r3_a_number_of_one_device_is_not_taken_for_the_others(vendor: Vendor) {
    type OtherHal = DeviceHal<Other>;
    let [first, second] = [Rig::new(vendor), Rig::new(vendor)];
    OurHal::bind(&first.open()).unwrap();
    OtherHal::bind(&second.open()).unwrap();
    for direction in [DriverToDevice, DeviceToDriver, Both] {
        let (mut mine, mut its) = (*b"mine", *b"its.");
        let number = share(&mut mine, direction);
        // SAFETY: the buffer is nobody else's.
        assert_eq!(unsafe { OtherHal::share(NonNull::from(&mut its), direction) }, number);
        assert!(ends(number, &mut its, direction), "it is the other's");
        assert!(mine == *b"mine" && its == *b"its.");
        unshare(number, &mut mine, direction);
        // SAFETY: as above, and it was shared so.
        unsafe { OtherHal::unshare(number, NonNull::from(&mut its), direction) };
    }
    let (number, memory) = OurHal::dma_alloc(1, Both);
    let (same, its_memory) = OtherHal::dma_alloc(1, Both);
    assert_eq!(number, same);
    // SAFETY: that neither is the other's is what is tested; then they are not used any more.
    unsafe {
        assert_eq!(OtherHal::dma_dealloc(number, memory, 1), -1);
        assert_eq!(OurHal::dma_dealloc(same, its_memory, 1), -1);
        assert_eq!(OurHal::dma_dealloc(number, memory, 1), 0);
        assert_eq!(OtherHal::dma_dealloc(same, its_memory, 1), 0);
    }
    OurHal::unbind().unwrap();
    OtherHal::unbind().unwrap();
    first.check();
    second.check();
}

/// On a machine without an IOMMU the device is given physical addresses, and reaches the copy all the same.
#[test]
fn without_an_iommu_a_shared_buffer_is_where_the_device_sees_it() {
    let rig = crate::without_iommu::rig();
    OurHal::bind(&rig.open()).unwrap();
    let mut buffer = *b"there";
    let address = share(&mut buffer, Both);
    assert_eq!(rig.device_reads(address, 5).unwrap(), b"there");
    rig.device_writes(address, b"back!").unwrap();
    unshare(address, &mut buffer, Both);
    assert_eq!(&buffer, b"back!");
    rig.check();
}
