//! Memory that the policy sets aside, and memory below a mask where there is no IOMMU.

use iommu_engine::policy::{Devices, Policy, Rule, WithoutIommu};
use iommu_service::{Service, Settings};
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;
use libdma::{Access, Device, Error, Limits};

use crate::rig::{Rig, edu};
use crate::vendor::{Vendor, slow};

both! {
    what_is_asked_for_in_one_piece_comes_out_of_the_reserve,
    a_device_s_own_reserve_is_asked_before_that_of_all,
    r2_a_part_is_in_use_until_its_unit_has_confirmed,
    r8_a_part_comes_zeroed_and_is_no_other_device_s,
    r8_a_part_that_a_client_has_seen_is_given_to_nobody_again,
    r7_an_allocation_out_of_the_reserve_that_fails_leaves_it_as_it_was,
    what_cannot_be_set_aside_is_a_remark_and_drivers_are_served,
}

const MIB: u64 = 1 << 20;
const BOTH: Option<Access> = Some(Access::ReadWrite);

fn policy(all: u64, own: Option<u64>) -> Policy {
    let rule = Rule { reserve: own, ..Rule::new(Devices::At(edu())) };
    Policy { reserve: all, rules: vec![rule], ..Policy::default() }
}

fn rig(vendor: Vendor, all: u64, own: Option<u64>) -> Rig {
    Rig::with(vendor.machine(), policy(all, own))
}

/// What `config` says of a reserve.
fn told(rig: &Rig, name: &str) -> Option<String> {
    let config = rig.json("config");
    let row = config.as_array().unwrap().iter().find(|row| row["name"] == name)?;
    row["value"].as_str().map(Into::into)
}

const OWN: &str = "contiguous reserve of 0000:00:02.0";

/// How many bytes of all reserves are given out.
fn used(rig: &Rig) -> u64 {
    rig.usage();
    rig.service.lock().engine().reserves().iter().map(|reserve| reserve.used()).sum()
}

fn what_is_asked_for_in_one_piece_comes_out_of_the_reserve(vendor: Vendor) {
    let rig = rig(vendor, 16 * MIB, None);
    let name = "contiguous reserve";
    let all = "0 of 16 MiB used, 8 MiB free in one piece";
    assert_eq!(told(&rig, name).as_deref(), Some(all));
    assert_eq!(told(&rig, OWN), None);
    let device = rig.open();
    let small = device.allocate(4096, BOTH, "as any").unwrap();
    assert_eq!(used(&rig), 0, "what may be in pieces is not taken out of it");
    // Two of its pieces happen to be adjacent, and are one.
    let whole =
        device.buffer("longer than others").access(BOTH).contiguous().allocate(5 * MIB).unwrap();
    let rows = rig.json("mappings");
    assert_eq!((&rows[1]["pieces"], &rows[1]["bytes"]), (&1.into(), &(5 * MIB).into()));
    let some = "5 MiB of 16 MiB used, 4 MiB free in one piece";
    assert_eq!(told(&rig, name).as_deref(), Some(some));
    let last = whole.iova().unwrap().get() + 5 * MIB - 8;
    rig.device_writes(last, &[7; 8]).unwrap();
    let mut seen = [0; 8];
    whole.read(5 * MIB as usize - 8, &mut seen).unwrap();
    assert_eq!(seen, [7; 8]);
    // More than is left is as without a reserve.
    let longer = device.buffer("longer than any").access(BOTH).contiguous().allocate(9 * MIB);
    assert_eq!(longer.err(), Some(Error::NotContiguous));
    let parts: Vec<_> = (0..5)
        .map(|_| {
            device
                .buffer("the platform's at last")
                .access(BOTH)
                .contiguous()
                .allocate(4 * MIB)
                .unwrap()
        })
        .collect();
    assert!(parts.iter().all(|part| part.len() == 4 << 20));
    drop((small, whole, parts, device));
    assert_eq!(told(&rig, name).as_deref(), Some(all));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn a_device_s_own_reserve_is_asked_before_that_of_all(vendor: Vendor) {
    let rig = rig(vendor, 4 * MIB, Some(4 * MIB));
    let device = rig.open();
    let parts: Vec<_> = (0..4)
        .map(|part| {
            let buffer = device.buffer("part").access(BOTH).contiguous().allocate(2 * MIB).unwrap();
            let own = told(&rig, OWN).unwrap();
            let expected = [2, 4, 4, 4][part];
            assert!(own.starts_with(&format!("{expected} MiB of 4 MiB ")), "{own}");
            buffer
        })
        .collect();
    assert_eq!(used(&rig), 8 * MIB);
    drop(parts);
    assert_eq!(used(&rig), 0);
    rig.check();
}

fn r2_a_part_is_in_use_until_its_unit_has_confirmed(vendor: Vendor) {
    let machine = slow(vendor.machine(), Takes::After(20_000_000));
    let rig = Rig::with(machine, policy(4 * MIB, None));
    let device = rig.open();
    let part = device.buffer("all of it").access(BOTH).contiguous().allocate(4 * MIB).unwrap();
    let iova = part.iova().unwrap().get();
    rig.device_writes(iova, &[7; 8]).unwrap();
    drop(part);
    let service = rig.service.lock();
    assert_eq!(service.engine().reserves()[0].used(), 4 * MIB, "the unit may still know it");
    drop(service);
    assert_eq!(used(&rig), 0);
    assert!(rig.device_writes(iova, &[1; 8]).is_err());
    rig.check();
}

fn r8_a_part_comes_zeroed_and_is_no_other_device_s(vendor: Vendor) {
    let rig = rig(vendor, 4 * MIB, Some(MIB));
    let device = rig.open();
    for _ in 0..2 {
        let part = device.buffer("own").access(BOTH).contiguous().allocate(MIB).unwrap();
        let mut seen = [1; 4096];
        part.read(MIB as usize - 4096, &mut seen).unwrap();
        assert_eq!(seen, [0; 4096]);
        part.write(MIB as usize - 4096, &[7; 4096]).unwrap();
    }
    assert_eq!(rig.service.lock().engine().reserves().len(), 2);
    rig.check();
}

fn r8_a_part_that_a_client_has_seen_is_given_to_nobody_again(vendor: Vendor) {
    let rig = rig(vendor, 4 * MIB, None);
    let device = rig.open();
    let allocate =
        || device.buffer("part").access(BOTH).contiguous().allocate_unmapped(MIB).unwrap();
    let retired = |rig: &Rig| {
        rig.usage();
        let service = rig.service.lock();
        let reserve = &service.engine().reserves()[0];
        [reserve.used(), reserve.retired(), reserve.bytes()].map(|it| it / MIB)
    };
    let held = allocate();
    (0..3).for_each(|_| drop(allocate()));
    assert_eq!(retired(&rig), [1, 3, 4]);
    // Nothing of it is left.
    let other = allocate();
    assert_eq!(retired(&rig), [1, 3, 4]);
    drop(other);
    // All of it goes with the last that is in use, and other memory comes in its place.
    drop(held);
    assert_eq!(retired(&rig), [0, 0, 4]);
    drop(allocate());
    rig.check();
}

fn r7_an_allocation_out_of_the_reserve_that_fails_leaves_it_as_it_was(vendor: Vendor) {
    let rig = rig(vendor, 4 * MIB, None);
    let mut device = rig.open();
    device.set_limits(Limits::NONE.try_mask(13).unwrap());
    let refused = device.buffer("no such addresses").access(BOTH).contiguous().allocate(2 * MIB);
    assert_eq!(refused.err(), Some(Error::NoAddressSpace));
    assert_eq!(used(&rig), 0);
    device.set_limits(Limits::NONE);
    rig.service.lock().platform_mut().limit_frames(0);
    let refused = device.buffer("no tables").access(BOTH).contiguous().allocate(2 * MIB);
    assert_eq!(refused.err(), Some(Error::OutOfMemory));
    assert_eq!(used(&rig), 0);
    assert_eq!(rig.usage().live_runs, 0);
    rig.service.lock().platform_mut().limit_frames(usize::MAX);
    drop(device.buffer("all of it").access(BOTH).contiguous().allocate(4 * MIB).unwrap());
    assert_eq!(used(&rig), 0);
    rig.check();
}

fn what_cannot_be_set_aside_is_a_remark_and_drivers_are_served(vendor: Vendor) {
    let mut platform = SimPlatform::new(vendor.machine()).unwrap();
    platform.limit_run_bytes(6 * MIB);
    let settings = Settings { lines: Vec::new(), policy: policy(16 * MIB, Some(4096)) };
    let Ok(service) = Service::start(platform, settings) else { panic!("it is no refusal") };
    let remarks: Vec<_> = service.engine().remarks().iter().map(ToString::to_string).collect();
    assert_eq!(
        remarks,
        [
            "of the 16777216 bytes that the policy sets aside for all devices, 6291456 could be had",
            "of the 4096 bytes that the policy sets aside for 0000:00:02.0, 0 could be had",
        ]
    );
    // Half of what there is, and no more, is ever set aside.
    let mut platform = SimPlatform::new(vendor.machine()).unwrap();
    platform.tell_memory(&[(0, 8 * MIB)]);
    let settings = Settings { lines: Vec::new(), policy: policy(u64::MAX, Some(u64::MAX)) };
    let Ok(service) = Service::start(platform, settings) else { panic!("it is no refusal") };
    let bytes: u64 = service.engine().reserves().iter().map(|reserve| reserve.bytes()).sum();
    assert_eq!((bytes, service.engine().remarks().len()), (4 * MIB, 2));
}

fn unprotected(all: u64) -> Rig {
    let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..policy(all, None) };
    Rig::with(MachineConfig::without_units().with_root_port(), policy)
}

fn end(buffer: &libdma::Buffer) -> u64 {
    buffer.iova().unwrap().get() + buffer.len() as u64
}

#[test]
fn without_an_iommu_memory_is_below_the_mask() {
    let rig = unprotected(0);
    let mut device = rig.open();
    let high = device.allocate(8192, BOTH, "anywhere").unwrap();
    assert!(end(&high) > 1 << 32, "the machine has memory above 4 GiB, and it is used");
    device.set_dma_mask(32).unwrap();
    let low = device.allocate(8192, BOTH, "below 4 GiB").unwrap();
    assert!(end(&low) <= 1 << 32);
    rig.device_writes(low.iova().unwrap().get(), &[7; 8]).unwrap();
    let whole = device.buffer("below 4 GiB and not mapped").contiguous().allocate(4 * MIB).unwrap();
    let request =
        libdma::MapRequest { buffer: &whole, offset: 0, bytes: 4 * MIB, access: Access::Read };
    let mapped = device.map(&[request]).unwrap();
    assert!(mapped[0].iova().get() + 4 * MIB <= 1 << 32);
    device.unmap(&mapped).unwrap();
    drop((high, low, whole, device));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

#[test]
fn r7_without_an_iommu_where_nothing_is_left_below_the_mask_the_error_says_so() {
    let rig = unprotected(0);
    rig.service.lock().platform_mut().limit_low_pieces(2);
    let mut device = rig.open();
    device.set_dma_mask(32).unwrap();
    let held: Vec<_> = (0..2).map(|_| device.allocate(4096, BOTH, "low").unwrap()).collect();
    let before = rig.usage();
    let refused = device.allocate(4096, BOTH, "none left");
    assert_eq!(refused.err(), Some(Error::NoAddressSpace));
    assert_eq!(rig.usage(), before);
    // It can be had unmapped, and is not mapped then.
    let high = device.allocate(4096, None, "for other devices").unwrap();
    let request =
        libdma::MapRequest { buffer: &high, offset: 0, bytes: 4096, access: Access::Read };
    assert_eq!(device.map(&[request]).err(), Some(Error::NoAddressSpace));
    drop(held);
    assert!(device.allocate(4096, BOTH, "low again").is_ok());
    drop((high, device));
    rig.check();
}

#[test]
fn without_an_iommu_what_is_masked_or_too_long_comes_out_of_the_reserve() {
    let rig = unprotected(16 * MIB);
    rig.service.lock().platform_mut().limit_low_pieces(0);
    let mut device = rig.open();
    let any = device.allocate(4096, BOTH, "anywhere").unwrap();
    assert_eq!(used(&rig), 0, "what the platform has it is asked for first");
    let long = device.allocate(5 * MIB, BOTH, "longer than any piece of the platform's").unwrap();
    assert_eq!(used(&rig), 5 * MIB);
    device.set_dma_mask(32).unwrap();
    let low = device.allocate(MIB, BOTH, "low").unwrap();
    assert!(end(&low) <= 1 << 32);
    assert_eq!(used(&rig), 6 * MIB);
    rig.device_writes(end(&low) - 8, &[7; 8]).unwrap();
    let unmapped = device.buffer("low, too").access(BOTH).contiguous().allocate_unmapped(MIB);
    assert!(unmapped.unwrap().iova().unwrap().get() < 1 << 32);
    let refused = device.allocate(4 * MIB, BOTH, "not as much is left");
    assert_eq!(refused.err(), Some(Error::NoAddressSpace));
    drop((any, long, low));
    assert_eq!(used(&rig), 0);
    drop(device);
    rig.check();
}

/// The memory of a driver that died stays what it was until its device is stopped.
#[test]
fn r4_without_an_iommu_a_part_waits_for_the_end_of_its_session() {
    let rig = unprotected(4 * MIB);
    let device = rig.open();
    let other = Device::open(rig.transport(), "0000:01:00.0".parse().unwrap()).unwrap();
    let part = device.buffer("all of it").access(BOTH).contiguous().allocate(4 * MIB).unwrap();
    let address = part.iova().unwrap().get();
    // Its handle closes with nothing said before, as at a driver's death.
    let handle = part.handle().raw();
    core::mem::forget(part);
    // SAFETY: the buffer is forgotten: nobody uses its handle or memory any more.
    unsafe { rig.transport().close(handle) };
    assert_eq!(used(&rig), 4 * MIB);
    rig.device_writes(address, &[7; 8]).unwrap();
    let next = other.buffer("next").access(BOTH).contiguous().allocate(4 * MIB).unwrap();
    assert_ne!(next.iova().unwrap().get(), address);
    drop(next);
    // The forgotten buffer holds on to its session: the daemon sees its handle close.
    let handle = device.handle().raw();
    core::mem::forget(device);
    // SAFETY: as above.
    unsafe { rig.transport().close(handle) };
    assert_eq!(used(&rig), 0);
    let part = other.buffer("the reserve's").access(BOTH).contiguous().allocate(4 * MIB).unwrap();
    let mut seen = [1; 8];
    part.read(0, &mut seen).unwrap();
    assert_eq!((used(&rig), seen), (4 * MIB, [0; 8]));
    rig.check();
}
