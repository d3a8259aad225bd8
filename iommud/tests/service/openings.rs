//! Devices that are opened while it is not known yet whether somebody holds them (R4).

use std::time::Duration;

use iommu_engine::policy::Policy;
use iommu_service::{Answer, Completed, HandleId, Outcome, RequestId, Service};
use iommu_sim::pace::Completion as Takes;
use iommu_sim::pci::ExpressKind;
use iommud::platform::sim::SimPlatform;
use libdma::Error;
use libdma::protocol::call::Opcode;

use crate::hostile::{call, greet};
use crate::rig::{ROOT, Rig};
use crate::vendor::{Vendor, slow_down};

both! {
    r4_who_opens_a_device_whose_opener_died_is_the_next,
    r4_who_opens_a_device_whose_opener_lives_is_told_so,
    r4_nobody_waits_long_for_an_opener_that_says_nothing,
    r4_openings_wait_in_turn_and_only_so_many,
    r4_of_several_that_died_waiting_each_is_passed_over,
    r4_an_opening_that_fails_lets_the_next_one_have_its_turn,
    r4_who_opens_a_device_that_is_being_reset_is_the_next,
}

const DEVICE: &str = "device/0000--00--02.0";
const SLOW: Duration = Duration::from_millis(20);

/// A machine whose unit confirms an opening late, by a clock that stands.
fn rig(vendor: Vendor) -> Rig {
    let rig = Rig::with_manual_clock(vendor.caching(), Policy::default());
    let takes = Takes::After(SLOW.as_nanos() as u64);
    slow_down(&mut rig.service.lock().platform().machine_mut(), takes);
    rig
}

/// Opens the device, which is to wait.
fn open(service: &mut Service<SimPlatform>) -> RequestId {
    let root = service.root();
    let opened = service.open(root, DEVICE, ROOT);
    service.close(root);
    match opened {
        Ok(Outcome::Pending(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// Lets time pass until something is answered.
fn answered(rig: &Rig) -> Vec<Completed> {
    for _ in 0..10_000 {
        rig.pass(Duration::from_millis(1));
        let completed = rig.service.lock().poll();
        if !completed.is_empty() {
            return completed;
        }
    }
    panic!("nothing is answered");
}

/// The one answer that comes next.
fn next(rig: &Rig, request: RequestId) -> Result<HandleId, Error> {
    let [Completed { request: found, result }] = &answered(rig)[..] else { panic!("several") };
    assert_eq!(*found, request);
    match result {
        Ok(Answer::Handle(handle)) => Ok(*handle),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(*error),
    }
}

/// Closes the device, and lets everything come to its end.
fn end(rig: &Rig, device: HandleId) {
    rig.service.lock().close(device);
    for _ in 0..1000 {
        rig.pass(Duration::from_millis(1));
        rig.service.lock().poll();
    }
    assert!(!rig.service.lock().is_waiting());
    assert_eq!(rig.usage().live_runs, 0);
    assert_eq!(rig.service.lock().accounts().iter().count(), 0);
    rig.check();
}

fn r4_who_opens_a_device_whose_opener_died_is_the_next(vendor: Vendor) {
    let rig = rig(vendor);
    let (first, second) = {
        let service = &mut *rig.service.lock();
        (open(service), open(service))
    };
    let nobodys = next(&rig, first).unwrap();
    // Its transport has found nobody to give it to.
    rig.service.lock().close(nobodys);
    let device = next(&rig, second).unwrap();
    {
        let service = &mut *rig.service.lock();
        greet(service, device);
        assert!(call(service, device, Opcode::DeviceInfo as u64, &mut [0; 64]).is_ok());
        assert_eq!(service.sessions().sessions.len(), 1);
        let root = service.root();
        assert_eq!(service.open(root, DEVICE, ROOT), Err(Error::DeviceBusy));
    }
    end(&rig, device);
}

fn r4_who_opens_a_device_whose_opener_lives_is_told_so(vendor: Vendor) {
    let rig = rig(vendor);
    let (first, second) = {
        let service = &mut *rig.service.lock();
        (open(service), open(service))
    };
    let device = next(&rig, first).unwrap();
    greet(&mut rig.service.lock(), device);
    assert_eq!(next(&rig, second), Err(Error::DeviceBusy));
    end(&rig, device);
}

fn r4_nobody_waits_long_for_an_opener_that_says_nothing(vendor: Vendor) {
    let rig = rig(vendor);
    let (first, second) = {
        let service = &mut *rig.service.lock();
        (open(service), open(service))
    };
    let now = |rig: &Rig| {
        use iommu_engine::platform::Platform;
        rig.service.lock().platform().now().as_nanos()
    };
    let device = next(&rig, first).unwrap();
    let since = now(&rig);
    assert_eq!(next(&rig, second), Err(Error::DeviceBusy));
    let waited = now(&rig) - since;
    assert!((50_000_000..200_000_000).contains(&waited), "{waited} ns");
    // It is known by now.
    let root = rig.service.lock().root();
    let refused = rig.service.lock().open(root, DEVICE, ROOT);
    assert_eq!(refused, Err(Error::DeviceBusy));
    end(&rig, device);
}

fn r4_openings_wait_in_turn_and_only_so_many(vendor: Vendor) {
    let rig = rig(vendor);
    let first = open(&mut rig.service.lock());
    let mut waiting = Vec::new();
    let refused = loop {
        let service = &mut *rig.service.lock();
        let root = service.root();
        let opened = service.open(root, DEVICE, ROOT);
        service.close(root);
        match opened {
            Ok(Outcome::Pending(request)) => waiting.push(request),
            Err(error) => break error,
            Ok(done) => panic!("{done:?}"),
        }
        assert!(waiting.len() < 1000, "there is no end to it");
    };
    assert_eq!(refused, Error::DeviceBusy);
    let handle = next(&rig, first).unwrap();
    rig.service.lock().close(handle);
    let handle = next(&rig, waiting[0]).unwrap();
    rig.service.lock().close(handle);
    let handle = next(&rig, waiting[1]).unwrap();
    greet(&mut rig.service.lock(), handle);
    let rest = answered(&rig);
    assert_eq!(rest.iter().map(|it| it.request).collect::<Vec<_>>(), waiting[2..]);
    assert!(rest.iter().all(|it| it.result == Err(Error::DeviceBusy)));
    end(&rig, handle);
}

/// Also where hardware confirms each of the later openings at once.
fn r4_of_several_that_died_waiting_each_is_passed_over(vendor: Vendor) {
    let rig = rig(vendor);
    let waiting: Vec<_> = {
        let service = &mut *rig.service.lock();
        (0..4).map(|_| open(service)).collect()
    };
    let mut device = next(&rig, waiting[0]).unwrap();
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Immediate);
    for request in &waiting[1..] {
        rig.service.lock().close(device);
        device = next(&rig, *request).unwrap();
    }
    end(&rig, device);
}

fn r4_an_opening_that_fails_lets_the_next_one_have_its_turn(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.caching(), Policy::default());
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    let (first, second) = {
        let service = &mut *rig.service.lock();
        (open(service), open(service))
    };
    assert_eq!(next(&rig, first), Err(Error::TimedOut));
    // Its unit has failed.
    assert_eq!(next(&rig, second), Err(Error::UnitFailed));
    assert!(rig.service.lock().sessions().sessions.is_empty());
}

fn r4_who_opens_a_device_that_is_being_reset_is_the_next(vendor: Vendor) {
    for dies in [true, false] {
        let mut config = vendor.machine();
        config.edus[0].express = Some(ExpressKind::IntegratedEndpoint);
        let rig = Rig::with_manual_clock(config, Policy::default());
        let device = rig.open();
        let id = HandleId(device.handle().raw().number());
        let reset = rig.service.lock().call(id, Opcode::Reset as u64, &mut [0; 8]);
        let Ok(Outcome::Pending(_)) = reset else { panic!("{reset:?}") };
        let request = open(&mut rig.service.lock());
        if dies {
            drop(device);
            let opened = loop {
                let mut all = answered(&rig);
                if let Some(at) = all.iter().position(|it| it.request == request) {
                    break all.remove(at);
                }
            };
            let Ok(Answer::Handle(next)) = opened.result else { panic!("{opened:?}") };
            end(&rig, next);
        } else {
            let mut all = answered(&rig);
            all.retain(|it| it.request == request);
            let refused = all.pop().unwrap_or_else(|| answered(&rig).pop().unwrap());
            assert_eq!((refused.request, refused.result), (request, Err(Error::DeviceBusy)));
            drop(device);
        }
    }
}
