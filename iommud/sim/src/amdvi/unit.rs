//! The unit: its register file, and what tests may look at.

use super::cache::Caches;
use super::command::Buffer;
use super::config::{AmdviConfig, AmdviTiming};
use super::log::Log;
use super::registers::{Control, DeviceTable, Exclusion, RING_BITS, Status, offset};
use crate::dram::Bus;
use crate::machine::lies::Confirms;
use crate::pace::Health;
use crate::request::{half, with_half};

/// Something that software must not do, and did. A correct engine leaves the list empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The unit was turned on, and no device table had been set.
    DeviceTableNotSet,
    /// Half of a device table's address was written while the unit was on: for a moment it is nowhere.
    DeviceTableTorn,
    /// A device's entry was used that had been read before the device table was changed, though a
    /// COMPLETION_WAIT has been done since: nobody has invalidated it.
    StaleDeviceTable,
    /// A device table entry with V = 1 has a reserved field set or an encoding that means nothing: it is
    /// wrong, or only half of it has been written.
    IllegalDeviceEntry,
    /// A present page table entry has a reserved field set or an encoding that means nothing.
    IllegalPageEntry,
    /// Not all the entries that a page fills mean the same.
    ReplicasDiffer,
    /// The number of segments was changed while the unit was on.
    SegmentsWhileOn,
    /// A bit of the control register was set that is reserved or belongs to a feature that the unit has not.
    ControlReserved,
    /// A reserved field of a base register was set, or a length that is reserved.
    BaseReserved,
    /// A buffer or log was turned on with its base not set.
    BaseNotSet,
    /// The command buffer's base was written while it ran.
    CommandBufferWhileRunning,
    /// The command buffer's head was written while it ran.
    CommandHeadWhileRunning,
    /// The command buffer's tail was set beyond its end, or past the head.
    CommandTail,
    /// CmdBufEn was set again before CmdBufRun had gone.
    CommandBufferNotStopped,
    /// The event log's base was written while it ran.
    EventLogWhileRunning,
    /// The event log's head was set beyond its end, or past the tail.
    EventHead,
    /// The event log was turned on again with its overflow not cleared.
    EventLogOverflown,
    /// The event log is not in memory.
    EventLogMemory,
    /// A COMPLETION_WAIT stores where there is no memory.
    StoreAddress,
    /// INVALIDATE_IOMMU_PAGES with S = 1 and an address of all ones, which is no size.
    InvalidationSize,
}

/// What a unit has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands carried out.
    pub commands: u64,
    /// Table walks.
    pub walks: u64,
    /// Words of tables read, device table entries included.
    pub table_reads: u64,
    /// Requests whose device table entry was cached.
    pub device_hits: u64,
    /// Requests served from the IOTLB.
    pub page_hits: u64,
    /// Walks that started at a cached table.
    pub table_hits: u64,
    /// Requests that ended in an event, whether logged or not.
    pub events: u64,
    /// Invalidations of device table entries done.
    pub device_invalidations: u64,
    /// Invalidations of translations done.
    pub page_invalidations: u64,
    /// Waits for all before to be done.
    pub waits: u64,
}

/// An AMD-Vi unit. The [`Machine`](crate::Machine) gives it register accesses, requests and time.
#[derive(Debug)]
pub struct AmdviUnit {
    pub(super) config: AmdviConfig,
    pub(super) now: u64,
    /// The device table, or those of its segments.
    pub(super) device_tables: [DeviceTable; 8],
    /// How often `device_tables` has changed.
    pub(super) table_generation: u64,
    /// Whether a COMPLETION_WAIT has been done since it last did.
    pub(super) table_awaited: bool,
    table_set: bool,
    pub(super) control: Control,
    pub(super) exclusion: Exclusion,
    /// The first byte of the last page of the exclusion range.
    pub(super) exclusion_limit: u64,
    /// The bits of the status register that are cleared by writing 1.
    pub(super) status: Status,
    pub(super) buffer: Buffer,
    pub(super) log: Log,
    pub(super) caches: Caches,
    pub(super) counters: Counters,
    /// Interrupts not yet sent.
    pub(super) interrupts: usize,
    violations: Vec<Violation>,
    pub(super) confirms: Confirms,
}

impl AmdviUnit {
    /// A unit after reset: nothing is translated, all caches are empty.
    pub fn new(config: AmdviConfig) -> Self {
        Self {
            config,
            now: 0,
            device_tables: [DeviceTable::new(); 8],
            table_generation: 0,
            table_awaited: false,
            table_set: false,
            control: Control::new(),
            exclusion: Exclusion::new(),
            exclusion_limit: 0,
            status: Status::new(),
            buffer: Buffer::default(),
            log: Log::default(),
            caches: Caches::default(),
            counters: Counters::default(),
            interrupts: 0,
            violations: Vec::new(),
            confirms: Confirms::default(),
        }
    }

    /// What the unit can do.
    pub fn config(&self) -> &AmdviConfig {
        &self.config
    }

    /// Makes the unit faster, slower or stuck from now on.
    pub fn set_timing(&mut self, timing: AmdviTiming) {
        self.config.timing = timing;
    }

    /// Makes the registers answer, or not.
    pub fn set_health(&mut self, health: Health) {
        self.config.health = health;
    }

    /// Has the unit say so of what it has done, from now on.
    pub(crate) fn set_confirms(&mut self, confirms: Confirms) {
        self.confirms = confirms;
    }

    /// Puts the unit in the state that firmware or a boot loader leaves behind when it used translation:
    /// on, with its own device table. `device_table` is what it wrote into that register.
    pub fn firmware_left_translation_on(&mut self, device_table: u64) {
        self.device_tables[0] = DeviceTable::from_bits(device_table);
        self.table_set = true;
        self.control.set_enable(true);
    }

    /// Puts the unit in the state that firmware or a boot loader leaves behind when it used command buffer
    /// and event log: both on, empty, somewhere in the middle. The arguments are what it wrote into the
    /// base registers.
    pub fn firmware_left_rings_on(&mut self, command_base: u64, event_base: u64) {
        self.buffer.base = command_base.into();
        self.log.base = event_base.into();
        (self.buffer.head, self.buffer.tail) = (0x40, 0x40);
        (self.log.head, self.log.tail) = (0x40, 0x40);
        self.control.set_command_buffer(true);
        self.control.set_event_log(true);
        self.buffer.runs = self.control.enable();
        self.log.runs = self.control.enable();
    }

    /// Whether the unit is on.
    pub fn is_translating(&self) -> bool {
        self.control.enable() && self.config.health == Health::Working
    }

    /// What the unit has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What software did that it must not, in order.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many interrupts the unit has sent since this was last asked.
    pub(crate) fn take_interrupts(&mut self) -> usize {
        std::mem::take(&mut self.interrupts)
    }

    pub(super) fn violate(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// Lets everything happen whose time has come by `now`.
    pub(crate) fn advance(&mut self, bus: Bus<'_>, now: u64) {
        self.now = self.now.max(now);
        self.step_commands(bus);
    }

    /// Reads `size` bytes (4 or 8) of registers.
    pub(crate) fn read(&mut self, bus: Bus<'_>, at: u64, size: usize) -> u64 {
        self.step_commands(bus);
        let word = match self.config.health {
            Health::Working => self.register(at & !7),
            Health::AllOnes => u64::MAX,
            Health::AllZeroes => 0,
        };
        if size == 8 { word } else { half(word, at).into() }
    }

    /// Writes `size` bytes (4 or 8) of registers.
    pub(crate) fn write(&mut self, bus: Bus<'_>, at: u64, size: usize, value: u64) {
        if self.config.health != Health::Working {
            return;
        }
        let register = at & !7;
        if size == 8 {
            self.set_register(register, value, true);
        } else if register == offset::STATUS {
            // What is not written clears nothing.
            self.set_register(register, with_half(0, at, value as u32), false);
        } else {
            let word = with_half(self.register(register), at, value as u32);
            self.set_register(register, word, false);
        }
        self.step_commands(bus);
    }

    fn register(&self, at: u64) -> u64 {
        match at {
            offset::DEVICE_TABLE => self.device_tables[0].into_bits(),
            offset::COMMAND_BASE => self.buffer.base.into_bits(),
            offset::EVENT_BASE => self.log.base.into_bits(),
            offset::CONTROL => self.control.into_bits(),
            offset::EXCLUSION_BASE => self.exclusion.into_bits(),
            offset::EXCLUSION_LIMIT => self.exclusion_limit,
            offset::EXTENDED_FEATURES => self.config.features(),
            offset::COMMAND_HEAD => self.buffer.head,
            offset::COMMAND_TAIL => self.buffer.tail,
            offset::EVENT_HEAD => self.log.head,
            offset::EVENT_TAIL => self.log.tail,
            offset::STATUS => self
                .status
                .with_event_log_runs(self.log.runs)
                .with_command_buffer_runs(self.buffer.runs)
                .into_bits(),
            _ => self.segment(at).map_or(0, |number| self.device_tables[number].into_bits()),
        }
    }

    fn set_register(&mut self, at: u64, value: u64, whole: bool) {
        match at {
            offset::DEVICE_TABLE => self.write_device_table(0, value, whole),
            offset::COMMAND_BASE => self.write_command_base(value),
            offset::EVENT_BASE => self.write_log_base(value),
            offset::CONTROL => self.write_control(Control::from_bits(value)),
            offset::EXCLUSION_BASE => self.exclusion = Exclusion::from_bits(value),
            offset::EXCLUSION_LIMIT => self.exclusion_limit = value & 0x000f_ffff_ffff_f000,
            offset::COMMAND_HEAD => self.write_command_head(value & RING_BITS),
            offset::COMMAND_TAIL => self.write_command_tail(value & RING_BITS),
            offset::EVENT_HEAD => self.write_log_head(value & RING_BITS),
            // Hardware writes it; software may only while nothing runs.
            offset::EVENT_TAIL if !self.log.runs => self.log.tail = value & RING_BITS,
            offset::STATUS => {
                let (status, clear) = (&mut self.status, Status::from_bits(value));
                status.set_overflow(status.overflow() && !clear.overflow());
                status.set_event_interrupt(status.event_interrupt() && !clear.event_interrupt());
                status.set_wait_interrupt(status.wait_interrupt() && !clear.wait_interrupt());
            }
            _ => {
                if let Some(number) = self.segment(at) {
                    self.write_device_table(number, value, whole);
                }
            }
        }
    }

    /// The number of the segment whose register is at this offset, if the unit has it.
    fn segment(&self, at: u64) -> Option<usize> {
        if !(offset::SEGMENTS..offset::SEGMENTS_END).contains(&at) {
            return None;
        }
        let number = 1 + ((at - offset::SEGMENTS) / 8) as usize;
        (number < 1 << self.config.offered().segments()).then_some(number)
    }

    fn write_device_table(&mut self, number: usize, value: u64, whole: bool) {
        let table = DeviceTable::from_bits(value);
        if self.control.enable() && !whole {
            self.violate(Violation::DeviceTableTorn);
        }
        if table.reserved() != 0 || table.reserved_high() != 0 {
            self.violate(Violation::BaseReserved);
        }
        if table != self.device_tables[number] {
            self.table_generation += 1;
            self.table_awaited = false;
        }
        self.device_tables[number] = table;
        self.table_set |= number == 0;
    }

    fn write_control(&mut self, value: Control) {
        let old = self.control;
        let absent = (value.absent() & !old.absent(), value.absent_high() & !old.absent_high());
        if absent != (0, 0) || value.segments() > self.config.offered().segments() {
            self.violate(Violation::ControlReserved);
        }
        if old.enable() && value.segments() != old.segments() {
            self.violate(Violation::SegmentsWhileOn);
        }
        if value.enable() && !old.enable() && !self.table_set {
            self.violate(Violation::DeviceTableNotSet);
        }
        self.control = value;
        // While the unit is off it takes no commands and logs nothing.
        let was = old.enable() && old.command_buffer();
        let is = value.enable() && value.command_buffer();
        if is && !was {
            self.start_buffer();
        } else if was && !is && self.buffer.runs {
            self.buffer.stopping = Some(self.now);
        }
        let was = old.enable() && old.event_log();
        let is = value.enable() && value.event_log();
        if is && !was {
            self.start_log();
        } else if !is {
            self.log.runs = false;
        }
    }

    fn start_buffer(&mut self) {
        if self.buffer.runs {
            self.violate(Violation::CommandBufferNotStopped);
        }
        if self.buffer.base.into_bits() == 0 {
            self.violate(Violation::BaseNotSet);
        } else if self.buffer.base.is_wrong() {
            self.violate(Violation::BaseReserved);
        }
        self.buffer.stopping = None;
        self.buffer.runs = true;
    }

    fn start_log(&mut self) {
        if self.log.base.into_bits() == 0 {
            self.violate(Violation::BaseNotSet);
        } else if self.log.base.is_wrong() {
            self.violate(Violation::BaseReserved);
        }
        if self.status.overflow() {
            return self.violate(Violation::EventLogOverflown);
        }
        self.log.runs = true;
    }
}
