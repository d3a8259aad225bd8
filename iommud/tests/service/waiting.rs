//! Memory that was given up, while hardware has yet to confirm that nothing reaches it (R2): it is on its device's
//! account, and in the ledger.

use iommu_engine::ledger::Ledger;
use iommu_engine::policy::{Policy, Quotas};
use iommu_service::records::{BufferRecord, SessionRecord};
use iommu_sim::pace::Completion as Takes;
use libdma::{Access, Buffer, Device, Error};

use crate::foreign::memory;
use crate::rig::Rig;
use crate::vendor::{Vendor, slow_down};

both! {
    r2_what_waits_for_hardware_counts_until_it_is_free,
    r2_what_waits_for_hardware_is_in_the_ledger_until_it_is_free,
    r4_what_a_driver_left_is_in_the_ledger_until_it_is_free,
    what_was_confirmed_and_is_not_free_yet_is_waited_for,
}

const PAGE: u64 = 4096;

/// How long a unit takes to forget, once it is slow: longer than what is looked at meanwhile, and less than it may.
const LONG: Takes = Takes::After(400_000_000);

fn rig(vendor: Vendor, quotas: Quotas) -> (Rig, Device) {
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let device = rig.open();
    slow_down(&mut rig.service.lock().platform().machine_mut(), LONG);
    (rig, device)
}

fn buffers(rig: &Rig) -> Vec<BufferRecord> {
    let service = rig.service.lock();
    let records = Ledger::records::<BufferRecord>(service.platform()).unwrap();
    records.into_iter().map(|(_, record)| record).collect()
}

fn allocated(device: &Device) -> Result<Buffer, Error> {
    device.allocate(PAGE, Some(Access::ReadWrite), "given up")
}

fn registered(device: &Device) -> Result<Buffer, Error> {
    Ok(device.register(memory(1), Some(Access::ReadWrite), "given up")?)
}

fn r2_what_waits_for_hardware_counts_until_it_is_free(vendor: Vendor) {
    let roomy = Quotas::default();
    for quotas in [Quotas { buffers: 2, ..roomy }, Quotas { buffer_bytes: 2 * PAGE, ..roomy }] {
        for one in [allocated, registered] {
            let (rig, device) = rig(vendor, quotas);
            let held = one(&device).unwrap();
            drop(one(&device).unwrap());
            let usage = rig.service.lock().platform().usage();
            assert_eq!(usage.live_runs, 2, "it is not free yet");
            assert_eq!(one(&device).map(drop), Err(Error::QuotaExceeded));
            assert_eq!(rig.service.lock().platform().usage(), usage, "R7");
            // That waits for hardware.
            assert_eq!(rig.usage().live_runs, 1);
            drop(one(&device).unwrap());
            drop((held, device));
            rig.check();
        }
    }
}

fn r2_what_waits_for_hardware_is_in_the_ledger_until_it_is_free(vendor: Vendor) {
    let (rig, device) = rig(vendor, Quotas::default());
    drop(allocated(&device).unwrap());
    let records = buffers(&rig);
    assert_eq!((records.len(), &records[0].label[..8]), (1, &b"given up"[..]));
    assert_eq!(rig.usage().live_runs, 0);
    assert_eq!(buffers(&rig), []);
    rig.check();
}

fn r4_what_a_driver_left_is_in_the_ledger_until_it_is_free(vendor: Vendor) {
    let (rig, device) = rig(vendor, Quotas::default());
    let (alive, closed) = (allocated(&device).unwrap(), allocated(&device).unwrap());
    let handle = alive.handle().raw();
    drop(closed);
    // As when a process dies that has passed a buffer's handle on: the device's goes first.
    let device_handle = device.handle().raw();
    let close = |handle: libdma::transport::RawHandle| {
        rig.service.lock().close(iommu_service::HandleId(handle.number()));
    };
    close(device_handle);
    let sessions = Ledger::records::<SessionRecord>(rig.service.lock().platform()).unwrap();
    assert_eq!((sessions.len(), buffers(&rig).len()), (0, 2));
    assert_eq!(rig.usage().live_runs, 1);
    assert_eq!(buffers(&rig).len(), 1, "somebody sees that memory still");
    close(handle);
    assert_eq!((rig.usage().live_runs, buffers(&rig).len()), (0, 0));
    drop((alive, device));
    rig.check();
}

fn what_was_confirmed_and_is_not_free_yet_is_waited_for(vendor: Vendor) {
    let config = vendor.machine().with_root_port();
    let rig = Rig::with_manual_clock(config, Policy::default());
    let device = rig.open();
    let other = rig.open_at("0000:01:00.0".parse().unwrap()).unwrap();
    let [one, another] = [&device, &other].map(|device| allocated(device).unwrap());
    slow_down(&mut rig.service.lock().platform().machine_mut(), LONG);
    drop(one);
    assert!(rig.service.lock().engine().retired() > 0);
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Immediate);
    rig.pass(std::time::Duration::from_secs(1));
    // With this the unit confirms both.
    drop(another);
    let service = rig.service.lock();
    assert!(service.is_waiting() || service.engine().retired() == 0);
}
