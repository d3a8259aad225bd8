//! Quarantine: of whom, what it takes away and leaves, and how it ends (R1, R2, R3, R4, R7).

use std::time::Duration;

use dma_types::PciAddress;
use iommu_engine::ledger::Ledger;
use iommu_engine::policy::{Devices, Policy, QuarantineAfter, QuarantineRule, Rule};
use iommu_service::Caller;
use iommu_service::in_process::InProcess;
use iommu_service::records::QuarantineRecord;
use libdma::protocol::call::{Hello, Opcode, Welcome};
use libdma::protocol::path;
use libdma::{Access, Device, Error, Event, Handle, Iova};

use crate::chosen::piece;
use crate::rig::{ROOT, Rig, edu};
use crate::vendor::Vendor;

both! {
    the_last_fault_that_the_policy_allows_quarantines_and_the_one_before_does_not,
    r1_a_device_in_quarantine_reaches_nothing_and_its_driver_gives_back_what_it_has,
    r7_a_release_gives_back_what_was_reached_and_bus_mastering_as_it_was,
    nobody_but_the_administrator_releases,
    the_whole_group_goes_in_and_comes_out_and_nobody_else,
    a_rule_for_a_device_comes_before_the_policy_for_all,
    without_a_policy_nobody_is_quarantined,
    a_device_that_nobody_holds_goes_in_and_is_not_opened,
    r4_a_driver_that_dies_in_quarantine_leaves_nothing_and_the_next_one_waits_for_the_release,
    a_device_that_was_in_an_explicit_domain_comes_back_there_unless_it_has_left,
    reports_say_why_and_for_how_long,
    what_must_survive_the_daemon_is_written_down_until_the_release,
    so_many_within_the_time_quarantine_wherever_they_begin,
    faults_are_the_device_s_whichever_driver_has_it,
    a_member_that_was_silenced_before_stays_so_in_quarantine,
}

pub(crate) const PAGE: u64 = 4096;

pub(crate) const AFTER: QuarantineAfter =
    QuarantineAfter { faults: 3, within: Duration::from_secs(1) };

pub(crate) fn policy() -> Policy {
    Policy { quarantine: Some(AFTER), ..Policy::default() }
}

pub(crate) fn rig(vendor: Vendor) -> Rig {
    Rig::with_manual_clock(vendor.machine().with_root_port(), policy())
}

pub(crate) fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

/// Lets a device write so often where it may not.
pub(crate) fn offend(rig: &Rig, device: PciAddress, times: u64) {
    for page in 1..=times {
        rig.writes(device, Iova::new(page << 12), &[1; 8]).unwrap_err();
    }
    rig.service.lock().poll();
}

pub(crate) fn is_master(rig: &Rig, device: PciAddress) -> bool {
    rig.service.lock().platform_mut().machine_mut().config_read(device, 4) & 4 != 0
}

fn make_master(rig: &Rig, device: PciAddress) {
    rig.service.lock().platform_mut().machine_mut().config_write(device, 4, 6);
}

fn release_as(rig: &Rig, caller: Caller, device: PciAddress) -> Result<(), Error> {
    // SAFETY: nothing is mapped by it.
    let transport = std::sync::Arc::new(unsafe { InProcess::new(rig.service.clone(), caller) });
    let node = Handle::open(transport, &path::quarantine(device))?;
    node.call_bytes(Opcode::Release, &mut []).map(drop)
}

fn release(rig: &Rig, device: PciAddress) -> Result<(), Error> {
    release_as(rig, ROOT, device)
}

/// Has a driver go on after a release.
fn greet(handle: &Handle) {
    let _: Welcome = handle.call(Opcode::Hello, &Hello::new()).unwrap();
}

fn is_in(rig: &Rig, device: PciAddress) -> bool {
    let service = rig.service.lock();
    assert_eq!(service.engine().is_blocked(device), service.quarantine_of(device).is_some());
    service.engine().is_blocked(device)
}

/// What a driver is told, but for faults.
pub(crate) fn told(device: &Device) -> Vec<Event> {
    let events = device.events().unwrap().into_iter();
    events.filter(|event| !matches!(event, Event::Fault(_))).collect()
}

fn the_last_fault_that_the_policy_allows_quarantines_and_the_one_before_does_not(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    offend(&rig, edu(), 2);
    assert!(!is_in(&rig, edu()) && is_master(&rig, edu()));
    rig.pass(Duration::from_millis(1001));
    offend(&rig, edu(), 2);
    assert!(!is_in(&rig, edu()), "the time was over");
    assert_eq!(told(&device), []);
    rig.pass(Duration::from_millis(1000));
    offend(&rig, edu(), 1);
    assert!(is_in(&rig, edu()) && !is_master(&rig, edu()));
    let now = iommu_engine::platform::Platform::now(rig.service.lock().platform()).as_nanos();
    let events = device.events().unwrap();
    assert_eq!(events.faults().count(), 1, "the last is told, too");
    let at = Duration::from_nanos(now);
    let expected = Event::Quarantined { at, requester: edu(), faults: 3, within: AFTER.within };
    assert_eq!(events.events.last(), Some(&expected));
    assert_eq!(
        expected.to_string(),
        "the device is in quarantine and reaches nothing: 0000:00:02.0 was denied 3 accesses within 1 s; see \
         `iommuctl devices`"
    );
    rig.check();
}

fn r1_a_device_in_quarantine_reaches_nothing_and_its_driver_gives_back_what_it_has(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(2 * PAGE, Some(Access::ReadWrite), "ring").unwrap();
    let mapped = device.map(&[piece(&buffer, PAGE, PAGE)]).unwrap();
    let start = buffer.iova().unwrap().get();
    rig.device_writes(start, &[1; 8]).unwrap();
    offend(&rig, edu(), 3);
    let usage = rig.usage();
    rig.device_writes(start, &[2; 8]).unwrap_err();
    // Nor if somebody makes it master the bus again; and of that nothing is recorded.
    make_master(&rig, edu());
    told(&device);
    for _ in 0..1000 {
        assert!(rig.device_writes(start, &[2; 8]).unwrap_err().is_by_tables());
    }
    assert_eq!(device.events().unwrap().events, []);

    let quarantined = Err(Error::Quarantined);
    assert_eq!(device.map(&[piece(&buffer, 0, PAGE)]).map(drop), quarantined);
    assert_eq!(device.allocate(PAGE, Some(Access::Read), "more").map(drop), quarantined);
    let domain = device.new_domain("apart").create().unwrap();
    assert_eq!(domain.attach(&device).map(drop), quarantined);
    assert_eq!(rig.usage().live_runs, usage.live_runs, "r7");
    let unmapped = device.allocate(PAGE, None, "for later").unwrap();
    domain.map(&[piece(&unmapped, 0, PAGE)]).unwrap();
    device.unmap(&mapped).unwrap();
    drop((domain, unmapped, buffer, device));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r7_a_release_gives_back_what_was_reached_and_bus_mastering_as_it_was(vendor: Vendor) {
    for config in vendor.interfaces().into_iter().chain([vendor.caching()]) {
        let rig = Rig::with_manual_clock(config, policy());
        let device = rig.open();
        let word = device.coherent("word").alone().value::<u64>().unwrap();
        for round in 1..=3 {
            offend(&rig, edu(), 3);
            assert!(is_in(&rig, edu()));
            rig.device_writes(word.iova().get(), &[1; 8]).unwrap_err();
            assert_eq!(release(&rig, edu()), Ok(()));
            assert!(!is_in(&rig, edu()) && is_master(&rig, edu()));
            rig.device_writes(word.iova().get(), &[round; 8]).unwrap();
            assert_eq!(word.get().to_ne_bytes(), [round; 8]);
            // Its driver learns at the next request that the device is to be set up anew.
            assert_eq!(device.events(), Err(Error::DeviceReset));
            greet(device.handle());
            let [Event::Quarantined { .. }, Event::Released { generation, .. }] = told(&device)[..]
            else {
                panic!()
            };
            assert_eq!(generation, u64::from(round) + 1);
            // What is denied is counted anew.
            offend(&rig, edu(), 2);
            assert!(!is_in(&rig, edu()));
            rig.pass(2 * AFTER.within);
        }
        rig.check();
    }
}

fn nobody_but_the_administrator_releases(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    assert_eq!(release(&rig, edu()), Err(Error::NotQuarantined));
    assert_eq!(release(&rig, "00:1e.7".parse().unwrap()), Err(Error::NoSuchDevice));
    offend(&rig, edu(), 3);
    assert_eq!(release_as(&rig, Caller { uid: 1000 }, edu()), Err(Error::NotPermitted));
    let own = device.handle().call_bytes(Opcode::Release, &mut []);
    assert_eq!(own, Err(Error::WrongHandleKind), "its driver is not asked");
    assert!(is_in(&rig, edu()));
    assert_eq!(release(&rig, edu()), Ok(()));
    assert_eq!(release(&rig, edu()), Err(Error::NotQuarantined));
    rig.check();
}

fn the_whole_group_goes_in_and_comes_out_and_nobody_else(vendor: Vendor) {
    let cards: [PciAddress; 2] = ["12:00.0", "13:00.0"].map(|card| card.parse().unwrap());
    let config = vendor.machine().with_switch(None);
    let rig = Rig::with_manual_clock(config, policy());
    let [one, two] = cards.map(|card| rig.open_at(card).unwrap());
    let elsewhere = rig.open();
    let words = [&one, &two].map(|it| it.coherent("word").alone().value::<u64>().unwrap());
    let place = |index: usize| words[index].iova();
    offend(&rig, cards[0], 3);
    assert!(cards.iter().all(|card| is_in(&rig, *card) && !is_master(&rig, *card)));
    assert!(!is_in(&rig, edu()) && is_master(&rig, edu()));
    for (index, device) in [&one, &two].into_iter().enumerate() {
        let [Event::Quarantined { requester, .. }] = told(device)[..] else { panic!() };
        assert_eq!(requester, cards[0]);
        make_master(&rig, cards[index]);
        assert!(rig.writes(cards[index], place(index), &[1]).is_err());
        let refused = device.allocate(PAGE, Some(Access::Read), "more").err();
        assert_eq!(refused, Some(Error::Quarantined));
    }
    assert_eq!(told(&elsewhere), []);
    assert!(elsewhere.allocate(PAGE, Some(Access::Read), "more").is_ok());
    release(&rig, cards[1]).unwrap();
    for (index, card) in cards.into_iter().enumerate() {
        assert!(!is_in(&rig, card) && is_master(&rig, card));
        rig.writes(card, place(index), &[1]).unwrap();
    }
    rig.check();
}

fn a_rule_for_a_device_comes_before_the_policy_for_all(vendor: Vendor) {
    let never = Rule { quarantine: Some(QuarantineRule::Never), ..Rule::new(Devices::At(edu())) };
    let after = QuarantineAfter { faults: 1, ..AFTER };
    let sooner =
        Rule { quarantine: Some(QuarantineRule::After(after)), ..Rule::new(Devices::At(other())) };
    let policy = Policy { rules: vec![never, sooner], ..policy() };
    let rig = Rig::with_manual_clock(vendor.machine().with_root_port(), policy);
    let _devices = [rig.open(), rig.open_at(other()).unwrap()];
    offend(&rig, edu(), 100);
    offend(&rig, other(), 1);
    assert!(!is_in(&rig, edu()) && is_in(&rig, other()));
}

fn without_a_policy_nobody_is_quarantined(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.machine(), Policy::default());
    let _device = rig.open();
    for _ in 0..1000 {
        offend(&rig, edu(), 4);
    }
    assert!(!is_in(&rig, edu()) && is_master(&rig, edu()));
}

fn a_device_that_nobody_holds_goes_in_and_is_not_opened(vendor: Vendor) {
    let rig = rig(vendor);
    make_master(&rig, edu());
    offend(&rig, edu(), 3);
    assert!(is_in(&rig, edu()) && !is_master(&rig, edu()));
    assert_eq!(rig.open_again().err(), Some(Error::Quarantined));
    release(&rig, edu()).unwrap();
    assert!(is_master(&rig, edu()));
    rig.device_writes(0x5000, &[1]).unwrap_err();
    assert!(rig.open_again().is_ok());
    rig.check();
}

fn r4_a_driver_that_dies_in_quarantine_leaves_nothing_and_the_next_one_waits_for_the_release(
    vendor: Vendor,
) {
    let rig = rig(vendor);
    let before = rig.usage();
    let device = rig.open();
    let word = device.coherent("word").alone().value::<u64>().unwrap();
    let place = word.iova().get();
    offend(&rig, edu(), 3);
    rig.end_session(&device);
    drop((word, device));
    let usage = rig.usage();
    assert_eq!(usage.live_runs, before.live_runs);
    assert_eq!(usage.live_frames, before.live_frames + vendor.frames_per_bus());
    assert!(is_in(&rig, edu()));
    assert_eq!(rig.open_again().err(), Some(Error::Quarantined));
    release(&rig, edu()).unwrap();
    assert!(!is_master(&rig, edu()), "who made it master the bus is dead");
    let next = rig.open();
    assert!(rig.device_writes(place, &[1]).is_err());
    drop(next);
    rig.check();
}

fn a_device_that_was_in_an_explicit_domain_comes_back_there_unless_it_has_left(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let own = device.allocate(PAGE, Some(Access::ReadWrite), "own").unwrap();
    let shared = device.allocate(PAGE, None, "shared").unwrap();
    let domain = device.new_domain("fixed").create().unwrap();
    let fixed = Iova::new(0x5000_0000);
    domain.map_at(fixed, &[piece(&shared, 0, PAGE)]).unwrap();
    let reaches = |iova: Iova| rig.device_writes(iova.get(), &[1]).is_ok();
    let inside = domain.attach(&device).unwrap();
    offend(&rig, edu(), 3);
    assert!(!reaches(fixed));
    release(&rig, edu()).unwrap();
    assert!(reaches(fixed) && !reaches(own.iova().unwrap()));
    offend(&rig, edu(), 3);
    greet(device.handle());
    inside.leave().unwrap();
    release(&rig, edu()).unwrap();
    assert!(!reaches(fixed) && reaches(own.iova().unwrap()));
    // The domain ends while the device is in both.
    greet(device.handle());
    greet(domain.handle());
    let inside = domain.attach(&device).unwrap();
    offend(&rig, edu(), 3);
    drop(domain);
    release(&rig, edu()).unwrap();
    assert!(!reaches(fixed) && reaches(own.iova().unwrap()));
    drop(inside);
    rig.check();
}

fn reports_say_why_and_for_how_long(vendor: Vendor) {
    let rig = rig(vendor);
    let _device = rig.open();
    offend(&rig, edu(), 3);
    rig.pass(Duration::from_millis(12_345));
    let why = "in quarantine for 12.3 s: 0000:00:02.0 was denied 3 accesses within 1 s, the last a write at \
               0x3000; `iommuctl release` ends it";
    let row = |rig: &Rig, node| {
        let rows = rig.json(node);
        let edu = edu().to_string();
        rows.as_array().unwrap().iter().rfind(|row| row["device"] == edu).unwrap().clone()
    };
    assert_eq!((&row(&rig, "devices")["state"]), "QUARANTINED");
    for node in ["devices", "faults"] {
        assert_eq!(row(&rig, node)["quarantine"], why);
        assert!(rig.text(node).contains(why), "{}", rig.text(node));
    }
    release(&rig, edu()).unwrap();
    assert_eq!(row(&rig, "devices")["state"], "held");
    assert!(row(&rig, "faults")["quarantine"].is_null());
    assert!(!rig.text("devices").contains("quarantine"));
}

fn what_must_survive_the_daemon_is_written_down_until_the_release(vendor: Vendor) {
    let rig = rig(vendor);
    let _device = rig.open();
    let written = || {
        let service = rig.service.lock();
        let records = Ledger::records::<QuarantineRecord>(service.platform()).unwrap();
        records.into_iter().map(|(_, record)| record).collect::<Vec<_>>()
    };
    assert_eq!(written(), []);
    offend(&rig, edu(), 3);
    let (requester, QuarantineAfter { faults, within }) = (edu(), AFTER);
    let record = QuarantineRecord { device: edu(), was_master: true, requester, faults, within };
    assert_eq!(written(), [record]);
    release(&rig, edu()).unwrap();
    assert_eq!(written(), []);
}

fn so_many_within_the_time_quarantine_wherever_they_begin(vendor: Vendor) {
    let rig = rig(vendor);
    let _device = rig.open();
    // At 0, 900 and 1001 ms: of no second more than two. At 1900 there are three, of the second since 900.
    for pause in [0, 900, 101] {
        rig.pass(Duration::from_millis(pause));
        offend(&rig, edu(), 1);
        assert!(!is_in(&rig, edu()), "after {pause}");
    }
    rig.pass(Duration::from_millis(899));
    offend(&rig, edu(), 1);
    assert!(is_in(&rig, edu()));
}

fn faults_are_the_device_s_whichever_driver_has_it(vendor: Vendor) {
    let rig = rig(vendor);
    for driver in 1..=2 {
        let device = rig.open();
        offend(&rig, edu(), 1);
        assert!(!is_in(&rig, edu()), "driver {driver}");
        drop(device);
    }
    let _device = rig.open();
    offend(&rig, edu(), 1);
    assert!(is_in(&rig, edu()));
}

fn a_member_that_was_silenced_before_stays_so_in_quarantine(vendor: Vendor) {
    let cards: [PciAddress; 2] = ["12:00.0", "13:00.0"].map(|card| card.parse().unwrap());
    let never =
        Rule { quarantine: Some(QuarantineRule::Never), ..Rule::new(Devices::At(cards[0])) };
    let policy = Policy { rules: vec![never], ..policy() };
    let rig = Rig::with_manual_clock(vendor.machine().with_switch(None), policy);
    let _devices = cards.map(|card| rig.open_at(card).unwrap());
    for _ in 0..100 {
        offend(&rig, cards[0], 4);
    }
    assert!(rig.service.lock().wants_polling(), "it is silenced");
    offend(&rig, cards[1], 3);
    assert!(is_in(&rig, cards[0]));
    rig.pass(iommu_service::faults::storms::SILENCE);
    rig.service.lock().poll();
    let total = rig.service.lock().faults().total();
    make_master(&rig, cards[0]);
    offend(&rig, cards[0], 8);
    assert_eq!(rig.service.lock().faults().total(), total);
    release(&rig, cards[0]).unwrap();
    offend(&rig, cards[0], 8);
    assert_eq!(rig.service.lock().faults().total(), total + 8);
}
