//! What is mapped strictly is mapped once, and after the answer to its strict unmap no device reaches it by any address.

use super::*;

/// A mapping that a client has, and where in memory its pages are.
struct InMemory {
    /// As in [`World::strict`].
    key: (u64, u64, u64),
    pages: Vec<u64>,
}

impl World {
    /// All of clients' mappings.
    fn in_memory(&self) -> Vec<InMemory> {
        let platform = self.service.platform();
        let mut all = Vec::new();
        for (key, domain) in self.service.engine().domains() {
            for (iova, mapping) in domain.mappings() {
                let Some(owner) = mapping.owner.buffer() else { continue };
                let at = (0..mapping.bytes / PAGE).map(|page| Iova::new(iova.get() + page * PAGE));
                let pages = at.map(|at| domain.translate(platform, at).unwrap().phys.get());
                all.push(InMemory { key: (key.0, owner, iova.get()), pages: pages.collect() });
            }
        }
        all
    }

    /// Of the memory that a request unmaps strictly, what was mapped strictly. Before, devices write wherever they can, so that
    /// units hold all of it that they ever may.
    pub(super) fn alone(&mut self, of: Held, ask: Ask, bytes: &[u8]) -> Vec<Alone> {
        let header = BatchHeader::read_from_prefix(bytes);
        if self.strict.is_empty()
            || ask != Ask::Call(Opcode::Unmap as u64)
            || header.is_ok_and(|(header, _)| header.flags.get() != BATCH_FLAG_STRICT)
        {
            return Vec::new();
        }
        let Some(unmapped) = self.strictly_unmapped(of, ask, bytes) else { return Vec::new() };
        let is_of_it = |it: &InMemory| {
            let (domain, _, iova) = it.key;
            let is_named = unmapped.iter().any(|(named, _)| *named == iova);
            domain == of.domain && is_named && self.strict.contains(&it.key)
        };
        let all = self.in_memory().into_iter().filter(is_of_it);
        let alone = all.flat_map(|it| it.pages.into_iter().map(move |page| (it.key.1, page)));
        let alone: Vec<Alone> = alone.collect();
        if !alone.is_empty() {
            self.write_everywhere();
        }
        alone
    }

    /// No device reaches this any more, but what has been mapped again meanwhile, or freed.
    pub(super) fn check_alone(&mut self, mut alone: Vec<Alone>) {
        let buffers = &self.service.sessions().buffers;
        alone.retain(|(number, _)| {
            let mut there = buffers.iter().filter(|(id, _)| id.0 == *number);
            there.any(|(_, buffer)| buffer.mappings.is_empty())
        });
        if alone.is_empty() {
            return;
        }
        let mapped: Vec<u64> = self.in_memory().into_iter().flat_map(|it| it.pages).collect();
        alone.retain(|(_, page)| !mapped.contains(page));
        for (_, page) in &alone {
            assert!(self.service.platform().machine().memory().write64(*page, 0));
        }
        self.write_everywhere();
        for (number, page) in alone {
            let found = self.service.platform().machine().memory().read64(page);
            assert_eq!(found, Some(0), "R2: {page:#x} of buffer {number} is reached");
        }
    }

    /// Lets devices write wherever something was mapped once.
    fn write_everywhere(&self) {
        let mut machine = self.service.platform().machine_mut();
        for device in devices() {
            machine.config_write(device, 4, 6);
            for (_, iova, bytes) in &self.known {
                for page in (0..(*bytes).min(64 * PAGE)).step_by(PAGE as usize) {
                    let _ = machine.dma_write(device, iova.wrapping_add(page), &[1; 8]);
                }
            }
        }
    }

    /// What is mapped strictly is mapped once.
    pub(super) fn check_strict(&mut self) {
        if self.strict.is_empty() {
            return;
        }
        let all = self.in_memory();
        self.strict.retain(|key| all.iter().any(|it| it.key == *key));
        for one in all.iter().filter(|it| self.strict.contains(&it.key)) {
            let also = |other: &&InMemory| other.pages.iter().any(|page| one.pages.contains(page));
            assert_eq!(all.iter().filter(also).count(), 1, "{:x?} is not alone", one.key);
        }
    }
}
