//! What one driver may hold, by the policy.

use iommu_engine::policy::{
    ClientRule, Devices, Policy, Quotas, Resource, Rule, SaidQuotas, WithoutIommu,
};
use iommu_service::account::{Holder, Usage};
use iommu_service::handles::handle::MOST_DERIVED;
use iommu_service::{HandleId, Outcome, Service};
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;
use libdma::protocol::Rights;
use libdma::protocol::call::{BatchHeader, BufferInfo, Opcode, UNMAPPED, UnmapEntry};
use libdma::protocol::derive::{Allocate, Copy, Kind};
use libdma::protocol::handle::Revoke;
use libdma::protocol::limit::{Level as LimitLevel, Limit};
use libdma::quota::{Level, Resource as Told};
use libdma::{Access, Buffer, Device, Error, Iova, MapRequest, Mapped, QuotaReached};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::groups::cards;
use crate::hostile::{allocate, call, device, greet};
use crate::recount::recount;
use crate::revoking::map;
use crate::rig::{Rig, edu};
use crate::vendor::{Vendor, slow_down};

both! {
    r7_what_goes_beyond_a_quota_is_refused_and_what_is_given_back_counts_no_more,
    memory_that_is_mapped_twice_counts_twice,
    a_rule_for_the_device_goes_before_the_quota_for_all,
    what_outlives_a_session_counts_for_the_devices_next,
    r7_each_quota_holds_at_its_bound_and_one_less_is_refused,
    tables_count_until_no_unit_walks_them_and_addresses_until_they_are_forgotten,
    what_is_done_by_a_domains_handle_is_on_its_account,
    who_made_a_table_pays_for_it_until_it_is_free,
    r4_an_empty_table_goes_with_who_pays_for_it,
    r7_an_empty_table_is_given_up_before_another_is_refused,
    r7_the_way_to_anothers_empty_table_is_given_up_before_another_is_refused,
    r4_an_empty_table_goes_with_the_last_handle_of_its_quota,
    a_user_s_devices_share_what_the_user_may_hold,
    the_report_says_what_is_held_and_which_limit_refused_something,
    what_a_device_that_was_closed_at_once_leaves_to_hardware_is_on_its_account,
    which_limit_was_reached_and_whose_is_told_once,
    r3_who_may_not_inspect_is_not_told_of_limits,
    r5_handles_that_come_of_each_other_are_so_many_deep_and_no_more,
    r5_no_more_handles_come_of_one_than_may_revoked_ones_included,
}

const PAGE: usize = 4096;

fn policy(quotas: Quotas) -> Policy {
    Policy { quotas, ..Policy::default() }
}

fn r7_what_goes_beyond_a_quota_is_refused_and_what_is_given_back_counts_no_more(vendor: Vendor) {
    let roomy = Quotas::default();
    for (what, quotas, most) in [
        ("buffers", Quotas { buffers: 3, ..roomy }, 3),
        ("bytes in them", Quotas { buffer_bytes: 2 * PAGE as u64, ..roomy }, 2),
        ("bytes mapped", Quotas { mapped_bytes: 4 * PAGE as u64, ..roomy }, 4),
    ] {
        let rig = Rig::with(vendor.machine(), policy(quotas));
        // The unit's table for the bus is made once, and stays.
        drop(rig.open());
        let before = rig.usage();
        let device = rig.open();
        let one = || device.coherent("quota").alone().bytes(PAGE);
        let mut held: Vec<_> = (0..most).map(|_| one().unwrap()).collect();
        let usage = rig.usage();
        assert_eq!(one().err(), Some(Error::QuotaExceeded), "{what}");
        assert_eq!(rig.usage(), usage, "{what}");
        held.pop();
        held.push(one().unwrap());
        assert_eq!(one().err(), Some(Error::QuotaExceeded), "{what}");
        drop((held, device));
        assert_eq!(rig.usage(), before, "{what}");
        rig.check();
    }
}

fn memory_that_is_mapped_twice_counts_twice(vendor: Vendor) {
    let quotas = Quotas { mapped_bytes: 2 * PAGE as u64, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), policy(quotas));
    let device = rig.open();
    let buffer = device.coherent("twice").alone().bytes(PAGE).unwrap();
    let whole = || MapRequest {
        buffer: buffer.buffer().unwrap(),
        offset: 0,
        bytes: PAGE as u64,
        access: Access::Read,
    };
    let mapped = device.map(&[whole()]).unwrap();
    assert_eq!(device.map(&[whole()]).err(), Some(Error::QuotaExceeded));
    device.unmap(&mapped).unwrap();
    // All or nothing: the first of two would have fitted.
    assert_eq!(device.map(&[whole(), whole()]).err(), Some(Error::QuotaExceeded));
    assert!(device.map(&[whole()]).is_ok());
    rig.check();
}

fn a_rule_for_the_device_goes_before_the_quota_for_all(vendor: Vendor) {
    let mut policy = policy(Quotas { buffers: 1, ..Quotas::default() });
    let quotas = SaidQuotas { buffers: Some(2), ..SaidQuotas::NOTHING };
    policy.rules.push(Rule { quotas, ..Rule::new(Devices::At(edu())) });
    let rig = Rig::with(vendor.machine(), policy);
    let device = rig.open();
    let one = || device.coherent("rule").alone().bytes(PAGE);
    let _held = [one().unwrap(), one().unwrap()];
    assert_eq!(one().err(), Some(Error::QuotaExceeded));
    rig.check();
}

fn what_outlives_a_session_counts_for_the_devices_next(vendor: Vendor) {
    let roomy = Quotas::default();
    for quotas in
        [Quotas { buffers: 2, ..roomy }, Quotas { buffer_bytes: 2 * PAGE as u64, ..roomy }]
    {
        let rig = Rig::with(vendor.machine(), policy(quotas));
        let service = &mut *rig.service.lock();
        let one = |service: &mut _, device| allocated(service, device, &allocate(PAGE as u64));
        // Sessions that each leave a buffer behind.
        let mut left = Vec::new();
        for _ in 0..2 {
            let device = device(service);
            let buffer = one(service, device).unwrap();
            service.close(device);
            let info = buffer_info(service, buffer);
            assert_eq!((info.iova.get(), info.access.get()), (UNMAPPED, 0), "it is mapped no more");
            left.push(buffer);
        }
        let device = device(service);
        assert_eq!(one(service, device), Err(Error::QuotaExceeded));
        service.close(left.pop().unwrap());
        let another = one(service, device).unwrap();
        assert_eq!(one(service, device), Err(Error::QuotaExceeded));
        service.close(another);
        service.close(left.pop().unwrap());
        for _ in 0..2 {
            one(service, device).unwrap();
        }
        assert_eq!(one(service, device), Err(Error::QuotaExceeded));
    }
}

/// So much of one thing may be held, and of the rest as much as there is.
fn only(resource: Resource, limit: u64) -> Quotas {
    let mut quotas = Quotas::UNLIMITED;
    let count = limit.try_into().unwrap_or(u32::MAX);
    match resource {
        Resource::Buffers => quotas.buffers = count,
        Resource::BufferBytes => quotas.buffer_bytes = limit,
        Resource::MappedBytes => quotas.mapped_bytes = limit,
        Resource::IovaBytes => quotas.iova_bytes = limit,
        Resource::Mappings => quotas.mappings = count,
        Resource::PageTableBytes => quotas.page_table_bytes = limit,
        Resource::Requests => quotas.requests = count,
        Resource::Operations => quotas.operations = count,
    }
    quotas
}

/// A driver that holds some of everything.
fn holds_some(rig: &Rig) -> Result<impl Sized + use<>, Error> {
    let device = rig.open_again()?;
    let aligned = device.coherent("aligned").alone().align(1 << 21).bytes(2 * PAGE)?;
    let unmapped = device.allocate(3 * PAGE as u64, None, "not mapped at once")?;
    let piece =
        |offset| MapRequest { buffer: &unmapped, offset, bytes: PAGE as u64, access: Access::Read };
    let mapped = device.map(&[piece(0), piece(2 * PAGE as u64)])?;
    let domain = device.is_confined().then(|| device.new_domain("some").create()).transpose()?;
    Ok((mapped, aligned, unmapped, domain, device))
}

fn each_quota_holds_at_its_bound(config: impl Fn() -> MachineConfig, policy: &Policy) {
    let rig = Rig::with(config(), policy.clone());
    let held = holds_some(&rig).unwrap();
    let usage = held_by(&rig, Holder::Device(edu())).unwrap();
    assert_eq!(held_by(&rig, Holder::Client(0)), Some(usage));
    recount(&mut rig.service.lock());
    drop(held);
    rig.check();
    assert_eq!(held_by(&rig, Holder::Device(edu())), None);
    for resource in Resource::ALL {
        let unit = if resource.is_in_bytes() { PAGE as u64 } else { 1 };
        let most = usage.of(resource);
        // Everything is confirmed at once here, and without an IOMMU there are no tables.
        let none = matches!(resource, Resource::Requests | Resource::Operations)
            || resource == Resource::PageTableBytes && !policy_confines(policy);
        assert_eq!(most == 0, none, "{resource}");
        if none {
            continue;
        }
        for (limit, fits) in
            [(most - unit, false), (most - 1, false), (most, true), (most + unit, true)]
        {
            let limited = Policy { quotas: only(resource, limit), ..policy.clone() };
            let rig = Rig::with(config(), limited);
            let held = holds_some(&rig);
            assert_eq!(
                held.as_ref().err(),
                (!fits).then_some(&Error::QuotaExceeded),
                "{resource}: {limit}"
            );
            recount(&mut rig.service.lock());
            if !fits && let Some(account) = rig.service.lock().accounts().of(Holder::Device(edu()))
            {
                assert_eq!(account.refusals[&resource], 1, "{resource}");
            }
            drop(held);
            assert_eq!(held_by(&rig, Holder::Device(edu())), None, "{resource}");
            rig.check();
        }
    }
}

fn r4_an_empty_table_goes_with_who_pays_for_it(vendor: Vendor) {
    // Two functions in one group share a domain.
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [one, other] = cards().map(|card| Device::open(rig.transport(), card).unwrap());
    let holder = Holder::Device(one.address());
    let tables = || held_by(&rig, holder).map_or(0, |held| held[Resource::PageTableBytes]);
    let before = tables();
    drop(one.coherent("mine").alone().bytes(PAGE).unwrap());
    assert!(tables() > before, "its table stays");
    recount(&mut rig.service.lock());
    drop(one);
    assert_eq!(tables(), before);
    recount(&mut rig.service.lock());
    drop(other);
    assert_eq!(held_by(&rig, holder), None);
}

/// The first page of a buffer, mapped there.
fn mapped(device: &Device, buffer: &Buffer, place: Iova) -> Result<Vec<Mapped>, Error> {
    let (offset, bytes, access) = (0, PAGE as u64, Access::Read);
    device.map_at(place, &[MapRequest { buffer, offset, bytes, access }])
}

fn r7_an_empty_table_is_given_up_before_another_is_refused(vendor: Vendor) {
    let tables = |rig: &Rig| held_by(rig, Holder::Device(edu())).unwrap()[Resource::PageTableBytes];
    let places = [0x5000_0000, 0x9000_0000].map(Iova::new);
    let needed = {
        let rig = Rig::new(vendor);
        let device = rig.open();
        let buffer = device.allocate(PAGE as u64, None, "").unwrap();
        mapped(&device, &buffer, places[0]).unwrap();
        tables(&rig)
    };
    for (page_table_bytes, fits) in [(needed, true), (needed - PAGE as u64, false)] {
        let quotas = Quotas { page_table_bytes, ..Quotas::default() };
        let rig = Rig::with(vendor.machine(), policy(quotas));
        let device = rig.open();
        let buffer = device.allocate(PAGE as u64, None, "").unwrap();
        for place in places {
            match mapped(&device, &buffer, place) {
                Ok(one) => device.unmap(&one).unwrap(),
                Err(error) => assert_eq!(error, Error::QuotaExceeded),
            }
            assert_eq!(tables(&rig) == needed, fits, "at {place}");
        }
        recount(&mut rig.service.lock());
    }
}

/// A device's handle that may have so many tables.
fn with_tables(device: &Device, tables: u64) -> Device {
    let restricted = device.restricted("tables").table_bytes(tables * PAGE as u64);
    Device::from_handle(restricted.hand_out().unwrap().0).unwrap()
}

fn r7_the_way_to_anothers_empty_table_is_given_up_before_another_is_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let [high, first, beside, last] =
        [0xc000_0000, 0x5000_0000, 0x5020_0000, 0x9000_0000].map(Iova::new);
    let own = device.allocate(PAGE as u64, None, "").unwrap();
    // The table is as high as it will be.
    mapped(&device, &own, high).unwrap();
    // As many as one page takes.
    let try_so_many = |tables| {
        let part = with_tables(&device, tables);
        let buffer = part.allocate(PAGE as u64, None, "").unwrap();
        let page = mapped(&part, &buffer, first).ok()?;
        part.unmap(&page).unwrap();
        Some((part, buffer))
    };
    let (part, buffer) = (1..).find_map(try_so_many).unwrap();
    let page = mapped(&device, &own, beside).unwrap();
    device.unmap(&page).unwrap();
    mapped(&part, &buffer, last).unwrap();
    recount(&mut rig.service.lock());
}

fn r4_an_empty_table_goes_with_the_last_handle_of_its_quota(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let of_handles = || {
        let mut service = rig.service.lock();
        let accounts = service.accounts().iter();
        accounts.filter(|(_, account)| account.holder == Holder::Handles).count()
    };
    let part = with_tables(&device, 16);
    let buffer = part.allocate(PAGE as u64, None, "").unwrap();
    let page = mapped(&part, &buffer, Iova::new(0x5000_0000)).unwrap();
    part.unmap(&page).unwrap();
    drop(buffer);
    assert_eq!(of_handles(), 1);
    drop(part);
    assert_eq!(of_handles(), 0);
    recount(&mut rig.service.lock());
}

fn a_user_s_devices_share_what_the_user_may_hold(vendor: Vendor) {
    let quotas = SaidQuotas { buffers: Some(3), ..SaidQuotas::NOTHING };
    let clients = vec![ClientRule { uid: 0, quotas }];
    let policy = Policy { clients, ..Policy::default() };
    let rig = Rig::with(vendor.two_units(), policy);
    let (one, other) = (rig.open(), crate::tickets::open_other(&rig));
    let buffer = |device: &Device| device.allocate(PAGE as u64, Some(Access::Read), "shared");
    let mut held = vec![buffer(&one).unwrap(), buffer(&other).unwrap(), buffer(&other).unwrap()];
    for device in [&one, &other] {
        assert_eq!(buffer(device).err(), Some(Error::QuotaExceeded));
    }
    let refusals = |holder| {
        let mut service = rig.service.lock();
        service.accounts().of(holder).unwrap().refusals.get(&Resource::Buffers).copied()
    };
    assert_eq!(refusals(Holder::Client(0)), Some(2), "whose limit it was");
    assert_eq!(refusals(Holder::Device(edu())), None);
    held.pop();
    held.push(buffer(&one).unwrap());
    recount(&mut rig.service.lock());
}

fn the_report_says_what_is_held_and_which_limit_refused_something(vendor: Vendor) {
    let rig = Rig::with(vendor.machine(), policy(Quotas { buffers: 2, ..Quotas::default() }));
    assert_eq!(rig.text("quotas"), "nobody holds anything\n");
    let device = rig.open();
    let one = || device.coherent("report").alone().align(1 << 21).bytes(2 * PAGE);
    let _held = [one().unwrap(), one().unwrap()];
    assert_eq!(one().err(), Some(Error::QuotaExceeded));
    let golden = match vendor {
        Vendor::Vtd => include_str!("golden/quotas_vtd.txt"),
        Vendor::Amdvi => include_str!("golden/quotas_amdvi.txt"),
    };
    assert_eq!(rig.text("quotas"), golden);
    let rows = rig.json("quotas");
    let first = &rows.as_array().unwrap()[0];
    let expected = serde_json::json!({
        "holder": "device 0000:00:02.0", "resource": "buffers", "held": 2, "limit": 2, "refused": 1
    });
    assert_eq!(*first, expected);
}

fn policy_confines(policy: &Policy) -> bool {
    policy.without_iommu == WithoutIommu::Refuse
}

fn held_by(rig: &Rig, holder: Holder) -> Option<Usage> {
    // Whatever waits has been confirmed.
    rig.usage();
    rig.service.lock().accounts().of(holder).map(|account| account.held)
}

fn r7_each_quota_holds_at_its_bound_and_one_less_is_refused(vendor: Vendor) {
    each_quota_holds_at_its_bound(|| vendor.machine(), &Policy::default());
}

#[test]
fn r7_each_quota_holds_at_its_bound_without_an_iommu() {
    let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
    each_quota_holds_at_its_bound(|| MachineConfig::without_units().with_root_port(), &policy);
}

fn tables_count_until_no_unit_walks_them_and_addresses_until_they_are_forgotten(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let base = held_by(&rig, Holder::Device(edu())).unwrap();
    let buffer = device.coherent("far").alone().align(1 << 30).bytes(PAGE).unwrap();
    let held = held_by(&rig, Holder::Device(edu())).unwrap();
    assert!(held[Resource::PageTableBytes] > base[Resource::PageTableBytes]);
    assert_eq!((held[Resource::Mappings], held[Resource::IovaBytes]), (1, PAGE as u64));
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::After(1_000_000));
    drop(buffer);
    let service = &mut *rig.service.lock();
    let now = service.accounts().of(Holder::Device(edu())).unwrap().held;
    // Of what was mapped nothing is left, but hardware may still use it.
    assert_eq!((now[Resource::Mappings], now[Resource::MappedBytes]), (0, 0));
    assert_eq!((now[Resource::IovaBytes], now[Resource::Operations]), (PAGE as u64, 1));
    assert_eq!(now[Resource::PageTableBytes], held[Resource::PageTableBytes]);
    assert_eq!((now[Resource::Buffers], now[Resource::BufferBytes]), (1, PAGE as u64), "R2");
    recount(service);
    while service.is_waiting() {
        service.poll();
    }
    let now = service.accounts().of(Holder::Device(edu())).unwrap().held;
    assert!(now[Resource::PageTableBytes] <= held[Resource::PageTableBytes]);
    assert_eq!(now[Resource::Operations], 0);
    recount(service);
}

fn who_made_a_table_pays_for_it_until_it_is_free(vendor: Vendor) {
    // Two functions in one group share a domain.
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [one, other] = cards().map(|card| Device::open(rig.transport(), card).unwrap());
    let [first, second] = [one.address(), other.address()].map(Holder::Device);
    let before = held_by(&rig, second).unwrap();
    assert_eq!(before[Resource::PageTableBytes], 0, "the domain is the first's");
    let mine = one.coherent("mine").alone().bytes(PAGE).unwrap();
    let paid = held_by(&rig, first).unwrap()[Resource::PageTableBytes];
    let theirs = other.coherent("theirs").alone().bytes(PAGE).unwrap();
    assert_eq!(
        held_by(&rig, second).unwrap()[Resource::PageTableBytes],
        0,
        "it lies in the same table"
    );
    drop((mine, one));
    assert!(
        held_by(&rig, first).is_some_and(|held| held[Resource::PageTableBytes] == paid),
        "it is in use"
    );
    recount(&mut rig.service.lock());
    drop((theirs, other));
    assert_eq!((held_by(&rig, first), held_by(&rig, second)), (None, None));
    rig.check();
}

fn what_is_done_by_a_domains_handle_is_on_its_account(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let (device, page) = (rig.open(), PAGE as u64);
    let part = device.restricted("part").rights(Rights::DEVICE).mapped_bytes(2 * page);
    let part = Device::from_handle(part.hand_out().unwrap().0).unwrap();
    let buffer = part.allocate(page, None, "piece").unwrap();
    let domain = part.new_domain("domain").create().unwrap();
    let inside = domain.attach(&part).unwrap();
    let first = map(domain.handle(), buffer.id()).unwrap();
    map(domain.handle(), buffer.id()).unwrap();
    assert_eq!(map(domain.handle(), buffer.id()), Err(Error::QuotaExceeded));
    let told: Limit = domain.handle().call(Opcode::Limit, &[0u8; 0]).unwrap();
    let level = LimitLevel::Handle as u32;
    assert_eq!((told.level.get(), told.limit.get(), told.held.get()), (level, 2 * page, 2 * page));
    // What waits, too.
    let mut lock = rig.service.lock();
    let service = &mut *lock;
    slow_down(&mut service.platform().machine_mut(), Takes::After(1_000_000));
    let header = BatchHeader { count: U32::new(1), ..BatchHeader::new_zeroed() };
    let entry = UnmapEntry { iova: U64::new(first), bytes: U64::new(page) };
    let mut payload = [header.as_bytes(), entry.as_bytes()].concat();
    let of_domain = HandleId(domain.handle().raw().number());
    let unmapped = service.call(of_domain, Opcode::Unmap as u64, &mut payload);
    assert!(matches!(unmapped, Ok(Outcome::Pending(_))));
    let held = |service: &mut Service<SimPlatform>| {
        let mut accounts = service.accounts().iter();
        let (_, of_part) = accounts.find(|(_, it)| it.holder == Holder::Handles).unwrap();
        let wanted = [Resource::Requests, Resource::Mappings, Resource::MappedBytes];
        wanted.map(|resource| of_part.held[resource])
    };
    assert_eq!(held(service), [1, 1, page]);
    recount(service);
    while service.is_waiting() {
        service.poll();
    }
    assert_eq!(held(service), [0, 1, page]);
    drop(lock);
    drop((inside, domain, buffer, part, device));
    rig.check();
}

fn which_limit_was_reached_and_whose_is_told_once(vendor: Vendor) {
    let page = PAGE as u64;
    let quotas = Quotas { buffers: 4, mappings: 2, ..Quotas::default() };
    let client_quotas = Quotas { buffer_bytes: 8 * page, ..Quotas::UNLIMITED };
    let policy = Policy { quotas, client_quotas, ..Policy::default() };
    let rig = Rig::with(vendor.machine(), policy);
    let device = rig.open();
    let refused = |device: &Device, bytes, access| {
        let refused = device.allocate(bytes, access, "refused");
        assert_eq!(refused.err(), Some(Error::QuotaExceeded));
        device.quota_reached().unwrap()
    };
    assert_eq!(device.quota_reached(), Ok(None));
    let reached = |level, resource, limit, held, wanted| {
        Some(QuotaReached { level, resource, limit, held, wanted })
    };
    // The user's, with all devices together.
    let held = device.allocate(3 * page, Some(Access::Read), "held").unwrap();
    let told = refused(&device, 6 * page, None);
    assert_eq!(told, reached(Level::User, Told::BufferBytes, 8 * page, 3 * page, 6 * page));
    assert_eq!(device.quota_reached(), Ok(None), "it was told");
    // A handle's own, which the holder of another is not told of.
    let (handle, _) = device.restricted("part").mapped_bytes(page).hand_out().unwrap();
    let part = Device::from_handle(handle).unwrap();
    let told = refused(&part, 2 * page, Some(Access::Read));
    assert_eq!(told, reached(Level::Handle, Told::MappedBytes, page, 0, 2 * page));
    assert_eq!(device.quota_reached(), Ok(None));
    // The device's, by whichever handle.
    let more = device.allocate(page, Some(Access::Read), "more").unwrap();
    let told = refused(&part, page, Some(Access::Read));
    assert_eq!(told, reached(Level::Device, Told::Mappings, 2, 2, 1));
    // Tables are seen to be too many in the making.
    let (handle, _) = device.restricted("no tables").table_bytes(0).hand_out().unwrap();
    let part = Device::from_handle(handle).unwrap();
    drop(more);
    let far = part.coherent("far").alone().align(1 << 30).bytes(PAGE);
    assert_eq!(far.err(), Some(Error::QuotaExceeded));
    let told = part.quota_reached().unwrap();
    assert_eq!(told, reached(Level::Handle, Told::PageTableBytes, 0, 0, page));
    drop((held, part));
}

fn r3_who_may_not_inspect_is_not_told_of_limits(vendor: Vendor) {
    let rig = Rig::with(vendor.machine(), policy(Quotas { buffers: 0, ..Quotas::default() }));
    let device = rig.open();
    assert!(device.allocate(PAGE as u64, None, "refused").is_err());
    let blind = device.derive(Rights::DEVICE - Rights::INSPECT).unwrap();
    let service = &mut *rig.service.lock();
    let [whole, blind] = [device.handle(), &blind].map(|it| HandleId(it.raw().number()));
    greet(service, blind);
    let mut limit = [0xff; size_of::<Limit>()];
    let opcode = Opcode::Limit as u64;
    assert_eq!(service.call(blind, opcode, &mut limit), Err(Error::NotPermitted));
    // It is not lost on who has no room for it.
    assert_eq!(service.call(whole, opcode, &mut limit[1..]), Err(Error::ShortPayload));
    assert_eq!(service.call(whole, opcode, &mut limit), Ok(Outcome::Done(limit.len())));
    let told = Limit::read_from_bytes(&limit).unwrap();
    assert_eq!((told.resource.get(), told.limit.get(), told.wanted.get()), (1, 0, 1));
    let root = service.root();
    assert_eq!(service.call(root, opcode, &mut limit), Err(Error::WrongHandleKind));
}

fn r5_handles_that_come_of_each_other_are_so_many_deep_and_no_more(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let derived = |from: &Device| {
        let (handle, _) = from.restricted("deeper").hand_out()?;
        Device::from_handle(handle)
    };
    let mut last = derived(&device).unwrap();
    for _ in 0..15 {
        // What it was derived from is closed each time.
        last = derived(&last).unwrap();
    }
    let accounts = rig.service.lock().accounts().iter().count();
    assert_eq!(derived(&last).err(), Some(Error::QuotaExceeded));
    assert_eq!(rig.service.lock().accounts().iter().count(), accounts);
    drop(last);
    derived(&device).unwrap();
    drop(device);
    assert_eq!(rig.service.lock().accounts().iter().count(), 0);
}

fn r5_no_more_handles_come_of_one_than_may_revoked_ones_included(vendor: Vendor) {
    let rig = Rig::with(vendor.machine(), policy(Quotas { buffers: 3, ..Quotas::default() }));
    let device = rig.open();
    let buffer = device.allocate(PAGE as u64, None, "one").unwrap();
    let service = &mut *rig.service.lock();
    let handle = HandleId(device.handle().raw().number());
    let copy = |service: &mut Service<SimPlatform>, from| {
        let kind = U32::new(Kind::Copy as u32);
        let request = Copy { kind, rights: U32::new(Rights::INSPECT.bits()) };
        service.derive(from, request.as_bytes()).map(|outcome| match outcome {
            Outcome::Done(handle) => handle,
            Outcome::Pending(_) => panic!("nothing here needs hardware"),
        })
    };
    let first = copy(service, handle).unwrap();
    greet(service, first);
    // Of whichever they come: a copy's are the device's, and a buffer's.
    let from = [handle, first, HandleId(buffer.handle().raw().number())];
    let most = MOST_DERIVED + 3;
    let mut held: Vec<_> =
        (2..most).map(|number| copy(service, from[number % 3]).unwrap()).collect();
    for from in from {
        assert_eq!(copy(service, from), Err(Error::QuotaExceeded));
    }
    // What is revoked counts until it is closed.
    let revoke = Revoke { handle: U64::new(first.0), ..Revoke::default() };
    let mut revoke = revoke.as_bytes().to_vec();
    service.call(handle, Opcode::Revoke as u64, &mut revoke).unwrap();
    assert_eq!(copy(service, handle), Err(Error::QuotaExceeded));
    service.close(held.pop().unwrap());
    held.push(copy(service, handle).unwrap());
    assert_eq!(copy(service, handle), Err(Error::QuotaExceeded));
    held.into_iter().for_each(|it| service.close(it));
    service.close(first);
    copy(service, handle).unwrap();
}

fn allocated(
    service: &mut Service<SimPlatform>,
    device: HandleId,
    request: &Allocate,
) -> Result<HandleId, Error> {
    match service.derive(device, request.as_bytes())? {
        Outcome::Done(buffer) => Ok(buffer),
        Outcome::Pending(_) => panic!("nothing here needs hardware"),
    }
}

fn buffer_info(service: &mut Service<SimPlatform>, buffer: HandleId) -> BufferInfo {
    greet(service, buffer);
    let mut payload = [0; size_of::<BufferInfo>()];
    call(service, buffer, Opcode::BufferInfo as u64, &mut payload).unwrap();
    BufferInfo::read_from_bytes(&payload).unwrap()
}

fn what_a_device_that_was_closed_at_once_leaves_to_hardware_is_on_its_account(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let before = rig.usage();
    let service = &mut *rig.service.lock();
    // Nobody asks what is on any account in between.
    let handle = device(service);
    slow_down(&mut service.platform().machine_mut(), Takes::After(400_000_000));
    service.close(handle);
    let left = service.platform().usage().live_frames > before.live_frames;
    assert!(left, "its tables are walked still");
    recount(service);
    assert_ne!(service.accounts().iter().count(), 0, "somebody holds them");
}
