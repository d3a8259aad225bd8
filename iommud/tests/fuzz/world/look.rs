//! What must be true after each step, and at the end.

use super::*;

impl World {
    /// What there is.
    pub(super) fn digest(&self) -> Digest {
        let engine = self.service.engine();
        let mapped = engine.domains().map(|(_, domain)| domain.mapped_bytes()).sum();
        (self.service.handles(), self.service.tickets().len(), engine.domains().count(), mapped)
    }

    /// What must be true after each step. Where devices reach is tried at some places now, and at all of them now and then.
    pub(crate) fn look(&mut self, chance: &mut Chance) {
        let waiting = self.service.is_waiting();
        for (index, device) in devices().into_iter().enumerate() {
            let attached = self.service.engine().group(device).and_then(|group| group.attached);
            let attached = attached.map_or(0, |key| key.0);
            if !waiting {
                self.inside[index].clear();
                self.attempts.clear();
            }
            if !self.inside[index].contains(&attached) {
                self.inside[index].push(attached);
            }
        }
        if chance.once_in(64) {
            for (_, iova, bytes) in self.known.clone() {
                for index in 0..2 {
                    self.reach(index, iova);
                    self.reach(index, iova.wrapping_add(bytes).wrapping_sub(8));
                }
            }
        } else if let Some(&(_, iova, bytes)) = self.known.get(chance.below(self.known.len())) {
            let pages = chance.below((bytes / PAGE) as usize) as u64;
            self.reach(chance.below(2), iova.wrapping_add(pages * PAGE));
        }
        if chance.once_in(8) {
            self.check_strict();
        }
        if chance.once_in(64) {
            recount(&mut self.service);
        }
        let usage = self.service.platform().usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0), "R2");
    }

    /// Lets a device write there, and sees where that goes.
    fn reach(&mut self, index: usize, iova: u64) {
        let device = devices()[index];
        self.token += 1;
        let token = self.token;
        let page = iova & !(PAGE - 1);
        {
            let mut machine = self.service.platform().machine_mut();
            // Hostile, it may be turned on by whoever can.
            machine.config_write(device, 4, 6);
            let reached = machine.dma_write(device, page + 8, &token.to_le_bytes());
            drop(machine);
            if reached.is_err() {
                self.check_blocked(device, page);
                return;
            }
        }
        let platform = self.service.platform();
        self.memory.retain(|it| platform.run_words(it.run).is_some());
        let landed = self.memory.iter().find_map(|memory| {
            let words = platform.run_words(memory.run)?;
            let at = |page: &usize| words[page * 512 + 1].load(Ordering::Relaxed) == token;
            let found = (0..memory.pages.len()).find(at)?;
            Some((memory.run, found, memory.pages[found], memory.is_late))
        });
        let engine = self.service.engine();
        let group = engine.group(device).unwrap();
        let domain = group.attached.and_then(|key| engine.domain(key));
        let mapping = domain.and_then(|domain| domain.lookup(Iova::new(page)));
        if let (Some((_, mapping)), Some(domain)) = (mapping, domain)
            && mapping.access.may_write()
        {
            let there =
                domain.translate(platform, Iova::new(page)).map(|it| it.phys.get() & !(PAGE - 1));
            if landed.is_none_or(|(_, _, phys, _)| Some(phys) == there) {
                return;
            }
        }
        assert!(
            self.service.is_waiting(),
            "R1: {device} reaches {page:#x}, where nothing is for it"
        );
        // What a unit has not forgotten yet: what was mapped there, and nothing that came after.
        if let Some((run, found, _, false)) = landed {
            // Of a domain that nobody may ask for its number, all that is known is that it is one.
            let mut inside = self.inside[index].iter().chain([&0]);
            let tried = |domain: &u64| {
                let mut attempts = self.attempts.iter();
                attempts.any(|(of, memory, pages)| {
                    (of, *memory) == (domain, run) && pages.contains(&found)
                })
            };
            let was = inside.any(|domain| {
                self.placed.get(&(*domain, page)) == Some(&(run, found)) || tried(domain)
            });
            trace(|| format!("placed {:x?}, inside {:?}", self.placed, self.inside));
            let tables = engine.domain(DomainKey(self.inside[index].last().copied().unwrap_or(0)));
            let there = tables.and_then(|it| it.translate(platform, Iova::new(page)));
            trace(|| format!("the table says {there:?}, mapping {mapping:?}, group {group:?}"));
            assert!(
                was,
                "R2: {device} reaches page {found} of {run:?} by {page:#x}, which was never there"
            );
        }
    }

    /// Whether it is right that a device does not reach this.
    fn check_blocked(&self, device: PciAddress, page: u64) {
        if self.service.is_waiting() {
            return;
        }
        let engine = self.service.engine();
        let group = engine.group(device).unwrap();
        let domain = group.attached.and_then(|key| engine.domain(key));
        let mapping = domain.and_then(|domain| domain.lookup(Iova::new(page)));
        let may = mapping.is_some_and(|(_, mapping)| mapping.access.may_write());
        assert!(!may, "{device} does not reach {page:#x}, which is mapped for it");
    }

    /// Closes all, and counts.
    pub(crate) fn end(&mut self, chance: &mut Chance) {
        self.pace(Takes::Immediate);
        self.service.platform_mut().limit_frames(usize::MAX);
        for client in 0..USERS.len() {
            self.die(chance, client);
        }
        // Nobody comes back, and nobody is let go before a device was reset.
        self.poll(Duration::from_millis(3));
        for (device, name) in devices().into_iter().zip(DEVICES) {
            if self.service.quarantine_of(device).is_some() {
                let path = format!("quarantine/{name}");
                let Some(node) = self.opened_by_root(0, &path, 0) else { continue };
                self.send(node, Ask::Call(Opcode::Release as u64), &mut Vec::new());
                self.service.close(node.handle);
            }
        }
        for _ in 0..100_000 {
            if self.pending.is_empty() && !self.service.is_waiting() {
                break;
            }
            self.poll(Duration::from_micros(100));
        }
        self.poll(Duration::ZERO);
        assert!(self.held.is_empty() && self.pending.is_empty(), "something pends for good");
        self.look(chance);
        let (handles, before) = self.base;
        let engine = self.service.engine();
        assert_eq!((self.service.handles(), self.service.tickets().len()), (handles, 0));
        assert_eq!(engine.retired(), 0, "something waits for good");
        for device in devices() {
            assert!(engine.group(device).unwrap().attached.is_none(), "R4: {device} is attached");
        }
        assert_eq!(engine.domains().count(), 0);
        recount(&mut self.service);
        assert_eq!(self.service.accounts().iter().count(), 0, "nobody holds anything");
        let usage = self.service.platform().usage();
        assert_eq!(
            (usage.live_runs, usage.live_run_bytes),
            (before.live_runs, before.live_run_bytes)
        );
        // The ledger and the tables of buses grow to what is needed at once, and stay.
        self.most_frames = self.most_frames.max(usage.live_frames - before.live_frames);
        assert!(self.most_frames <= 12, "{} frames more than at the start", self.most_frames);
        assert_eq!(self.service.platform().machine().violations(), Vec::<String>::new());
        self.known.clear();
        self.placed.clear();
        self.strict.clear();
        self.owners.clear();
        self.mapped_by.clear();
        self.parents.clear();
        self.memory.clear();
        self.domains.clear();
    }
}
