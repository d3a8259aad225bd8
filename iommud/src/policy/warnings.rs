//! What of a policy takes away from confinement.

use iommu_engine::policy::{Policy, Unclaimed};

/// A line for each exception that leaves something unconfined, to be said loudly.
pub fn warnings(policy: &Policy) -> Vec<String> {
    let mut warnings = Vec::new();
    if policy.default == Unclaimed::Identity {
        warnings.push("devices that no driver has opened are NOT CONFINED (identity)".into());
    }
    let open = policy.rules.iter().filter(|rule| rule.unclaimed == Some(Unclaimed::Identity));
    warnings.extend(open.map(|rule| {
        format!("{} is NOT CONFINED while no driver has opened it (identity)", rule.devices)
    }));
    warnings.extend(policy.ignored_units.iter().map(|unit| {
        let (base, reason) = (unit.base, &unit.reason);
        format!("the unit at {base} is IGNORED, and what is behind it NOT CONFINED: {reason}")
    }));
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::text::parse;

    #[test]
    fn what_is_not_confined_is_said_loudly_and_nothing_else_is() {
        assert_eq!(warnings(&Policy::default()), Vec::<String>::new());
        let text = br#"(
            rules: [
                (device: "8086:1533", default: identity),
                (device: "0000:00:02.0", default: deny),
            ],
            ignore_units: { 0xfed90000: "its firmware hangs" },
        )"#;
        assert_eq!(
            warnings(&parse(text).unwrap()),
            [
                "8086:1533 is NOT CONFINED while no driver has opened it (identity)",
                "the unit at 0xfed90000 is IGNORED, and what is behind it NOT CONFINED: its firmware \
                 hangs",
            ]
        );
        let open = Policy { default: Unclaimed::Identity, ..Policy::default() };
        assert!(warnings(&open)[0].contains("NOT CONFINED"));
    }
}
