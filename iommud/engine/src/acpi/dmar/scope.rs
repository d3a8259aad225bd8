//! Device scopes: which devices a structure means.

use alloc::vec::Vec;
use core::fmt;

use dma_types::{PciAddress, SourceId};
use thiserror::Error;
use zerocopy::FromBytes;

use super::coverage::{BusesBehind, buses_behind_bridge};
use super::error::DmarError;
use super::raw::{RawScope, RawStep};
use crate::acpi::walk::{Entries, Entry};

/// A Device Scope entry (8.3.1).
///
/// It names a function by the way to it from a root bus: the functions of the path are bridges, each on
/// the bus behind the one before, and the last is the one meant. Bus numbers below the first are the
/// system's to choose, which is why the table does not give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceScope {
    /// What is at the end of the path.
    pub kind: ScopeKind,
    /// The I/O APIC's id, the HPET's number or the number of the ANDD; nothing for PCI devices.
    pub enumeration_id: u8,
    /// The bus that the path starts from.
    pub start_bus: u8,
    /// The steps of the path, at least one.
    pub path: Vec<PathStep>,
}

/// What is at the end of a scope's path (8.3.1, Type). The specification adds to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// 1: a PCI function.
    Endpoint,
    /// 2: a bridge, meaning it and all that is behind it.
    SubHierarchy,
    /// 3: an I/O APIC, whose interrupt requests carry the function's source-id.
    IoApic,
    /// 4: an HPET that sends message-signalled interrupts, with the function's source-id.
    Hpet,
    /// 5: a device that ACPI enumerates, whose requests carry the function's source-id.
    NamespaceDevice,
    /// One of a later revision, to be ignored.
    Unknown(u8),
}

impl From<u8> for ScopeKind {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::Endpoint,
            2 => Self::SubHierarchy,
            3 => Self::IoApic,
            4 => Self::Hpet,
            5 => Self::NamespaceDevice,
            code => Self::Unknown(code),
        }
    }
}

impl fmt::Display for ScopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Endpoint => "endpoint",
            Self::SubHierarchy => "bridge",
            Self::IoApic => "ioapic",
            Self::Hpet => "hpet",
            Self::NamespaceDevice => "acpi",
            Self::Unknown(code) => return write!(f, "kind {code}"),
        })
    }
}

/// One step of a path: a device and a function of it, on the bus where the step before has led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStep(u8);

impl PathStep {
    /// The step to this function, or `None` if the device is over 31 or the function over 7.
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self(device << 3 | function))
    }

    /// The device number, 0 to 31.
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }

    /// The function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 & 7
    }

    fn on_bus(self, segment: u16, bus: u8) -> PciAddress {
        PciAddress::from_source(segment, SourceId::new(u16::from_be_bytes([bus, self.0])))
    }
}

impl fmt::Display for DeviceScope {
    /// What is meant and the way to it: `bridge 00:1c.0/00.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !matches!(self.kind, ScopeKind::Endpoint | ScopeKind::SubHierarchy) {
            write!(f, "{} at ", self.enumeration_id)?;
        }
        write!(f, "{:02x}:", self.start_bus)?;
        for (index, step) in self.path.iter().enumerate() {
            let slash = if index == 0 { "" } else { "/" };
            write!(f, "{slash}{:02x}.{}", step.device(), step.function())?;
        }
        Ok(())
    }
}

impl DeviceScope {
    /// Follows the path through the bridges to the function that is meant.
    ///
    /// # Errors
    ///
    /// [`ResolveError`], when the machine is not as the table describes it.
    pub fn resolve(
        &self,
        segment: u16,
        buses_behind: &mut BusesBehind<'_>,
    ) -> Result<PciAddress, ResolveError> {
        let (first, rest) = self.path.split_first().ok_or(ResolveError::NoPath)?;
        let mut here = first.on_bus(segment, self.start_bus);
        for step in rest {
            let buses =
                buses_behind_bridge(here, buses_behind).ok_or(ResolveError::NotABridge(here))?;
            here = step.on_bus(segment, *buses.start());
        }
        Ok(here)
    }
}

/// A scope leads to no function of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// It has no path. A parsed one always has.
    #[error("it has no path")]
    NoPath,
    /// The way leads through a function that is absent, no bridge, or without bus numbers.
    #[error("its path goes through {0}, which is no working bridge")]
    NotABridge(PciAddress),
}

/// A scope is left out, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScopeFault {
    /// There is no step in it.
    #[error("its path is empty")]
    NoPath,
    /// A step is to no function that PCI could have.
    #[error(
        "its path goes through device {device:#x} function {function:#x}, which PCI cannot have"
    )]
    NoSuchFunction {
        /// The device number given.
        device: u8,
        /// The function number given.
        function: u8,
    },
}

/// A scope, or why it is left out.
type Judged = Result<DeviceScope, ScopeFault>;

/// All scopes of a structure, each with its offset from the start of the table.
pub(super) fn parse_all(mut entries: Entries<'_>) -> Result<Vec<(usize, Judged)>, DmarError> {
    let mut scopes = Vec::new();
    while let Some(entry) = entries.next::<RawScope>()? {
        scopes.push((entry.offset, parse(&entry)?));
    }
    Ok(scopes)
}

fn parse(entry: &Entry<'_, RawScope>) -> Result<Judged, DmarError> {
    let path = entry.bytes.get(size_of::<RawScope>()..).unwrap_or_default();
    let steps = <[RawStep]>::ref_from_bytes(path)
        .map_err(|_| DmarError::HalfStep { offset: entry.offset, bytes: path.len() })?;
    Ok(parse_path(steps).map(|path| DeviceScope {
        kind: entry.head.kind.into(),
        enumeration_id: entry.head.enumeration_id,
        start_bus: entry.head.start_bus,
        path,
    }))
}

fn parse_path(steps: &[RawStep]) -> Result<Vec<PathStep>, ScopeFault> {
    if steps.is_empty() {
        return Err(ScopeFault::NoPath);
    }
    let step = |&RawStep { device, function }: &RawStep| {
        PathStep::new(device, function).ok_or(ScopeFault::NoSuchFunction { device, function })
    };
    steps.iter().map(step).collect()
}
