//! Drivers of devices that no unit can keep apart share a domain, and nothing else (R2, R3, R4).

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::policy::{IgnoredUnit, Policy};
use iommu_sim::machine::{EduConfig, FunctionConfig, UnitScope};
use iommu_sim::pace::Completion as Takes;
use iommu_sim::pci::acs;
use libdma::{Access, Coherent, Device, Error};
use libdma::{MapRequest, Mapped};

use crate::rig::{Rig, edu};
use crate::vendor::{Vendor, slow, slow_down};

both! {
    two_drivers_of_one_group_each_do_their_work,
    r3_a_driver_unmaps_nothing_of_its_neighbours,
    r4_a_driver_that_dies_takes_its_own_buffers_and_leaves_its_neighbours,
    r2_a_dead_drivers_memory_waits_for_a_slow_unit_also_in_a_shared_domain,
    r4_a_buffer_that_outlives_its_driver_is_not_reached_by_the_neighbour,
    the_last_driver_to_go_detaches_the_group,
    a_neighbour_is_not_opened_behind_a_unit_that_has_failed,
    r1_what_is_plugged_in_is_confined_before_and_after_it_is_opened,
    r1_another_device_in_an_old_place_is_opened_as_what_it_is,
    a_device_behind_a_unit_that_the_policy_leaves_alone_is_refused_and_reports_say_why,
}

/// Cards behind a switch that does not keep them apart.
pub(crate) fn cards() -> [PciAddress; 2] {
    ["12:00.0", "13:00.0"].map(|address| address.parse().unwrap())
}

/// Opens a device, and lets it be a bus master, as its driver does.
fn open(rig: &Rig, address: PciAddress) -> Device {
    let device = Device::open(rig.transport(), address).unwrap();
    drive(rig, address);
    device
}

fn drive(rig: &Rig, address: PciAddress) {
    rig.service.lock().platform_mut().machine_mut().config_write(address, 4, 6);
}

/// Whether a device can write there; anything but a unit in its way is an error.
fn writes(rig: &Rig, device: PciAddress, iova: u64) -> bool {
    let result = rig.service.lock().platform().machine_mut().dma_write(device, iova, &[7; 8]);
    match result {
        Ok(()) => true,
        Err(why) if why.is_by_tables() => false,
        Err(other) => panic!("{device} at {iova:#x}: {other}"),
    }
}

fn word(device: &Device) -> Coherent<u64> {
    device.coherent("word").alone().value::<u64>().unwrap()
}

fn two_drivers_of_one_group_each_do_their_work(vendor: Vendor) {
    let [one, other] = cards();
    let rig = Rig::on(vendor.machine().with_switch(None));
    let (first, second) = (open(&rig, one), open(&rig, other));
    assert_eq!(first.domain(), second.domain());
    let busy = Device::open(rig.transport(), other).err();
    assert_eq!(busy, Some(Error::DeviceBusy));
    let (mine, yours) = (word(&first), word(&second));
    assert_ne!(mine.iova(), yours.iova());
    for (device, word) in [(one, &mine), (other, &yours)] {
        assert!(writes(&rig, device, word.iova().get()));
        assert_eq!(word.get(), 0x0707_0707_0707_0707);
    }
    assert!(!writes(&rig, edu(), mine.iova().get()), "which is of no group with them");
    let groups = rig.json("groups");
    let held = groups.as_array().unwrap().iter().find(|group| group["held"][0] == one.to_string());
    assert_eq!(held.unwrap()["held"][1], other.to_string());
    rig.check();
}

fn r3_a_driver_unmaps_nothing_of_its_neighbours(vendor: Vendor) {
    let [one, other] = cards();
    let rig = Rig::on(vendor.machine().with_switch(None));
    let (first, second) = (open(&rig, one), open(&rig, other));
    let buffer = second.allocate(8192, None, "yours").unwrap();
    let request = MapRequest { buffer: &buffer, offset: 0, bytes: 8192, access: Access::Write };
    let mapped = second.map(&[request]).unwrap();
    let iova = mapped[0].iova();
    assert_eq!(first.unmap(&mapped), Err(Error::WrongOwner));
    for bytes in [8192, 4096] {
        let mine = Mapped::new(first.bus_address(iova), bytes);
        assert_eq!(first.unmap(&[mine]), Err(Error::NotMapped), "whatever it says");
    }
    assert_eq!(first.map(&[request]), Err(Error::WrongOwner));
    assert!(writes(&rig, other, iova.get()), "as before");
    second.unmap(&mapped).unwrap();
    assert!(!writes(&rig, other, iova.get()) && !writes(&rig, one, iova.get()));
    rig.check();
}

fn r4_a_driver_that_dies_takes_its_own_buffers_and_leaves_its_neighbours(vendor: Vendor) {
    let [one, other] = cards();
    // Whoever of them came first.
    for survivor in [one, other] {
        let rig = Rig::on(vendor.machine().with_switch(None));
        let mut drivers = vec![open(&rig, one), open(&rig, other)];
        let dead = drivers.remove(usize::from(survivor == one));
        let living = drivers.remove(0);
        assert_eq!(living.address(), survivor);
        let kept = word(&living);
        let before = rig.usage();
        let lost: Vec<_> = (0..5).map(|_| word(&dead)).collect();
        let iovas: Vec<_> = lost.iter().map(|word| word.iova().get()).collect();
        for iova in &iovas {
            assert!(writes(&rig, dead.address(), *iova));
            assert!(writes(&rig, survivor, *iova), "nobody can tell them apart");
        }
        let died = dead.address();
        drop((lost, dead));
        drive(&rig, died);
        for iova in &iovas {
            assert!(!writes(&rig, died, *iova) && !writes(&rig, survivor, *iova));
        }
        assert_eq!(rig.usage().live_runs, before.live_runs);
        assert!(writes(&rig, survivor, kept.iova().get()));
        let more = word(&living);
        assert!(writes(&rig, survivor, more.iova().get()));
        // Its successor joins the domain that is there.
        let next = open(&rig, died);
        assert_eq!((next.domain(), next.generation()), (living.domain(), 2));
        rig.check();
    }
}

fn r2_a_dead_drivers_memory_waits_for_a_slow_unit_also_in_a_shared_domain(vendor: Vendor) {
    let [one, other] = cards();
    let machine = slow(vendor.machine().with_switch(None), Takes::After(20_000_000));
    let rig = Rig::on(machine);
    let (first, second) = (open(&rig, one), open(&rig, other));
    let (mine, yours) = (word(&first), word(&second));
    let iova = mine.iova().get();
    assert!(writes(&rig, one, iova) && writes(&rig, other, iova));
    let transport = rig.transport();
    // The driver dies: its handles go, the device's first.
    let (device, buffer) = (first.handle().raw(), mine.buffer().unwrap().handle().raw());
    // SAFETY: neither is used again but to be closed, which does nothing the second time, and what is
    // mapped of the buffer is not touched.
    unsafe {
        transport.close(device);
        transport.close(buffer);
    }
    assert_eq!(
        rig.service.lock().platform().usage().live_runs,
        2,
        "not before the unit has forgotten"
    );
    drive(&rig, one);
    let _ = (writes(&rig, one, iova), writes(&rig, other, iova));
    assert_eq!(rig.usage().live_runs, 1);
    assert!(!writes(&rig, one, iova) && !writes(&rig, other, iova));
    assert!(writes(&rig, other, yours.iova().get()));
    rig.check();
}

fn r4_a_buffer_that_outlives_its_driver_is_not_reached_by_the_neighbour(vendor: Vendor) {
    let [one, other] = cards();
    let rig = Rig::on(vendor.machine().with_switch(None));
    let (first, second) = (open(&rig, one), open(&rig, other));
    let mine = word(&first);
    let iova = mine.iova().get();
    assert!(writes(&rig, other, iova));
    // SAFETY: the handle is not used again but to be closed, which does nothing the second time.
    unsafe { rig.transport().close(first.handle().raw()) };
    drive(&rig, one);
    assert!(!writes(&rig, one, iova) && !writes(&rig, other, iova));
    assert_eq!(rig.usage().live_runs, 1, "the client still sees it");
    // The addresses may be the neighbour's next, and the buffer's end takes nothing of that away.
    let buffers: Vec<_> = (0..4).map(|_| word(&second)).collect();
    drop(mine);
    assert_eq!(rig.usage().live_runs, 4);
    for buffer in &buffers {
        assert!(writes(&rig, other, buffer.iova().get()));
    }
    rig.check();
}

fn the_last_driver_to_go_detaches_the_group(vendor: Vendor) {
    let [one, other] = cards();
    let rig = Rig::on(vendor.machine().with_switch(None));
    let (first, second) = (open(&rig, one), open(&rig, other));
    let domain = first.domain();
    let mine = word(&second);
    let iova = mine.iova().get();
    drop(first);
    drive(&rig, one);
    assert!(writes(&rig, other, iova));
    drop((mine, second));
    drive(&rig, other);
    assert!(!writes(&rig, other, iova) && !writes(&rig, one, iova));
    assert_eq!(rig.usage().live_runs, 0);
    assert_eq!(rig.service.lock().engine().domains().count(), 0);
    assert_ne!(open(&rig, other).domain(), domain);
    rig.check();
}

fn a_neighbour_is_not_opened_behind_a_unit_that_has_failed(vendor: Vendor) {
    let [one, other] = cards();
    let rig = Rig::on(vendor.machine().with_switch(None));
    let first = open(&rig, one);
    let mine = word(&first);
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    drop(mine);
    // Until it is given up.
    rig.usage();
    assert_eq!(Device::open(rig.transport(), other).err(), Some(Error::UnitFailed));
    drop(first);
    rig.check();
}

fn r1_what_is_plugged_in_is_confined_before_and_after_it_is_opened(vendor: Vendor) {
    let port = "00:04.0".parse().unwrap();
    let machine = vendor.machine().with_switch(Some(acs::ISOLATING));
    // The switch has a unit of its own, and an empty bus.
    let mut config = machine;
    let scope = UnitScope::Devices(vec![port]);
    if let Some(unit) = config.units.first().cloned() {
        let base = 0xfed9_1000;
        config.units.insert(0, iommu_sim::machine::UnitConfig { base, scope, ..unit });
    } else if let Some(unit) = config.amdvi_units.first().cloned() {
        let (base, function) = (0xfed8_4000, "00:18.0".parse().unwrap());
        let unit =
            iommu_sim::machine::AmdviUnitConfig { base, function, scope, io_apic: None, ..unit };
        config.amdvi_units.insert(0, unit);
    }
    let rig = Rig::on(config);
    let held = rig.open();
    let theirs = word(&held);
    let card = "14:00.0".parse().unwrap();
    assert_eq!(Device::open(rig.transport(), card).err(), Some(Error::NoSuchDevice));
    rig.service.lock().platform().machine_mut().plug_edu(EduConfig::new(card, 0xfec0_0000));
    drive(&rig, card);
    assert!(!writes(&rig, card, theirs.iova().get()), "before anybody knows it");
    let device = open(&rig, card);
    let own = word(&device);
    assert!(writes(&rig, card, own.iova().get()));
    {
        let service = rig.service.lock();
        assert_eq!(service.engine().device(card).unwrap().unit.unwrap().0, 0);
        assert_eq!(service.platform().machine().unit_of(card), Some(0));
    }
    assert_eq!(rig.text("faults").matches("14:00.0").count(), 1, "{}", rig.text("faults"));
    drop((own, device));
    drive(&rig, card);
    assert!(!writes(&rig, card, 0x1_0000_0000));
    assert!(writes(&rig, edu(), theirs.iova().get()));
    rig.check();
}

fn r1_another_device_in_an_old_place_is_opened_as_what_it_is(vendor: Vendor) {
    let rig = Rig::on(vendor.machine());
    {
        // A disk controller in the place of edu, which signs as its function 1.
        let service = rig.service.lock();
        let mut machine = service.platform().machine_mut();
        machine.unplug(edu());
        machine.plug(FunctionConfig {
            identity: (0x1b4b, 0x9123),
            requester: Some("00:02.1".parse::<PciAddress>().unwrap().source()),
            ..FunctionConfig::endpoint(edu())
        });
    }
    let device = rig.open();
    let own = word(&device);
    assert!(writes(&rig, edu(), own.iova().get()));
    drop((own, device));
    drive(&rig, edu());
    assert!(!writes(&rig, edu(), 0x1_0000_0000));
    rig.check();
}

fn a_device_behind_a_unit_that_the_policy_leaves_alone_is_refused_and_reports_say_why(
    vendor: Vendor,
) {
    let base = PhysAddr::new(vendor.base());
    let ignored_units = vec![IgnoredUnit { base, reason: "its firmware hangs".into() }];
    let policy = Policy { ignored_units, ..Policy::default() };
    let rig = Rig::with(vendor.two_units(), policy);
    assert_eq!(rig.open_again().err(), Some(Error::UnitFailed));
    let units = rig.text("units");
    assert!(units.contains("the policy leaves it alone: its firmware hangs"), "{units}");
    // The other unit's devices are confined and served as ever.
    let other = "01:00.0".parse().unwrap();
    assert!(!writes(&rig, other, 0x1_0000_0000));
    let device = open(&rig, other);
    let own = word(&device);
    assert!(writes(&rig, other, own.iova().get()));
    rig.check();
}
