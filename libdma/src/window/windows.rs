//! All windows of a device.

use alloc::sync::Arc;
use alloc::vec::Vec;

use dma_types::{CacheType, PAGE_SIZE};
use spin::Mutex;

use super::{Block, BlockRequest};
use crate::protocol::Error;
use crate::protocol::derive::Kind;
use crate::session::{BufferRequest, Session};

/// All windows of a device.
#[derive(Debug)]
pub(crate) struct Windows {
    session: Arc<Session>,
    /// What may be in use by the device though nobody stands for it any more.
    retired: Mutex<Vec<Block>>,
}

impl Windows {
    /// None yet.
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session, retired: Mutex::new(Vec::new()) }
    }

    /// The session whose windows they are.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Gives out a block. What is in it is what was in it before: it is not zeroed.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`](crate::Device::allocate).
    pub(crate) fn alloc(self: &Arc<Self>, request: &BlockRequest<'_>) -> Result<Block, Error> {
        let BlockRequest { bytes, align, access, limit, label } = *request;
        let whole = (bytes as u64).checked_next_multiple_of(PAGE_SIZE).ok_or(Error::TooLarge)?;
        let natural = (bytes as u64).next_power_of_two().max(align as u64).max(PAGE_SIZE);
        let buffer = self.session.allocate(&BufferRequest {
            kind: Kind::Allocate,
            bytes: whole,
            align: natural,
            access: Some(access),
            limit,
            cache: CacheType::WriteBack,
            label,
        })?;
        let iova = buffer.iova().ok_or(Error::BadValue)?;
        Ok(Block::new(buffer, iova, bytes))
    }

    /// Keeps a block as it is, mapped and given out to nobody else, until the windows end with their device: the
    /// device may go on to write to it.
    pub(crate) fn retire(&self, block: Block) {
        self.retired.lock().push(block);
    }
}
