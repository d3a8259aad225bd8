//! What was taken away stays away, and what was held comes back.

use core::sync::atomic::Ordering;

use dma_types::Access;
use iommu_engine::fault::Tried;
use iommu_engine::platform::TableFrames;

use super::blocking::{MARK, OTHER, expect};
use super::rig::{map, with_service};
use crate::edu::Direction;
use crate::harness::{Context, Failure, Outcome};
use crate::memory::physical;
use crate::require;

pub(super) fn a_stale_translation_really_stays_until_it_is_invalidated(
    context: &mut Context,
) -> Outcome {
    // Without this the next case would show nothing: the tables are emptied behind the engine's back.
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, Some(Access::ReadWrite), "stale")?;
        let iova = buffer.iova().unwrap_or_default();
        rig.load(&buffer, iova, &OTHER)?;
        buffer.write(0, &MARK)?;
        {
            let service = rig.service.lock();
            let (_, domain) =
                service.engine().domains().next().ok_or(Failure("no domain".into()))?;
            let root = service.platform().table(domain.root());
            for word in root.ok_or(Failure("no table".into()))? {
                word.store(0, Ordering::SeqCst);
            }
        }
        rig.transfer(Direction::FromDevice, iova.get(), 16)?;
        expect(&buffer, &OTHER, "a buffer whose translation is still cached")
    })
}

pub(super) fn r2_after_an_unmap_the_translation_is_gone(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let own = device.allocate(4096, Some(Access::ReadWrite), "own")?;
        for bytes in [4096, 5 * 4096, 2 << 20] {
            let buffer = device.allocate(bytes, None, "unmapped")?;
            let mapped = map(&device, &buffer, Access::ReadWrite)?;
            // Cached by use, at both ends.
            rig.load(&buffer, mapped.iova(), &OTHER)?;
            let end = mapped.iova().get() + bytes - 16;
            rig.transfer(Direction::FromDevice, end, 16)?;
            rig.expect_no_fault()?;
            buffer.write(0, &MARK)?;
            device.unmap(&[mapped])?;
            rig.transfer(Direction::FromDevice, mapped.iova().get(), 16)?;
            rig.expect_fault(mapped.iova().get(), Tried::Write)?;
            expect(&buffer, &MARK, "an unmapped buffer")?;
            rig.expect_blocked_read(end, &own)?;
        }
        Ok(())
    })
}

pub(super) fn r4_closing_ends_access_and_gives_everything_back(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        // The context table of the device's bus stays once it is made.
        drop(rig.open()?);
        let before = rig.in_use();
        for _ in 0..3 {
            let device = rig.open()?;
            let buffer = device.allocate(3 * 4096, Some(Access::ReadWrite), "held")?;
            let iova = buffer.iova().unwrap_or_default();
            rig.load(&buffer, iova, &OTHER)?;
            rig.expect_no_fault()?;
            require!(rig.leads_somewhere()?, "the device that is held leads nowhere");
            buffer.write(0, &MARK)?;
            let memory = rig.segments_of(iova)?[0].start;
            drop((buffer, device));
            let left = physical::copy(memory, 16);
            let after = rig.in_use();
            require!(after == before, "in use before {before}, after {after}");
            // Its pages are gone, so that no transfer tells whether the way to their table is.
            require!(!rig.leads_somewhere()?, "the device's entry outlives its domain");
            // Bus mastering is off: the transfer does not even reach the unit.
            rig.transfer(Direction::FromDevice, iova.get(), 16)?;
            rig.expect_no_fault()?;
            crate::edu::Edu::find(rig.service.lock().platform_mut())?;
            rig.transfer(Direction::FromDevice, iova.get(), 16)?;
            rig.expect_fault(iova.get(), Tried::Write)?;
            require!(
                physical::copy(memory, 16) == left,
                "memory that was given back is written to"
            );
        }
        Ok(())
    })
}
