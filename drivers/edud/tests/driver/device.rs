//! The device alone.

use edud::{Bar, Direction, Edu, Error};
use libdma::{Access, Iova};

use crate::stand_in::{self, Guard, Iommu};

/// Registers that answer the same to everything.
struct Constant(u64);

impl Bar for Constant {
    fn read32(&self, _: usize) -> u32 {
        self.0 as u32
    }
    fn write32(&self, _: usize, _: u32) {}
    fn read64(&self, _: usize) -> u64 {
        self.0
    }
    fn write64(&self, _: usize, _: u64) {}
}

#[test]
fn r5_what_is_no_edu_or_is_dead_is_refused() {
    let refusal = |bar| Edu::new(Constant(bar)).err();
    assert_eq!(refusal(u64::MAX), Some(Error::Gone));
    assert_eq!(refusal(0x0100_00ee), Some(Error::NotEdu(0x0100_00ee)));
    let dead = Error::NotAlive { written: 0x600d_cafe, found: 0x0100_00ed };
    assert_eq!(refusal(0x0100_00ed), Some(dead));
}

#[test]
fn a_transfer_moves_the_bytes_it_names_and_no_others() {
    let iommu = Iommu::new(Guard::Firm);
    let buffer = iommu.allocate(4096);
    let iova = iommu.map(buffer, 0, 4096, Access::ReadWrite);
    for at in 0..16 {
        iommu.device_writes(iova + at, 0x10 + at as u8);
    }
    let mut edu = Edu::new(stand_in::Edu::new(iommu.clone())).unwrap();
    edu.transfer(Direction::ToDevice, Iova::new(iova + 4), 100, 8, || false).unwrap();
    edu.transfer(Direction::FromDevice, Iova::new(iova + 0x100), 102, 4, || false).unwrap();
    let got: Vec<u8> = (0xff..0x105).map(|at| iommu.device_reads(iova + at)).collect();
    assert_eq!(got, [0, 0x16, 0x17, 0x18, 0x19, 0]);
}

#[test]
fn r5_a_transfer_that_would_leave_the_devices_buffer_is_refused() {
    let mut edu = Edu::new(stand_in::Edu::new(Iommu::new(Guard::Firm))).unwrap();
    for (offset, bytes) in [(0, 0), (0, 4096), (4095, 1), (4096, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let refused = edu.start_transfer(Direction::ToDevice, Iova::new(0), offset, bytes);
        assert_eq!(refused, Err(Error::OutOfDevice { offset, bytes }));
        assert_eq!(edu.is_busy(), Ok(false));
    }
    assert_eq!(edu.start_transfer(Direction::ToDevice, Iova::new(0), 0, 4095), Ok(()));
}

#[test]
fn r5_a_busy_device_is_waited_for_until_the_deadline_and_not_disturbed() {
    let mut edu = Edu::new(stand_in::Edu::stuck(Iommu::new(Guard::Firm))).unwrap();
    let mut looks = 0;
    let expired = || {
        looks += 1;
        looks == 3
    };
    assert_eq!(edu.wait(expired), Err(Error::TimedOut));
    assert_eq!(looks, 3);
    assert_eq!(edu.start_transfer(Direction::ToDevice, Iova::new(0), 0, 1), Err(Error::Busy));
}
