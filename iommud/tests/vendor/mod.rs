//! Simulated machines of either vendor, and tests that run on one of each.
//!
//! [`both!`] makes two tests of a case, `vtd::` and `amdvi::`, each with its [`Vendor`]. What a case needs to know
//! of a unit it asks of that; what only one vendor's units do is a test of its own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use iommu_sim::amdvi::{AmdviConfig, AmdviTiming};
use iommu_sim::machine::UnitScope;
use iommu_sim::pace::{Completion as Takes, Health};
use iommu_sim::vtd::{Timing, VtdConfig};
use iommu_sim::{Machine, MachineConfig, Memory};

/// Makes each of these functions, which take a [`Vendor`], a test on VT-d and a test on AMD-Vi.
macro_rules! both {
    ($($(#[$attribute:meta])* $case:ident),* $(,)?) => {
        mod vtd {
            $($(#[$attribute])* #[test] fn $case() { super::$case(crate::vendor::Vendor::Vtd); })*
        }
        mod amdvi {
            $($(#[$attribute])* #[test] fn $case() { super::$case(crate::vendor::Vendor::Amdvi); })*
        }
    };
}

/// Whose units a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    Vtd,
    Amdvi,
}

impl Vendor {
    /// One roomy unit for everything, and an `edu` at 00:02.0.
    pub(crate) fn machine(self) -> MachineConfig {
        match self {
            Self::Vtd => MachineConfig::default(),
            Self::Amdvi => MachineConfig::with_amdvi(AmdviConfig::default()),
        }
    }

    /// The same with a root port, and behind it an `edu` that is behind a unit of its own: unit 0.
    pub(crate) fn two_units(self) -> MachineConfig {
        let mut config = self.machine().with_root_port();
        let scope = UnitScope::Devices(vec!["0000:01:00.0".parse().unwrap()]);
        match self {
            Self::Vtd => {
                let second = config.units[0].clone();
                config.units.insert(
                    0,
                    iommu_sim::machine::UnitConfig { base: 0xfed9_1000, scope, ..second },
                );
            }
            Self::Amdvi => {
                let second = config.amdvi_units[0].clone();
                config.amdvi_units.insert(
                    0,
                    iommu_sim::machine::AmdviUnitConfig {
                        base: 0xfed8_4000,
                        function: "0000:00:00.3".parse().unwrap(),
                        scope,
                        io_apic: None,
                        ..second
                    },
                );
            }
        }
        config
    }

    /// A machine for each way in which this vendor's units are told to forget.
    pub(crate) fn interfaces(self) -> Vec<MachineConfig> {
        match self {
            Self::Vtd => [true, false]
                .map(|queued_invalidation| VtdConfig {
                    queued_invalidation,
                    ..VtdConfig::default()
                })
                .map(MachineConfig::with_unit)
                .into(),
            Self::Amdvi => {
                let base = AmdviConfig::default;
                let one_by_one = AmdviTiming { looks_per_command: 1, ..AmdviTiming::default() };
                [
                    base(),
                    AmdviConfig { np_cache: true, eager: true, ..base() },
                    AmdviConfig { timing: one_by_one, ..base() },
                ]
                .map(MachineConfig::with_amdvi)
                .into()
            }
        }
    }

    /// A machine whose unit keeps what is not present, too, as virtual ones do (caching mode, NpCache): it must be
    /// told of each mapping, and attaching takes a request.
    pub(crate) fn caching(self) -> MachineConfig {
        match self {
            Self::Vtd => {
                MachineConfig::with_unit(VtdConfig { caching_mode: true, ..VtdConfig::default() })
            }
            Self::Amdvi => {
                MachineConfig::with_amdvi(AmdviConfig { np_cache: true, ..AmdviConfig::default() })
            }
        }
    }

    /// Where the registers of the only unit are.
    pub(crate) fn base(self) -> u64 {
        match self {
            Self::Vtd => 0xfed9_0000,
            Self::Amdvi => 0xfed8_0000,
        }
    }

    /// How many frames a unit takes for a bus of which a device is attached, and keeps: VT-d's context table.
    /// AMD's device table is whole from the start.
    pub(crate) fn frames_per_bus(self) -> usize {
        match self {
            Self::Vtd => 1,
            Self::Amdvi => 0,
        }
    }

    /// From which bit on there is a domain's id in the first word of a request to forget, if it names one.
    pub(crate) fn domain_in(self, low: u64) -> Option<u32> {
        match self {
            Self::Vtd => matches!(low & 0xf, 1 | 2).then_some(16),
            Self::Amdvi => (low >> 60 == 3).then_some(32),
        }
    }

    /// What the daemon's option `--unit` calls it.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Vtd => "vtd",
            Self::Amdvi => "amdvi",
        }
    }

    /// What reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vtd => "VT-d",
            Self::Amdvi => "AMD-Vi",
        }
    }
}

/// A machine whose units take so long to forget.
pub(crate) fn slow(mut config: MachineConfig, takes: Takes) -> MachineConfig {
    for unit in &mut config.units {
        unit.vtd.timing.registers = takes;
        unit.vtd.timing.queue = takes;
    }
    for unit in &mut config.amdvi_units {
        unit.amdvi.timing.commands = takes;
    }
    config
}

/// A machine whose units take so long over anything.
pub(crate) fn slow_at_all(config: MachineConfig, takes: Takes) -> MachineConfig {
    let mut config = slow(config, takes);
    for unit in &mut config.units {
        unit.vtd.timing.commands = takes;
    }
    for unit in &mut config.amdvi_units {
        unit.amdvi.timing.stop = takes;
    }
    config
}

/// From now on, the machine's first unit takes so long to forget.
pub(crate) fn slow_down<M: Memory>(machine: &mut Machine<M>, takes: Takes) {
    if let Some(unit) = machine.unit_mut(0) {
        unit.set_timing(Timing { registers: takes, queue: takes, ..Timing::default() });
    } else if let Some(unit) = machine.amdvi_mut(0) {
        unit.set_timing(AmdviTiming { commands: takes, ..AmdviTiming::default() });
    }
}

/// A machine whose first unit answers like this.
pub(crate) fn unhealthy(mut config: MachineConfig, health: Health) -> MachineConfig {
    if let Some(unit) = config.units.first_mut() {
        unit.vtd.health = health;
    } else if let Some(unit) = config.amdvi_units.first_mut() {
        unit.amdvi.health = health;
    }
    config
}

/// How many requests to forget translations a machine's first unit has carried out.
pub(crate) fn forgotten<M: Memory>(machine: &Machine<M>) -> u64 {
    let vtd = machine.unit(0).map(|unit| unit.counters().iotlb_invalidations);
    let amdvi = || machine.amdvi(0).map(|unit| unit.counters().page_invalidations);
    vtd.or_else(amdvi).unwrap_or(0)
}

/// How often a machine's first unit was asked to say when it is done with all of before. Asked by registers, it is
/// not.
pub(crate) fn waits<M: Memory>(machine: &Machine<M>) -> u64 {
    let vtd = machine.unit(0).map(|unit| unit.counters().waits);
    let amdvi = || machine.amdvi(0).map(|unit| unit.counters().waits);
    vtd.or_else(amdvi).unwrap_or(0)
}
