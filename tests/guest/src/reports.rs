//! What `iommuctl --json` says.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use crate::failure::{Failure, Outcome, require};
use crate::programs::{run, wait_until};
use crate::unit as hardware;

/// A row of `units`.
#[derive(Deserialize)]
pub(crate) struct Unit {
    pub(crate) kind: String,
    #[serde(deserialize_with = "address")]
    pub(crate) registers: u64,
    pub(crate) state: String,
    pub(crate) devices: usize,
    pub(crate) abilities: Option<Abilities>,
}

/// What a unit can do, as far as a case asks.
#[derive(Deserialize)]
pub(crate) struct Abilities {
    pub(crate) address_bits: u8,
    pub(crate) levels: Vec<u8>,
    pub(crate) found_translating: bool,
}

/// A row of `devices`.
#[derive(Deserialize)]
pub(crate) struct Device {
    pub(crate) device: String,
    pub(crate) id: String,
    pub(crate) unit: Option<u16>,
    pub(crate) state: String,
    pub(crate) generation: Option<u64>,
    pub(crate) handles: u32,
}

/// A row of `groups`.
#[derive(Debug, Deserialize)]
pub(crate) struct Group {
    pub(crate) devices: Vec<String>,
    pub(crate) held: Vec<String>,
}

/// A row of `domains`.
#[derive(Deserialize)]
pub(crate) struct Domain {
    pub(crate) domain: u64,
    pub(crate) mappings: usize,
    pub(crate) devices: Vec<String>,
}

/// A row of `mappings`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Mapping {
    pub(crate) domain: u64,
    #[serde(deserialize_with = "address")]
    pub(crate) iova: u64,
    pub(crate) access: String,
    #[serde(deserialize_with = "address")]
    pub(crate) physical: u64,
    pub(crate) label: String,
}

/// A row of `faults`.
#[derive(Debug, Deserialize)]
pub(crate) struct Fault {
    pub(crate) device: String,
    pub(crate) tried: String,
    #[serde(deserialize_with = "address")]
    pub(crate) address: u64,
}

/// A row of `config`.
#[derive(Deserialize)]
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// All rows of a report.
pub(crate) fn rows<Row: DeserializeOwned>(report: &str) -> Outcome<Vec<Row>> {
    let end = run("iommuctl", &["--json", report])?.expect(0)?;
    Ok(serde_json::from_str(&end.lines.join("\n"))?)
}

/// All `units`.
pub(crate) fn units() -> Outcome<Vec<Unit>> {
    rows("units")
}

/// All `domains`.
pub(crate) fn domains() -> Outcome<Vec<Domain>> {
    rows("domains")
}

/// All `mappings`.
pub(crate) fn mappings() -> Outcome<Vec<Mapping>> {
    rows("mappings")
}

/// The mapping that its client calls this.
pub(crate) fn mapping(label: &str) -> Outcome<Mapping> {
    let mut all = mappings()?;
    all.retain(|mapping| mapping.label == label);
    require!(all.len() == 1, "{} mappings are called {label:?}", all.len());
    Ok(all.remove(0))
}

/// The row of a device in `devices`.
pub(crate) fn device(name: &str) -> Outcome<Device> {
    let mut all: Vec<Device> = rows("devices")?;
    all.retain(|device| device.device == name);
    require!(all.len() == 1, "{} devices are called {name}", all.len());
    Ok(all.remove(0))
}

/// Waits until `faults` names a blocked access: by whom, for what (`read` or `write`), and to which page.
///
/// The unit has one fault record, and what is blocked while that is taken only counts as lost. iommud looks
/// at it every 50 ms and transfers take twice as long, so that none is lost here.
///
/// Where the unit [does not tell](hardware::Unit::tells_what_it_blocks), no other device may be named.
pub(crate) fn wait_for_fault(device: &str, tried: &str, page: u64) -> Outcome {
    if !hardware::Unit::find()?.tells_what_it_blocks() {
        let others = rows::<Fault>("faults")?.into_iter().find(|fault| fault.device != device);
        require!(others.is_none(), "somebody else is blamed: {others:x?}");
        return Ok(());
    }
    let mut seen = Vec::new();
    let waited = wait_until("the fault is reported", || {
        seen = rows::<Fault>("faults")?;
        Ok(seen.iter().any(|it| (&*it.device, &*it.tried, it.address) == (device, tried, page)))
    });
    if waited.is_err() {
        eprintln!("faults: {seen:x?}");
    }
    let missing = format!("no fault says that {device} tried to {tried} {page:#x}");
    waited.map_err(|_| Failure(missing))
}

/// An address, as reports write it.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_address(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no address")))
}

/// The address that a text is.
pub(crate) fn parse_address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
