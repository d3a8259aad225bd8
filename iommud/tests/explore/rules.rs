//! What must be true after each event.

use std::collections::BTreeSet;

use dma_types::{Iova, PhysAddr};
use iommu_engine::platform::RunId;

use crate::world::{PAGE, Place, Stage, World, devices};

/// What clients' devices may still reach, and what they must not.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// What was mapped for a client's device, at which address, since the client's session began, or if none has, since the
    /// one before: the buffer's number, and its memory.
    mapped: [BTreeSet<(u64, u64, RunId)>; 2],
    /// Of these, what was unmapped, and answered for to be out of reach: address and number.
    gone: [BTreeSet<(u64, u64)>; 2],
}

impl Known {
    /// A client has its device: nobody else's memory is reached by it from now on.
    pub(crate) fn begins(&mut self, client: usize) {
        self.mapped[client].clear();
        self.gone[client].clear();
    }

    /// A client was told that this buffer is out of reach at this address.
    pub(crate) fn is_gone(&mut self, client: usize, iova: u64, number: u64) {
        self.gone[client].insert((iova, number));
    }
}

/// What a device reaches at an address: which memory.
pub(crate) type Reached = Option<RunId>;

/// What each device reaches at each address, which both of them now have; or what is wrong with it.
pub(crate) fn look(world: &mut World) -> Result<Vec<Reached>, String> {
    let mut all = Vec::new();
    for client in [0, 1] {
        for iova in world.addresses() {
            all.push(look_at(world, client, iova)?);
        }
    }
    let platform = world.service.platform();
    let usage = platform.usage();
    if (usage.freed_accesses, usage.bad_frees) != (0, 0) {
        return Err(format!("memory that is free was used: {usage:?}"));
    }
    match platform.machine().violations() {
        violations if violations.is_empty() => Ok(all),
        violations => Err(format!("hardware complains: {violations:?}")),
    }
}

fn look_at(world: &mut World, client: usize, iova: u64) -> Result<Reached, String> {
    let device = devices()[client];
    let platform = world.service.platform();
    // What tables say, and caches may or may not.
    let engine = world.service.engine();
    let group = engine.group(device).ok_or("a device without a group")?;
    let domain = group.attached.and_then(|key| engine.domain(key));
    let mapping = domain.and_then(|domain| domain.mapping(Iova::new(iova)));
    let now = domain.zip(mapping).and_then(|(domain, mapping)| {
        let physical = domain.translate(platform, Iova::new(iova))?.phys;
        Some((mapping.owner.buffer()?, physical.get()))
    });
    let reached = platform.machine_mut().dma_write_unasked(device, iova, &[0; 4]);
    let known = &mut world.known;
    if let Some((number, physical)) = now {
        let (run, _) = platform.run_at(PhysAddr::new(physical)).ok_or("free memory is mapped")?;
        known.mapped[client].insert((iova, number, run));
        known.gone[client].remove(&(iova, number));
    }
    let what = |what: &str| format!("{device} at {iova:#x}: {what}");
    let Ok(physical) = reached else {
        let is_promised = |number| {
            let client = &world.clients[client];
            let has = matches!(client.device, Place::Had(_));
            let suits =
                |mapped: crate::world::Mapped| mapped.iova == iova && mapped.stage == Stage::Mapped;
            let mut held = client.buffers.iter().flatten();
            has && held.any(|it| it.number == number && it.mapped.is_some_and(suits))
        };
        return match now {
            Some((number, _)) if is_promised(number) => {
                Err(what("what is mapped, and was answered for, is not reached"))
            }
            Some(_) if !world.service.is_waiting() => {
                Err(what("nothing is under way, and what is mapped is not reached"))
            }
            _ => Ok(None),
        };
    };
    let page = PhysAddr::new(physical & !(PAGE - 1));
    let (run, _) = platform.run_at(page).ok_or_else(|| what("a free page is reached"))?;
    match now {
        Some((_, expected)) if expected != page.get() => {
            return Err(what("the address is somebody's, and what was there before is reached"));
        }
        Some(_) => return Ok(Some(run)),
        None if !world.service.is_waiting() => {
            return Err(what("nothing is under way, and what is not mapped is reached"));
        }
        None => {}
    }
    let mut of_it = known.mapped[client].iter().filter(|it| (it.0, it.2) == (iova, run));
    let Some((_, number, _)) = of_it.next() else {
        return Err(what("what was never mapped for this session is reached"));
    };
    if known.gone[client].contains(&(iova, *number)) {
        return Err(what("what was unmapped, and answered for, is reached"));
    }
    Ok(Some(run))
}
