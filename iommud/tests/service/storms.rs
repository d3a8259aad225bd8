//! Devices that are denied something all the time: what is told and counted of it, what it costs, and that others' faults
//! are told all the while (R5).

use dma_types::{PciAddress, SourceId};
use iommu_engine::policy::Policy;
use iommu_service::faults::events::UNREAD;
use iommu_service::faults::storms::{AT_ONCE, SILENCE, STORM};
use iommu_sim::machine::FunctionConfig;
use libdma::{Device, Event, Events};

use crate::adopting::{adopt, death, settle};
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    r5_of_a_hundred_thousand_faults_each_is_told_or_counted_until_the_unit_records_no_more,
    r5_others_faults_are_told_in_a_storm_and_after_it,
    r5_reading_faults_ends_however_fast_they_come,
    after_a_silence_everything_is_recorded_again,
    silence_changes_nothing_of_what_is_reached_and_ends_with_the_session,
    what_was_dropped_is_counted_in_reports,
    a_storm_of_before_the_death_of_the_daemon_is_recorded_again,
    r5_a_storm_of_what_is_nobodys_device_is_silenced_and_ends,
}

fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn rig(vendor: Vendor) -> Rig {
    Rig::with_manual_clock(vendor.machine().with_root_port(), Policy::default())
}

/// Lets a device write where it may not, to so many pages, and iommud look after every four.
fn storm(rig: &Rig, device: PciAddress, faults: u64) {
    for page in 1..=faults {
        deny(rig, device, page << 12);
        if page % 4 == 0 {
            rig.service.lock().poll();
        }
    }
    rig.service.lock().poll();
}

fn deny(rig: &Rig, device: PciAddress, address: u64) {
    rig.writes(device, libdma::Iova::new(address), &[1]).unwrap_err();
}

fn events(device: &Device) -> Events {
    device.events().unwrap()
}

/// How many faults the first unit has made, recorded or not.
fn made(rig: &Rig) -> u64 {
    let service = rig.service.lock();
    let machine = service.platform().machine();
    let vtd = machine.unit(0).map(|unit| unit.counters().faults);
    vtd.or_else(|| machine.amdvi(0).map(|unit| unit.counters().events)).unwrap()
}

fn told(events: &Events) -> u64 {
    events.faults().map(|fault| fault.times).sum()
}

fn r5_of_a_hundred_thousand_faults_each_is_told_or_counted_until_the_unit_records_no_more(
    vendor: Vendor,
) {
    let rig = rig(vendor);
    let device = rig.open();
    storm(&rig, edu(), 100_000);
    assert_eq!(made(&rig), 100_000);
    let recorded = u64::from(AT_ONCE + STORM);
    assert_eq!(rig.service.lock().faults().total(), recorded);
    assert_eq!(rig.service.lock().faults().dropped(), u64::from(STORM));
    let events = events(&device);
    assert_eq!(events.events.len(), UNREAD);
    assert_eq!(told(&events) + events.dropped, recorded);
    assert_eq!(told(&events), UNREAD as u64 - 1);
    let silenced = events.events.last().unwrap();
    let Event::Silenced { requester, lasts, .. } = silenced else { panic!("{silenced}") };
    assert_eq!((*requester, *lasts), (edu(), SILENCE));
    assert_eq!(
        silenced.to_string(),
        "0000:00:02.0 was denied too much to be told: what it is denied in the next 1 s is not recorded"
    );
    assert_eq!(device.events(), Ok(Events::default()), "it was told");
    rig.check();
}

fn r5_others_faults_are_told_in_a_storm_and_after_it(vendor: Vendor) {
    let rig = rig(vendor);
    let wild = rig.open();
    let calm = rig.open_at(other()).unwrap();
    // While all is recorded yet, between two looks.
    storm(&rig, edu(), 200);
    deny(&rig, other(), 0x5000);
    storm(&rig, edu(), 1000);
    assert_eq!(told(&events(&calm)), 1);
    // More than any log has room for, and nobody looks.
    for page in 1..=10_000 {
        deny(&rig, edu(), page << 12);
    }
    deny(&rig, other(), 0x6000);
    for page in 1..=10_000 {
        deny(&rig, edu(), page << 12);
    }
    let seen = events(&calm);
    assert_eq!((told(&seen), seen.dropped, seen.events.len()), (1, 0, 1));
    assert_eq!(seen.faults().next().unwrap().address.get(), 0x6000);
    // Nor are they gone from the report, however long the other goes on.
    for _ in 0..20 {
        rig.pass(SILENCE);
        storm(&rig, edu(), 400);
    }
    let rows = rig.json("faults");
    let of = |device: PciAddress| {
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["device"] == device.to_string()).count()
    };
    assert_eq!(of(other()), 2);
    assert!(of(edu()) >= 128);
    drop(wild);
    rig.check();
}

fn r5_reading_faults_ends_however_fast_they_come(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    // The log is full, and with every access to a register there is another fault.
    for page in 1..=1000 {
        deny(&rig, edu(), page << 12);
    }
    let mut service = rig.service.lock();
    service.platform_mut().write_between(edu(), (0..100_000).map(|page| Some((page % 5000) << 12)));
    let most = match vendor {
        // Four rounds of eight records of four words and the status, and a silence's invalidations.
        Vendor::Vtd => 4 * (8 * 4 + 2) + 16,
        Vendor::Amdvi => 32,
    };
    for _ in 0..50 {
        let before = service.platform().register_reads();
        service.poll();
        let reads = service.platform().register_reads() - before;
        assert!(reads <= most, "{reads}");
    }
    assert!(service.platform().writes_between() > 0, "there was no end to it");
    let total = service.faults().total();
    // What the log of a unit holds may have been read four times before the unit heard of it.
    assert!(total <= u64::from(AT_ONCE + STORM) + 4 * 256, "{total}");
    drop(service);
    let events = events(&device);
    assert_eq!(told(&events) + events.dropped, total);
}

fn after_a_silence_everything_is_recorded_again(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    storm(&rig, edu(), 1000);
    assert!(events(&device).dropped > 0);
    assert!(rig.service.lock().wants_polling(), "for the silence to end");
    rig.pass(SILENCE - std::time::Duration::from_nanos(1));
    storm(&rig, edu(), 8);
    assert_eq!(events(&device), Events::default());
    rig.pass(std::time::Duration::from_nanos(1));
    rig.service.lock().poll();
    storm(&rig, edu(), 8);
    let seen = events(&device);
    assert_eq!((told(&seen), seen.dropped), (8, 0));
    rig.check();
}

fn silence_changes_nothing_of_what_is_reached_and_ends_with_the_session(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let word = device.coherent("word").alone().value::<u64>().unwrap();
    let reached = || rig.device_writes(word.iova().get(), &[7; 8]).is_ok();
    assert!(reached());
    storm(&rig, edu(), 1000);
    assert!(reached() && rig.device_writes(word.iova().get() + 4096, &[1]).is_err());
    let next = device.coherent("next").alone().value::<u64>().unwrap();
    assert!(rig.device_writes(next.iova().get(), &[1]).is_ok());
    drop((word, next, device));
    let device = rig.open();
    storm(&rig, edu(), 8);
    assert_eq!(told(&events(&device)), 8, "another driver's faults are told from the first");
    rig.pass(SILENCE);
    rig.service.lock().poll();
    storm(&rig, edu(), 8);
    assert_eq!(told(&events(&device)), 8);
    rig.check();
}

fn what_was_dropped_is_counted_in_reports(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    storm(&rig, edu(), 1000);
    let rows = rig.json("faults");
    let rows = rows.as_array().unwrap();
    let (last, before) = rows.split_last().unwrap();
    assert_eq!(last["dropped"], STORM);
    assert!(before.iter().all(|row| row["dropped"] == 0));
    assert!(
        rig.text("faults").contains("256 others of this device are not shown: it made too many")
    );
    let devices = rig.json("devices");
    let row = devices.as_array().unwrap().iter().find(|row| row["device"] == edu().to_string());
    assert_eq!(row.unwrap()["faults"], AT_ONCE + STORM);
    drop(device);
}

fn a_storm_of_before_the_death_of_the_daemon_is_recorded_again(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    // One whose entry lets it reach something, and one whose entry does not.
    storm(&rig, edu(), 1000);
    storm(&rig, other(), 1000);
    let mut service = adopt(death(&rig));
    settle(&mut service);
    for who in [edu(), other()] {
        let before = service.faults().total();
        service.platform_mut().machine_mut().config_write(who, 4, 6);
        service.platform().machine_mut().dma_write(who, 0x1000, &[1]).unwrap_err();
        service.poll();
        assert_eq!(service.faults().total(), before + 1, "{who}");
    }
    core::mem::forget(device);
}

fn r5_a_storm_of_what_is_nobodys_device_is_silenced_and_ends(vendor: Vendor) {
    // It signs as nobody does that iommud knows, but by AMD's firmware.
    let stranger = "0000:00:06.0".parse().unwrap();
    let requester = Some(SourceId::new(0x4242));
    let function = FunctionConfig { requester, ..FunctionConfig::endpoint(stranger) };
    let mut config = vendor.machine();
    config.functions.push(function);
    let rig = Rig::with_manual_clock(config, Policy::default());
    let calm = rig.open();
    rig.service.lock().platform().machine_mut().config_write(stranger, 4, 6);
    let recorded = u64::from(AT_ONCE + STORM);
    for round in 1..=2 {
        storm(&rig, stranger, 10_000);
        let total = rig.service.lock().faults().total();
        assert!(total <= round * recorded, "{total} in round {round}");
        rig.pass(SILENCE);
        rig.service.lock().poll();
    }
    deny(&rig, stranger, 0x5000);
    let total = rig.service.lock().faults().total();
    rig.service.lock().poll();
    assert_eq!(rig.service.lock().faults().total(), total + 1, "it is recorded again");
    assert_eq!(events(&calm), Events::default());
    rig.check();
}

/// AMD's firmware tells of everybody's aliases: there they are known.
#[test]
fn r5_of_what_many_sign_whom_nobody_knows_no_more_is_told_than_of_one() {
    let strangers: [PciAddress; 3] =
        ["00:06.0", "00:07.0", "00:08.0"].map(|address| address.parse().unwrap());
    let mut config = Vendor::Vtd.machine();
    for (number, stranger) in strangers.iter().enumerate() {
        let requester = Some(SourceId::new(0x4242 + number as u16));
        config.functions.push(FunctionConfig { requester, ..FunctionConfig::endpoint(*stranger) });
    }
    let rig = Rig::with_manual_clock(config, Policy::default());
    for stranger in strangers {
        rig.service.lock().platform().machine_mut().config_write(stranger, 4, 6);
        storm(&rig, stranger, 100);
    }
    let service = rig.service.lock();
    assert_eq!(
        (service.faults().total(), service.faults().dropped()),
        (300, 300 - u64::from(AT_ONCE))
    );
}
