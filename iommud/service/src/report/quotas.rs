//! The `quotas` node: what each device and user holds, and what it may.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::platform::Platform;
use iommu_engine::policy::Resource;
use serde::{Serialize, Serializer};

use super::{Row, amount};
use crate::account::{Account, AccountId, Holder};
use crate::handles::handle::{Entry, HandleId};
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct QuotaRow {
    /// `device 0000:00:02.0`, `user 0`, or `handle 5 of 0000:00:02.0` for a handle with a quota of its own, and what came of it.
    /// What is in use of one that is closed is `closed handle of 0000:00:02.0`.
    holder: String,
    /// As the policy's word.
    #[serde(serialize_with = "word")]
    resource: Resource,
    held: u64,
    /// The most that may be held, if there is a limit.
    limit: Option<u64>,
    /// How often something was refused by this limit.
    refused: u64,
}

/// A resource as the policy's word.
pub(super) fn word<S: Serializer>(resource: &Resource, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(resource.name())
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<QuotaRow> {
    // The first of each account: others came of it.
    let mut handles: BTreeMap<AccountId, (HandleId, &Entry)> = BTreeMap::new();
    for (id, entry) in service.handles.entries() {
        if let Some(account) = entry.handle.bounds.account {
            handles.entry(account).or_insert((id, entry));
        }
    }
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
                let of = above.map_or_else(String::new, |device| format!(" of {device}"));
                match handles.get(&id) {
                    Some((handle, entry)) if entry.handle.label.is_empty() => {
                        format!("handle {handle}{of}")
                    }
                    Some((handle, entry)) => {
                        format!("handle {handle}{of} ({})", entry.handle.label)
                    }
                    None => format!("closed handle{of}"),
                }
            }
            holder => holder.to_string(),
        };
        shown.push((holder, account));
    }
    shown.sort_by_key(|(_, account)| account.holder);
    let rows = shown.into_iter().flat_map(|(holder, account)| {
        // What a handle has no limit of its own of is its device's.
        let is_shown =
            |of: &Resource| account.holder != Holder::Handles || account.limits.of(*of).is_some();
        Resource::ALL.into_iter().filter(is_shown).map(move |resource| QuotaRow {
            holder: holder.clone(),
            resource,
            held: account.held.of(resource),
            limit: account.limits.of(resource),
            refused: account.refusals.get(&resource).copied().unwrap_or(0),
        })
    });
    rows.collect()
}

impl Row for QuotaRow {
    const COLUMNS: &'static [&'static str] = &["HOLDER", "RESOURCE", "HELD ", "LIMIT ", "REFUSED "];
    const NONE: &'static str = "nobody holds anything";

    fn cells(&self) -> Vec<String> {
        let shown = |it: u64| amount(self.resource, it);
        alloc::vec![
            self.holder.clone(),
            self.resource.to_string(),
            shown(self.held),
            self.limit.map_or_else(|| "-".to_string(), shown),
            self.refused.to_string(),
        ]
    }
}
