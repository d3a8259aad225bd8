//! The machine's IOMMUs, devices and domains, as one.
//!
//! # What is promised
//!
//! Between any two calls, every device reaches exactly what is mapped in the domain it is attached to, or,
//! attached to none, what firmware reserves for it (rule R1). What a call takes away is not used again
//! before the units have confirmed that they have forgotten it (rule R2); the [`Completion`] that such a
//! call returns tells when that is, for those who must know. A call that fails has changed nothing (R7).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PciAddress};

use crate::completion::{Completion, Progress, UnitId};
use crate::domain::{Domain, DomainFormat, DomainKey, Owner};
use crate::error::{EngineError, StartError};
use crate::fault::Fault;
use crate::iova::IovaRequest;
use crate::ledger::{Ledger, Record, Slot};
use crate::machine::{self, Device, Remark, UnitSlot};
use crate::pci;
use crate::platform::{Platform, RunId, Segment};
use crate::records::{AttachmentRecord, DomainRecord, UnitRecord};
use crate::retired::{Quarantine, Retired};
use crate::segments;
use crate::vtd::context::Translation;
use crate::vtd::second_stage::SecondStage;
use crate::vtd::unit::{Changed, Unit, UnitState};

/// A mapping that a client wants.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// The run of memory.
    pub run: RunId,
    /// Where in it the mapping starts, a multiple of 4096.
    pub offset: u64,
    /// How long it is, a multiple of 4096, not zero.
    pub bytes: u64,
    /// What the device may do.
    pub access: Access,
    /// What the I/O address must be a multiple of: a power of two, at least 4096.
    pub align: u64,
    /// The highest I/O address that the mapping may touch.
    pub limit: Iova,
    /// The client's number for its buffer, for reports.
    pub owner: u64,
}

/// What happened to a unit's devices since it was last looked at.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request was blocked.
    Fault {
        /// By this unit.
        unit: UnitId,
        /// In this segment.
        segment: u16,
        /// This one.
        fault: Fault,
    },
    /// More requests were blocked than the unit could record.
    FaultsLost {
        /// This unit.
        unit: UnitId,
    },
}

/// The machine's IOMMUs, devices and domains.
#[derive(Debug)]
pub struct Engine {
    units: Vec<UnitSlot>,
    devices: BTreeMap<PciAddress, Device>,
    remarks: Vec<Remark>,
    domains: BTreeMap<DomainKey, Domain>,
    next_domain: u64,
    quarantine: Quarantine,
    ledger: Ledger,
    /// Reused from call to call, so that the hot path allocates nothing.
    pieces: Vec<Segment>,
}

impl Engine {
    /// Finds the machine's IOMMUs and devices, and begins to bring the units up. They are up when
    /// [`is_settled`](Self::is_settled), after some [polls](Self::poll).
    ///
    /// # Errors
    ///
    /// [`StartError`] if there is no table of IOMMUs that can be used. A single unit that cannot be used is
    /// left out, and the others go on.
    pub fn start(platform: &mut impl Platform) -> Result<Self, StartError> {
        let ledger = Ledger::create(platform)?;
        let machine::Found { units, devices, remarks } = machine::discover(platform)?;
        let mut engine = Self {
            units,
            devices,
            remarks,
            domains: BTreeMap::new(),
            next_domain: 1,
            quarantine: Quarantine::default(),
            ledger,
            pieces: Vec::new(),
        };
        for unit in engine.units.iter().filter_map(|slot| slot.unit.as_ref().ok()) {
            let (base, segment, root) = (unit.base(), unit.segment(), unit.root());
            engine.ledger.insert(platform, &UnitRecord { base, segment, root })?;
        }
        engine.map_reserved_ranges(platform);
        engine.poll(platform);
        Ok(engine)
    }

    /// Gives each device for which firmware reserves memory a domain with that memory in it, before
    /// translation is turned on (rule R1).
    fn map_reserved_ranges(&mut self, platform: &mut impl Platform) {
        let wanting: Vec<PciAddress> = self
            .devices
            .iter()
            .filter(|(_, device)| !device.reserved.is_empty() && device.unit.is_some())
            .map(|(address, _)| *address)
            .collect();
        for address in wanting {
            let given = self.create_domain(platform, address).and_then(|key| {
                self.attach_to(platform, address, key).inspect_err(|_| {
                    // It was just made, and nothing is attached to it.
                    let _ = self.destroy_domain(platform, key);
                })?;
                Ok(key)
            });
            match given {
                Ok(key) => {
                    if let Some(device) = self.devices.get_mut(&address) {
                        device.firmware_domain = Some(key);
                    }
                }
                Err(error) => self.remarks.push(Remark::ReservedNotMapped { address, error }),
            }
        }
    }

    /// Goes on with what is under way: units that start, invalidations, and what waits for them.
    pub fn poll(&mut self, platform: &mut impl Platform) {
        for slot in &mut self.units {
            if let Ok(unit) = &mut slot.unit {
                unit.poll(platform);
            }
        }
        self.release(platform);
    }

    /// Whether every unit either translates or has been given up.
    pub fn is_settled(&self) -> bool {
        self.running_units().all(|unit| !matches!(unit.state(), UnitState::Starting(_)))
    }

    /// Whether something waits for hardware, so that the engine should be polled soon.
    pub fn is_waiting(&self) -> bool {
        !self.is_settled()
            || self.running_units().any(|unit| {
                !matches!(unit.state(), UnitState::Failed(_)) && unit.open_tickets() > 0
            })
    }

    /// Reads the faults that the units have recorded.
    pub fn take_events(&mut self, platform: &mut impl Platform) -> Vec<Event> {
        let mut events = Vec::new();
        let mut faults = Vec::new();
        for (index, slot) in self.units.iter_mut().enumerate() {
            let unit = UnitId(index as u16);
            let Ok(hardware) = &mut slot.unit else { continue };
            let lost = hardware.take_faults(platform, &mut faults);
            let segment = hardware.segment();
            events.extend(faults.drain(..).map(|fault| Event::Fault { unit, segment, fault }));
            if lost {
                events.push(Event::FaultsLost { unit });
            }
        }
        events
    }

    /// How a completion stands. It does not change before the next [poll](Self::poll).
    pub fn progress(&self, completion: &Completion) -> Progress {
        progress(&self.units, completion)
    }

    /// The units, in the order of the firmware's table, by [`UnitId`].
    pub fn units(&self) -> &[UnitSlot] {
        &self.units
    }

    /// The PCI functions, by address.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// A PCI function.
    pub fn device(&self, address: PciAddress) -> Option<&Device> {
        self.devices.get(&address)
    }

    /// What was odd about the firmware's table.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// The domains, by number.
    pub fn domains(&self) -> impl Iterator<Item = (DomainKey, &Domain)> {
        self.domains.iter().map(|(key, domain)| (*key, domain))
    }

    /// A domain.
    pub fn domain(&self, key: DomainKey) -> Option<&Domain> {
        self.domains.get(&key)
    }

    /// Writes down what must survive the daemon.
    ///
    /// # Errors
    ///
    /// [`EngineError::OutOfFrames`].
    pub fn write_record(
        &mut self,
        platform: &mut impl Platform,
        record: &impl Record,
    ) -> Result<Slot, EngineError> {
        Ok(self.ledger.insert(platform, record)?)
    }

    /// Strikes out what was written down.
    pub fn strike_record(&mut self, platform: &impl Platform, slot: Slot) {
        self.ledger.remove(platform, slot);
    }

    /// How many things wait for hardware to confirm before they are free.
    pub fn retired(&self) -> usize {
        self.quarantine.len()
    }

    /// Makes a domain that the unit in front of `device` can walk, empty but for the ranges that
    /// firmware reserves for the device.
    pub fn create_domain(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
    ) -> Result<DomainKey, EngineError> {
        let (_, unit) = self.unit_in_front_of(device)?;
        let format = format_for(unit).ok_or(EngineError::IncompatibleDomain(device))?;
        let everywhere: Vec<_> = self
            .devices
            .values()
            .flat_map(|device| device.reserved.iter().map(|range| range.as_iova_range()))
            .collect();
        let key = DomainKey(self.next_domain);
        let mut domain = Domain::new(platform, format, everywhere)?;
        let own = self.devices.get(&device).map_or(&[][..], |device| &device.reserved);
        let record =
            DomainRecord { key: key.0, root: domain.root(), levels: format.width.levels() };
        let made = own
            .iter()
            .try_for_each(|range| domain.map_firmware_range(platform, range.start, range.bytes))
            .and_then(|()| Ok(self.ledger.insert(platform, &record)?));
        match made {
            Ok(slot) => domain.set_slot(slot),
            Err(error) => {
                // No unit has seen any of it.
                let mut frames = Vec::new();
                domain.destroy(platform, &mut frames);
                frames.into_iter().for_each(|frame| platform.free_frame(frame));
                return Err(error);
            }
        }
        self.next_domain += 1;
        self.domains.insert(key, domain);
        Ok(key)
    }

    /// Takes a domain apart to which no device is attached any more.
    pub fn destroy_domain(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
    ) -> Result<(), EngineError> {
        let domain = self.domains.get(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if domain.devices() > 0 {
            return Err(EngineError::DomainInUse(key));
        }
        let Some(domain) = self.domains.remove(&key) else { return Ok(()) };
        if let Some(slot) = domain.slot() {
            self.ledger.remove(platform, slot);
        }
        let domain_ids = domain.memberships().collect();
        let mut frames = Vec::new();
        let completion = domain.destroy(platform, &mut frames);
        self.retire(platform, Retired { completion, frames, domain_ids, ..Retired::default() });
        Ok(())
    }

    /// Attaches a device to a domain: from the completion on at the latest, it reaches what is mapped
    /// there.
    pub fn attach(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        let state = self.devices.get(&device).ok_or(EngineError::NoSuchDevice(device))?;
        let firmware = state.firmware_domain;
        if state.attached != firmware {
            return Err(EngineError::AlreadyAttached(device));
        }
        self.check_compatible(device, key)?;
        let mut completion = Completion::none();
        if firmware.is_some() {
            completion = self.detach_from_current(platform, device)?;
        }
        match self.attach_to(platform, device, key) {
            Ok(attached) => {
                completion.join(&attached);
                Ok(completion)
            }
            Err(error) => {
                self.reattach_firmware(platform, device);
                Err(error)
            }
        }
    }

    /// Detaches a device from its domain: it reaches what firmware reserves for it, or nothing, and after
    /// the completion no unit holds anything else.
    pub fn detach(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
    ) -> Result<Completion, EngineError> {
        let state = self.devices.get(&device).ok_or(EngineError::NoSuchDevice(device))?;
        if state.attached.is_none() || state.attached == state.firmware_domain {
            return Err(EngineError::NotAttached(device));
        }
        let completion = self.detach_from_current(platform, device)?;
        pci::clear_bus_master(platform, device);
        self.reattach_firmware(platform, device);
        Ok(completion)
    }

    /// Maps memory in a domain, at a free I/O address. From the completion on at the latest, its devices
    /// reach it.
    pub fn map(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        spec: &MapSpec,
    ) -> Result<(Iova, Completion), EngineError> {
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if domain.memberships().any(|(unit, _)| has_failed(&self.units, unit)) {
            return Err(EngineError::UnitFailed);
        }
        let pieces = &mut self.pieces;
        pieces.clear();
        let run = platform.segments(spec.run);
        segments::cut(run, spec.offset, spec.bytes, pieces).ok_or(EngineError::OutOfRun)?;
        let request = IovaRequest { bytes: spec.bytes, align: spec.align, limit: spec.limit };
        let owner = Owner::Buffer(spec.owner);
        let (iova, touched) = domain.map(platform, pieces, request, spec.access, owner)?;
        let range = Changed { start: iova, bytes: spec.bytes, touched };
        let mut completion = Completion::none();
        for (unit, id) in domain.memberships() {
            let Some(hardware) = unit_mut(&mut self.units, unit) else { continue };
            if let Some(ticket) = hardware.mapped(platform, id, range) {
                completion.add(unit, ticket);
            }
        }
        Ok((iova, completion))
    }

    /// Takes a mapping away. After the completion no device reaches it; its addresses and tables are kept
    /// out of use until then, and its memory is for the caller to keep (see [`Self::free_run_after`]).
    pub fn unmap(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        iova: Iova,
        bytes: u64,
    ) -> Result<Completion, EngineError> {
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let mut frames = Vec::new();
        let range = domain.unmap(platform, iova, bytes, &mut frames)?;
        let mut completion = Completion::none();
        for (unit, id) in domain.memberships() {
            let Some(hardware) = unit_mut(&mut self.units, unit) else { continue };
            completion.add(unit, hardware.invalidate(platform, id, range));
        }
        let range = Some((key, iova, bytes));
        let retired =
            Retired { completion: completion.clone(), frames, range, ..Retired::default() };
        self.retire(platform, retired);
        Ok(completion)
    }

    /// Frees a run of memory that no device can reach once `completion` is done.
    pub fn free_run_after(
        &mut self,
        platform: &mut impl Platform,
        completion: Completion,
        run: RunId,
    ) {
        self.retire(platform, Retired { completion, run: Some(run), ..Retired::default() });
    }

    /// Frees something at once if it may be, else when it may.
    fn retire(&mut self, platform: &mut impl Platform, retired: Retired) {
        if self.progress(&retired.completion) == Progress::Done {
            self.free(platform, retired);
        } else {
            self.quarantine.put(retired);
        }
    }

    /// Frees everything that the units have confirmed.
    fn release(&mut self, platform: &mut impl Platform) {
        while let Some(retired) = self.quarantine.take(|it| progress(&self.units, it)) {
            self.free(platform, retired);
        }
    }

    fn free(&mut self, platform: &mut impl Platform, retired: Retired) {
        let Retired { frames, range, domain_ids, run, .. } = retired;
        frames.into_iter().for_each(|frame| platform.free_frame(frame));
        if let Some((key, iova, bytes)) = range
            && let Some(domain) = self.domains.get_mut(&key)
        {
            domain.free_addresses(iova, bytes);
        }
        for (unit, id) in domain_ids {
            if let Some(hardware) = unit_mut(&mut self.units, unit) {
                hardware.domain_ids().give_back(id);
            }
        }
        if let Some(run) = run {
            platform.free_run(run);
        }
    }

    /// Attaches a device that is attached to nothing.
    fn attach_to(
        &mut self,
        platform: &mut impl Platform,
        address: PciAddress,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        let (unit, _) = self.unit_in_front_of(address)?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::NotCovered(address))?;
        let known = domain.id_at(unit);
        let id = match known {
            Some(id) => id,
            None => hardware.domain_ids().take().ok_or(EngineError::OutOfDomainIds)?,
        };
        let record = AttachmentRecord { device: address, domain: key.0, id: id.get() };
        let translation =
            Translation { domain: id, table: domain.root(), width: domain.format().width };
        // Written down first: a device that is attached without a record would be forgotten.
        let attached =
            self.ledger.insert(platform, &record).map_err(EngineError::from).and_then(|slot| {
                match hardware.attach(platform, address.source(), translation) {
                    Ok(ticket) => Ok((slot, ticket)),
                    Err(_) => {
                        self.ledger.remove(platform, slot);
                        Err(EngineError::OutOfFrames)
                    }
                }
            });
        let (slot, ticket) = match attached {
            Ok(attached) => attached,
            Err(error) => {
                if known.is_none() {
                    hardware.domain_ids().give_back(id);
                }
                return Err(error);
            }
        };
        domain.device_attached(unit, id);
        if let Some(device) = self.devices.get_mut(&address) {
            device.attached = Some(key);
            device.slot = Some(slot);
        }
        Ok(ticket.map_or_else(Completion::none, |ticket| Completion::one(unit, ticket)))
    }

    /// Detaches a device from whatever it is attached to.
    fn detach_from_current(
        &mut self,
        platform: &mut impl Platform,
        address: PciAddress,
    ) -> Result<Completion, EngineError> {
        let device = self.devices.get_mut(&address).ok_or(EngineError::NoSuchDevice(address))?;
        let unit = device.unit.ok_or(EngineError::NotCovered(address))?;
        let key = device.attached.ok_or(EngineError::NotAttached(address))?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let id = domain.id_at(unit).ok_or(EngineError::NotAttached(address))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::NotCovered(address))?;
        let completion = hardware
            .detach(platform, address.source(), id)
            .map_or_else(Completion::none, |ticket| Completion::one(unit, ticket));
        domain.device_detached(unit, &completion);
        device.attached = None;
        if let Some(slot) = device.slot.take() {
            self.ledger.remove(platform, slot);
        }
        Ok(completion)
    }

    /// Gives a device back what firmware reserves for it. If that cannot be, it reaches nothing.
    fn reattach_firmware(&mut self, platform: &mut impl Platform, address: PciAddress) {
        let Some(key) = self.devices.get(&address).and_then(|device| device.firmware_domain) else {
            return;
        };
        if let Err(error) = self.attach_to(platform, address, key) {
            self.remarks.push(Remark::ReservedNotMapped { address, error });
            if let Some(device) = self.devices.get_mut(&address) {
                device.firmware_domain = None;
            }
            // Nothing is attached to it any more, for it had this one device.
            let _ = self.destroy_domain(platform, key);
        }
    }

    /// Whether the unit in front of a device can walk a domain's table.
    fn check_compatible(&self, device: PciAddress, key: DomainKey) -> Result<(), EngineError> {
        let (_, unit) = self.unit_in_front_of(device)?;
        let domain = self.domains.get(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let format = domain.format();
        let capabilities = unit.capabilities();
        let capability = capabilities.capability;
        let walks = capability.supports(format.width)
            && (capability.pages_of_2m() || !format.entries.pages_of_2m())
            && (capability.pages_of_1g() || !format.entries.pages_of_1g());
        let fits = capability.address_bits() >= format.address_bits
            && (capabilities.extended.coherent() || !format.entries.coherent())
            && (!unit.write_needs_read() || format.write_needs_read);
        if walks && fits { Ok(()) } else { Err(EngineError::IncompatibleDomain(device)) }
    }

    fn unit_in_front_of(&self, address: PciAddress) -> Result<(UnitId, &Unit), EngineError> {
        let device = self.devices.get(&address).ok_or(EngineError::NoSuchDevice(address))?;
        let id = device.unit.ok_or(EngineError::NotCovered(address))?;
        let unit = self.units.get(usize::from(id.0)).and_then(|slot| slot.unit.as_ref().ok());
        match unit {
            Some(unit) if !matches!(unit.state(), UnitState::Failed(_)) => Ok((id, unit)),
            _ => Err(EngineError::UnitNotWorking(address)),
        }
    }

    fn running_units(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter_map(|slot| slot.unit.as_ref().ok())
    }
}

/// What a domain for devices behind this unit is made of.
fn format_for(unit: &Unit) -> Option<DomainFormat> {
    let capabilities = unit.capabilities();
    let capability = capabilities.capability;
    let width = unit.preferred_width()?;
    Some(DomainFormat {
        width,
        entries: SecondStage::new(
            width,
            capability.pages_of_2m(),
            capability.pages_of_1g(),
            capabilities.extended.coherent(),
        ),
        address_bits: capability.address_bits().min(width.bits()),
        write_needs_read: unit.write_needs_read(),
    })
}

fn unit_mut(units: &mut [UnitSlot], id: UnitId) -> Option<&mut Unit> {
    units.get_mut(usize::from(id.0)).and_then(|slot| slot.unit.as_mut().ok())
}

fn has_failed(units: &[UnitSlot], id: UnitId) -> bool {
    let unit = units.get(usize::from(id.0)).and_then(|slot| slot.unit.as_ref().ok());
    unit.is_none_or(|unit| matches!(unit.state(), UnitState::Failed(_)))
}

fn progress(units: &[UnitSlot], completion: &Completion) -> Progress {
    let mut all = Progress::Done;
    for (id, ticket) in completion.tickets() {
        let unit = units.get(usize::from(id.0)).and_then(|slot| slot.unit.as_ref().ok());
        let Some(unit) = unit else { return Progress::Failed };
        if unit.confirmed() >= ticket {
            continue;
        }
        if matches!(unit.state(), UnitState::Failed(_)) {
            return Progress::Failed;
        }
        all = Progress::Pending;
    }
    all
}
