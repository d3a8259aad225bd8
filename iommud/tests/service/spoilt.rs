//! What a dead daemon left, with words of it changed at random: whatever it is, it is refused, or devices reach what is their
//! own (R1, R3, R5).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dma_types::{Access, Iova, PAGE_SIZE, PciAddress, PhysAddr};
use iommu_engine::platform::{BufferRuns, Platform, Segment, TableFrames};
use iommu_engine::policy::Policy;
use iommu_service::{Service, Settings};
use iommud::platform::sim::SimPlatform;
use iommud::platform::sim::memory::ARENA;
use libdma::{Device, MapRequest};

use crate::adopting::{death, settle};
use crate::reach::reach;
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    r1_r5_what_was_spoilt_is_refused_or_devices_reach_their_own_memory,
    #[ignore = "it takes minutes"]
    r1_r5_whatever_was_spoilt_is_refused_or_devices_reach_their_own_memory,
}

/// How many frames of the arena are looked at for words to change: more than are in use.
const FRAMES: u64 = 1200;

/// How long nobody resumes a session.
const LONG: Duration = Duration::from_secs(11);

fn r1_r5_what_was_spoilt_is_refused_or_devices_reach_their_own_memory(vendor: Vendor) {
    spoil(vendor, 0..24);
}

fn r1_r5_whatever_was_spoilt_is_refused_or_devices_reach_their_own_memory(vendor: Vendor) {
    spoil(vendor, 0..4000);
}

/// Numbers by chance: the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % below
    }
}

fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn spoil(vendor: Vendor, seeds: core::ops::Range<u64>) {
    let (mut adopted, mut refused) = (0, 0);
    for seed in seeds {
        let rig = Rig::with_manual_clock(vendor.machine().with_root_port(), Policy::default());
        let devices = [rig.open(), rig.open_at(other()).unwrap()];
        at_work(&devices);
        let mut platform = death(&rig);
        let mut chance = Chance(seed ^ 0x9e37_79b9);
        for _ in 0..1 + chance.next(2) {
            spoil_one(&platform, &mut chance);
        }
        platform = match Service::adopt(platform, Settings::default()) {
            Ok(mut service) => {
                adopted += 1;
                settle(&mut service);
                reach_their_own(vendor, &service, seed);
                service.platform_mut().advance_time(LONG);
                service.poll();
                assert_eq!(service.orphans(), 0, "seed {seed}");
                service.into_platform()
            }
            Err((_, mut platform)) => {
                refused += 1;
                platform.set_aside_inherited();
                let Ok(mut service) = Service::start(platform, Settings::default()) else {
                    panic!("seed {seed}")
                };
                settle(&mut service);
                service.into_platform()
            }
        };
        for device in [edu(), other()] {
            let now = reach(&platform, vendor, vendor.base(), device);
            assert_eq!(now.bytes(), 0, "seed {seed}: {device}");
        }
        let usage = platform.usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0), "seed {seed}");
    }
    println!("{}: {adopted} adopted, {refused} refused", vendor.name());
    assert!(adopted > 0 && refused > 0);
}

/// Buffers of each device, and a domain of one.
fn at_work(devices: &[Device; 2]) {
    for device in devices {
        for bytes in [0x3000, 0x20_0000] {
            let buffer = device.allocate(bytes, Some(Access::ReadWrite), "ring").unwrap();
            core::mem::forget(buffer);
        }
    }
    let domain = devices[0].new_domain("fixed").create().unwrap();
    let buffer = devices[0].allocate(0x2000, None, "firmware").unwrap();
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 0x2000, access: Access::Read };
    domain.map_at(Iova::new(0x8000_0000), &[piece]).unwrap();
    core::mem::forget((domain, buffer));
}

/// Changes a word that is not zero, or now and then any.
fn spoil_one(platform: &SimPlatform, chance: &mut Chance) {
    let frame = |number: u64| platform.table(PhysAddr::new(ARENA + number * PAGE_SIZE)).unwrap();
    let words: Vec<_> = (0..FRAMES).flat_map(frame).collect();
    let is_used = |word: &&&core::sync::atomic::AtomicU64| word.load(Relaxed) != 0;
    let used: Vec<_> = words.iter().filter(is_used).copied().collect();
    let word = match chance.next(8) {
        0 => words[chance.next(words.len() as u64) as usize],
        // AMD-Vi's device table is most of what is not zero.
        1 | 2 => used[chance.next(used.len() as u64) as usize],
        _ => {
            let few: Vec<_> = used.iter().filter(|it| it.load(Relaxed) != 3).collect();
            few[chance.next(few.len() as u64) as usize]
        }
    };
    let another = used[chance.next(used.len() as u64) as usize].load(Relaxed);
    let value = word.load(Relaxed);
    let spoilt = match chance.next(5) {
        0 => 0,
        1 => another,
        2 => chance.next(1 << 31) << 12 | value & 0xfff,
        _ => value ^ 1 << chance.next(64),
    };
    word.store(spoilt, Relaxed);
}

/// All that a device reaches is memory of its own session's.
fn reach_their_own(vendor: Vendor, service: &Service<SimPlatform>, seed: u64) {
    let platform = service.platform();
    for device in [edu(), other()] {
        let now = reach(platform, vendor, vendor.base(), device);
        let own = service.sessions().of_device(device).map(|(id, _)| id);
        let buffers = service.sessions().buffers.values();
        let buffers = buffers.filter(|it| it.session == own && own.is_some());
        let memory: Vec<_> = buffers.flat_map(|it| platform.segments(it.run)).copied().collect();
        for page in now.pages() {
            let holds = |it: &Segment| (it.start.get()..it.start.get() + it.bytes).contains(&page);
            assert!(memory.iter().any(holds), "seed {seed}: {device} reaches {page:#x}");
        }
    }
}
