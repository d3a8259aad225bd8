//! The policy that the daemon acts by: where it comes from, and what is said of it at the start.

use std::path::{Path, PathBuf};

use dma_types::{PhysAddr, Span};
use iommu_engine::platform::Platform;
use iommu_engine::policy::{Policy, QuarantineAfter, Quotas, Resource};
use iommu_service::Service;
use libdma::quota::Size;

use super::log;
use super::options::Options;
use crate::policy::{PolicyError, absent_units, idle_limits, load, load_default, warnings};

/// A policy, and where it comes from.
#[derive(Debug)]
pub struct Told {
    /// The policy.
    pub policy: Policy,
    /// The file; `None` if there is none and the default holds.
    pub file: Option<PathBuf>,
}

impl Told {
    /// What the command line asks for: the file it names, or the machine's. A simulated machine has none, so
    /// that what is tried out does not depend on what the real one is to do.
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: a daemon with half a policy would confine less than was meant.
    pub fn by(options: &Options) -> Result<Self, PolicyError> {
        if let Some(file) = &options.policy {
            return Ok(Self { policy: load(file)?, file: Some(file.clone()) });
        }
        let found = if options.is_simulated() { None } else { load_default()? };
        let (policy, file) = found.map(|(policy, file)| (policy, file.into())).unzip();
        Ok(Self { policy: policy.unwrap_or_default(), file })
    }

    /// Names and values for the report.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let file = self.file.as_deref().map(Path::display);
        let file = file.map_or_else(|| "none: the default holds".into(), |file| file.to_string());
        let mut lines = vec![("policy", file)];
        lines.extend(lines_of(&self.policy));
        lines.extend(warnings(&self.policy, None).into_iter().map(|warning| ("POLICY", warning)));
        lines
    }

    /// Writes a line for all that takes away from confinement on this machine, for each unit to be ignored that it
    /// does not have, and for each user whose limits limit nothing.
    pub fn warn<P: Platform>(&self, service: &Service<P>) {
        let units: Vec<PhysAddr> = service.engine().units().iter().map(|slot| slot.base).collect();
        let warnings = warnings(&self.policy, Some(&units));
        let of_nothing = absent_units(&self.policy, &units).into_iter();
        let of_nothing = of_nothing.chain(idle_limits(&self.policy));
        for warning in warnings.into_iter().chain(of_nothing) {
            log::line(format_args!("POLICY: {warning}"));
        }
    }
}

/// Reads a policy for nothing but to tell what it says.
///
/// # Errors
///
/// [`PolicyError`].
pub fn check(file: &Path) -> Result<String, PolicyError> {
    let policy = load(file)?;
    let mut text = format!("{}: right\n", file.display());
    for (name, value) in lines_of(&policy) {
        text += &format!("  {name}: {value}\n");
    }
    for warning in warnings(&policy, None).into_iter().chain(idle_limits(&policy)) {
        text += &format!("  {warning}\n");
    }
    Ok(text)
}

fn lines_of(policy: &Policy) -> Vec<(&'static str, String)> {
    vec![
        ("policy by default", policy.default.to_string()),
        ("policy on invalidation", policy.invalidation.to_string()),
        ("policy on quotas of a device", limits(&policy.quotas)),
        ("policy on quotas of a user", limits(&policy.client_quotas)),
        ("policy on users", policy.clients.len().to_string()),
        ("policy on reserve", reserve(policy.reserve)),
        ("policy on quarantine", quarantine(policy.quarantine)),
        ("policy rules", policy.rules.len().to_string()),
        ("policy ignores units", policy.ignored_units.len().to_string()),
        ("policy without an IOMMU", policy.without_iommu.to_string()),
        ("policy on orphans", policy.orphans.to_string()),
    ]
}

fn reserve(bytes: u64) -> String {
    if bytes == 0 { "nothing".into() } else { Size(bytes).to_string() }
}

fn quarantine(after: Option<QuarantineAfter>) -> String {
    after.map_or_else(
        || "never".into(),
        |QuarantineAfter { faults, within }| {
            let accesses = if faults == 1 { "access" } else { "accesses" };
            format!("after {faults} blocked {accesses} within {}", Span(within))
        },
    )
}

/// Limits in one line, where there are any: `4096 buffers, 4 GiB buffer_bytes`.
fn limits(quotas: &Quotas) -> String {
    let limit = |resource: Resource| {
        let limit = quotas.of(resource)?;
        let limit =
            if resource.is_in_bytes() { Size(limit).to_string() } else { limit.to_string() };
        Some(format!("{limit} {resource}"))
    };
    let limits: Vec<_> = Resource::ALL.into_iter().filter_map(limit).collect();
    if limits.is_empty() { "no limits".into() } else { limits.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::process;

    use super::*;

    #[test]
    fn the_report_says_loudly_what_is_not_confined() {
        let policy = crate::policy::text::parse(b"(default: identity)").unwrap();
        let lines = Told { policy, file: Some("/etc/iommud.ron".into()) }.settings();
        assert_eq!(lines[0], ("policy", "/etc/iommud.ron".into()));
        assert_eq!(lines[1], ("policy by default", "identity".into()));
        let warning = "devices that no driver has opened are NOT CONFINED (identity)";
        assert_eq!(lines.last(), Some(&("POLICY", warning.into())));
    }

    #[test]
    fn a_check_tells_what_a_policy_says_or_where_it_is_wrong() {
        let path = env::temp_dir().join(format!("iommud-check-{}.ron", process::id()));
        let words = r#"(invalidation: deferred, reserve: "8 MiB", quarantine: (faults: 7, within: "90 s"))"#;
        fs::write(&path, words).unwrap();
        let told = check(&path).unwrap();
        assert!(told.contains("policy on reserve: 8 MiB\n"), "{told}");
        assert!(
            told.contains("policy on quarantine: after 7 blocked accesses within 90 s\n"),
            "{told}"
        );
        assert!(told.contains(": right\n  policy by default: deny\n"), "{told}");
        assert!(told.contains("policy on invalidation: deferred\n"), "{told}");
        fs::write(&path, "(invalidation: sloppy)").unwrap();
        let error = check(&path).unwrap_err().to_string();
        assert!(
            error.ends_with(
                ".ron:1:16: `sloppy` will not do here; it has to be `strict` or `deferred`"
            ),
            "{error}"
        );
        fs::remove_file(path).unwrap();
    }
}
