//! A daemon that goes on with what another left that has died: nobody has a handle, and everything else is as it was.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::engine::adopt::AdoptError;
use iommu_engine::ledger::{Ledger, Record};
use iommu_engine::payer::Payer;
use iommu_engine::platform::{BufferRuns, Platform, TableFrames};
use iommu_engine::policy::{Policy, Resource};
use iommu_engine::records::{AttachmentRecord, EpochRecord, UnitRecord, address_word};
use iommu_service::records::{BufferRecord, PeerBarRecord, SessionRecord};
use iommu_service::sessions::session::BufferId;
use iommu_service::{Service, Settings};
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;
use libdma::{MapRequest, Mapped};

use crate::chosen::entry;
use crate::recount::recount;
use crate::rig::{Rig, edu};
use crate::strict::send;
use crate::tickets::open_other;
use crate::vendor::{Vendor, slow_down};

both! {
    r4_sessions_and_buffers_are_there_again_and_devices_go_on_meanwhile,
    r2_nothing_is_mapped_or_used_again_before_all_is_forgotten,
    r5_what_contradicts_itself_is_refused_and_the_machine_is_taken_over,
    r2_memory_that_is_mapped_strictly_is_so_still_and_other_memory_is_not,
    r7_sessions_pay_for_what_they_had_and_for_nothing_else,
}

/// The daemon dies: its platform, as the next one has it.
pub(crate) fn death(rig: &Rig) -> SimPlatform {
    let other = SimPlatform::with_manual_clock(MachineConfig::default()).unwrap();
    let Ok(other) = Service::start(other, Settings::default()) else { panic!("no IOMMU") };
    let dead = core::mem::replace(&mut *rig.service.lock(), other);
    let mut platform = dead.into_platform();
    platform.inherit();
    platform
}

pub(crate) fn adopt(platform: SimPlatform) -> Service<SimPlatform> {
    match Service::adopt(platform, Settings::default()) {
        Ok(service) => service,
        Err((error, _)) => panic!("{error}"),
    }
}

pub(crate) fn settle(service: &mut Service<SimPlatform>) {
    while !service.engine().is_settled() {
        service.platform_mut().advance_time(Duration::from_micros(10));
        service.poll();
    }
    service.poll();
}

fn records<R: Record>(platform: &SimPlatform) -> Vec<R> {
    Ledger::records::<R>(platform).unwrap().into_iter().map(|(_, record)| record).collect()
}

fn r4_sessions_and_buffers_are_there_again_and_devices_go_on_meanwhile(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.machine(), Policy::default());
    let device = rig.open();
    let rings = [0x3000, 0x20_0000, 0x1000];
    let rings = rings.map(|bytes| device.allocate(bytes, Some(Access::ReadWrite), "ring").unwrap());
    let addresses: Vec<u64> = rings.iter().map(|it| it.iova().unwrap().get()).collect();
    let usage = rig.usage();
    let platform = death(&rig);
    let writes = |platform: &SimPlatform| {
        for (index, iova) in addresses.iter().enumerate() {
            platform.machine_mut().dma_write(edu(), *iova, &[index as u8; 64]).unwrap();
        }
    };
    writes(&platform);
    let before = records::<SessionRecord>(&platform);
    let mut service = adopt(platform);
    writes(service.platform());
    settle(&mut service);
    writes(service.platform());
    assert!(!service.platform().inherited());
    assert_eq!(service.platform().usage(), usage);
    assert_eq!(records::<SessionRecord>(service.platform()), before);
    assert_eq!(records::<BufferRecord>(service.platform()).len(), 3);
    assert_eq!(service.handles(), 0);
    let domains: Vec<_> = service.engine().domains().collect();
    let mapped: u64 = domains.iter().map(|(_, domain)| domain.mapped_bytes()).sum();
    assert_eq!(mapped, 0x20_4000);
    assert_eq!(service.platform().machine().violations(), Vec::<String>::new());
}

fn r2_nothing_is_mapped_or_used_again_before_all_is_forgotten(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.machine(), Policy::default());
    let device = rig.open();
    let ring = device.allocate(0x3000, Some(Access::ReadWrite), "ring").unwrap();
    let iova = ring.iova().unwrap().get();
    rig.device_writes(iova, &[1; 64]).unwrap();
    // What it had in use, and nobody has a record of.
    let lost = rig.service.lock().platform_mut().alloc_frame().unwrap();
    let run = rig.service.lock().platform_mut().alloc_run(0x1000).unwrap();
    let usage = rig.usage();
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::After(1_000_000));
    let mut service = adopt(death(&rig));
    assert!(!service.engine().is_settled());
    assert!(service.platform().inherited());
    assert!(service.platform().table(lost).unwrap().iter().all(|word| word.load(Relaxed) == 0));
    assert_eq!(service.platform().segments(run), [], "nobody has kept it");
    while !service.engine().is_settled() {
        assert!(service.platform().inherited());
        service.platform().machine_mut().dma_write(edu(), iova, &[1; 64]).unwrap();
        service.platform_mut().advance_time(Duration::from_micros(100));
        service.poll();
    }
    assert!(!service.platform().inherited());
    let after = service.platform().usage();
    assert_eq!((after.live_frames, after.live_runs), (usage.live_frames - 1, usage.live_runs - 1));
    assert_eq!((after.freed_accesses, after.bad_frees), (0, 0));
}

fn r5_what_contradicts_itself_is_refused_and_the_machine_is_taken_over(vendor: Vendor) {
    // The kind of a record that is struck out, or of which a word is changed.
    type Spoil = fn(&SimPlatform) -> bool;
    let spoils: [(&str, Spoil); 7] = [
        ("no epoch", |it| spoil(it, EpochRecord::KIND, 0, 0)),
        ("another root", |it| spoil(it, UnitRecord::KIND, 5, 0x1000)),
        ("no such segment", |it| spoil(it, UnitRecord::KIND, 2, 1 << 20)),
        ("another table", |it| spoil(it, 2, 2, 0x1_0000_0003)),
        ("a record of nothing", |it| spoil(it, AttachmentRecord::KIND, 3, 1 << 20)),
        ("two sessions of one device", |it| {
            let sessions = records::<SessionRecord>(it);
            spoil(it, SessionRecord::KIND, 2, address_word(sessions[1].device))
        }),
        ("one number for a buffer and a peer's BAR", |it| {
            let buffers = records::<BufferRecord>(it);
            spoil(it, PeerBarRecord::KIND, 1, buffers[0].buffer.0)
        }),
    ];
    for (what, spoil) in spoils {
        let machine = vendor.two_units().with_peer_routing();
        let rig = Rig::with_manual_clock(machine, Policy::default());
        let (device, other) = (rig.open(), open_other(&rig));
        let ring = device.allocate(0x3000, Some(Access::ReadWrite), "ring").unwrap();
        let iova = ring.iova().unwrap().get();
        let ticket = other.offer_bar(0, 0, 0x1000, Access::Write).unwrap();
        let _peer_bar = device.attach(&ticket, Access::Write, "doorbell").unwrap();
        let platform = death(&rig);
        assert!(spoil(&platform), "{what}");
        let Err((error, platform)) = Service::adopt(platform, Settings::default()) else {
            panic!("{what}");
        };
        assert_ne!(error, AdoptError::NothingInherited, "{what}");
        // It reaches what it reached, until it is taken over.
        platform.machine_mut().dma_write(edu(), iova, &[1; 64]).unwrap();
        let Ok(mut service) = Service::start(platform, Settings::default()) else { panic!() };
        settle(&mut service);
        let written = service.platform().machine_mut().dma_write(edu(), iova, &[1; 64]);
        assert!(written.is_err(), "{what}");
    }
}

/// Changes a word of the first record of a kind.
pub(crate) fn spoil(platform: &SimPlatform, kind: u64, word: usize, value: u64) -> bool {
    let table = platform.table(platform.header_frame()).unwrap();
    let slot = (1..32).find(|slot| table[slot * 16].load(Relaxed) == kind);
    slot.map(|slot| table[slot * 16 + word].store(value, Relaxed)).is_some()
}

/// Another daemon goes on in the place of the first.
fn restart(rig: &Rig) {
    let mut next = adopt(death(rig));
    settle(&mut next);
    *rig.service.lock() = next;
}

fn r2_memory_that_is_mapped_strictly_is_so_still_and_other_memory_is_not(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.machine(), Policy::default());
    let device = rig.open();
    let [strict, plain, was_strict] =
        ["strict", "plain", "was"].map(|label| device.allocate(0x1000, None, label).unwrap());
    let numbers = [&strict, &plain, &was_strict].map(|buffer| BufferId(buffer.id()));
    assert_eq!(send(&device, &[entry(&strict, 0, 0)]).1, 0);
    let (_, _, mapped) = send(&device, &[entry(&was_strict, 0, 0)]);
    device
        .unmap(&[Mapped::new(device.bus_address(Iova::new(mapped[0].iova.get())), 0x1000)])
        .unwrap();
    for buffer in [&plain, &was_strict] {
        let piece = MapRequest { buffer, offset: 0, bytes: 0x1000, access: Access::ReadWrite };
        device.map(&[piece]).unwrap();
    }
    restart(&rig);
    restart(&rig);
    let service = rig.service.lock();
    let is_strict = numbers.map(|number| {
        let buffer = &service.sessions().buffers[&number];
        assert_eq!(buffer.mappings.len(), 1);
        buffer.is_noted_strict
    });
    assert_eq!(is_strict, [true, false, false]);
}

fn r7_sessions_pay_for_what_they_had_and_for_nothing_else(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.two_units(), Policy::default());
    let (device, other) = (rig.open(), open_other(&rig));
    let rings = [0x3000, 0x20_0000, 0x1000];
    let rings = rings.map(|bytes| device.allocate(bytes, Some(Access::ReadWrite), "ring").unwrap());
    let attached = rings[0].attach(&other, Access::Read, "shared").unwrap();
    let domain = device.new_domain("fixed").create().unwrap();
    let piece = MapRequest { buffer: &rings[1], offset: 0, bytes: 0x20_0000, access: Access::Read };
    domain.map_at(Iova::new(0x8000_0000), &[piece]).unwrap();
    let held = |rig: &Rig| {
        let mut service = rig.service.lock();
        recount(&mut service);
        let accounts = service.accounts().iter();
        let mut all: Vec<_> =
            accounts.map(|(_, account)| (account.holder.to_string(), account.held)).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    };
    let before = held(&rig);
    assert!(before.iter().any(|(_, held)| held[Resource::PageTableBytes] > 0x4000), "{before:?}");
    restart(&rig);
    assert_eq!(held(&rig), before);
    let clients = rig
        .service
        .lock()
        .engine()
        .domains()
        .filter(|(_, it)| it.client() != Payer::NOBODY)
        .count();
    assert_eq!(clients, 3, "units do one thing at a time for each");
    drop((attached, rings, domain, device, other));
}
