//! What a device reaches: what is mapped for it, the way it is mapped, and nothing else (R1, R6).

use dma_types::{Access, Iova, PciAddress};
use iommu_engine::error::EngineError;
use iommu_engine::fault::{FaultReason, Tried};
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::vtd::VtdConfig;
use iommu_sim::{Blocked, MachineConfig};

use crate::rig::{Rig, blocked, edu, other};
use crate::vendor::Vendor;

both! {
    a_device_reaches_its_buffer_both_ways_through_scattered_pages,
    r1_a_device_without_a_domain_reaches_nothing_and_the_fault_says_who_and_what,
    r1_a_device_reaches_nothing_beside_its_buffer,
    r6_direction_is_enforced_and_named_in_the_fault,
    each_refusal_is_told_with_device_address_direction_and_reason,
    a_translated_request_is_blocked_whoever_makes_it,
    one_devices_memory_is_not_anothers,
    r4_detaching_turns_bus_mastering_off,
    r7_what_cannot_be_done_is_refused_and_changes_nothing,
    the_hardware_walks_what_the_engine_says_it_mapped,
}

fn a_device_reaches_its_buffer_both_ways_through_scattered_pages(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(5 * 4096);
    let iova = rig.map(domain, run, 5 * 4096, Access::ReadWrite).get();
    let data: Vec<u8> = (0..5 * 4096).map(|n| (n % 251) as u8).collect();
    assert_eq!(rig.write(iova, &data), Ok(()));
    let words = rig.platform.run_words(run).unwrap();
    let memory: Vec<u8> = words
        .iter()
        .flat_map(|word| word.load(std::sync::atomic::Ordering::Relaxed).to_le_bytes())
        .collect();
    assert_eq!(memory[..data.len()], data);
    assert_eq!(rig.read(iova, data.len()), Ok(data));
    rig.check();
}

fn r1_a_device_without_a_domain_reaches_nothing_and_the_fault_says_who_and_what(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let refused = rig.write(0x1_0000_0000, &[1; 8]);
    assert!(blocked(&refused), "{refused:?}");
    let (faults, lost) = rig.faults();
    assert_eq!(faults.len(), 1);
    let fault = faults[0];
    assert_eq!(fault.device_in(0), Some(edu()));
    assert_eq!((fault.address, fault.tried), (Iova::new(0x1_0000_0000), Tried::Write));
    assert_eq!((fault.reason, lost), (FaultReason::NoDomain, false));
    rig.check();
}

fn r1_a_device_reaches_nothing_beside_its_buffer(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite).get();
    for address in [0, iova - 4096, iova + 4096, iova + (1 << 40), 1 << 50] {
        let refused = rig.read(address, 16);
        assert!(blocked(&refused), "{address:#x}: {refused:?}");
    }
    // A transfer that runs over the end meets the guard page.
    assert!(rig.write(iova + 4088, &[7; 16]).is_err());
    rig.check();
}

fn r6_direction_is_enforced_and_named_in_the_fault(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let read_only = rig.map(domain, run, 4096, Access::Read);
    let write_only = rig.map(domain, run, 4096, Access::Write);
    assert!(rig.read(read_only.get(), 8).is_ok());
    assert_eq!(rig.write(write_only.get(), &[1; 8]), Ok(()));
    assert!(blocked(&rig.write(read_only.get(), &[2; 8])));
    assert!(blocked(&rig.read(write_only.get(), 8)));
    let (faults, _) = rig.faults();
    let told: Vec<_> = faults.iter().map(|it| (it.address, it.tried, it.reason)).collect();
    assert_eq!(
        told,
        [
            (read_only, Tried::Write, FaultReason::NotWritable),
            (write_only, Tried::Read, FaultReason::NotReadable)
        ]
    );
    rig.check();
}

#[test]
fn r6_without_zero_length_reads_a_writable_page_is_readable_too() {
    let unit = VtdConfig { zero_length_read: false, ..VtdConfig::default() };
    let mut rig = Rig::new(MachineConfig::with_unit(unit));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::Write).get();
    assert_eq!(rig.write(iova, &[3; 8]), Ok(()));
    // The zero-length read that some devices do before they write.
    assert_eq!(rig.read(iova, 0), Ok(Vec::new()));
    assert!(rig.engine.domain(domain).unwrap().abilities().write_needs_read);
    rig.check();
}

fn each_refusal_is_told_with_device_address_direction_and_reason(vendor: Vendor) {
    use FaultReason::{BeyondWidth, NoDomain, NotReadable, NotWritable, Translated};
    let mut rig = Rig::new(vendor.machine());
    let _ = (rig.read(0x5000, 8), rig.write(0x6000, &[1; 8]));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let read_only = rig.map(domain, run, 4096, Access::Read);
    let write_only = rig.map(domain, run, 4096, Access::Write);
    let _ = (rig.read(0x7000, 8), rig.write(0x8000, &[1; 8]));
    let _ = (rig.write(read_only.get(), &[1; 8]), rig.read(write_only.get(), 8));
    let _ = (rig.read(1 << 50, 8), rig.write(1 << 50, &[1; 8]));
    let (mut faults, mut lost) = rig.faults();
    let translated = Iova::new(0x9000);
    let _ = rig.platform.machine_mut().dma_write_translated(edu(), translated.get(), &[1; 8]);
    rig.detach(edu());
    let _ = (rig.read(read_only.get(), 8), rig.write(write_only.get(), &[1; 8]));

    let (late, late_lost) = rig.faults();
    faults.extend(late);
    lost |= late_lost;
    assert!(!lost && faults.iter().all(|fault| fault.device_in(0) == Some(edu())));
    let told: Vec<_> = faults.iter().map(|it| (it.address, it.tried, it.reason)).collect();
    let at = Iova::new;
    let (high, of_translated) = match vendor {
        Vendor::Vtd => ([BeyondWidth, BeyondWidth], Tried::Write),
        // Its units tell neither that an address is too wide, nor the direction of what they do not translate.
        Vendor::Amdvi => ([NotReadable, NotWritable], Tried::Access),
    };
    let expected = [
        (at(0x5000), Tried::Read, NoDomain),
        (at(0x6000), Tried::Write, NoDomain),
        (at(0x7000), Tried::Read, NotReadable),
        (at(0x8000), Tried::Write, NotWritable),
        (read_only, Tried::Write, NotWritable),
        (write_only, Tried::Read, NotReadable),
        (at(1 << 50), Tried::Read, high[0]),
        (at(1 << 50), Tried::Write, high[1]),
        (translated, of_translated, Translated),
        (read_only, Tried::Read, NoDomain),
        (write_only, Tried::Write, NoDomain),
    ];
    assert_eq!(told, expected);
    rig.check();
}

fn a_translated_request_is_blocked_whoever_makes_it(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite).get();
    let refused = rig.platform.machine_mut().dma_write_translated(edu(), iova, &[1; 8]);
    assert!(blocked(&refused), "{refused:?}");
    let (faults, _) = rig.faults();
    assert_eq!(faults[0].reason, FaultReason::Translated);
}

fn one_devices_memory_is_not_anothers(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine().with_root_port());
    let (mine, its) = (rig.attach(edu()), rig.attach(other()));
    let (run, other_run) = (rig.run(4096), rig.run(4096));
    let iova = rig.map(mine, run, 4096, Access::ReadWrite).get();
    let other_iova = rig.map(its, other_run, 4096, Access::ReadWrite).get();
    // The same I/O address means different memory in each domain.
    assert_eq!(iova, other_iova);
    rig.write(iova, b"for edu0").unwrap();
    rig.platform.machine_mut().dma_write(other(), other_iova, b"for edu1").unwrap();
    assert_eq!(rig.read(iova, 8).unwrap(), b"for edu0");
    let completion = rig.engine.detach(&mut rig.platform, other()).unwrap();
    rig.finish(&completion);
    rig.platform.machine_mut().config_write(other(), 4, 6);
    let refused = rig.platform.machine_mut().dma_write(other(), other_iova, b"any more");
    assert!(blocked(&refused), "{refused:?}");
    assert_eq!(rig.read(iova, 8).unwrap(), b"for edu0");
    rig.check();
}

fn r4_detaching_turns_bus_mastering_off(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    rig.attach(edu());
    let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.finish(&completion);
    assert_eq!(rig.read(0x1000, 4), Err(Blocked::NotMaster));
    rig.check();
}

fn r7_what_cannot_be_done_is_refused_and_changes_nothing(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let nobody: PciAddress = "0000:00:1f.7".parse().unwrap();
    let Rig { platform, engine } = &mut rig;
    assert_eq!(engine.create_domain(platform, &[nobody]), Err(EngineError::NoSuchDevice(nobody)));
    assert_eq!(engine.detach(platform, edu()), Err(EngineError::NotAttached(edu())));
    let domain = rig.attach(edu());
    let Rig { platform, engine } = &mut rig;
    let again = engine.attach(platform, edu(), domain);
    assert_eq!(again, Err(EngineError::AlreadyAttached(edu())));
    assert_eq!(engine.destroy_domain(platform, domain), Err(EngineError::DomainInUse(domain)));
    let run = rig.run(2 * 4096);
    let iova = rig.map(domain, run, 2 * 4096, Access::ReadWrite);
    let inside = Iova::new(iova.get() + 4096);
    let Rig { platform, engine } = &mut rig;
    for (iova, bytes) in [(iova, 4096), (inside, 4096), (iova, 3 * 4096), (Iova::new(0), 4096)] {
        let refused = engine.unmap(platform, domain, iova, bytes);
        assert_eq!(refused, Err(EngineError::NotMapped), "{iova} {bytes:#x}");
    }
    assert!(rig.read(iova.get(), 2 * 4096).is_ok());
    rig.check();
}

fn the_hardware_walks_what_the_engine_says_it_mapped(vendor: Vendor) {
    let machines = match vendor {
        Vendor::Vtd => [3, 4, 5].map(|levels| {
            let guest_address_bits = 12 + 9 * levels;
            let levels = vec![levels];
            let unit = VtdConfig { levels, guest_address_bits, ..VtdConfig::default() };
            MachineConfig::with_unit(unit)
        }),
        Vendor::Amdvi => [0, 1, 2].map(|table_depth| {
            MachineConfig::with_amdvi(AmdviConfig { table_depth, ..AmdviConfig::default() })
        }),
    };
    for machine in machines {
        let mut rig = Rig::new(machine);
        let domain = rig.attach(edu());
        for bytes in [4096, 6 << 20, 2 << 20] {
            let run = rig.run(bytes);
            let iova = rig.map(domain, run, bytes, Access::ReadWrite).get();
            for offset in [0, bytes / 2, bytes - 8] {
                rig.write(iova + offset, &(iova + offset).to_le_bytes()).unwrap();
                let word = &rig.platform.run_words(run).unwrap()[(offset / 8) as usize];
                assert_eq!(word.load(std::sync::atomic::Ordering::Relaxed), iova + offset);
            }
        }
        rig.check();
    }
}

#[test]
fn r6_a_zero_length_read_of_a_writable_page_is_allowed_by_every_amd_unit() {
    let mut rig = Rig::new(Vendor::Amdvi.machine());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::Write).get();
    assert_eq!(rig.read(iova, 0), Ok(Vec::new()));
    assert!(rig.read(iova, 8).is_err());
    assert!(!rig.engine.domain(domain).unwrap().abilities().write_needs_read);
    rig.check();
}
