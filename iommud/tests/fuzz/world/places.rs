//! What is known of where memory is mapped.

use super::*;

impl World {
    /// Takes note of what is mapped in a domain that nobody has been told of: who may not ask does not know either.
    pub(super) fn look_up(&mut self, domain: u64) {
        let Self { service, placed, memory, .. } = self;
        let Some(tables) = service.engine().domain(DomainKey(domain)) else { return };
        // What has been freed may be another's by now.
        memory.retain(|it| service.platform().run_words(it.run).is_some());
        for (iova, mapping) in tables.mappings() {
            for page in (0..mapping.bytes).step_by(PAGE as usize) {
                let key = (domain, iova.get() + page);
                let there = tables.translate(service.platform(), Iova::new(key.1));
                let there = there.map_or(0, |it| it.phys.get());
                let found = memory.iter().find_map(|memory| {
                    Some((memory.run, memory.pages.iter().position(|page| *page == there)?))
                });
                if let Some(found) = found {
                    placed.insert(key, found);
                }
            }
        }
    }

    pub(super) fn learn(&mut self, run: RunId) {
        if self.memory.iter().all(|it| it.run != run) {
            let segments = self.service.platform().segments(run);
            let pages = segments.iter().flat_map(|segment| {
                let start = segment.start.get();
                (start..start + segment.bytes).step_by(PAGE as usize)
            });
            self.memory.push(Memory { run, is_late: false, pages: pages.collect() });
        }
    }

    /// Takes note of what is mapped somewhere: this memory from this page on, if that is known.
    pub(super) fn mapped(
        &mut self,
        domain: u64,
        iova: u64,
        bytes: u64,
        memory: Option<(RunId, usize)>,
    ) {
        remember(&mut self.known, (domain, iova, bytes));
        for page in 0..bytes.min(64 * PAGE) / PAGE {
            let key = (domain, iova.wrapping_add(page * PAGE));
            match memory {
                Some((run, first)) => self.placed.insert(key, (run, first + page as usize)),
                None => self.placed.remove(&key),
            };
        }
        if memory.is_none() {
            self.look_up(domain);
        }
    }

    pub(super) fn forget(&mut self, domain: u64, iova: u64, bytes: u64) {
        for page in 0..bytes.min(64 * PAGE) / PAGE {
            self.placed.remove(&(domain, iova.wrapping_add(page * PAGE)));
        }
    }

    /// The pages that are mapped, of those of which it is known what is.
    pub(super) fn mapped_pages(&self) -> Vec<(u64, u64)> {
        let engine = self.service.engine();
        let is_mapped = |(domain, page): &&(u64, u64)| {
            let domain = engine.domain(DomainKey(*domain));
            domain.is_some_and(|domain| domain.lookup(Iova::new(*page)).is_some())
        };
        self.placed.keys().filter(is_mapped).copied().collect()
    }

    /// What a request unmaps so that from its answer on no device reaches it.
    pub(super) fn strictly_unmapped(
        &self,
        of: Held,
        ask: Ask,
        bytes: &[u8],
    ) -> Option<Vec<(u64, u64)>> {
        if ask != Ask::Call(Opcode::Unmap as u64) || !matches!(of.what, What::Device | What::Domain)
        {
            return None;
        }
        let (header, rest) = BatchHeader::read_from_prefix(bytes).ok()?;
        let strict = self.service.engine().policy().invalidation == Invalidation::Strict;
        if !strict && header.flags.get() == 0 {
            return None;
        }
        let entries = rest.chunks_exact(size_of::<UnmapEntry>()).take(header.count.get() as usize);
        let entries = entries.filter_map(|bytes| UnmapEntry::read_from_bytes(bytes).ok());
        Some(entries.map(|entry| (entry.iova.get(), entry.bytes.get())).collect())
    }

    /// Takes note of a batch that was refused.
    pub(super) fn attempted(&mut self, domain: u64, bytes: &[u8]) {
        let Ok((header, rest)) = BatchHeader::read_from_prefix(bytes) else { return };
        let entries = rest.chunks_exact(size_of::<MapEntry>()).take(header.count.get() as usize);
        for entry in entries.filter_map(|bytes| MapEntry::read_from_bytes(bytes).ok()) {
            let number = entry.buffer.get();
            let of = self.held.iter().find(|it| it.number == number && it.run.is_some());
            let Some(run) = of.and_then(|it| it.run) else { continue };
            let first = (entry.offset.get() / PAGE) as usize;
            let pages = first..first.saturating_add((entry.bytes.get() / PAGE) as usize);
            self.attempts.push((domain, run, pages));
        }
    }

    /// Nothing is mapped any more that was mapped by what was revoked, closed or not: the handle of this number and all that was
    /// derived from it, or all that was derived from the one that asked.
    pub(super) fn check_revoked(&self, by: Held, target: u64) {
        trace(|| format!("{by:?} has revoked {target}"));
        let is_revoked = |handle: HandleId| {
            let mut above = Some(handle);
            while let Some(it) = above {
                if it.0 == target || target == 0 && it == by.handle {
                    return target != 0 || handle != by.handle;
                }
                above = self.parents.get(&it).copied();
            }
            false
        };
        for ((domain, iova, number), handle) in &self.mapped_by {
            let tables = self.service.engine().domain(DomainKey(*domain));
            let mapping = tables.and_then(|it| it.lookup(Iova::new(*iova)));
            let is_there = mapping.is_some_and(|(_, it)| it.owner.buffer() == Some(*number));
            assert!(
                !is_there || !is_revoked(*handle),
                "R3: {iova:#x} of domain {domain} is mapped, and {handle:?} is revoked"
            );
        }
    }

    /// A ticket is good once.
    pub(super) fn use_up(&mut self, ticket: [u8; 16]) {
        assert!(!self.used.contains(&ticket), "R3: a ticket is good twice");
        remember(&mut self.used, ticket);
    }

    /// Takes note of a call that was made.
    pub(super) fn called(&mut self, of: Held, opcode: u64, answer: &[u8]) {
        if opcode == Opcode::Offer as u64 {
            let ticket = answer.get(..16).and_then(|it| it.try_into().ok());
            self.tickets.extend(ticket.map(|ticket| (of.what, ticket)));
            let surplus = self.tickets.len().saturating_sub(REMEMBERED);
            self.tickets.drain(..surplus);
        }
        if opcode != Opcode::Map as u64 {
            return;
        }
        let Ok((header, rest)) = BatchHeader::read_from_prefix(answer) else { return };
        let entries = rest.chunks_exact(size_of::<MapEntry>()).take(header.count.get() as usize);
        for entry in entries.filter_map(|bytes| MapEntry::read_from_bytes(bytes).ok()) {
            let number = entry.buffer.get();
            of.bounds.check(entry.iova.get(), entry.bytes.get(), entry.access.get());
            let run = self.held.iter().find(|it| it.number == number && it.run.is_some());
            let first = (entry.offset.get() / PAGE) as usize;
            let memory = run.and_then(|it| it.run).map(|run| (run, first));
            self.mapped(of.domain, entry.iova.get(), entry.bytes.get(), memory);
            self.mapped_by.insert((of.domain, entry.iova.get(), number), of.handle);
            let key = (of.domain, number, entry.iova.get());
            match header.flags.get() {
                0 => self.strict.remove(&key),
                _ => self.strict.insert(key),
            };
        }
    }
}
