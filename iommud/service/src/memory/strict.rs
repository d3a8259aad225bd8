//! Strict mappings, each of which is the only one of its memory.
//!
//! Who unmaps strictly is told that the device reaches the memory no more. That is true of the memory, and not just of the
//! one mapping, where nothing else of it is mapped: not at another address, not in another domain, and not for another
//! device by a buffer of another session (see [`Runs`](crate::memory::runs::Runs)); and where no unit holds on to a mapping of before.

use iommu_engine::completion::Completion;
use iommu_engine::ledger::Ledger;
use iommu_engine::platform::{Platform, RunId};
use libdma::Error;

use crate::records::BufferRecord;
use crate::service::Service;
use crate::sessions::session::{Buffer, BufferId};

impl<P: Platform> Service<P> {
    /// Refuses to map a buffer's memory where that is mapped strictly, and to map it strictly where it is mapped. Where the
    /// buffer is alone there is no other of its memory, nor was.
    #[inline]
    pub(crate) fn check_only(
        &self,
        buffer: &Buffer,
        is_alone: bool,
        is_strict: bool,
    ) -> Result<(), Error> {
        // Where one is strict, there is no other, so that it is said of the buffer.
        let forbids =
            |buffer: &Buffer| !buffer.mappings.is_empty() && (is_strict || buffer.is_noted_strict);
        let is_mapped = match is_alone {
            true => forbids(buffer),
            false => self.buffers_of(buffer.run).any(forbids),
        };
        if is_mapped { Err(Error::MappedElsewhere) } else { Ok(()) }
    }

    /// Writes down that a buffer is about to be mapped strictly, or not so: a successor knows by that what may be mapped besides.
    /// Where one mapping is strict there is no other, so that it is said of the buffer.
    #[inline(never)]
    pub(crate) fn note_strict(&mut self, buffer: BufferId, is_strict: bool) {
        let Self { engine, platform, sessions, .. } = self;
        let Some(held) = sessions.buffers.get_mut(&buffer) else { return };
        if held.is_noted_strict == is_strict {
            return;
        }
        held.is_noted_strict = is_strict;
        if let Some(record) = Ledger::read::<BufferRecord>(platform, held.slot) {
            engine.update_record(platform, held.slot, &BufferRecord { is_strict, ..record });
        }
    }

    /// What units have yet to confirm of mappings that a buffer's memory had. They are told at once what they were not told
    /// yet.
    #[inline]
    pub(crate) fn lasting(&mut self, buffer: BufferId) -> Completion {
        let Some(it) = self.sessions.buffers.get(&buffer) else { return Completion::none() };
        match self.runs.standing(it.run) == (true, true) && it.unmapped.is_none() {
            true => Completion::none(),
            false => self.lasting_of_run(it.run, buffer),
        }
    }

    /// The same of a run, of which a buffer is.
    #[inline(never)]
    pub(super) fn lasting_of_run(&mut self, run: RunId, buffer: BufferId) -> Completion {
        let mut lasting = self.runs.gone(run);
        if self.runs.buffers(run) == 1 {
            let Some(alone) = self.sessions.buffers.get_mut(&buffer) else { return lasting };
            self.engine.forget_confirmed(&mut alone.unmapped);
            lasting.join(&alone.unmapped);
        } else {
            self.buffers_of(run).for_each(|buffer| lasting.join(&buffer.unmapped));
        }
        if self.is_done(&lasting) {
            return Completion::none();
        }
        self.engine.hasten(&mut self.platform, &lasting);
        lasting
    }

    /// The buffers of a run.
    fn buffers_of(&self, run: RunId) -> impl Iterator<Item = &Buffer> {
        self.sessions.buffers.values().filter(move |buffer| buffer.run == run)
    }
}
