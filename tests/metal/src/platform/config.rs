//! PCI configuration space, and where devices are.
//!
//! The first 256 bytes of each function are reached through ports, by configuration mechanism 1 (PCI Local Bus
//! Specification 3.0, section 3.2.2.3.2); the rest in memory, where the firmware's table MCFG says (PCI Firmware
//! Specification 3.0, section 4.1.2). Without such a table it reads as all ones, as does every segment but 0.

use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;

use bitfield_struct::bitfield;
use dma_types::{PciAddress, PhysAddr, SourceId};
use iommu_engine::pci::bar::memory_bar;
use iommu_engine::platform::{ConfigSpace, Segment};
use x86_64::instructions::port::{Port, PortWriteOnly};

use crate::memory::layout::{BUFFERS, Range};
use crate::memory::physical;

/// The two ports, and the memory.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Where configuration space is in memory, from bus 0 on.
    memory: Option<Range>,
}

/// CONFIG_ADDRESS, at port 0xcf8.
#[bitfield(u32)]
struct ConfigAddress {
    #[bits(2)]
    __: u8,
    /// Which dword.
    #[bits(6)]
    dword: u8,
    #[bits(3)]
    function: u8,
    #[bits(5)]
    device: u8,
    bus: u8,
    #[bits(7)]
    __: u8,
    enable: bool,
}

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// How far into a function the ports reach.
const PORTS_END: u16 = 0x100;

/// Where the MCFG's first description of segment 0 puts configuration space, unless that is where the guest's own
/// memory is.
fn described(mcfg: &[u8]) -> Option<Range> {
    /// After the header, and 8 bytes that are reserved.
    const DESCRIPTIONS: usize = 44;
    /// A description: the base as if for bus 0, the segment, the first and the last bus.
    const BYTES: usize = 16;
    let descriptions = mcfg.get(DESCRIPTIONS..)?.chunks_exact(BYTES);
    descriptions
        .filter_map(|it| {
            let base = PhysAddr::new(u64::from_le_bytes(*it.first_chunk()?));
            let [_, _, _, _, _, _, _, _, segment, more, 0, last, ..] = *it else { return None };
            let bytes = (u64::from(last) + 1) * BUS_BYTES;
            let range = Range { start: base, bytes };
            let ours = base < BUFFERS.end() || segment != 0 || more != 0;
            if ours { None } else { Some(range) }
        })
        .next()
}

/// Each bus's part of the memory, in bytes.
const BUS_BYTES: u64 = 1 << 20;

impl Configuration {
    /// Configuration space, with what MCFG says of it, if there is one.
    pub fn new(mcfg: Option<&[u8]>) -> Self {
        Self { memory: mcfg.and_then(described) }
    }

    /// The place in memory of a dword beyond the first 256 bytes.
    fn pointer(&self, function: PciAddress, offset: u16) -> Option<NonNull<u32>> {
        let memory = self.memory.filter(|_| function.segment() == 0 && offset.is_multiple_of(4))?;
        let place = u64::from(function.source().get()) << 12 | u64::from(offset);
        let address = memory.start.checked_add(place)?;
        let inside = offset < 4096 && memory.holds(address, 4);
        if inside { physical::pointer(address, 4).map(NonNull::cast) } else { None }
    }

    /// The data port, with this dword behind it; `None` for one that is out of reach.
    fn select(&mut self, function: PciAddress, offset: u16) -> Option<Port<u32>> {
        let offset = u8::try_from(offset).ok()?;
        if function.segment() != 0 || !offset.is_multiple_of(4) {
            return None;
        }
        let address = ConfigAddress::new()
            .with_dword(offset / 4)
            .with_function(function.function())
            .with_device(function.device())
            .with_bus(function.bus())
            .with_enable(true);
        // SAFETY: the address port only says what the data port means, and nobody else uses the two.
        unsafe { PortWriteOnly::new(CONFIG_ADDRESS).write(address.into_bits()) };
        Some(Port::new(CONFIG_DATA))
    }
}

impl ConfigSpace for Configuration {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        if let Some(place) = self.pointer(function, offset).filter(|_| offset >= PORTS_END) {
            // SAFETY: the firmware says that this is configuration space, which is no memory of ours.
            return unsafe { place.read_volatile() };
        }
        match self.select(function, offset) {
            // SAFETY: reading a configuration register changes none of our memory.
            Some(mut data) => unsafe { data.read() },
            None => u32::MAX,
        }
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        if let Some(place) = self.pointer(function, offset).filter(|_| offset >= PORTS_END) {
            // SAFETY: as above; the caller means to configure the function.
            unsafe { place.write_volatile(value) };
            return;
        }
        if let Some(mut data) = self.select(function, offset) {
            // SAFETY: the caller means to configure the function; the guest's memory is no BAR.
            unsafe { data.write(value) };
        }
    }
}

/// Where a memory BAR is and how long it is. There are no records of it here, so it is asked in the standard way (PCI 3.0,
/// 6.2.5.1): switched off, all ones written to it, and the bits that stayed zero read. There is one thread, so nobody
/// uses the registers meanwhile.
pub fn bar(config: &mut impl ConfigSpace, function: PciAddress, number: u8) -> Option<Segment> {
    const MEMORY_SPACE: u32 = 1 << 1;
    const STATUS: u32 = 0xffff_0000;
    const KIND: u32 = 0xf;
    let start = memory_bar(config, function, number)?;
    let register = offset::BAR0 + 4 * u16::from(number);
    let command = config.config_read(function, offset::STATUS) & !STATUS;
    let found = config.config_read(function, register);
    config.config_write(function, offset::STATUS, command & !MEMORY_SPACE);
    config.config_write(function, register, u32::MAX);
    let mask = config.config_read(function, register) & !KIND;
    config.config_write(function, register, found);
    config.config_write(function, offset::STATUS, command);
    // One of 4 GiB or more has no bits in its lower half.
    let bytes = 1u64.checked_shl(mask.trailing_zeros())?;
    (mask != 0).then_some(Segment { start, bytes })
}

/// Offsets of dwords in every function's configuration space.
mod offset {
    /// Device and vendor.
    pub(super) const IDENTITY: u16 = 0x00;
    /// Command, and status in the upper half.
    pub(super) const STATUS: u16 = 0x04;
    /// The first BAR.
    pub(super) const BAR0: u16 = 0x10;
    /// The header's kind, in bits 23:16.
    pub(super) const HEADER: u16 = 0x0c;
    /// In a bridge's: subordinate, secondary and primary bus, from bit 16 down.
    pub(super) const BUSES: u16 = 0x18;
    /// The offset of the first capability, in bits 7:0.
    pub(super) const CAPABILITIES: u16 = 0x34;
}

/// The header's kind in the dword at 0x0c.
#[bitfield(u32)]
struct Header {
    __: u16,
    #[bits(7)]
    kind: u8,
    many_functions: bool,
    __: u8,
}

impl Header {
    /// A bridge from one bus to another.
    const BRIDGE: u8 = 1;
}

/// The PCI Express capability, and the field that says what kind of port its function is (PCI Express Base
/// Specification, section 7.5.3.2).
#[bitfield(u32)]
struct ExpressCapability {
    id: u8,
    next: u8,
    #[bits(4)]
    version: u8,
    #[bits(4)]
    port: u8,
    __: u8,
}

impl ExpressCapability {
    const ID: u8 = 0x10;
    /// A bridge from PCI Express to PCI or PCI-X.
    const TO_PCI: u8 = 7;
    /// And back.
    const FROM_PCI: u8 = 8;
}

/// Where a function's first capability of this kind is (PCI 3.0, section 6.7).
pub fn capability(config: &mut impl ConfigSpace, function: PciAddress, id: u8) -> Option<u16> {
    /// The status register's bit that says whether there are any.
    const HAS_CAPABILITIES: u32 = 1 << 20;
    /// As many as find room: a list that is longer leads back.
    const MOST: usize = 48;
    if config.config_read(function, offset::STATUS) & HAS_CAPABILITIES == 0 {
        return None;
    }
    let [mut at, ..] = config.config_read(function, offset::CAPABILITIES).to_le_bytes();
    for _ in 0..MOST {
        let place = u16::from(at & !3);
        if place == 0 {
            return None;
        }
        let [found, next, ..] = config.config_read(function, place).to_le_bytes();
        if found == id {
            return Some(place);
        }
        at = next;
    }
    None
}

/// Every function with this vendor and device, on bus 0 and on the buses that the firmware put behind
/// bridges.
pub fn find(config: &mut impl ConfigSpace, vendor: u16, device: u16) -> Vec<PciAddress> {
    let wanted = u32::from(device) << 16 | u32::from(vendor);
    let functions = functions(config);
    functions
        .into_iter()
        .filter(|function| function.identity == wanted)
        .map(|it| it.address)
        .collect()
}

/// The requester-id that an IOMMU sees on what this function asks for.
///
/// A bridge from PCI Express to PCI asks in its own name for all behind it, with its secondary bus and function
/// zero (PCI Express to PCI/PCI-X Bridge Specification 1.0, section 2.3); QEMU lets any other bridge to PCI ask
/// with its own address.
pub fn requester(config: &mut impl ConfigSpace, function: PciAddress) -> SourceId {
    let functions = functions(config);
    let mut source = function.source();
    let mut bus = function.bus();
    // Buses are numbered from the root outwards.
    while let Some(bridge) = functions.iter().find(|it| it.behind == Some(bus)) {
        let place = capability(config, bridge.address, ExpressCapability::ID);
        let port = place.map(|at| config.config_read(bridge.address, at));
        match port.map(|bits| ExpressCapability::from_bits(bits).port()) {
            Some(ExpressCapability::TO_PCI) => source = SourceId::new(u16::from(bus) << 8),
            None | Some(ExpressCapability::FROM_PCI) => source = bridge.address.source(),
            // Ports of PCI Express pass on what they get.
            Some(_) => {}
        }
        bus = bridge.address.bus();
    }
    source
}

/// A function that answers.
struct Function {
    address: PciAddress,
    identity: u32,
    /// The bus behind a bridge.
    behind: Option<u8>,
}

/// Every function on bus 0 and on the buses that the firmware put behind bridges.
fn functions(config: &mut impl ConfigSpace) -> Vec<Function> {
    let mut found = Vec::new();
    let mut buses = vec![0];
    while let Some(bus) = buses.pop() {
        for (device, function) in (0..32).flat_map(|device| (0..8).map(move |f| (device, f))) {
            let Some(address) = PciAddress::new(0, bus, device, function) else { continue };
            let identity = config.config_read(address, offset::IDENTITY);
            if identity == u32::MAX {
                continue;
            }
            let header = Header::from_bits(config.config_read(address, offset::HEADER));
            let [_, secondary, ..] = config.config_read(address, offset::BUSES).to_le_bytes();
            // Buses are numbered from the root outwards. A bridge that leads back ends here.
            let leads = header.kind() == Header::BRIDGE && secondary > bus;
            let behind = leads.then_some(secondary);
            buses.extend(behind);
            found.push(Function { address, identity, behind });
        }
    }
    found
}
