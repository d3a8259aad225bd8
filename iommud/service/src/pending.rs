//! Requests that hardware must confirm before they are answered.

use alloc::vec::Vec;

use dma_types::Iova;
use iommu_engine::completion::{Completion, Progress};
use libdma::Error;

use crate::handle::HandleId;
use crate::mappings::Space;

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

#[derive(Debug)]
struct Waiting {
    /// The handle that it was made on.
    by: HandleId,
    request: RequestId,
    completion: Completion,
    answer: Answer,
    undo: Undo,
}

/// All requests that are pending.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: Vec<Waiting>,
    /// Those that are answered, and were not given yet.
    answered: Vec<Completed>,
    last: u64,
}

impl Pending {
    /// Keeps an answer back until `completion` is done.
    pub(crate) fn put(
        &mut self,
        by: HandleId,
        completion: Completion,
        answer: Answer,
        undo: Undo,
    ) -> RequestId {
        self.last += 1;
        let request = RequestId(self.last);
        self.waiting.push(Waiting { by, request, completion, answer, undo });
        request
    }

    /// Takes out a request that is done or has failed, if there is one. The answer is given either way, so
    /// that a handle that nobody will get can be closed.
    pub(crate) fn take(
        &mut self,
        progress: impl Fn(&Completion) -> Progress,
    ) -> Option<(RequestId, Answer, Undo, Progress)> {
        let (index, state) = self
            .waiting
            .iter()
            .enumerate()
            .map(|(index, waiting)| (index, progress(&waiting.completion)))
            .find(|(_, state)| *state != Progress::Pending)?;
        let Waiting { request, answer, undo, .. } = self.waiting.remove(index);
        Some((request, answer, undo, state))
    }

    /// Answers the requests that were made on handles of which this is true, or that are to be answered with such a handle:
    /// those handles, which nobody will get.
    pub(crate) fn revoke(&mut self, is_revoked: impl Fn(HandleId) -> bool) -> Vec<HandleId> {
        let mut unclaimed = Vec::new();
        let answered = &mut self.answered;
        self.waiting.retain(|waiting| {
            let new = match waiting.answer {
                Answer::Handle(handle) => Some(handle),
                Answer::Payload(_) => None,
            };
            let stays = !is_revoked(waiting.by) && !new.is_some_and(&is_revoked);
            if !stays {
                unclaimed.extend(new);
                let (request, result) = (waiting.request, Err(Error::Revoked));
                answered.push(Completed { request, result });
            }
            stays
        });
        unclaimed
    }

    /// What was unmapped is not to be taken back any more.
    pub(crate) fn forget(&mut self, space: Space, unmapped: &[(Iova, u64)]) {
        for (_, ranges) in
            self.waiting.iter_mut().flat_map(|it| &mut it.undo).filter(|(it, _)| *it == space)
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
        self.waiting.len() + self.answered.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
