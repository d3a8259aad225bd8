//! Maps and unmaps through the engine: addresses, tables, records, and the unit's confirmation.

use dma_types::{Access, Iova};
use iommu_engine::Engine;
use iommu_engine::completion::Progress;
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::MapSpec;
use iommu_engine::payer::{Payer, Purse};
use iommu_engine::platform::BufferRuns;
use iommu_engine::policy::Invalidation;

use crate::Operation;
use crate::counted::rounds;
use crate::machine::{Machine, device};

pub(crate) const OPERATIONS: [Operation; 14] = [
    Operation { name: "nothing", per: 1, run: nothing },
    Operation { name: "engine: map 4 KiB", per: 1, run: || pair(4 << 10, 64, true, false) },
    Operation { name: "engine: unmap 4 KiB", per: 1, run: || pair(4 << 10, 64, false, true) },
    Operation { name: "engine: map + unmap 4 KiB", per: 1, run: || pair(4 << 10, 64, true, true) },
    Operation {
        name: "engine: map + unmap 4 KiB, 100,000 live",
        per: 1,
        run: || pair(4 << 10, 100_000, true, true),
    },
    Operation {
        name: "engine: map + unmap 64 KiB",
        per: 1,
        run: || pair(64 << 10, 64, true, true),
    },
    Operation { name: "engine: map 64 KiB in 16 pages", per: 1, run: || pages(16, true, false) },
    Operation {
        name: "engine: map + unmap 64 KiB in 16 pages",
        per: 1,
        run: || pages(16, true, true),
    },
    Operation { name: "engine: map + unmap 2 MiB", per: 1, run: || pair(2 << 20, 64, true, true) },
    Operation { name: "engine: map + unmap 4 KiB, confirmed when polled", per: 1, run: late },
    Operation {
        name: "engine: unmap 256 x 4 KiB at one go, each",
        per: BATCH as u64,
        run: || batch(false),
    },
    Operation {
        name: "engine: unmap 256 x 4 KiB at one go, each, confirmed when polled",
        per: BATCH as u64,
        run: || batch(true),
    },
    Operation { name: "engine: map 1 MiB, per 4 KiB", per: 256, run: || bulk(true, false) },
    Operation { name: "engine: unmap 1 MiB, per 4 KiB", per: 256, run: || bulk(false, true) },
];

fn nothing() {
    rounds(|counted| counted(&mut || {}));
}

pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) engine: Engine,
    pub(crate) domain: DomainKey,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let mut machine = Machine::new(4096);
        let mut engine = machine.start();
        let domain = engine.create_domain(&mut machine, &[device()]).expect("a domain");
        let _ = engine.attach(&mut machine, device(), domain).expect("a device");
        engine.poll(&mut machine);
        Self { machine, engine, domain }
    }

    /// What is asked for a client: somebody pays.
    pub(crate) fn map(&mut self, spec: &MapSpec) -> Iova {
        let Self { machine, engine, domain } = self;
        let purse = Purse { payer: Payer(1), client: Payer(1), frames: 1 << 20 };
        let mapped = engine.on_account(purse, |engine| engine.map(machine, *domain, spec));
        mapped.expect("a mapping").0
    }

    pub(crate) fn unmap(&mut self, iova: Iova, bytes: u64) {
        let Self { machine, engine, domain } = self;
        let unmapped = engine.unmap(machine, *domain, iova, bytes);
        drop(unmapped.expect("a mapping"));
        assert_eq!(engine.retired(), 0, "the unit confirms at once");
    }

    /// A slow unit has done what it was asked, and the engine looks.
    fn catch_up(&mut self) {
        self.machine.catch_up();
        self.engine.poll(&mut self.machine);
    }
}

pub(crate) fn spec(machine: &mut Machine, bytes: u64) -> MapSpec {
    let run = machine.alloc_run(bytes).expect("memory");
    let (access, limit) = (Access::ReadWrite, Iova::new(u64::MAX));
    MapSpec { run, offset: 0, bytes, access, align: 4096, first: Iova::new(0), limit, owner: 1 }
}

/// Maps and unmaps, with so many others live.
fn pair(bytes: u64, live: usize, count_map: bool, count_unmap: bool) {
    pair_of(|machine| spec(machine, bytes), live, count_map, count_unmap);
}

/// Maps and unmaps memory in pieces of a page.
fn pages(count: u64, count_map: bool, count_unmap: bool) {
    let in_pages = |machine: &mut Machine| {
        let (bytes, run) = (count * 4096, machine.alloc_pages(count));
        MapSpec { run, bytes, ..spec(machine, 4096) }
    };
    pair_of(in_pages, 64, count_map, count_unmap);
}

fn pair_of(
    spec_of: impl FnOnce(&mut Machine) -> MapSpec,
    live: usize,
    count_map: bool,
    count_unmap: bool,
) {
    let mut rig = Rig::new();
    let other = spec(&mut rig.machine, 4096);
    for _ in 0..live {
        rig.map(&other);
    }
    let spec = spec_of(&mut rig.machine);
    // One large page keeps the table of such.
    rig.map(&spec);
    rounds(|counted| {
        let mut iova = Iova::new(0);
        let mut map = || iova = rig.map(&spec);
        if count_map {
            counted(&mut map)
        } else {
            map()
        }
        let mut unmap = || rig.unmap(iova, spec.bytes);
        if count_unmap { counted(&mut unmap) } else { unmap() }
    });
}

/// The unit is not done when the unmap is, but when the engine looks next.
fn late() {
    let mut rig = Rig::new();
    let spec = spec(&mut rig.machine, 4096);
    rig.map(&spec);
    rig.machine.slow_down();
    rounds(|counted| {
        let mut iova = Iova::new(0);
        counted(&mut || {
            iova = rig.map(&spec);
            let Rig { machine, engine, domain } = &mut rig;
            let waited = engine.unmap(machine, *domain, iova, 4096).expect("a mapping");
            assert_eq!(engine.progress(&waited), Progress::Pending);
        });
        counted(&mut || rig.catch_up());
        assert_eq!(rig.engine.retired(), 0);
    });
}

/// Many single mappings, taken away together.
const BATCH: usize = 256;

fn batch(late: bool) {
    let mut rig = Rig::new();
    let spec = spec(&mut rig.machine, 4096);
    rig.map(&spec);
    if late {
        rig.machine.slow_down();
    }
    let mut mapped = Vec::with_capacity(BATCH);
    rounds(|counted| {
        mapped.clear();
        mapped.extend((0..BATCH).map(|_| (rig.map(&spec), 4096)));
        counted(&mut || {
            let Rig { machine, engine, domain } = &mut rig;
            let ranges = mapped.iter().copied();
            let gone = engine.unmap_all(machine, *domain, ranges, Invalidation::Strict);
            assert_eq!(gone.expect("mappings").is_none(), !late);
        });
        if late {
            counted(&mut || rig.catch_up());
        }
        assert_eq!(rig.engine.retired(), 0);
    });
}

/// A buffer that no large page holds.
fn bulk(count_map: bool, count_unmap: bool) {
    pair(1 << 20, 64, count_map, count_unmap);
}
