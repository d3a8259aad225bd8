//! A domain's table that somebody has written to.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::completion::Progress;
use iommu_engine::domain::{DomainKey, Place};
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::error::EngineError;
use iommu_engine::platform::TableFrames;
use iommu_engine::policy::Invalidation;
use iommu_sim::pace::Completion as Takes;

use crate::rig::Rig;
use crate::vendor::{Vendor, slow};

both! {
    r2_what_was_unlinked_before_a_table_proved_bent_comes_back_when_units_have_forgotten_it,
}

const PAGE: u64 = 4096;

/// The entries of a table of pages.
const ENTRIES: u64 = 512;

/// Where tables of pages begin.
const START: u64 = 0x4000_0000;

/// Writes the first entry of the table above those of pages over its third.
fn bend(rig: &Rig, domain: DomainKey) {
    let mut above = Vec::new();
    let domain = rig.engine.domain(domain).unwrap();
    domain.visit_tables(&rig.platform, |frame| above.push(frame)).unwrap();
    above.retain(|frame| {
        let table = rig.platform.table(*frame).unwrap();
        let is_there = |entry: usize| table[entry].load(Ordering::Relaxed) & 1 != 0;
        (0..3).all(is_there) && !(3..512).any(is_there)
    });
    let [above] = above[..] else { panic!("{above:?}") };
    let table = rig.platform.table(above).unwrap();
    table[2].store(table[0].load(Ordering::Relaxed), Ordering::Release);
}

fn r2_what_was_unlinked_before_a_table_proved_bent_comes_back_when_units_have_forgotten_it(
    vendor: Vendor,
) {
    for in_a_batch in [false, true] {
        let mut rig = Rig::new(slow(vendor.machine(), Takes::After(1_000_000)));
        let domain = rig.explicit(None);
        // The rest of the first table, all of the second, and two pages of the third. None is a large page, for their memory
        // does not start where a table does.
        let bytes = (2 * ENTRIES + 1) * PAGE;
        let run = rig.run(bytes);
        let access = Access::ReadWrite;
        let piece = |bytes| ChainPiece { run, offset: 0, bytes, access, owner: 1 };
        for (start, bytes) in [(START, PAGE), (START + PAGE, bytes)] {
            let place = Place::At { iova: Iova::new(start), limit: Iova::new(u64::MAX) };
            assert_eq!(rig.chain(domain, place, &[piece(bytes)]), Ok(start));
        }
        rig.pass(Duration::from_secs(1));
        bend(&rig, domain);
        let before = rig.platform.usage().live_frames;
        let iova = Iova::new(START + PAGE);
        let Rig { platform, engine } = &mut rig;
        let unmapped = match in_a_batch {
            true => engine.unmap_all(platform, domain, [(iova, bytes)], Invalidation::Strict),
            false => engine.unmap(platform, domain, iova, bytes),
        };
        assert!(matches!(unmapped, Err(EngineError::Unmap(_))), "{unmapped:?}");
        let waiting: Vec<_> = engine.retired_list().map(|it| it.completion.clone()).collect();
        let [completion] = &waiting[..] else { panic!("{waiting:?}") };
        assert_eq!(engine.progress(completion), Progress::Pending);
        assert_eq!(rig.platform.usage().live_frames, before);
        rig.finish(completion);
        rig.pass(Duration::from_millis(1));
        assert_eq!((rig.engine.retired(), rig.platform.usage().live_frames), (0, before - 1));
    }
}
