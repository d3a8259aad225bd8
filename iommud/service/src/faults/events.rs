//! What happened to the device of a session and was not read yet.

use alloc::collections::VecDeque;
use core::time::Duration;

use dma_types::SourceId;
use iommu_engine::completion::UnitId;
use iommu_engine::domain::DomainKey;
use iommu_engine::fault::{Fault, FaultReason, Tried};
use iommu_engine::platform::Instant;
use libdma::protocol::call::access_code;
use libdma::protocol::event::{EventKind, EventRecord, Place};
use libdma::protocol::fault;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

use crate::faults::explain::Behind;

/// How many are kept for a session that does not read them.
pub const UNREAD: usize = 64;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was learnt of.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An access was blocked.
    Fault {
        /// The unit that blocked it.
        unit: UnitId,
        /// Which one.
        fault: Fault,
        /// How many times in a row.
        times: u64,
        /// The domain that the session's device was in.
        domain: Option<DomainKey>,
        /// What of the session's is or was there.
        behind: Option<Behind>,
    },
    /// A requester was denied so much that its unit records nothing more of it for a while.
    Silenced {
        /// Who.
        source: SourceId,
        /// For how long.
        lasts: Duration,
    },
    /// The device was put in quarantine.
    Quarantined {
        /// For whose sake.
        source: SourceId,
        /// After how many blocked accesses.
        faults: u32,
        /// Within which time.
        within: Duration,
    },
    /// The device was reset.
    DeviceReset {
        /// The session's generation since.
        generation: u64,
    },
    /// iommud was restarted, and the session resumed.
    Restarted {
        /// The session's generation since.
        generation: u64,
    },
    /// The quarantine of the device has ended.
    Released {
        /// The session's generation since.
        generation: u64,
    },
}

impl What {
    /// Whether both are a fault, and all that a driver is told of it is alike but when it was.
    fn is_the_same_fault(&self, other: &Self) -> bool {
        let of_fault = |what: &Self| match *what {
            Self::Fault { unit, fault, domain, behind, .. } => {
                // Of what is mapped still the time is that of the look.
                let behind = behind.map(|Behind { place, mapping, offset }| {
                    let since = (place == Place::Unmapped).then_some(mapping.at);
                    (place, since, mapping.domain, mapping.buffer, mapping.access, offset)
                });
                Some((unit, fault, domain, behind))
            }
            _ => None,
        };
        let fault = of_fault(self);
        fault.is_some() && fault == of_fault(other)
    }
}

/// The events that a session has not read, oldest first.
#[derive(Debug, Default)]
pub struct Events {
    waiting: VecDeque<Entry>,
    dropped: u64,
}

impl Events {
    /// Adds one, and drops the oldest fault if there is no room, or else the oldest of what matters least. A fault that is
    /// the same as the last only counts.
    pub fn add(&mut self, entry: Entry) {
        if let Some(Entry { what: What::Fault { times, .. }, .. }) =
            self.waiting.back_mut().filter(|last| last.what.is_the_same_fault(&entry.what))
        {
            *times += 1;
            return;
        }
        if self.waiting.len() >= UNREAD {
            self.make_room();
        }
        self.waiting.push_back(entry);
    }

    fn make_room(&mut self) {
        let oldest = |of: fn(&What) -> bool| self.waiting.iter().position(|it| of(&it.what));
        let fault = oldest(|what| matches!(what, What::Fault { .. }));
        let least = fault.or_else(|| oldest(|what| matches!(what, What::Silenced { .. })));
        let removed = self.waiting.remove(least.unwrap_or(0));
        if let Some(Entry { what: What::Fault { times, .. }, .. }) = removed {
            self.dropped += times;
        }
    }

    /// Counts a blocked access that is not told.
    pub fn drop_one(&mut self) {
        self.dropped += 1;
    }

    /// Whether there is nothing to be read.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many are to be read.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes out the oldest, at most this many.
    pub fn take(&mut self, count: usize) -> impl Iterator<Item = Entry> {
        self.waiting.drain(..count.min(self.waiting.len()))
    }

    /// How many blocked accesses were dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped)
    }
}

impl Entry {
    /// It as it lies on the wire.
    pub fn record(&self) -> EventRecord {
        let mut record = EventRecord::new_zeroed();
        record.nanoseconds = U64::new(self.at.as_nanos());
        match &self.what {
            What::Fault { fault, times, domain, behind, .. } => {
                record.kind = U32::new(EventKind::Fault as u32);
                record.count = U64::new(*times);
                record.address = U64::new(fault.address.get());
                record.domain = U64::new(domain.map_or(0, |domain| domain.0));
                record.source = U16::new(fault.device.map_or(0, SourceId::get));
                record.tried = U16::new(tried(fault.tried) as u16);
                record.reason = U32::new(reason(fault.reason) as u32);
                if let Some(behind) = behind {
                    self.tell_behind(behind, &mut record);
                }
            }
            What::Silenced { source, lasts } => {
                record.kind = U32::new(EventKind::Silenced as u32);
                record.source = U16::new(source.get());
                record.span = U64::new(nanoseconds(*lasts));
            }
            What::Quarantined { source, faults, within } => {
                record.kind = U32::new(EventKind::Quarantined as u32);
                record.source = U16::new(source.get());
                record.count = U64::new((*faults).into());
                record.span = U64::new(nanoseconds(*within));
            }
            What::DeviceReset { generation } => {
                record.kind = U32::new(EventKind::DeviceReset as u32);
                record.count = U64::new(*generation);
            }
            What::Restarted { generation } => {
                record.kind = U32::new(EventKind::Restarted as u32);
                record.count = U64::new(*generation);
            }
            What::Released { generation } => {
                record.kind = U32::new(EventKind::Released as u32);
                record.count = U64::new(*generation);
            }
        }
        record
    }

    fn tell_behind(&self, behind: &Behind, record: &mut EventRecord) {
        let Behind { place, mapping, offset } = behind;
        record.place = U32::new(*place as u32);
        record.access = U32::new(access_code(mapping.access));
        record.buffer = U64::new(mapping.buffer);
        record.offset = U64::new(*offset);
        record.within = U64::new(mapping.domain.0);
        record.label = mapping.label.bytes();
        // Of what is mapped still that is the moment of now.
        record.span = U64::new(self.at.as_nanos().saturating_sub(mapping.at.as_nanos()));
    }
}

/// A duration as it lies on the wire: half a thousand years at the most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const fn tried(tried: Tried) -> fault::Tried {
    match tried {
        Tried::Read => fault::Tried::Read,
        Tried::Write => fault::Tried::Write,
        Tried::Access => fault::Tried::Access,
        Tried::Atomic => fault::Tried::Atomic,
        Tried::Page => fault::Tried::Page,
        Tried::Interrupt => fault::Tried::Interrupt,
        Tried::Translation => fault::Tried::Translation,
        Tried::Internal => fault::Tried::Internal,
    }
}

const fn reason(reason: FaultReason) -> fault::Reason {
    match reason {
        FaultReason::NoDomain => fault::Reason::NoDomain,
        FaultReason::NotReadable => fault::Reason::NotReadable,
        FaultReason::NotWritable => fault::Reason::NotWritable,
        FaultReason::BeyondWidth => fault::Reason::BeyondWidth,
        FaultReason::Translated => fault::Reason::Translated,
        FaultReason::InterruptRange => fault::Reason::InterruptRange,
        FaultReason::Interrupt => fault::Reason::Interrupt,
        FaultReason::Mode => fault::Reason::Mode,
        FaultReason::DeviceTable => fault::Reason::DeviceTable,
        FaultReason::PageTable => fault::Reason::PageTable,
        FaultReason::Command => fault::Reason::Command,
        FaultReason::Unknown => fault::Reason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn silenced(number: u64) -> Entry {
        let what = What::Silenced { source: SourceId::new(0x10), lasts: Duration::from_secs(1) };
        Entry { at: Instant::from_nanos(number), what }
    }

    #[test]
    fn what_a_driver_must_know_is_kept_though_it_never_reads_the_rest() {
        let mut events = Events::default();
        let what = What::DeviceReset { generation: 2 };
        let reset = Entry { at: Instant::from_nanos(0), what };
        events.add(reset);
        (1..=UNREAD as u64 + 5).for_each(|number| events.add(silenced(number)));
        let waiting: Vec<_> = events.take(UNREAD).collect();
        assert_eq!((waiting[0], waiting[1], waiting.len()), (reset, silenced(7), UNREAD));
    }

    #[test]
    fn of_what_matters_most_the_oldest_goes_when_there_is_nothing_else() {
        let mut events = Events::default();
        for generation in 1..=UNREAD as u64 + 1 {
            let what = What::DeviceReset { generation };
            events.add(Entry { at: Instant::from_nanos(0), what });
        }
        assert_eq!((events.len(), events.take_dropped()), (UNREAD, 0));
        let what = What::DeviceReset { generation: 2 };
        assert_eq!(events.take(1).next(), Some(Entry { at: Instant::from_nanos(0), what }));
    }
}
