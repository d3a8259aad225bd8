//! The machines on which daemons die.

use dma_types::PciAddress;
use iommu_engine::policy::{Devices, Policy, Rule, Unopened};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::VtdConfig;

use super::deaths::{Deaths, Tried, die};
use super::world::{ALONE, BRIEFLY, Case, Step, TOGETHER};
use crate::rig::{edu, other};
use crate::vendor::Vendor;

both! {
    r2_r7_a_daemon_dies_anywhere_and_the_next_goes_on,
    #[ignore = "it takes minutes"]
    r2_r7_a_daemon_dies_at_every_event_and_the_next_goes_on,
}

/// Some of all deaths.
const SOME: Tried = Tried { steps: (0, 2), stride: 29, successors: 2, looks: true };

/// All deaths, each with a second one while it is taken over.
const ALL: Tried = Tried { steps: (0, 1), stride: 1, successors: 1, looks: false };

/// Memory that firmware keeps.
const RESERVED: u64 = 0x7e00_0000;

/// What a device is held for that is blocked for a while.
const QUARANTINED: &[Step] = &[
    Step::Open(0),
    Step::Map(0),
    Step::Block(0),
    Step::Map(1),
    Step::Unmap(0),
    Step::Unblock(0),
    Step::Block(0),
    Step::Close(0),
];

/// What keeps memory from one device that is not confined, while another is at work.
const UNCONFINED: &[Step] = &[
    Step::Allocate,
    Step::Open(0),
    Step::Map(0),
    Step::Free,
    Step::Allocate,
    Step::Open(1),
    Step::Close(1),
    Step::Free,
    Step::Close(0),
];

fn plain(vendor: Vendor) -> Case {
    Case::new(vendor, vendor.machine(), BRIEFLY)
}

/// The one device is at work all the time, and units take so long to forget.
fn busy(case: Case) -> Case {
    Case { busy: Some(Takes::After(30_000)), ..case }
}

/// Two devices, each behind a unit of its own.
fn two_units(vendor: Vendor) -> Case {
    let second = match vendor {
        Vendor::Vtd => 0xfed9_1000,
        Vendor::Amdvi => 0xfed8_4000,
    };
    let devices = vec![(edu(), edu(), vendor.base()), (other(), other(), second)];
    Case { devices, ..Case::new(vendor, vendor.two_units(), TOGETHER) }
}

/// Cards behind a bridge, which cannot be told apart, with memory reserved for one of them.
fn group(vendor: Vendor) -> Case {
    let [first, second, bridge] = ["0000:21:01.0", "0000:21:02.0", "0000:21:00.0"];
    let [first, second, bridge]: [PciAddress; 3] =
        [first, second, bridge].map(|it| it.parse().unwrap());
    let machine = vendor.machine().with_pci_bridge();
    let machine = machine.with_reserved(RESERVED, RESERVED + 0x3fff, &[second]);
    let devices = vec![(first, bridge, vendor.base())];
    Case { devices, ..Case::new(vendor, machine, BRIEFLY) }
}

fn unconfined(vendor: Vendor) -> Case {
    let rule = Rule { unopened: Some(Unopened::Identity), ..Rule::new(Devices::At(other())) };
    let policy = Policy { rules: vec![rule], ..Policy::default() };
    let devices = [edu(), other()].map(|device| (device, device, vendor.base())).to_vec();
    let machine = vendor.machine().with_root_port();
    Case { devices, policy, ..Case::new(vendor, machine, UNCONFINED) }
}

/// Units that are told of tables otherwise than others.
fn told_otherwise(vendor: Vendor) -> Vec<(&'static str, MachineConfig)> {
    let vtd = |vtd| MachineConfig::with_unit(vtd);
    let amdvi = |amdvi| MachineConfig::with_amdvi(amdvi);
    match vendor {
        Vendor::Vtd => vec![
            ("by registers", vtd(VtdConfig { queued_invalidation: false, ..VtdConfig::default() })),
            ("it does not snoop", vtd(VtdConfig { coherent: false, ..VtdConfig::default() })),
            ("it keeps what is absent", vendor.caching()),
        ],
        Vendor::Amdvi => vec![(
            "it keeps what is absent",
            amdvi(AmdviConfig { np_cache: true, ..AmdviConfig::default() }),
        )],
    }
}

fn all(vendor: Vendor) -> Vec<(&'static str, Case)> {
    let reserved = vendor.machine().with_reserved(RESERVED, RESERVED + 0x3fff, &[edu()]);
    let aside = Policy { reserve: 8 << 20, ..Policy::default() };
    let told = told_otherwise(vendor).into_iter();
    let told = told.map(|(what, machine)| match vendor {
        Vendor::Vtd => (what, busy(Case { machine, ..plain(vendor) })),
        // It is told of each of 65536 devices.
        Vendor::Amdvi => (what, Case { machine, is_long: true, ..plain(vendor) }),
    });
    let others = [
        ("idle", Case::new(vendor, vendor.machine(), ALONE)),
        ("busy", busy(plain(vendor))),
        ("firmware reserves memory", Case { machine: reserved, ..plain(vendor) }),
        ("memory is set aside", Case { policy: aside, ..plain(vendor) }),
        ("two units", two_units(vendor)),
        ("two busy units", busy(two_units(vendor))),
        ("a group", group(vendor)),
        ("unconfined", unconfined(vendor)),
        ("blocked", busy(Case { steps: QUARANTINED, ..plain(vendor) })),
    ];
    others.into_iter().chain(told).collect()
}

/// Has daemons die in all cases, or in those that `ADOPTING` names.
fn in_all(vendor: Vendor, tried: Tried) -> Vec<Deaths> {
    let only = std::env::var("ADOPTING").ok();
    let cases = all(vendor).into_iter();
    let cases = cases.filter(|(what, _)| only.as_ref().is_none_or(|only| only == what));
    let cases = cases.filter(|(_, case)| !(tried.looks && case.is_long));
    let deaths = cases.enumerate().map(|(number, (what, case))| {
        let steps = match tried.steps {
            // Of the first all.
            (_, each) if number > 0 => (number % each, each),
            _ => (0, 1),
        };
        let tried = Tried { steps, ..tried };
        let deaths = die(&case, tried);
        println!("{}, {what}: {deaths:?}", vendor.name());
        deaths
    });
    deaths.collect()
}

fn r2_r7_a_daemon_dies_anywhere_and_the_next_goes_on(vendor: Vendor) {
    for deaths in in_all(vendor, SOME) {
        assert!(deaths.stores > 0 && deaths.all() > 3, "{deaths:?}");
    }
}

/// What is in a processor's cache when a daemon dies is not in memory, where such units look.
#[test]
fn r1_r2_what_a_dead_daemon_had_not_written_back_is_before_units_forget() {
    let machine = MachineConfig::with_unit(VtdConfig { coherent: false, ..VtdConfig::default() });
    let case = Case { machine, ..plain(Vendor::Vtd) };
    for step in [Step::Enter(0), Step::Leave(0), Step::Close(0)] {
        let index = case.steps.iter().position(|it| *it == step).unwrap();
        let steps = (index, case.steps.len());
        let deaths = die(&case, Tried { steps, stride: 1, successors: 0, looks: false });
        assert!(deaths.stores > 1, "{deaths:?}");
    }
}

fn r2_r7_a_daemon_dies_at_every_event_and_the_next_goes_on(vendor: Vendor) {
    for deaths in in_all(vendor, ALL) {
        assert!(deaths.stores > 50 && deaths.all() > 100, "{deaths:?}");
    }
}
