//! What must be true after each event.

use std::collections::BTreeMap;

use dma_types::{Iova, PhysAddr};
use iommu_engine::domain::{DomainKey, Mapping};
use iommud::platform::sim::MemoryId;

use crate::clients::{Inside, Mapped, Place, Stage};
use crate::world::{World, devices};

/// What clients' devices may still reach, and what they must not.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// What was mapped for a client's device since the client's session began, or if none has, since the one before, and
    /// whether it was unmapped, and answered for to be out of reach.
    mapped: [BTreeMap<Was, bool>; 2],
}

/// Something that was mapped: at which address, the buffer's number, its memory, in which domain.
type Was = (u64, u64, MemoryId, DomainKey);

impl Known {
    /// A client has its device: nobody else's memory is reached by it from now on.
    pub(crate) fn begins(&mut self, client: usize) {
        self.mapped[client].clear();
    }

    /// A client was told that this buffer is out of reach at this address.
    pub(crate) fn is_gone(&mut self, client: usize, iova: u64, number: u64) {
        self.is_gone_if(client, |was| (was.0, was.1) == (iova, number));
    }

    /// The same, in this domain.
    pub(crate) fn is_gone_in(&mut self, client: usize, key: DomainKey, iova: u64, number: u64) {
        self.is_gone_if(client, |was| (was.0, was.1, was.3) == (iova, number, key));
    }

    /// A client was told that its device is in this domain.
    pub(crate) fn is_only_in(&mut self, client: usize, key: DomainKey) {
        self.is_gone_if(client, |was| was.3 != key);
    }

    fn is_gone_if(&mut self, client: usize, suits: impl Fn(&Was) -> bool) {
        let all = self.mapped[client].iter_mut().filter(|(was, _)| suits(was));
        all.for_each(|(_, is_gone)| *is_gone = true);
    }
}

/// What a device reaches at an address: which memory.
pub(crate) type Reached = Option<MemoryId>;

/// What each device reaches at each address, which both of them now have; or what is wrong with it.
pub(crate) fn look(world: &mut World) -> Result<Vec<Reached>, String> {
    let (mut all, everywhere) = (Vec::new(), world.addresses());
    let domains = world.service.engine().domains();
    let mut mappings = domains.flat_map(|(_, domain)| domain.mappings());
    let unseen = |(iova, it): (Iova, Mapping)| {
        it.owner.buffer().is_some() && !everywhere.contains(&iova.get())
    };
    if mappings.any(unseen) {
        return Err("a buffer is mapped where no device looks".into());
    }
    drop(mappings);
    for client in [0, 1] {
        for &iova in &everywhere {
            all.push(look_at(world, client, iova)?);
        }
    }
    let usage = world.sim().usage();
    if (usage.freed_accesses, usage.bad_frees) != (0, 0) {
        return Err(format!("memory that is free was used: {usage:?}"));
    }
    match world.sim().machine().violations() {
        violations if violations.is_empty() => Ok(all),
        violations => Err(format!("hardware complains: {violations:?}")),
    }
}

fn look_at(world: &mut World, client: usize, iova: u64) -> Result<Reached, String> {
    let device = devices()[client];
    let is_quiet = !world.is_busy();
    let what = |what: &str| format!("{device} at {iova:#x}: {what}");
    // What tables say, and caches may or may not.
    let engine = world.service.engine();
    let group = engine.group(device).ok_or("a device without a group")?;
    let domain = group.attached.and_then(|key| Some((key, engine.domain(key)?)));
    let mapping = domain.and_then(|(_, domain)| domain.mapping(Iova::new(iova)));
    let now = domain.zip(mapping).and_then(|((key, domain), mapping)| {
        let physical = domain.translate(world.service.platform(), Iova::new(iova))?.phys;
        Some((mapping.owner.buffer()?, physical.get(), key))
    });
    let reached = world.sim().machine_mut().dma_write_unasked(device, iova, &[0; 4]);
    if let Some((number, physical, key)) = now {
        let memory = world.sim().memory_at(PhysAddr::new(physical));
        let memory = memory.ok_or_else(|| what("free memory is mapped"))?;
        world.known.mapped[client].insert((iova, number, memory, key), false);
    }
    note_on_the_way(world, client, iova);
    if let Some(number) = promised(world, client, iova)
        && now.is_none_or(|(mapped, ..)| mapped != number)
    {
        return Err(what("what was mapped, and answered for, is mapped no more"));
    }
    if let Some((number, ..)) = now
        && !is_known(world, client, number)
    {
        return Err(what("what was taken away is mapped still"));
    }
    let Ok(physical) = reached else {
        return match now {
            Some((number, ..)) if promised(world, client, iova) == Some(number) => {
                Err(what("what is mapped, and was answered for, is not reached"))
            }
            Some(_) if is_quiet => {
                Err(what("nothing is under way, and what is mapped is not reached"))
            }
            _ => Ok(None),
        };
    };
    let page = PhysAddr::new(physical & !(world.bound.bytes - 1));
    let memory = world.sim().memory_at(page).ok_or_else(|| what("a free page is reached"))?;
    match now {
        Some((_, expected, _)) if expected == page.get() => return Ok(Some(memory)),
        // It may be in the other domain still.
        Some(_) if is_on_the_way(world, client) && !is_quiet => {}
        Some(_) => {
            return Err(what("the address is somebody's, and what was there before is reached"));
        }
        None if is_quiet => {
            return Err(what("nothing is under way, and what is not mapped is reached"));
        }
        None => {}
    }
    let of_it = world.known.mapped[client].iter();
    let mut of_it = of_it.filter(|(was, _)| (was.0, was.2) == (iova, memory)).peekable();
    if of_it.peek().is_none() {
        return Err(what("what was never mapped for this session is reached"));
    }
    if of_it.all(|(_, is_gone)| *is_gone) {
        return Err(what("what was unmapped, and answered for, is reached"));
    }
    Ok(Some(memory))
}

/// Whether a client that has its device knows of a buffer that it is mapped where its device is.
fn is_known(world: &World, client: usize, number: u64) -> bool {
    let held = &world.clients[client];
    match held.inside {
        Inside::Own if held.device.had().is_some() => held.buffers.iter().flatten().any(|it| {
            matches!(it.handle, Place::Asked(_)) || (it.number == number && it.mapped.is_some())
        }),
        Inside::Explicit => {
            let explicit = world.explicit.as_ref();
            explicit.is_none_or(|it| it.mapped.is_some_and(|(mapped, _)| mapped == number))
        }
        _ => true,
    }
}

fn is_on_the_way(world: &World, client: usize) -> bool {
    !matches!(world.clients[client].inside, Inside::Own | Inside::Explicit)
}

/// A device that is on its way between two domains may be in either, and what is mapped there now is reached as what was.
fn note_on_the_way(world: &mut World, client: usize, iova: u64) {
    if !is_on_the_way(world, client) {
        return;
    }
    let session = world.service.sessions().of_device(devices()[client]);
    let own = session.map(|(_, session)| session.domain);
    for key in own.into_iter().chain(world.explicit.as_ref().map(|it| it.key)) {
        let domain = world.service.engine().domain(key);
        let mapping = domain.and_then(|domain| domain.mapping(Iova::new(iova)));
        let there = domain.zip(mapping).and_then(|(domain, mapping)| {
            let physical = domain.translate(world.service.platform(), Iova::new(iova))?.phys;
            Some((mapping.owner.buffer()?, world.sim().memory_at(physical)?))
        });
        if let Some((number, memory)) = there {
            world.known.mapped[client].insert((iova, number, memory, key), false);
        }
    }
}

/// The buffer that a client was told is mapped at an address of the domain that its device is in, and which nobody has
/// taken away since: iommud's death does not, either.
fn promised(world: &World, client: usize, iova: u64) -> Option<u64> {
    let suits = |mapped: Mapped| mapped.iova == iova && mapped.stage == Stage::Mapped;
    let held = &world.clients[client];
    if !held.has_device() {
        return None;
    }
    match held.inside {
        Inside::Own => {
            let mut buffers = held.buffers.iter().flatten();
            buffers.find(|it| it.mapped.is_some_and(suits)).map(|it| it.number)
        }
        Inside::Explicit => {
            let mapped = world.explicit.as_ref().and_then(|it| it.mapped);
            mapped.filter(|(_, mapped)| suits(*mapped)).map(|(number, _)| number)
        }
        Inside::Entering(_) | Inside::Leaving(_) | Inside::Unsure => None,
    }
}
