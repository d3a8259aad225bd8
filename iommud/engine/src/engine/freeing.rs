//! What becomes free when hardware has confirmed.

use alloc::vec::Vec;

use dma_types::{Iova, PhysAddr};

use super::Engine;
use super::units::{progress, unit_mut};
use crate::completion::{Completion, Progress};
use crate::domain::DomainKey;
use crate::payer::{self, Payer, Turnover};
use crate::platform::Platform;
use crate::retired::{Retired, RetiredRun};

impl Engine {
    /// Frees what was unmapped when it may be, which is later, with frames that were unlinked.
    pub(super) fn retire_ranges(
        &mut self,
        (key, ranges, payers): (DomainKey, &[(Iova, u64)], &[Payer]),
        completion: &Completion,
        mut frames: Vec<(PhysAddr, Payer)>,
    ) {
        for (&(iova, bytes), &payer) in ranges.iter().zip(payers) {
            let (completion, range) = (completion.clone(), Some((key, iova, bytes)));
            let frames = core::mem::take(&mut frames);
            self.books.note_operations(payer, 1);
            self.retired.put(Retired { completion, frames, range, payer, ..Retired::default() });
        }
        if !frames.is_empty() {
            let completion = completion.clone();
            self.retired.put(Retired { completion, frames, ..Retired::default() });
        }
    }

    /// Frees a run of memory that no device can reach once `completion` is done, and strikes out its record.
    pub fn free_run_after(
        &mut self,
        platform: &mut impl Platform,
        completion: Completion,
        run: RetiredRun,
    ) {
        self.retire(platform, Retired { completion, run: Some(run), ..Retired::default() });
    }

    /// Frees something at once if it may be, else when it may.
    pub(super) fn retire(&mut self, platform: &mut impl Platform, retired: Retired) {
        if self.progress(&retired.completion) == Progress::Done {
            self.free(platform, retired);
        } else {
            self.retired.put(retired);
        }
    }

    /// Frees everything that the units have confirmed.
    pub(super) fn release(&mut self, platform: &mut impl Platform) {
        for _ in 0..self.retired.waiting() {
            let Self { retired: list, units, deferred, .. } = self;
            if let Some(retired) = list.look(|it| progress(units, deferred, it)) {
                if retired.range.is_some() {
                    self.books.note_operations(retired.payer, -1);
                }
                self.free(platform, retired);
            }
        }
    }

    /// Makes addresses of a domain free, which somebody pays for.
    fn free_range(&mut self, payer: Payer, (key, iova, bytes): (DomainKey, Iova, u64)) {
        self.books.note_addresses(payer, -payer::bytes(bytes));
        if let Some(domain) = self.domains.get_mut(&key) {
            domain.free_addresses(iova, bytes);
        }
    }

    pub(super) fn free(&mut self, platform: &mut impl Platform, retired: Retired) {
        let Retired { frames, range, payer, addresses, domain_ids, run, .. } = retired;
        for (frame, payer) in frames {
            platform.free_frame(frame);
            self.books.note(payer, Turnover { frames: -1, ..Turnover::default() });
        }
        for (payer, bytes) in addresses {
            let iova_bytes = -payer::bytes(bytes);
            self.books.note(payer, Turnover { iova_bytes, ..Turnover::default() });
        }
        if let Some(range) = range {
            self.free_range(payer, range);
        }
        for (unit, id) in domain_ids {
            if let Some(hardware) = unit_mut(&mut self.units, unit) {
                hardware.domain_ids().give_back(id);
            }
        }
        if let Some(RetiredRun { run, record, bytes, payer }) = run {
            let run_bytes = -payer::bytes(bytes);
            self.books.note(payer, Turnover { runs: -1, run_bytes, ..Turnover::default() });
            self.free_seen_run(platform, run, record);
        }
    }
}
