//! The engine on QEMU's unit.

use alloc::format;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE, PciAddress};
use iommu_engine::Engine;
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::MapSpec;
use iommu_engine::error::EngineError;
use iommu_engine::payer::{Payer, Purse};
use iommu_engine::platform::{BufferRuns, Platform, RunId};
use iommu_engine::policy::{Invalidation, Policy};

use super::addresses::{LIVE, TURN};
use super::ending::Spot;
use super::measure::{Order, Pairs, ROUNDS, WARM_UP};
use crate::cases::engine::rig::{PATIENCE, switch_off};
use crate::edu::Edu;
use crate::harness::{Context, Failure, Outcome};
use crate::platform::Metal;
use crate::require;

/// What the unit's large pages are long.
const LARGE: u64 = 2 << 20;

/// Who pays for mappings, as in the service.
const CLIENT: Purse = Purse { payer: Payer(1), client: Payer(1), frames: 1 << 20 };

/// An engine on the machine, its device, and memory to be mapped.
struct Rig<'a> {
    platform: &'a mut Metal,
    engine: Engine,
    device: PciAddress,
}

/// Runs a case on an engine that takes the machine over, and leaves the machine as it was found.
fn with_engine(context: &mut Context, case: impl FnOnce(&mut Rig<'_>) -> Outcome) -> Outcome {
    context.lend(|mut platform| {
        let outcome = Rig::start(&mut platform).and_then(|mut rig| case(&mut rig));
        let off = switch_off(&mut platform);
        (platform, outcome.and(off))
    })
}

impl<'a> Rig<'a> {
    fn start(platform: &'a mut Metal) -> Outcome<Self> {
        let device = Edu::find(platform)?.function();
        let mut engine = Engine::start(platform, Policy::default())?;
        let start = platform.now();
        while engine.is_waiting() {
            engine.poll(platform);
            require!(platform.now().since(start) < PATIENCE, "the unit does not come up");
        }
        Ok(Self { platform, engine, device })
    }

    /// A domain that units could walk for the device.
    fn domain(&mut self) -> Outcome<DomainKey> {
        Ok(self.engine.create_domain(self.platform, &[self.device])?)
    }

    /// A domain that the device is in.
    fn entered(&mut self) -> Outcome<DomainKey> {
        let key = self.domain()?;
        self.attach(key)?;
        Ok(key)
    }

    fn run(&mut self, bytes: u64) -> Outcome<RunId> {
        self.platform.alloc_run(bytes).ok_or(Failure("no memory to map".into()))
    }

    #[inline(always)]
    fn attach(&mut self, key: DomainKey) -> Outcome {
        let completion = self.engine.attach(self.platform, self.device, key)?;
        self.confirm(&completion)
    }

    #[inline(always)]
    fn detach(&mut self) -> Outcome {
        let completion = self.engine.detach(self.platform, self.device)?;
        self.confirm(&completion)
    }

    /// Maps. What may have gone wrong is looked at when it has been counted.
    #[inline(always)]
    fn map(&mut self, key: DomainKey, spec: &MapSpec) -> Result<(Iova, Completion), EngineError> {
        let Self { platform, engine, .. } = self;
        let mapped = engine.on_account(CLIENT, |engine| engine.map(*platform, key, spec));
        if let Ok((_, completion)) = &mapped {
            self.wait(completion);
        }
        mapped
    }

    #[inline(always)]
    fn unmap(&mut self, key: DomainKey, iova: Iova, bytes: u64) -> Result<Completion, EngineError> {
        let unmapped = self.engine.unmap(self.platform, key, iova, bytes);
        if let Ok(completion) = &unmapped {
            self.wait(completion);
        }
        unmapped
    }

    #[inline(always)]
    fn confirm(&mut self, completion: &Completion) -> Outcome {
        self.wait(completion);
        Ok(())
    }

    /// Waits until the unit has done as it was asked, which is a part of the operation.
    #[inline(always)]
    fn wait(&mut self, completion: &Completion) {
        while self.engine.progress(completion) == Progress::Pending {
            self.engine.poll(self.platform);
        }
    }

    /// Where in memory that is which is mapped there.
    fn spot(&self, key: DomainKey, iova: Iova) -> Outcome<Spot> {
        let domain = self.engine.domain(key);
        let found = domain.and_then(|domain| domain.translate(self.platform, iova));
        let found = found.ok_or(Failure(format!("nothing is mapped at {iova}")))?;
        Ok(Spot { iova, phys: found.phys })
    }

    /// Maps and unmaps, uncounted, and tells what the unmap ends.
    fn tell_ends(&mut self, key: DomainKey, spec: &MapSpec, name: &str) -> Outcome {
        let edu = Edu::find(self.platform)?;
        let iova = self.map(key, spec)?.0;
        let spot = self.spot(key, iova)?;
        spot.load(self.platform, &edu)?;
        spot.expect(self.platform, &edu)?;
        self.unmap(key, iova, spec.bytes)?;
        spot.tell(self.platform, &edu, name)?;
        self.engine.poll(self.platform);
        Ok(())
    }

    /// What mapping and unmapping takes, beside something that stays mapped: the tables are there already, as in a domain
    /// that is used. And what the unmap ends, if the device is in the domain.
    fn tell_pairs(&mut self, key: DomainKey, kind: &str, is_entered: bool) -> Outcome {
        let (page, mib, large) =
            (self.run(PAGE_SIZE)?, self.run(256 * PAGE_SIZE)?, self.run(LARGE)?);
        let rows =
            [("4k", page, PAGE_SIZE), ("256x4k", mib, 256 * PAGE_SIZE), ("2m", large, LARGE)];
        let beside =
            [self.map(key, &spec(page, PAGE_SIZE))?.0, self.map(key, &spec(large, LARGE))?.0];
        for (name, run, bytes) in rows {
            let (name, spec) = (format!("{kind}/{name}"), spec(run, bytes));
            if is_entered {
                self.tell_ends(key, &spec, &name)?;
            }
            let mut pairs = Pairs::new(WARM_UP + ROUNDS);
            for round in 0..WARM_UP + ROUNDS {
                if round == WARM_UP {
                    pairs.forget();
                }
                let iova = pairs.make.take(|| self.map(key, &spec))?.0;
                pairs.undo.take(|| self.unmap(key, iova, bytes))?;
            }
            pairs.tell(&name);
        }
        self.unmap(key, beside[0], PAGE_SIZE)?;
        self.unmap(key, beside[1], LARGE)?;
        Ok(())
    }
}

/// All of a run, anywhere, for large pages if it is as long.
fn spec(run: RunId, bytes: u64) -> MapSpec {
    MapSpec {
        run,
        offset: 0,
        bytes,
        access: Access::ReadWrite,
        align: if bytes >= LARGE { LARGE } else { PAGE_SIZE },
        first: Iova::new(0),
        limit: Iova::new(u64::MAX),
        owner: 1,
    }
}

/// Nobody holds a translation, and so nothing is invalidated: what tables and addresses take.
pub(super) fn mappings_without_a_device(context: &mut Context) -> Outcome {
    with_engine(context, |rig| {
        let key = rig.domain()?;
        rig.tell_pairs(key, "tables", false)
    })
}

pub(super) fn mappings_with_a_device(context: &mut Context) -> Outcome {
    with_engine(context, |rig| {
        let key = rig.entered()?;
        rig.tell_pairs(key, "engine", true)
    })
}

pub(super) fn a_device_in_and_out_of_a_domain(context: &mut Context) -> Outcome {
    with_engine(context, |rig| {
        let key = rig.domain()?;
        let mut pairs = Pairs::new(WARM_UP + ROUNDS);
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                pairs.forget();
            }
            pairs.make.take(|| rig.attach(key))?;
            pairs.undo.take(|| rig.detach())?;
        }
        pairs.tell("attach");
        // What a device reaches that is in the domain.
        let page = rig.run(PAGE_SIZE)?;
        let iova = rig.map(key, &spec(page, PAGE_SIZE))?.0;
        let (spot, edu) = (rig.spot(key, iova)?, Edu::find(rig.platform)?);
        rig.attach(key)?;
        spot.load(rig.platform, &edu)?;
        spot.expect(rig.platform, &edu)?;
        rig.detach()?;
        spot.tell(rig.platform, &edu, "attach")
    })
}

/// One piece of memory over and over, in large pages: mapped piece by piece, and unmapped all at once. And what 4 KiB take
/// beside it, in a table in which another page is mapped, as on Linux's side.
pub(super) fn a_domain_of_64_gib(context: &mut Context) -> Outcome {
    with_engine(context, |rig| {
        let key = rig.entered()?;
        let (large, page) = (rig.run(LARGE)?, rig.run(PAGE_SIZE)?);
        let (large, page) = (spec(large, LARGE), spec(page, PAGE_SIZE));
        let count = ((64 << 30) / LARGE) as usize;
        let mut all = Vec::with_capacity(count);
        let mut whole = Pairs::new(1);
        whole.make.take(|| {
            for _ in 0..count {
                all.push((rig.map(key, &large)?.0, LARGE));
            }
            Ok::<(), Failure>(())
        })?;
        let (neighbour, _) = rig.map(key, &page)?;
        let mut pairs = Pairs::new(WARM_UP + ROUNDS);
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                pairs.forget();
            }
            let iova = pairs.make.take(|| rig.map(key, &page))?.0;
            pairs.undo.take(|| rig.unmap(key, iova, PAGE_SIZE))?;
        }
        rig.tell_ends(key, &page, "engine/4k-beside-64g")?;
        pairs.tell("engine/4k-beside-64g");
        rig.unmap(key, neighbour, PAGE_SIZE)?;
        whole.undo.take(|| {
            let when = Invalidation::Strict;
            let done = rig.engine.unmap_all(rig.platform, key, all.iter().copied(), when)?;
            rig.confirm(&done)
        })?;
        whole.tell("engine/64g");
        Ok(())
    })
}

/// With so many pages mapped, some at random are unmapped and as many are mapped again, over and over.
pub(super) fn mappings_with_many_live(context: &mut Context) -> Outcome {
    with_engine(context, |rig| {
        let key = rig.entered()?;
        let page = rig.run(PAGE_SIZE)?;
        let page = spec(page, PAGE_SIZE);
        let mut live = Vec::new();
        for count in LIVE {
            live.reserve_exact(count - live.len());
            while live.len() < count {
                live.push(rig.map(key, &page)?.0);
            }
            let (mut order, mut pairs) = (Order::new(), Pairs::new(WARM_UP + ROUNDS + TURN));
            for round in 0..(WARM_UP + ROUNDS).div_ceil(TURN) {
                if round == WARM_UP / TURN {
                    pairs.forget();
                }
                for _ in 0..TURN {
                    let iova = live.swap_remove(order.below(live.len()));
                    pairs.undo.take(|| rig.unmap(key, iova, PAGE_SIZE))?;
                }
                for _ in 0..TURN {
                    live.push(pairs.make.take(|| rig.map(key, &page))?.0);
                }
            }
            let name = format!("live/{count}");
            pairs.tell(&name);
            rig.tell_ends(key, &page, &name)?;
        }
        Ok(())
    })
}
