//! A device that is denied more than the policy allows.

use core::time::Duration;

use dma_types::Access;
use iommu_engine::fault::Tried;
use iommu_engine::pci;
use iommu_engine::policy::{Policy, QuarantineAfter};
use libdma::protocol::call::Opcode;
use libdma::protocol::path;
use libdma::{Buffer, Device, Error, Event, Handle};

use super::blocking::{MARK, OTHER, expect};
use super::canary::Canary;
use super::hardware::Hardware;
use super::rig::{Rig, with_policy};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Outcome};
use crate::require;

const AFTER: QuarantineAfter = QuarantineAfter { faults: 2, within: Duration::from_secs(60) };

/// On AMD-Vi, whose events QEMU does not log before version 11, the case logs what the unit would.
pub(super) fn r1_a_device_in_quarantine_reaches_nothing_until_it_is_released(
    context: &mut Context,
) -> Outcome {
    with_policy(context, Policy { quarantine: Some(AFTER), ..Policy::default() }, |rig| {
        let device = rig.open()?;
        let ring = device.allocate(4096, Some(Access::ReadWrite), "ring")?;
        let iova = ring.iova().unwrap_or_default();
        rig.load(&ring, iova, &OTHER)?;
        let canary = Canary::new(rig)?;
        offend(rig, &canary)?;
        require!(!is_in(rig), "one access is too many");
        require!(brings(rig, &ring)?, "the device does not even reach what it may");
        offend(rig, &canary)?;
        is_told(rig, &device)?;

        let function = rig.edu.function();
        let is_master = pci::is_bus_master(rig.service.lock().platform_mut(), function);
        require!(!is_master, "the device may make requests");
        require!(!rig.leads_somewhere()?, "its unit's tables lead somewhere");
        // Whoever lets it make requests again does not let it reach anything, nor is any of that recorded.
        Edu::find(rig.service.lock().platform_mut())?;
        require!(!brings(rig, &ring)?, "the device reaches its driver's memory");
        rig.expect_no_fault()?;
        canary.check()?;
        let refused = device.allocate(4096, Some(Access::Read), "more").err();
        require!(refused == Some(Error::Quarantined), "a mapping is answered by {refused:?}");

        let node = Handle::open(rig.transport(), &path::quarantine(function))?;
        node.call_bytes(Opcode::Release, &mut [])?;
        device.renew()?;
        require!(!is_in(rig), "it is in quarantine still");
        require!(brings(rig, &ring)?, "the device does not reach what it did");
        // And is denied as before.
        offend(rig, &canary)?;
        canary.check()
    })
}

/// Lets the device write where it may not, which is recorded.
fn offend(rig: &Rig, canary: &Canary) -> Outcome {
    rig.transfer(Direction::FromDevice, canary.address(), 16)?;
    if let Hardware::Amdvi(unit) = rig.hardware() {
        let mut service = rig.service.lock();
        unit.log_denied_write(service.platform_mut(), rig.edu.requester(), canary.address())?;
    }
    rig.expect_fault(canary.address(), Tried::Write)
}

fn is_in(rig: &Rig) -> bool {
    rig.service.lock().quarantine_of(rig.edu.function()).is_some()
}

/// Whether the device brings what it has to the buffer.
fn brings(rig: &Rig, ring: &Buffer) -> Outcome<bool> {
    ring.write(0, &MARK)?;
    rig.transfer(Direction::FromDevice, ring.iova().unwrap_or_default().get(), 16)?;
    let brought = expect(ring, &OTHER, "what the device brought").is_ok();
    if !brought {
        expect(ring, &MARK, "what the device did not reach")?;
    }
    Ok(brought)
}

/// Its driver is told of both, and of the quarantine; and reports say why.
fn is_told(rig: &Rig, device: &Device) -> Outcome {
    let function = rig.edu.function();
    let why =
        rig.service.lock().quarantine_of(function).map(|it| (it.requester.source(), it.faults));
    let expected = Some((rig.edu.requester(), AFTER.faults));
    require!(why == expected, "it is in quarantine for {why:x?}, and not for {expected:x?}");
    let events = device.events()?;
    let faults: u64 = events.faults().map(|fault| fault.times).sum();
    require!(faults == 2, "{faults} accesses are told");
    let last = events.events.last();
    let is_last = matches!(last, Some(Event::Quarantined { faults: 2, .. }));
    require!(is_last, "the last that is told is {last:?}");
    Ok(())
}
