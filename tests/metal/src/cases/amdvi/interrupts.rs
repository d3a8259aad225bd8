//! What becomes of a device's messages, by its entry in the device table, and the unit's own.

use super::by_hand::{InterruptEntry, device_entry, interrupt};
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

/// QEMU 7.2 and 10.0 log no events, and so never interrupt for one. A completed wait goes the same way.
pub(super) fn a_wait_that_is_to_interrupt_sends_the_message_of_the_unit_s_function(
    context: &mut Context,
) -> Outcome {
    with_stage(context, |stage| {
        let apic = Apic::turn_on(stage.platform)?;
        let vector = Apic::fresh_vector();
        stage.run(&[interrupt()])?;
        require!(!apic.has(stage.platform, vector), "it came before there was a message");
        stage.unit.set_message(stage.platform, Some(Apic::message(vector)))?;
        stage.run(&[])?;
        let early = apic.has(stage.platform, vector);
        let done = stage.run(&[interrupt()]);
        let came = apic.has(stage.platform, vector);
        stage.unit.set_message(stage.platform, None)?;
        done?;
        require!(!early, "it came without a wait that asked for it");
        require!(came, "it did not come");
        Ok(())
    })
}
