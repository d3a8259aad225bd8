//! Units that translate fewer bits of address than others, or differ otherwise in the tables that they walk.

use dma_types::Iova;
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::MapSpec;
use iommu_engine::error::EngineError;
use iommu_engine::iova::{HYPERTRANSPORT_RANGE, IovaError};
use iommu_engine::unit::{Abilities, Depths, Mismatch};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::vtd::VtdConfig;

use crate::many_units::{card, units};
use crate::rig::{Rig, edu, other, whole};
use crate::vendor::Vendor;

both! {
    no_address_is_given_that_the_unit_does_not_translate,
    a_domain_asks_for_what_all_its_units_can_whichever_is_named_first,
    a_domain_that_asks_for_more_than_a_unit_can_is_not_for_its_devices,
    a_domain_of_a_narrow_unit_is_for_a_wide_one_too,
    one_domain_for_a_wide_and_a_narrow_unit_is_narrow_and_seen_by_both,
    a_domain_for_several_units_can_what_all_of_them_can,
}

/// A unit in two respects: its widest address in bits, and the depths of table that it walks (for AMD-Vi, where they
/// are all up to the deepest, that one, 4 to 6).
type Width = (u8, &'static [u8]);

/// What a domain asks for: so many bits of address, and so deep a table.
type Asked = (u8, Depths);

/// Units of a vendor, with what a domain for one alone asks for.
fn widths(vendor: Vendor) -> Vec<(Width, Asked)> {
    let up_to = |levels| Depths::new(1..=levels);
    match vendor {
        Vendor::Vtd => vec![
            ((39, &[3]), (39, Depths::new([3]))),
            ((40, &[3]), (39, Depths::new([3]))),
            ((32, &[3, 4]), (32, Depths::new([3]))),
            ((40, &[3, 4]), (40, Depths::new([4]))),
            ((48, &[3, 4]), (48, Depths::new([4]))),
            ((57, &[4, 5]), (48, Depths::new([4]))),
            ((57, &[5]), (57, Depths::new([5]))),
        ],
        Vendor::Amdvi => vec![
            ((32, &[4]), (32, up_to(3))),
            ((32, &[6]), (32, up_to(3))),
            ((40, &[4]), (40, up_to(4))),
            ((40, &[5]), (40, up_to(4))),
            ((48, &[6]), (48, up_to(4))),
            ((64, &[4]), (48, up_to(4))),
            ((64, &[5]), (48, up_to(4))),
            ((64, &[6]), (48, up_to(4))),
        ],
    }
}

/// Makes a unit so wide.
fn make(config: &mut MachineConfig, unit: usize, (bits, levels): Width) {
    if let Some(unit) = config.units.get_mut(unit) {
        unit.vtd.guest_address_bits = bits;
        unit.vtd.levels = levels.to_vec();
    } else {
        let amdvi = &mut config.amdvi_units[unit].amdvi;
        amdvi.device_address_bits = bits;
        amdvi.table_depth = levels[0] - 4;
    }
}

/// Two units: that of the card at 01:00.0 is the first, all the rest is behind the second.
fn two(vendor: Vendor, first: Width, second: Width) -> Rig {
    let mut config = vendor.two_units();
    make(&mut config, 0, first);
    make(&mut config, 1, second);
    Rig::new(config)
}

fn abilities(rig: &Rig, domain: DomainKey) -> Abilities {
    *rig.engine.domain(domain).unwrap().abilities()
}

/// Every address for a page that is a multiple of this, as far as the domain has any, in order.
fn all_multiples(rig: &mut Rig, domain: DomainKey, align: u64) -> Vec<u64> {
    let spec = MapSpec { align, ..whole(rig.run(4096), 4096) };
    assert_eq!(spec.limit, Iova::new(u64::MAX), "the device reaches everything");
    let mut given = Vec::new();
    loop {
        match rig.engine.map(&mut rig.platform, domain, &spec) {
            Ok((iova, completion)) => {
                rig.finish(&completion);
                given.push(iova.get());
            }
            Err(EngineError::Iova(IovaError::NoRoom { .. })) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    given.sort_unstable();
    given
}

fn no_address_is_given_that_the_unit_does_not_translate(vendor: Vendor) {
    for (width, (bits, depths)) in widths(vendor) {
        let mut config = vendor.machine();
        make(&mut config, 0, width);
        let mut rig = Rig::new(config);
        let domain = rig.attach(edu());
        let Abilities { address_bits, depths: asked, .. } = abilities(&rig, domain);
        assert_eq!((address_bits, asked), (bits, depths), "{width:?}");
        // The upper half has one page at its start, and nothing is above it.
        let half = 1 << (bits - 1);
        assert_eq!(all_multiples(&mut rig, domain, half), [half], "{width:?}");
        assert!(rig.reaches(edu(), half));
        let sixteenth = half >> 3;
        let rest: Vec<_> = (1..16).filter(|n| *n != 8).map(|n| n * sixteenth).collect();
        let given = all_multiples(&mut rig, domain, sixteenth);
        assert_eq!(given, rest, "{width:?}");
        assert!(given.iter().all(|iova| rig.reaches(edu(), *iova)), "{width:?}");
        rig.check();
    }
}

fn a_domain_asks_for_what_all_its_units_can_whichever_is_named_first(vendor: Vendor) {
    let up_to = |levels| Depths::new(1..=levels);
    let pairs: [(Width, Width, Option<Asked>); 5] = match vendor {
        Vendor::Vtd => [
            ((48, &[3, 4]), (39, &[3]), Some((39, Depths::new([3])))),
            ((48, &[3, 4]), (40, &[4]), Some((40, Depths::new([4])))),
            ((48, &[3]), (40, &[3, 4]), Some((39, Depths::new([3])))),
            ((48, &[3, 4]), (32, &[3, 4]), Some((32, Depths::new([3])))),
            ((48, &[4]), (39, &[3]), None),
        ],
        Vendor::Amdvi => [
            ((64, &[6]), (40, &[4]), Some((40, up_to(4)))),
            ((40, &[6]), (64, &[4]), Some((40, up_to(4)))),
            ((32, &[6]), (64, &[4]), Some((32, up_to(3)))),
            ((32, &[4]), (40, &[5]), Some((32, up_to(3)))),
            ((64, &[6]), (64, &[4]), Some((48, up_to(4)))),
        ],
    };
    for (one, another, common) in pairs {
        for (first, second) in [(one, another), (another, one)] {
            let mut rig = two(vendor, first, second);
            for devices in [[edu(), other()], [other(), edu()]] {
                let what = format!("{first:?} and {second:?}, {devices:?}");
                let domain = rig.engine.create_domain(&mut rig.platform, &devices);
                let Some((address_bits, depths)) = common else {
                    let refusal = |device| EngineError::IncompatibleDomain(device, Mismatch::Depth);
                    assert!(devices.map(refusal).contains(&domain.unwrap_err()), "{what}");
                    continue;
                };
                let domain = domain.unwrap();
                let found = abilities(&rig, domain);
                // But for their widths, the units are the same.
                let one = rig.engine.units()[0].unit.as_ref().unwrap().abilities();
                assert_eq!(found, Abilities { address_bits, depths, ..one }, "{what}");
                for device in devices {
                    rig.attach_to(device, domain);
                }
                let half = 1 << (address_bits - 1);
                assert_eq!(all_multiples(&mut rig, domain, half), [half], "{what}");
                for device in devices {
                    assert!(rig.reaches(device, half), "{what}");
                    rig.detach(device);
                }
            }
            rig.check();
        }
    }
}

fn a_domain_that_asks_for_more_than_a_unit_can_is_not_for_its_devices(vendor: Vendor) {
    let cases: [(Width, Width, Mismatch); 3] = match vendor {
        Vendor::Vtd => [
            ((48, &[3, 4]), (39, &[3]), Mismatch::Depth),
            ((48, &[3, 4]), (40, &[3, 4]), Mismatch::AddressBits),
            ((40, &[4]), (32, &[3, 4]), Mismatch::AddressBits),
        ],
        Vendor::Amdvi => [
            ((64, &[6]), (40, &[4]), Mismatch::AddressBits),
            ((48, &[4]), (32, &[6]), Mismatch::AddressBits),
            ((40, &[4]), (32, &[4]), Mismatch::AddressBits),
        ],
    };
    for (wide, narrow, mismatch) in cases {
        let mut rig = two(vendor, narrow, wide);
        let domain = rig.attach(edu());
        let page = rig.page(domain);
        let refused = rig.engine.attach(&mut rig.platform, other(), domain);
        let refused = refused.map(|_| ());
        assert_eq!(refused, Err(EngineError::IncompatibleDomain(other(), mismatch)), "{narrow:?}");
        assert!(rig.reaches(edu(), page) && !rig.reaches(other(), page));
        rig.check();
    }
}

fn a_domain_of_a_narrow_unit_is_for_a_wide_one_too(vendor: Vendor) {
    let (narrow, wide): (Width, Width) = match vendor {
        Vendor::Vtd => ((39, &[3]), (48, &[3, 4])),
        Vendor::Amdvi => ((32, &[4]), (64, &[6])),
    };
    let mut rig = two(vendor, narrow, wide);
    let domain = rig.attach(other());
    rig.attach_to(edu(), domain);
    let page = rig.page(domain);
    assert!(rig.reaches(edu(), page) && rig.reaches(other(), page));
    rig.check();
}

#[test]
fn addresses_of_40_bits_end_where_hypertransport_begins() {
    let unit = AmdviConfig { device_address_bits: 40, ..AmdviConfig::default() };
    let mut rig = Rig::new(MachineConfig::with_amdvi(unit));
    let domain = rig.attach(edu());
    let expected: Vec<u64> = (1..0xfd).map(|n| n << 32).collect();
    assert_eq!(HYPERTRANSPORT_RANGE.start, Iova::new(0xfd << 32));
    assert_eq!(all_multiples(&mut rig, domain, 1 << 32), expected);
    assert!(rig.reaches(edu(), 0xfc << 32));
    rig.check();
}

/// Two units: the first, of a card at 01:00.0, is a narrow one that keeps what is not present, too.
fn narrow_and_wide(vendor: Vendor) -> MachineConfig {
    let mut config = vendor.two_units();
    match vendor {
        Vendor::Vtd => {
            config.units[0].vtd = VtdConfig {
                levels: vec![3],
                guest_address_bits: 39,
                caching_mode: true,
                ..VtdConfig::default()
            };
        }
        Vendor::Amdvi => {
            config.amdvi_units[0].amdvi = AmdviConfig {
                table_depth: 0,
                device_address_bits: 40,
                np_cache: true,
                eager: true,
                ..AmdviConfig::default()
            };
        }
    }
    config
}

fn one_domain_for_a_wide_and_a_narrow_unit_is_narrow_and_seen_by_both(vendor: Vendor) {
    let narrow = other();
    let mut rig = Rig::new(narrow_and_wide(vendor));
    let alone = rig.engine.create_domain(&mut rig.platform, &[edu()]).unwrap();
    let bits = |rig: &Rig, key| rig.engine.domain(key).unwrap().abilities().address_bits;
    let wide = bits(&rig, alone);
    let domain = rig.engine.create_domain(&mut rig.platform, &[edu(), narrow]).unwrap();
    let both = bits(&rig, domain);
    match vendor {
        Vendor::Vtd => assert_eq!((wide, both), (48, 39)),
        Vendor::Amdvi => assert_eq!((wide, both), (48, 40)),
    }
    rig.attach_to(edu(), domain);
    rig.attach_to(narrow, domain);
    // What comes next is known to be absent, by both.
    let next = rig.page(domain) + 0x2000;
    assert!(!rig.reaches(edu(), next) && !rig.reaches(narrow, next));
    let page = rig.page(domain);
    assert_eq!(page, next);
    assert!(rig.reaches(edu(), page) && rig.reaches(narrow, page));
    rig.detach(narrow);
    assert!(rig.reaches(edu(), page) && !rig.reaches(narrow, page));
    rig.attach_to(narrow, domain);
    assert!(rig.reaches(narrow, page));
    rig.check();
}

/// A domain for units that differ in everything works on each of them.
fn a_domain_for_several_units_can_what_all_of_them_can(vendor: Vendor) {
    let mut config = units(vendor, 5);
    match vendor {
        Vendor::Vtd => {
            let base = VtdConfig::default;
            let odd = [
                VtdConfig { pages_2m: false, pages_1g: false, ..base() },
                VtdConfig { coherent: false, write_buffer: true, ..base() },
                VtdConfig { queued_invalidation: false, caching_mode: true, ..base() },
                VtdConfig {
                    levels: vec![3],
                    guest_address_bits: 39,
                    zero_length_read: false,
                    ..base()
                },
            ];
            for (unit, odd) in config.units.iter_mut().zip(odd) {
                unit.vtd = odd;
            }
        }
        Vendor::Amdvi => {
            let base = AmdviConfig::default;
            let odd = [
                AmdviConfig { table_depth: 0, device_address_bits: 40, ..base() },
                AmdviConfig { coherent: false, ..base() },
                AmdviConfig { np_cache: true, eager: true, ..base() },
                AmdviConfig { extended_features: false, ..base() },
            ];
            for (unit, odd) in config.amdvi_units.iter_mut().zip(odd) {
                unit.amdvi = odd;
            }
        }
    }
    let mut rig = Rig::new(config);
    let devices: Vec<_> = (0..4).map(card).chain([edu()]).collect();
    let domain = rig.engine.create_domain(&mut rig.platform, &devices).unwrap();
    for device in &devices {
        rig.attach_to(*device, domain);
    }
    for bytes in [4096, 2 << 20, 5 << 20] {
        let run = rig.run(bytes);
        let iova = rig.map(domain, run, bytes, dma_types::Access::ReadWrite);
        for device in &devices {
            assert!(rig.reaches(*device, iova.get()), "{device} {bytes}");
            assert!(rig.reaches(*device, iova.get() + bytes - 8), "{device} {bytes}");
        }
        rig.unmap(domain, iova, bytes);
        for device in &devices {
            assert!(!rig.reaches(*device, iova.get()), "{device} {bytes}");
        }
    }
    rig.check();
}
