//! One PCI function's configuration space: PCI Local Bus Specification 3.0, chapter 6; bridges: PCI-to-PCI
//! Bridge Architecture Specification 1.2, 3.2; capabilities: PCI Express Base Specification 5.0, 7.5.

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
}

/// Command bit 1: the function answers at its memory BARs.
const MEMORY_SPACE: u32 = 1 << 1;
/// Command bit 2: the function may send requests; a bridge with it clear sends none up.
const BUS_MASTER: u32 = 1 << 2;
/// Status bit 4: there is a capability list.
const HAS_CAPABILITIES: u32 = 1 << 20;
/// The status bits that are cleared by writing 1.
const STATUS_CLEAR: u32 = 0xf900_0000;
/// MSI capability: identifier 5, 64-bit addresses (bit 7 of message control).
const MSI: u32 = 0x0080_0005;
/// MSI enable, bit 0 of message control.
const MSI_ENABLE: u32 = 1 << 16;
/// PCI Express capability: identifier 0x10, version 2, root port (type 4).
const EXPRESS_ROOT_PORT: u32 = 0x0042_0010;
/// Header type 1: a bridge.
const BRIDGE: u32 = 1 << 16;

/// One function: 64 dwords, which bits of them can be written, and which are cleared by writing 1.
#[derive(Clone, Debug)]
pub struct Function {
    values: [u32; 64],
    writable: [u32; 64],
    clear: [u32; 64],
}

impl Function {
    /// A function with no BAR and no capability. `class` is class, subclass, interface and revision, as
    /// in the dword at 0x08.
    pub fn new(vendor: u16, device: u16, class: u32) -> Self {
        let mut function = Self { values: [0; 64], writable: [0; 64], clear: [0; 64] };
        function.values[0] = u32::from(device) << 16 | u32::from(vendor);
        function.values[dword::CLASS] = class;
        function.writable[dword::COMMAND] = 0x0547;
        function.clear[dword::COMMAND] = STATUS_CLEAR;
        function.writable[dword::HEADER] = 0xff;
        function
    }

    /// A PCI Express root port with these buses behind it, which forwards requests.
    pub fn root_port(vendor: u16, device: u16, secondary: u8, subordinate: u8) -> Self {
        let mut function = Self::new(vendor, device, 0x0604_0000);
        function.values[dword::COMMAND] |= BUS_MASTER | MEMORY_SPACE;
        function.values[dword::HEADER] |= BRIDGE;
        function.values[dword::BUSES] = u32::from(subordinate) << 16 | u32::from(secondary) << 8;
        function.writable[dword::BUSES] = 0x00ff_ffff;
        function.add_capability(EXPRESS_ROOT_PORT, 0, 0);
        function
    }

    /// Adds a 32-bit memory BAR of `bytes` (a power of two, at least 16) at `address`, switched on.
    pub fn with_bar(mut self, index: usize, bytes: u32, address: u32) -> Self {
        self.values[dword::BAR0 + index] = address;
        self.writable[dword::BAR0 + index] = !(bytes - 1);
        self.values[dword::COMMAND] |= MEMORY_SPACE;
        self
    }

    /// Adds an MSI capability with a 64-bit address, and the interrupt pin INTA.
    pub fn with_msi(mut self) -> Self {
        self.add_capability(MSI, MSI_ENABLE, u32::MAX);
        self.writable[dword::FIRST_CAPABILITY + 1] = !3;
        self.values[dword::INTERRUPT] = 0x100;
        self.writable[dword::INTERRUPT] = 0xff;
        self
    }

    /// The only capability, at 0x40: its first dword, which bits of that and of the next three can be
    /// written.
    fn add_capability(&mut self, first: u32, first_writable: u32, rest_writable: u32) {
        let at = dword::FIRST_CAPABILITY;
        self.values[dword::COMMAND] |= HAS_CAPABILITIES;
        self.values[dword::CAPABILITIES] = 4 * at as u32;
        self.values[at] = first;
        self.writable[at] = first_writable;
        self.writable[at + 1..at + 4].fill(rest_writable);
    }

    /// Reads the dword at `offset`. Above 0x100 a function that is not PCI Express has nothing, and one that
    /// is has no extended capability.
    pub fn read(&self, offset: u16) -> u32 {
        match self.values.get(usize::from(offset / 4)) {
            Some(&value) => value,
            None if self.values[dword::FIRST_CAPABILITY] == EXPRESS_ROOT_PORT => 0,
            None => u32::MAX,
        }
    }

    /// Writes the dword at `offset`.
    pub fn write(&mut self, offset: u16, value: u32) {
        let at = usize::from(offset / 4);
        if let Some(old) = self.values.get_mut(at) {
            let (writable, clear) = (self.writable[at], self.clear[at]);
            *old = (*old & !writable | value & writable) & !(value & clear);
        }
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

    /// The buses behind this function, if it is a bridge: secondary to subordinate.
    pub fn buses(&self) -> Option<std::ops::RangeInclusive<u8>> {
        let buses = self.values[dword::BUSES];
        let bridge = self.values[dword::HEADER] & BRIDGE != 0;
        bridge.then_some((buses >> 8) as u8..=(buses >> 16) as u8)
    }

    /// Where an MSI goes and what it says, while MSI is on.
    pub fn msi(&self) -> Option<(u64, u32)> {
        let at = dword::FIRST_CAPABILITY;
        let words = &self.values[at..at + 4];
        let on = words[0] & 0xff == MSI & 0xff && words[0] & MSI_ENABLE != 0;
        on.then_some((u64::from(words[2]) << 32 | u64::from(words[1]), words[3] & 0xffff))
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
        let port = Function::root_port(0x1b36, 0x000c, 1, 2);
        assert_eq!(port.read(0x0c) >> 16 & 0x7f, 1);
        assert_eq!(port.read(0x18), 0x0002_0100);
        assert_eq!(port.buses(), Some(1..=2));
        assert_eq!(port.read(0x40) >> 20 & 0xf, 4);
        assert_eq!((port.read(0x100), edu().read(0x100)), (0, u32::MAX));
        assert_eq!(edu().buses(), None);
    }
}
