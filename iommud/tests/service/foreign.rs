//! A driver's own memory, registered through libdma in the same process.

use core::alloc::Layout;
use core::ptr::NonNull;
use std::alloc::alloc_zeroed;

use iommu_engine::policy::{Policy, Quotas, WithoutIommu};
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::MAX_BATCH;
use libdma::{Access, Device, Error, ForeignMemory, MapRequest, Mapped};

use crate::rig::Rig;
use crate::vendor::{Vendor, slow};

both! {
    a_device_reaches_registered_memory_where_its_driver_sees_it,
    as_many_pieces_as_a_batch_holds_are_mapped_in_one_call,
    r2_registering_returns_when_a_slow_unit_knows_of_it,
    r7_memory_that_is_refused_comes_back_and_can_be_registered_again,
    r5_only_memory_of_the_transports_kind_is_taken,
}

const PAGE: usize = 4096;

/// Memory of this process's that nobody else will ever use.
pub(crate) fn memory(pages: usize) -> ForeignMemory {
    let layout = Layout::from_size_align(pages * PAGE, PAGE).unwrap();
    // SAFETY: it has a size.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
    let range = NonNull::slice_from_raw_parts(start, layout.size());
    // SAFETY: it was allocated just now, and is never given back.
    unsafe { ForeignMemory::from_range(range) }.unwrap()
}

fn unprotected() -> Rig {
    let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
    Rig::with(MachineConfig::without_units(), policy)
}

/// Each page for itself.
fn page_by_page(device: &Device, buffer: &libdma::Buffer) -> Vec<Mapped> {
    let pages = buffer.len() / PAGE;
    let pieces: Vec<_> = (0..pages)
        .map(|page| MapRequest {
            buffer,
            offset: (page * PAGE) as u64,
            bytes: PAGE as u64,
            access: Access::ReadWrite,
        })
        .collect();
    device.map(&pieces).unwrap()
}

fn a_device_reaches_registered_memory_where_its_driver_sees_it(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let before = rig.usage().live_runs;
    let device = rig.open();
    let memory = memory(5);
    memory.write(4 * PAGE, b"from the driver").unwrap();
    let place = memory.cpu_address();
    let buffer = device.register(memory, Some(Access::ReadWrite), "mine").unwrap();
    assert_eq!((buffer.cpu_address(), buffer.len()), (place, 5 * PAGE));
    let iova = buffer.iova().unwrap().get();
    assert_eq!(rig.device_reads(iova + 4 * PAGE as u64, 15).unwrap(), b"from the driver");
    rig.device_writes(iova + PAGE as u64 - 2, b"over an edge").unwrap();
    let mut found = [0; 12];
    buffer.read(PAGE - 2, &mut found).unwrap();
    assert_eq!(&found, b"over an edge");
    assert!(rig.text("mappings").contains("mine"));
    drop(buffer);
    assert!(rig.device_reads(iova, 1).is_err());
    drop(device);
    assert_eq!(rig.usage().live_runs, before);
    rig.check();
}

fn as_many_pieces_as_a_batch_holds_are_mapped_in_one_call(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let memory = memory(MAX_BATCH);
    for page in 0..MAX_BATCH {
        memory.write(page * PAGE, &[page as u8]).unwrap();
    }
    let buffer = device.register(memory, None, "list").unwrap();
    assert_eq!(buffer.iova(), None);
    let mapped = page_by_page(&device, &buffer);
    for (page, mapping) in mapped.iter().enumerate() {
        assert_eq!(rig.device_reads(mapping.iova().get(), 1).unwrap(), [page as u8]);
    }
    device.unmap(&mapped).unwrap();
    assert!(mapped.iter().all(|mapping| rig.device_reads(mapping.iova().get(), 1).is_err()));
    rig.check();
}

fn r2_registering_returns_when_a_slow_unit_knows_of_it(vendor: Vendor) {
    let rig = Rig::on(slow(vendor.machine(), Takes::After(2_000_000)));
    let device = rig.open();
    let buffer = device.register(memory(2), Some(Access::ReadWrite), "slow").unwrap();
    let iova = buffer.iova().unwrap().get();
    rig.device_writes(iova, &[1]).unwrap();
    drop((buffer, device));
    rig.check();
}

fn r7_memory_that_is_refused_comes_back_and_can_be_registered_again(vendor: Vendor) {
    let quotas = Quotas { buffer_bytes: 4 * PAGE as u64, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let mut device = rig.open();
    let before = (rig.usage(), rig.service.lock().handles());
    let memory = memory(4);
    memory.write(0, b"kept").unwrap();
    let limit = device.limits();
    device.set_dma_mask(13).unwrap();
    let refused = device.register(memory, Some(Access::Read), "too low").unwrap_err();
    assert_eq!(refused.error, Error::NoAddressSpace);
    assert_eq!(refused.to_string(), Error::NoAddressSpace.to_string());
    device.set_limits(limit);
    let held = device.allocate(PAGE as u64, None, "held").unwrap();
    let memory = refused.memory.unwrap();
    let refused = device.register(memory, Some(Access::Read), "too much").unwrap_err();
    assert_eq!(Error::from_errno(refused.error.errno()), Error::QuotaExceeded);
    drop(held);
    assert_eq!((rig.usage(), rig.service.lock().handles()), before);
    let memory = refused.memory.unwrap();
    let buffer = device.register(memory, Some(Access::Read), "right").unwrap();
    assert_eq!(rig.device_reads(buffer.iova().unwrap().get(), 4).unwrap(), b"kept");
    drop((buffer, device));
    rig.check();
}

fn r5_only_memory_of_the_transports_kind_is_taken(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    // A memfd means nothing where there are no processes.
    let memfd = ForeignMemory::new(PAGE).unwrap();
    let refused = device.register(memfd, None, "memfd").unwrap_err();
    assert_eq!(refused.error, Error::NotMemory);
    assert!(refused.memory.is_some());
}

#[test]
fn without_an_iommu_registered_memory_in_pieces_is_mapped_page_by_page_and_not_as_one() {
    let rig = unprotected();
    let device = rig.open();
    let whole = device.register(memory(3), Some(Access::ReadWrite), "whole").unwrap_err();
    assert_eq!(whole.error, Error::NotContiguous);
    let buffer = device.register(whole.memory.unwrap(), None, "pages").unwrap();
    buffer.write(2 * PAGE, b"third page").unwrap();
    let mapped = page_by_page(&device, &buffer);
    assert_eq!(rig.device_reads(mapped[2].iova().get(), 10).unwrap(), b"third page");
    rig.device_writes(mapped[0].iova().get(), b"first page").unwrap();
    let mut found = [0; 10];
    buffer.read(0, &mut found).unwrap();
    assert_eq!(&found, b"first page");
    device.unmap(&mapped).unwrap();
    drop((buffer, device));
    rig.check();
}
