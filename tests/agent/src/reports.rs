//! What `iommuctl --json` says.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use crate::failure::{Failure, Outcome, require};
use crate::programs::{run, wait_until};

/// How `mappings` calls what a device reaches that the policy does not confine.
const ALL_MEMORY: &str = "(all memory)";

/// A row of `units`.
#[derive(Deserialize)]
pub struct Unit {
    /// `VT-d` or `AMD-Vi`.
    pub kind: String,
    /// Where its registers are.
    #[serde(deserialize_with = "address")]
    pub registers: u64,
    /// `translating`, when all is well.
    pub state: String,
    /// How many devices it covers.
    pub devices: usize,
    /// What it can do; none where it was refused.
    pub abilities: Option<Abilities>,
}

/// What a unit can do, as far as a case asks.
#[derive(Deserialize)]
pub struct Abilities {
    /// Bits of an I/O address.
    pub address_bits: u8,
    /// Depths of page tables.
    pub levels: Vec<u8>,
    /// Without them, what a device may write it may also read.
    pub zero_length_reads: bool,
    /// How iommud learns of faults: `interrupt` or `polled`.
    pub faults: String,
    /// Whether it was translating when iommud found it.
    pub found_translating: bool,
}

/// A row of `devices`.
#[derive(Deserialize)]
pub struct Device {
    /// Its address: `0000:00:02.0`.
    pub device: String,
    /// Vendor and device: `1234:11e8`.
    pub id: String,
    /// Base class, subclass and interface: `010802`.
    pub class: String,
    /// The unit that covers it, if one does.
    pub unit: Option<u16>,
    /// `free`, `held` and others.
    pub state: String,
    /// Which session of it this is, while it is held.
    pub generation: Option<u64>,
    /// How many handles there are to it.
    pub handles: u32,
}

/// A row of `groups`.
#[derive(Debug, Deserialize)]
pub struct Group {
    /// Its devices, by address.
    pub devices: Vec<String>,
    /// Those that are held.
    pub held: Vec<String>,
}

/// A row of `domains`.
#[derive(Deserialize)]
pub struct Domain {
    /// Its number.
    pub domain: u64,
    /// How many mappings it has.
    pub mappings: usize,
    /// The devices that are attached to it.
    pub devices: Vec<String>,
}

/// A row of `mappings`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Mapping {
    /// The domain in which it is.
    pub domain: u64,
    /// The I/O address.
    #[serde(deserialize_with = "address")]
    pub iova: u64,
    /// `r-`, `-w` or `rw`.
    pub access: String,
    /// Where the memory is.
    #[serde(deserialize_with = "address")]
    pub physical: u64,
    /// What its client calls it.
    pub label: String,
}

/// A row of `faults`.
#[derive(Debug, Deserialize)]
pub struct Fault {
    /// Who was blocked.
    pub device: String,
    /// `read` or `write`.
    pub tried: String,
    /// How often it was seen.
    pub times: u64,
    /// The page.
    #[serde(deserialize_with = "address")]
    pub address: u64,
}

/// A row of `config`.
#[derive(Deserialize)]
pub struct Setting {
    /// What it is about.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// A row of `quotas`.
#[derive(Deserialize)]
pub struct Quota {
    /// `device 0000:00:02.0`, and others.
    pub holder: String,
    /// As the policy's word.
    pub resource: String,
    /// How much it holds.
    pub held: u64,
}

/// All rows of a report.
pub fn rows<Row: DeserializeOwned>(report: &str) -> Outcome<Vec<Row>> {
    let end = run("iommuctl", &["--json", report])?.expect(0)?;
    Ok(serde_json::from_str(&end.lines.join("\n"))?)
}

/// All `units`.
pub fn units() -> Outcome<Vec<Unit>> {
    rows("units")
}

/// All `domains`.
pub fn domains() -> Outcome<Vec<Domain>> {
    rows("domains")
}

/// All `mappings` that drivers have made. What a device reaches that the policy does not confine changes with iommud's
/// own memory, which is kept from it.
pub fn mappings() -> Outcome<Vec<Mapping>> {
    let mut all: Vec<Mapping> = rows("mappings")?;
    all.retain(|mapping| mapping.label != ALL_MEMORY);
    Ok(all)
}

/// The mapping that its client calls this.
pub fn mapping(label: &str) -> Outcome<Mapping> {
    let mut all = mappings()?;
    all.retain(|mapping| mapping.label == label);
    require!(all.len() == 1, "{} mappings are called {label:?}", all.len());
    Ok(all.remove(0))
}

/// The row of a device in `devices`.
pub fn device(name: &str) -> Outcome<Device> {
    let mut all: Vec<Device> = rows("devices")?;
    all.retain(|device| device.device == name);
    require!(all.len() == 1, "{} devices are called {name}", all.len());
    Ok(all.remove(0))
}

/// Waits until `faults` names a blocked access: by whom, for what (`read` or `write`), and to which page. Where a
/// unit does not tell what it blocks (`tells`), no other device may be named.
///
/// QEMU's unit has one fault record, and what is blocked while that is taken only counts as lost. iommud looks at it
/// every 50 ms and transfers take twice as long, so that none is lost here.
pub fn wait_for_fault(tells: bool, device: &str, tried: &str, page: u64) -> Outcome {
    if !tells {
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

/// The value of a setting in `config`.
pub fn setting(name: &str) -> Outcome<String> {
    let mut all: Vec<Setting> = rows("config")?;
    all.retain(|setting| setting.name == name);
    require!(all.len() == 1, "{} settings are called {name:?}", all.len());
    Ok(all.remove(0).value)
}

/// An address, as reports write it.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_address(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no address")))
}

/// The address that a text is.
pub fn parse_address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
