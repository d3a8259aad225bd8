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
    request: RequestId,
    completion: Completion,
    answer: Answer,
    undo: Undo,
}

/// All requests that are pending.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: Vec<Waiting>,
    last: u64,
}

impl Pending {
    /// Keeps an answer back until `completion` is done.
    pub(crate) fn put(&mut self, completion: Completion, answer: Answer, undo: Undo) -> RequestId {
        self.last += 1;
        let request = RequestId(self.last);
        self.waiting.push(Waiting { request, completion, answer, undo });
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

    /// How many requests are pending.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
