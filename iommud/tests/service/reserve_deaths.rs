//! Memory that the policy sets aside, after iommud has died: nobody is told when a client of before unmaps a part of it (R8).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use dma_types::PhysAddr;
use iommu_engine::ledger::Ledger;
use iommu_engine::platform::{BufferRuns, Segment};
use iommu_engine::policy::{Orphans, Policy};
use iommu_service::records::BufferRecord;
use iommu_service::{HandleId, Outcome, Service, Settings};
use iommud::platform::sim::{MemoryId, SimPlatform};
use libdma::protocol::derive::{Allocate, Kind};
use libdma::{Access, Buffer, Device};
use zerocopy::IntoBytes;

use crate::adopting::death;
use crate::hostile::{allocate, device, greet};
use crate::mortal::Mortal;
use crate::rig::Rig;
use crate::tickets::open_other;
use crate::vendor::Vendor;

both! {
    r8_a_part_that_a_client_of_before_may_have_mapped_is_nobody_elses,
    r8_a_part_that_outlived_its_session_is_nobody_elses_either,
    r8_a_reserve_that_is_given_back_gives_nothing_out_wherever_the_daemon_dies,
}

const MIB: u64 = 1 << 20;
const WAIT: Duration = Duration::from_secs(5);

fn rig(vendor: Vendor) -> Rig {
    let policy = Policy { reserve: 8 * MIB, orphans: Orphans(WAIT), ..Policy::default() };
    Rig::with_manual_clock(vendor.machine().with_root_port(), policy)
}

fn part(device: &Device) -> Buffer {
    device.buffer("part").access(Some(Access::ReadWrite)).contiguous().allocate(MIB).unwrap()
}

/// A driver of which nothing is left but what it has mapped: its device and buffer, and where that is.
fn driver(rig: &Rig) -> (HandleId, HandleId, Segment) {
    let service = &mut *rig.service.lock();
    let device = device(service);
    let request = Allocate { kind: (Kind::AllocateContiguous as u32).into(), ..allocate(MIB) };
    let Ok(Outcome::Done(buffer)) = service.derive(device, request.as_bytes()) else {
        panic!("nothing here needs hardware")
    };
    greet(service, buffer);
    let [place] = places(service.platform())[..] else { panic!("one buffer") };
    (device, buffer, place)
}

/// Where buffers are of which there are records.
fn places(platform: &SimPlatform) -> Vec<Segment> {
    let records = Ledger::records::<BufferRecord>(platform).unwrap().into_iter();
    records.flat_map(|(_, record)| platform.segments(record.run).to_vec()).collect()
}

/// That whatever drivers allocate, none of it is there.
fn is_given_to_nobody(rig: &Rig, lost: Segment, devices: &[&Device]) {
    let parts: Vec<_> = devices.iter().cycle().take(12).map(|device| part(device)).collect();
    let service = rig.service.lock();
    let all = places(service.platform()).into_iter().filter(|place| *place != lost);
    let within = |at: PhysAddr, place: Segment| {
        at.get().checked_sub(place.start.get()).is_some_and(|at| at < place.bytes)
    };
    for place in all {
        assert!(!within(place.start, lost) && !within(lost.start, place), "{place:x?}");
    }
    drop(service);
    drop(parts);
}

/// How much of the reserve is given out, never given out again, and there at all, in MiB.
fn reserve(rig: &Rig) -> [u64; 3] {
    rig.usage();
    let service = rig.service.lock();
    let reserve = &service.engine().reserves()[0];
    [reserve.used(), reserve.retired(), reserve.bytes()].map(|it| it / MIB)
}

fn r8_a_part_that_a_client_of_before_may_have_mapped_is_nobody_elses(vendor: Vendor) {
    let rig = rig(vendor);
    let (_, _, lost) = driver(&rig);
    let memory = rig.service.lock().platform().memory_at(lost.start);
    let other = open_other(&rig);
    let held = part(&other);
    assert_eq!(reserve(&rig), [2, 0, 8]);
    rig.restart();
    // It comes back, and the first does not.
    drop(other.allocate(4096, None, "any").unwrap());
    is_given_to_nobody(&rig, lost, &[&other]);
    rig.pass(WAIT);
    rig.service.lock().poll();
    let next = rig.open();
    is_given_to_nobody(&rig, lost, &[&next, &other]);
    // Nor is what others had meanwhile.
    assert_eq!(reserve(&rig), [1, 7, 8]);
    assert!(rig.text("config").contains("7 MiB not given out again"));
    rig.restart();
    is_given_to_nobody(&rig, lost, &[&next, &other]);
    rig.pass(WAIT);
    rig.service.lock().poll();
    assert_eq!(reserve(&rig), [1, 7, 8]);
    // With the last in use all of it goes back to the kernel, which knows who has it mapped.
    drop(held);
    assert_eq!(reserve(&rig), [0, 0, 8]);
    assert_ne!(rig.service.lock().platform().memory_at(lost.start), memory);
    drop((next, other));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r8_a_part_that_outlived_its_session_is_nobody_elses_either(vendor: Vendor) {
    let rig = rig(vendor);
    let (device, _, lost) = driver(&rig);
    let other = open_other(&rig);
    let held = part(&other);
    rig.service.lock().close(device);
    rig.restart();
    let next = rig.open();
    is_given_to_nobody(&rig, lost, &[&next, &other]);
    assert_eq!(reserve(&rig), [1, 7, 8]);
    drop(held);
    assert_eq!(reserve(&rig), [0, 0, 8]);
    drop((next, other));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn policy() -> Settings {
    let policy = Policy { reserve: 8 * MIB, orphans: Orphans(WAIT), ..Policy::default() };
    Settings { lines: Vec::new(), policy }
}

/// A daemon that has died while a driver had a part, the reserve's memory and the part's, and where that is.
fn died(vendor: Vendor) -> (SimPlatform, [MemoryId; 2], Segment) {
    let rig = rig(vendor);
    let start = rig.service.lock().engine().reserves()[0].find(MIB, 4096, PhysAddr::new(u64::MAX));
    let memory = |rig: &Rig, at| rig.service.lock().platform().memory_at(at).unwrap();
    let whole = memory(&rig, start.unwrap().start);
    let (_, _, lost) = driver(&rig);
    let part = memory(&rig, lost.start);
    (death(&rig), [whole, part], lost)
}

/// Lets the deadline pass.
fn pass(service: &mut Service<Mortal>) {
    while !service.engine().is_settled() {
        service.platform_mut().sim.advance_time(Duration::from_micros(10));
        service.poll();
    }
    for _ in 0..3 {
        service.platform_mut().sim.advance_time(WAIT);
        service.poll();
    }
}

fn r8_a_reserve_that_is_given_back_gives_nothing_out_wherever_the_daemon_dies(vendor: Vendor) {
    let [mut withheld, mut renewed] = [0, 0];
    // Adopting comes first, which other tests have daemons die in.
    for left in 0.. {
        let (platform, old, lost) = died(vendor);
        let adopted = Service::adopt(Mortal::new(platform), policy());
        let Ok(mut second) = adopted else { panic!("left {left}") };
        second.platform().fate.set(Some(left));
        let end = catch_unwind(AssertUnwindSafe(|| pass(&mut second)));
        second.platform().fate.set(None);
        let mut platform = second.into_platform().sim;
        platform.inherit();
        let adopted = Service::adopt(Mortal::new(platform), policy());
        let Ok(mut third) = adopted else { panic!("left {left}") };
        while !third.engine().is_settled() {
            third.platform_mut().sim.advance_time(Duration::from_micros(10));
            third.poll();
        }
        let is_old = third.platform().sim.memory_at(lost.start).is_some_and(|it| old.contains(&it));
        let reserves = third.engine().reserves();
        let found = reserves.iter().any(|reserve| {
            let mut free = reserve.pieces();
            free.any(|free| {
                free.start <= lost.start && lost.start.get() < free.start.get() + free.bytes
            })
        });
        assert!(!is_old || !found, "left {left}: what a client may have mapped is free");
        if is_old {
            withheld += 1
        } else {
            renewed += 1
        }
        pass(&mut third);
        for reserve in third.engine().reserves() {
            assert_eq!((reserve.used(), reserve.retired()), (0, 0), "left {left}");
        }
        let usage = third.platform().sim.usage();
        assert_eq!((usage.live_runs, usage.bad_frees), (0, 0), "left {left}");
        if end.is_ok() {
            break;
        }
    }
    assert!(withheld > 2 && renewed > 2, "{withheld} {renewed}");
}
