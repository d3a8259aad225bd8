//! Drivers on a machine whose policy has unmaps answered before units have confirmed them (R2).

use iommu_engine::policy::{Invalidation, Policy, Quotas};
use iommu_service::{HandleId, Outcome};
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::call::{BATCH_FLAG_STRICT, BatchHeader, Opcode, UnmapEntry};
use libdma::{Access, Device, Error, FromDevice, Mapped};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::chosen::piece;
use crate::rig::Rig;
use crate::vendor::{Vendor, slow_down};

both! {
    r2_what_a_strict_stream_unmaps_is_out_of_reach_when_that_returns,
    r2_a_strict_unmap_is_answered_when_units_have_confirmed_and_others_at_once,
    r5_flags_of_batches_that_mean_nothing_are_refused,
    what_was_given_up_makes_room_at_once,
}

const PAGE: u64 = 4096;

fn rig(vendor: Vendor, quotas: Quotas) -> (Rig, Device) {
    let policy = Policy { invalidation: Invalidation::Deferred, quotas, ..Policy::default() };
    let rig = Rig::with(vendor.machine(), policy);
    let device = rig.open();
    (rig, device)
}

fn writes(rig: &Rig, iova: libdma::Iova) -> bool {
    rig.device_writes(iova.get(), &[7; 8]).is_ok()
}

fn r2_what_a_strict_stream_unmaps_is_out_of_reach_when_that_returns(vendor: Vendor) {
    let (rig, device) = rig(vendor, Quotas::default());
    // What is mapped by hand is not strict: it is what this policy is for.
    let buffer = device.allocate(PAGE, None, "by hand").unwrap();
    let mapped = device.map(&[piece(&buffer, 0, PAGE)]).unwrap();
    assert!(writes(&rig, mapped[0].iova()));
    device.unmap(&mapped).unwrap();
    assert!(writes(&rig, mapped[0].iova()));

    let stream = device.stream::<FromDevice>("rx").strict();
    let one = stream.buffer(PAGE as usize).unwrap().map().unwrap();
    let iova = one.iova();
    assert!(writes(&rig, iova));
    drop(one.unmap().unwrap());
    assert!(!writes(&rig, iova));

    // Nor does it matter by whose batch.
    for mut gather in [stream.gather(8), device.stream("tx").gather(8)] {
        let one = stream.buffer(PAGE as usize).unwrap().map().unwrap();
        let iova = one.iova();
        assert!(writes(&rig, iova));
        gather.unmap_later(one).unwrap();
        gather.flush().unwrap();
        assert!(!writes(&rig, iova) && gather.take().is_some());
    }

    let mut data = [0; 64];
    let slice = stream.map_slice_mut(&mut data).unwrap();
    let iova = slice.iova();
    assert!(writes(&rig, iova));
    // It comes back to the slice, so it is not to change any more.
    drop(slice);
    assert!(!writes(&rig, iova) && data[0] == 7);

    let mut raw = device.raw_stream("raw").strict();
    let address = raw.map_zeroes(64, Access::Write).unwrap();
    assert!(writes(&rig, address.iova()));
    raw.unmap_single(address, 64, Access::Write).unwrap();
    assert!(!writes(&rig, address.iova()));
    drop((buffer, stream, raw, device));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn unmap_of(mapped: Mapped, flags: u32) -> Vec<u8> {
    let header = BatchHeader {
        count: U32::new(1),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(flags),
    };
    let entry = UnmapEntry { iova: U64::new(mapped.iova().get()), bytes: U64::new(mapped.bytes()) };
    [header.as_bytes(), entry.as_bytes()].concat()
}

fn r2_a_strict_unmap_is_answered_when_units_have_confirmed_and_others_at_once(vendor: Vendor) {
    let (rig, device) = rig(vendor, Quotas::default());
    let buffer = device.allocate(2 * PAGE, None, "buffer").unwrap();
    let both = [piece(&buffer, 0, PAGE), piece(&buffer, PAGE, PAGE)];
    let mapped = device.map(&both).unwrap();
    let handle = HandleId(device.handle().raw().number());
    let service = &mut *rig.service.lock();
    slow_down(&mut service.platform().machine_mut(), Takes::After(50_000_000));
    let mut unmap = |mapped, flags| {
        service.call(handle, Opcode::Unmap as u64, &mut unmap_of(mapped, flags)).unwrap()
    };
    assert!(matches!(unmap(mapped[0], 0), Outcome::Done(_)));
    assert!(matches!(unmap(mapped[1], BATCH_FLAG_STRICT), Outcome::Pending(_)));
    let answered = loop {
        if let Some(answered) = service.poll().pop() {
            break answered;
        }
    };
    assert!(answered.result.is_ok());
}

fn r5_flags_of_batches_that_mean_nothing_are_refused(vendor: Vendor) {
    let (_rig, device) = rig(vendor, Quotas::default());
    let buffer = device.allocate(PAGE, None, "buffer").unwrap();
    let mapped = device.map(&[piece(&buffer, 0, PAGE)]).unwrap()[0];
    for (opcode, flags) in
        [(Opcode::Map, 2), (Opcode::Map, 3), (Opcode::Unmap, 2), (Opcode::Unmap, 3)]
    {
        let mut request = unmap_of(mapped, flags);
        request.resize(16 + 48, 0);
        assert_eq!(device.handle().call_bytes(opcode, &mut request), Err(Error::BadValue));
    }
    device.unmap(&[mapped]).unwrap();
}

fn what_was_given_up_makes_room_at_once(vendor: Vendor) {
    let (rig, device) = rig(vendor, Quotas { buffers: 2, ..Quotas::default() });
    let held = device.allocate(PAGE, Some(Access::Read), "held").unwrap();
    for _ in 0..3 {
        drop(device.allocate(PAGE, Some(Access::Read), "given up").unwrap());
    }
    drop((held, device));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}
