//! What two orders of events have in common that come to the same.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use dma_types::PhysAddr;
use iommud::platform::sim::MemoryId;

use crate::clients::Mapped;
use crate::rules::Reached;
use crate::world::{World, devices};

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
    let sim = world.sim();
    let memory: Vec<Option<MemoryId>> = world
        .clients
        .iter()
        .flat_map(|client| &client.buffers)
        .map(|held| held.as_ref().map(|held| held.number))
        .map(|number| {
            let (_, buffer) =
                service.sessions().buffers.iter().find(|it| Some(it.0.0) == number)?;
            let segments = iommu_engine::platform::BufferRuns::segments(sim, buffer.run);
            sim.memory_at(segments.first()?.start)
        })
        .collect();
    let ages: BTreeSet<MemoryId> = memory.iter().chain(reached).copied().flatten().collect();
    let age = |id: &Option<MemoryId>| id.map(|id| ages.iter().filter(|it| **it < id).count());
    for id in memory.iter().chain(reached) {
        age(id).hash(into);
    }
    let mapped = |mapped: Mapped| (mapped.iova, mapped.strict, mapped.stage.number());
    for client in &world.clients {
        (client.device.number(), client.inside.number()).hash(into);
        for held in &client.buffers {
            let it = held.as_ref();
            let it = it.map(|it| {
                let kind = (it.is_lent, it.is_revoked, it.part.is_some());
                (it.handle.number(), kind, it.mapped.map(mapped))
            });
            it.hash(into);
        }
    }
    let numbers = world.clients.iter().flat_map(|it| &it.buffers).flatten().map(|it| it.number);
    let numbers: Vec<u64> = numbers.collect();
    let explicit = world.explicit.as_ref().map(|it| {
        let of =
            it.mapped.map(|it| (numbers.iter().position(|number| *number == it.0), mapped(it.1)));
        (it.handle.number(), of)
    });
    explicit.hash(into);
    for (unit, device) in devices().into_iter().enumerate() {
        let group = engine.group(device);
        let key = group.and_then(|group| group.attached);
        let domain = key.and_then(|key| engine.domain(key));
        domain.is_some().hash(into);
        (key.is_some() && key == world.explicit.as_ref().map(|it| it.key)).hash(into);
        sim.machine().unforgotten(unit).hash(into);
    }
    for (key, domain) in engine.domains() {
        (Some(key) == world.explicit.as_ref().map(|it| it.key)).hash(into);
        for (iova, mapping) in domain.mappings() {
            let physical = domain.translate(service.platform(), iova);
            let id = physical.and_then(|it| sim.memory_at(PhysAddr::new(it.phys.get())));
            (iova.get(), mapping.bytes, age(&id)).hash(into);
        }
    }
    engine.retired_list().filter(|retired| retired.run.is_some()).count().hash(into);
    let revoking = world.revoking.iter().flat_map(|(_, gone)| gone);
    let revoking: Vec<_> = revoking.map(|(client, iova, _)| (*client, *iova)).collect();
    (world.revoking.len(), revoking).hash(into);
    let usage = sim.usage();
    (usage.live_frames, usage.live_runs).hash(into);
    (engine.retired(), service.handles(), service.tickets().len()).hash(into);
    (engine.domains().count(), service.is_waiting(), engine.is_waiting()).hash(into);
    (world.deaths, world.died_revoking, world.unclaimed, world.orphans).hash(into);
    (engine.is_settled(), sim.usage().live_run_bytes).hash(into);
    let sessions = service.sessions().sessions.values();
    let sessions: Vec<_> =
        sessions.map(|it| (it.device, it.orphaned.is_some(), it.buffers.len())).collect();
    sessions.hash(into);
    world.inherits().hash(into);
}
