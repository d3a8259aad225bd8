//! Devices that are denied more than anybody wants to know, one by one.
//!
//! What a unit records of each requester is counted. Some at once and so many in a second are told one by one, to the
//! device's driver and in the report; the rest by its number alone. A requester that goes on all the same keeps the daemon
//! busy, and takes the room in its unit's log that is there for others: then its unit is told to record nothing of it for a
//! while (see [`blocking`](iommu_engine::engine::blocking)), and how much it is denied meanwhile nobody knows.
//!
//! So of one requester no more than [`AT_ONCE`] + [`STORM`] records are read in a [`SILENCE`], and what its unit recorded
//! until it was told.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use dma_types::SourceId;
use iommu_engine::completion::UnitId;
use iommu_engine::platform::Instant;
use iommu_engine::policy::QuarantineAfter;

/// How many faults of a requester are told one by one, if none came before for long.
pub const AT_ONCE: u32 = 128;

/// How many more with each second.
pub const A_SECOND: u32 = 64;

/// How many faults that are not told make a storm.
pub const STORM: u32 = 256;

/// How long nothing is recorded of a requester then.
pub const SILENCE: Duration = Duration::from_secs(1);

/// Who signed a request: a source-id of a segment, or none that any device there is known to sign with.
pub type Requester = (u16, Option<SourceId>);

/// What was recorded of one requester.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Everything.
    pub total: u64,
    /// What of that was not told one by one.
    pub dropped: u64,
    /// How many may be told now.
    left: u32,
    /// Until when that was counted up.
    filled: Instant,
    /// How many were not told since one was, or since its unit was told to record them again.
    untold: u32,
    /// Where and until when nothing is recorded of it.
    silent: Option<(UnitId, Instant)>,
    /// Since when faults are counted for a quarantine, and how many there were.
    counted: (Instant, u32),
}

/// What is to be done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is told by itself, and not only counted.
    pub is_told: bool,
    /// Its unit is to record nothing of the requester from now on.
    pub silences: bool,
    /// It is one more than the policy allows.
    pub quarantines: bool,
}

/// What was recorded of all requesters.
#[derive(Debug, Default)]
pub struct Storms {
    tallies: BTreeMap<Requester, Tally>,
    silent: usize,
}

impl Tally {
    fn new(now: Instant) -> Self {
        Self {
            total: 0,
            dropped: 0,
            left: AT_ONCE,
            filled: now,
            untold: 0,
            silent: None,
            counted: (now, 0),
        }
    }

    /// Counts up how many may be told.
    fn fill(&mut self, now: Instant) {
        let each = Duration::from_secs(1) / A_SECOND;
        let more = now.since(self.filled).as_nanos() / each.as_nanos();
        if more >= u128::from(AT_ONCE - self.left) {
            (self.left, self.filled) = (AT_ONCE, now);
        } else {
            // It is less than there is room for.
            self.left += more as u32;
            let counted = self.filled.as_nanos() + more as u64 * each.as_nanos() as u64;
            self.filled = Instant::from_nanos(counted);
        }
    }

    fn count(&mut self, now: Instant, after: Option<QuarantineAfter>) -> Verdict {
        self.total += 1;
        self.fill(now);
        let is_told = self.left > 0;
        if is_told {
            self.left -= 1;
            self.untold = 0;
        } else {
            self.dropped += 1;
            self.untold += 1;
        }
        let quarantines = after.is_some_and(|after| {
            if now.since(self.counted.0) > after.within || self.counted.1 == 0 {
                self.counted = (now, 0);
            }
            self.counted.1 += 1;
            self.counted.1 >= after.faults
        });
        // Of what is not recorded nobody could say whether it is more than the policy allows.
        let storm = after.map_or(STORM, |after| after.faults.max(STORM));
        let silences = self.untold >= storm && self.silent.is_none() && !quarantines;
        Verdict { is_told, silences, quarantines }
    }
}

impl Storms {
    /// Counts a fault of a requester, which the policy has quarantined after so many.
    pub fn count(
        &mut self,
        requester: Requester,
        now: Instant,
        after: Option<QuarantineAfter>,
    ) -> Verdict {
        self.tallies.entry(requester).or_insert_with(|| Tally::new(now)).count(now, after)
    }

    /// What was recorded of a requester, if anything.
    pub fn of(&self, requester: Requester) -> Option<&Tally> {
        self.tallies.get(&requester)
    }

    /// Notes that nothing is recorded of a requester by this unit for a [`SILENCE`].
    pub fn silenced(&mut self, requester: Requester, unit: UnitId, now: Instant) {
        let Some(tally) = self.tallies.get_mut(&requester) else { return };
        let until = now.as_nanos().saturating_add(SILENCE.as_nanos() as u64);
        if tally.silent.replace((unit, Instant::from_nanos(until))).is_none() {
            self.silent += 1;
        }
        tally.untold = 0;
    }

    /// Those of whom everything is to be recorded again.
    pub fn take_ended(&mut self, now: Instant) -> Vec<(Requester, UnitId)> {
        let mut ended = Vec::new();
        if self.silent == 0 {
            return ended;
        }
        for (requester, tally) in &mut self.tallies {
            if let Some((unit, _)) = tally.silent.take_if(|(_, until)| now >= *until) {
                self.silent -= 1;
                ended.push((*requester, unit));
            }
        }
        ended
    }

    /// Begins anew with a requester, of which everything is recorded: its device has another driver, or was released.
    pub fn forgive(&mut self, requester: Requester, now: Instant) {
        let Some(tally) = self.tallies.get_mut(&requester) else { return };
        if tally.silent.is_some() {
            self.silent -= 1;
        }
        let Tally { total, dropped, .. } = *tally;
        *tally = Tally { total, dropped, ..Tally::new(now) };
    }

    /// Notes that everything is recorded of a requester again.
    pub fn unsilenced(&mut self, requester: Requester) {
        let tally = self.tallies.get_mut(&requester);
        if tally.is_some_and(|tally| tally.silent.take().is_some()) {
            self.silent -= 1;
        }
    }

    /// Whether nothing is recorded of somebody.
    pub fn silences_any(&self) -> bool {
        self.silent > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Requester = (0, Some(SourceId::new(0x10)));
    const UNIT: UnitId = UnitId(0);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// How many of so many faults at one moment are told.
    fn told(storms: &mut Storms, faults: u32, now: Instant) -> u32 {
        (0..faults).filter(|_| storms.count(WHO, now, None).is_told).count() as u32
    }

    #[test]
    fn some_at_once_and_so_many_a_second_are_told_and_the_rest_is_counted() {
        let mut storms = Storms::default();
        assert_eq!(told(&mut storms, AT_ONCE + 10, at(0)), AT_ONCE);
        assert_eq!(told(&mut storms, 10, at(1)), 0);
        assert_eq!(told(&mut storms, 10, at(1000 / u64::from(A_SECOND) + 1)), 1);
        // Looked at more often than there is one more, it is no less that is told.
        let many = (16..=1016).map(|millis| told(&mut storms, 1, at(millis))).sum::<u32>();
        assert!((A_SECOND - 1..=A_SECOND + 1).contains(&many), "{many}");
        assert_eq!(told(&mut storms, 2 * AT_ONCE, at(3_600_000)), AT_ONCE, "not more for waiting");
        let tally = storms.of(WHO).unwrap();
        let all = u64::from(AT_ONCE + 10 + 10 + 10 + 1001 + 2 * AT_ONCE);
        let told = u64::from(AT_ONCE + 1 + many + AT_ONCE);
        assert_eq!((tally.total, tally.dropped), (all, all - told));
    }

    #[test]
    fn a_storm_silences_once_and_for_a_while() {
        let mut storms = Storms::default();
        let count = |storms: &mut Storms| storms.count(WHO, at(0), None);
        for _ in 0..AT_ONCE + STORM - 1 {
            assert!(!count(&mut storms).silences);
        }
        assert!(count(&mut storms).silences);
        assert!(!storms.silences_any() && storms.take_ended(at(0)).is_empty());
        storms.silenced(WHO, UNIT, at(5));
        assert!(storms.silences_any());
        assert!((0..2 * STORM).all(|_| !count(&mut storms).silences), "it is on its way");
        assert!(storms.take_ended(at(1004)).is_empty());
        assert_eq!(storms.take_ended(at(1005)), [(WHO, UNIT)]);
        assert!(!storms.silences_any() && storms.take_ended(at(1005)).is_empty());
        storms.silenced(WHO, UNIT, at(2000));
        storms.forgive(WHO, at(2001));
        assert!(!storms.silences_any() && storms.take_ended(at(9000)).is_empty());
    }

    #[test]
    fn so_many_within_the_time_quarantine_and_no_fewer() {
        let mut storms = Storms::default();
        let after = Some(QuarantineAfter { faults: 3, within: Duration::from_secs(1) });
        let mut count = |millis| storms.count(WHO, at(millis), after).quarantines;
        assert!(!count(0) && !count(500) && !count(1001), "the time was over");
        assert!(!count(1500) && count(2001));
        let other = (0, Some(SourceId::new(0x18)));
        assert!(!storms.count(other, at(2001), after).quarantines, "of another device");
    }

    #[test]
    fn what_would_quarantine_is_not_silenced_before() {
        let mut storms = Storms::default();
        let faults = AT_ONCE + 4 * STORM;
        let after = Some(QuarantineAfter { faults, within: Duration::from_secs(1) });
        for _ in 1..faults {
            let verdict = storms.count(WHO, at(0), after);
            assert!(!verdict.silences && !verdict.quarantines);
        }
        let verdict = storms.count(WHO, at(0), after);
        assert!(verdict.quarantines && !verdict.silences);
    }
}
