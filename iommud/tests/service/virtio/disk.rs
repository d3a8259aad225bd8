//! `virtio-drivers`' block driver, and a disk that reaches memory through the simulated IOMMU.

use libdma::virtio::{Error, Translated};
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};

use super::OurHal;
use super::model::{ACCESS_PLATFORM, Disk, INDIRECT, VERSION_1};
use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    sectors_go_through_translation_and_back,
    r6_all_that_the_disk_does_is_allowed_to_it_and_nothing_else_is_mapped,
    r1_a_disk_that_would_go_past_the_iommu_is_refused,
    a_disk_that_does_not_end_its_reset_is_refused,
}

/// The block driver, as its crate has it.
type Driver = VirtIOBlk<OurHal, Translated<Disk>>;

fn start(rig: &Rig, disk: Disk) -> Driver {
    OurHal::bind(&rig.open()).unwrap();
    Driver::new(OurHal::translate(disk).unwrap()).unwrap()
}

/// Bytes of which no two sectors have the same.
fn content(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR_SIZE).map(|index| (index * 7 + index / SECTOR_SIZE) as u8).collect()
}

fn sectors_go_through_translation_and_back(vendor: Vendor) {
    for feature in [0, INDIRECT] {
        let rig = Rig::new(vendor);
        let mut disk = Disk::new(rig.service.clone(), 40);
        disk.offered |= feature;
        let seen = disk.seen.clone();
        let mut driver = start(&rig, disk);
        assert_eq!(driver.capacity(), 40);
        assert_eq!(seen.lock().unwrap().accepted & ACCESS_PLATFORM, ACCESS_PLATFORM);
        let written = content(20);
        driver.write_blocks(10, &written).unwrap();
        let there = seen.lock().unwrap().sectors.clone();
        assert_eq!(&there[10 * SECTOR_SIZE..30 * SECTOR_SIZE], written);
        // More than there are descriptors, so that each is used again.
        for sector in 0..20 {
            let mut read = [0; SECTOR_SIZE];
            driver.read_blocks(10 + sector, &mut read).unwrap();
            assert_eq!(read[..], written[sector * SECTOR_SIZE..][..SECTOR_SIZE]);
        }
        driver.read_blocks(40, &mut [0; SECTOR_SIZE]).unwrap_err();
        drop(driver);
        assert_eq!(seen.lock().unwrap().blocked, []);
        assert_eq!(rig.json("faults"), serde_json::json!([]));
        OurHal::unbind().unwrap();
        rig.check();
    }
}

fn r6_all_that_the_disk_does_is_allowed_to_it_and_nothing_else_is_mapped(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let disk = Disk::new(rig.service.clone(), 8);
    let seen = disk.seen.clone();
    let mut driver = start(&rig, disk);
    driver.write_blocks(0, &content(8)).unwrap();
    driver.read_blocks(0, &mut vec![0; 8 * SECTOR_SIZE]).unwrap();
    let data = seen.lock().unwrap().data.clone();
    let [written, read] = data[..] else { panic!("{data:x?}") };
    // What the disk was to read it cannot write, and the other way round.
    rig.device_writes(written, &[1]).unwrap_err();
    rig.device_reads(read, 1).unwrap_err();
    // Where the driver's buffers are it reaches nothing.
    let own = content(1);
    rig.device_reads(own.as_ptr().addr() as u64, 1).unwrap_err();
    drop(driver);
    OurHal::unbind().unwrap();
    // Session, windows and queue have ended.
    rig.device_reads(written, 1).unwrap_err();
    rig.device_writes(read, &[1]).unwrap_err();
    rig.check();
}

fn r1_a_disk_that_would_go_past_the_iommu_is_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let disk = || {
        let mut disk = Disk::new(rig.service.clone(), 8);
        disk.offered = VERSION_1;
        disk
    };
    assert_eq!(OurHal::translate(disk()).err(), Some(Error::NotBound));
    OurHal::bind(&rig.open()).unwrap();
    let refused = disk();
    let seen = refused.seen.clone();
    assert_eq!(OurHal::translate(refused).err(), Some(Error::NotTranslated));
    let seen = seen.lock().unwrap();
    assert_eq!((seen.resets, seen.accepted), (1, 0));
}

fn a_disk_that_does_not_end_its_reset_is_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    OurHal::bind(&rig.open()).unwrap();
    let mut disk = Disk::new(rig.service.clone(), 8);
    disk.is_stuck = true;
    assert_eq!(OurHal::translate(disk).err(), Some(Error::NoReset));
}

/// Without an IOMMU a disk that takes physical addresses is given physical ones.
#[test]
fn without_an_iommu_every_disk_works() {
    for offered in [VERSION_1, VERSION_1 | ACCESS_PLATFORM] {
        let rig = crate::without_iommu::rig();
        let mut disk = Disk::new(rig.service.clone(), 8);
        disk.offered = offered;
        let seen = disk.seen.clone();
        let mut driver = start(&rig, disk);
        let written = content(3);
        driver.write_blocks(2, &written).unwrap();
        let mut read = vec![0; written.len()];
        driver.read_blocks(2, &mut read).unwrap();
        assert_eq!(read, written);
        assert_eq!(seen.lock().unwrap().accepted & !1, offered & !1);
        drop(driver);
        OurHal::unbind().unwrap();
        rig.check();
    }
}
