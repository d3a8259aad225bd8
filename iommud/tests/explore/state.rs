//! What two orders of events have in common that come to the same.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use iommu_engine::platform::RunId;

use crate::rules::Reached;
use crate::world::{PAGE, Place, Stage, World, devices};

/// A number for everything that matters of a state: what clients have and wait for, what devices reach, what is mapped,
/// what units were told and have not done, and what waits to be free. Memory is called by its age.
pub(crate) fn key(world: &World, reached: &[Reached]) -> u128 {
    let mut halves = [DefaultHasher::new(), DefaultHasher::new()];
    for (number, half) in halves.iter_mut().enumerate() {
        number.hash(half);
        hash(world, reached, half);
    }
    halves.iter().fold(0, |all, half| all << 64 | u128::from(half.finish()))
}

fn hash(world: &World, reached: &[Reached], into: &mut DefaultHasher) {
    let (service, engine) = (&world.service, world.service.engine());
    let platform = service.platform();
    let memory: Vec<Option<RunId>> = world
        .clients
        .iter()
        .flat_map(|client| &client.buffers)
        .map(|held| held.as_ref().and_then(|held| held.handle.had()))
        .map(|handle| service.grant(handle?, 0, PAGE, false).ok().map(|grant| grant.run))
        .collect();
    let ages: BTreeSet<RunId> = memory.iter().chain(reached).copied().flatten().collect();
    let age = |run: &Option<RunId>| run.map(|run| ages.iter().filter(|it| **it < run).count());
    for run in memory.iter().chain(reached) {
        age(run).hash(into);
    }
    for client in &world.clients {
        place(client.device).hash(into);
        for held in &client.buffers {
            let mapped = |mapped: crate::world::Mapped| {
                let stage = match mapped.stage {
                    Stage::Mapping(_) => 0,
                    Stage::Mapped => 1,
                    Stage::Unmapping(_) => 2,
                };
                (mapped.iova, mapped.strict, stage)
            };
            let it = held.as_ref();
            it.map(|it| (place(it.handle), it.is_lent, it.is_revoked, it.mapped.map(mapped)))
                .hash(into);
        }
    }
    for (unit, device) in devices().into_iter().enumerate() {
        let group = engine.group(device);
        let domain = group.and_then(|group| group.attached).and_then(|key| engine.domain(key));
        domain.is_some().hash(into);
        for (iova, mapping) in domain.iter().flat_map(|domain| domain.mappings()) {
            let physical = domain.and_then(|domain| domain.translate(platform, iova));
            let run = physical.and_then(|it| platform.run_at(it.phys)).map(|(run, _)| run);
            (iova.get(), mapping.bytes, age(&run)).hash(into);
        }
        platform.machine().unforgotten(unit).hash(into);
    }
    engine.quarantine().filter(|retired| retired.run.is_some()).count().hash(into);
    let revoking = world.revoking.iter().flat_map(|(_, gone)| gone);
    let revoking: Vec<_> = revoking.map(|(client, iova, _)| (*client, *iova)).collect();
    (world.revoking.len(), revoking).hash(into);
    let usage = platform.usage();
    (usage.live_frames, usage.live_runs).hash(into);
    (engine.retired(), service.handles(), service.tickets().len()).hash(into);
    (engine.domains().count(), service.is_waiting(), engine.is_waiting()).hash(into);
}

fn place<T>(place: Place<T>) -> u8 {
    match place {
        Place::None => 0,
        Place::Asked(_) => 1,
        Place::Had(_) => 2,
    }
}
