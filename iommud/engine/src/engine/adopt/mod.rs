//! Going on with the tables of a daemon that has died.
//!
//! | module | what is in it |
//! | --- | --- |
//! | here | [`Engine::adopt`], from beginning to end |
//! | [`owners`] | what the service knows of what was there: whose is what |
//! | [`error`] | why it cannot be |
//! | `read` | what the ledger says |
//! | `frames` | which frames are in use, each by one thing |
//! | `tables` | what is mapped, and whose that is |
//! | `paying` | who pays for it |
//! | `restore` | the engine's domains, groups and ids as they were |
//!
//! # What is promised
//!
//! Devices go on meanwhile. Each reaches at every instant what it reached when the daemon died, and no more; translation
//! stays on, by the same tables. What the daemon was about to do is finished or undone: a mapping that was half entered or
//! half removed is nobody's and goes, a device that was on its way from one domain into another is where its session has its
//! buffers, and one that nobody holds is at home.
//!
//! First everything is looked at and nothing is changed. All that is read is another's words (rule R5): a record that makes
//! no sense, a frame that is reached twice, a register that names another table are each enough to refuse the whole. Then the
//! caller [starts](Engine::start) as from what a firmware left.
//!
//! Units that do not snoop are shown the tables as they are: what the predecessor had stored when it died may not have come to
//! memory, and everything that is looked at here is looked at through a processor's cache.
//!
//! What of the predecessor's memory is free is not known before every unit has forgotten everything that it holds by those
//! tables (rule R2). Units are given new queues, and are asked to by the same steps as at a start. Until all have confirmed
//! it, what is given out lies elsewhere, and nothing is mapped ([`EngineError::NotForgotten`](crate::error::EngineError)).
//! If one of them never does, it stays so for the frames and runs that nobody kept.

pub mod error;
mod frames;
pub mod owners;
mod paying;
mod read;
mod restore;
mod tables;

pub use self::error::AdoptError;
pub use self::owners::{BlockedDevice, HeldDevice, LeftRun, OwnedBuffer, OwnedPeerBar, Owners};

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{PAGE_SIZE, PhysAddr};

use self::frames::FrameSet;
use self::read::Written;
use self::tables::Seen;
use crate::engine::Engine;
use crate::machine::{self, Found};
use crate::platform::Platform;
use crate::policy::Policy;

impl Engine {
    /// Goes on with what a predecessor left in the platform's [inherited](Platform::inherited) arenas. `owners` tells what
    /// of it belongs to somebody: the rest goes. The units are up when [`is_settled`](Self::is_settled), after some
    /// [polls](Self::poll).
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if there is any doubt. No table and no register has changed then, and what was inherited is not used.
    pub fn adopt(
        platform: &mut impl Platform,
        policy: Policy,
        owners: &Owners,
    ) -> Result<Self, AdoptError> {
        if !platform.inherited() {
            return Err(AdoptError::NothingInherited);
        }
        let written = Written::read(platform)?;
        let units: Vec<_> = written.units.iter().map(|(_, unit)| unit.clone()).collect();
        let found = machine::discover(platform, &policy, &units)?;
        let seen = look(platform, &written, &found).and_then(|(frames, seen)| {
            keep(platform, &written, owners, &frames).map(|()| (frames, seen))
        });
        let seen = match seen {
            Ok((frames, seen)) => {
                write_back(platform, &found, &frames);
                seen
            }
            Err(error) => {
                abandon(platform, &written, found);
                return Err(error);
            }
        };
        Ok(restore::restore(platform, policy, owners, written, found, seen))
    }
}

/// Looks at everything, and changes nothing.
fn look(
    platform: &impl Platform,
    written: &Written,
    found: &Found,
) -> Result<(FrameSet, Seen), AdoptError> {
    if found.units.is_empty() {
        return Err(AdoptError::NoIommu);
    }
    for (_, record) in &written.units {
        let slot = found.units.iter().find(|slot| slot.base == record.base);
        let unit = slot.and_then(|slot| slot.unit.as_ref().ok());
        if unit.is_none_or(|unit| unit.record() != *record) {
            return Err(AdoptError::Unit(record.base));
        }
    }
    let is_recorded = |base| written.units.iter().any(|(_, record)| record.base == base);
    let others = found.units.iter().filter(|slot| slot.unit.is_ok());
    if let Some(other) = others.map(|slot| slot.base).find(|base| !is_recorded(*base)) {
        return Err(AdoptError::NewUnit(other));
    }
    let mut frames = FrameSet::new(platform, &written.chain)?;
    let seen = Seen::look(platform, written, found, &mut frames)?;
    Ok((frames, seen))
}

/// Tells the platform what stays in use.
fn keep(
    platform: &mut impl Platform,
    written: &Written,
    owners: &Owners,
    frames: &FrameSet,
) -> Result<(), AdoptError> {
    for (start, count) in frames.ranges() {
        platform.keep_frames(start, count)?;
    }
    for (_, reserve) in &written.reserves {
        platform.keep_run(reserve.run, reserve.place)?;
    }
    let mut runs = BTreeMap::new();
    for buffer in &owners.buffers {
        match runs.insert(buffer.run, buffer.place) {
            None => platform.keep_run(buffer.run, buffer.place)?,
            Some(place) if place == buffer.place => {}
            Some(_) => return Err(AdoptError::Record),
        }
        // Clients are given as much of the memory as the record says.
        let there: u64 = platform.segments(buffer.run).iter().map(|segment| segment.bytes).sum();
        if buffer.bytes == 0 || !buffer.bytes.is_multiple_of(PAGE_SIZE) || buffer.bytes > there {
            return Err(AdoptError::Record);
        }
    }
    for left in &owners.left {
        platform.keep_run(left.run, left.place)?;
    }
    Ok(())
}

/// Has units that do not snoop see the tables as they are. The predecessor may have died between a store and its way to memory,
/// and its successor, too: what they have stored is seen by who looks at it by a processor, as we have, and not by such units.
fn write_back(platform: &impl Platform, found: &Found, frames: &FrameSet) {
    let mut units = found.units.iter().filter_map(|slot| slot.unit.as_ref().ok());
    if units.all(|unit| unit.abilities().coherent) {
        return;
    }
    for (start, count) in frames.ranges() {
        for frame in 0..count as u64 {
            platform.flush_entries(PhysAddr::new(start.get() + frame * PAGE_SIZE), 0..512);
        }
    }
}

/// Gives back what was made of units that nobody has told anything.
fn abandon(platform: &mut impl Platform, written: &Written, found: Found) {
    for slot in found.units {
        let is_inherited = written.units.iter().any(|(_, record)| record.base == slot.base);
        if let Ok(unit) = slot.unit {
            unit.abandon(platform, is_inherited);
        }
    }
}
