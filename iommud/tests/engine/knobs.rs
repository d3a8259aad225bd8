//! Every kind of unit there is: each ability that one may lack.

use dma_types::{Access, Iova};
use iommu_engine::engine::MapSpec;
use iommu_engine::error::EngineError;
use iommu_engine::unit::Unusable;
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::{AmdviConfig, AmdviTiming};
use iommu_sim::pace::{Completion as Takes, Health};
use iommu_sim::vtd::{Timing, VtdConfig};

use crate::rig::{Rig, edu, other};
use crate::vendor::{Vendor, unhealthy};

both! {
    a_unit_that_makes_no_sense_is_refused_and_the_others_go_on,
    domain_ids_come_back,
    an_address_limit_is_kept_or_the_request_refused,
}

/// Maps, uses, unmaps and checks, over and over, with several sizes.
fn exercise(vendor: Vendor, machine: MachineConfig, what: &str) {
    let mut rig = Rig::new(machine);
    let baseline = rig.platform.usage();
    for round in 0..3 {
        let domain = rig.attach(edu());
        let sizes = [4096, 3 * 4096, 2 << 20, 4096];
        let mapped: Vec<_> = sizes
            .iter()
            .map(|bytes| {
                let run = rig.run(*bytes);
                (run, rig.map(domain, run, *bytes, Access::ReadWrite), *bytes)
            })
            .collect();
        for (_, iova, bytes) in &mapped {
            // Before it is mapped an address may have been looked at, and be known not to be there.
            assert!(rig.read(iova.get() + bytes, 8).is_err(), "{what}");
            rig.write(iova.get() + bytes - 8, &[round; 8])
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(rig.read(iova.get() + bytes - 8, 8), Ok(vec![round; 8]), "{what}");
        }
        let late = rig.run(4096);
        let spot = mapped[0].1.get() + 4096;
        assert!(rig.read(spot, 8).is_err(), "{what}");
        let late_iova = rig.map(domain, late, 4096, Access::Read);
        assert!(rig.read(late_iova.get(), 8).is_ok(), "{what}");
        rig.unmap(domain, late_iova, 4096);
        for (run, iova, bytes) in mapped {
            rig.unmap(domain, iova, bytes);
            assert!(rig.write(iova.get(), &[9; 8]).is_err(), "{what}");
            iommu_engine::platform::BufferRuns::free_run(&mut rig.platform, run);
        }
        iommu_engine::platform::BufferRuns::free_run(&mut rig.platform, late);
        let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
        rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
        rig.finish(&completion);
        rig.pass(std::time::Duration::ZERO);
        rig.platform.machine_mut().config_write(edu(), 4, 6);
    }
    let left = rig.platform.usage().live_frames - baseline.live_frames;
    assert_eq!(left, vendor.frames_per_bus(), "{what}");
    rig.check();
}

#[test]
fn each_ability_of_a_vtd_unit_may_be_absent() {
    let base = VtdConfig::default;
    let slowly = |takes| Timing { commands: takes, registers: takes, queue: takes };
    let cases = [
        ("everything", base()),
        ("3 levels", VtdConfig { levels: vec![3], guest_address_bits: 39, ..base() }),
        ("5 levels", VtdConfig { levels: vec![5], guest_address_bits: 57, ..base() }),
        ("4 and 5 levels", VtdConfig { levels: vec![4, 5], guest_address_bits: 57, ..base() }),
        ("no large pages", VtdConfig { pages_2m: false, pages_1g: false, ..base() }),
        ("no 1 GiB pages", VtdConfig { pages_1g: false, ..base() }),
        ("caching mode", VtdConfig { caching_mode: true, ..base() }),
        ("no snooping", VtdConfig { coherent: false, ..base() }),
        ("no queue", VtdConfig { queued_invalidation: false, ..base() }),
        ("write buffer", VtdConfig { write_buffer: true, ..base() }),
        ("no zero-length reads", VtdConfig { zero_length_read: false, ..base() }),
        ("no page selection", VtdConfig { page_selective: false, max_address_mask: 0, ..base() }),
        ("small masks", VtdConfig { max_address_mask: 9, ..base() }),
        ("16 domain ids", VtdConfig { domain_id_bits: 4, ..base() }),
        (
            "no protected memory",
            VtdConfig { protected_low: false, protected_high: false, ..base() },
        ),
        ("one fault record", VtdConfig { fault_records: 1, ..base() }),
        ("registers far away", VtdConfig { fault_offset: 0x1000, iotlb_offset: 0x2000, ..base() }),
        ("slow", VtdConfig { timing: slowly(Takes::After(50_000)), ..base() }),
        (
            "slow and poor",
            VtdConfig {
                timing: slowly(Takes::After(50_000)),
                queued_invalidation: false,
                caching_mode: true,
                coherent: false,
                write_buffer: true,
                page_selective: false,
                max_address_mask: 0,
                pages_2m: false,
                pages_1g: false,
                ..base()
            },
        ),
    ];
    for (what, unit) in cases {
        exercise(Vendor::Vtd, MachineConfig::with_unit(unit), what);
    }
}

#[test]
fn each_ability_of_an_amd_unit_may_be_absent() {
    let base = AmdviConfig::default;
    let slowly = |commands| AmdviTiming { commands, stop: commands, ..AmdviTiming::default() };
    let one_by_one = AmdviTiming { looks_per_command: 1, ..AmdviTiming::default() };
    let cases = [
        ("everything", base()),
        ("4 levels", AmdviConfig { table_depth: 0, ..base() }),
        ("5 levels", AmdviConfig { table_depth: 1, ..base() }),
        ("no extended features", AmdviConfig { extended_features: false, ..base() }),
        ("no command that forgets all", AmdviConfig { invalidate_all: false, ..base() }),
        ("2 segments", AmdviConfig { segments: 1, ..base() }),
        ("8 segments", AmdviConfig { segments: 3, ..base() }),
        ("features of which nobody knows", AmdviConfig { more_features: 0xff << 56, ..base() }),
        ("prefetching and device TLBs", AmdviConfig { prefetch: true, device_tlb: true, ..base() }),
        ("a cache of what is absent", AmdviConfig { np_cache: true, ..base() }),
        ("eager caches", AmdviConfig { eager: true, np_cache: true, ..base() }),
        ("no snooping of its own", AmdviConfig { coherent: false, ..base() }),
        ("40 physical bits", AmdviConfig { host_address_bits: 40, ..base() }),
        ("no event log", AmdviConfig { logs_events: false, ..base() }),
        ("no direction", AmdviConfig { direction_always: false, ..base() }),
        ("performance counters", AmdviConfig { window_bytes: 512 << 10, ..base() }),
        ("a command at a time", AmdviConfig { timing: one_by_one, ..base() }),
        ("slow", AmdviConfig { timing: slowly(Takes::After(50_000)), ..base() }),
        (
            "slow and poor",
            AmdviConfig {
                timing: slowly(Takes::After(50_000)),
                extended_features: false,
                np_cache: true,
                eager: true,
                coherent: false,
                host_address_bits: 40,
                ..base()
            },
        ),
    ];
    for (what, unit) in cases {
        exercise(Vendor::Amdvi, MachineConfig::with_amdvi(unit), what);
    }
}

#[test]
fn large_pages_are_used_where_they_fit() {
    let walks = |pages_2m| {
        let unit = VtdConfig { pages_2m, pages_1g: false, ..VtdConfig::default() };
        let mut rig = Rig::new(MachineConfig::with_unit(unit));
        let domain = rig.attach(edu());
        let run = rig.run(2 << 20);
        let before = rig.platform.usage().live_frames;
        let iova = rig.map(domain, run, 2 << 20, Access::ReadWrite);
        assert!(rig.write(iova.get() + 0x12_3000, &[1; 8]).is_ok());
        rig.platform.usage().live_frames - before
    };
    // The tables above are two; a table of 4 KiB pages is a third.
    assert_eq!((walks(true), walks(false)), (2, 3));
}

fn a_unit_that_makes_no_sense_is_refused_and_the_others_go_on(vendor: Vendor) {
    for health in [Health::AllOnes, Health::AllZeroes] {
        let mut rig = Rig::new(unhealthy(vendor.two_units(), health));
        let unusable = rig.engine.units()[0].unit.as_ref().map(drop).unwrap_err();
        assert!(matches!(unusable, Unusable::Refused(_) | Unusable::RefusedAmdvi(_)));
        let other = other();
        let Rig { platform, engine } = &mut rig;
        let refused = engine.create_domain(platform, &[other]);
        assert_eq!(refused, Err(EngineError::UnitNotWorking(other)));
        let domain = rig.attach(edu());
        let run = rig.run(4096);
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        assert_eq!(rig.write(iova.get(), &[1; 8]), Ok(()));
    }
}

fn domain_ids_come_back(vendor: Vendor) {
    let mut rig = Rig::new(match vendor {
        Vendor::Vtd => {
            MachineConfig::with_unit(VtdConfig { domain_id_bits: 4, ..VtdConfig::default() })
        }
        Vendor::Amdvi => vendor.machine(),
    });
    for _ in 0..100 {
        let domain = rig.attach(edu());
        let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
        rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
        rig.finish(&completion);
        rig.pass(std::time::Duration::ZERO);
    }
    assert_eq!(rig.engine.units()[0].unit.as_ref().unwrap().domain_ids_in_use(), 0);
}

fn an_address_limit_is_kept_or_the_request_refused(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(1 << 20);
    let spec = |bits: u32| MapSpec {
        run,
        offset: 0,
        bytes: 1 << 20,
        access: Access::Read,
        align: 4096,
        first: Iova::new(0),
        limit: Iova::new((1 << bits) - 1),
        owner: 1,
    };
    for bits in [21, 28, 32, 48] {
        let Rig { platform, engine } = &mut rig;
        let (iova, _) = engine.map(platform, domain, &spec(bits)).unwrap();
        assert!(iova.get() + (1 << 20) <= 1 << bits, "{iova} for {bits} bits");
    }
    let Rig { platform, engine } = &mut rig;
    let refused = engine.map(platform, domain, &spec(20));
    assert!(matches!(refused, Err(EngineError::Iova(_))), "{refused:?}");
}
