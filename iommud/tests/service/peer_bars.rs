//! Registers of one device that another's DMA reaches, by tickets (R2, R3, R4).

use dma_types::PciAddress;
use iommu_engine::ledger::Ledger;
use iommu_engine::platform::ConfigSpace;
use iommu_engine::policy::{Policy, Quotas, WithoutIommu};
use iommu_service::Outcome;
use iommu_service::records::PeerBarRecord;
use iommu_sim::machine::EduConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::{Blocked, MachineConfig};
use libdma::protocol::call::{BufferInfo, Opcode};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket};
use libdma::{Access, Attachment, Device, Error, Mapped};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::rig::{ROOT, Rig, edu};
use crate::tickets::open_other;
use crate::vendor::{Vendor, slow_down};

both! {
    r3_registers_that_are_offered_are_reached_and_no_others,
    r4_a_peers_bar_ends_with_either_session_and_with_its_handle,
    r3_a_ticket_of_registers_is_good_once_and_ends_with_its_session,
    r7_what_is_no_part_of_a_bar_is_refused,
    r5_registers_that_a_driver_moved_are_not_offered_nor_attached,
    r5_a_bar_that_lies_on_something_else_is_not_offered,
    r2_the_next_driver_waits_until_nothing_reaches_its_registers,
    a_peers_bar_counts_in_the_quota_of_who_attaches_it,
    r3_no_batch_names_a_peers_bar,
    reports_and_the_ledger_know_peers_bars,
}

/// Where `edu` has the I/O address that its DMA starts from.
const SOURCE: u64 = 0x80;
const PAGE: u64 = 4096;

fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn rig(vendor: Vendor) -> (Rig, Device, Device) {
    let rig = Rig::on(vendor.two_units().with_peer_routing());
    let (one, two) = (rig.open(), open_other(&rig));
    (rig, one, two)
}

fn offer(device: &Device) -> Ticket {
    device.offer_bar(0, 0, PAGE, Access::ReadWrite).unwrap()
}

fn attach(one: &Device, two: &Device, access: Access) -> Attachment {
    two.attach(&offer(one), access, "doorbell").unwrap()
}

/// What the first device's register holds.
fn source_register(rig: &Rig) -> u64 {
    let mut service = rig.service.lock();
    let bar = service.platform_mut().config_read(edu(), 0x10) & !0xf;
    service.platform().machine_mut().mmio_read(u64::from(bar) + SOURCE, 8)
}

/// Whether the second device's DMA gets through to where the register is in the peer's address space.
pub(crate) fn rings(rig: &Rig, bar: u64, value: u64) -> bool {
    let service = rig.service.lock();
    let mut machine = service.platform().machine_mut();
    match machine.dma_write(other(), bar + SOURCE, &value.to_le_bytes()) {
        Ok(()) => true,
        Err(why) if why.is_by_tables() => false,
        Err(why) => panic!("{why}"),
    }
}

fn start(attached: &Attachment, device: &Device) -> u64 {
    attached.io_address().for_device(device).unwrap().get()
}

fn r3_registers_that_are_offered_are_reached_and_no_others(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let attached = attach(&one, &two, Access::Write);
    let bar = start(&attached, &two);
    assert!(rings(&rig, bar, 0x1234));
    assert_eq!(source_register(&rig), 0x1234);
    assert_eq!((attached.bytes(), attached.access()), (PAGE, Access::Write));
    // The page behind is the device's too, and was not offered; nor was this one for reading (R6).
    assert!(!rings(&rig, bar + PAGE, 1));
    let mut data = [0; 8];
    let read = {
        let service = rig.service.lock();
        service.platform().machine_mut().dma_read(other(), bar + SOURCE, &mut data)
    };
    assert!(read.is_err_and(Blocked::is_by_tables));
    drop(attached);
    assert!(!rings(&rig, bar, 0x5678));
    assert_eq!(source_register(&rig), 0x1234);
    // Nor does the one that was offered reach the other's.
    let refused = attach(&one, &two, Access::Read);
    assert!(!rings(&rig, start(&refused, &two), 1), "R6");
    rig.check();
}

fn r4_a_peers_bar_ends_with_either_session_and_with_its_handle(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units().with_peer_routing());
    drop((rig.open(), open_other(&rig)));
    let before = rig.usage();
    for ends in 0..3 {
        let (one, two) = (rig.open(), open_other(&rig));
        let attached = attach(&one, &two, Access::ReadWrite);
        let bar = start(&attached, &two);
        assert!(rings(&rig, bar, 7));
        let info = |attached: &Attachment| {
            attached.handle().call::<BufferInfo>(Opcode::BufferInfo, &[0u8; 0]).err()
        };
        assert_eq!(info(&attached), None);
        let (mut one, mut two, mut attached) = (Some(one), Some(two), Some(attached));
        match ends {
            0 => one = None,
            // The attachment holds on to its session, so that it is the handle that is closed.
            1 => drop((attached.take(), two.take())),
            _ => attached = None,
        }
        // That it may not master the bus any more is not what is to keep the device away.
        rig.service.lock().platform_mut().machine_mut().config_write(other(), 4, 6);
        assert!(!rings(&rig, bar, 8), "{ends}");
        assert_eq!(
            attached.as_ref().and_then(info),
            attached.as_ref().map(|_| Error::SessionEnded)
        );
        drop((attached, one, two));
        assert_eq!(rig.usage(), before, "{ends}");
    }
    rig.check();
}

fn r3_a_ticket_of_registers_is_good_once_and_ends_with_its_session(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let ticket = offer(&one);
    let held = two.attach(&ticket, Access::Read, "").unwrap();
    assert_eq!(two.attach(&ticket, Access::Read, "").err(), Some(Error::BadTicket));
    let ticket = one.offer_bar(0, 0, PAGE, Access::Read).unwrap();
    for access in [Access::Write, Access::ReadWrite] {
        assert_eq!(two.attach(&ticket, access, "").err(), Some(Error::NotPermitted));
    }
    let unshared =
        Device::from_handle(one.derive(Rights::DEVICE - Rights::SHARE).unwrap()).unwrap();
    let refused = unshared.offer_bar(0, 0, PAGE, Access::Read);
    assert_eq!(refused.err(), Some(Error::NotPermitted));
    drop((unshared, one));
    assert_eq!(two.attach(&ticket, Access::Read, "").err(), Some(Error::BadTicket));
    drop(held);
    rig.check();
}

fn r7_what_is_no_part_of_a_bar_is_refused(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let usage = rig.usage();
    let refused =
        |bar, offset, bytes| one.offer_bar(bar, offset, bytes, Access::ReadWrite).unwrap_err();
    for bar in [1, 5, 6, 256, u32::MAX] {
        assert_eq!(refused(bar, 0, PAGE), Error::NotRegisters, "BAR {bar}");
    }
    assert_eq!(refused(0, 0, 0), Error::ZeroSize);
    assert_eq!(refused(0, 0, 100), Error::BadAlignment);
    assert_eq!(refused(0, 100, PAGE), Error::BadAlignment);
    assert_eq!(refused(0, 1 << 20, PAGE), Error::OutOfBuffer);
    assert_eq!(refused(0, PAGE, 1 << 20), Error::OutOfBuffer);
    assert_eq!(refused(0, !0xfff, PAGE), Error::OutOfBuffer);
    assert_eq!(refused(0, 0, 1 << 40), Error::TooLarge);
    let mut idle = Offer { bytes: U64::new(PAGE), rights: U32::ZERO, ..Offer::default() };
    let refused = one.handle().call_bytes(Opcode::Offer, idle.as_mut_bytes());
    assert_eq!(refused, Err(Error::BadValue), "for nothing");
    // The whole of it can be offered.
    let whole = one.offer_bar(0, 0, 1 << 20, Access::Read).unwrap();
    assert_eq!(two.attach(&whole, Access::Read, "").unwrap().bytes(), 1 << 20);
    assert_eq!(rig.usage().live_runs, usage.live_runs);
    rig.check();
}

fn set_config(rig: &Rig, offset: u16, value: u32) {
    rig.service.lock().platform_mut().machine_mut().config_write(edu(), offset, value);
}

fn r5_registers_that_a_driver_moved_are_not_offered_nor_attached(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let bar = rig.service.lock().platform_mut().config_read(edu(), 0x10);
    let ticket = offer(&one);
    let again = || one.offer_bar(0, 0, PAGE, Access::Read).err();
    for (offset, value, right) in [(0x10, bar + (16 << 20), bar), (4, 4, 6)] {
        set_config(&rig, offset, value);
        assert_eq!(two.attach(&ticket, Access::Read, "").err(), Some(Error::NotRegisters));
        assert_eq!(again(), Some(Error::NotRegisters));
        set_config(&rig, offset, right);
    }
    assert!(two.attach(&ticket, Access::Read, "").is_ok(), "R7: the ticket is good still");
    rig.check();
}

fn r5_a_bar_that_lies_on_something_else_is_not_offered(vendor: Vendor) {
    let base = vendor.machine();
    let unit = base.units.first().map(|unit| unit.base);
    let unit = unit.or(base.amdvi_units.first().map(|unit| unit.base)).unwrap();
    let edu_bar = base.edus[0].bar;
    let place: PciAddress = "0000:00:05.0".parse().unwrap();
    for (what, bar) in [
        ("a unit's registers", (unit & !0xf_ffff) as u32),
        ("interrupts", 0xfee0_0000),
        ("another's registers", edu_bar),
        ("memory", 0x1000_0000),
    ] {
        let mut config = vendor.machine();
        config.edus.push(EduConfig::new(place, bar));
        let rig = Rig::on(config);
        if what == "memory" {
            rig.service.lock().platform_mut().tell_memory(&[(0x1000_0000, 1 << 20)]);
        }
        let device = Device::open(rig.transport(), place).unwrap();
        let refused = device.offer_bar(0, 0, PAGE, Access::Read);
        assert_eq!(refused.err(), Some(Error::NotRegisters), "{what}");
        rig.check();
    }
}

fn r2_the_next_driver_waits_until_nothing_reaches_its_registers(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let attached = attach(&one, &two, Access::ReadWrite);
    assert!(rings(&rig, start(&attached, &two), 1));
    // The second device is behind the first unit.
    slow_down(&mut rig.service.lock().platform_mut().machine_mut(), Takes::After(400_000_000));
    drop(one);
    let mut service = rig.service.lock();
    let root = service.root();
    let opened = service.open(root, "device/0000--00--02.0", ROOT).unwrap();
    let Outcome::Pending(request) = opened else { panic!("{opened:?}") };
    let done = loop {
        if let Some(done) = service.poll().pop() {
            break done;
        }
    };
    assert_eq!(done.request, request);
    assert!(done.result.is_ok());
    drop(service);
    drop((attached, two));
    rig.check();
}

fn a_peers_bar_counts_in_the_quota_of_who_attaches_it(vendor: Vendor) {
    for quotas in [
        Quotas { buffers: 1, ..Quotas::default() },
        Quotas { mapped_bytes: PAGE, ..Quotas::default() },
    ] {
        let rig = Rig::with(
            vendor.two_units().with_peer_routing(),
            Policy { quotas, ..Policy::default() },
        );
        let (one, two) = (rig.open(), open_other(&rig));
        let (first, second) = (offer(&one), offer(&one));
        let held = two.attach(&first, Access::Read, "").unwrap();
        assert_eq!(two.attach(&second, Access::Read, "").err(), Some(Error::QuotaExceeded));
        let buffer = two.allocate(PAGE, Some(Access::Read), "");
        assert_eq!(buffer.err(), Some(Error::QuotaExceeded));
        drop(held);
        drop(two.attach(&second, Access::Read, "").unwrap());
        rig.check();
    }
}

fn r3_no_batch_names_a_peers_bar(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let attached = attach(&one, &two, Access::ReadWrite);
    let iova = attached.io_address().for_device(&two).unwrap();
    assert_eq!(two.unmap(&[Mapped::new(two.bus_address(iova), PAGE)]), Err(Error::NotMapped));
    let again = crate::sharing::map_by(&two, attached.handle(), 3);
    assert_eq!(again, Err(Error::WrongOwner));
    let seen = attached.handle().map_buffer(4096, false);
    assert_eq!(seen.err(), Some(Error::WrongHandleKind), "no process sees registers by it");
    assert_eq!(
        crate::tickets::offer(attached.handle(), Rights::INSPECT, Some(Access::Read)),
        Err(Error::WrongHandleKind)
    );
    assert!(rings(&rig, iova.get(), 9));
    rig.check();
}

fn reports_and_the_ledger_know_peers_bars(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let attached = attach(&one, &two, Access::Write);
    let text = rig.text("mappings");
    assert!(
        text.contains("doorbell\n    registers of 0000:00:02.0: BAR 0, from 0x0 on\n"),
        "{text}"
    );
    {
        let service = rig.service.lock();
        let records = Ledger::records::<PeerBarRecord>(service.platform()).unwrap();
        let [(_, record)] = records[..] else { panic!("{records:?}") };
        let iova = attached.io_address().for_device(&two).unwrap();
        assert_eq!((record.iova, record.access, record.place.bytes), (iova, Access::Write, PAGE));
    }
    drop(one);
    let service = rig.service.lock();
    assert_eq!(Ledger::records::<PeerBarRecord>(service.platform()).unwrap(), []);
    drop(service);
    drop(attached);
    assert!(!rig.text("mappings").contains("registers"));
    rig.check();
}

#[test]
fn without_an_iommu_registers_are_at_their_one_address() {
    let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
    let rig =
        Rig::with(MachineConfig::without_units().with_root_port().with_peer_routing(), policy);
    let (one, mut two) = (rig.open(), open_other(&rig));
    let attached = attach(&one, &two, Access::Write);
    assert!(rings(&rig, start(&attached, &two), 0x77));
    assert_eq!(source_register(&rig), 0x77);
    let again = two.attach(&offer(&one), Access::Write, "");
    assert_eq!(again.err(), Some(Error::AlreadyMapped));
    drop(attached);
    two.set_dma_mask(20).unwrap();
    let beyond = two.attach(&offer(&one), Access::Write, "");
    assert_eq!(beyond.err(), Some(Error::NoAddressSpace));
    rig.check();
}
