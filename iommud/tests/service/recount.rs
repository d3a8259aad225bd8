//! What accounts should say, counted anew from what there is.

use std::collections::BTreeMap;

use iommu_engine::payer::Payer;
use iommu_engine::policy::Resource;
use iommu_service::Service;
use iommu_service::account::{AccountId, Usage};
use iommud::platform::sim::SimPlatform;

const PAGE: u64 = 4096;

/// What is charged to each account itself, and not to one below it.
#[derive(Default)]
struct Charged(BTreeMap<AccountId, Usage>);

impl Charged {
    fn add(&mut self, account: impl Into<AccountIdOf>, usage: Usage) {
        let AccountIdOf(account) = account.into();
        if account != AccountId::NOBODY {
            let sum = self.0.entry(account).or_default();
            *sum = sum.and(&usage);
        }
    }
}

/// An account, by its own name or the engine's.
struct AccountIdOf(AccountId);

impl From<AccountId> for AccountIdOf {
    fn from(account: AccountId) -> Self {
        Self(account)
    }
}

impl From<Payer> for AccountIdOf {
    fn from(Payer(number): Payer) -> Self {
        Self(AccountId(number))
    }
}

/// Asserts that every account holds exactly what there is, and that what there is is on accounts.
pub(crate) fn recount(service: &mut Service<SimPlatform>) {
    service.accounts();
    let charged = charged(service);
    let accounts = service.accounts();
    let mut expected: BTreeMap<AccountId, Usage> = BTreeMap::new();
    for (account, usage) in charged.0 {
        assert!(accounts.get(account).is_some(), "{account:?} is gone and holds {usage:?}");
        for (above, _) in accounts.chain(account) {
            let sum = expected.entry(above).or_default();
            *sum = sum.and(&usage);
        }
    }
    for (id, account) in accounts.iter() {
        let expected = expected.remove(&id).unwrap_or_default();
        assert_eq!(account.held, expected, "{id:?}, {}", account.holder);
    }
}

fn charged(service: &Service<SimPlatform>) -> Charged {
    let (mut charged, engine) = (Charged::default(), service.engine());
    let sessions = service.sessions();
    let held = |resource, amount| Usage::NONE.with(resource, amount);
    let buffer = |bytes| held(Resource::Buffers, 1).with(Resource::BufferBytes, bytes);
    let mapping = |bytes| held(Resource::Mappings, 1).with(Resource::MappedBytes, bytes);
    let addresses = |bytes| held(Resource::IovaBytes, bytes);
    let table = held(Resource::PageTableBytes, PAGE);
    let (operation, request) = (held(Resource::Operations, 1), held(Resource::Requests, 1));
    for it in sessions.buffers.values() {
        charged.add(it.account, buffer(it.bytes));
        for (key, iova) in it.mappings.keys() {
            let mapped = engine.domain(*key).and_then(|domain| domain.mapping(*iova));
            let mapped = mapped.expect("what is known of a buffer the engine knows");
            charged.add(mapped.payer, mapping(mapped.bytes));
        }
    }
    for peer_bar in service.peer_bars() {
        charged.add(peer_bar.account, buffer(0).and(&mapping(peer_bar.registers.place.bytes)));
    }
    let mut of_clients: Vec<_> = sessions.sessions.values().map(|session| session.domain).collect();
    for (key, domain) in service.explicit_domains() {
        charged.add(domain.account, buffer(0));
        of_clients.push(key);
    }
    service.pending().accounts().for_each(|account| charged.add(account, request));
    for (key, domain) in engine.domains() {
        for (_, mapping) in domain.mappings() {
            charged.add(mapping.payer, addresses(mapping.bytes));
        }
        let paid: BTreeMap<_, _> = domain.paid().collect();
        let mut walked = 0;
        let count = |frame| {
            walked += 1;
            let payer = paid.get(&frame).copied().unwrap_or_default();
            assert!(payer != Payer::NOBODY || !of_clients.contains(&key), "{key:?}: {frame}");
            charged.add(payer, table);
        };
        domain.visit_tables(service.platform(), count).unwrap();
        assert!(paid.len() <= walked, "{key:?} pays for frames that it has not");
    }
    for retired in engine.retired_list() {
        for (_, payer) in &retired.frames {
            charged.add(*payer, table);
        }
        for (payer, bytes) in &retired.addresses {
            charged.add(*payer, addresses(*bytes));
        }
        if let Some((_, _, bytes)) = retired.range {
            charged.add(retired.payer, addresses(bytes).and(&operation));
        }
        if let Some(run) = retired.run {
            charged.add(run.payer, buffer(run.bytes));
        }
    }
    charged
}
