//! Quarantine and the deaths of drivers and of iommud (R1).

use std::panic::{AssertUnwindSafe, catch_unwind};

use dma_types::PciAddress;
use iommu_engine::ledger::Ledger;
use iommu_engine::platform::Instant;
use iommu_service::records::QuarantineRecord;
use iommu_service::{HandleId, Outcome, Service, Settings};
use iommud::platform::sim::SimPlatform;
use libdma::protocol::call::Opcode;
use libdma::protocol::path;
use libdma::{Access, Error, Event};

use crate::adopting::{adopt, death, settle};
use crate::mortal::{Dead, Mortal};
use crate::quarantine::{PAGE, is_master, offend, other, policy, rig, told};
use crate::rig::{ROOT, edu};
use crate::vendor::Vendor;

both! {
    r1_a_device_stays_in_quarantine_over_the_death_of_the_daemon,
    r1_a_quarantine_has_begun_or_not_wherever_the_daemon_dies,
    who_comes_back_after_the_death_of_the_daemon_is_told_of_the_quarantine,
    what_a_device_in_quarantine_is_denied_is_not_recorded_after_the_death_of_the_daemon_either,
    r4_who_died_in_quarantine_does_not_have_its_device_master_the_bus_after_another_death,
}

fn r1_a_device_stays_in_quarantine_over_the_death_of_the_daemon(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let calm = rig.open_at(other()).unwrap();
    let [place, elsewhere] = [&device, &calm].map(|device| {
        let buffer = device.allocate(PAGE, Some(Access::ReadWrite), "ring").unwrap();
        let iova = buffer.iova().unwrap();
        core::mem::forget(buffer);
        iova.get()
    });
    offend(&rig, edu(), 3);
    let platform = death(&rig);
    let reaches = |platform: &iommud::platform::sim::SimPlatform, who, iova| {
        platform.machine_mut().config_write(who, 4, 6);
        platform.machine_mut().dma_write(who, iova, &[1; 8]).is_ok()
    };
    assert!(!reaches(&platform, edu(), place) && reaches(&platform, other(), elsewhere));
    let mut service = adopt(platform);
    assert_eq!(service.platform_mut().machine_mut().config_read(edu(), 4) & 4, 0);
    assert!(!reaches(service.platform(), edu(), place));
    settle(&mut service);
    assert!(!reaches(service.platform(), edu(), place));
    assert!(reaches(service.platform(), other(), elsewhere));
    assert_eq!(
        service.quarantine_of(edu()).unwrap().why(Instant::from_nanos(0)),
        "in quarantine since before iommud was restarted: 0000:00:02.0 was denied 3 accesses within 1 s; \
         `iommuctl release` ends it"
    );
    assert!(service.quarantine_of(other()).is_none());
    service.platform_mut().machine_mut().config_write(edu(), 4, 0);
    release(&mut service, edu());
    assert_eq!(service.platform_mut().machine_mut().config_read(edu(), 4) & 4, 4, "as it was");
    assert!(reaches(service.platform(), edu(), place));
    let records = Ledger::records::<QuarantineRecord>(service.platform()).unwrap();
    assert!(records.is_empty() && service.quarantine_of(edu()).is_none());
    core::mem::forget((device, calm));
}

fn who_comes_back_after_the_death_of_the_daemon_is_told_of_the_quarantine(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    offend(&rig, edu(), 3);
    rig.restart();
    let events = told(&device);
    assert!(
        matches!(
            events[..],
            [Event::Restarted { .. }, Event::Quarantined { requester, faults: 3, .. }] if requester == edu()
        ),
        "{events:?}"
    );
    let refused = device.allocate(PAGE, Some(Access::Read), "more").err();
    assert_eq!(refused, Some(Error::Quarantined));
}

fn what_a_device_in_quarantine_is_denied_is_not_recorded_after_the_death_of_the_daemon_either(
    vendor: Vendor,
) {
    let rig = rig(vendor);
    let device = rig.open();
    offend(&rig, edu(), 3);
    rig.restart();
    assert_eq!(told(&device).len(), 2);
    // Whoever reaches its configuration space.
    rig.service.lock().platform_mut().machine_mut().config_write(edu(), 4, 6);
    for page in 1..=100 {
        assert!(rig.device_writes(page << 12, &[1; 8]).unwrap_err().is_by_tables());
    }
    assert_eq!(device.events().unwrap().events, []);
}

/// Ends the quarantine of a device, for the administrator.
fn release(service: &mut Service<SimPlatform>, device: PciAddress) {
    let root = service.root();
    let opened = service.open(root, &path::quarantine(device), ROOT).unwrap();
    let Outcome::Done(node) = opened else { panic!() };
    service.call(node, Opcode::Release as u64, &mut []).unwrap();
    settle(service);
}

fn r4_who_died_in_quarantine_does_not_have_its_device_master_the_bus_after_another_death(
    vendor: Vendor,
) {
    let rig = rig(vendor);
    let device = rig.open();
    offend(&rig, edu(), 3);
    rig.end_session(&device);
    drop(device);
    assert!(!is_master(&rig, edu()));
    let mut service = adopt(death(&rig));
    settle(&mut service);
    release(&mut service, edu());
    assert_eq!(service.platform_mut().machine_mut().config_read(edu(), 4) & 4, 0);
}

fn r1_a_quarantine_has_begun_or_not_wherever_the_daemon_dies(vendor: Vendor) {
    let (mut before, mut within) = (0, 0);
    for left in 0.. {
        let settings = || Settings { policy: policy(), ..Settings::default() };
        let sim = SimPlatform::with_manual_clock(vendor.machine()).unwrap();
        let Ok(mut service) = Service::start(Mortal::new(sim), settings()) else { panic!() };
        while service.is_waiting() {
            service.poll();
        }
        let root = service.root();
        let opened = service.open(root, &path::device(edu()), ROOT).unwrap();
        assert!(matches!(opened, Outcome::Done(HandleId(_))));
        service.platform().sim.machine_mut().config_write(edu(), 4, 6);
        for page in 1..=3 {
            service.platform().sim.machine_mut().dma_write(edu(), page << 12, &[1]).unwrap_err();
        }
        service.platform().fate.set(Some(left));
        let died = catch_unwind(AssertUnwindSafe(|| service.poll()));
        service.platform().fate.set(None);
        if let Err(died) = &died {
            assert!(died.is::<Dead>());
        }
        let mut platform = service.into_platform().sim;
        platform.inherit();
        let Ok(mut service) = Service::adopt(platform, settings()) else { panic!("left {left}") };
        settle(&mut service);
        let masters = service.platform_mut().machine_mut().config_read(edu(), 4) & 4 != 0;
        let is_in = service.quarantine_of(edu()).is_some();
        let attached = service.engine().group(edu()).unwrap().attached.is_some();
        assert_eq!((masters, attached), (!is_in, !is_in), "left {left}");
        if is_in {
            within += 1
        } else {
            before += 1
        }
        if died.is_ok() {
            break;
        }
    }
    assert!(before > 3 && within > 3, "{before} {within}");
}
