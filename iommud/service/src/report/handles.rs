//! The `handles` node: who was given what, as a tree. Text nodes and the root are left out: nothing comes of them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dma_types::Access;
use iommu_engine::platform::Platform;
use iommu_engine::policy::Resource;
use libdma::protocol::Rights;
use serde::Serialize;

use super::quotas::word;
use super::{Row, amount};
use crate::handles::bounds::Bounds;
use crate::handles::handle::{Entry, Greeting, HandleId, Object};
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct HandleRow {
    /// `3`, or `3@2` if it was made after the second restart.
    handle: String,
    /// The nearest open handles that it was derived from.
    parents: Vec<String>,
    /// How far below the first of the tree it is.
    depth: usize,
    /// What it is of: `device 0000:00:02.0`, `buffer 3`, `domain 2`, `registers 4`, `memory to come`,
    /// `resume of 0000:00:02.0`, `quarantine of 0000:00:02.0`.
    object: String,
    /// What reports call that, or the handle.
    label: String,
    rights: Vec<&'static str>,
    /// The most that a device may do with what is mapped by it, if that is less than everything: `r-` or `-w`.
    access: Option<String>,
    /// The I/O addresses within which its mappings lie, if those are not all.
    addresses: Option<Addresses>,
    /// What it has a quota of its own of.
    quotas: Vec<Quota>,
    uid: u32,
    /// `open`, `silent` (nothing was said on it), `to renew` (its device was reset since), or `revoked`.
    state: &'static str,
}

#[derive(Serialize)]
struct Addresses {
    first: String,
    last: String,
}

#[derive(Serialize)]
struct Quota {
    #[serde(serialize_with = "word")]
    of: Resource,
    held: u64,
    limit: u64,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<HandleRow> {
    let mut rows = Vec::new();
    let above = service.handles.tree().all_open_above();
    let above = |id: HandleId| above.get(&id).map_or(&[][..], |above| above);
    // What has two parents is shown below the first.
    let mut children: BTreeMap<Option<HandleId>, Vec<HandleId>> = BTreeMap::new();
    for (id, _) in service.handles.entries() {
        children.entry(above(id).first().copied()).or_default().push(id);
    }
    // Those that are to be shown next, the last first.
    let tops = children.get(&None).into_iter().flatten();
    let mut next: Vec<(HandleId, usize)> = tops.map(|id| (*id, 0)).collect();
    next.reverse();
    while let Some((id, depth)) = next.pop() {
        let Some(entry) = service.handles.entry(id) else { continue };
        if let Object::Root | Object::Text(_) = entry.handle.object {
            continue;
        }
        rows.push(row(service, (id, above(id)), entry, depth));
        let below = children.get(&Some(id)).into_iter().flatten();
        next.extend(below.rev().map(|it| (*it, depth + 1)));
    }
    rows
}

fn row<P: Platform>(
    service: &Service<P>,
    (id, above): (HandleId, &[HandleId]),
    entry: &Entry,
    depth: usize,
) -> HandleRow {
    let handle = &entry.handle;
    let (object, of) = object(service, &handle.object);
    let Bounds { access, first, last, account } = handle.bounds;
    let all = (first, last) == (Bounds::NONE.first, Bounds::NONE.last);
    let addresses = (!all).then(|| Addresses { first: first.to_string(), last: last.to_string() });
    let account = account.and_then(|account| service.accounts.get(account));
    let quotas = account.into_iter().flat_map(|account| {
        let limited = Resource::ALL.into_iter().filter_map(|resource| {
            let limit = account.limits.of(resource)?;
            Some(Quota { of: resource, held: account.held.of(resource), limit })
        });
        limited.collect::<Vec<_>>()
    });
    let is_mapper = matches!(handle.object, Object::Device(_) | Object::Domain(_));
    HandleRow {
        handle: id.to_string(),
        parents: above.iter().map(|parent| parent.to_string()).collect(),
        depth,
        object,
        label: if handle.label.is_empty() { of } else { handle.label.clone() },
        rights: words(handle.rights),
        access: (access != Access::ReadWrite && is_mapper).then(|| access.to_string()),
        addresses: addresses.filter(|_| is_mapper),
        quotas: if is_mapper { quotas.collect() } else { Vec::new() },
        uid: handle.uid,
        state: match handle.greeting {
            _ if entry.is_revoked() => "revoked",
            Greeting::None => "silent",
            Greeting::Said => "open",
            Greeting::BeforeReset => "to renew",
        },
    }
}

/// What a handle is of, and what that is called.
fn object<P: Platform>(service: &Service<P>, object: &Object) -> (String, String) {
    let sessions = &service.sessions;
    match object {
        Object::Device(id) => {
            let device = sessions.sessions.get(id).map(|session| session.device.to_string());
            (format!("device {}", device.unwrap_or_else(|| "-".to_string())), String::new())
        }
        Object::Domain(key) => {
            let label = service.domains.get(key).map(|domain| domain.label.clone());
            (format!("domain {}", key.0), label.unwrap_or_default())
        }
        Object::Buffer(id) => {
            let label = sessions.buffers.get(id).map(|buffer| buffer.label.to_string());
            (format!("buffer {}", id.0), label.unwrap_or_default())
        }
        Object::PeerBar(id) => {
            let label = service.peer_bars.get(id).map(|peer_bar| peer_bar.label.to_string());
            (format!("registers {}", id.0), label.unwrap_or_default())
        }
        Object::Registration(_, spec) => ("memory to come".to_string(), spec.label.to_string()),
        Object::Resume(device) => (format!("resume of {device}"), String::new()),
        Object::Quarantine(device) => (format!("quarantine of {device}"), String::new()),
        Object::Root | Object::Text(_) => (String::new(), String::new()),
    }
}

/// Rights in words.
fn words(rights: Rights) -> Vec<&'static str> {
    let words = [
        (Rights::ALLOCATE, "allocate"),
        (Rights::MAP, "map"),
        (Rights::ATTACH, "attach"),
        (Rights::SHARE, "share"),
        (Rights::READ, "read"),
        (Rights::WRITE, "write"),
        (Rights::INSPECT, "inspect"),
        (Rights::ADMINISTER, "administer"),
    ];
    words.into_iter().filter(|(right, _)| rights.contains(*right)).map(|(_, word)| word).collect()
}

impl Row for HandleRow {
    const COLUMNS: &'static [&'static str] = &["HANDLE", "OF", "LABEL", "UID ", "STATE", "RIGHTS"];
    const NONE: &'static str = "nobody holds a handle to a device";

    fn cells(&self) -> Vec<String> {
        let rights = match self.rights[..] {
            [] => "none".to_string(),
            ref rights => rights.join(" "),
        };
        alloc::vec![
            format!("{}{}", "  ".repeat(self.depth), self.handle),
            self.object.clone(),
            self.label.clone(),
            self.uid.to_string(),
            self.state.to_string(),
            rights,
        ]
    }

    fn notes(&self) -> Vec<String> {
        let indent = "  ".repeat(self.depth);
        let access = self.access.as_deref().map(|access| match access {
            "r-" => "the device may read only".to_string(),
            _ => "the device may write only".to_string(),
        });
        let addresses = self.addresses.as_ref();
        let addresses = addresses.map(|it| format!("maps from {} to {}", it.first, it.last));
        let quotas = self.quotas.iter().map(|Quota { of, held, limit }| {
            format!("holds {} of {} {of}", amount(*of, *held), amount(*of, *limit))
        });
        let offered = match &self.parents[..] {
            [_, offered] => Some(format!("offered by handle {offered}")),
            _ => None,
        };
        let notes = access.into_iter().chain(addresses).chain(quotas).chain(offered);
        notes.map(|note| format!("{indent}{note}")).collect()
    }
}
