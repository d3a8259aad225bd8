//! The `quotas` node: what each device and user holds, and what it may.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::platform::Platform;
use iommu_engine::policy::Resource;
use libdma::quota::Size;
use serde::Serialize;

use super::Row;
use crate::account::{Account, Holder};
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct QuotaRow {
    /// `device 0000:00:02.0`, `user 0`, or `handle of 0000:00:02.0` for handles with a quota of their own.
    holder: String,
    /// The word in the policy.
    resource: &'static str,
    held: u64,
    /// The most that may be held, if there is a limit.
    limit: Option<u64>,
    /// How often something was refused by this limit.
    refused: u64,
    #[serde(skip)]
    in_bytes: bool,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<QuotaRow> {
    let mut shown: Vec<(String, &Account)> = Vec::new();
    for (id, account) in service.accounts.iter() {
        let holder = match account.holder {
            // It may hold what its device may.
            Holder::Session(_) => continue,
            Holder::Handles => {
                let above = service.accounts.chain(id).find_map(|(_, above)| match above.holder {
                    Holder::Device(device) => Some(device),
                    _ => None,
                });
                above.map_or_else(String::new, |device| format!("handle of {device}"))
            }
            holder => holder.to_string(),
        };
        shown.push((holder, account));
    }
    shown.sort_by_key(|(_, account)| account.holder);
    let rows = shown.into_iter().flat_map(|(holder, account)| {
        Resource::ALL.into_iter().map(move |resource| QuotaRow {
            holder: holder.clone(),
            resource: resource.name(),
            held: account.held.of(resource),
            limit: account.limits.of(resource),
            refused: account.refusals.get(&resource).copied().unwrap_or(0),
            in_bytes: resource.is_in_bytes(),
        })
    });
    rows.collect()
}

impl Row for QuotaRow {
    const COLUMNS: &'static [&'static str] = &["HOLDER", "RESOURCE", "HELD ", "LIMIT ", "REFUSED "];
    const NONE: &'static str = "nobody holds anything";

    fn cells(&self) -> Vec<String> {
        let in_bytes = self.in_bytes;
        let shown = |it: u64| if in_bytes { Size(it).to_string() } else { it.to_string() };
        alloc::vec![
            self.holder.clone(),
            self.resource.to_string(),
            shown(self.held),
            self.limit.map_or_else(|| "-".to_string(), shown),
            self.refused.to_string(),
        ]
    }
}
