//! A machine with hand-made tables: every number in it is from the specification's figures.

use dma_types::PciAddress;
use iommu_sim::amdvi::{AmdviConfig, AmdviUnit, EventCode};
use iommu_sim::{Blocked, HeapMemory, Machine, MachineConfig, Memory};

/// The unit's registers.
pub(crate) const UNIT: u64 = 0xfed8_0000;
/// The `edu` device's BAR 0.
pub(crate) const EDU_BAR: u64 = 0xfea0_0000;
/// The device table, for all 65536 source-ids.
pub(crate) const DEVICES: u64 = 0x20_0000;
/// What the device table register says of it.
pub(crate) const DEVICE_TABLE: u64 = DEVICES | 0x1ff;
/// The entry of the `edu` device: source-id 0010h.
pub(crate) const EDU_ENTRY: u64 = DEVICES + 0x10 * 32;
/// Tables of each level: `table(1)` is the lowest.
pub(crate) const fn table(level: u64) -> u64 {
    0x12000 + level * 0x1000
}
/// Command buffer and event log: 256 entries each.
pub(crate) const COMMANDS: u64 = 0x20000;
pub(crate) const EVENTS: u64 = 0x22000;
/// What their base registers say.
pub(crate) const COMMAND_BASE: u64 = COMMANDS | 8 << 56;
pub(crate) const EVENT_BASE: u64 = EVENTS | 8 << 56;
/// Where COMPLETION_WAIT stores.
pub(crate) const STATUS: u64 = 0x24000;
/// Data pages.
pub(crate) const PAGE: u64 = 0x30000;
pub(crate) const OTHER_PAGE: u64 = 0x31000;
/// An entry that maps a page: present, readable, writable.
pub(crate) const RW: u64 = 0x6000_0000_0000_0001;
pub(crate) const R: u64 = 0x2000_0000_0000_0001;
pub(crate) const W: u64 = 0x4000_0000_0000_0001;
/// A device table entry: V, TV, readable, writable; without a table.
pub(crate) const DEVICE: u64 = 0x6000_0000_0000_0003;
/// The NextLevel field, and Mode in a device table entry.
pub(crate) const fn level(next: u64) -> u64 {
    next << 9
}
/// IommuEn, EventLogEn and CmdBufEn.
pub(crate) const ON: u64 = 0x1005;
/// INVALIDATE_IOMMU_ALL.
pub(crate) const ALL: (u64, u64) = (8 << 60, 0);
/// INVALIDATE_DEVTAB_ENTRY of the `edu` device.
pub(crate) const EDU: (u64, u64) = (2 << 60 | 0x10, 0);
/// INVALIDATE_IOMMU_PAGES of domain 7, with what is in the upper word.
pub(crate) const fn pages(what: u64) -> (u64, u64) {
    (3 << 60 | 7 << 32, what)
}
/// COMPLETION_WAIT that stores a number.
pub(crate) const fn wait(number: u64) -> (u64, u64) {
    (1 << 60 | STATUS | 1, number)
}

pub(crate) const FAULT: Blocked = Blocked::Event(EventCode::PageFault);

pub(crate) struct Rig {
    pub(crate) machine: Machine<HeapMemory>,
    pub(crate) edu: PciAddress,
}

by_hand!(UNIT);

impl Rig {
    /// The default machine with this unit, over 4 MiB of memory at 0 and 8 MiB at 0x40000000.
    pub(crate) fn new(unit: AmdviConfig) -> Self {
        Self::with(MachineConfig::with_amdvi(unit))
    }

    pub(crate) fn with(config: MachineConfig) -> Self {
        let memory = HeapMemory::new(&[(0, 4 << 20), (0x4000_0000, 8 << 20)]);
        let edu = config.edus[0].address;
        let mut machine = Machine::new(config, memory);
        machine.config_write(edu, 4, 6);
        Self { machine, edu }
    }

    /// The same with tables of 4 levels in domain 7 that map 0x5000 to PAGE, readable and writable, and the
    /// unit on.
    pub(crate) fn translating(unit: AmdviConfig) -> Self {
        let mut rig = Self::new(unit);
        rig.build();
        rig.turn_on();
        rig
    }

    pub(crate) fn build(&mut self) {
        self.put(EDU_ENTRY, DEVICE | level(4) | table(4));
        self.put(EDU_ENTRY + 8, 7);
        self.put(table(4), table(3) | level(3) | RW);
        self.put(table(3), table(2) | level(2) | RW);
        self.put(table(2), table(1) | level(1) | RW);
        self.put(table(1) + 5 * 8, PAGE | RW);
        self.machine.flush(DEVICES, 0x1000);
        self.machine.flush(table(1), 0x4000);
    }

    /// Sets the bases, turns everything on and invalidates everything.
    pub(crate) fn turn_on(&mut self) {
        self.write64(0, DEVICE_TABLE);
        self.write64(8, COMMAND_BASE);
        self.write64(0x10, EVENT_BASE);
        self.write64(0x18, ON);
        assert_eq!(self.read64(0x2020), 0x18);
    }

    /// Puts commands into the buffer from the tail on, and moves the tail.
    pub(crate) fn submit(&mut self, commands: &[(u64, u64)]) {
        self.submit_to(COMMANDS, 0x2008, commands);
    }

    pub(crate) fn unit(&mut self) -> &mut AmdviUnit {
        self.machine.amdvi_mut(0).unwrap()
    }

    /// The next event of the log, which is then free for another.
    pub(crate) fn take_event(&mut self) -> Option<(u64, u64)> {
        let (head, tail) = (self.read64(0x2010), self.read64(0x2018));
        if head == tail {
            return None;
        }
        let event = (self.get(EVENTS + head), self.get(EVENTS + head + 8));
        self.write64(0x2010, (head + 16) % 4096);
        Some(event)
    }

    /// The event of a read that must be blocked.
    pub(crate) fn read_event(&mut self, address: u64) -> (u64, u64) {
        assert!(self.dma_read(address).is_err_and(Blocked::is_by_tables));
        self.the_event()
    }

    /// The event of a write that must be blocked.
    pub(crate) fn write_event(&mut self, address: u64) -> (u64, u64) {
        assert!(self.dma_write(address, 0).is_err_and(Blocked::is_by_tables));
        self.the_event()
    }

    fn the_event(&mut self) -> (u64, u64) {
        let event = self.take_event().expect("an event is logged");
        assert_eq!(self.take_event(), None, "and no other");
        event
    }
}
