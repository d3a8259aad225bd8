//! What clients do beside making requests, and what happens to them.

use super::*;

impl World {
    /// Closes one of the handles.
    pub(crate) fn close(&mut self, index: usize) {
        if index < self.held.len() {
            let held = self.held.swap_remove(index);
            trace(|| format!("close {held:?}"));
            self.service.close(held.handle);
        }
    }

    /// Ends a client: whatever it holds is closed, in whatever order.
    pub(crate) fn die(&mut self, chance: &mut Chance, client: usize) {
        loop {
            let of_client = |it: &Held| it.client == client;
            let count = self.held.iter().filter(|it| of_client(it)).count();
            if count == 0 {
                break;
            }
            let nth = chance.below(count);
            let mut indexes = self.held.iter().enumerate().filter(|(_, it)| of_client(it));
            let Some((index, _)) = indexes.nth(nth) else { break };
            self.close(index);
        }
        // What it still waits for nobody gets.
        for asked in self.pending.values_mut().filter(|it| it.made.client == client) {
            asked.made.client = usize::MAX;
        }
    }

    /// Lets time pass, and takes what has been answered.
    pub(crate) fn poll(&mut self, time: Duration) {
        self.service.platform_mut().advance_time(time);
        for Completed { request, result } in self.service.poll() {
            let asked = self.pending.remove(&request);
            let Asked { made, alone } = asked.expect("a request that was made, answered once");
            if result.is_ok() {
                self.check_alone(alone);
            }
            match result {
                Ok(Answer::Handle(handle)) => {
                    self.opened(Held { handle, ..made });
                    let run = self.held.last().and_then(|it| it.run);
                    let ended = |it: &&mut Memory| Some(it.run) == run;
                    self.memory.iter_mut().filter(ended).for_each(|it| it.is_late = true);
                    if made.client == usize::MAX {
                        self.close(self.held.len() - 1);
                    }
                }
                Ok(Answer::Payload(_)) | Err(_) => {}
            }
        }
    }

    /// iommud dies, and a successor takes its place: all handles are dead, and sessions wait for those who know their
    /// secrets.
    pub(crate) fn restart(&mut self) {
        trace(|| "restart".into());
        self.service.orphan_all();
        // Of what there is: most of what was once is gone for good.
        let Self { held, secrets, numbers, domains, .. } = self;
        secrets.retain(|(.., session)| held.iter().any(|it| it.session == *session));
        numbers.retain(|number| held.iter().any(|it| it.number == *number));
        domains.retain(|domain| held.iter().any(|it| it.domain == *domain));
        self.held.clear();
        self.pending.clear();
        self.mapped_by.clear();
        self.parents.clear();
        // Those of before are good for nothing.
        for (_, ticket) in self.tickets.clone() {
            remember(&mut self.used, ticket);
        }
    }

    /// Somebody resumes a session.
    pub(crate) fn resume(&mut self, chance: &mut Chance) {
        // The latest are likely to be of sessions that there are.
        let back = if chance.once_in(4) { self.secrets.len() } else { 4 };
        let known = self.secrets.iter().rev().nth(chance.below(back.min(self.secrets.len())));
        let Some(&(which, secret, session)) = known else { return };
        let client = chance.below(USERS.len());
        let right = secret;
        let mut secret = right.as_bytes().to_vec();
        if chance.once_in(8) {
            chance.change(&mut secret);
        }
        let path = format!("resume/{}", DEVICES[which]);
        let Some(resume) = self.opened_by_root(client, &path, session) else { return };
        let mut is_right = secret.starts_with(right.as_bytes());
        if chance.once_in(16) {
            // Whoever comes after the deadline comes too late, also when nobody has looked at the clock meanwhile.
            self.service.platform_mut().advance_time(Duration::from_millis(3));
            is_right = false;
        }
        if self.send(resume, Ask::Call(Opcode::Resume as u64), &mut secret) {
            assert!(is_right, "R3: a session is resumed by {secret:x?}");
            self.opened(resume);
            for _ in 0..chance.below(8) {
                let (of, ask, mut request) = reclaim_by(resume, self, chance);
                self.send(of, ask, &mut request);
            }
        } else {
            self.service.close(resume.handle);
        }
    }

    /// The administrator ends a quarantine, if there is one.
    pub(crate) fn release(&mut self, chance: &mut Chance) {
        let path = format!("quarantine/{}", chance.one_of(&DEVICES));
        let client = chance.below(USERS.len());
        let Some(node) = self.opened_by_root(client, &path, 0) else { return };
        self.send(node, Ask::Call(Opcode::Release as u64), &mut Vec::new());
        // Its answer, if it pends, is the last that is asked by it.
        self.service.close(node.handle);
    }

    /// A handle that is known to be no device's yet.
    pub(super) fn opened_by_root(
        &mut self,
        client: usize,
        path: &str,
        session: u64,
    ) -> Option<Held> {
        let root = self.service.root();
        let opened = self.service.open(root, path, Caller { uid: USERS[client] });
        self.service.close(root);
        let Ok(Outcome::Done(handle)) = opened else { return None };
        let mut hello = Hello::new();
        let _ = self.service.call(handle, Opcode::Hello as u64, hello.as_mut_bytes());
        let (what, rights) = (What::Device, Rights::all());
        let (domain, number, run, bounds) = (0, 0, None, Bounds::NONE);
        let parent = None;
        Some(Held { handle, what, rights, client, session, domain, number, run, bounds, parent })
    }

    /// Says hello on a handle, which it must after its device was reset.
    pub(crate) fn greet(&mut self, handle: HandleId) {
        let _ = self.service.call(handle, Opcode::Hello as u64, Hello::new().as_mut_bytes());
    }

    /// Somebody sends the memory that a registration waits for.
    pub(crate) fn supply(&mut self, chance: &mut Chance) {
        let Some(of) = self.pick(chance, &[What::Registration]) else { return };
        let Ok(awaited) = self.service.awaited(of.handle) else { return };
        let Some(run) = self.service.platform_mut().alloc_run(awaited.bytes) else { return };
        match self.service.supply(of.handle, run) {
            Ok(outcome) => {
                self.held.retain(|it| it.handle != of.handle);
                self.opened(Held { what: What::Buffer, ..of });
                if let Outcome::Pending(request) = outcome {
                    self.pending.insert(request, Asked { made: of, alone: Vec::new() });
                }
            }
            Err((_, true)) => self.service.platform_mut().free_run(run),
            Err((_, false)) => {}
        }
    }

    /// From now on the first unit takes so long.
    pub(crate) fn pace(&mut self, takes: Takes) {
        slow_down(&mut self.service.platform().machine_mut(), takes);
    }
}
