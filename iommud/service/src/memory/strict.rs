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
    /// Refuses to map memory that is mapped strictly, and to map memory strictly that is mapped. `buffer` is one that is of
    /// it.
    pub(crate) fn check_only(
        &self,
        run: RunId,
        buffer: BufferId,
        is_strict: bool,
    ) -> Result<(), Error> {
        // Where one is strict, there is no other.
        let mut firsts = self.buffers_of(run, buffer).filter_map(|it| it.mappings.values().next());
        if firsts.any(|mapping| is_strict || mapping.is_strict) {
            Err(Error::MappedElsewhere)
        } else {
            Ok(())
        }
    }

    /// Writes down that a buffer is about to be mapped strictly, or not so: a successor knows by that what may be mapped besides.
    /// Where one mapping is strict there is no other, so that it is said of the buffer.
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
    pub(crate) fn lasting(&mut self, buffer: BufferId) -> Completion {
        let Some(run) = self.sessions.buffers.get(&buffer).map(|it| it.run) else {
            return Completion::none();
        };
        let mut lasting = self.runs.gone(run);
        for other in self.buffers_of(run, buffer) {
            lasting.join(&other.unmapped);
        }
        if self.is_done(&lasting) {
            return Completion::none();
        }
        self.engine.hasten(&mut self.platform, &lasting);
        lasting
    }

    /// The buffers of a run, of which this is one.
    fn buffers_of(&self, run: RunId, buffer: BufferId) -> impl Iterator<Item = &Buffer> {
        let alone = self.runs.buffers(run) == 1;
        let among = if alone { buffer..=buffer } else { BufferId(0)..=BufferId(u64::MAX) };
        let among = self.sessions.buffers.range(among);
        among.map(|(_, other)| other).filter(move |other| other.run == run)
    }
}
