//! What a report says of units, memory, devices and groups.

use dma_types::PciAddress;
use iommu_engine::completion::UnitId;
use iommu_engine::machine::ReservedRange;
use iommu_engine::machine::plan::{
    Finding, Firmware, Oddity, Plan, PlannedDevice, PlannedGroup, PlannedUnit,
};
use iommu_engine::policy::{Policy, Unopened};
use serde::Serialize;

use super::probe::Probe;
use super::state;

/// A unit.
#[derive(Debug, Serialize)]
pub(super) struct UnitRow {
    pub(super) unit: usize,
    /// `VT-d` or `AMD-Vi`.
    pub(super) kind: &'static str,
    pub(super) segment: u16,
    pub(super) registers: String,
    pub(super) register_bytes: u64,
    /// Where it is in the table.
    pub(super) offset: usize,
    /// The PCI function that it is.
    pub(super) function: Option<String>,
    /// How many devices it translates for, bridges aside; unknown without PCI functions.
    pub(super) devices: Option<usize>,
    /// `used`, `REFUSED` or `IGNORED`.
    pub(super) state: &'static str,
    /// Why, where it is not used.
    pub(super) reason: Option<String>,
    /// What it names.
    pub(super) scopes: Vec<String>,
    /// Whether it is for what no other unit of its segment names.
    pub(super) has_the_rest: bool,
}

/// Memory that firmware reserves.
#[derive(Debug, Serialize)]
pub(super) struct MemoryRow {
    pub(super) offset: usize,
    pub(super) range: String,
    pub(super) bytes: u64,
    /// For whom, in the words of the table.
    pub(super) devices: Vec<String>,
}

/// A PCI function.
#[derive(Debug, Serialize)]
pub(super) struct DeviceRow {
    pub(super) device: String,
    pub(super) id: String,
    pub(super) class: String,
    pub(super) unit: Option<u16>,
    pub(super) group: usize,
    /// What it reaches while no driver has opened it: `nothing`, `reserved`, `ALL MEMORY` by the policy,
    /// `EVERYTHING` where no unit is used for it; nothing is said of bridges and units, which send no requests
    /// of their own.
    pub(super) reaches: Option<&'static str>,
    /// The memory that firmware reserves for it.
    pub(super) reserved: Vec<String>,
    /// The policy's rules that name it, each with its number and name.
    pub(super) rules: Vec<String>,
    /// Whether the policy would leave it unconfined, were it alone in its group.
    pub(super) kept_by_group: bool,
    pub(super) invalidation: String,
}

/// A group.
#[derive(Debug, Serialize)]
pub(super) struct GroupRow {
    pub(super) group: usize,
    pub(super) unit: Option<u16>,
    pub(super) members: Vec<String>,
    /// How they sign their requests.
    pub(super) requesters: Vec<String>,
    pub(super) reasons: Vec<String>,
    /// Why it cannot be attached.
    pub(super) fault: Option<String>,
}

pub(super) fn units(plan: &Plan, probe: &Probe) -> Vec<UnitRow> {
    let row = |(unit, planned): (usize, &PlannedUnit)| {
        let id = UnitId(unit as u16);
        let refused = probe.refused.get(&id);
        let reason = planned.left_out.as_ref().map(ToString::to_string);
        let devices = plan.devices().values().filter(|it| it.unit == Some(id) && it.is_endpoint());
        UnitRow {
            unit,
            kind: plan.firmware().kind(),
            segment: planned.segment,
            registers: planned.base.to_string(),
            register_bytes: planned.register_bytes,
            offset: planned.offset,
            function: planned.function.map(|function| function.to_string()),
            devices: (!plan.devices().is_empty()).then(|| devices.count()),
            state: if refused.is_some() { "REFUSED" } else { state(planned.left_out.as_ref()) },
            reason: reason.or_else(|| refused.map(ToString::to_string)),
            scopes: planned.scopes.clone(),
            has_the_rest: planned.has_the_rest,
        }
    };
    plan.units().iter().enumerate().map(row).collect()
}

/// The memory that would be reserved: what the table has, without what the plan refuses.
pub(super) fn memory(plan: &Plan) -> Vec<MemoryRow> {
    let mut rows = Vec::new();
    let mut add = |offset: usize, range: ReservedRange, devices: Vec<String>| {
        let refused = |finding: &Finding| {
            let region =
                matches!(finding.oddity, Oddity::Region { .. } | Oddity::RegionTwice { .. });
            region && finding.offset == Some(offset)
        };
        if !plan.findings().iter().any(refused) {
            rows.push(MemoryRow { offset, range: range.to_string(), bytes: range.bytes, devices });
        }
    };
    match plan.firmware() {
        Firmware::Vtd(table) => {
            for region in &table.reserved {
                let scopes = region.scopes.iter().map(ToString::to_string).collect();
                add(region.offset, region.into(), scopes);
            }
        }
        Firmware::Amdvi(table) => {
            for memory in &table.memory {
                let Some(range) = ReservedRange::from_ivmd(memory) else { continue };
                let (first, last) = (memory.first, memory.last);
                let all = (first.get(), last.get()) == (0, u16::MAX);
                let devices = match (all, first == last) {
                    (true, _) => "all".into(),
                    (_, true) => first.to_string(),
                    _ => format!("{first} to {last}"),
                };
                add(memory.offset, range, vec![devices]);
            }
        }
        Firmware::Absent => {}
    }
    rows
}

pub(super) fn devices(plan: &Plan, probe: &Probe, policy: &Policy) -> Vec<DeviceRow> {
    let row = |(address, device): (&PciAddress, &PlannedDevice)| {
        let (vendor, id) = (device.function.vendor, device.function.device);
        let rules = policy.rules_for(*address, vendor, id);
        let reaches = device.is_endpoint().then(|| reaches(plan, probe, device, policy));
        let meant_open = unopened(policy, device) == Unopened::Identity;
        DeviceRow {
            device: address.to_string(),
            id: format!("{vendor:04x}:{id:04x}"),
            class: format!("{:06x}", device.function.class),
            unit: device.unit.map(|unit| unit.0),
            group: device.group,
            reaches,
            reserved: device.reserved.iter().map(ToString::to_string).collect(),
            rules: rules.map(|(index, rule)| format!("{} ({})", index + 1, rule.devices)).collect(),
            kept_by_group: meant_open && matches!(reaches, Some("nothing" | "reserved")),
            invalidation: policy.for_device(*address, vendor, id).invalidation.to_string(),
        }
    };
    plan.devices().iter().map(row).collect()
}

/// What a device reaches while no driver has opened it.
fn reaches(plan: &Plan, probe: &Probe, device: &PlannedDevice, policy: &Policy) -> &'static str {
    let unit = device.unit.filter(|unit| !probe.refused.contains_key(unit));
    let unit = unit.and_then(|unit| plan.units().get(usize::from(unit.0)));
    if unit.is_none_or(|unit| unit.left_out.is_some()) {
        return "EVERYTHING";
    }
    let Some(group) = plan.groups().get(device.group).filter(|group| group.unit.is_ok()) else {
        return "nothing";
    };
    // A device that is to reach nothing is not to reach everything through another.
    let members = group.topology.members.iter().filter_map(|member| plan.devices().get(member));
    let mut endpoints = members.filter(|member| member.is_endpoint());
    if endpoints.all(|member| unopened(policy, member) == Unopened::Identity) {
        "ALL MEMORY"
    } else if group.reserved.is_empty() {
        "nothing"
    } else {
        "reserved"
    }
}

fn unopened(policy: &Policy, device: &PlannedDevice) -> Unopened {
    let function = device.function;
    policy.for_device(function.address, function.vendor, function.device).unopened
}

/// What would be set aside, as far as there is as much, each with for whom.
pub(super) fn set_aside(plan: &Plan, policy: &Policy) -> Vec<String> {
    let all = (policy.reserve, "all devices".to_string());
    let endpoints = plan.devices().values().filter(|device| device.is_endpoint());
    let own = endpoints.map(|device| {
        let function = device.function;
        let policy = policy.for_device(function.address, function.vendor, function.device);
        (policy.reserve, function.address.to_string())
    });
    let wanted = core::iter::once(all).chain(own).filter(|(bytes, _)| *bytes > 0);
    wanted.map(|(bytes, whom)| format!("{bytes} bytes of memory for {whom}")).collect()
}

pub(super) fn groups(plan: &Plan) -> Vec<GroupRow> {
    let groups = plan.groups().iter().enumerate();
    groups.filter(|(_, group)| is_notable(group)).map(|(index, group)| row(index, group)).collect()
}

/// Whether there is more to say of a group than that its one device is in it.
fn is_notable(group: &PlannedGroup) -> bool {
    group.topology.members.len() > 1 || !group.topology.reasons.is_empty() || group.unit.is_err()
}

fn row(index: usize, group: &PlannedGroup) -> GroupRow {
    GroupRow {
        group: index,
        unit: group.unit.ok().flatten().map(|unit| unit.0),
        members: group.topology.members.iter().map(ToString::to_string).collect(),
        requesters: group.topology.requesters.iter().map(ToString::to_string).collect(),
        reasons: group.topology.reasons.iter().map(ToString::to_string).collect(),
        fault: group.unit.err().map(|fault| fault.to_string()),
    }
}
