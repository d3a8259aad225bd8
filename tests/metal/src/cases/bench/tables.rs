//! A page table alone, at an address that is given, and a unit that is made to forget: no more than Linux's iommu_map and
//! iommu_unmap do, which choose no addresses and remember nothing of what they map.

use alloc::format;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};
use iommu_engine::completion::Ticket;
use iommu_engine::domain::DomainTable;
use iommu_engine::machine::discover::discover;
use iommu_engine::platform::{Platform, Segment};
use iommu_engine::policy::Policy;
use iommu_engine::unit::{Changed, DomainId, Unit, UnitState};

use super::measure::{Pairs, ROUNDS, WARM_UP};
use crate::cases::engine::rig::{PATIENCE, switch_off};
use crate::harness::{Context, Failure, Outcome};
use crate::platform::Metal;
use crate::require;

const LARGE: u64 = 2 << 20;

/// Where something stays mapped, a large page and behind it a small one, so that no table comes or goes.
const BESIDE: u64 = 1 << 32;

/// Memory that nobody looks at.
const MEMORY: PhysAddr = PhysAddr::new(1 << 30);

/// Nobody's id at the unit: no device is attached.
const DOMAIN: DomainId = DomainId::new(1);

struct Bench<'a> {
    platform: &'a mut Metal,
    unit: Unit,
    table: DomainTable,
    retired: Vec<PhysAddr>,
}

impl<'a> Bench<'a> {
    /// A table that the machine's first unit could walk, and the unit, which translates.
    fn start(platform: &'a mut Metal) -> Outcome<Self> {
        let first = discover(platform, &Policy::default(), &[])?.units.into_iter().next();
        let unit = first.and_then(|slot| slot.unit.ok());
        let mut unit = unit.ok_or(Failure("no unit".into()))?;
        let start = platform.now();
        while unit.state() != UnitState::Running {
            unit.poll(platform);
            require!(platform.now().since(start) < PATIENCE, "the unit does not come up");
        }
        let narrowed = DomainTable::narrow(&unit.abilities());
        let abilities = narrowed.map_err(|error| Failure(format!("{error}")))?;
        let table = DomainTable::new(platform, &abilities);
        let table = table.map_err(|error| Failure(format!("{error}")))?;
        Ok(Self { platform, unit, table, retired: Vec::new() })
    }

    /// Maps, and has the unit see it if `told` and it does not by itself.
    #[inline(always)]
    fn map(&mut self, iova: Iova, bytes: u64, told: bool) -> Outcome {
        let Self { platform, unit, table, .. } = self;
        let memory = [Segment { start: MEMORY, bytes }];
        let mapped = table.map(*platform, iova, &memory, Access::ReadWrite);
        let touched = mapped.map_err(|error| Failure(format!("{error}")))?;
        if told && !unit.sees_by_itself() {
            let ticket = unit.mapped(*platform, DOMAIN, Changed { start: iova, bytes, touched });
            self.confirm(ticket);
        }
        Ok(())
    }

    /// Unmaps, and has the unit forget it if `told`.
    #[inline(always)]
    fn unmap(&mut self, iova: Iova, bytes: u64, told: bool) -> Outcome {
        let Self { platform, unit, table, retired } = self;
        let unmapped = table.unmap(*platform, iova, bytes, retired);
        let gone = unmapped.map_err(|error| Failure(format!("{error}")))?;
        if told {
            let change = Changed { start: gone.start, bytes: gone.bytes, touched: gone.touched };
            let ticket = unit.invalidate(*platform, DOMAIN, &[change]);
            self.confirm(ticket);
        }
        Ok(())
    }

    #[inline(always)]
    fn confirm(&mut self, ticket: Ticket) {
        while self.unit.confirmed() < ticket {
            self.unit.poll(self.platform);
        }
    }

    fn tell(&mut self, kind: &str, told: bool) -> Outcome {
        for (name, iova, bytes) in [
            ("4k", BESIDE + LARGE + PAGE_SIZE, PAGE_SIZE),
            ("256x4k", BESIDE + LARGE + PAGE_SIZE, 256 * PAGE_SIZE),
            ("2m", BESIDE + 2 * LARGE, LARGE),
        ] {
            let iova = Iova::new(iova);
            let mut pairs = Pairs::new(WARM_UP + ROUNDS);
            for _ in 0..WARM_UP + ROUNDS {
                pairs.make.take(|| self.map(iova, bytes, told))?;
                pairs.undo.take(|| self.unmap(iova, bytes, told))?;
            }
            require!(self.retired.is_empty(), "a table came and went");
            pairs.tell(&format!("{kind}/{name}"));
        }
        Ok(())
    }
}

pub(super) fn page_tables_alone(context: &mut Context) -> Outcome {
    context.lend(|mut platform| {
        let outcome = Bench::start(&mut platform).and_then(|mut bench| {
            bench.map(Iova::new(BESIDE), LARGE + PAGE_SIZE, false)?;
            bench.tell("alone", false)?;
            bench.tell("alone-told", true)
        });
        let off = switch_off(&mut platform);
        (platform, outcome.and(off))
    })
}
