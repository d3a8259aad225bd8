//! iommud dies between any two requests, and between a request and its answer, while drivers do whatever libdma can: they
//! notice nothing (R2, R3, R4, R7).

use iommu_engine::policy::{Orphans, Policy, WithoutIommu};
use iommu_sim::MachineConfig;
use libdma::{
    Access, Bidirectional, Device, Error, Event, FromDevice, Iova, MapRequest, ScatterList,
    ToDevice,
};
use simulated::{Machine, second_edu};
use std::time::Duration;

use crate::rig::edu;
use crate::vendor::Vendor;

both! {
    r7_random_traffic_goes_on_whenever_iommud_dies,
    r7_a_batch_that_was_mapped_and_not_answered_is_mapped_once,
    r7_a_batch_that_was_unmapped_and_not_answered_is_unmapped,
    r7_a_list_that_was_mapped_or_unmapped_and_not_answered_is,
    r7_an_unmap_that_matches_nothing_is_an_error_still,
    r4_what_is_dropped_while_iommud_is_away_is_free_afterwards,
    what_is_in_windows_asks_nobody,
    a_driver_is_told_once_that_iommud_was_restarted,
    a_device_that_entered_and_was_not_told_has_entered,
}

/// How many deaths each run of random traffic has at least.
const DEATHS: u64 = 150;

pub(crate) fn machine(vendor: Vendor) -> Machine {
    started(vendor.machine().with_root_port(), WithoutIommu::Refuse)
}

fn started(config: MachineConfig, without_iommu: WithoutIommu) -> Machine {
    // However slow the test's machine is, no session is to end for that.
    let orphans = Orphans(Duration::from_secs(3600));
    Machine::start(config, Policy { orphans, without_iommu, ..Policy::default() })
}

/// Numbers that are as random as a test needs.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % below
    }
}

/// Two drivers, in one process.
struct Drivers<'m> {
    machine: &'m Machine,
    device: Device,
    other: Device,
    random: Random,
}

impl Drivers<'_> {
    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = 1 + self.random.next(most);
        (0..length).map(|_| self.random.next(256) as u8).collect()
    }

    /// Something that was given back is out of the device's reach.
    fn is_out_of_reach(&self, iova: Iova) {
        if self.device.is_confined() {
            assert!(self.machine.device_reads(iova, 1).is_err(), "{iova} is in reach still");
        }
    }

    fn step(&mut self) -> Result<(), (&'static str, Error)> {
        let (name, done) = match self.random.next(9) {
            0 => ("coherent", self.coherent()),
            1 => ("pool", self.pool()),
            2 => ("out", self.streams_to_device()),
            3 => ("in", self.streams_from_device()),
            4 => ("list", self.scatters()),
            5 => ("batches", self.batches()),
            6 => ("sharing", self.shares()),
            7 if self.device.is_confined() => ("domain", self.enters()),
            _ => ("asking", self.asks()),
        };
        done.map_err(|error| (name, error))
    }

    fn coherent(&mut self) -> Result<(), Error> {
        let data = self.bytes(9000);
        let ring = self.device.coherent("ring").slice::<u8>(data.len())?;
        self.machine.device_writes(ring.iova(), &data).unwrap();
        let mut seen = vec![0; data.len()];
        ring.copy_to(0, &mut seen)?;
        assert_eq!(seen, data);
        Ok(())
    }

    fn pool(&mut self) -> Result<(), Error> {
        let pool = self.device.pool("jobs").of::<[u64; 8]>()?;
        let blocks = (0..1 + self.random.next(100)).map(|_| pool.alloc());
        let blocks = blocks.collect::<Result<Vec<_>, _>>().unwrap();
        for (index, block) in blocks.iter().enumerate() {
            block.set([index as u64; 8]);
        }
        for (index, block) in blocks.iter().enumerate() {
            let seen = self.machine.device_reads(block.iova(), 8).unwrap();
            assert_eq!(seen, (index as u64).to_le_bytes());
        }
        Ok(())
    }

    fn streams_to_device(&mut self) -> Result<(), Error> {
        let data = self.bytes(9000);
        let strict = self.random.next(2) == 0;
        let stream = self.device.stream::<ToDevice>("out");
        let stream = if strict { stream.strict() } else { stream };
        let mut buffer = stream.buffer(data.len())?;
        buffer.write(0, &data)?;
        let mapped = buffer.map()?;
        let iova = mapped.iova();
        assert_eq!(self.machine.device_reads(iova, data.len()).unwrap(), data);
        let buffer = mapped.unmap()?;
        if strict {
            self.is_out_of_reach(iova);
        }
        drop(buffer);
        Ok(())
    }

    fn streams_from_device(&mut self) -> Result<(), Error> {
        let data = self.bytes(100_000);
        let stream = self.device.stream::<FromDevice>("in");
        let mapped = stream.buffer(data.len())?.map()?;
        self.machine.device_writes(mapped.iova(), &data).unwrap();
        let buffer = mapped.unmap()?;
        let mut seen = vec![0; data.len()];
        buffer.read(0, &mut seen)?;
        assert_eq!(seen, data);
        Ok(())
    }

    fn scatters(&mut self) -> Result<(), Error> {
        let data = self.bytes(3000);
        let stream = self.device.stream::<Bidirectional>("list");
        let stream = if self.random.next(2) == 0 { stream.strict() } else { stream };
        let mut list = ScatterList::new(&stream);
        let pieces = 1 + self.random.next(5) as usize;
        for _ in 0..pieces {
            let mut buffer = stream.buffer(data.len())?;
            buffer.write(0, &data)?;
            list.push(buffer)?;
        }
        let mapped = list.map()?;
        let seen: Vec<u8> = mapped
            .segments()
            .iter()
            .flat_map(|it| self.machine.device_reads(it.iova, it.bytes as usize).unwrap())
            .collect();
        drop(mapped);
        assert_eq!(seen.len(), data.len() * pieces);
        assert!(seen.chunks(data.len()).all(|chunk| chunk == data));
        Ok(())
    }

    fn batches(&mut self) -> Result<(), Error> {
        let pages = 2 + self.random.next(6);
        let buffer = self.device.allocate(pages * 4096, None, "pieces")?;
        for page in 0..pages {
            buffer.write(page as usize * 4096, &[page as u8; 4096])?;
        }
        let piece = |page| MapRequest {
            buffer: &buffer,
            offset: page * 4096,
            bytes: 4096,
            access: Access::ReadWrite,
        };
        let pieces: Vec<_> = (0..pages).map(piece).collect();
        let mapped = match self.random.next(2) {
            0 => self.device.map(&pieces)?,
            _ => self.device.map_together(&pieces)?,
        };
        for (page, mapping) in mapped.iter().enumerate() {
            assert_eq!(self.machine.device_reads(mapping.iova(), 1).unwrap(), [page as u8]);
        }
        self.device.unmap(&mapped)?;
        mapped.iter().for_each(|mapping| self.is_out_of_reach(mapping.iova()));
        Ok(())
    }

    fn shares(&mut self) -> Result<(), Error> {
        let frames = self.device.allocate(8192, Some(Access::Write), "frames")?;
        self.machine.device_writes(frames.iova().unwrap(), b"picture").unwrap();
        let attached = frames.attach(&self.other, Access::Read, "to encode")?;
        let iova = attached.io_address().for_device(&self.other).unwrap();
        assert_eq!(self.machine.reads(second_edu(), iova, 7).unwrap(), b"picture");
        drop(frames);
        assert_eq!(self.machine.reads(second_edu(), iova, 7).unwrap(), b"picture");
        Ok(())
    }

    fn enters(&mut self) -> Result<(), Error> {
        let fixed = Iova::new(0x8000_0000 + self.random.next(16) * 4096);
        let firmware = self.device.allocate(8192, None, "firmware")?;
        firmware.write(0, b"go")?;
        let domain = self.device.new_domain("fixed").create()?;
        let piece = MapRequest { buffer: &firmware, offset: 0, bytes: 8192, access: Access::Read };
        let mapped = domain.map_at(fixed, &[piece])?;
        let inside = domain.attach(&self.device)?;
        assert_eq!(self.machine.device_reads(fixed, 2).unwrap(), b"go");
        let found = domain.lookup(fixed)?.unwrap();
        assert_eq!((found.buffer, found.mapping), (firmware.id(), mapped[0]));
        if self.random.next(2) == 0 {
            domain.unmap(&mapped)?;
            self.is_out_of_reach(fixed);
        }
        if self.random.next(2) == 0 {
            inside.leave()?;
            self.is_out_of_reach(fixed);
        }
        Ok(())
    }

    fn asks(&mut self) -> Result<(), Error> {
        assert!(self.device.events()?.faults().all(|fault| fault.requester == edu()));
        let buffer = self.device.allocate(4096, Some(Access::Read), "small")?;
        let found = self.device.lookup(buffer.iova().unwrap())?.unwrap();
        assert_eq!((found.buffer, found.offset), (buffer.id(), 0));
        Ok(())
    }
}

fn run(machine: &Machine, seed: u64) {
    drop((machine.open(), machine.open_at(second_edu()).unwrap()));
    let before = machine.usage();
    let (device, other) = (machine.open(), machine.open_at(second_edu()).unwrap());
    let ring = device.coherent("for all the time").slice::<u64>(512).unwrap();
    let generation = device.generation();
    let mut drivers = Drivers { machine, device, other, random: Random(seed) };
    let mut steps = 0;
    let mut deaths = 0;
    while deaths < DEATHS {
        machine.client.die(seed + steps, 4 + 3 * seed);
        for _ in 0..20 {
            steps += 1;
            drivers.step().unwrap_or_else(|error| panic!("step {steps} of {seed}: {error:?}"));
            machine.device_writes(ring.iova(), &steps.to_le_bytes()).unwrap();
            assert_eq!(ring.read(0), Ok(steps));
        }
        deaths += machine.client.live();
    }
    // What was lost when iommud died is given up when the sessions are resumed.
    drivers.device.events().unwrap();
    drivers.other.events().unwrap();
    assert!(drivers.device.generation() > generation);
    let Drivers { device, other, .. } = drivers;
    drop((ring, device, other));
    assert_eq!(machine.usage(), before);
    machine.check();
}

fn r7_random_traffic_goes_on_whenever_iommud_dies(vendor: Vendor) {
    for seed in 0..2 {
        run(&machine(vendor), seed);
    }
}

/// There are no tables to adopt, and devices reach all memory anyway: a session ends with its iommud, whose memory is not
/// used again.
#[test]
fn r2_without_an_iommu_a_session_ends_with_its_iommud() {
    let config = MachineConfig::without_units().with_root_port();
    let machine = started(config, WithoutIommu::Unprotected);
    let device = machine.open();
    let ring = device.allocate(4096, Some(Access::ReadWrite), "ring").unwrap();
    machine.restart();
    assert_eq!(device.events().err(), Some(Error::DaemonGone));
    assert_eq!(device.resume(), Err(Error::DaemonGone));
    machine.device_writes(ring.iova().unwrap(), &[7; 8]).unwrap();
    let next = machine.open();
    let other = next.allocate(4096, Some(Access::ReadWrite), "ring").unwrap();
    assert_ne!(other.iova(), ring.iova());
    let mut seen = [0; 8];
    ring.read(0, &mut seen).unwrap();
    assert_eq!(seen, [7; 8]);
}

/// How many mappings there are.
pub(crate) fn mappings(machine: &Machine) -> usize {
    let text = machine.text("mappings.json");
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    rows.as_array().unwrap().len()
}

fn r7_a_batch_that_was_mapped_and_not_answered_is_mapped_once(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let buffer = device.allocate(16384, None, "pieces").unwrap();
    let piece = |page: u64| MapRequest {
        buffer: &buffer,
        offset: page * 4096,
        bytes: 4096,
        access: Access::ReadWrite,
    };
    // The first piece twice, for which what is known is told from what is not.
    let known = device.map(&[piece(0)]).unwrap();
    let before = mappings(&machine);
    machine.client.die_once(false);
    let mapped = device.map(&[piece(0), piece(1)]).unwrap();
    assert_eq!(mappings(&machine), before + 2);
    machine.client.die_once(true);
    let again = device.map(&[piece(2), piece(3)]).unwrap();
    assert_eq!(mappings(&machine), before + 4);
    for mapping in known.iter().chain(&mapped).chain(&again) {
        assert!(machine.device_writes(mapping.iova(), &[1]).is_ok());
    }
    device.unmap(&known).unwrap();
    device.unmap(&mapped).unwrap();
    device.unmap(&again).unwrap();
    assert_eq!(mappings(&machine), before - 1);
    drop((buffer, device));
    machine.check();
}

fn r7_a_batch_that_was_unmapped_and_not_answered_is_unmapped(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let buffer = device.allocate(8192, None, "pieces").unwrap();
    let all = MapRequest { buffer: &buffer, offset: 0, bytes: 8192, access: Access::ReadWrite };
    for is_done in [false, true] {
        let mapped = device.map(&[all, all]).unwrap();
        machine.client.die_once(is_done);
        device.unmap(&mapped).unwrap();
        for mapping in &mapped {
            assert!(machine.device_writes(mapping.iova(), &[1]).is_err());
        }
        assert_eq!(device.unmap(&mapped), Err(Error::NotMapped));
    }
    drop((buffer, device));
    machine.check();
}

/// Streams' mappings are noted otherwise than those that are known by their addresses alone.
fn r7_a_list_that_was_mapped_or_unmapped_and_not_answered_is(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let strict = device.stream::<FromDevice>("strict").strict();
    for pieces in [1, 3] {
        for is_done in [false, true] {
            let mut list = ScatterList::new(&strict);
            for _ in 0..pieces {
                list.push(strict.buffer(4096).unwrap()).unwrap();
            }
            let before = mappings(&machine);
            machine.client.die_once(is_done);
            let list = list.map().unwrap();
            assert_eq!(mappings(&machine), before + pieces);
            let first = list.segments()[0].iova;
            machine.device_writes(first, &[1]).unwrap();
            machine.client.die_once(is_done);
            drop(list.unmap().unwrap());
            assert_eq!(mappings(&machine), before);
            assert!(machine.device_writes(first, &[1]).is_err());
        }
        let buffer = strict.buffer(4096).unwrap();
        machine.client.die_once(true);
        let buffer = buffer.map().unwrap();
        let iova = buffer.iova();
        machine.device_writes(iova, &[1]).unwrap();
        machine.client.die_once(true);
        drop(buffer.unmap().unwrap());
        assert!(machine.device_writes(iova, &[1]).is_err());
    }
    drop((strict, device));
    machine.check();
}

fn r7_an_unmap_that_matches_nothing_is_an_error_still(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let buffer = device.allocate(8192, None, "pieces").unwrap();
    let all = MapRequest { buffer: &buffer, offset: 0, bytes: 8192, access: Access::ReadWrite };
    let mapped = device.map(&[all]).unwrap()[0];
    let nothing = libdma::Mapped::new(device.bus_address(Iova::new(0x7000_0000)), 4096);
    for is_done in [false, true] {
        machine.client.die_once(is_done);
        assert_eq!(device.unmap(&[nothing]), Err(Error::NotMapped));
        machine.client.die_once(is_done);
        assert_eq!(device.unmap(&[mapped, nothing]), Err(Error::NotMapped));
        assert!(machine.device_writes(mapped.iova(), &[1]).is_ok(), "nothing of it was done");
    }
    drop((buffer, device));
    machine.check();
}

fn r4_what_is_dropped_while_iommud_is_away_is_free_afterwards(vendor: Vendor) {
    let machine = machine(vendor);
    drop(machine.open());
    let before = machine.usage();
    let device = machine.open();
    let kept = device.allocate(4096, Some(Access::Read), "kept").unwrap();
    let bare = machine.usage();
    let dropped = device.allocate(1 << 20, Some(Access::ReadWrite), "dropped").unwrap();
    let iova = dropped.iova().unwrap();
    machine.restart();
    drop(dropped);
    assert!(machine.device_writes(iova, &[1]).is_ok(), "nobody was told");
    device.events().unwrap();
    assert!(machine.device_writes(iova, &[1]).is_err());
    assert!(machine.device_reads(kept.iova().unwrap(), 1).is_ok());
    assert_eq!(machine.usage(), bare);
    drop((kept, device));
    assert_eq!(machine.usage(), before);
    machine.check();
}

fn what_is_in_windows_asks_nobody(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let stream = device.stream::<Bidirectional>("both");
    drop(stream.buffer(1500).unwrap());
    let pool = device.pool("jobs").of::<[u64; 8]>().unwrap();
    drop(pool.alloc().unwrap());
    machine.restart();
    let requests = machine.client.requests();
    for _ in 0..100 {
        let mapped = stream.buffer(1500).unwrap().map().unwrap();
        machine.device_writes(mapped.iova(), &[7; 1500]).unwrap();
        drop(mapped.unmap().unwrap());
        let block = pool.alloc().unwrap();
        machine.device_writes(block.iova(), &[7; 8]).unwrap();
    }
    assert_eq!(machine.client.requests(), requests);
    drop((pool, stream, device));
    machine.check();
}

fn a_driver_is_told_once_that_iommud_was_restarted(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    assert_eq!(device.events().unwrap().events, []);
    for _ in 0..2 {
        let before = device.generation();
        machine.restart();
        let told = device.events().unwrap().events;
        let [Event::Restarted { generation, .. }] = told[..] else { panic!("{told:?}") };
        assert_eq!(generation, device.generation());
        assert!(generation > before);
        assert_eq!(device.events().unwrap().events, []);
    }
    drop(device);
    machine.check();
}

fn a_device_that_entered_and_was_not_told_has_entered(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let domain = device.new_domain("fixed").create().unwrap();
    // The copy, its ticket, and entering: iommud dies of each.
    for after in 0..3 {
        for is_done in [false, true] {
            machine.client.die_after(after, is_done);
            let inside = domain.attach(&device).unwrap();
            assert_eq!(inside.domain(), domain.id());
            machine.client.die_once(is_done);
            inside.leave().unwrap();
        }
    }
    drop((domain, device));
    machine.check();
}
