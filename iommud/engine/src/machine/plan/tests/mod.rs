//! Plans for machines that are written out.

mod amdvi;
mod growing;
mod vtd;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Plan;

/// What is odd, in words.
fn findings(plan: &Plan) -> Vec<String> {
    plan.findings().iter().map(ToString::to_string).collect()
}

/// The group that a function is in: its members, how they sign, and the unit.
fn group(plan: &Plan, function: &str) -> (String, String, Option<u16>) {
    let device = &plan.devices()[&function.parse().unwrap()];
    let group = &plan.groups()[device.group];
    let members = group.topology.members.iter().map(|member| member.source().to_string());
    let requesters = group.topology.requesters.iter().map(ToString::to_string);
    (
        members.collect::<Vec<_>>().join(" "),
        requesters.collect::<Vec<_>>().join(" "),
        group.unit.ok().flatten().map(|unit| unit.0),
    )
}

/// The memory that is reserved for a function, in words.
fn reserved(plan: &Plan, function: &str) -> Vec<String> {
    let device = &plan.devices()[&function.parse().unwrap()];
    device.reserved.iter().map(ToString::to_string).collect()
}

/// The unit that translates for a function.
fn unit(plan: &Plan, function: &str) -> Option<u16> {
    plan.devices()[&function.parse().unwrap()].unit.map(|unit| unit.0)
}
