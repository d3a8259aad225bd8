//! Drivers that die at any instruction, in the middle of anything, while their device is at work (R4).
//!
//! | module | what is in it |
//! | --- | --- |
//! | `client` | a transport whose client dies at any of its requests |
//! | `pages` | memory that drivers supply |
//! | `traffic` | what a driver does, by chance |
//! | `world` | the machine, its device's doings, and all that is counted |
//!
//! One device has one driver after the other, each of which dies. Another device's driver shares memory with them, and
//! lives on. Freed frames and pages are full of poison ([`sim`](iommud::platform::sim)): whoever reaches for one is counted.

#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

mod client;
mod pages;
#[path = "../service/recount.rs"]
mod recount;
mod traffic;
mod world;

use std::sync::Arc;

use dma_types::PciAddress;
use iommu_engine::policy::{Invalidation, Policy};
use iommu_sim::Machine;
use iommu_sim::Memory;
use iommu_sim::amdvi::AmdviTiming;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::Timing;
use libdma::{Access, Buffer, Device};
use simulated::edu;

use crate::client::Client;
use crate::pages::Pages;
use crate::traffic::Driver;
use crate::vendor::Vendor;
use crate::world::{Counts, World, make_masters};
use fuzz::Chance;

both! {
    r4_a_driver_may_die_anywhere_and_leaves_nothing,
    r4_a_driver_may_die_anywhere_and_leaves_nothing_where_unmaps_are_gathered,
    #[ignore = "takes a minute: the same ten thousand times"]
    r4_ten_thousand_drivers_die_anywhere_and_leave_nothing,
}

/// How often drivers die in a test that runs each time, by vendor and by when unmaps are answered: 1,000 in all.
const DEATHS: usize = 250;

/// How long the device's own engine is at work for a transfer.
const TRANSFER: u64 = 60_000;

fn r4_a_driver_may_die_anywhere_and_leaves_nothing(vendor: Vendor) {
    die(vendor, Invalidation::Strict, DEATHS);
}

fn r4_a_driver_may_die_anywhere_and_leaves_nothing_where_unmaps_are_gathered(vendor: Vendor) {
    die(vendor, Invalidation::Deferred, DEATHS);
}

fn r4_ten_thousand_drivers_die_anywhere_and_leave_nothing(vendor: Vendor) {
    for when in [Invalidation::Strict, Invalidation::Deferred] {
        die(vendor, when, 2500);
    }
}

fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

/// How drivers died.
#[derive(Debug, Default)]
struct Deaths {
    /// While the device's own engine was at work.
    in_transfer: usize,
    /// While hardware was to confirm something that was asked for.
    waiting: usize,
    /// While it did anything at all that iommud was told of.
    asking: usize,
    /// While another process had its device's handle, too.
    outlived: usize,
}

fn die(vendor: Vendor, invalidation: Invalidation, deaths: usize) {
    // Drivers that die leave the checker much to say.
    libdma::check::turn_off();
    // Pages and frames that are freed are somebody's again at once, so that nobody is spared; or as late as possible, so
    // that who reaches for one finds it free.
    for (soon, seed) in [(true, 1), (false, 2)] {
        die_on(vendor, invalidation, deaths / 2, soon, seed);
    }
}

fn die_on(vendor: Vendor, invalidation: Invalidation, deaths: usize, soon: bool, seed: u64) {
    let mut config = vendor.two_units();
    config.edus[0].dma_nanos = TRANSFER;
    let policy = Policy { invalidation, ..Policy::default() };
    let world = World::start(config, policy, Chance::of(seed));
    if !soon {
        world.lock().service.platform_mut().reuse_late();
    }
    let mut chance = Chance::of(seed + 2);
    let survivor = Survivor::new(&world);
    let mut pages = Pages::new();
    let mut all = Deaths::default();
    let mut fresh: Option<Counts> = None;
    let mut next = open(&world, &mut chance);
    grow_ledger(&survivor.device);
    world.lock().settle();
    for number in 0..deaths {
        let (client, device) = next;
        // As many as a new driver has, and no more, whoever was there before it.
        let counts = world.lock().counts();
        assert_eq!(&counts, fresh.get_or_insert(counts.clone()), "before driver {number}");
        let given = live(&world, &mut chance, (&client, device), &survivor, &mut pages);
        if let Some(copy) = client.copy() {
            // Another process has the device still: nothing of it has ended, and nobody else gets it.
            let refused = Device::open(survivor.client.clone(), edu()).err();
            assert_eq!(refused, Some(libdma::Error::DeviceBusy));
            all.outlived += 1;
            client.end_copy(copy);
        }
        let mut inner = world.lock();
        all.in_transfer += usize::from(inner.is_in_transfer());
        all.waiting += usize::from(client.died_waiting());
        all.asking += usize::from(client.died_asking());
        inner.touch();
        drop(inner);
        // The device can be had at once, whatever hardware has yet to confirm.
        next = open(&world, &mut chance);
        // What the dead one gave away is memory as long as the other has it.
        world.lock().touch();
        survivor.check(&world);
        drop(given);
        let mut inner = world.lock();
        inner.settle();
        inner.assert_out_of_reach();
        inner.check();
        drop(inner);
        pages.all_back();
        survivor.check(&world);
    }
    assert!(all.in_transfer > deaths / 8, "{all:?}");
    assert!(all.waiting > deaths / 40, "{all:?}");
    assert!(all.outlived > deaths / 20, "{all:?}");
    println!("{vendor:?}, {invalidation:?}, soon {soon}: {deaths} deaths, {all:?}");
}

/// More records than a driver ever has.
const RECORDS: usize = 400;

/// The ledger keeps the frames that it has grown by: it grows now.
fn grow_ledger(device: &Device) {
    let domains: Vec<_> = (0..RECORDS).map(|_| device.new_domain("full").create()).collect();
    assert!(domains.iter().all(Result::is_ok));
}

/// Opens the device for a new driver, with units of another pace.
fn open(world: &Arc<World>, chance: &mut Chance) -> (Arc<Client>, Device) {
    let takes = match chance.below(3) {
        0 => Takes::Immediate,
        1 => Takes::After(7_000),
        _ => Takes::After(45_000),
    };
    for unit in 0..2 {
        slow_down(&mut world.lock().service.platform().machine_mut(), unit, takes);
    }
    let client = Arc::new(Client::new(world.clone(), Chance::of(chance.next())));
    let device = Device::open(client.clone(), edu()).expect("a device whose driver is dead");
    if !chance.once_in(3) {
        client.dies_after(chance.below(60) as u64);
    }
    make_masters(&mut world.lock().service);
    (client, device)
}

/// The life of a driver, up to its death. What it has given away is left.
fn live(
    world: &Arc<World>,
    chance: &mut Chance,
    (client, device): (&Arc<Client>, Device),
    survivor: &Survivor,
    pages: &mut Pages,
) -> Vec<libdma::Attachment> {
    if chance.once_in(8) {
        client.share();
    }
    let mut driver = Driver::new(world.clone(), device, Chance::of(chance.next()));
    let steps = 1 + chance.below(40);
    for _ in 0..steps {
        if chance.once_in(3) {
            world.lock().touch_between(40);
        }
        driver.step(&survivor.device, &survivor.shared, pages);
        if client.is_dead() {
            break;
        }
    }
    if !client.is_dead() {
        client.die();
    }
    driver.forget()
}

/// The driver that lives on.
struct Survivor {
    client: Arc<Client>,
    device: Device,
    /// What only it has: nobody else is to change it.
    own: Buffer,
    shared: Buffer,
}

const OWN: [u8; 64] = [0x3c; 64];

impl Survivor {
    fn new(world: &Arc<World>) -> Self {
        let client = Arc::new(Client::new(world.clone(), Chance::of(0)));
        let device = Device::open(client.clone(), other()).unwrap();
        make_masters(&mut world.lock().service);
        let own = device.allocate(3 * 4096, Some(Access::ReadWrite), "own").unwrap();
        let shared = device.allocate(4096, Some(Access::ReadWrite), "lent").unwrap();
        for page in 0..3 {
            own.write(page * 4096 + 128, &OWN).unwrap();
        }
        shared.write(128, &OWN).unwrap();
        Self { client, device, own, shared }
    }

    /// Whether it has what it had, and its device still reaches it.
    fn check(&self, world: &World) {
        for (buffer, pages) in [(&self.own, 3), (&self.shared, 1)] {
            for page in 0..pages {
                let mut found = [0; OWN.len()];
                buffer.read(page * 4096 + 128, &mut found).unwrap();
                assert_eq!(found, OWN);
                let at = buffer.iova().unwrap().get() + page as u64 * 4096 + 128;
                let mut read = [0; OWN.len()];
                let inner = world.lock();
                let result =
                    inner.service.platform().machine_mut().dma_read(other(), at, &mut read);
                assert_eq!((result, read), (Ok(()), OWN));
            }
        }
    }
}

/// From now on this unit takes so long to forget.
fn slow_down<M: Memory>(machine: &mut Machine<M>, unit: usize, takes: Takes) {
    if let Some(unit) = machine.unit_mut(unit) {
        unit.set_timing(Timing { registers: takes, queue: takes, ..Timing::default() });
    } else if let Some(unit) = machine.amdvi_mut(unit) {
        unit.set_timing(AmdviTiming { commands: takes, ..AmdviTiming::default() });
    }
}
