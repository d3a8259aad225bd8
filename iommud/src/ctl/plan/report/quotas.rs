//! What each device and user may hold, by the policy.

use std::collections::BTreeMap;

use iommu_engine::machine::plan::Plan;
use iommu_engine::policy::{Policy, Quotas, Resource};
use libdma::quota::Size;
use serde::Serialize;

/// What somebody may hold.
#[derive(Debug, Serialize)]
pub(super) struct QuotaRow {
    /// `each device`, `each user`, a device or a user, of which only what is otherwise than for each is told.
    whom: String,
    /// How much of what, by the policy's words; `null` where there is no limit.
    limits: BTreeMap<&'static str, Option<u64>>,
    #[serde(skip)]
    sentence: String,
}

impl QuotaRow {
    /// The quotas of somebody, or as far as they are otherwise than those.
    fn new(whom: String, quotas: Quotas, but: Option<Quotas>) -> Option<Self> {
        let told: Vec<_> = Resource::ALL
            .into_iter()
            .filter(|resource| but.is_none_or(|but| but.of(*resource) != quotas.of(*resource)))
            .map(|resource| (resource, quotas.of(resource)))
            .collect();
        let words = told.iter().map(|(resource, limit)| match limit {
            None => format!("any {resource}"),
            Some(bytes) if resource.is_in_bytes() => format!("{resource} {}", Size(*bytes)),
            Some(number) => format!("{resource} {number}"),
        });
        let sentence = format!("{whom}: {}", words.collect::<Vec<_>>().join(", "));
        let limits = told.iter().map(|(resource, limit)| (resource.name(), *limit)).collect();
        (!told.is_empty()).then_some(Self { whom, limits, sentence })
    }

    /// It as a line.
    pub(super) fn sentence(&self) -> String {
        self.sentence.clone()
    }
}

/// What each device may hold, and those of which the policy says otherwise; and users, if they are limited.
pub(super) fn quotas(plan: &Plan, policy: &Policy) -> Vec<QuotaRow> {
    let mut rows = vec![QuotaRow::new("each device".into(), policy.quotas, None)];
    let devices = plan.devices().values();
    for function in devices.filter(|it| it.is_endpoint()).map(|it| it.function) {
        let own = policy.for_device(function.address, function.vendor, function.device).quotas;
        rows.push(QuotaRow::new(function.address.to_string(), own, Some(policy.quotas)));
    }
    let each = policy.client_quotas;
    rows.push(QuotaRow::new("each user".into(), each, Some(Quotas::UNLIMITED)));
    let mut users: Vec<u32> = policy.clients.iter().map(|rule| rule.uid).collect();
    users.sort_unstable();
    users.dedup();
    let own = |uid| QuotaRow::new(format!("user {uid}"), policy.for_client(uid), Some(each));
    rows.extend(users.into_iter().map(own));
    rows.into_iter().flatten().collect()
}
