//! What undoing an operation ends, as the device finds it: it writes where the operation let it write, and again when that has
//! been undone.
//!
//! Not every row is tried: those of a kind share the way of one that is.
//!
//! Figures say what an operation takes, and not whether it is the operation that its row names. A strict buffer that is quick
//! because it stays mapped would be told by its second write.

use core::ptr::NonNull;

use dma_types::{Iova, PhysAddr};
use iommu_engine::platform::Segment;
use libdma::Device;

use crate::cases::engine::blocking::{MARK, OTHER};
use crate::cases::engine::rig::Rig;
use crate::cpu::console::print_line;
use crate::edu::{Direction, Edu};
use crate::harness::{Failure, Outcome};
use crate::memory::physical::pointer;
use crate::platform::Metal;
use crate::require;

/// How much the device writes.
const BYTES: u64 = MARK.len() as u64;

/// Where the device can write, and where in memory that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// As the device sees it.
    pub(super) iova: Iova,
    /// Where that leads.
    pub(super) phys: PhysAddr,
}

impl Spot {
    /// The memory there.
    fn memory(self) -> Outcome<NonNull<[u8; MARK.len()]>> {
        let pointer = pointer(self.phys, BYTES);
        Ok(pointer.ok_or(Failure("memory that is not mapped for the CPU".into()))?.cast())
    }

    fn set(self, bytes: [u8; MARK.len()]) -> Outcome {
        let memory = self.memory()?;
        // SAFETY: it is a driver's buffer of this case, or a part of a window that nobody has; it is mapped, and no reference leads
        // to it.
        unsafe { memory.write_volatile(bytes) };
        Ok(())
    }

    fn get(self) -> Outcome<[u8; MARK.len()]> {
        let memory = self.memory()?;
        // SAFETY: as above.
        Ok(unsafe { memory.read_volatile() })
    }

    /// Gives the device what it is to write, by way of this.
    pub(super) fn load(self, platform: &mut Metal, edu: &Edu) -> Outcome {
        self.set(MARK)?;
        Ok(edu.transfer(platform, Direction::ToDevice, self.iova.get(), BYTES)?)
    }

    /// Whether the device reaches it.
    fn is_reached(self, platform: &mut Metal, edu: &Edu) -> Outcome<bool> {
        self.set(OTHER)?;
        edu.transfer(platform, Direction::FromDevice, self.iova.get(), BYTES)?;
        let found = self.get()?;
        require!(found == MARK || found == OTHER, "the device wrote {found:x?}");
        Ok(found == MARK)
    }

    /// Fails unless the device reaches it, which was just mapped.
    pub(super) fn expect(self, platform: &mut Metal, edu: &Edu) -> Outcome {
        let Self { iova, phys } = self;
        require!(self.is_reached(platform, edu)?, "{iova} is mapped and does not lead to {phys}");
        Ok(())
    }

    /// Tells what undoing that has ended, in a line that the rig reads: `ends NAME access`, or `claim` if the device goes on
    /// reaching it.
    pub(super) fn tell(self, platform: &mut Metal, edu: &Edu, name: &str) -> Outcome {
        let ends = if self.is_reached(platform, edu)? { "claim" } else { "access" };
        print_line(format_args!("ends {name} {ends}"));
        Ok(())
    }
}

/// A driver's device that tries what its memory was once.
pub(super) struct Probe<'a> {
    rig: &'a Rig,
}

impl<'a> Probe<'a> {
    /// By the rig's device.
    pub(super) fn new(rig: &'a Rig, device: &Device) -> Outcome<Self> {
        let probe = Self { rig };
        let first = device.coherent("what the device writes").bytes(MARK.len())?;
        let spot = probe.spot(first.iova())?;
        spot.load(rig.service.lock().platform_mut(), &rig.edu)?;
        Ok(probe)
    }

    fn spot(&self, iova: Iova) -> Outcome<Spot> {
        let found = self.rig.segments_of(iova)?;
        let Segment { start, .. } = found.first().ok_or(Failure("mapped nowhere".into()))?;
        Ok(Spot { iova, phys: *start })
    }

    /// Does and undoes something once, uncounted, and tells what the undoing ends: what there was before, and where the device
    /// is let write.
    pub(super) fn of<A, B, C, E: Into<Failure>, F: Into<Failure>>(
        &self,
        name: &str,
        idle: A,
        make: impl FnOnce(A) -> Result<B, E>,
        iova: impl FnOnce(&B) -> Iova,
        undo: impl FnOnce(B) -> Result<C, F>,
    ) -> Outcome<C> {
        let made = make(idle).map_err(Into::into)?;
        let spot = self.spot(iova(&made))?;
        spot.expect(self.rig.service.lock().platform_mut(), &self.rig.edu)?;
        let idle = undo(made).map_err(Into::into)?;
        spot.tell(self.rig.service.lock().platform_mut(), &self.rig.edu, name)?;
        // What was blocked is read from the unit, as a daemon would.
        self.rig.service.lock().poll();
        Ok(idle)
    }
}
