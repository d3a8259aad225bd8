//! What holds of accounts, by themselves.

use alloc::vec;

use super::*;
use crate::account::PLACE_BITS;

const SMALL: Quotas = Quotas { buffers: 3, buffer_bytes: 0x3000, ..Quotas::UNLIMITED };

fn device(function: u8) -> PciAddress {
    PciAddress::new(0, 0, 2, function).unwrap()
}

fn buffers(buffers: u64) -> Usage {
    Usage::NONE.with(Resource::Buffers, buffers).with(Resource::BufferBytes, buffers * 0x1000)
}

fn opened(accounts: &mut Accounts, session: u64, of_user: Quotas) -> AccountId {
    let device = (device(session as u8), SMALL);
    accounts.open_session(SessionId(session), device, (0, of_user))
}

#[test]
fn r7_a_charge_is_made_on_the_whole_chain_or_on_nothing() {
    let mut accounts = Accounts::default();
    let session = opened(&mut accounts, 1, Quotas { buffers: 2, ..Quotas::UNLIMITED });
    let handle = accounts.restrict(session, Quotas::UNLIMITED).unwrap();
    accounts.charge(handle, &buffers(2)).unwrap();
    let exceeded = accounts.charge(handle, &buffers(1)).unwrap_err();
    let holder = Holder::Client(0);
    let expected = Exceeded { holder, resource: Resource::Buffers, limit: 2, held: 2, wanted: 1 };
    assert_eq!(exceeded, expected);
    for (_, account) in accounts.iter() {
        assert_eq!(account.held, buffers(2), "{}", account.holder);
    }
    assert_eq!(accounts.of(holder).unwrap().refusals[&Resource::Buffers], 1);
    assert_eq!(Error::from(exceeded), Error::QuotaExceeded);
    let busy = Exceeded { resource: Resource::Operations, ..exceeded };
    assert_eq!(Error::from(busy), Error::TooManyRequests);
    accounts.release(handle, &buffers(2));
    assert!(accounts.iter().all(|(_, account)| account.held == Usage::NONE));
}

#[test]
fn each_limit_holds_at_its_bound_and_not_one_before() {
    for resource in Resource::ALL {
        let (limit, mut limits) = (3, Quotas::UNLIMITED);
        let (count, bytes) = match resource {
            Resource::Buffers => (Some(&mut limits.buffers), None),
            Resource::BufferBytes => (None, Some(&mut limits.buffer_bytes)),
            Resource::MappedBytes => (None, Some(&mut limits.mapped_bytes)),
            Resource::IovaBytes => (None, Some(&mut limits.iova_bytes)),
            Resource::Mappings => (Some(&mut limits.mappings), None),
            Resource::PageTableBytes => (None, Some(&mut limits.page_table_bytes)),
            Resource::Requests => (Some(&mut limits.requests), None),
            Resource::Operations => (Some(&mut limits.operations), None),
        };
        let one = Usage::NONE.with(resource, 1);
        count.into_iter().for_each(|place| *place = limit);
        bytes.into_iter().for_each(|place| *place = limit.into());
        let mut accounts = Accounts::default();
        let session = opened(&mut accounts, 1, limits);
        let handle = accounts.restrict(session, limits).unwrap();
        for held in 0..3 {
            assert_eq!(accounts.room(handle, resource), 3 - held, "{resource}");
            accounts.charge(handle, &one).unwrap();
        }
        let exceeded = accounts.charge(handle, &one).unwrap_err();
        assert_eq!((exceeded.resource, exceeded.holder), (resource, Holder::Handles));
        assert_eq!((exceeded.limit, exceeded.held, exceeded.wanted), (3, 3, 1));
        // What wants nothing of it is not refused by it.
        accounts.charge(handle, &Usage::NONE).unwrap();
        accounts.release(handle, &one);
        accounts.charge(handle, &one).unwrap();
        // What there is already is counted, whatever the limit.
        accounts.add(handle, &one);
        assert_eq!(
            (accounts.room(handle, resource), accounts.get(handle).unwrap().held.of(resource)),
            (0, 4)
        );
        assert!(accounts.charge(handle, &one).is_err());
    }
}

#[test]
fn users_and_devices_answer_for_all_their_sessions_and_no_others() {
    let mut accounts = Accounts::default();
    let limits = Quotas { buffers: 4, ..Quotas::UNLIMITED };
    let [one, other] = [1, 2].map(|number| opened(&mut accounts, number, limits));
    accounts.charge(one, &buffers(3)).unwrap();
    assert_eq!(accounts.charge(one, &buffers(1)).unwrap_err().holder, Holder::Device(device(1)));
    accounts.charge(other, &buffers(1)).unwrap();
    assert_eq!(accounts.charge(other, &buffers(1)).unwrap_err().holder, Holder::Client(0));
    let elsewhere = accounts.open_session(SessionId(3), (device(3), SMALL), (7, limits));
    accounts.charge(elsewhere, &buffers(3)).unwrap();
    let held = |holder| accounts.of(holder).unwrap().held[Resource::Buffers];
    let devices = [1, 2, 3].map(|number| held(Holder::Device(device(number))));
    assert_eq!((devices, held(Holder::Client(0)), held(Holder::Client(7))), ([3, 1, 3], 4, 3));
}

#[test]
fn r7_a_device_and_a_user_may_hold_what_was_said_when_a_session_was_last_opened() {
    let mut accounts = Accounts::default();
    let open = |accounts: &mut Accounts, session, of_device, of_user| {
        let say = |buffers| Quotas { buffers, ..Quotas::UNLIMITED };
        let device = (device(1), say(of_device));
        accounts.open_session(SessionId(session), device, (0, say(of_user)))
    };
    let session = open(&mut accounts, 1, 4, 4);
    accounts.charge(session, &buffers(3)).unwrap();
    for (number, limits, expected) in [
        (2, (2, 9), Holder::Device(device(1))),
        (3, (9, 2), Holder::Client(0)),
        (4, (9, 3), Holder::Client(0)),
    ] {
        let next = open(&mut accounts, number, limits.0, limits.1);
        for session in [session, next] {
            let exceeded = accounts.charge(session, &buffers(1)).unwrap_err();
            let limit = u64::from(limits.0.min(limits.1));
            assert_eq!((exceeded.holder, exceeded.limit, exceeded.held), (expected, limit, 3));
        }
    }
    open(&mut accounts, 5, 9, 9);
    accounts.charge(session, &buffers(6)).unwrap();
    assert!(accounts.charge(session, &buffers(1)).is_err());
}

#[test]
fn what_outlives_a_session_counts_until_it_is_given_back_and_then_the_account_is_gone() {
    let mut accounts = Accounts::default();
    let first = opened(&mut accounts, 1, Quotas::UNLIMITED);
    let handle = accounts.restrict(first, Quotas::UNLIMITED).unwrap();
    accounts.charge(handle, &buffers(2)).unwrap();
    accounts.close(first);
    accounts.close(handle);
    let (next, of_user) = (SessionId(2), (0, Quotas::UNLIMITED));
    let next = accounts.open_session(next, (device(1), SMALL), of_user);
    accounts.charge(next, &buffers(1)).unwrap();
    assert_eq!(accounts.charge(next, &buffers(1)).unwrap_err().held, 3);
    assert_eq!(accounts.restrict(first, SMALL), Err(Error::SessionEnded));
    accounts.release(handle, &buffers(2));
    assert!(accounts.get(handle).is_none() && accounts.get(first).is_none());
    accounts.charge(next, &buffers(2)).unwrap();
    accounts.release(next, &buffers(3));
    accounts.close(next);
    assert_eq!(accounts.iter().count(), 0);
}

#[test]
fn r5_accounts_of_handles_that_come_of_each_other_are_so_many_deep_and_no_more() {
    let mut accounts = Accounts::default();
    let mut last = opened(&mut accounts, 1, Quotas::UNLIMITED);
    for _ in 0..100_000 {
        // Whoever derives from the last and closes that has two handles open at a time.
        let Ok(next) = accounts.restrict(last, Quotas::UNLIMITED) else { break };
        accounts.close(last);
        last = next;
    }
    assert_eq!(accounts.restrict(last, Quotas::UNLIMITED), Err(Error::QuotaExceeded));
    assert_eq!(accounts.iter().count(), DEEPEST);
    accounts.close(last);
    assert_eq!(accounts.iter().count(), 0);
}

#[test]
fn r5_what_no_machine_has_is_refused_and_not_a_sum_that_runs_over() {
    let mut accounts = Accounts::default();
    let session = opened(&mut accounts, 1, Quotas::UNLIMITED);
    accounts.charge(session, &buffers(1)).unwrap();
    let huge = Usage::NONE.with(Resource::BufferBytes, u64::MAX);
    assert_eq!(accounts.charge(session, &huge).unwrap_err().resource, Resource::BufferBytes);
    let unlimited = Usage::NONE.with(Resource::MappedBytes, u64::MAX);
    accounts.charge(session, &unlimited).unwrap();
    assert_eq!(accounts.room(session, Resource::BufferBytes), 0x2000);
}

#[test]
fn a_name_is_never_used_again_and_a_place_without_names_stays_empty() {
    let mut accounts = Accounts::default();
    let session = opened(&mut accounts, 1, Quotas::UNLIMITED);
    let first = accounts.restrict(session, Quotas::UNLIMITED).unwrap();
    accounts.close(first);
    let second = accounts.restrict(session, Quotas::UNLIMITED).unwrap();
    assert_eq!((second.place(), second != first), (first.place(), true));
    accounts.close(second);
    // So many accounts later.
    let last = AccountId(u64::MAX << PLACE_BITS | first.place() as u64);
    accounts.free = vec![last];
    assert_eq!(accounts.restrict(session, Quotas::UNLIMITED), Ok(last));
    accounts.close(last);
    let other = accounts.restrict(session, Quotas::UNLIMITED).unwrap();
    assert!(other.place() != first.place() && accounts.get(last).is_none());
    let older = accounts.iter().map(|(id, _)| id).collect::<Vec<_>>();
    let newest = accounts.restrict(session, Quotas::UNLIMITED).unwrap();
    let all = accounts.iter().map(|(id, _)| id);
    assert!(all.eq(older.into_iter().chain([newest])), "in the order in which they were opened");
}

/// Charges a mapping as requests do, with its addresses.
fn map(accounts: &mut Accounts, id: AccountId, bytes: u64) -> bool {
    let mapping = Turned::mappings(1, bytes);
    let is_charged = accounts.take_kept(id, &mapping, 0).is_some() || {
        let all = mapping.with_addresses();
        let fits = accounts.fits(id, &all.usage().with(Resource::Requests, 1)).is_ok();
        if fits {
            accounts.put_aside(id, &all);
            accounts.take(id, &mapping);
        }
        fits
    };
    if is_charged {
        accounts.take(id, &Turned::addresses(bytes));
    }
    is_charged
}

#[test]
fn r7_what_is_kept_is_refused_to_nobody_and_seen_by_nobody() {
    let limits = |mappings, mapped_bytes, iova_bytes| Quotas {
        mappings,
        mapped_bytes,
        iova_bytes,
        requests: 1,
        ..Quotas::UNLIMITED
    };
    let (of_user, of_device) = (limits(9, 0xd000, 0x10000), limits(7, 0xa000, 0xb000));
    let of_handle = limits(3, 0x6000, 0x7000);
    let mut accounts = Accounts::default();
    let sessions = [0, 1].map(|function| {
        let session = SessionId(function.into());
        accounts.open_session(session, (device(function), of_device), (0, of_user))
    });
    let handle = accounts.restrict(sessions[0], of_handle).unwrap();
    // Each with those whose limits it is within, and what is mapped on it.
    let chains = [(sessions[0], &[0, 2][..]), (sessions[1], &[1, 2]), (handle, &[3, 0, 2])];
    let all = [of_device, of_device, of_user, of_handle];
    let mut mapped: [Vec<u64>; 3] = Default::default();
    let (mut refused, mut kept, mut random) = (0, 0, 1u64);
    for round in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (of, bytes) = ((random >> 40) as usize % 3, 0x1000 * (1 + (random >> 50) % 3));
        let (id, chain) = chains[of];
        if (random >> 33).is_multiple_of(2) {
            let fits = chain.iter().all(|limit| {
                let below = (0..3).filter(|of| chains[*of].1.contains(limit));
                let held: Vec<u64> = below.flat_map(|of| mapped[of].iter().copied()).collect();
                let Quotas { mappings, mapped_bytes, iova_bytes, .. } = all[*limit];
                let sum = held.iter().sum::<u64>() + bytes;
                held.len() < mappings as usize && sum <= mapped_bytes.min(iova_bytes)
            });
            kept += usize::from(accounts.get(id).unwrap().kept != Turned::NONE);
            assert_eq!(map(&mut accounts, id, bytes), fits, "round {round}");
            refused += usize::from(!fits);
            mapped[of].extend(fits.then_some(bytes));
        } else if let Some(bytes) = mapped[of].pop() {
            accounts.give_back(id, &Turned::mappings(1, bytes));
            accounts.give_back(id, &Turned::addresses(bytes));
        }
        if round % 64 == 0 {
            accounts.call_in();
            for (of, (id, _)) in chains.iter().enumerate() {
                let above: Vec<AccountId> = accounts.chain(*id).map(|(id, _)| id).collect();
                let below = (0..3).filter(|it| accounts.is_within(chains[*it].0, *id));
                let held: Vec<u64> = below.flat_map(|of| mapped[of].iter().copied()).collect();
                let sum = held.iter().sum();
                let expected = Turned::mappings(held.len() as u64, sum).with_addresses().usage();
                assert_eq!(accounts.get(*id).unwrap().held, expected, "{of} {above:?}");
            }
        }
    }
    assert!(refused > 1000 && kept > 1000, "{refused} {kept}");
    // One that is closed keeps nothing, and goes with the last that it holds.
    for (of, (id, _)) in chains.iter().enumerate().rev() {
        accounts.close(*id);
        for bytes in mapped[of].drain(..) {
            accounts.give_back(*id, &Turned::mappings(1, bytes).with_addresses());
        }
    }
    assert_eq!(accounts.iter().count(), 0);
}

#[test]
fn a_request_waits_only_where_there_is_room_for_it_and_its_unmaps() {
    let limits = Quotas { requests: 1, operations: 3, ..Quotas::UNLIMITED };
    let mut accounts = Accounts::default();
    let session = opened(&mut accounts, 1, Quotas::UNLIMITED);
    let handle = accounts.restrict(session, limits).unwrap();
    assert!(accounts.may_wait(handle, 3) && !accounts.may_wait(handle, 4));
    assert!(accounts.may_wait(session, 4));
    accounts.turn(handle, &[(Resource::Operations, 2)]);
    assert!(accounts.may_wait(handle, 1) && !accounts.may_wait(handle, 2));
    let request = Usage::NONE.with(Resource::Requests, 1);
    accounts.add(handle, &request);
    assert!(!accounts.may_wait(handle, 0));
    // Not with what is kept either.
    accounts.put_aside(handle, &Turned::mappings(1, 0x1000).with_addresses());
    assert!(accounts.take_kept(handle, &Turned::mappings(1, 0x1000), 0).is_none());
    accounts.release(handle, &request);
    // Nor with addresses that have come and are not counted.
    assert!(accounts.take_kept(handle, &Turned::mappings(1, 0x1000), 1).is_none());
    assert!(accounts.take_kept(handle, &Turned::mappings(1, 0x1000), 0).is_some());
}
