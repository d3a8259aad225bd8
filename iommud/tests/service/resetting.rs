//! Devices that are reset under their drivers.

use iommu_engine::ledger::Ledger;
use iommu_engine::platform::ConfigSpace;
use iommu_engine::policy::Policy;
use iommu_service::records::SessionRecord;
use iommu_service::{HandleId, Outcome, Service, Settings};
use iommu_sim::pci::ExpressKind;
use libdma::protocol::Rights;
use libdma::protocol::call::{BufferInfo, DeviceInfo, Opcode};
use libdma::{Access, Device, Error, Event};
use zerocopy::{FromZeros, IntoBytes};

use crate::adopting::{death, settle};
use crate::hostile;
use crate::revoking::{derived, number, revoke};
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    a_reset_clears_the_device_and_puts_back_where_it_is,
    every_other_holder_learns_of_a_reset_until_it_says_that_it_knows,
    r3_who_does_not_administer_does_not_reset,
    r7_what_cannot_be_reset_is_left_as_it_was,
    r4_a_reset_goes_on_without_who_asked_for_it,
    a_generation_is_not_used_again_where_nothing_could_be_adopted,
}

const PAGE: u64 = 4096;

fn rig(vendor: Vendor) -> Rig {
    let mut config = vendor.machine();
    config.edus[0].express = Some(ExpressKind::IntegratedEndpoint);
    Rig::on(config)
}

fn config(rig: &Rig, offset: u16) -> u32 {
    rig.service.lock().platform_mut().config_read(edu(), offset)
}

fn now(rig: &Rig) -> u64 {
    use iommu_engine::platform::Platform;
    rig.service.lock().platform().now().as_nanos()
}

fn a_reset_clears_the_device_and_puts_back_where_it_is(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, Some(Access::ReadWrite), "ring").unwrap();
    let iova = buffer.iova().unwrap().get();
    assert!(rig.device_reads(iova, 8).is_ok());
    let (bar, command) = (config(&rig, 0x10), config(&rig, 4) & 0xffff);
    let liveness = u64::from(bar & !0xf) + 4;
    let live = |rig: &Rig| rig.service.lock().platform().machine_mut().mmio_read(liveness, 4);
    let fresh = live(&rig);
    rig.service.lock().platform().machine_mut().mmio_write(liveness, 4, 0x1234);
    assert_ne!(live(&rig), fresh);
    let before = (now(&rig), device.generation());
    device.reset().unwrap();
    assert!(now(&rig) - before.0 >= 100_000_000, "it is left alone so long");
    assert!(device.generation() > before.1);
    assert_eq!((config(&rig, 0x10), live(&rig)), (bar, fresh));
    assert_eq!(config(&rig, 4) & 0xffff, command & !4, "its driver is to turn that on again");
    let told = device.events().unwrap().events;
    let [Event::DeviceReset { generation, .. }] = told[..] else { panic!("{told:?}") };
    assert_eq!(generation, device.generation());
    // Its memory is where it was.
    rig.service.lock().platform().machine_mut().config_write(edu(), 4, 6);
    assert!(rig.device_reads(iova, 8).is_ok());
    let records = Ledger::records::<SessionRecord>(rig.service.lock().platform()).unwrap();
    assert_eq!(records[0].1.generation, device.generation());
    let last = device.generation();
    drop((buffer, device));
    assert!(rig.open().generation() > last);
    rig.check();
}

fn every_other_holder_learns_of_a_reset_until_it_says_that_it_knows(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let other = derived(&device, Rights::DEVICE);
    let buffer = other.allocate(PAGE, None, "memory").unwrap();
    device.reset().unwrap();
    let refused = Some(Error::DeviceReset);
    assert_eq!(other.allocate(PAGE, None, "of before").err(), refused);
    assert_eq!(other.derive(Rights::INSPECT).err(), refused);
    assert_eq!(other.reset().err(), refused);
    for opcode in [Opcode::DeviceInfo, Opcode::HandleInfo, Opcode::Revoke] {
        assert_eq!(other.handle().call_bytes(opcode, &mut [0; 64]).err(), refused);
    }
    // It is not the memory that was reset.
    assert!(buffer.share(Rights::READ).is_ok());
    assert_eq!(other.renew(), Ok(device.generation()));
    assert!(other.allocate(PAGE, None, "of now").is_ok());
    // Whoever says hello for the first time knows no other state.
    let late = device.derive(Rights::DEVICE).unwrap();
    other.reset().unwrap();
    assert_eq!(device.allocate(PAGE, None, "of before").err(), refused);
    assert!(Device::from_handle(late).unwrap().allocate(PAGE, None, "late").is_ok());
    drop((buffer, other, device));
    rig.check();
}

fn r3_who_does_not_administer_does_not_reset(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let weak = derived(&device, Rights::DEVICE - Rights::ADMINISTER);
    let before = device.generation();
    assert_eq!(weak.reset(), Err(Error::NotPermitted));
    let buffer = device.allocate(PAGE, None, "a buffer").unwrap();
    let refused = buffer.handle().call_bytes(Opcode::Reset, &mut [0; 8]);
    assert_eq!(refused, Err(Error::WrongHandleKind));
    let refused = device.handle().call_bytes(Opcode::Reset, &mut [1; 8]);
    assert_eq!(refused, Err(Error::BadValue));
    let refused = device.handle().call_bytes(Opcode::Reset, &mut [0; 7]);
    assert_eq!(refused, Err(Error::ShortPayload));
    assert_eq!(device.renew(), Ok(before));
    drop((buffer, weak, device));
    rig.check();
}

fn r7_what_cannot_be_reset_is_left_as_it_was(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let before = (config(&rig, 4), device.generation());
    assert_eq!(device.reset(), Err(Error::NoReset));
    assert_eq!((config(&rig, 4), device.renew().unwrap()), before);
    drop(device);
    rig.check();
}

fn r4_a_reset_goes_on_without_who_asked_for_it(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let bar = config(&rig, 0x10);
    let child = derived(&device, Rights::DEVICE);
    let number = number(child.handle());
    let id = HandleId(child.handle().raw().number());
    let asked = rig.service.lock().call(id, Opcode::Reset as u64, &mut [0; 8]);
    let Ok(Outcome::Pending(request)) = asked else { panic!("{asked:?}") };
    assert_ne!(config(&rig, 0x10), bar);
    device.renew().unwrap();
    assert_eq!(device.reset(), Err(Error::TooManyRequests));
    assert_eq!(revoke(device.handle(), number), Ok(1));
    let answered = rig.service.lock().poll();
    let answered = answered.iter().find(|it| it.request == request);
    // Where the revoke was waited for, it was given by then.
    assert!(answered.is_none_or(|it| it.result == Err(Error::Revoked)));
    drop((child, device));
    // Nobody is to see it half reset: who opens it waits.
    let again = rig.open_again().unwrap();
    assert_eq!(config(&rig, 0x10), bar);
    drop(again);
    rig.check();
}

fn a_generation_is_not_used_again_where_nothing_could_be_adopted(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.machine(), Policy::default());
    let device = rig.open();
    let before: DeviceInfo = device.handle().call(Opcode::DeviceInfo, &[0u8; 0]).unwrap();
    let buffer = device.allocate(PAGE, None, "of before").unwrap().id();
    // Of what the one before left, nothing is looked at.
    let Ok(mut next) = Service::start(death(&rig), Settings::default()) else { panic!("no IOMMU") };
    settle(&mut next);
    let device = hostile::device(&mut next);
    let mut told = DeviceInfo::new_zeroed();
    hostile::call(&mut next, device, Opcode::DeviceInfo as u64, told.as_mut_bytes()).unwrap();
    assert_ne!(told.generation, before.generation);
    assert_ne!(told.session, before.session, "libdma knows by it what is of which device");
    let made = next.derive(device, hostile::allocate(PAGE).as_bytes());
    let Ok(Outcome::Done(made)) = made else { panic!("{made:?}") };
    hostile::greet(&mut next, made);
    let mut told = BufferInfo::new_zeroed();
    hostile::call(&mut next, made, Opcode::BufferInfo as u64, told.as_mut_bytes()).unwrap();
    assert_ne!(told.buffer.get(), buffer);
}
