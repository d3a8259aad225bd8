//! Memory that firmware reserves: for whom, from when on, and when it is not believed.

use std::time::Duration;

use dma_types::{Iova, PciAddress};
use iommu_engine::engine::MapSpec;
use iommu_engine::error::EngineError;
use iommu_sim::MachineConfig;
use iommu_sim::machine::{EduConfig, ReservedRegion};
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::memory::{ARENA, FIRMWARE};

use super::traffic::at;
use crate::rig::{Rig, blocked, edu, other};
use crate::vendor::{Vendor, slow_at_all};

const RESERVED: u64 = 0x7d00_0000;
const ANOTHER: u64 = 0x7d10_0000;

both! {
    reserved_ranges_are_handed_out_to_nobody,
    r1_reserved_memory_is_reached_at_every_moment_of_a_slow_start,
    r5_what_cannot_be_true_is_refused_with_its_place_and_its_reason,
    r1_a_group_has_what_is_reserved_for_any_of_it,
    r1_what_is_plugged_in_has_what_is_reserved_for_it,
    a_domain_without_what_is_reserved_for_a_device_is_none_for_it,
}

/// The machine with four pages reserved there for a device.
fn reserved_at(config: MachineConfig, base: u64, device: PciAddress) -> MachineConfig {
    config.with_reserved(base, base + 0x3fff, &[device])
}

fn reserved_ranges_are_handed_out_to_nobody(vendor: Vendor) {
    let machine = reserved_at(vendor.machine().with_root_port(), 0x10_0000, edu());
    let mut rig = Rig::new(reserved_at(machine, 0x20_0000, other()));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let access = dma_types::Access::ReadWrite;
    let limit = Iova::new(0x40_0000);
    let spec = MapSpec {
        run,
        offset: 0,
        bytes: 4096,
        access,
        align: 4096,
        first: Iova::new(0),
        limit,
        owner: 1,
    };
    let mut given = Vec::new();
    let full = loop {
        let Rig { platform, engine } = &mut rig;
        match engine.map(platform, domain, &spec) {
            Ok((iova, _)) => given.push(iova.get()),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, EngineError::Iova(_)), "{full:?}");
    // All of the first 4 MiB but page zero and the two ranges, with a guard page after each.
    assert!(given.len() >= (1024 - 1 - 8) / 2, "{}", given.len());
    for reserved in [0x10_0000..0x10_4000, 0x20_0000..0x20_4000] {
        assert!(!given.iter().any(|page| reserved.contains(page)), "{reserved:x?}");
    }
    rig.check();
}

fn r1_reserved_memory_is_reached_at_every_moment_of_a_slow_start(vendor: Vendor) {
    let machine = slow_at_all(vendor.machine().with_pci_bridge(), Takes::After(1_000_000));
    let machine = reserved_at(machine, RESERVED, edu());
    let mut rig = Rig::started(reserved_at(machine, ANOTHER, at("21:02.0")));
    let mut moments = 0;
    while !rig.engine.is_settled() {
        for (device, base) in [(edu(), RESERVED), (at("21:02.0"), ANOTHER)] {
            assert_eq!(rig.write_from(device, base), Ok(()), "after {moments}");
            assert_eq!(rig.read_from(device, base + 0x3ff8), Ok(()));
        }
        rig.pass(Duration::from_micros(100));
        moments += 1;
    }
    assert!(moments >= 10, "{moments}");
    assert!(rig.reaches(edu(), RESERVED) && !rig.reaches(edu(), ANOTHER));
    assert!(!rig.reaches(edu(), RESERVED + 0x4000));
    rig.check();
}

fn r5_what_cannot_be_true_is_refused_with_its_place_and_its_reason(vendor: Vendor) {
    let registers = vendor.base();
    let cases = [
        (ARENA, ARENA + 0xfff, "iommud's own memory at 0x100000000 is there", None),
        (ARENA - 0x1000, ARENA + 0xfff, "iommud's own memory at 0x100000000 is there", None),
        (
            RESERVED + 0x3000,
            RESERVED + 0xfff,
            "it ends at 0x7d000fff, before its start at 0x7d003000",
            Some("at 0x7d003000 run over the end of the address space"),
        ),
        (0, (1 << 45) - 1, "bytes, more than any reservation needs", None),
        (1 << 60, (1 << 60) + 0xfff, "and addresses here have", None),
        (registers, registers + 0xfff, "the registers of the IOMMU at", None),
        (registers - 0x1000, registers + 0xfff, "the registers of the IOMMU at", None),
        (0xfee0_0000, 0xfee0_0fff, "addresses there raise interrupts and reach no memory", None),
    ];
    for (base, limit, reason, amdvi) in cases {
        let machine = vendor.machine().with_reserved(base, limit, &[edu()]);
        let machine = reserved_at(machine, ANOTHER, edu());
        let (mut rig, table) = Rig::told(machine, |_| ());
        let reason = amdvi.filter(|_| vendor == Vendor::Amdvi).unwrap_or(reason);
        // The broken one is the last but one, and alone.
        let place = format!("offset {:#x}: ", table.offset(table.parts.len() - 2));
        let oddities = rig.oddities();
        let [said] = &oddities[..] else { panic!("{oddities:?}") };
        assert!(said.contains(&place) && said.contains(reason), "{said}");
        for address in [base, limit & !0xfff] {
            assert!(rig.write_from(edu(), address).is_err(), "{said}");
            assert!(rig.read_from(edu(), address).is_err(), "{said}");
        }
        assert!(rig.reaches(edu(), ANOTHER), "the other is believed");
        let domain = rig.attach(edu());
        assert!(rig.write_from(edu(), base).is_err(), "{said}");
        let page = rig.page(domain);
        assert!(rig.reaches(edu(), page) && rig.reaches(edu(), ANOTHER));
        rig.check();
    }
}

fn r1_a_group_has_what_is_reserved_for_any_of_it(vendor: Vendor) {
    let machine = reserved_at(vendor.machine().with_pci_bridge(), RESERVED, at("21:01.0"));
    let mut rig = Rig::new(reserved_at(machine, ANOTHER, at("21:02.0")));
    let group = [at("21:01.0"), at("21:02.0"), at("22:00.0")];
    let assert_home = |rig: &Rig| {
        for device in group {
            assert!(rig.reaches(device, RESERVED) && rig.reaches(device, ANOTHER), "{device}");
            assert!(!rig.reaches(device, ANOTHER + 0x4000), "{device}");
        }
        assert!(!rig.reaches(edu(), RESERVED) && !rig.reaches(edu(), ANOTHER));
    };
    assert_home(&rig);
    let domain = rig.attach(at("22:00.0"));
    rig.attach_to(at("21:01.0"), domain);
    assert_home(&rig);
    rig.detach(at("22:00.0"));
    assert_home(&rig);
    rig.detach(at("21:01.0"));
    assert_home(&rig);
    rig.check();
}

fn r1_what_is_plugged_in_has_what_is_reserved_for_it(vendor: Vendor) {
    let newcomer = at("21:05.0");
    let mut rig = Rig::new(reserved_at(vendor.machine().with_pci_bridge(), RESERVED, newcomer));
    assert_eq!(rig.oddities(), [""; 0]);
    let domain = rig.attach(at("21:01.0"));
    let page = rig.page(domain);
    rig.platform.machine_mut().plug_edu(EduConfig::new(newcomer, 0xfec0_0000));
    rig.drive(newcomer);
    rig.engine.rescan(&mut rig.platform);
    assert_eq!(rig.oddities(), [""; 0]);
    // It is where its group is, and its driver may hold it there.
    assert!(rig.reaches(newcomer, page) && rig.reaches(newcomer, RESERVED));
    rig.attach_to(newcomer, domain);
    rig.detach(at("21:01.0"));
    assert!(rig.reaches(newcomer, page) && rig.reaches(newcomer, RESERVED));
    rig.detach(newcomer);
    assert!(!rig.reaches(newcomer, page) && rig.reaches(newcomer, RESERVED));
    assert!(!rig.reaches(edu(), RESERVED));
    rig.check();
}

#[test]
fn r1_what_is_plugged_in_has_what_is_reserved_for_it_and_for_others() {
    let newcomer = at("21:05.0");
    for held in [false, true] {
        let mut config = Vendor::Amdvi.machine().with_pci_bridge();
        // One range for all devices, and a longer one for this.
        config = config.with_reserved(RESERVED, RESERVED + 0x3fff, &[]);
        config = config.with_reserved(RESERVED, RESERVED + 0x7fff, &[newcomer]);
        let mut rig = Rig::new(config);
        let domain = held.then(|| rig.attach(at("21:01.0")));
        assert!(rig.reaches(at("21:01.0"), RESERVED + 0x3000));
        rig.platform.machine_mut().plug_edu(EduConfig::new(newcomer, 0xfec0_0000));
        rig.drive(newcomer);
        rig.engine.rescan(&mut rig.platform);
        assert_eq!(rig.oddities(), [""; 0]);
        let assert_home = |rig: &Rig| {
            assert!(rig.reaches(newcomer, RESERVED) && rig.reaches(newcomer, RESERVED + 0x7000));
            assert!(rig.reaches(edu(), RESERVED) && !rig.reaches(edu(), RESERVED + 0x4000));
        };
        assert_home(&rig);
        if let Some(domain) = domain {
            rig.attach_to(newcomer, domain);
            assert_home(&rig);
            rig.detach(at("21:01.0"));
            rig.detach(newcomer);
        }
        assert_home(&rig);
        rig.check();
    }
}

/// So far up that the table of whoever is there already must grow for it.
#[test]
fn r1_what_is_plugged_in_has_what_is_reserved_for_it_beyond_the_table() {
    let (newcomer, here) = (at("21:05.0"), at("21:01.0"));
    let far = 0x81_0000_0000;
    let mut rig = Rig::new(reserved_at(Vendor::Amdvi.machine().with_pci_bridge(), far, newcomer));
    let domain = rig.attach(here);
    let page = rig.page(domain);
    assert!(rig.reaches(here, page) && !rig.reaches(here, far));
    rig.platform.machine_mut().plug_edu(EduConfig::new(newcomer, 0xfec0_0000));
    rig.drive(newcomer);
    rig.engine.rescan(&mut rig.platform);
    assert_eq!(rig.oddities(), [""; 0]);
    for device in [newcomer, here] {
        assert!(rig.reaches(device, page), "{device}");
        // The machine has no memory so far up; it is no unit that says so.
        assert!(!blocked(&rig.write_from(device, far)), "{device}");
    }
    rig.check();
}

fn a_domain_without_what_is_reserved_for_a_device_is_none_for_it(vendor: Vendor) {
    let machine = reserved_at(vendor.machine().with_root_port(), RESERVED, other());
    let mut rig = Rig::new(machine);
    let domain = rig.attach(edu());
    let Rig { platform, engine } = &mut rig;
    let refused = engine.attach(platform, other(), domain);
    assert_eq!(refused, Err(EngineError::ReservedNotInDomain(other())));
    assert!(rig.reaches(other(), RESERVED) && !rig.reaches(edu(), RESERVED));
    let Rig { platform, engine } = &mut rig;
    let both = engine.create_domain(platform, &[other(), edu()]).unwrap();
    rig.attach_to(other(), both);
    rig.detach(edu());
    rig.attach_to(edu(), both);
    assert!(rig.reaches(other(), RESERVED) && rig.reaches(edu(), RESERVED), "one domain");
    rig.check();
}

#[test]
fn memory_that_intel_reserves_for_a_bridge_is_for_all_behind_it() {
    let machine = MachineConfig::default().with_root_port();
    let rig = Rig::new(reserved_at(machine, RESERVED, at("00:03.0")));
    assert!(rig.reaches(other(), RESERVED) && !rig.reaches(edu(), RESERVED));
    rig.check();
}

#[test]
fn r6_memory_that_amd_reserves_for_one_direction_is_reached_in_that_one() {
    // Unity with read, with write, and with neither, which is refused.
    for (flags, read, write) in
        [(3, true, false), (5, false, true), (7, true, true), (1, false, false)]
    {
        let machine = reserved_at(Vendor::Amdvi.machine(), RESERVED, edu());
        let (mut rig, table) =
            Rig::told(machine, |table| table.parts.last_mut().unwrap()[1] = flags);
        let assert_home = |rig: &Rig| {
            assert_eq!(rig.read_from(edu(), RESERVED).is_ok(), read, "{flags}");
            assert_eq!(rig.write_from(edu(), RESERVED).is_ok(), write, "{flags}");
        };
        assert_home(&rig);
        rig.attach(edu());
        assert_home(&rig);
        let said: Vec<_> = (flags == 1)
            .then(|| format!("IVRS offset {:#x}: a reserved memory block (IVMD) is not used: it asks for neither reading, nor writing, nor an exclusion range", table.offset(table.parts.len() - 1)))
            .into_iter()
            .collect();
        assert_eq!(rig.oddities(), said);
        rig.check();
    }
}

#[test]
fn r1_what_amd_excludes_from_translation_is_reached_by_those_it_names_alone() {
    let (first, last) = (at("00:02.0"), at("01:00.0"));
    let base = RESERVED;
    let region = |devices: &[PciAddress], range| ReservedRegion {
        base,
        limit: base + 0x3fff,
        devices: devices.to_vec(),
        range,
        exclusion: true,
    };
    let cases = [
        (region(&[first], false), [true, false]),
        (region(&[last], false), [false, true]),
        (region(&[first, last], true), [true, true]),
        (region(&[first, at("00:02.7")], true), [true, false]),
        (region(&[], false), [true, true]),
    ];
    for (region, reached) in cases {
        let mut config = Vendor::Amdvi.machine().with_root_port();
        config.reserved.push(region);
        let rig = Rig::new(config);
        assert_eq!([first, last].map(|device| rig.reaches(device, base)), reached);
        assert!(!rig.reaches(first, base + 0x4000) && !rig.reaches(first, FIRMWARE));
        rig.check();
    }
}
