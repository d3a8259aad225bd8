//! Devices that are denied more than anybody wants to know, one by one.
//!
//! What a unit records of each requester is counted. Some at once and so many in a second are told one by one, to the
//! device's driver and in the report; the rest by its number alone. A requester that goes on all the same keeps the daemon
//! busy, and takes the room in its unit's log that is there for others: then its unit is told to record nothing of it for a
//! while (see [`blocking`](iommu_engine::engine::blocking)), and how much it is denied meanwhile nobody knows.
//!
//! What signs as no device that is known is one requester, of which one source-id at a time is silenced. What units record of
//! a requester though they were told not to (AMD-Vi logs requests of a wrong kind all the same) is counted, and costs what reading it does.
//!
//! So of one requester no more than [`AT_ONCE`] + [`STORM`] records are read in a [`SILENCE`], and what its unit recorded
//! until it was told.

use alloc::collections::{BTreeMap, VecDeque};
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
#[derive(Clone, Debug)]
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
    silent: Option<Silence>,
    /// When the last of its faults were, as many as a quarantine takes at the most.
    latest: VecDeque<Instant>,
}

/// A unit that records nothing of a requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The unit.
    pub unit: UnitId,
    /// Whose requests it does not record.
    pub source: SourceId,
    /// Until when.
    until: Instant,
}

/// What is to be done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is told by itself, and not only counted.
    pub is_told: bool,
    /// Its unit is to record nothing of the requester from now on.
    pub silences: bool,
    /// It is one more than the policy allows: by this limit.
    pub quarantines: Option<QuarantineAfter>,
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
            latest: VecDeque::new(),
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

    fn count(&mut self, now: Instant, limits: &[QuarantineAfter]) -> Verdict {
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
        let quarantines = self.exceeded(now, limits);
        // Of what is not recorded nobody could say whether it is more than the policy allows.
        let storm = limits.iter().map(|limit| limit.faults).fold(STORM, u32::max);
        let silences = self.untold >= storm && self.silent.is_none();
        Verdict { is_told, silences, quarantines }
    }

    /// Notes that a fault was now, and the limit by which it is one too many: so many within the time until now.
    fn exceeded(&mut self, now: Instant, limits: &[QuarantineAfter]) -> Option<QuarantineAfter> {
        let most = limits.iter().map(|limit| limit.faults as usize).max()?;
        while !self.latest.is_empty() && self.latest.len() >= most {
            self.latest.pop_front();
        }
        self.latest.push_back(now);
        let exceeded = |limit: &&QuarantineAfter| {
            let first = self.latest.len().checked_sub(limit.faults as usize);
            let first = first.and_then(|index| self.latest.get(index));
            first.is_some_and(|first| now.since(*first) <= limit.within)
        };
        limits.iter().find(exceeded).copied()
    }
}

impl Storms {
    /// Counts a fault of a requester, which the policy has quarantined by the first of these limits that is reached.
    pub fn count(
        &mut self,
        requester: Requester,
        now: Instant,
        limits: &[QuarantineAfter],
    ) -> Verdict {
        self.tallies.entry(requester).or_insert_with(|| Tally::new(now)).count(now, limits)
    }

    /// What was recorded of a requester, if anything.
    pub fn of(&self, requester: Requester) -> Option<&Tally> {
        self.tallies.get(&requester)
    }

    /// Notes that nothing is recorded of what a requester signs so by this unit for a [`SILENCE`].
    pub fn silenced(&mut self, requester: Requester, unit: UnitId, source: SourceId, now: Instant) {
        let Some(tally) = self.tallies.get_mut(&requester) else { return };
        let until = now.as_nanos().saturating_add(SILENCE.as_nanos() as u64);
        let silence = Silence { unit, source, until: Instant::from_nanos(until) };
        if tally.silent.replace(silence).is_none() {
            self.silent += 1;
        }
        tally.untold = 0;
    }

    /// Those of whom everything is to be recorded again.
    pub fn take_ended(&mut self, now: Instant) -> Vec<Silence> {
        let mut ended = Vec::new();
        if self.silent == 0 {
            return ended;
        }
        for tally in self.tallies.values_mut() {
            if let Some(silence) = tally.silent.take_if(|silence| now >= silence.until) {
                self.silent -= 1;
                ended.push(silence);
            }
        }
        ended
    }

    /// Tells the faults of a requester from the first again, of which everything is recorded: its device has another driver.
    /// How many they were lately is not forgotten, for it is the device's.
    pub fn tell_anew(&mut self, requester: Requester, now: Instant) {
        self.unsilenced(requester);
        let Some(tally) = self.tallies.get_mut(&requester) else { return };
        (tally.left, tally.filled, tally.untold) = (AT_ONCE, now, 0);
    }

    /// Begins anew with a requester, of which everything is recorded: its device was released.
    pub fn forgive(&mut self, requester: Requester, now: Instant) {
        self.tell_anew(requester, now);
        if let Some(tally) = self.tallies.get_mut(&requester) {
            tally.latest.clear();
        }
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

    const SOURCE: SourceId = SourceId::new(0x10);
    const WHO: Requester = (0, Some(SOURCE));
    const UNIT: UnitId = UnitId(0);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// How many of so many faults at one moment are told.
    fn told(storms: &mut Storms, faults: u32, now: Instant) -> u32 {
        (0..faults).filter(|_| storms.count(WHO, now, &[]).is_told).count() as u32
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
        let count = |storms: &mut Storms| storms.count(WHO, at(0), &[]);
        for _ in 0..AT_ONCE + STORM - 1 {
            assert!(!count(&mut storms).silences);
        }
        assert!(count(&mut storms).silences);
        assert!(!storms.silences_any() && storms.take_ended(at(0)).is_empty());
        storms.silenced(WHO, UNIT, SOURCE, at(5));
        assert!(storms.silences_any());
        assert!((0..2 * STORM).all(|_| !count(&mut storms).silences), "it is on its way");
        assert!(storms.take_ended(at(1004)).is_empty());
        let ended = Silence { unit: UNIT, source: SOURCE, until: at(1005) };
        assert_eq!(storms.take_ended(at(1005)), [ended]);
        assert!(!storms.silences_any() && storms.take_ended(at(1005)).is_empty());
        storms.silenced(WHO, UNIT, SOURCE, at(2000));
        storms.forgive(WHO, at(2001));
        assert!(!storms.silences_any() && storms.take_ended(at(9000)).is_empty());
    }

    #[test]
    fn so_many_within_the_time_quarantine_and_no_fewer() {
        let mut storms = Storms::default();
        let limit = QuarantineAfter { faults: 3, within: Duration::from_secs(1) };
        let mut count = |millis| storms.count(WHO, at(millis), &[limit]).quarantines;
        for millis in [0, 500, 1001, 1501, 2002] {
            assert_eq!(count(millis), None, "{millis}");
        }
        assert_eq!(count(2501), Some(limit), "the third since 1501, and just within a second");
        let other = (0, Some(SourceId::new(0x18)));
        assert_eq!(storms.count(other, at(2501), &[limit]).quarantines, None, "of another device");
        storms.tell_anew(WHO, at(2502));
        assert_eq!(storms.count(WHO, at(2502), &[limit]).quarantines, Some(limit));
        storms.forgive(WHO, at(2503));
        assert_eq!(storms.count(WHO, at(2503), &[limit]).quarantines, None);
    }

    #[test]
    fn of_several_limits_each_counts_and_no_more_is_remembered_than_the_widest_takes() {
        let mut storms = Storms::default();
        let [soon, long] = [(2, 1), (4, 3600)]
            .map(|(faults, secs)| QuarantineAfter { faults, within: Duration::from_secs(secs) });
        for limits in [[soon, long], [long, soon]] {
            let mut count = |secs: u64| storms.count(WHO, at(secs * 1000), &limits).quarantines;
            assert_eq!([count(0), count(60), count(120)], [None; 3]);
            assert_eq!(count(180), Some(long));
            assert_eq!(count(9000), None);
            assert_eq!(count(9001), Some(soon));
            storms.forgive(WHO, at(9001));
        }
        for number in 0..10_000 {
            storms.count(WHO, at(number), &[long]);
        }
        assert_eq!(storms.of(WHO).unwrap().latest.len(), 4);
    }

    #[test]
    fn what_would_quarantine_is_not_silenced_before() {
        let mut storms = Storms::default();
        let faults = AT_ONCE + 4 * STORM;
        let limit = QuarantineAfter { faults, within: Duration::from_secs(1) };
        for _ in 1..faults {
            let verdict = storms.count(WHO, at(0), &[limit]);
            assert!(!verdict.silences && verdict.quarantines.is_none());
        }
        let verdict = storms.count(WHO, at(0), &[limit]);
        assert_eq!((verdict.quarantines, verdict.silences), (Some(limit), false));
    }
}
