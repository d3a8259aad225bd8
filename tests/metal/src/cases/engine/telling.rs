//! A unit that blocks something says so by a message.

use dma_types::Access;
use iommu_engine::fault::Tried;

use super::hardware::Hardware;
use super::rig::{Rig, with_service};
use crate::cpu::apic::Apic;
use crate::edu::Direction;
use crate::harness::{Context, Failure, Outcome};
use crate::require;

/// As VT-d does it. Of AMD-Vi, whose events QEMU does not log before version 11, it shows that the unit has been told
/// of the message, and that its function sends it.
pub(super) fn a_blocked_transfer_interrupts_and_so_does_the_next(context: &mut Context) -> Outcome {
    let vectors = [Apic::fresh_vector(), Apic::fresh_vector()];
    context.platform().set_fault_message(Some(Apic::message(vectors[0])));
    let outcome = with_service(context, |rig| interrupts(rig, vectors));
    context.platform().set_fault_message(None);
    outcome
}

fn interrupts(rig: &Rig, [first, second]: [u8; 2]) -> Outcome {
    let apic = Apic::turn_on(rig.service.lock().platform_mut())?;
    let came = |vector| apic.has(rig.service.lock().platform_mut(), vector);
    let polled = rig.service.lock().wants_polling();
    require!(!polled, "the unit is to be polled");
    let device = rig.open()?;
    let buffer = device.allocate(4096, Some(Access::ReadWrite), "inside")?;
    rig.load(&buffer, buffer.iova().unwrap_or_default(), b"it is not denied")?;
    require!(!came(first), "it says that it has blocked something");
    match rig.hardware() {
        Hardware::None => return Err(Failure("there is no unit".into())),
        Hardware::Vtd(unit) => {
            rig.transfer(Direction::ToDevice, 0x6000, 16)?;
            require!(came(first), "the first blocked transfer is not told");
            rig.expect_fault(0x6000, Tried::Read)?;
            // What was asked for with a vector stays asked for, and so the next is to have another.
            unit.set_fault_vector(rig.service.lock().platform_mut(), second);
            require!(!came(second), "nothing was blocked again");
            rig.transfer(Direction::FromDevice, 0x7000, 16)?;
            require!(came(second), "the next blocked transfer is not told");
            rig.expect_fault(0x7000, Tried::Write)?;
        }
        Hardware::Amdvi(unit) => {
            let message = unit.message(rig.service.lock().platform_mut())?;
            let expected = Some((Apic::message(first), true));
            require!(message == expected, "its message is {message:x?}, and not {expected:x?}");
            let before = rig.service.lock().faults().total();
            rig.transfer(Direction::ToDevice, 0x6000, 16)?;
            let told = came(first);
            rig.expect_fault(0x6000, Tried::Read)?;
            let logged = rig.service.lock().faults().total() > before;
            require!(told == logged, "an event is logged: {logged}, and the message came: {told}");
        }
    }
    let polled = rig.service.lock().wants_polling();
    require!(!polled, "the unit is to be polled again");
    Ok(())
}
