//! The real causes of failure, each met by each kind of call: a typed error, and nothing has changed.

use iommu_engine::policy::{Policy, Quotas, WithoutIommu};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use libdma::raw::RawError;
use libdma::{
    Access, Buffer, Device, Error, FromDevice, Limits, MapRequest, ScatterList, ToDevice,
};
use simulated::{Machine, second_edu};

use crate::allocating::foreign;

/// Two pages, which is more than there is room for below 8 KiB.
const BYTES: usize = 8192;

/// A device, memory of its own that is not mapped for it, and memory of another device.
struct Held {
    device: Device,
    own: Buffer,
    other: Buffer,
}

impl Held {
    fn new(machine: &Machine) -> Self {
        let device = machine.open();
        let second = machine.open_at(second_edu()).unwrap();
        let own = device.allocate(BYTES as u64, None, "own").unwrap();
        own.write(0, b"as it was").unwrap();
        let other = second.allocate(BYTES as u64, None, "other").unwrap();
        Self { device, own, other }
    }
}

/// A kind of call, and whether it takes memory.
type Call = (&'static str, bool, fn(&Held) -> Result<(), Error>);

const RW: Option<Access> = Some(Access::ReadWrite);

const CALLS: [Call; 12] = [
    ("allocate", true, |it| it.device.allocate(BYTES as u64, RW, "one").map(drop)),
    ("allocate for no CPU", true, |it| {
        it.device.buffer("one").access(RW).allocate_unmapped(BYTES as u64).map(drop)
    }),
    ("coherent", true, |it| it.device.coherent("one").bytes(BYTES).map(drop)),
    ("coherent, alone", true, |it| it.device.coherent("one").alone().bytes(BYTES).map(drop)),
    ("pool", true, |it| it.device.pool("one").bytes(BYTES)?.alloc().map(drop)),
    ("stream", true, |it| it.device.stream::<ToDevice>("one").buffer(BYTES).map(drop)),
    ("strict stream", true, |it| {
        Ok(it.device.stream::<ToDevice>("one").strict().buffer(BYTES)?.map().map(drop)?)
    }),
    ("scatter list", true, |it| {
        let (stream, mut slice) = (it.device.stream::<FromDevice>("one"), [7; BYTES]);
        let mut list = ScatterList::new(&stream);
        list.push_slice_mut(&mut slice)?;
        Ok(list.map().map(drop)?)
    }),
    ("raw stream", true, |it| {
        let mut stream = it.device.raw_stream("one");
        let failed = |error| match error {
            RawError::Failed(error) => error,
            other => panic!("{other}"),
        };
        let at = stream.map_zeroes(BYTES, Access::Read).map_err(failed)?;
        stream.unmap_single(at, BYTES as u64, Access::Read).map_err(failed)
    }),
    ("map", false, |it| {
        let bytes = BYTES as u64;
        let whole = MapRequest { buffer: &it.own, offset: 0, bytes, access: Access::Read };
        it.device.unmap(&it.device.map(&[whole])?)
    }),
    ("attach", false, |it| it.other.attach(&it.device, Access::Read, "one").map(drop)),
    ("register", false, |it| {
        let registered = it.device.register(foreign(BYTES), RW, "one");
        registered.map(drop).map_err(|refused| {
            assert!(refused.memory.is_some(), "it is the driver's again");
            refused.error
        })
    }),
];

/// Makes each call while something is the matter, and looks whether anything is left of it.
fn each_fails_with(machine: &Machine, held: &Held, error: Error, sentence: &str, all: bool) {
    for (name, takes_memory, call) in CALLS {
        if !takes_memory && !all || name == "register" && !held.device.is_confined() {
            continue;
        }
        let before = (machine.usage(), machine.text("mappings"), machine.text("config"));
        assert_eq!(call(held), Err(error), "{name}");
        let after = (machine.usage(), machine.text("mappings"), machine.text("config"));
        assert_eq!(after, before, "{name}");
    }
    assert_eq!(error.to_string(), sentence);
    let mut out = [0; 9];
    held.own.read(0, &mut out).unwrap();
    assert_eq!(&out, b"as it was");
}

/// Makes each call when nothing is the matter any more.
fn each_works(machine: &Machine, held: &Held) {
    for (name, _, call) in CALLS {
        // What a driver registers lies anywhere, and in as many pieces as it likes.
        if name == "register" && !held.device.is_confined() {
            continue;
        }
        assert_eq!(call(held), Ok(()), "{name}");
    }
    machine.check();
}

#[test]
fn r7_no_addresses_below_a_small_mask() {
    for machine in Machine::each() {
        let mut held = Held::new(&machine);
        held.device.set_dma_mask(13).unwrap();
        let sentence = "no range of I/O addresses of this size is free below the device's limit";
        each_fails_with(&machine, &held, Error::NoAddressSpace, sentence, true);
        held.device.set_limits(Limits::NONE);
        each_works(&machine, &held);
    }
}

#[test]
fn r7_no_memory() {
    for machine in Machine::each() {
        let held = Held::new(&machine);
        let used = machine.usage().live_run_bytes;
        machine.service.lock().platform_mut().limit_run_bytes(used + 4096);
        let sentence = "there is no memory for this";
        each_fails_with(&machine, &held, Error::OutOfMemory, sentence, false);
        machine.service.lock().platform_mut().limit_run_bytes(u64::MAX);
        each_works(&machine, &held);
    }
}

#[test]
fn r7_a_quota_is_reached() {
    let quotas = Quotas { mapped_bytes: 4096, ..Quotas::default() };
    let without_iommu = WithoutIommu::Unprotected;
    let policy = || Policy { quotas, without_iommu, ..Policy::default() };
    for config in [
        MachineConfig::default(),
        MachineConfig::with_amdvi(AmdviConfig::default()),
        MachineConfig::without_units(),
    ] {
        let machine = Machine::start(config.with_root_port(), policy());
        let held = Held::new(&machine);
        let sentence =
            "a limit on what one client may hold has been reached: see `iommuctl quotas`";
        each_fails_with(&machine, &held, Error::QuotaExceeded, sentence, true);
        machine.check();
    }
}

#[test]
fn r7_a_session_that_has_ended() {
    for machine in Machine::each() {
        let before = machine.usage().live_runs;
        let held = Held::new(&machine);
        machine.end_session(&held.device);
        each_fails_with(&machine, &held, Error::BadHandle, "the handle is not open", true);
        // What is left of it is its memory, which can be passed to nobody's device any more.
        let second = machine.open();
        let error = held.own.attach(&second, Access::Read, "late").unwrap_err();
        assert_eq!(error, Error::SessionEnded);
        assert_eq!(error.to_string(), "the device's session has ended");
        drop((held, second));
        assert_eq!(machine.usage().live_runs, before);
        machine.check();
    }
}
