//! What of a policy takes away from confinement, and what of it is about no unit or nobody.

use std::collections::BTreeSet;

use dma_types::PhysAddr;
use iommu_engine::policy::{Policy, Unopened, WithoutIommu};
use iommu_service::Caller;

/// A line for each exception that leaves something unconfined, to be said loudly. `units` is where the machine's
/// units have their registers, if somebody has looked: a unit that is not there is not ignored.
pub fn warnings(policy: &Policy, units: Option<&[PhysAddr]>) -> Vec<String> {
    let mut warnings = Vec::new();
    if policy.without_iommu == WithoutIommu::Unprotected && units.is_none() {
        warnings
            .push("on a machine without an IOMMU devices are NOT CONFINED (unprotected)".into());
    }
    if policy.default == Unopened::Identity {
        warnings.push("devices that no driver has opened are NOT CONFINED (identity)".into());
    }
    let open = policy.rules.iter().filter(|rule| rule.unopened == Some(Unopened::Identity));
    warnings.extend(open.map(|rule| {
        let devices = rule.devices;
        format!(
            "{devices} is NOT CONFINED while no driver has opened it, if its whole group is to be \
             so (identity)"
        )
    }));
    let there = |base| units.is_none_or(|units| units.contains(&base));
    warnings.extend(policy.ignored_units.iter().filter(|unit| there(unit.base)).map(|unit| {
        let (base, reason) = (unit.base, &unit.reason);
        match units {
            Some(_) => {
                format!(
                    "the unit at {base} is IGNORED, and what is behind it NOT CONFINED: {reason}"
                )
            }
            None => format!(
                "a unit at {base} is to be IGNORED, and what is behind it NOT CONFINED: {reason}"
            ),
        }
    }));
    warnings
}

/// A line for each unit that the policy ignores and that is not there: most likely another was meant, which is
/// used. `units` is where the machine's units have their registers.
pub fn absent_units(policy: &Policy, units: &[PhysAddr]) -> Vec<String> {
    let absent = policy.ignored_units.iter().filter(|unit| !units.contains(&unit.base));
    absent
        .map(|unit| format!("the policy ignores a unit at {}, and there is none", unit.base))
        .collect()
}

/// A line for each user whose limits limit nothing, because only others open devices: what is held by handles that were
/// passed on is on the account of who opened them.
pub fn idle_limits(policy: &Policy) -> Vec<String> {
    let users: BTreeSet<u32> = policy.clients.iter().map(|rule| rule.uid).collect();
    let idle = users.into_iter().filter(|uid| !Caller { uid: *uid }.is_root());
    idle.map(|uid| {
        format!(
            "the limits of user {uid} limit nothing: only user 0 opens devices, and what is held by handles that it \
             passes on is on its account"
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::text::parse;

    #[test]
    fn what_is_not_confined_is_said_loudly_and_nothing_else_is() {
        assert_eq!(warnings(&Policy::default(), None), Vec::<String>::new());
        let text = br#"(
            rules: [
                (device: "8086:1533", default: identity),
                (device: "0000:00:02.0", default: deny),
            ],
            ignore_units: { 0xfed90000: "its firmware hangs" },
        )"#;
        assert_eq!(
            warnings(&parse(text).unwrap(), Some(&[PhysAddr::new(0xfed9_0000)])),
            [
                "8086:1533 is NOT CONFINED while no driver has opened it, if its whole group is to be \
                 so (identity)",
                "the unit at 0xfed90000 is IGNORED, and what is behind it NOT CONFINED: its firmware \
                 hangs",
            ]
        );
        let open = Policy { default: Unopened::Identity, ..Policy::default() };
        assert!(warnings(&open, None)[0].contains("NOT CONFINED"));
    }

    #[test]
    fn limits_of_who_opens_no_devices_are_said_to_limit_nothing() {
        let text = br#"(clients: [
            (uid: 1000, quotas: (buffers: 5)),
            (uid: 0, quotas: (buffers: 50)),
            (uid: 1000, quotas: (mappings: 5)),
        ])"#;
        let line = "the limits of user 1000 limit nothing: only user 0 opens devices, and what is held by handles \
                    that it passes on is on its account";
        assert_eq!(idle_limits(&parse(text).unwrap()), [line]);
        assert_eq!(idle_limits(&Policy::default()), Vec::<String>::new());
    }

    #[test]
    fn a_unit_that_is_not_there_is_not_said_to_be_ignored() {
        let policy = parse(br#"(ignore_units: { 0x1234000: "a slip of the pen" })"#).unwrap();
        let units = [PhysAddr::new(0xfed9_0000)];
        assert_eq!(warnings(&policy, Some(&units)), Vec::<String>::new());
        let absent = "the policy ignores a unit at 0x1234000, and there is none";
        assert_eq!(absent_units(&policy, &units), [absent]);
        // Nobody has looked yet.
        let meant = "a unit at 0x1234000 is to be IGNORED, and what is behind it NOT CONFINED: a slip of \
                     the pen";
        assert_eq!(warnings(&policy, None), [meant]);
    }
}
