//! A domain in which many large pages are mapped, in addresses that were never used.

use dma_types::Iova;
use iommu_engine::engine::MapSpec;
use iommu_engine::policy::Invalidation;

use crate::Operation;
use crate::counted::{ROUNDS, measured, rounds};
use crate::engine::{Rig, spec};

/// How many large pages there are.
const PAGES: u64 = 4100;
const LARGE: u64 = 2 << 20;

pub(crate) const OPERATIONS: [Operation; 3] = [
    Operation {
        name: "engine: 4100 maps of 2 MiB, each",
        per: PAGES / ROUNDS,
        run: || filled(true),
    },
    Operation {
        name: "engine: one unmap of all, each",
        per: PAGES / ROUNDS,
        run: || filled(false),
    },
    Operation { name: "engine: map + unmap 4 KiB beside them", per: 1, run: beside },
];

/// Maps all of them; where they are.
fn fill(rig: &mut Rig, spec: &MapSpec) -> Vec<(Iova, u64)> {
    (0..PAGES).map(|_| (rig.map(spec), spec.bytes)).collect()
}

fn large(rig: &mut Rig) -> MapSpec {
    MapSpec { align: LARGE, ..spec(&mut rig.machine, LARGE) }
}

fn filled(count_map: bool) {
    let mut rig = Rig::new();
    let spec = large(&mut rig);
    let all = if count_map { measured(|| fill(&mut rig, &spec)) } else { fill(&mut rig, &spec) };
    if !count_map {
        measured(|| {
            let Rig { machine, engine, domain } = &mut rig;
            let done =
                engine.unmap_all(machine, *domain, all.iter().copied(), Invalidation::Strict);
            done.expect("mappings");
            while engine.retired() > 0 {
                engine.poll(machine);
            }
        });
    }
}

fn beside() {
    let mut rig = Rig::new();
    let spec_of_large = large(&mut rig);
    fill(&mut rig, &spec_of_large);
    let page = spec(&mut rig.machine, 4096);
    rounds(|counted| {
        counted(&mut || {
            let iova = rig.map(&page);
            rig.unmap(iova, page.bytes);
        });
    });
}
