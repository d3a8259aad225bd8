//! What becomes of a device's messages, by its entry in the device table.

use super::by_hand::{InterruptEntry, device_entry};
use super::stage::{DOMAIN, May, Stage, with_stage};
use crate::cpu::apic::Apic;
use crate::harness::{Context, Outcome};
use crate::require;

pub(super) fn interrupts_pass_unless_the_entry_says_otherwise(context: &mut Context) -> Outcome {
    with_stage(context, |stage| {
        let table = stage.table(3, 12, May::BOTH, May::BOTH)?;
        let [first, second, _, last] = device_entry(DOMAIN, table.levels, table.root);
        // QEMU 7.2 looks here even with intremap=off. It garbles what should pass by an entry that is valid.
        let ways = [
            ("nothing is said", InterruptEntry::new(), true),
            ("fixed ones are refused", InterruptEntry::new().with_valid(true), false),
        ];
        for (why, entry, passes) in ways {
            stage.set([first, second, entry.into_bits(), last])?;
            let arrives = interrupts(stage)?;
            require!(arrives == passes, "{why}, and the message arrives: {arrives}");
        }
        Ok(())
    })
}

fn interrupts(stage: &mut Stage<'_>) -> Outcome<bool> {
    let apic = Apic::turn_on(stage.platform)?;
    let vector = Apic::fresh_vector();
    stage.edu.interrupt(stage.platform, vector)?;
    Ok(apic.has(stage.platform, vector))
}
