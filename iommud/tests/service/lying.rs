//! Hardware that is gone: what its drivers are told, what the administrator sees, and that the others live on (R1, R5).

use dma_types::Access;
use iommu_engine::policy::Policy;
use iommu_sim::pace::Health;
use libdma::{Error, MapRequest};
use simulated::{Machine, second_edu};

use crate::vendor::{Vendor, unhealthy};

both! {
    r5_a_unit_that_is_gone_is_told_to_its_drivers_and_shown_and_the_others_live,
    r1_a_unit_that_cannot_be_used_is_shown_with_what_is_behind_it_and_the_others_live,
}

/// The driver of the device behind the unit that is well notices nothing.
fn others_live(machine: &Machine) {
    let device = machine.open();
    let ring = device.allocate(4096, Some(Access::Write), "ring").unwrap();
    let iova = ring.iova().unwrap();
    assert!(machine.device_writes(iova, b"done").is_ok());
    drop(ring);
    assert!(machine.device_writes(iova, b"more").is_err());
    drop(device);
    machine.check();
}

fn r5_a_unit_that_is_gone_is_told_to_its_drivers_and_shown_and_the_others_live(vendor: Vendor) {
    let machine = Machine::start(vendor.two_units(), Policy::default());
    let device = machine.open_at(second_edu()).unwrap();
    let ring = device.allocate(4096, Some(Access::Write), "ring").unwrap();
    machine.service.lock().platform().machine_mut().set_health(0, Health::AllOnes);
    machine.service.lock().poll();
    let piece = MapRequest { buffer: &ring, offset: 0, bytes: 4096, access: Access::Read };
    let refused = device.map(&[piece]).unwrap_err();
    assert_eq!(refused, Error::UnitFailed);
    assert!(refused.to_string().contains("IOMMU"), "{refused}");
    assert!(machine.writes(second_edu(), ring.iova().unwrap(), b"late").is_err());
    let units = machine.text("units");
    assert!(units.contains("failed: its registers read all ones"), "{units}");
    let devices = machine.text("devices");
    assert!(devices.contains("UNKNOWN"), "{devices}");
    assert!(devices.contains("the IOMMU in front of it has failed"), "{devices}");
    drop((ring, device));
    assert_eq!(machine.open_at(second_edu()).err(), Some(Error::UnitFailed));
    others_live(&machine);
}

fn r1_a_unit_that_cannot_be_used_is_shown_with_what_is_behind_it_and_the_others_live(
    vendor: Vendor,
) {
    let machine = Machine::start(unhealthy(vendor.two_units(), Health::AllOnes), Policy::default());
    assert!(machine.writes(second_edu(), dma_types::Iova::new(0x2_0000_0000), b"early").is_err());
    let units = machine.text("units");
    assert!(units.contains("refused: its "), "{units}");
    let devices = machine.text("devices");
    assert!(devices.contains("NOT CONFINED"), "{devices}");
    assert!(devices.contains("once it masters the bus"), "{devices}");
    assert_eq!(machine.open_at(second_edu()).err(), Some(Error::UnitFailed));
    others_live(&machine);
}
