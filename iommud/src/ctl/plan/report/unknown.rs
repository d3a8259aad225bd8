//! What a plan cannot know from what it was given, and what of the policy is about nothing here.

use iommu_engine::machine::plan::Plan;
use iommu_engine::policy::Policy;

use super::count;
use super::probe::Probe;
use crate::ctl::plan::dump::{CONVENTIONAL, Dump};

/// How many addresses a sentence has.
const MOST_NAMED: usize = 8;

/// A sentence for each thing that is not known.
pub(super) fn unknown(plan: &Plan, probe: &Probe, functions: Option<&Dump>) -> Vec<String> {
    let Some(dump) = functions else {
        return vec![
            "devices, groups and where bridges lead: name PCI functions with --pci".into(),
        ];
    };
    let mut sentences = Vec::new();
    if !probe.unknown.is_empty() {
        sentences.push(format!(
            "whether {} has an IOMMU's capability, without which its unit is refused: call lspci with -xxxx, as \
             root",
            list(&probe.unknown)
        ));
    }
    let short: Vec<_> = named(dump, |bytes| bytes < CONVENTIONAL);
    if !short.is_empty() {
        sentences.push(format!(
            "the capability lists of {}, which count as having none: call lspci with -xxxx, as root",
            list(&short)
        ));
    }
    // Conventional PCI functions have no more than that.
    let express = |address: &String| {
        let devices = plan.devices().iter();
        devices
            .filter(|(at, _)| at.to_string() == *address)
            .any(|(_, it)| it.function.express.is_some())
    };
    let mut cut_off = named(dump, |bytes| bytes == CONVENTIONAL);
    cut_off.retain(express);
    if !cut_off.is_empty() {
        sentences.push(format!(
            "the Access Control Services of {}, which count as having none: call lspci with -xxxx, as root",
            list(&cut_off)
        ));
    }
    let lost = dump.functions().map(|(address, _)| address);
    let lost: Vec<_> = lost.filter(|address| !plan.devices().contains_key(address)).collect();
    let lost: Vec<_> = lost.iter().map(ToString::to_string).collect();
    if !lost.is_empty() {
        sentences.push(format!(
            "who translates for {}, to which neither the table nor any bridge leads",
            list(&lost)
        ));
    }
    if dump.beyond_segments > 0 {
        sentences.push(format!(
            "{} in segments from 10000 on, Linux's own: the IOMMU sees the device that hides what is there",
            count(dump.beyond_segments, "PCI function")
        ));
    }
    sentences
}

/// A sentence for each rule of the policy that is about nothing in this machine: most likely it was meant
/// for something that is.
pub(super) fn unmatched(plan: &Plan, policy: &Policy) -> Vec<String> {
    let mut sentences = Vec::new();
    // Without functions, nobody knows.
    let known = !plan.devices().is_empty();
    for (index, rule) in policy.rules.iter().enumerate().filter(|_| known) {
        let named = |function: iommu_engine::pci::Function| {
            rule.devices.contain(function.address, function.vendor, function.device)
        };
        if !plan.devices().values().any(|device| named(device.function)) {
            let (number, devices) = (index + 1, rule.devices);
            sentences.push(format!(
                "rule {number} of the policy is for {devices}, and there is no such device"
            ));
        }
    }
    sentences
}

fn named(dump: &Dump, wanted: impl Fn(usize) -> bool) -> Vec<String> {
    let functions = dump.functions().filter(|(_, bytes)| wanted(bytes.len()));
    functions.map(|(address, _)| address.to_string()).collect()
}

fn list(addresses: &[String]) -> String {
    let named = addresses.get(..MOST_NAMED).unwrap_or(addresses).join(", ");
    match addresses.len().saturating_sub(MOST_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
