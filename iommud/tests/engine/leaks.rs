//! Random traffic: nothing overlaps, nothing leaks, nothing is reached that is not mapped.

use std::collections::BTreeMap;
use std::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::completion::Progress;
use iommu_engine::engine::MapSpec;
use iommu_engine::platform::{BufferRuns, RunId};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::VtdConfig;
use proptest::prelude::*;

use crate::rig::{Rig, edu, retired, whole};
use crate::vendor::{Vendor, slow_at_all};

both! {
    r2_r7_random_traffic_on_random_hardware,
}

#[derive(Clone, Debug)]
enum Step {
    Map { pages: u64, access: Access, align: u64 },
    Unmap { which: usize },
    Touch { which: usize, page: u64, write: bool },
    Wild { address: u64 },
    Pass { micros: u64 },
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)]
}

fn step() -> impl Strategy<Value = Step> {
    let pages = prop_oneof![4 => 1..20u64, 1 => Just(512u64), 1 => 500..600u64];
    // Some beyond what a small table translates, so that it grows.
    let align = prop_oneof![15 => Just(4096), 1 => Just(1 << 40)];
    prop_oneof![
        3 => (pages, access(), align)
            .prop_map(|(pages, access, align)| Step::Map { pages, access, align }),
        2 => any::<usize>().prop_map(|which| Step::Unmap { which }),
        4 => (any::<usize>(), any::<u64>(), any::<bool>())
            .prop_map(|(which, page, write)| Step::Touch { which, page, write }),
        1 => (0..1u64 << 48).prop_map(|address| Step::Wild { address }),
        1 => (0..200u64).prop_map(|micros| Step::Pass { micros }),
    ]
}

fn vtd() -> impl Strategy<Value = MachineConfig> {
    (any::<[bool; 6]>(), 0..100_000u64).prop_map(|(knobs, nanos)| {
        let [queue, caching, coherent, buffer, selective, large] = knobs;
        let unit = VtdConfig {
            queued_invalidation: queue,
            caching_mode: caching,
            coherent,
            write_buffer: buffer,
            page_selective: selective,
            max_address_mask: if selective { 18 } else { 0 },
            pages_2m: large,
            pages_1g: false,
            ..VtdConfig::default()
        };
        slow_at_all(MachineConfig::with_unit(unit), Takes::After(nanos))
    })
}

fn amdvi() -> impl Strategy<Value = MachineConfig> {
    (any::<[bool; 6]>(), 0..3u8, 0..100_000u64).prop_map(|(knobs, table_depth, nanos)| {
        let [features, all, absent, eager, coherent, one_by_one] = knobs;
        let mut unit = AmdviConfig {
            extended_features: features,
            invalidate_all: all,
            np_cache: absent,
            eager,
            coherent,
            table_depth,
            // A unit that has the register has something to say in it: XTSup.
            more_features: 1 << 2,
            ..AmdviConfig::default()
        };
        // Forgetting everything one by one takes a command for every requester and every domain there can be.
        if one_by_one && features && all {
            unit.timing.looks_per_command = 1;
        }
        slow_at_all(MachineConfig::with_amdvi(unit), Takes::After(nanos))
    })
}

fn machine(vendor: Vendor) -> BoxedStrategy<MachineConfig> {
    match vendor {
        Vendor::Vtd => vtd().boxed(),
        Vendor::Amdvi => amdvi().boxed(),
    }
}

fn r2_r7_random_traffic_on_random_hardware(vendor: Vendor) {
    let traffic = proptest::collection::vec(step(), 1..120);
    // Where an AMD unit has to forget everything one by one, its start takes a while.
    let cases = ProptestConfig::with_cases(if vendor == Vendor::Vtd { 48 } else { 24 });
    proptest!(cases, |(machine in machine(vendor), steps in traffic)| {
        let mut rig = Rig::new(machine);
        let domain = rig.attach(edu());
        let before = rig.platform.usage();
        let mut live: BTreeMap<u64, (u64, Access, RunId)> = BTreeMap::new();
        let nth = |live: &BTreeMap<u64, _>, which: usize| {
            let count = live.len().max(1);
            live.keys().nth(which % count).copied()
        };
        for step in steps {
            match step {
                Step::Map { pages, access, align } => {
                    let bytes = pages * 4096;
                    let run = rig.run(bytes);
                    let spec = MapSpec {
                        run, offset: 0, bytes, access, align,
                        first: Iova::new(0),
                        limit: Iova::new(u64::MAX), owner: 1,
                    };
                    let Rig { platform, engine } = &mut rig;
                    let (iova, completion) = engine.map(platform, domain, &spec).unwrap();
                    rig.finish(&completion);
                    live.insert(iova.get(), (bytes, access, run));
                }
                Step::Unmap { which } => {
                    let Some(iova) = nth(&live, which) else { continue };
                    let (bytes, _, run) = live.remove(&iova).unwrap();
                    let Rig { platform, engine } = &mut rig;
                    let held = platform.usage();
                    let completion =
                        engine.unmap(platform, domain, Iova::new(iova), bytes).unwrap();
                    engine.free_run_after(platform, completion.clone(), retired(run));
                    if engine.progress(&completion) == Progress::Pending {
                        // Neither the memory nor the tables nor the addresses are free yet.
                        prop_assert_eq!(platform.usage(), held);
                        let next = platform.alloc_run(bytes).unwrap();
                        let there = MapSpec {
                            first: Iova::new(iova),
                            limit: Iova::new(iova + bytes - 1),
                            ..whole(next, bytes)
                        };
                        prop_assert!(engine.map(platform, domain, &there).is_err());
                        platform.free_run(next);
                    }
                    rig.finish(&completion);
                }
                Step::Touch { which, page, write } => {
                    let Some(iova) = nth(&live, which) else { continue };
                    let (bytes, access, _) = live[&iova];
                    let address = iova + page % (bytes / 4096) * 4096;
                    if write {
                        prop_assert_eq!(rig.write(address, &[1; 8]).is_ok(), access.may_write());
                    } else {
                        prop_assert_eq!(rig.read(address, 8).is_ok(), access.may_read());
                    }
                }
                Step::Wild { address } => {
                    let address = address & !0xfff;
                    let inside = live
                        .range(..=address)
                        .next_back()
                        .is_some_and(|(iova, (bytes, ..))| address < iova + bytes);
                    if !inside {
                        prop_assert!(rig.read(address, 8).is_err());
                    }
                }
                Step::Pass { micros } => rig.pass(Duration::from_micros(micros)),
            }
        }
        for (iova, (bytes, _, run)) in live {
            rig.unmap(domain, Iova::new(iova), bytes);
            rig.platform.free_run(run);
        }
        let Rig { platform, engine } = &mut rig;
        engine.give_up_empty_tables(platform, |_| true);
        while rig.engine.retired() > 0 {
            rig.pass(Duration::from_micros(10));
        }
        // The tables of what is gone are gone too, but for the root.
        prop_assert_eq!(rig.platform.usage(), before);
        // Nor is the root free before the unit has forgotten it.
        let Rig { platform, engine } = &mut rig;
        let completion = engine.detach(platform, edu()).unwrap();
        let held = platform.usage();
        engine.destroy_domain(platform, domain).unwrap();
        if engine.progress(&completion) == Progress::Pending {
            prop_assert_eq!(platform.usage(), held);
        }
        rig.finish(&completion);
        rig.check();
    });
}
