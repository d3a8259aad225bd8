//! Requests that hardware must confirm before they are answered.

use alloc::vec::Vec;

use dma_types::Iova;
use iommu_engine::completion::{Completion, Progress};
use libdma::Error;

use crate::account::AccountId;
use crate::handles::handle::HandleId;
use crate::memory::mappings::Space;

/// Names a request that is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How a request that was not refused stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It is done.
    Done(T),
    /// It will be done, or will have failed, after a poll: see [`Completed`].
    Pending(RequestId),
}

/// What a pending request is answered with in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The handle that was opened or derived.
    Handle(HandleId),
    /// The payload of a call.
    Payload(Vec<u8>),
}

/// Mappings to take back if hardware never confirms: the client will not have learned of them.
pub(crate) type Undo = Vec<(Space, Vec<(Iova, u64)>)>;

/// A request that is pending no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Which.
    pub request: RequestId,
    /// Its answer.
    pub result: Result<Answer, Error>,
}

/// What is to happen when hardware has confirmed.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The handle that it was made on.
    pub(crate) by: HandleId,
    /// On whose account it is.
    pub(crate) account: AccountId,
    /// What has to be confirmed.
    pub(crate) completion: Completion,
    /// The answer then.
    pub(crate) answer: Answer,
    /// What is to be taken back if that never happens.
    pub(crate) undo: Undo,
}

/// All requests that are pending.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: Vec<(RequestId, Waiting)>,
    /// Those that are answered by something else than hardware that confirms.
    promised: Vec<(HandleId, RequestId)>,
    /// Those that are answered, and were not given yet.
    answered: Vec<Completed>,
    last: u64,
}

impl Pending {
    /// Keeps an answer back until hardware has confirmed.
    pub(crate) fn put(&mut self, waiting: Waiting) -> RequestId {
        self.last += 1;
        let request = RequestId(self.last);
        self.waiting.push((request, waiting));
        request
    }

    /// Keeps an answer back until [`keep_promise`](Self::keep_promise).
    pub(crate) fn promise(&mut self, by: HandleId) -> RequestId {
        self.last += 1;
        let request = RequestId(self.last);
        self.promised.push((by, request));
        request
    }

    /// Whether a request that was promised an answer waits for it still.
    pub(crate) fn is_promised(&self, request: RequestId) -> bool {
        self.promised.iter().any(|(_, promised)| *promised == request)
    }

    /// Answers a request, if it was not answered otherwise since.
    pub(crate) fn keep_promise(&mut self, request: RequestId, result: Result<Answer, Error>) {
        let before = self.promised.len();
        self.promised.retain(|(_, promised)| *promised != request);
        if self.promised.len() < before {
            self.answered.push(Completed { request, result });
        }
    }

    /// The handle that a request is to be answered with, if it is one.
    pub(crate) fn handle_of(&self, request: RequestId) -> Option<HandleId> {
        let (_, waiting) = self.waiting.iter().find(|(other, _)| *other == request)?;
        match waiting.answer {
            Answer::Handle(handle) => Some(handle),
            Answer::Payload(_) => None,
        }
    }

    /// Has hardware's confirmation answer a request that was promised an answer: what is kept back for `other`.
    pub(crate) fn go_on_as(&mut self, request: RequestId, other: RequestId) {
        self.promised.retain(|(_, promised)| *promised != request);
        if let Some((id, _)) = self.waiting.iter_mut().find(|(id, _)| *id == other) {
            *id = request;
        }
    }

    /// Takes out a request that is done or has failed, if there is one. The answer is given either way, so
    /// that a handle that nobody will get can be closed.
    pub(crate) fn take(
        &mut self,
        progress: impl Fn(&Completion) -> Progress,
    ) -> Option<(RequestId, Waiting, Progress)> {
        let (index, state) = self
            .waiting
            .iter()
            .enumerate()
            .map(|(index, (_, waiting))| (index, progress(&waiting.completion)))
            .find(|(_, state)| *state != Progress::Pending)?;
        let (request, waiting) = self.waiting.remove(index);
        Some((request, waiting, state))
    }

    /// On whose account the requests are that are pending.
    pub fn accounts(&self) -> impl Iterator<Item = AccountId> {
        self.waiting.iter().map(|(_, waiting)| waiting.account)
    }

    /// Answers the requests that were made on handles of which this is true, or that are to be answered with such a handle:
    /// those handles, which nobody will get.
    /// And on whose account they were.
    pub(crate) fn revoke(
        &mut self,
        is_revoked: impl Fn(HandleId) -> bool,
    ) -> (Vec<HandleId>, Vec<AccountId>) {
        let (mut unanswered, mut accounts) = (Vec::new(), Vec::new());
        let answered = &mut self.answered;
        self.waiting.retain(|(request, waiting)| {
            let new = match waiting.answer {
                Answer::Handle(handle) => Some(handle),
                Answer::Payload(_) => None,
            };
            let stays = !is_revoked(waiting.by) && !new.is_some_and(&is_revoked);
            if !stays {
                unanswered.extend(new);
                accounts.push(waiting.account);
                answered.push(Completed { request: *request, result: Err(Error::Revoked) });
            }
            stays
        });
        self.promised.retain(|(by, request)| {
            let stays = !is_revoked(*by);
            if !stays {
                answered.push(Completed { request: *request, result: Err(Error::Revoked) });
            }
            stays
        });
        (unanswered, accounts)
    }

    /// What was unmapped is not to be taken back any more.
    pub(crate) fn forget(&mut self, space: Space, unmapped: &[(Iova, u64)]) {
        for (_, ranges) in self
            .waiting
            .iter_mut()
            .flat_map(|(_, it)| &mut it.undo)
            .filter(|(it, _)| (it.session, it.domain) == (space.session, space.domain))
        {
            ranges.retain(|range| !unmapped.contains(range));
        }
    }

    /// Takes out those that were answered.
    pub(crate) fn take_answered(&mut self) -> Vec<Completed> {
        core::mem::take(&mut self.answered)
    }

    /// How many requests are pending, or answered and not given yet.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.promised.len() + self.answered.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
