//! Resets of devices, and the deaths of iommud while one is under way (R4).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use iommu_engine::engine::adopt::AdoptError;
use iommu_engine::ledger::{Ledger, Record};
use iommu_engine::platform::{ConfigSpace, Platform};
use iommu_engine::policy::Policy;
use iommu_service::records::ResetRecord;
use iommu_service::{HandleId, Outcome, Service, Settings};
use iommu_sim::MachineConfig;
use iommu_sim::pci::ExpressKind;
use iommud::platform::sim::SimPlatform;
use libdma::protocol::call::{Hello, Opcode};
use libdma::protocol::path;
use libdma::{Error, Event};
use zerocopy::IntoBytes;

use crate::adopting::{adopt, death, settle, spoil};
use crate::mortal::{Dead, Mortal};
use crate::rig::{ROOT, Rig, edu};
use crate::vendor::Vendor;

both! {
    r4_a_reset_that_was_under_way_is_finished_by_the_next_daemon,
    r4_a_reset_is_finished_or_was_not_begun_wherever_the_daemon_dies,
    r4_a_reset_is_finished_wherever_those_that_finish_it_die,
    r4_who_comes_back_while_its_device_is_reset_waits_and_is_told,
    r5_a_reset_that_contradicts_itself_or_the_device_is_refused,
}

/// Where the device's registers are, its interrupt's line and pin, and that it answers and masters the bus.
const BAR: u32 = 0xfeb0_0000;
const LINE: u32 = 0x10b;
const MASTER: u32 = 6;

fn machine(vendor: Vendor) -> MachineConfig {
    let mut config = vendor.machine();
    config.edus[0].express = Some(ExpressKind::IntegratedEndpoint);
    config
}

/// Sets up configuration space as firmware and a driver do, and a register of the device that a reset clears.
fn set_up(sim: &SimPlatform) {
    let machine = &mut *sim.machine_mut();
    for (offset, dword) in [(0x10, BAR), (0x3c, LINE), (4, MASTER)] {
        machine.config_write(edu(), offset, dword);
    }
    machine.mmio_write(u64::from(BAR) + 4, 4, 0x1234);
}

/// Configuration space as [`set_up`] has set it, and the device's register.
fn state(sim: &SimPlatform) -> ([u32; 3], u64) {
    let machine = &mut *sim.machine_mut();
    let dwords = [0x10, 0x3c, 4].map(|offset| machine.config_read(edu(), offset));
    ([dwords[0], dwords[1], dwords[2] & 0xffff], machine.mmio_read(u64::from(BAR) + 4, 4))
}

/// The device as it is after its reset: where it was, without mastering the bus, and with nothing of before.
fn is_reset(sim: &SimPlatform) -> bool {
    let (dwords, register) = state(sim);
    (dwords, register) == ([BAR, LINE, MASTER & !4], 0)
}

/// Lets time pass in which a reset ends, and one that is begun anew, too: few polls, for the daemon dies at each access.
fn wait<P: Platform>(service: &mut Service<P>, advance: impl Fn(&mut P)) {
    for _ in 0..8 {
        advance(service.platform_mut());
        service.poll();
    }
}

const STEP: Duration = Duration::from_millis(50);

fn alive(service: &mut Service<SimPlatform>) {
    wait(service, |sim| sim.advance_time(STEP));
}

fn mortal(service: &mut Service<Mortal>) {
    wait(service, |it| it.sim.advance_time(STEP));
}

/// How many resets are written down.
fn records(sim: &SimPlatform) -> usize {
    Ledger::count::<ResetRecord>(sim).unwrap()
}

/// Begins the reset of a device that has been set up.
fn begin<P: Platform>(service: &mut Service<P>, id: HandleId) {
    let asked = service.call(id, Opcode::Reset as u64, &mut [0; 8]);
    assert!(matches!(asked, Ok(Outcome::Pending(_))), "{asked:?}");
}

fn r4_a_reset_that_was_under_way_is_finished_by_the_next_daemon(vendor: Vendor) {
    let rig = Rig::with_manual_clock(machine(vendor), Policy::default());
    let device = rig.open();
    set_up(rig.service.lock().platform());
    let generation = device.generation();
    begin(&mut rig.service.lock(), HandleId(device.handle().raw().number()));
    let mut next = adopt(death(&rig));
    settle(&mut next);
    assert!(next.is_waiting(), "it is to be polled soon");
    assert_eq!(next.platform_mut().config_read(edu(), 0x10), 0);
    alive(&mut next);
    assert!(is_reset(next.platform()), "{:x?}", state(next.platform()));
    assert!(!next.is_waiting() && records(next.platform()) == 0);
    let (_, session) = next.sessions().of_device(edu()).unwrap();
    assert!(session.generation > generation);
}

/// A daemon with the device open, and all that is set up.
fn started(vendor: Vendor) -> (Service<Mortal>, HandleId) {
    let sim = SimPlatform::with_manual_clock(machine(vendor)).unwrap();
    let Ok(mut service) = Service::start(Mortal::new(sim), Settings::default()) else { panic!() };
    while service.is_waiting() {
        service.poll();
    }
    let root = service.root();
    let opened = service.open(root, &path::device(edu()), ROOT).unwrap();
    let Outcome::Done(device) = opened else { panic!("{opened:?}") };
    let mut hello = Hello::new().as_bytes().to_vec();
    service.call(device, Opcode::Hello as u64, &mut hello).unwrap();
    set_up(&service.platform().sim);
    (service, device)
}

/// Does this with so many accesses left. Whether the daemon died of it, and what it leaves.
fn dies(
    mut service: Service<Mortal>,
    left: u64,
    act: impl FnOnce(&mut Service<Mortal>),
) -> (bool, SimPlatform) {
    service.platform().fate.set(Some(left));
    let died = catch_unwind(AssertUnwindSafe(|| act(&mut service)));
    service.platform().fate.set(None);
    if let Err(died) = &died {
        assert!(died.is::<Dead>());
    }
    let mut platform = service.into_platform().sim;
    platform.inherit();
    (died.is_err(), platform)
}

fn r4_a_reset_is_finished_or_was_not_begun_wherever_the_daemon_dies(vendor: Vendor) {
    let (mut before, mut quiet, mut within) = (0, 0, 0);
    for left in 0.. {
        let (service, device) = started(vendor);
        let (_, session) = service.sessions().of_device(edu()).unwrap();
        let generation = session.generation;
        let set_up = state(&service.platform().sim);
        let (died, platform) = dies(service, left, |service| {
            begin(service, device);
            mortal(service);
        });
        // Its own state is still there, and it asks for nothing more.
        let (dwords, register) = state(&platform);
        quiet += usize::from(dwords == [BAR, LINE, MASTER & !4] && register != 0);
        let mut next = adopt(platform);
        settle(&mut next);
        alive(&mut next);
        let (_, session) = next.sessions().of_device(edu()).unwrap();
        assert_eq!(records(next.platform()), 0, "left {left}");
        if state(next.platform()) == set_up {
            before += 1;
        } else {
            assert!(is_reset(next.platform()), "left {left}: {:x?}", state(next.platform()));
            assert!(session.generation > generation, "left {left}");
            within += 1;
        }
        if !died {
            break;
        }
    }
    assert!(before > 0 && quiet > 0 && within > 10, "{before} {quiet} {within}");
}

fn r4_a_reset_is_finished_wherever_those_that_finish_it_die(vendor: Vendor) {
    let (mut deaths, mut quiet) = (0, 0);
    for left in 0.. {
        let platform = half_reset(vendor);
        // Its driver does not wait for the answer.
        platform.machine_mut().config_write(edu(), 4, MASTER);
        let second = Service::adopt(Mortal::new(platform), Settings::default());
        let Ok(mut second) = second else { panic!("left {left}") };
        while !second.engine().is_settled() {
            second.platform_mut().sim.advance_time(Duration::from_micros(10));
            second.poll();
        }
        let (died, platform) = dies(second, left, mortal);
        let command = platform.machine_mut().config_read(edu(), 4) & 0xffff;
        let bar = platform.machine_mut().config_read(edu(), 0x10);
        quiet += usize::from((bar, command) == (0, MASTER & !4));
        let mut third = adopt(platform);
        settle(&mut third);
        alive(&mut third);
        assert!(is_reset(third.platform()), "left {left}: {:x?}", state(third.platform()));
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 10 && quiet > 0, "{deaths} {quiet}");
}

fn r4_who_comes_back_while_its_device_is_reset_waits_and_is_told(vendor: Vendor) {
    let rig = Rig::with_manual_clock(machine(vendor), Policy::default());
    let device = rig.open();
    set_up(rig.service.lock().platform());
    begin(&mut rig.service.lock(), HandleId(device.handle().raw().number()));
    let mut next = adopt(death(&rig));
    settle(&mut next);
    *rig.service.lock() = next;
    assert_eq!(device.events().err(), Some(Error::DaemonGone), "its transport does not wait");
    alive(&mut rig.service.lock());
    let events = device.events().unwrap().events;
    let [Event::DeviceReset { generation, .. }, Event::Restarted { .. }] = events[..] else {
        panic!("{events:?}");
    };
    assert!(device.generation() > generation);
    assert!(is_reset(rig.service.lock().platform()));
}

/// A daemon has died in the middle of a reset.
fn half_reset(vendor: Vendor) -> SimPlatform {
    let (mut service, device) = started(vendor);
    begin(&mut service, device);
    let (_, platform) = dies(service, u64::MAX, |_| {});
    assert_eq!(records(&platform), 1);
    platform
}

fn r5_a_reset_that_contradicts_itself_or_the_device_is_refused(vendor: Vendor) {
    // A word of the record, and what is there instead: another place, another capability, a place that has none, mastering.
    let other = half_reset(vendor);
    let [(_, written)] = &Ledger::records::<ResetRecord>(&other).unwrap()[..] else { panic!() };
    let words = written.to_words();
    let spoilt =
        [(0, 1 << 32), (1, words[1] + 4), (1, words[1] & 0xffff), (1, 0), (7, words[7] | 4)];
    for (word, value) in spoilt {
        let platform = half_reset(vendor);
        assert!(spoil(&platform, ResetRecord::KIND, word + 1, value), "{word}");
        let Err((error, platform)) = Service::adopt(platform, Settings::default()) else {
            panic!("{word} {value:#x}");
        };
        assert_eq!(error, AdoptError::Record, "{word} {value:#x}");
        let Ok(mut service) = Service::start(platform, Settings::default()) else { panic!() };
        settle(&mut service);
        assert_eq!(records(service.platform()), 0);
    }
    // Two of one function.
    let mut platform = half_reset(vendor);
    let (mut ledger, _) = Ledger::found(&platform).unwrap();
    ledger.insert(&mut platform, written).unwrap();
    let refused = Service::adopt(platform, Settings::default()).err().map(|(error, _)| error);
    assert_eq!(refused, Some(AdoptError::Record));
}
