//! Going on with what is under way, and what units have recorded meanwhile.

use alloc::vec::Vec;

use super::Engine;
use super::units::silence;
use crate::completion::UnitId;
use crate::fault::Fault;
use crate::platform::Platform;
use crate::unit::{Unit, UnitState};

/// What happened to a unit's devices since it was last looked at.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request was blocked.
    Fault {
        /// By this unit.
        unit: UnitId,
        /// In this segment.
        segment: u16,
        /// This one.
        fault: Fault,
    },
    /// More requests were blocked than the unit could record.
    FaultsLost {
        /// This unit.
        unit: UnitId,
    },
}

impl Engine {
    /// Goes on with what is under way: units that start, invalidations, and what waits for them.
    pub fn poll(&mut self, platform: &mut impl Platform) {
        for (index, slot) in self.units.iter_mut().enumerate() {
            let Ok(unit) = &mut slot.unit else { continue };
            let had_failed = unit.has_failed();
            unit.poll(platform);
            if !had_failed && unit.has_failed() {
                silence(platform, &self.devices, UnitId(index as u16));
            }
        }
        self.settle_inherited(platform);
        self.follow_arenas(platform);
        self.tell_if_due(platform);
        self.forget_batches();
        self.release(platform);
        self.look_whether_plain();
    }

    pub(super) fn look_whether_plain(&mut self) {
        self.is_plain = !self.is_taking_over
            && self.unconfined.is_empty()
            && self.keeping.is_empty()
            && self.running_units().all(|unit| !unit.has_failed());
        let all_see = self.running_units().all(Unit::sees_by_itself);
        self.all_see = all_see;
    }

    /// Whether every unit either translates or has been given up.
    pub fn is_settled(&self) -> bool {
        self.running_units().all(|unit| !matches!(unit.state(), UnitState::Starting(_)))
    }

    /// Whether something waits for hardware, or has waited and is not free yet, so that the engine should be polled soon.
    pub fn is_waiting(&self) -> bool {
        !self.is_settled()
            || self.deferred.holds_any()
            || self.retired.waiting() > 0
            || self.running_units().any(|unit| !unit.has_failed() && unit.open_tickets() > 0)
    }

    /// Whether some unit records faults without saying so, so that the engine must be polled now and then.
    pub fn wants_polling(&self) -> bool {
        self.running_units().any(Unit::wants_polling)
    }

    /// Reads the faults that the units have recorded. Unless a unit [wants polling](Self::wants_polling) after
    /// that, the next fault interrupts.
    pub fn take_events(&mut self, platform: &mut impl Platform) -> Vec<Event> {
        let mut events = Vec::new();
        let mut faults = Vec::new();
        for (index, slot) in self.units.iter_mut().enumerate() {
            let unit = UnitId(index as u16);
            let Ok(hardware) = &mut slot.unit else { continue };
            let had_failed = hardware.has_failed();
            let lost = hardware.take_faults(platform, &mut faults);
            if !had_failed && hardware.has_failed() {
                silence(platform, &self.devices, unit);
            }
            let segment = hardware.segment();
            events.extend(faults.drain(..).map(|fault| Event::Fault { unit, segment, fault }));
            if lost {
                events.push(Event::FaultsLost { unit });
            }
        }
        self.look_whether_plain();
        events
    }
}
