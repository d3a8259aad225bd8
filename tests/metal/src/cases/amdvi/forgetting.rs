//! Commands, and what stays cached without them.

use super::by_hand::{COMMANDS, Command, PageEntry, forget_all, forget_device, forget_pages};
use super::stage::{DOMAIN, May, Pattern, Stage, with_stage};
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

pub(super) fn commands_are_done_in_order_around_the_end_of_the_buffer(
    context: &mut Context,
) -> Outcome {
    with_stage(context, |stage| {
        // Each batch is a wait besides. Together they are twice as many as there is room for, and the end of the
        // room comes in the middle of a batch.
        const BATCH: usize = 4;
        let device = stage.edu.requester();
        let batch = [forget_device(device), forget_pages(DOMAIN, Some(0x1000)), forget_all()];
        for batch in core::iter::repeat_n(batch, 2 * COMMANDS / BATCH + 1) {
            stage.run(&batch[..BATCH - 1])?;
        }
        Ok(())
    })
}

pub(super) fn a_stale_translation_stays_until_it_is_invalidated(context: &mut Context) -> Outcome {
    with_stage(context, |stage| {
        let device = stage.edu.requester();
        // Each way to forget it, and forgetting nothing.
        let ways: [(&str, Option<Command>); 4] = [
            ("nothing was forgotten", None),
            ("its page was forgotten", Some(forget_pages(DOMAIN, Some(0x7_3456_7000)))),
            ("its domain was forgotten", Some(forget_pages(DOMAIN, None))),
            ("all was forgotten", Some(forget_all())),
        ];
        for (why, command) in ways {
            let stays = command.is_none();
            let table = stage.table(3, 12, May::BOTH, May::BOTH)?;
            stage.attach(&table, May::BOTH)?;
            let loaded = stage.load()?;
            require!(writes(stage, loaded, table.iova)?, "what is mapped is not reached");
            let (last, index) = table.last;
            stage.write(last, index, PageEntry::new())?;
            if let Some(command) = command {
                stage.run(&[forget_device(device), command])?;
            }
            let found = writes(stage, loaded, table.iova)?;
            require!(found == stays, "{why}, and the device reaches the page: {found}");
        }
        Ok(())
    })
}

/// Whether what is in the device comes to the page through this address.
fn writes(stage: &mut Stage<'_>, loaded: Pattern, address: u64) -> Outcome<bool> {
    let before = stage.fresh();
    stage.fill(before);
    stage.transfer(Direction::FromDevice, address)?;
    Ok(stage.found() == loaded)
}
