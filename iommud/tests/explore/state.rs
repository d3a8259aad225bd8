//! What two orders of events have in common that come to the same.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::completion::{Ticket, UnitId};
use iommu_engine::domain::Domain;
use iommu_engine::unit::DomainId;
use iommud::platform::sim::MemoryId;

use crate::clients::Mapped;
use crate::rules::Reached;
use crate::world::{World, devices};

/// A number for everything that matters of a state: what clients have and wait for, what devices reach, what is mapped,
/// what units were told and have not done, and what waits to be free. Memory is called by its age.
pub(crate) fn key(world: &World, reached: &[Reached]) -> u128 {
    let mut key = Key(0);
    hash(world, reached, &mut key);
    key.0
}

/// What is hashed, in so many bits that no two states have the same by chance.
struct Key(u128);

impl Hasher for Key {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            // FNV's prime, and its upper half, which is the better one, brought down to be mixed with what comes next.
            let mixed =
                self.0 ^ u128::from(u64::from_le_bytes(padded)) ^ (word.len() as u128) << 64;
            self.0 = mixed.wrapping_mul(0x0100_0000_0000_0000_0000_013b).rotate_left(64);
        }
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

fn hash(world: &World, reached: &[Reached], into: &mut Key) {
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
        untaken(world, unit).hash(into);
    }
    for (key, domain) in engine.domains() {
        (Some(key) == world.explicit.as_ref().map(|it| it.key)).hash(into);
        for (iova, mapping) in domain.mappings() {
            let physical = domain.translate(service.platform(), iova);
            let id = physical.and_then(|it| sim.memory_at(PhysAddr::new(it.phys.get())));
            (iova.get(), mapping.bytes, age(&id)).hash(into);
        }
    }
    for unit in engine.units().iter().flat_map(|slot| &slot.unit) {
        unit.open_tickets().hash(into);
    }
    for retired in engine.retired_list() {
        let after = |(unit, ticket): (UnitId, Ticket)| {
            let unit = engine.units()[usize::from(unit.0)].unit.as_ref().ok()?;
            Some(ticket.0.saturating_sub(unit.confirmed().0))
        };
        retired.run.is_some().hash(into);
        retired.completion.tickets().map(after).collect::<Vec<_>>().hash(into);
    }
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

/// What a unit was asked to forget and has not, up to each time that it is to say so: of which domain, by its age, or of one
/// that is no more. That it is to say how far it is in its queue comes when it comes.
fn untaken(world: &World, unit: usize) -> Vec<BTreeSet<(Option<usize>, u64, u64)>> {
    let engine = world.service.engine();
    let age = |id: u64| {
        let is_it = |it: DomainId| u64::from(it.get()) == id & 0xffff;
        let at = |domain: &Domain| domain.id_at(UnitId(unit as u16)).is_some_and(is_it);
        engine.domains().position(|(_, domain)| at(domain))
    };
    let mut all = vec![BTreeSet::new()];
    for (low, high) in world.sim().machine().unforgotten(unit) {
        match (low, high % PAGE_SIZE) {
            (0, 0) => all.push(BTreeSet::new()),
            (0, _) => {}
            _ => {
                let at = world.vendor.domain_in(low);
                let rest = at.map_or(low, |at| low & !(0xffff << at));
                all.last_mut().unwrap().insert((at.and_then(|at| age(low >> at)), rest, high));
            }
        }
    }
    all
}
