//! The `edu` device behind the unit, and its interrupts.

use crate::rig::*;
use iommu_sim::Blocked;
use iommu_sim::amdvi::{AmdviConfig, EventCode};

/// Starts a transfer.
fn start(rig: &mut Rig, source: u64, destination: u64, count: u64, command: u64) {
    for (at, value) in [(0x80, source), (0x88, destination), (0x90, count), (0x98, command)] {
        rig.machine.mmio_write(EDU_BAR + at, 8, value);
    }
}

#[test]
fn it_moves_data_both_ways_through_the_unit() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(PAGE, 0x1122_3344_5566_7788);
    start(&mut rig, 0x5000, 0x40000, 8, 1);
    rig.machine.advance(1);
    start(&mut rig, 0x40000, 0x5100, 8, 3);
    rig.machine.advance(2);
    assert_eq!(rig.get(PAGE + 0x100), 0x1122_3344_5566_7788);
}

#[test]
fn a_blocked_write_changes_nothing_and_is_logged() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(PAGE, u64::MAX);
    start(&mut rig, 0x40000, PAGE, 8, 3);
    rig.machine.advance(1);
    assert_eq!(rig.get(PAGE), u64::MAX);
    assert_eq!(rig.take_event(), Some((0x2020_0007 << 32 | 0x10, PAGE)));
}

fn msi(rig: &mut Rig, data: u32) -> Result<(), Blocked> {
    let edu = rig.edu;
    rig.machine.dma_write(edu, 0xfee0_0000, &data.to_le_bytes())
}

#[test]
fn interrupts_pass_where_the_entry_lets_them() {
    let aborted = Err(Blocked::Event(EventCode::InvalidRequest));
    for (interrupts, fixed, nmi) in [
        // IV = 0.
        (0, Ok(()), Ok(())),
        // IV with IntCtl 00b, 01b, and 00b with NMIPass.
        (1, aborted, aborted),
        (1 | 1 << 60, Ok(()), aborted),
        (1 | 1 << 58, aborted, Ok(())),
    ] {
        let mut rig = Rig::new(AmdviConfig::default());
        rig.build();
        rig.put(EDU_ENTRY + 16, interrupts);
        rig.turn_on();
        assert_eq!(msi(&mut rig, 0x41), fixed, "{interrupts:#x}");
        if fixed.is_err() {
            // Code 8, Type 101b.
            assert_eq!(rig.take_event(), Some((0x8a00_0000 << 32 | 0x10, 0xfee0_0000)));
        }
        assert_eq!(msi(&mut rig, 0x400), nmi);
        let sent = [fixed, nmi].iter().filter(|sent| sent.is_ok()).count();
        assert_eq!(rig.machine.take_interrupts().len(), sent);
    }
}

#[test]
fn remapping_is_asked_for_in_vain() {
    let mut rig = Rig::new(AmdviConfig::default());
    rig.build();
    rig.put(EDU_ENTRY + 16, 1 | 2 << 60);
    rig.turn_on();
    assert_eq!(msi(&mut rig, 0x41), Err(FAULT));
    assert_eq!(rig.take_event(), Some((0x2028_0000 << 32 | 0x10, 0xfee0_0000)));
}

#[test]
fn an_illegal_entry_lets_no_interrupt_pass_and_default_deny_does() {
    let mut rig = Rig::new(AmdviConfig::default());
    rig.put(EDU_ENTRY, 3);
    rig.turn_on();
    assert_eq!(msi(&mut rig, 0x41), Ok(()));
    rig.put(EDU_ENTRY, 7);
    rig.submit(&[EDU]);
    assert_eq!(msi(&mut rig, 0x41), Err(Blocked::Event(EventCode::IllegalDeviceEntry)));
    // Code 1, RZ, RW, I.
    assert_eq!(rig.take_event(), Some((0x10a8_0000 << 32 | 0x10, 0xfee0_0000)));
}

#[test]
fn the_interrupt_range_is_only_for_writes_of_a_dword() {
    let mut rig = Rig::translating(AmdviConfig::default());
    assert_eq!(rig.dma_read(0xfee0_0000), Err(Blocked::Event(EventCode::InvalidRequest)));
    assert_eq!(rig.take_event(), Some((0x8000_0000 << 32 | 0x10, 0xfee0_0000)));
    rig.write64(0x18, 0);
    assert_eq!(rig.dma_read(0xfee0_0000), Err(Blocked::InterruptRange));
    assert_eq!(msi(&mut rig, 0x41), Ok(()));
}
