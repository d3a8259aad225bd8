//! One PCI function's configuration space: PCI Local Bus Specification 3.0, chapter 6; bridges: PCI-to-PCI
//! Bridge Architecture Specification 1.2, 3.2.

use std::collections::BTreeMap;

use super::acs;
use super::capability::{
    Express, ExpressKind, Extended, IOMMU_BASE_LOW, IOMMU_ENABLE, IommuBlock, Msi,
};

/// Dword numbers of the registers used here.
mod dword {
    pub(super) const COMMAND: usize = 1;
    pub(super) const CLASS: usize = 2;
    pub(super) const HEADER: usize = 3;
    pub(super) const BAR0: usize = 4;
    pub(super) const BUSES: usize = 6;
    pub(super) const CAPABILITIES: usize = 13;
    pub(super) const INTERRUPT: usize = 15;
    pub(super) const FIRST_CAPABILITY: usize = 16;
    pub(super) const FIRST_EXTENDED: usize = 64;
}

/// The dwords of a function's configuration space.
const DWORDS: usize = 64;
/// The same of a PCI Express function.
const EXPRESS_DWORDS: usize = 1024;
/// How many dwords a capability has room for.
const CAPABILITY_DWORDS: usize = 16;

/// Command bit 1: the function answers at its memory BARs.
const MEMORY_SPACE: u32 = 1 << 1;
/// Command bit 2: the function may send requests; a bridge with it clear sends none up.
const BUS_MASTER: u32 = 1 << 2;
/// Status bit 4: there is a capability list.
const HAS_CAPABILITIES: u32 = 1 << 20;
/// Status bit 11: signaled target abort.
const TARGET_ABORT: u32 = 1 << 27;
/// The status bits that are cleared by writing 1.
const STATUS_CLEAR: u32 = 0xf900_0000;
/// Device Capabilities bit 28: Function Level Reset.
const FUNCTION_RESET: u32 = 1 << 28;
/// Device Control bit 15: initiates it.
const INITIATE_RESET: u32 = 1 << 15;
/// Header type 1: a bridge.
const BRIDGE: u32 = 1 << 16;
/// Header type bit 7: the device has more functions.
const MULTI_FUNCTION: u32 = 1 << 23;

/// What a bridge does with the requests that it passes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeKind {
    /// A PCI Express root port: nothing.
    RootPort,
    /// The upstream port of a switch: nothing.
    SwitchUpstream,
    /// A downstream port of a switch: nothing.
    SwitchDownstream,
    /// A bridge from PCI Express to PCI: it signs them with its secondary bus, device and function 0.
    ExpressToPci,
    /// A bridge from PCI to PCI: it signs them with its own address.
    Conventional,
}

impl BridgeKind {
    fn express(self) -> Option<ExpressKind> {
        match self {
            Self::RootPort => Some(ExpressKind::RootPort),
            Self::SwitchUpstream => Some(ExpressKind::SwitchUpstream),
            Self::SwitchDownstream => Some(ExpressKind::SwitchDownstream),
            Self::ExpressToPci => Some(ExpressKind::ToPciBridge),
            Self::Conventional => None,
        }
    }

    /// Vendor and device of some such bridge.
    fn identity(self) -> (u16, u16) {
        match self {
            Self::RootPort => (0x1b36, 0x000c),
            Self::SwitchUpstream => (0x104c, 0x8232),
            Self::SwitchDownstream => (0x104c, 0x8233),
            Self::ExpressToPci => (0x1b36, 0x000e),
            Self::Conventional => (0x1b36, 0x0001),
        }
    }
}

/// One function: its dwords, which bits of them can be written, and which are cleared by writing 1.
#[derive(Clone, Debug)]
pub struct Function {
    values: Vec<u32>,
    writable: Vec<u32>,
    clear: Vec<u32>,
    bridge: Option<BridgeKind>,
    /// The capabilities, by the dword numbers at which they start.
    capabilities: Vec<usize>,
    msi: Option<usize>,
    express: Option<usize>,
    /// Whether it was reset, and its device has not noticed yet.
    was_reset: bool,
    iommu: Option<usize>,
    /// Where BARs were put, and how long they are, by number.
    assigned: BTreeMap<usize, (u64, u64)>,
}

impl Function {
    /// A function with no BAR and no capability. `class` is class, subclass, interface and revision, as
    /// in the dword at 0x08.
    pub fn new(vendor: u16, device: u16, class: u32) -> Self {
        let zeroes = || vec![0; DWORDS];
        let mut function = Self {
            values: zeroes(),
            writable: zeroes(),
            clear: zeroes(),
            bridge: None,
            capabilities: Vec::new(),
            msi: None,
            express: None,
            was_reset: false,
            iommu: None,
            assigned: BTreeMap::new(),
        };
        function.values[0] = u32::from(device) << 16 | u32::from(vendor);
        function.values[dword::CLASS] = class;
        function.writable[dword::COMMAND] = 0x0547;
        function.clear[dword::COMMAND] = STATUS_CLEAR;
        function.writable[dword::HEADER] = 0xff;
        function
    }

    /// A bridge with these buses behind it, which forwards requests.
    pub fn bridge(kind: BridgeKind, secondary: u8, subordinate: u8) -> Self {
        let (vendor, device) = kind.identity();
        let mut function = Self::new(vendor, device, 0x0604_0000);
        function.bridge = Some(kind);
        function.values[dword::COMMAND] |= BUS_MASTER | MEMORY_SPACE;
        function.values[dword::HEADER] |= BRIDGE;
        function.values[dword::BUSES] = u32::from(subordinate) << 16 | u32::from(secondary) << 8;
        function.writable[dword::BUSES] = 0x00ff_ffff;
        match kind.express() {
            Some(kind) => function.with_express(kind),
            None => function,
        }
    }

    /// An AMD IOMMU's own function: its capability block, then MSI.
    pub fn iommu(block: &IommuBlock) -> Self {
        let mut function = Self::new(0x1022, 0x1451, 0x0806_0000);
        let at = function.add_capability(&block.dwords());
        function.iommu = Some(at);
        function.with_msi()
    }

    /// Adds a 32-bit memory BAR of `bytes` (a power of two, at least 16) at `address`, switched on.
    pub fn with_bar(mut self, index: usize, bytes: u32, address: u32) -> Self {
        self.values[dword::BAR0 + index] = address;
        self.writable[dword::BAR0 + index] = !(bytes - 1);
        self.assigned.insert(index, (address.into(), bytes.into()));
        self.values[dword::COMMAND] |= MEMORY_SPACE;
        self
    }

    /// Adds an MSI capability with a 64-bit address, and the interrupt pin INTA.
    pub fn with_msi(mut self) -> Self {
        let at = self.add_capability(&[Msi::new_wide().into_bits(), 0, 0, 0]);
        self.writable[at] = Msi::new().with_enable(true).into_bits();
        self.writable[at + 1] = !3;
        self.writable[at + 2..at + 4].fill(u32::MAX);
        self.msi = Some(at);
        self.values[dword::INTERRUPT] = 0x100;
        self.writable[dword::INTERRUPT] = 0xff;
        self
    }

    /// Makes it a PCI Express function: it has the capability, and 4096 bytes of configuration space.
    pub fn with_express(mut self, kind: ExpressKind) -> Self {
        let resets = if self.bridge.is_none() { FUNCTION_RESET } else { 0 };
        let at = self.add_capability(&[Express::of(kind).into_bits(), resets, 0, 0]);
        self.express = Some(at);
        for dwords in [&mut self.values, &mut self.writable, &mut self.clear] {
            dwords.resize(EXPRESS_DWORDS, 0);
        }
        self
    }

    /// Adds the ACS capability with these bits to a PCI Express function; software may turn each of them on.
    pub fn with_acs(mut self, bits: u16) -> Self {
        let at = dword::FIRST_EXTENDED;
        if let [header, register, ..] = &mut self.values[at..] {
            (*header, *register) = (Extended::acs().into_bits(), bits.into());
            self.writable[at + 1] = u32::from(bits) << 16;
        }
        self
    }

    /// Says that the device has more functions than this one.
    pub fn set_multi_function(&mut self) {
        self.values[dword::HEADER] |= MULTI_FUNCTION;
    }

    /// Puts a capability at the end of the list, from 0x40 on and read-only. Gives its dword number.
    fn add_capability(&mut self, dwords: &[u32]) -> usize {
        let at = dword::FIRST_CAPABILITY + CAPABILITY_DWORDS * self.capabilities.len();
        match self.capabilities.last() {
            Some(&last) => self.values[last] |= (4 * at as u32) << 8,
            None => {
                self.values[dword::COMMAND] |= HAS_CAPABILITIES;
                self.values[dword::CAPABILITIES] = 4 * at as u32;
            }
        }
        self.values[at..at + dwords.len()].copy_from_slice(dwords);
        self.capabilities.push(at);
        at
    }

    /// Reads the dword at `offset`. Above 0x100 a function that is not PCI Express has nothing.
    pub fn read(&self, offset: u16) -> u32 {
        self.values.get(usize::from(offset / 4)).copied().unwrap_or(u32::MAX)
    }

    /// Writes the dword at `offset`.
    pub fn write(&mut self, offset: u16, value: u32) {
        let at = usize::from(offset / 4);
        if let Some(block) = self.iommu
            && (at == block + 1 || at == block + 2)
        {
            let locked = self.values[block + 1] & IOMMU_ENABLE != 0;
            let writable = if at == block + 1 { IOMMU_BASE_LOW } else { u32::MAX };
            if !locked {
                self.values[at] = value & writable;
            }
        } else if self.express.is_some_and(|express| at == express + 2)
            && self.bridge.is_none()
            && value & INITIATE_RESET != 0
        {
            self.reset();
        } else if let Some(old) = self.values.get_mut(at) {
            let (writable, clear) = (self.writable[at], self.clear[at]);
            *old = (*old & !writable | value & writable) & !(value & clear);
        }
    }

    /// A function-level reset: what software has written is gone.
    fn reset(&mut self) {
        for (value, writable) in self.values.iter_mut().zip(&self.writable) {
            *value &= !writable;
        }
        self.was_reset = true;
    }

    /// Whether it was reset since this was last asked.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.was_reset)
    }

    /// Sets Signaled Target Abort in the status register, which software clears by writing 1.
    pub fn signal_target_abort(&mut self) {
        self.values[dword::COMMAND] |= TARGET_ABORT;
    }

    /// Whether requests to other functions go upwards: ACS is there, and was told to redirect them, or has no
    /// such bit as it never does anything else (PCI Express 5.0, 6.12.1).
    pub fn redirects_requests(&self) -> bool {
        let at = dword::FIRST_EXTENDED;
        let has_acs = self.values.get(at).is_some_and(|&it| it == Extended::acs().into_bits());
        let redirect = u32::from(acs::REQUEST_REDIRECT);
        has_acs
            && (self.values[at + 1] & redirect == 0 || self.values[at + 1] >> 16 & redirect != 0)
    }

    /// Whether the function may send requests.
    pub fn is_bus_master(&self) -> bool {
        self.values[dword::COMMAND] & BUS_MASTER != 0
    }

    /// The address of a BAR, while the function answers there.
    pub fn bar(&self, index: usize) -> Option<u64> {
        let on = self.values[dword::COMMAND] & MEMORY_SPACE != 0;
        let bar = self.values.get(dword::BAR0 + index)?;
        on.then_some(u64::from(bar & !0xf))
    }

    /// Where a BAR was put, and how long it is.
    pub fn assigned_bar(&self, index: usize) -> Option<(u64, u64)> {
        self.assigned.get(&index).copied()
    }

    /// What kind of bridge this is, if it is one.
    pub fn bridge_kind(&self) -> Option<BridgeKind> {
        self.bridge
    }

    /// The buses behind this function, if it is a bridge: secondary to subordinate.
    pub fn buses(&self) -> Option<std::ops::RangeInclusive<u8>> {
        let buses = self.values[dword::BUSES];
        self.bridge.map(|_| (buses >> 8) as u8..=(buses >> 16) as u8)
    }

    /// Where an MSI goes and what it says, while MSI is on.
    pub fn msi(&self) -> Option<(u64, u32)> {
        let words = self.values.get(self.msi?..)?;
        let on = Msi::from_bits(words[0]).enable();
        on.then_some((u64::from(words[2]) << 32 | u64::from(words[1]), words[3] & 0xffff))
    }

    /// Where the registers of an IOMMU are, while they answer.
    pub fn iommu_base(&self) -> Option<u64> {
        let words = self.values.get(self.iommu?..)?;
        let on = words[1] & IOMMU_ENABLE != 0;
        on.then_some(u64::from(words[2]) << 32 | u64::from(words[1] & !IOMMU_ENABLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edu() -> Function {
        Function::new(0x1234, 0x11e8, 0x00ff_0010).with_bar(0, 1 << 20, 0xfea0_0000).with_msi()
    }

    #[test]
    fn a_bar_tells_its_size_and_can_be_moved() {
        let mut function = edu();
        assert_eq!(function.read(0), 0x11e8_1234);
        assert_eq!(function.bar(0), Some(0xfea0_0000));
        function.write(0x10, u32::MAX);
        assert_eq!(function.read(0x10), 0xfff0_0000);
        function.write(0x10, 0xfeb0_0000);
        assert_eq!(function.bar(0), Some(0xfeb0_0000));
        function.write(4, 0);
        assert_eq!(function.bar(0), None);
        assert_eq!(function.read(0x14), 0);
        function.write(0x14, u32::MAX);
        assert_eq!(function.read(0x14), 0);
    }

    #[test]
    fn command_is_written_and_status_is_not() {
        let mut function = edu();
        assert_eq!(function.read(4), 0x0010_0002);
        assert!(!function.is_bus_master());
        function.write(4, 0xffff_0006);
        assert_eq!(function.read(4), 0x0010_0006);
        assert!(function.is_bus_master());
    }

    #[test]
    fn msi_goes_where_it_is_told_once_it_is_on() {
        let mut function = edu();
        assert_eq!((function.read(0x34), function.read(0x40)), (0x40, 0x0080_0005));
        function.write(0x44, 0xfee0_0000);
        function.write(0x4c, 0x41);
        assert_eq!(function.msi(), None);
        function.write(0x40, 0x0001_0000);
        assert_eq!(function.msi(), Some((0xfee0_0000, 0x41)));
    }

    #[test]
    fn a_bridge_tells_its_buses() {
        let port = Function::bridge(BridgeKind::RootPort, 1, 2);
        assert_eq!(port.read(0), 0x000c_1b36);
        assert_eq!(port.read(0x0c) >> 16 & 0x7f, 1);
        assert_eq!(port.read(0x18), 0x0002_0100);
        assert_eq!(port.buses(), Some(1..=2));
        assert_eq!(port.read(0x40) >> 20 & 0xf, 4);
        assert_eq!((port.read(0x100), edu().read(0x100)), (0, u32::MAX));
        assert_eq!(edu().buses(), None);
    }

    #[test]
    fn capabilities_are_linked_and_acs_is_an_extended_one() {
        let function = edu().with_express(ExpressKind::Endpoint).with_acs(0x1d);
        assert_eq!((function.read(0x34), function.read(0x40) & 0xffff), (0x40, 0x8005));
        assert_eq!(function.read(0x80), 0x0002_0010);
        assert_eq!((function.read(0x100), function.read(0x104)), (0x0001_000d, 0x1d));
        let mut function = function;
        function.write(0x104, u32::MAX);
        assert_eq!((function.read(0x104), function.read(0x108)), (0x001d_001d, 0));
        assert_eq!((function.read(4092), edu().with_acs(0x1f).read(0x100)), (0, u32::MAX));
    }

    #[test]
    fn an_iommus_base_is_locked_once_it_is_enabled() {
        let block = IommuBlock {
            base: 0xfeb8_0000,
            enabled: false,
            device_tlb: false,
            np_cache: false,
            extended_features: true,
            msi_number: 0,
            host_address_bits: 48,
            device_address_bits: 64,
        };
        let mut function = Function::iommu(&block);
        assert_eq!((function.read(0), function.read(8)), (0x1451_1022, 0x0806_0000));
        assert_eq!((function.read(0x40) & 0xffff, function.read(0x80) & 0xff), (0x800f, 5));
        assert_eq!(function.iommu_base(), None);
        function.write(0x48, 1);
        function.write(0x44, 0xfec0_3fff);
        assert_eq!(function.iommu_base(), Some(0x1_fec0_0000));
        function.write(0x44, 0);
        function.write(0x48, 0);
        assert_eq!(function.iommu_base(), Some(0x1_fec0_0000));
    }
}
