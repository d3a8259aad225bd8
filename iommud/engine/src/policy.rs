//! What the administrator decides, as plain data.
//!
//! The daemon reads it from a file (`iommud/src/policy`); the engine and the service act by it and know no file.
//!
//! What a device's policy is, is decided word by word: what no rule says is as the policy says for all. Rules
//! that name the device by its id come before those that name it by its address, which are more specific; of
//! two alike, the one further down in the file has the last word ([`Policy::for_device`]).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use dma_types::{PciAddress, PhysAddr};

pub use crate::quotas::{Quotas, Resource, SaidQuotas};

/// The administrator's decisions. The default is what holds without a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What devices reach that no driver has opened.
    pub default: Unopened,
    /// When an unmap is answered.
    pub invalidation: Invalidation,
    /// What the driver of one device may hold.
    pub quotas: Quotas,
    /// What one user may hold, with all devices together.
    pub client_quotas: Quotas,
    /// Exceptions for users, in the order of the file.
    pub clients: Vec<ClientRule>,
    /// How much memory is set aside for buffers in one physical piece, in bytes, for all devices together.
    pub reserve: u64,
    /// After how many blocked accesses a device is kept from everything; without it, never.
    ///
    /// There is none by default: what is blocked has done no harm, and a device that is cut off for it takes down what
    /// works by it, a disk say, for one mistake of its driver's. That is for the administrator to decide.
    pub quarantine: Option<QuarantineAfter>,
    /// Exceptions for devices, in the order of the file.
    pub rules: Vec<Rule>,
    /// Units that are left alone.
    pub ignored_units: Vec<IgnoredUnit>,
    /// What to do with a machine that has no IOMMU.
    pub without_iommu: WithoutIommu,
    /// How long drivers have to come back after a restart of iommud.
    pub orphans: Orphans,
}

/// How long sessions of before a restart of iommud wait for their clients. Until then their devices reach what they reached,
/// and afterwards nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphans(pub Duration);

impl Default for Orphans {
    /// Time enough for a driver that looks each second, on a machine that is busy.
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl fmt::Display for Orphans {
    /// As in the file: `10 s`, `1500 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            whole if whole.is_multiple_of(1000) => write!(f, "{} s", whole / 1000),
            parts => write!(f, "{parts} ms"),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default: Unopened::default(),
            invalidation: Invalidation::default(),
            quotas: Quotas::default(),
            // On most machines one user has all devices, and each of those has its own limits.
            client_quotas: Quotas::UNLIMITED,
            clients: Vec::new(),
            reserve: 0,
            quarantine: None,
            rules: Vec::new(),
            ignored_units: Vec::new(),
            without_iommu: WithoutIommu::default(),
            orphans: Orphans::default(),
        }
    }
}

/// What to do with a machine whose firmware describes no IOMMU. One whose units are all refused or left alone is
/// none of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutIommu {
    /// Not start: who asks for confinement gets it, or an answer.
    #[default]
    Refuse,
    /// Serve drivers that ask for memory, at its physical address. No device is confined, and every report says so.
    Unprotected,
}

impl fmt::Display for WithoutIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refuse => "refuse",
            Self::Unprotected => "unprotected",
        })
    }
}

/// What a device reaches while no driver has opened it: beside what firmware reserves for it, which it always
/// reaches (rule R1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unopened {
    /// Nothing.
    #[default]
    Deny,
    /// All of memory at its own addresses, except iommud's arenas and every unit's registers: for devices
    /// whose drivers do not speak libdma yet. Such a device is not confined, and every report says so.
    Identity,
}

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Deny => "deny",
            Self::Identity => "identity",
        })
    }
}

/// When an unmap is answered. Either way nothing of it is used again before the units have confirmed that
/// they have forgotten it (rule R2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invalidation {
    /// When the units have confirmed: from the answer on, the device cannot reach the memory.
    #[default]
    Strict,
    /// At once, unless the driver asks for that one to be strict. Units are told of several unmaps together, and until then
    /// the device may still reach what it could reach before.
    Deferred,
}

impl fmt::Display for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Strict => "strict",
            Self::Deferred => "deferred",
        })
    }
}

/// When a device is put in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineAfter {
    /// With the last of so many blocked accesses, at least one: those that the unit recorded.
    pub faults: u32,
    /// If there was no more than this time from the first of them to the last, whenever that began.
    pub within: Duration,
}

/// What a rule says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantineRule {
    /// These devices are never put in quarantine.
    Never,
    /// They are after this.
    After(QuarantineAfter),
}

/// An exception for some devices. What it does not say is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For which devices.
    pub devices: Devices,
    /// What they reach while no driver has opened them.
    pub unopened: Option<Unopened>,
    /// When an unmap is answered.
    pub invalidation: Option<Invalidation>,
    /// What their drivers may hold.
    pub quotas: SaidQuotas,
    /// How much memory is set aside for each alone, in bytes.
    pub reserve: Option<u64>,
    /// When they are put in quarantine.
    pub quarantine: Option<QuarantineRule>,
}

impl Rule {
    /// A rule for these devices that says nothing yet.
    pub const fn new(devices: Devices) -> Self {
        Self {
            devices,
            unopened: None,
            invalidation: None,
            quotas: SaidQuotas::NOTHING,
            reserve: None,
            quarantine: None,
        }
    }

    fn apply(&self, policy: &mut DevicePolicy) {
        fn set<T: Copy>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut policy.unopened, self.unopened);
        set(&mut policy.invalidation, self.invalidation);
        policy.quotas = self.quotas.over(policy.quotas);
        set(&mut policy.reserve, self.reserve);
        match self.quarantine {
            None => {}
            Some(QuarantineRule::Never) => policy.quarantine = None,
            Some(QuarantineRule::After(after)) => policy.quarantine = Some(after),
        }
    }
}

/// What one user may hold, as far as it is another than for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRule {
    /// The user.
    pub uid: u32,
    /// What is said.
    pub quotas: SaidQuotas,
}

/// Which devices a rule is for. The order is from the less to the more specific.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Devices {
    /// All of one kind.
    Id {
        /// The vendor id.
        vendor: u16,
        /// The device id.
        device: u16,
    },
    /// The function at this address.
    At(PciAddress),
}

impl Devices {
    /// Whether this device is one of them.
    pub fn contain(self, address: PciAddress, vendor: u16, device: u16) -> bool {
        match self {
            Self::Id { vendor: named, device: kind } => (named, kind) == (vendor, device),
            Self::At(named) => named == address,
        }
    }
}

impl fmt::Display for Devices {
    /// As in the file: `8086:10d3` or `0000:00:1f.2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id { vendor, device } => write!(f, "{vendor:04x}:{device:04x}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// A unit that is left as it was found: its registers are not touched, and devices behind it are not confined
/// and cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredUnit {
    /// Where its registers are, by the firmware's table.
    pub base: PhysAddr,
    /// Why, in the administrator's words, for every report that lists the unit.
    pub reason: String,
}

/// What holds for one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DevicePolicy {
    /// What it reaches while no driver has opened it.
    pub unopened: Unopened,
    /// When an unmap of its driver is answered.
    pub invalidation: Invalidation,
    /// What its driver may hold.
    pub quotas: Quotas,
    /// How much memory is set aside for it alone, in bytes, beside what is for all.
    pub reserve: u64,
    /// When it is put in quarantine, if ever.
    pub quarantine: Option<QuarantineAfter>,
}

impl Policy {
    /// What holds for the function at this address with this vendor and device id.
    pub fn for_device(&self, address: PciAddress, vendor: u16, device: u16) -> DevicePolicy {
        let mut policy = self.for_all();
        for (_, rule) in self.rules_for(address, vendor, device) {
            rule.apply(&mut policy);
        }
        policy
    }

    /// What holds for a device that no rule names.
    pub const fn for_all(&self) -> DevicePolicy {
        DevicePolicy {
            unopened: self.default,
            invalidation: self.invalidation,
            quotas: self.quotas,
            reserve: 0,
            quarantine: self.quarantine,
        }
    }

    /// What a user may hold, with all devices together.
    pub fn for_client(&self, uid: u32) -> Quotas {
        let rules = self.clients.iter().filter(|rule| rule.uid == uid);
        rules.fold(self.client_quotas, |quotas, rule| rule.quotas.over(quotas))
    }

    /// The rules that name a device, each with its index in [`rules`](Self::rules), in the order in which
    /// they are applied: the last has the last word.
    pub fn rules_for(
        &self,
        address: PciAddress,
        vendor: u16,
        device: u16,
    ) -> impl Iterator<Item = (usize, &Rule)> {
        let matching = move |by_address: bool| {
            self.rules.iter().enumerate().filter(move |(_, rule)| {
                matches!(rule.devices, Devices::At(_)) == by_address
                    && rule.devices.contain(address, vendor, device)
            })
        };
        matching(false).chain(matching(true))
    }

    /// Why the unit with registers at this address is to be left alone, if it is.
    pub fn ignored(&self, base: PhysAddr) -> Option<&IgnoredUnit> {
        self.ignored_units.iter().find(|unit| unit.base == base)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const EDU: Devices = Devices::Id { vendor: 0x1234, device: 0x11e8 };

    fn at(address: &str) -> PciAddress {
        address.parse().unwrap()
    }

    fn rules(rules: Vec<Rule>) -> Policy {
        Policy { rules, ..Policy::default() }
    }

    #[test]
    fn r1_without_a_word_everything_is_denied_and_strict() {
        let policy = Policy::default().for_device(at("00:02.0"), 0x1234, 0x11e8);
        assert_eq!(policy, DevicePolicy::default());
        assert_eq!(policy.unopened, Unopened::Deny);
        assert_eq!(policy.invalidation, Invalidation::Strict);
    }

    #[test]
    fn an_address_is_more_specific_than_an_id_wherever_it_stands() {
        let here =
            Rule { unopened: Some(Unopened::Deny), ..Rule::new(Devices::At(at("0000:00:02.0"))) };
        let edu = Rule {
            unopened: Some(Unopened::Identity),
            invalidation: Some(Invalidation::Deferred),
            ..Rule::new(EDU)
        };
        for policy in [rules(vec![here, edu]), rules(vec![edu, here])] {
            let first = policy.for_device(at("00:02.0"), 0x1234, 0x11e8);
            assert_eq!(first.unopened, Unopened::Deny);
            // What the rule for the address does not say stays as the rule for the id has it.
            assert_eq!(first.invalidation, Invalidation::Deferred);
            let second = policy.for_device(at("00:03.0"), 0x1234, 0x11e8);
            assert_eq!(second.unopened, Unopened::Identity);
            let other = policy.for_device(at("00:03.0"), 0x1234, 0x11e9);
            assert_eq!(other, DevicePolicy::default());
        }
    }

    #[test]
    fn of_two_rules_alike_the_later_has_the_last_word() {
        let limit = |buffers| {
            let quotas = SaidQuotas { buffers: Some(buffers), ..SaidQuotas::NOTHING };
            Rule { quotas, ..Rule::new(EDU) }
        };
        let policy = rules(vec![limit(1), limit(2)]);
        let quotas = policy.for_device(at("00:02.0"), 0x1234, 0x11e8).quotas;
        assert_eq!(quotas, Quotas { buffers: 2, ..Quotas::default() });
        let order: Vec<_> =
            policy.rules_for(at("00:02.0"), 0x1234, 0x11e8).map(|it| it.0).collect();
        assert_eq!(order, [0, 1]);
    }

    #[test]
    fn users_may_hold_what_is_said_of_them_and_else_what_is_said_of_all() {
        let said = |uid, buffers, mappings| ClientRule {
            uid,
            quotas: SaidQuotas { buffers, mappings, ..SaidQuotas::NOTHING },
        };
        let all = Quotas { buffers: 9, ..Quotas::UNLIMITED };
        let clients = vec![said(7, Some(3), Some(5)), said(7, Some(4), None)];
        let policy = Policy { client_quotas: all, clients, ..Policy::default() };
        assert_eq!(policy.for_client(7), Quotas { buffers: 4, mappings: 5, ..all });
        assert_eq!(policy.for_client(0), all);
        assert_eq!(Policy::default().for_client(0), Quotas::UNLIMITED);
    }

    #[test]
    fn units_are_ignored_by_where_their_registers_are() {
        let base = PhysAddr::new(0xfed9_0000);
        let ignored_units = vec![IgnoredUnit { base, reason: "its firmware hangs".into() }];
        let policy = Policy { ignored_units, ..Policy::default() };
        assert_eq!(policy.ignored(base).unwrap().reason, "its firmware hangs");
        assert_eq!(policy.ignored(PhysAddr::new(0xfed9_1000)), None);
    }
}
