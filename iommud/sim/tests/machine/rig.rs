//! A machine with hand-made tables: every number in it is from the specification's figures.

use dma_types::PciAddress;
use iommu_sim::vtd::{FaultReason, VtdConfig, VtdUnit};
use iommu_sim::{Blocked, HeapMemory, Machine, MachineConfig, Memory};

/// The unit's registers.
pub(crate) const UNIT: u64 = 0xfed9_0000;
/// The `edu` device's BAR 0.
pub(crate) const EDU_BAR: u64 = 0xfea0_0000;
/// Where the tables are.
pub(crate) const ROOT: u64 = 0x10000;
pub(crate) const CONTEXT: u64 = 0x11000;
/// Tables of each level: `table(1)` is the lowest.
pub(crate) const fn table(level: u64) -> u64 {
    0x12000 + level * 0x1000
}
pub(crate) const QUEUE: u64 = 0x20000;
pub(crate) const STATUS: u64 = 0x21000;
/// Data pages.
pub(crate) const PAGE: u64 = 0x30000;
pub(crate) const OTHER_PAGE: u64 = 0x31000;
/// The device's context entry: device 2, function 0.
pub(crate) const EDU_CONTEXT: u64 = CONTEXT + 0x10 * 16;

pub(crate) struct Rig {
    pub(crate) machine: Machine<HeapMemory>,
    pub(crate) edu: PciAddress,
}

by_hand!(UNIT);

impl Rig {
    /// The default machine with this unit, over 1 MiB of memory at 0 and 4 MiB at 0x40000000.
    pub(crate) fn new(unit: VtdConfig) -> Self {
        Self::with(MachineConfig::with_unit(unit))
    }

    pub(crate) fn with(config: MachineConfig) -> Self {
        let memory = HeapMemory::new(&[(0, 1 << 20), (0x4000_0000, 4 << 20)]);
        let edu = config.edus[0].address;
        let mut machine = Machine::new(config, memory);
        machine.config_write(edu, 4, 6);
        Self { machine, edu }
    }

    /// The same with tables of 4 levels in domain 7 that map 0x5000 to PAGE, readable and writable, and
    /// translation on.
    pub(crate) fn translating(unit: VtdConfig) -> Self {
        let mut rig = Self::new(unit);
        rig.build();
        rig.turn_on();
        rig
    }

    pub(crate) fn build(&mut self) {
        self.put(ROOT, CONTEXT | 1);
        // AW = 2: 4 levels. DID = 7.
        self.put(EDU_CONTEXT, table(4) | 1);
        self.put(EDU_CONTEXT + 8, 7 << 8 | 2);
        self.put(table(4), table(3) | 3);
        self.put(table(3), table(2) | 3);
        self.put(table(2), table(1) | 3);
        self.put(table(1) + 5 * 8, PAGE | 3);
        self.machine.flush(ROOT, 0x7000);
    }

    /// Sets the root table, invalidates everything by register and turns translation on.
    pub(crate) fn turn_on(&mut self) {
        self.write64(0x20, ROOT);
        self.write32(0x18, 1 << 30);
        self.invalidate_contexts();
        self.invalidate_pages();
        self.write32(0x18, 1 << 31);
        assert_eq!(self.read32(0x1c), 0xc000_0000);
    }

    pub(crate) fn invalidate_contexts(&mut self) {
        self.write64(0x28, 1 << 63 | 1 << 61);
    }

    pub(crate) fn invalidate_pages(&mut self) {
        self.write64(0xf8, 1 << 63 | 1 << 60);
    }

    /// Turns the queue on, one page long.
    pub(crate) fn turn_queue_on(&mut self) {
        self.write64(0x90, QUEUE);
        let on = self.read32(0x1c) & 1 << 31;
        self.write32(0x18, on | 1 << 26);
    }

    /// Puts descriptors into the queue from the tail on, and moves the tail.
    pub(crate) fn submit(&mut self, descriptors: &[(u64, u64)]) {
        self.submit_to(QUEUE, 0x88, descriptors);
    }

    pub(crate) fn unit(&mut self) -> &mut VtdUnit {
        self.machine.unit_mut(0).unwrap()
    }

    /// The reason of a fault on reading, which must be recorded with page, source-id and direction, and is
    /// then cleared.
    pub(crate) fn read_fault(&mut self, address: u64) -> FaultReason {
        let Err(Blocked::Fault(reason)) = self.dma_read(address) else {
            panic!("the read got through")
        };
        assert_eq!(self.take_record(), (address & !0xfff, 1 << 63 | 1 << 62 | code(reason) | 0x10));
        reason
    }

    /// The same on writing.
    pub(crate) fn write_fault(&mut self, address: u64) -> FaultReason {
        let Err(Blocked::Fault(reason)) = self.dma_write(address, 0) else {
            panic!("the write got through")
        };
        assert_eq!(self.take_record(), (address & !0xfff, 1 << 63 | code(reason) | 0x10));
        reason
    }

    /// The record that FSTS names, and clears it.
    pub(crate) fn take_record(&mut self) -> (u64, u64) {
        let status = self.read32(0x34);
        assert_eq!(status & 0xff, 2, "one fault pending");
        let at = 0x220 + 16 * u64::from(status >> 8);
        let record = (self.read64(at), self.read64(at + 8));
        self.write32(at + 12, 1 << 31);
        assert_eq!(self.read32(0x34) & 0xff, 0);
        record
    }
}

fn code(reason: FaultReason) -> u64 {
    (reason as u64) << 32
}
