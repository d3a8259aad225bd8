//! Requests from devices.

use std::fmt;

use dma_types::{PciAddress, SourceId};

use super::access::Machine;
use super::topology::bridges;
use super::units::Hardware;
use crate::amdvi::EventCode;
use crate::dram::Bus;
use crate::memory::Memory;
use crate::vtd::walk::Refusal;
use crate::vtd::{Access, FaultReason, Message};

/// The pages that one request is taken apart into: a translation holds for no more.
const PAGE: u64 = 4096;

/// Why a request did not reach memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// A VT-d unit found a fault; its register value is `reason as u8`.
    Fault(FaultReason),
    /// An AMD-Vi unit refused it with an event, logged or not; its code is `event as u8`.
    Event(EventCode),
    /// A protected memory region.
    Protected,
    /// The interrupt address range, 0xfee00000 to 0xfeefffff, of which only dwords are written.
    InterruptRange,
    /// There is no memory at the physical address.
    NoMemory,
    /// Bus mastering is off in the function or in a bridge on its way.
    NotMaster,
    /// There is no such function.
    NoFunction,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(reason) => write!(f, "fault {:#x} ({reason:?})", *reason as u8),
            Self::Event(event) => write!(f, "event {:#x} ({event:?})", *event as u8),
            Self::Protected => f.write_str("protected memory region"),
            Self::InterruptRange => f.write_str("interrupt address range"),
            Self::NoMemory => f.write_str("no memory"),
            Self::NotMaster => f.write_str("bus mastering is off"),
            Self::NoFunction => f.write_str("no such function"),
        }
    }
}

impl Blocked {
    /// Whether it was a unit's tables that did not let the request through.
    pub fn is_by_tables(self) -> bool {
        matches!(self, Self::Fault(_) | Self::Event(_))
    }
}

/// What is moved, and which way.
pub(super) enum Payload<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }

    fn access(&self) -> Access {
        match self {
            Self::Read([]) => Access::ZeroLengthRead,
            Self::Read(_) => Access::Read,
            Self::Write(_) => Access::Write,
        }
    }
}

impl<M: Memory> Machine<M> {
    /// A read by a function. Pages that it does not reach read as zeroes; the first reason is given.
    /// Reading nothing is a zero-length read.
    pub fn dma_read(
        &mut self,
        source: PciAddress,
        address: u64,
        out: &mut [u8],
    ) -> Result<(), Blocked> {
        self.dma(source, address, Payload::Read(out), false)
    }

    /// A write by a function. Pages that it does not reach are left out; the first reason is given.
    pub fn dma_write(
        &mut self,
        source: PciAddress,
        address: u64,
        data: &[u8],
    ) -> Result<(), Blocked> {
        self.dma(source, address, Payload::Write(data), false)
    }

    /// A write by a function that claims to have translated the address itself (PCI Express AT = 10b), as
    /// one that is hostile may.
    pub fn dma_write_translated(
        &mut self,
        source: PciAddress,
        address: u64,
        data: &[u8],
    ) -> Result<(), Blocked> {
        self.dma(source, address, Payload::Write(data), true)
    }

    /// A write, within one page, by a function that makes requests whether it is a bus master or not, as one that is
    /// broken may: where in memory it went.
    pub fn dma_write_unasked(
        &mut self,
        source: PciAddress,
        address: u64,
        data: &[u8],
    ) -> Result<u64, Blocked> {
        let (source_id, unit) = (self.requester(source), self.unit_of(source));
        let physical = self.translate((unit, source_id), address, Access::Write, false)?;
        if self.memory.write(physical, data) { Ok(physical) } else { Err(Blocked::NoMemory) }
    }

    fn dma(
        &mut self,
        source: PciAddress,
        address: u64,
        mut payload: Payload<'_>,
        translated: bool,
    ) -> Result<(), Blocked> {
        if let Payload::Read(out) = &mut payload {
            out.fill(0);
        }
        let function = self.functions.get(&source).ok_or(Blocked::NoFunction)?;
        let masters = |(_, bridge): (_, &crate::pci::Function)| bridge.is_bus_master();
        if !function.is_bus_master() || !bridges(&self.functions, source).all(masters) {
            return Err(Blocked::NotMaster);
        }
        let mut result = Ok(());
        let mut done = 0;
        loop {
            let at = address.wrapping_add(done as u64);
            let room = (PAGE - at % PAGE) as usize;
            let length = room.min(payload.len() - done);
            let outcome = self.one_page(source, at, &mut payload, done..done + length, translated);
            result = result.and(outcome);
            done += length;
            if done >= payload.len() {
                return result;
            }
        }
    }

    /// The part of a request that lies in one page.
    fn one_page(
        &mut self,
        source: PciAddress,
        address: u64,
        payload: &mut Payload<'_>,
        part: std::ops::Range<usize>,
        translated: bool,
    ) -> Result<(), Blocked> {
        if let Some(peer) = self.peer_at(source, address) {
            self.reach_peer(peer, address, payload, part);
            return Ok(());
        }
        let source_id = self.requester(source);
        let unit = self.unit_of(source);
        if (0xfee0_0000..=0xfeef_ffff).contains(&address) {
            return self.interrupt_request(unit, source_id, address, payload, part);
        }
        let physical = self.translate((unit, source_id), address, payload.access(), translated)?;
        if let Some(device) = self.device_at(physical) {
            self.reach_peer(device, physical, payload, part);
            return Ok(());
        }
        let reached = match payload {
            Payload::Read(out) => self.memory.read(physical, &mut out[part]),
            Payload::Write(data) => self.memory.write(physical, &data[part]),
        };
        if reached { Ok(()) } else { Err(Blocked::NoMemory) }
    }

    /// Where the unit in front of a requester lets a request go.
    fn translate(
        &mut self,
        (unit, source_id): (Option<usize>, SourceId),
        address: u64,
        access: Access,
        translated: bool,
    ) -> Result<u64, Blocked> {
        let bus = Bus { memory: &self.memory, dram: &self.dram };
        let unit = unit.and_then(|number| self.units.get_mut(number));
        let own = unit.as_ref().and_then(|slot| slot.function());
        match unit.map(|slot| &mut slot.hardware) {
            Some(Hardware::Vtd(unit)) => {
                let found = if translated {
                    unit.pass_translated(bus, source_id, address, access)
                } else {
                    unit.translate(bus, source_id, address, access)
                };
                found.map_err(|refusal| match refusal {
                    Refusal::Fault(reason) => Blocked::Fault(reason),
                    Refusal::Protected => Blocked::Protected,
                })
            }
            Some(Hardware::Amdvi(unit)) => {
                let found = if translated {
                    unit.pass_translated(bus, source_id, address, access)
                } else {
                    unit.translate(bus, source_id, address, access)
                };
                found.map_err(|event| self.aborted(own, event))
            }
            None => Ok(address),
        }
    }

    /// An AMD-Vi unit whose own function this is has aborted a request, which shows in the function's status.
    fn aborted(&mut self, own: Option<PciAddress>, event: EventCode) -> Blocked {
        if let Some(function) = own.and_then(|own| self.functions.get_mut(&own)) {
            function.signal_target_abort();
        }
        Blocked::Event(event)
    }

    /// A request to the interrupt address range. VT-d translates none (VT-d 3.1, 3.14); AMD-Vi asks the
    /// device's entry (48882, 2.2.5).
    fn interrupt_request(
        &mut self,
        unit: Option<usize>,
        source: SourceId,
        address: u64,
        payload: &Payload<'_>,
        part: std::ops::Range<usize>,
    ) -> Result<(), Blocked> {
        let bytes = match payload {
            Payload::Write(data) => <[u8; 4]>::try_from(&data[part]).ok(),
            Payload::Read(_) => None,
        };
        let data = bytes.map(u32::from_le_bytes);
        let bus = Bus { memory: &self.memory, dram: &self.dram };
        let unit = unit.and_then(|number| self.units.get_mut(number));
        let own = unit.as_ref().and_then(|slot| slot.function());
        if let Some(Hardware::Amdvi(unit)) = unit.map(|slot| &mut slot.hardware) {
            let passed = unit.interrupt(bus, source, address, data);
            passed.map_err(|event| self.aborted(own, event))?;
        }
        let data = data.ok_or(Blocked::InterruptRange)?;
        self.interrupts.push(Message { address, data });
        Ok(())
    }
}
