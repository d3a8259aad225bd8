//! Fault records and events of which any bit is set: whatever a unit says of its devices, nothing else comes of it than an
//! entry in a report.

use fuzz::{Chance, Steps, Trial};
use iommu_engine::policy::Invalidation;
use iommu_engine::unit::UnitState;
use iommu_service::Outcome;

use crate::vendor::Vendor;
use crate::world::{DEVICES, World};

both! {
    r5_whatever_a_unit_records_is_an_entry_in_a_report_and_nothing_else,
}

/// A record, or an event: any bits, often with what it is, and of a device that there is.
fn record(chance: &mut Chance, vendor: Vendor) -> (u64, u64) {
    let (mut low, mut high) = (chance.long(), chance.next());
    if chance.once_in(4) {
        return (low, high);
    }
    let source = u64::from(chance.one_of(&[0x0010_u16, 0x0100, 0x0000, 0xffff, 0x00f8]));
    match vendor {
        Vendor::Vtd => high = high & !0xffff | source,
        Vendor::Amdvi => {
            let code = chance.below(16) as u64;
            std::mem::swap(&mut low, &mut high);
            low = low & 0x0fff_ffff_ffff_0000 | source | code << 60;
        }
    }
    (low, high)
}

fn report(world: &mut World, path: &str) {
    let root = world.service.root();
    let text = world.service.open(root, path, iommu_service::Caller { uid: 0 }).unwrap();
    let Outcome::Done(text) = text else { panic!("a report waits for nothing") };
    let mut bytes = vec![0; world.service.length(text).unwrap() as usize];
    world.service.read(text, 0, &mut bytes).unwrap();
    let written = String::from_utf8(bytes).unwrap();
    if path.ends_with(".json") {
        serde_json::from_str::<serde_json::Value>(&written).unwrap();
    }
    world.service.close(text);
    world.service.close(root);
}

fn attempt(vendor: Vendor, steps: Steps<'_>) -> bool {
    let mut world = World::new(vendor, Invalidation::Strict);
    DEVICES.iter().for_each(|name| world.open(0, &format!("device/{name}")));
    let mut last = Chance::of(0);
    for mut chance in steps {
        let (low, high) = record(&mut chance, vendor);
        let unit = chance.below(2);
        world.service.platform().machine_mut().record_words(unit, low, high);
        if chance.once_in(3) {
            let before = world.service.faults().total();
            world.service.poll();
            assert!(world.service.faults().total() >= before);
            assert!(
                world.service.faults().entries().count() <= iommu_service::faults::fault_log::KEPT
            );
        }
        if chance.once_in(200) {
            report(&mut world, chance.one_of(&["faults", "faults.json", "devices", "units.json"]));
        }
        if chance.once_in(50) {
            world.look(&mut chance);
        }
        last = chance;
    }
    for slot in world.service.engine().units() {
        assert_eq!(slot.unit.as_ref().unwrap().state(), UnitState::Running);
    }
    let told = world.service.faults().total() > 0;
    world.end(&mut last);
    told
}

fn r5_whatever_a_unit_records_is_an_entry_in_a_report_and_nothing_else(vendor: Vendor) {
    let trial = Trial { name: "records", steps: 20_000, each: 2000 };
    trial.run(|steps| attempt(vendor, steps));
}
