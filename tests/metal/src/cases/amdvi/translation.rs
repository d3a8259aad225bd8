//! What a device reaches, by its entry in the device table and its page table.

use super::by_hand::DeviceEntry0;
use super::stage::{DOMAIN, May, with_stage};
use crate::harness::{Context, Outcome};
use crate::require;

/// What is mapped nowhere.
const OUTSIDE: u64 = 0x7654_3000;

/// The sizes of pages that are tried, as powers of two, besides 4 KiB: two levels' own, and others between.
const SIZES: [u8; 4] = [14, 21, 22, 30];

pub(super) fn a_device_whose_entry_is_not_valid_reaches_all_memory(
    context: &mut Context,
) -> Outcome {
    // Why no entry may ever be left so (rule R1).
    with_stage(context, |stage| {
        stage.expect(stage.start.get(), May::BOTH, "with an entry that is not valid")
    })
}

pub(super) fn r1_an_entry_without_permission_reaches_nothing(context: &mut Context) -> Outcome {
    with_stage(context, |stage| {
        let denied = DeviceEntry0::new().with_valid(true).with_translation(true).into_bits();
        stage.set([denied, DOMAIN.into(), 0, 0])?;
        stage.expect(stage.start.get(), May::NOTHING, "without a page table")?;
        let table = stage.table(4, 12, May::BOTH, May::BOTH)?;
        stage.attach(&table, May::NOTHING)?;
        stage.expect(table.iova, May::NOTHING, "with a page table")?;
        require!(stage.unit.take_target_abort(stage.platform), "no target abort is noted");
        // The same entry that allows: it was the permission.
        stage.attach(&table, May::BOTH)?;
        stage.expect(table.iova, May::BOTH, "with an entry that allows it")
    })
}

pub(super) fn r1_only_what_is_mapped_is_reached(context: &mut Context) -> Outcome {
    with_stage(context, |stage| {
        // One level reaches 2 MiB, and not as far as the stage's address.
        for levels in stage.unit.levels().skip(1) {
            let table = stage.table(levels, 12, May::BOTH, May::BOTH)?;
            stage.attach(&table, May::BOTH)?;
            stage.expect(table.iova, May::BOTH, &alloc::format!("with {levels} levels"))?;
        }
        let table = stage.table(4, 12, May::BOTH, May::BOTH)?;
        stage.attach(&table, May::BOTH)?;
        let physical = stage.start.get();
        require!(table.iova != physical, "{physical:#x} is mapped to itself");
        // The last one's table has no entry for it. Those of the others have none either.
        for address in [physical, OUTSIDE, table.iova + 4096] {
            stage.expect(address, May::NOTHING, "what is not mapped")?;
        }
        Ok(())
    })
}

pub(super) fn r6_each_direction_is_enforced_at_every_level(context: &mut Context) -> Outcome {
    with_stage(context, |stage| {
        for may in [May::NOTHING, May::READ, May::WRITE] {
            let table = stage.table(3, 12, may, May::BOTH)?;
            stage.attach(&table, May::BOTH)?;
            stage.expect(table.iova, may, "by the last entry")?;
        }
        for may in [May::READ, May::WRITE] {
            stage.unit.take_target_abort(stage.platform);
            let table = stage.table(3, 12, May::BOTH, may)?;
            stage.attach(&table, May::BOTH)?;
            stage.expect(table.iova, may, "by the entries above")?;
            require!(stage.unit.take_target_abort(stage.platform), "no target abort is noted");
            let table = stage.table(3, 12, May::BOTH, May::BOTH)?;
            stage.attach(&table, may)?;
            stage.expect(table.iova, may, "by the device's entry")?;
            require!(stage.unit.take_target_abort(stage.platform), "no target abort is noted");
        }
        Ok(())
    })
}

pub(super) fn pages_of_any_power_of_two_are_walked(context: &mut Context) -> Outcome {
    with_stage(context, |stage| {
        for bits in SIZES {
            let table = stage.table(4, bits, May::BOTH, May::BOTH)?;
            stage.attach(&table, May::BOTH)?;
            let size = alloc::format!("a page of {} KiB", 1u64 << (bits - 10));
            stage.expect(table.iova, May::BOTH, &size)?;
            stage.expect(table.iova ^ 1 << bits, May::NOTHING, &size)?;
        }
        Ok(())
    })
}
