//! The scheme's nodes, opened as files, without libdma.

use std::fs::{File, read_to_string};
use std::io;

use agent::failure::{Failure, Outcome, require};
use agent::programs::run;
use dma_types::PciAddress;
use serde_json::Value;

use crate::machine::Machine;

/// Where the nodes are.
const SCHEME: &str = "/scheme/iommu";

/// The nodes that do not change while nobody drives a device.
const QUIET: [&str; 5] = ["units", "devices", "groups", "domains", "mappings"];

/// The errnos with which iommud refuses (libdma's `protocol::error`): no such path, no such device, held by another.
const NO_SUCH_PATH: i32 = 2;
const NO_SUCH_DEVICE: i32 = 6;
const BUSY: i32 = 16;

pub(super) fn are_files() -> Outcome {
    for node in QUIET {
        let text = read_to_string(format!("{SCHEME}/{node}"))?;
        let shown = run("iommuctl", &[node])?.expect(0)?.lines;
        require!(text.lines().eq(shown.iter()), "{node} is {text:?}, and iommuctl says {shown:?}");
        let json = read_to_string(format!("{SCHEME}/{node}.json"))?;
        require!(serde_json::from_str::<Value>(&json)?.is_array(), "{node}.json is {json:?}");
    }
    for node in ["faults", "config"] {
        let text = read_to_string(format!("{SCHEME}/{node}"))?;
        require!(text.ends_with('\n'), "{node} is {text:?}");
    }
    Ok(())
}

pub(super) fn refuse() -> Outcome {
    let bench = Machine::bench()?;
    require_errno(NO_SUCH_PATH, "nonsense")?;
    require_errno(NO_SUCH_PATH, "units/nonsense")?;
    require_errno(NO_SUCH_DEVICE, "device/0000--ff--1f.7")?;
    let device = format!("device/{}", address(&bench.device)?.path_name());
    let _driver = bench.hold()?;
    require_errno(BUSY, &device)
}

fn require_errno(errno: i32, node: &str) -> Outcome {
    let answer = File::open(format!("{SCHEME}/{node}")).map_err(|error| error.raw_os_error());
    let expected = io::Error::from_raw_os_error(errno);
    match answer {
        Err(Some(given)) if given == errno => Ok(()),
        Err(given) => Err(Failure(format!("{node} gives errno {given:?} and not {expected}"))),
        Ok(_) => Err(Failure(format!("{node} can be opened"))),
    }
}

fn address(name: &str) -> Outcome<PciAddress> {
    name.parse().map_err(|_| Failure(format!("{name} is no PCI address")))
}
