//! A plan as a report, for people and for programs.
//!
//! | module | what is in it |
//! | --- | --- |
//! | here | [`Report`] |
//! | `rows` | what it says of units, memory, devices and groups |
//! | `quotas` | what each device and user may hold |
//! | `probe` | whether AMD's units are there, by their PCI functions |
//! | `unknown` | what it cannot know, and what of the policy is about nothing here |
//! | `text` | how people read it |

mod probe;
mod quotas;
mod rows;
mod text;
mod unknown;

use std::collections::BTreeMap;

use iommu_engine::acpi::dmar::Dmar;
use iommu_engine::acpi::ivrs::Ivrs;
use iommu_engine::error::StartError;
use iommu_engine::machine::plan::{Finding, Firmware, Given, LeftOut, Oddity, Plan};
use iommu_engine::policy::WithoutIommu;
use serde::Serialize;

use self::probe::Probe;
use self::quotas::QuotaRow;
use self::rows::{DeviceRow, GroupRow, MemoryRow, UnitRow};
use super::input::{Input, Table};
use crate::policy;

/// What iommud would do with a machine.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What it is made from, in words.
    made_from: String,
    /// Why iommud would not start.
    would_not_start: Option<String>,
    /// Whether the machine has no IOMMU, and iommud would serve drivers all the same.
    without_iommu: bool,
    units: Vec<UnitRow>,
    /// The memory that firmware reserves and that would be reserved.
    reserved: Vec<MemoryRow>,
    devices: Vec<DeviceRow>,
    /// The groups of more than one function, and those that sign as others do.
    groups: Vec<GroupRow>,
    /// What is not used, each a sentence with its place in the table.
    refused: Vec<String>,
    /// What is odd and is used all the same.
    odd: Vec<String>,
    /// The memory that would be set aside, and for whom.
    set_aside: Vec<String>,
    /// What each device and user may hold.
    quotas: Vec<QuotaRow>,
    /// What the policy leaves unconfined.
    policy: Vec<String>,
    /// What a plan from this input cannot know.
    unknown: Vec<String>,
    /// Whether a table is none, so that there is no plan.
    #[serde(skip)]
    no_table: bool,
}

impl Report {
    /// Plans, and tells.
    pub fn new(input: Input) -> Self {
        let mut report = Self {
            made_from: made_from(&input),
            would_not_start: None,
            without_iommu: false,
            units: Vec::new(),
            reserved: Vec::new(),
            devices: Vec::new(),
            groups: Vec::new(),
            refused: Vec::new(),
            odd: Vec::new(),
            set_aside: Vec::new(),
            quotas: Vec::new(),
            policy: policy::warnings(&input.policy, None),
            unknown: Vec::new(),
            no_table: false,
        };
        match plan(&input) {
            Ok(plan) => report.fill(&plan, &input),
            Err(error) => {
                report.no_table = matches!(error, StartError::Dmar(_) | StartError::Ivrs(_));
                report.would_not_start = Some(error.to_string());
            }
        }
        report
    }

    fn fill(&mut self, plan: &Plan, input: &Input) {
        let probe = Probe::new(plan, input.functions.as_ref());
        self.without_iommu = matches!(plan.firmware(), Firmware::Absent);
        let bases: Vec<_> = plan.units().iter().map(|unit| unit.base).collect();
        self.policy = policy::warnings(&input.policy, Some(&bases));
        self.units = rows::units(plan, &probe);
        self.reserved = rows::memory(plan);
        self.devices = rows::devices(plan, &probe, &input.policy);
        self.groups = rows::groups(plan);
        let (refused, odd): (Vec<_>, Vec<_>) = plan.findings().iter().partition(|it| refuses(it));
        self.refused = refused.iter().map(ToString::to_string).collect();
        self.refused.extend(probe.sentences(plan));
        self.odd = odd.iter().map(ToString::to_string).collect();
        self.odd.extend(policy::absent_units(&input.policy, &bases));
        self.odd.extend(policy::idle_limits(&input.policy));
        self.odd.extend(unknown::unmatched(plan, &input.policy));
        self.set_aside = rows::set_aside(plan, &input.policy);
        self.quotas = quotas::quotas(plan, &input.policy);
        self.unknown = unknown::unknown(plan, &probe, input.functions.as_ref());
    }

    /// Whether anything is refused.
    pub fn refuses(&self) -> bool {
        self.would_not_start.is_some() || !self.refused.is_empty()
    }

    /// Whether there is no plan because the firmware's table is none.
    pub fn has_no_table(&self) -> bool {
        self.no_table
    }

    /// The report for people.
    pub fn text(&self) -> String {
        text::write(self)
    }

    /// The report for programs.
    pub fn json(&self) -> String {
        // It is made of numbers, texts and lists, which always can be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// What the engine would do, or why it would not start.
fn plan(input: &Input) -> Result<Plan, StartError> {
    let firmware = match (&input.dmar, &input.ivrs) {
        (Some(table), _) => Firmware::Vtd(Dmar::parse(&table.bytes)?),
        (None, Some(table)) => Firmware::Amdvi(Ivrs::parse(&table.bytes)?),
        (None, None) if input.policy.without_iommu == WithoutIommu::Unprotected => Firmware::Absent,
        (None, None) => return Err(StartError::NoIommu),
    };
    let functions = match &input.functions {
        Some(dump) => firmware.scan(&mut dump.clone()),
        None => BTreeMap::new(),
    };
    let given = Given { arenas: &[], ignored: &input.policy.ignored_units };
    Plan::new(firmware, &functions, &given)
}

fn made_from(input: &Input) -> String {
    let table = |name: &str, table: &Option<Table>| {
        let table = table.as_ref()?;
        Some(format!("the {name} table of {} ({} bytes)", table.from, table.bytes.len()))
    };
    let functions = input.functions.as_ref();
    let functions = functions.map(|dump| count(dump.functions().count(), "PCI function"));
    let parts: Vec<_> = [table("DMAR", &input.dmar), table("IVRS", &input.ivrs), functions]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() { "nothing".into() } else { parts.join(", ") }
}

/// Whether something is not used, or not confined, for what was found. What the policy leaves alone is not
/// refused.
fn refuses(finding: &Finding) -> bool {
    match &finding.oddity {
        Oddity::Refused(_) | Oddity::Region { .. } => true,
        Oddity::LostScope { .. } | Oddity::Group { .. } | Oddity::Newcomer { .. } => true,
        Oddity::Checksum | Oddity::SecondRest { .. } | Oddity::RestNotLast => false,
        Oddity::RegionTwice { .. } => false,
    }
}

/// So many of what has this name: `1 PCI function`, `2 PCI functions`.
pub fn count(number: usize, name: &str) -> String {
    format!("{number} {name}{}", if number == 1 { "" } else { "s" })
}

/// What becomes of a unit, in a word.
fn state(left_out: Option<&LeftOut>) -> &'static str {
    match left_out {
        None => "used",
        Some(LeftOut::Firmware(_)) => "REFUSED",
        Some(LeftOut::Policy(_)) => "IGNORED",
    }
}

#[cfg(test)]
#[path = "../tests/report.rs"]
mod tests;
