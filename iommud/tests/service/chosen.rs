//! Addresses that clients choose, and what is mapped there.

use iommu_engine::policy::{Policy, Quotas, Resource};
use iommu_service::account::Holder;
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::call::{
    BatchHeader, MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry, Opcode, access_code,
};
use libdma::protocol::domain::{Found, Lookup};
use libdma::protocol::{MAX_BATCH, Rights};
use libdma::{Access, Buffer, Device, Error, Handle, Iova, MapRequest, Mapped};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::recount::recount;
use crate::rig::{Rig, edu};
use crate::vendor::{Vendor, forgotten, slow, slow_down, waits};

both! {
    a_driver_chooses_the_address_of_its_buffer,
    r7_a_chosen_address_that_cannot_be_is_refused_with_the_reason,
    pieces_of_several_buffers_lie_one_behind_the_other,
    r5_entries_with_flags_that_make_no_sense_are_refused,
    r7_a_batch_of_chains_is_mapped_whole_or_not_at_all,
    r3_an_address_tells_its_own_sessions_buffers_alone,
    r2_a_batch_of_unmaps_is_one_request_to_forget,
    r7_a_chosen_address_counts_for_the_tables_that_it_takes,
    r2_an_address_can_be_chosen_again_when_its_unmap_was_answered,
    r7_a_chain_that_hardware_never_confirms_is_taken_back,
    r2_what_a_failed_chain_entered_is_not_free_before_units_have_forgotten_it,
}

const PAGE: u64 = 4096;
const FIXED: Iova = Iova::new(0x5000_0000);

pub(crate) fn piece(buffer: &Buffer, offset: u64, bytes: u64) -> MapRequest<'_> {
    MapRequest { buffer, offset, bytes, access: Access::ReadWrite }
}

fn after(bytes: u64) -> Iova {
    Iova::new(FIXED.get() + bytes)
}

/// Sends entries as they are: the answer's header and entries.
pub(crate) fn send(handle: &Handle, entries: &[MapEntry]) -> (u32, u32, Vec<MapEntry>) {
    let header = BatchHeader {
        count: U32::new(entries.len() as u32),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::ZERO,
    };
    let mut payload = [header.as_bytes(), entries.as_bytes()].concat();
    handle.call_bytes(Opcode::Map, &mut payload).unwrap();
    let (header, rest) = BatchHeader::read_from_prefix(&payload).unwrap();
    let entries = <[MapEntry]>::ref_from_bytes(rest).unwrap().to_vec();
    (header.failed.get(), header.errno.get(), entries)
}

pub(crate) fn entry(buffer: &Buffer, flags: u32, iova: u64) -> MapEntry {
    MapEntry {
        buffer: U64::new(buffer.id()),
        offset: U64::ZERO,
        bytes: U64::new(PAGE),
        limit: U64::new(u64::MAX),
        iova: U64::new(iova),
        access: U32::new(access_code(Access::ReadWrite)),
        flags: U32::new(flags),
    }
}

fn a_driver_chooses_the_address_of_its_buffer(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(2 * PAGE, None, "fixed").unwrap();
    buffer.write(4096, b"second").unwrap();
    let mapped = device.map_at(FIXED, &[piece(&buffer, 0, 2 * PAGE)]).unwrap();
    assert_eq!(mapped, [Mapped::new(device.bus_address(FIXED), 2 * PAGE)]);
    assert_eq!(rig.device_reads(after(PAGE).get(), 6).unwrap(), b"second");
    assert!(rig.device_reads(after(2 * PAGE).get(), 1).is_err());
    let found = device.lookup(after(PAGE + 5)).unwrap().unwrap();
    assert_eq!((found.buffer, found.offset), (buffer.id(), PAGE + 5));
    assert_eq!((found.mapping, found.access), (mapped[0], Access::ReadWrite));
    device.unmap(&mapped).unwrap();
    assert!(rig.device_reads(FIXED.get(), 1).is_err());
    assert_eq!(device.lookup(FIXED), Ok(None));
    rig.check();
}

fn r7_a_chosen_address_that_cannot_be_is_refused_with_the_reason(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut device = rig.open();
    let buffer = device.allocate(2 * PAGE, None, "fixed").unwrap();
    let whole = [piece(&buffer, 0, 2 * PAGE)];
    let kept = device.map_at(FIXED, &whole).unwrap();
    let auto = device.map(&whole).unwrap()[0].iova().get();
    let before = (rig.usage(), rig.text("mappings"));
    device.set_dma_mask(33).unwrap();
    for (iova, error) in [
        (FIXED.get(), Error::AlreadyMapped),
        (FIXED.get() - PAGE, Error::AlreadyMapped),
        (FIXED.get() + PAGE, Error::AlreadyMapped),
        // A page is kept free behind what was mapped anywhere.
        (auto + 2 * PAGE, Error::AlreadyMapped),
        (FIXED.get() + 8, Error::BadAlignment),
        (0, Error::AddressReserved),
        (0xfee0_0000, Error::AddressReserved),
        (1 << 33, Error::NoAddressSpace),
        ((1 << 33) - PAGE, Error::NoAddressSpace),
        (1 << 60, Error::OutsideAperture),
        (u64::MAX - 0xfff, Error::Overflow),
    ] {
        assert_eq!(device.map_at(Iova::new(iova), &whole), Err(error), "{iova:#x}");
    }
    assert_eq!((rig.usage(), rig.text("mappings")), before);
    device.map_at(after(2 * PAGE), &whole).unwrap();
    device.unmap(&kept).unwrap();
    rig.check();
}

fn pieces_of_several_buffers_lie_one_behind_the_other(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let one = device.allocate(4 * PAGE, None, "one").unwrap();
    let two = device.allocate(PAGE, None, "two").unwrap();
    let chain = [piece(&one, 2 * PAGE, 2 * PAGE), piece(&two, 0, PAGE), piece(&one, 0, PAGE)];
    for mapped in [device.map_together(&chain).unwrap(), device.map_at(FIXED, &chain).unwrap()] {
        let start = mapped[0].iova().get();
        let places: Vec<_> =
            mapped.iter().map(|it| (it.iova().get() - start, it.bytes())).collect();
        assert_eq!(places, [(0, 2 * PAGE), (2 * PAGE, PAGE), (3 * PAGE, PAGE)]);
        let data: Vec<u8> = (0..4 * PAGE).map(|index| (index / 64) as u8).collect();
        rig.device_writes(start, &data).unwrap();
        let mut middle = [0; 64];
        two.read(64, &mut middle).unwrap();
        assert_eq!(middle, [(2 * PAGE / 64 + 1) as u8; 64]);
        let found = device.lookup(Iova::new(start + 2 * PAGE + 7)).unwrap().unwrap();
        assert_eq!((found.buffer, found.offset, found.mapping), (two.id(), 7, mapped[1]));
        let found = device.lookup(Iova::new(start + PAGE)).unwrap().unwrap();
        assert_eq!((found.buffer, found.offset), (one.id(), 3 * PAGE));
        // Each ends alone, and the others stay.
        device.unmap(&mapped[1..2]).unwrap();
        assert!(rig.device_reads(start + 2 * PAGE, 1).is_err());
        assert!(rig.device_reads(start + 3 * PAGE, 1).is_ok());
        device.unmap(&[mapped[2], mapped[0]]).unwrap();
    }
    // With a buffer goes what is mapped of it.
    let mapped = device.map_at(FIXED, &chain).unwrap();
    drop(two);
    assert!(rig.device_reads(after(2 * PAGE).get(), 1).is_err());
    device.unmap(&[mapped[0], mapped[2]]).unwrap();
    rig.check();
}

fn r5_entries_with_flags_that_make_no_sense_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "buffer").unwrap();
    let before = rig.text("mappings");
    let good = entry(&buffer, 0, 0);
    let both = MAP_FLAG_AT | MAP_FLAG_BEHIND;
    for (entries, failed, error) in [
        (vec![entry(&buffer, MAP_FLAG_BEHIND, 0)], 0, Error::BadValue),
        (vec![entry(&buffer, MAP_FLAG_BEHIND, 0), good], 0, Error::BadValue),
        (vec![entry(&buffer, 1 << 2, 0)], 0, Error::BadValue),
        (vec![good, entry(&buffer, u32::MAX, 0)], 1, Error::BadValue),
        (vec![good, entry(&buffer, MAP_FLAG_BEHIND | 1 << 31, 0)], 1, Error::BadValue),
        (vec![good, entry(&buffer, both, FIXED.get())], 1, Error::BadValue),
        (vec![entry(&buffer, both, FIXED.get())], 0, Error::BadValue),
        (vec![good, entry(&buffer, MAP_FLAG_AT, 1)], 1, Error::BadAlignment),
        // A chain over the end of all addresses, or of one that it reaches itself.
        (
            vec![entry(&buffer, MAP_FLAG_AT, u64::MAX - 0xfff), entry(&buffer, MAP_FLAG_BEHIND, 0)],
            0,
            Error::Overflow,
        ),
        (
            vec![
                entry(&buffer, MAP_FLAG_AT, FIXED.get()),
                entry(&buffer, MAP_FLAG_BEHIND, 0),
                entry(&buffer, MAP_FLAG_AT, FIXED.get() + PAGE),
            ],
            2,
            Error::AlreadyMapped,
        ),
    ] {
        let (at, errno, answers) = send(device.handle(), &entries);
        assert_eq!((at, Error::from_errno(errno as u16)), (failed, error), "{entries:?}");
        assert!(answers[..at as usize].iter().all(|entry| entry.iova.get() == 0));
        assert_eq!(rig.text("mappings"), before);
    }
    let limited = MapEntry { limit: U64::new(FIXED.get()), ..entry(&buffer, MAP_FLAG_BEHIND, 0) };
    let (at, errno, _) =
        send(device.handle(), &[entry(&buffer, MAP_FLAG_AT, FIXED.get()), limited]);
    // The narrowest limit of a chain is that of all of it.
    assert_eq!((at, Error::from_errno(errno as u16)), (0, Error::NoAddressSpace));
    rig.check();
}

fn r7_a_batch_of_chains_is_mapped_whole_or_not_at_all(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "buffer").unwrap();
    let (start, behind) = (FIXED.get(), entry(&buffer, MAP_FLAG_BEHIND, 0));
    let at = |iova| entry(&buffer, MAP_FLAG_AT, iova);
    let long = [&[at(start)][..], &[behind; MAX_BATCH - 1]].concat();
    let (_, errno, answers) = send(device.handle(), &long);
    assert_eq!(errno, 0);
    let last = start + (MAX_BATCH as u64 - 1) * PAGE;
    assert_eq!(answers[MAX_BATCH - 1].iova.get(), last);
    rig.device_writes(last, &[1; 4096]).unwrap();
    let all: Vec<_> = answers
        .iter()
        .map(|it| Mapped::new(device.bus_address(Iova::new(it.iova.get())), it.bytes.get()))
        .collect();
    device.unmap(&all).unwrap();

    let taken = device.map_at(Iova::new(last), &[piece(&buffer, 0, PAGE)]).unwrap();
    let before = rig.text("mappings");
    let batch = [at(0x7000_0000), behind, entry(&buffer, 0, 0), at(last - PAGE), behind];
    let (failed, errno, _) = send(device.handle(), &batch);
    assert_eq!((failed, Error::from_errno(errno as u16)), (3, Error::AlreadyMapped));
    assert_eq!(rig.text("mappings"), before);
    assert!(rig.device_reads(0x7000_0000, 1).is_err());
    device.unmap(&taken).unwrap();
    let (_, errno, _) = send(device.handle(), &batch);
    assert_eq!(errno, 0);
    rig.check();
}

fn r3_an_address_tells_its_own_sessions_buffers_alone(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [first, second] = ["12:00.0", "13:00.0"]
        .map(|address| Device::open(rig.transport(), address.parse().unwrap()).unwrap());
    assert_eq!(first.domain(), second.domain(), "they cannot be kept apart");
    let buffer = first.allocate(PAGE, Some(Access::Read), "mine").unwrap();
    let iova = buffer.iova().unwrap();
    assert_eq!(first.lookup(iova).unwrap().map(|found| found.buffer), Some(buffer.id()));
    assert_eq!(second.lookup(iova), Ok(None));
    for nowhere in [0, 0xfee0_0000, u64::MAX] {
        assert_eq!(first.lookup(Iova::new(nowhere)), Ok(None));
    }
    let weak = first.derive(Rights::MAP).unwrap();
    let lookup = Lookup { iova: U64::new(iova.get()) };
    let told = weak.call::<Found>(Opcode::Lookup, &lookup);
    assert_eq!(told.map(drop), Err(Error::NotPermitted));
    let told = buffer.handle().call::<Found>(Opcode::Lookup, &lookup);
    assert_eq!(told.map(drop), Err(Error::WrongHandleKind));
    rig.check();
}

fn r2_a_batch_of_unmaps_is_one_request_to_forget(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "buffer").unwrap();
    let count = |rig: &Rig| {
        let service = rig.service.lock();
        let machine = service.platform().machine();
        (forgotten(&machine), waits(&machine))
    };
    let mapped = device.map(&[piece(&buffer, 0, PAGE); 16]).unwrap();
    for one in &mapped {
        rig.device_writes(one.iova().get(), &[1]).unwrap();
    }
    let before = count(&rig);
    device.unmap(&mapped).unwrap();
    let (requests, waited) = count(&rig);
    assert!(requests - before.0 <= 2, "{requests}");
    assert_eq!(waited - before.1, 1);
    assert!(mapped.iter().all(|one| rig.device_writes(one.iova().get(), &[1]).is_err()));
    // So is the end of a buffer that is mapped in many places.
    let before = count(&rig).1;
    device.map(&[piece(&buffer, 0, PAGE); 100]).unwrap();
    drop(buffer);
    assert_eq!(count(&rig).1 - before, 1);
    rig.check();
}

fn r7_a_chosen_address_counts_for_the_tables_that_it_takes(vendor: Vendor) {
    let most = chosen_far_apart(vendor, u64::MAX);
    assert_eq!(chosen_far_apart(vendor, most), most);
}

/// What four mappings take that have tables to themselves, after which there may be no room for a fifth.
fn chosen_far_apart(vendor: Vendor, most: u64) -> u64 {
    let quotas = Quotas { page_table_bytes: most, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "buffer").unwrap();
    let place = |index: u64| Iova::new((index + 1) << 31);
    let map = |index| device.map_at(place(index), &[piece(&buffer, 0, PAGE)]);
    let mapped: Vec<_> = (0..4).flat_map(|index| map(index).unwrap()).collect();
    let mut service = rig.service.lock();
    let account = service.accounts().of(Holder::Device(edu())).unwrap();
    let taken = account.held[Resource::PageTableBytes];
    drop(service);
    if taken == most {
        let usage = rig.usage();
        assert_eq!(map(4), Err(Error::QuotaExceeded));
        assert_eq!(rig.usage(), usage, "R7");
        device.unmap(&mapped[..1]).unwrap();
        map(4).unwrap();
        // What lies together takes tables once.
        device.map_at(Iova::new(place(4).get() + PAGE), &[piece(&buffer, 0, PAGE); 9]).unwrap();
        assert_eq!(map(5), Err(Error::QuotaExceeded));
        recount(&mut rig.service.lock());
    }
    drop((buffer, device));
    rig.check();
    taken
}

fn r2_an_address_can_be_chosen_again_when_its_unmap_was_answered(vendor: Vendor) {
    let rig = Rig::on(slow(vendor.machine(), Takes::After(1_000_000)));
    let device = rig.open();
    let one = device.allocate(PAGE, None, "one").unwrap();
    let two = device.allocate(PAGE, None, "two").unwrap();
    for buffer in [&one, &two, &one] {
        let mapped = device.map_at(FIXED, &[piece(buffer, 0, PAGE)]).unwrap();
        rig.device_writes(FIXED.get(), &[1]).unwrap();
        device.unmap(&mapped).unwrap();
    }
    rig.check();
}

fn r7_a_chain_that_hardware_never_confirms_is_taken_back(vendor: Vendor) {
    let rig = Rig::on(vendor.caching());
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "buffer").unwrap();
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    let refused = device.map_at(FIXED, &[piece(&buffer, 0, PAGE); 3]);
    assert_eq!(refused, Err(Error::TimedOut));
    let service = rig.service.lock();
    let mapped: usize = service.engine().domains().map(|(_, it)| it.mappings().count()).sum();
    assert_eq!(mapped, 0);
}

fn r2_what_a_failed_chain_entered_is_not_free_before_units_have_forgotten_it(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let [low, high, below] =
        ["low", "high", "below"].map(|label| device.allocate(PAGE, None, label).unwrap());
    // The tables for the first piece are there, those for the second are not.
    let edge = 0x8000_0000;
    device.map_at(Iova::new(edge - 2 * PAGE), &[piece(&below, 0, PAGE)]).unwrap();
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::After(50_000_000));
    let frames = rig.service.lock().platform().usage().live_frames;
    rig.service.lock().platform_mut().limit_frames(frames);
    let chain = [entry(&low, MAP_FLAG_AT, edge - PAGE), entry(&high, MAP_FLAG_BEHIND, 0)];
    let (failed, error, _) = send(device.handle(), &chain);
    assert_eq!((failed, Error::from_errno(error as u16)), (0, Error::OutOfMemory));
    rig.service.lock().platform_mut().limit_frames(usize::MAX);
    let usage = || rig.service.lock().platform().usage().live_runs;
    drop((low, high));
    assert!(usage() > 1, "the unit may hold the first");
    // That waits for hardware.
    assert_eq!(rig.usage().live_runs, 1);
    drop((below, device));
    rig.check();
}
