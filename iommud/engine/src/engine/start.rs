//! The start: units begin to come up, and what firmware reserves is mapped before they translate.

use super::Engine;
use super::units::silence_unusable;
use crate::error::StartError;
use crate::ledger::Ledger;
use crate::machine::{self, GroupId, Remark};
use crate::platform::Platform;
use crate::policy::Policy;
use crate::records::{EpochRecord, Purpose};

impl Engine {
    /// Finds the machine's IOMMUs and devices, and begins to bring the units up, as the policy says. They are up when
    /// [`is_settled`](Self::is_settled), after some [polls](Self::poll). What a predecessor left is set aside: to go on with
    /// that is to [adopt](Self::adopt) it.
    ///
    /// # Errors
    ///
    /// [`StartError`] if there is no table of IOMMUs that can be used. A single unit that cannot be used is
    /// left out, with bus mastering turned off in the devices behind it (rule R1), and the others go on.
    pub fn start(platform: &mut impl Platform, policy: Policy) -> Result<Self, StartError> {
        if platform.inherited() {
            platform.set_aside_inherited();
        }
        let ledger = Ledger::create(platform)?;
        let found = machine::discover(platform, &policy, &[])?;
        let mut engine = Self::new(found, policy, ledger);
        for unit in engine.units.iter().filter_map(|slot| slot.unit.as_ref().ok()) {
            engine.ledger.insert(platform, &unit.record())?;
        }
        engine.ledger.insert(platform, &EpochRecord(0))?;
        silence_unusable(platform, &engine.units, &engine.devices);
        engine.set_memory_aside(platform);
        for id in (0..engine.groups.len()).map(GroupId) {
            engine.make_home(platform, id);
        }
        engine.follow_arenas(platform);
        engine.poll(platform);
        Ok(engine)
    }

    /// Gives a group a home that is to reach something while nobody holds it, at the start before translation is
    /// turned on: what firmware reserves for it (rule R1), or all that the policy lets it reach.
    pub(super) fn make_home(&mut self, platform: &mut impl Platform, id: GroupId) {
        self.remark_closed(id);
        let group = &self.groups[id.0];
        if group.blocked.is_some() {
            return;
        }
        let mut devices = group.members().iter().filter_map(|it| self.devices.get(it));
        let unconfined = self.is_unconfined(id);
        if group.unit.is_none() || !unconfined && devices.all(|it| it.reserved.is_empty()) {
            return;
        }
        let members = group.members().to_vec();
        let purpose = if unconfined { Purpose::Unconfined } else { Purpose::Home };
        let given = self.create_domain_for(platform, &members, None, purpose).and_then(|key| {
            self.enter(platform, id, key).inspect_err(|_| {
                // It was just made, and nothing is attached to it.
                let _ = self.destroy_domain(platform, key);
            })?;
            Ok(key)
        });
        match given {
            Ok(key) => {
                self.groups[id.0].home = Some(key);
                if unconfined {
                    self.unconfined.push(key);
                    self.is_plain = false;
                    self.arenas_followed = None;
                }
            }
            Err(error) => {
                let first = members.first().copied();
                let remark = first.map(|address| Remark::HomeNotMapped { address, error });
                self.remarks.extend(remark);
            }
        }
    }
}
