//! What CPUs do to the machine, and the passing of time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use dma_types::{PciAddress, SourceId};

use super::config::{EduConfig, MachineConfig, ReservedRegion};
use super::dma::Payload;
use super::lies::Lie;
use super::topology::Functions;
use super::units::{UnitSlot, with_acs};
use crate::dram::{Bus, Dram};
use crate::edu::{BAR_BYTES, Edu};
use crate::memory::Memory;
use crate::pci::Function;
use crate::request::Message;

/// A device and whose BAR it is behind.
#[derive(Debug)]
struct EduSlot {
    address: PciAddress,
    edu: Edu,
}

/// A whole machine over some memory.
#[derive(Debug)]
pub struct Machine<M> {
    pub(super) memory: M,
    pub(super) dram: Dram,
    pub(super) units: Vec<UnitSlot>,
    pub(super) functions: Functions,
    /// Functions whose requests do not carry their own source-id.
    pub(super) requesters: BTreeMap<PciAddress, SourceId>,
    pub(super) reserved: Vec<ReservedRegion>,
    pub(super) interrupts: Vec<Message>,
    routes_peers: bool,
    edus: Vec<EduSlot>,
    now: u64,
    pub(super) lies: Vec<Lie>,
    /// What reads as all ones in configuration space, and after how many reads.
    pub(super) hidden: Option<(Option<PciAddress>, u64)>,
    pub(super) config_reads: Cell<u64>,
}

/// What is at an address of the register space.
enum Target {
    Unit(usize, u64),
    Edu(usize, u64),
}

impl<M: Memory> Machine<M> {
    /// The machine after reset, over this memory.
    pub fn new(config: MachineConfig, memory: M) -> Self {
        let mut machine = Self {
            memory,
            dram: Dram::default(),
            units: Vec::new(),
            functions: BTreeMap::new(),
            requesters: BTreeMap::new(),
            reserved: config.reserved,
            routes_peers: config.routes_peers,
            interrupts: Vec::new(),
            edus: Vec::new(),
            now: 0,
            lies: Vec::new(),
            hidden: None,
            config_reads: Cell::new(0),
        };
        let segments = config.units.iter().map(|unit| unit.segment);
        let amdvi_segments = config.amdvi_units.iter().map(|unit| unit.function.segment());
        let devices = config.edus.iter().map(|edu| edu.address.segment());
        let others = config.functions.iter().map(|function| function.address.segment());
        for segment in segments.chain(amdvi_segments).chain(devices).chain(others).chain([0]) {
            let host_bridge = PciAddress::from_source(segment, SourceId::new(0));
            machine.insert(host_bridge, Function::new(0x8086, 0x29c0, 0x0600_0000), None);
        }
        for bridge in config.bridges {
            machine.plug_bridge(bridge);
        }
        machine.units.extend(config.units.into_iter().map(UnitSlot::vtd));
        for unit in config.amdvi_units {
            machine.insert(unit.function, Function::iommu(&unit.capability_block()), None);
            machine.units.push(UnitSlot::amdvi(unit));
        }
        for function in config.functions {
            machine.plug(function);
        }
        for edu in config.edus {
            machine.plug_edu(edu);
        }
        machine
    }

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The `edu` device at this address.
    pub fn edu(&self, address: PciAddress) -> Option<&Edu> {
        self.edus.iter().find(|slot| slot.address == address).map(|slot| &slot.edu)
    }

    /// Whether there is an IOMMU.
    pub fn has_units(&self) -> bool {
        !self.units.is_empty()
    }

    /// Every function that there is.
    pub fn functions(&self) -> impl Iterator<Item = PciAddress> {
        self.functions.keys().copied()
    }

    /// The regions that firmware reserves.
    pub fn reserved(&self) -> &[ReservedRegion] {
        &self.reserved
    }

    /// Plugs in an `edu` device, as one hot-added does.
    pub fn plug_edu(&mut self, config: EduConfig) {
        let function = Function::new(0x1234, 0x11e8, 0x00ff_0010)
            .with_bar(0, BAR_BYTES as u32, config.bar)
            .with_msi();
        let function = match config.express {
            Some(kind) => function.with_express(kind),
            None => function,
        };
        self.insert(config.address, with_acs(function, config.acs), config.requester);
        let edu = Edu::new(config.dma_nanos, config.dma_mask);
        self.edus.push(EduSlot { address: config.address, edu });
    }

    /// Takes a function away, with the device behind it.
    pub fn unplug(&mut self, address: PciAddress) {
        self.functions.remove(&address);
        self.requesters.remove(&address);
        self.edus.retain(|slot| slot.address != address);
    }

    /// Reads `size` bytes (4 or 8) of registers. All ones where nothing is, or not in that size.
    pub fn mmio_read(&mut self, address: u64, size: usize) -> u64 {
        let nothing = u64::MAX >> (64 - 8 * size.clamp(1, 8));
        match self.target(address, size) {
            Some(Target::Unit(number, at)) => {
                let bus = Bus { memory: &self.memory, dram: &self.dram };
                let value = self.units[number].hardware.read(bus, at, size);
                self.lies.iter_mut().fold(value, |value, lie| lie.told(number, at, size, value))
            }
            Some(Target::Edu(number, at)) => self.edus[number].edu.read(at, size) & nothing,
            None => nothing,
        }
    }

    /// Writes `size` bytes (4 or 8) of registers. Nothing happens where nothing is, or not in that size.
    pub fn mmio_write(&mut self, address: u64, size: usize, value: u64) {
        match self.target(address, size) {
            Some(Target::Unit(number, at)) => {
                let bus = Bus { memory: &self.memory, dram: &self.dram };
                self.units[number].hardware.write(bus, at, size, value);
            }
            Some(Target::Edu(number, at)) => {
                self.edus[number].edu.write(at, size, value, self.now);
            }
            None => {}
        }
        self.collect_interrupts();
    }

    /// Whether `bytes` from `address` on lie in one window of registers.
    pub fn is_mmio(&self, address: u64, bytes: u64) -> bool {
        self.find(address, bytes).is_some()
    }

    /// Reads a dword of configuration space. All ones for a function that does not exist.
    pub fn config_read(&self, function: PciAddress, offset: u16) -> u32 {
        self.config_reads.set(self.config_reads.get() + 1);
        if self.is_hidden(function) {
            return u32::MAX;
        }
        self.functions.get(&function).map_or(u32::MAX, |function| function.read(offset))
    }

    /// Where a function's memory BAR was put when it was plugged in, and how long it is.
    pub fn assigned_bar(&self, function: PciAddress, index: usize) -> Option<(u64, u64)> {
        self.functions.get(&function)?.assigned_bar(index)
    }

    /// Writes a dword of configuration space.
    pub fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        let Some(known) = self.functions.get_mut(&function) else { return };
        known.write(offset, value);
        if known.take_reset()
            && let Some(slot) = self.edus.iter_mut().find(|slot| slot.address == function)
        {
            slot.edu.reset();
        }
    }

    /// Writes back the cache lines of a piece of memory, for units that do not snoop.
    pub fn flush(&self, address: u64, bytes: u64) {
        if self.units.iter().any(|slot| !slot.hardware.is_coherent()) {
            self.dram.flush(&self.memory, address, bytes);
        }
    }

    /// Lets everything happen whose time has come by `now`, in nanoseconds: units first, then devices.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        let bus = Bus { memory: &self.memory, dram: &self.dram };
        for slot in &mut self.units {
            slot.hardware.advance(bus, self.now);
        }
        for number in 0..self.edus.len() {
            self.run_edu(number);
        }
        self.collect_interrupts();
    }

    /// The time it was last told.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The interrupts that units and devices have sent since this was last asked.
    pub fn take_interrupts(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.interrupts)
    }

    /// Does the transfer of a device, if one is due.
    fn run_edu(&mut self, number: usize) {
        let EduSlot { address: source, edu } = &mut self.edus[number];
        let (source, transfer) = (*source, edu.due(self.now));
        if let Some(transfer) = transfer {
            let part = transfer.start..transfer.start + transfer.bytes;
            let mut data = edu.buffer[part.clone()].to_vec();
            // The device is not told what became of its request; the unit tells software.
            if transfer.to_memory {
                let _ = self.dma_write(source, transfer.address, &data);
            } else {
                let _ = self.dma_read(source, transfer.address, &mut data);
                self.edus[number].edu.buffer[part].copy_from_slice(&data);
            }
            self.edus[number].edu.finish();
        }
    }

    /// Takes in what units have sent, and sends the MSIs of devices that have raised theirs.
    fn collect_interrupts(&mut self) {
        for slot in &mut self.units {
            let own = slot.function().and_then(|function| self.functions.get(&function));
            let messages = slot.hardware.take_messages(own.and_then(Function::msi));
            self.interrupts.extend(messages);
        }
        for number in 0..self.edus.len() {
            let EduSlot { address, edu } = &mut self.edus[number];
            let source = *address;
            if edu.take_raised()
                && let Some((to, data)) = self.functions.get(&source).and_then(Function::msi)
            {
                // An MSI is a write like any other: to anywhere else it is translated, and may fault.
                let _ = self.dma_write(source, to, &data.to_le_bytes());
            }
        }
    }

    /// The device whose registers are at this physical address, to which a request comes from above.
    pub(super) fn device_at(&self, address: u64) -> Option<usize> {
        match self.find(address, 1)? {
            Target::Edu(number, _) => self.routes_peers.then_some(number),
            Target::Unit(..) => None,
        }
    }

    /// The peer of a function whose registers are at this address.
    pub(super) fn peer_at(&self, source: PciAddress, address: u64) -> Option<usize> {
        match self.find(address, 1)? {
            Target::Edu(number, _) => {
                self.is_peer(source, self.edus[number].address).then_some(number)
            }
            Target::Unit(..) => None,
        }
    }

    /// A request of 4 or 8 bytes to the registers of a peer; of any other length it does nothing.
    pub(super) fn reach_peer(
        &mut self,
        peer: usize,
        address: u64,
        payload: &mut Payload<'_>,
        part: Range<usize>,
    ) {
        let size = part.len();
        let Some(Target::Edu(_, at)) = self.target(address, size) else { return };
        let edu = &mut self.edus[peer].edu;
        match payload {
            Payload::Read(out) => {
                out[part].copy_from_slice(&edu.read(at, size).to_le_bytes()[..size]);
            }
            Payload::Write(data) => {
                let mut word = [0; 8];
                word[..size].copy_from_slice(&data[part]);
                edu.write(at, size, u64::from_le_bytes(word), self.now);
            }
        }
    }

    fn target(&self, address: u64, size: usize) -> Option<Target> {
        let aligned = matches!(size, 4 | 8) && address.is_multiple_of(size as u64);
        if aligned { self.find(address, size as u64) } else { None }
    }

    fn find(&self, address: u64, bytes: u64) -> Option<Target> {
        let within = |base: u64, length: u64| {
            let offset = address.checked_sub(base)?;
            (offset < length && bytes <= length - offset).then_some(offset)
        };
        let unit = self.units.iter().enumerate().find_map(|(number, slot)| {
            let (base, bytes) = self.window(slot)?;
            let at = within(base, bytes)?;
            Some(Target::Unit(number, at))
        });
        unit.or_else(|| {
            self.edus.iter().enumerate().find_map(|(number, slot)| {
                let base = self.functions.get(&slot.address)?.bar(0)?;
                Some(Target::Edu(number, within(base, BAR_BYTES)?))
            })
        })
    }
}
