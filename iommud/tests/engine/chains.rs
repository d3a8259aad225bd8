//! Mappings at chosen addresses, and one behind the other.

use std::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::completion::Progress;
use iommu_engine::domain::{DomainKey, Mapping, Owner, Place};
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::error::EngineError;
use iommu_engine::iova::{INTERRUPT_RANGE, IovaError, IovaRange};
use iommu_engine::platform::{RunId, TableFrames};
use iommu_engine::policy::{Invalidation, Policy};
use iommu_sim::pace::Completion as Takes;

use crate::rig::{Rig, blocked, edu};
use crate::vendor::{Vendor, slow, slow_down};

both! {
    a_device_reaches_memory_at_the_address_that_was_chosen,
    r7_a_chosen_address_that_cannot_be_is_refused_with_the_reason,
    the_pieces_of_a_chain_lie_one_behind_the_other_and_end_alone,
    r2_a_chain_that_goes_as_it_came_is_free_when_units_have_forgotten_it,
    a_chain_that_comes_again_is_seen_where_it_was_and_told_apart_by_its_pieces,
    r6_each_piece_of_a_chain_has_its_own_access,
    r7_a_chain_that_runs_out_of_frames_leaves_nothing_behind,
    r2_what_a_failed_chain_entered_is_forgotten_before_its_addresses_are_used_again,
    r2_a_failed_chain_that_made_the_table_grow_leaves_units_with_the_grown_one,
    a_chain_is_seen_by_a_unit_that_keeps_what_is_absent,
    r2_a_chosen_address_is_not_used_again_before_units_have_forgotten_it,
    a_chosen_address_that_is_gathered_is_told_at_once,
    an_address_tells_what_is_mapped_there,
    r1_what_firmware_and_interrupts_keep_cannot_be_chosen,
}

const PAGE: u64 = 4096;
const ANYWHERE: Place =
    Place::Anywhere { align: PAGE, first: Iova::new(0), limit: Iova::new(u64::MAX) };

fn at(iova: u64) -> Place {
    Place::At { iova: Iova::new(iova), limit: Iova::new(u64::MAX) }
}

fn piece(run: RunId, offset: u64, bytes: u64) -> ChainPiece {
    ChainPiece { run, offset, bytes, access: Access::ReadWrite, owner: 1 }
}

impl Rig {
    /// An explicit domain with the device in it.
    pub(crate) fn explicit(&mut self, aperture: Option<(u64, u64)>) -> DomainKey {
        let aperture = aperture.map(|(start, bytes)| IovaRange::new(Iova::new(start), bytes));
        let domain =
            self.engine.create_explicit_domain(&mut self.platform, &[edu()], aperture).unwrap();
        let completion = self.engine.attach(&mut self.platform, edu(), domain).unwrap();
        self.finish(&completion);
        domain
    }

    pub(crate) fn chain(
        &mut self,
        domain: DomainKey,
        place: Place,
        chain: &[ChainPiece],
    ) -> Result<u64, EngineError> {
        let mapped = self.engine.map_chain(&mut self.platform, domain, place, chain);
        let (iova, completion) = mapped.map_err(|refused| refused.error)?;
        self.finish(&completion);
        Ok(iova.get())
    }

    fn mappings(&self, domain: DomainKey) -> Vec<(u64, u64)> {
        let domain = self.engine.domain(domain).unwrap();
        domain.mappings().map(|(iova, mapping)| (iova.get(), mapping.bytes)).collect()
    }
}

fn a_device_reaches_memory_at_the_address_that_was_chosen(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(None);
    let run = rig.run(2 * PAGE);
    for chosen in [0x1000, 0x7fff_f000, 0x12_3456_7000, (1 << 38) - 2 * PAGE] {
        assert!(rig.write(chosen, &[1]).is_err(), "{chosen:#x}");
        assert_eq!(rig.chain(domain, at(chosen), &[piece(run, 0, 2 * PAGE)]), Ok(chosen));
        rig.write(chosen + PAGE, &[chosen as u8 | 3]).unwrap();
        assert_eq!(rig.read(chosen + PAGE, 1).unwrap(), [chosen as u8 | 3]);
        assert!(
            rig.write(chosen - 1, &[1]).is_err() && rig.write(chosen + 2 * PAGE, &[1]).is_err()
        );
        rig.unmap(domain, Iova::new(chosen), 2 * PAGE);
        assert!(blocked(&rig.write(chosen, &[1])));
    }
    rig.check();
}

fn r7_a_chosen_address_that_cannot_be_is_refused_with_the_reason(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(Some((0x10_0000, 0x10_0000)));
    let run = rig.run(4 * PAGE);
    let whole = [piece(run, 0, 4 * PAGE)];
    rig.chain(domain, at(0x18_0000), &whole).unwrap();
    let before = (rig.mappings(domain), rig.platform.usage());
    for (place, expected) in [
        (at(0x18_0000), "overlaps the allocation"),
        (at(0x17_d000), "overlaps the allocation"),
        (at(0x18_3000), "overlaps the allocation"),
        (at(0x0f_f000), "not within the domain's aperture"),
        (at(0x1f_d000), "not within the domain's aperture"),
        (at(0), "not within the domain's aperture"),
        (at(0x18_8800), "no page starts"),
        (at(u64::MAX - 0xfff), "does not end within"),
        (
            Place::At { iova: Iova::new(0x11_0000), limit: Iova::new(0x11_3ffe) },
            "the highest I/O address",
        ),
        (
            Place::Anywhere { align: PAGE, first: Iova::new(0), limit: Iova::new(0x10_2fff) },
            "no room",
        ),
    ] {
        let refused = rig.chain(domain, place, &whole).unwrap_err().to_string();
        assert!(refused.contains(expected), "{place:?}: {refused}");
    }
    for chain in [&[][..], &[piece(run, 0, 0)], &[piece(run, PAGE, 4 * PAGE)]] {
        assert!(rig.chain(domain, ANYWHERE, chain).is_err(), "{chain:?}");
    }
    let nowhere = rig.chain(DomainKey(99), ANYWHERE, &whole);
    assert_eq!(nowhere, Err(EngineError::NoSuchDomain(DomainKey(99))));
    assert_eq!((rig.mappings(domain), rig.platform.usage()), before);
    rig.check();
}

fn the_pieces_of_a_chain_lie_one_behind_the_other_and_end_alone(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(None);
    let (one, two) = (rig.run(4 * PAGE), rig.run(2 * PAGE));
    let chain = [piece(one, PAGE, 2 * PAGE), piece(two, 0, PAGE), piece(one, 0, PAGE)];
    for place in [ANYWHERE, at(0x5000_0000)] {
        let start = rig.chain(domain, place, &chain).unwrap();
        let data: Vec<u8> = (0..4 * PAGE).map(|index| (index / PAGE) as u8 + 1).collect();
        rig.write(start, &data).unwrap();
        assert_eq!(rig.read(start, data.len()).unwrap(), data);
        let expected = [(start, 2 * PAGE), (start + 2 * PAGE, PAGE), (start + 3 * PAGE, PAGE)];
        assert_eq!(rig.mappings(domain), expected);
        rig.unmap(domain, Iova::new(start + 2 * PAGE), PAGE);
        assert!(rig.read(start + 2 * PAGE, 1).is_err());
        assert!(rig.read(start + PAGE, 1).is_ok() && rig.read(start + 3 * PAGE, 1).is_ok());
        // Its place is free for another, and for no longer one.
        assert!(rig.chain(domain, at(start + 2 * PAGE), &[piece(two, 0, 2 * PAGE)]).is_err());
        rig.chain(domain, at(start + 2 * PAGE), &[piece(two, PAGE, PAGE)]).unwrap();
        assert_eq!(
            rig.read(start + 2 * PAGE, 1).unwrap(),
            [0],
            "the page of two that was not there"
        );
        let Rig { platform, engine } = &mut rig;
        let ranges = expected.map(|(iova, bytes)| (Iova::new(iova), bytes));
        let completion =
            engine.unmap_all(platform, domain, ranges, Invalidation::Deferred).unwrap();
        rig.finish(&completion);
        assert!(rig.read(start, 1).is_err() && rig.mappings(domain).is_empty());
    }
    rig.check();
}

fn r2_a_chain_that_goes_as_it_came_is_free_when_units_have_forgotten_it(vendor: Vendor) {
    for (config, is_slow) in
        [(vendor.machine(), false), (slow(vendor.machine(), Takes::After(1_000_000)), true)]
    {
        let mut rig = Rig::new(config);
        let domain = rig.attach(edu());
        let (one, two) = (rig.run(4 * PAGE), rig.run(2 * PAGE));
        let taken = |rig: &Rig| rig.engine.domain(domain).unwrap().taken_addresses();
        let before = taken(&rig);
        let chain = [piece(one, PAGE, 2 * PAGE), piece(two, 0, PAGE), piece(one, 0, PAGE)];
        let start = rig.chain(domain, ANYWHERE, &chain).unwrap();
        assert_eq!(taken(&rig), (before.0 + 3, before.1 + 5 * PAGE), "and a guard");
        let range = |page: u64, pages: u64| (Iova::new(start + page * PAGE), pages * PAGE);
        let whole = [range(3, 1), range(0, 2), range(2, 1)];
        let mapped = rig.mappings(domain);
        let Rig { platform, engine } = &mut rig;
        let (at_once, later) = (Invalidation::Strict, Invalidation::Deferred);
        // As one, a page too much, one twice, and one that is not theirs who ask.
        for bad in [&[range(0, 4)][..], &[range(0, 3), range(3, 1)], &[range(3, 1); 2]] {
            assert!(engine.unmap_all(platform, domain, bad.iter().copied(), later).is_err());
        }
        let is_its = |iova: Iova, _: &Mapping| iova.get() != start + 2 * PAGE;
        assert!(engine.unmap_all_if(platform, domain, whole, at_once, is_its).is_err());
        assert_eq!(rig.mappings(domain), mapped);
        rig.unmap(domain, Iova::new(start), 2 * PAGE);
        let Rig { platform, engine } = &mut rig;
        let rest = [range(2, 1), range(3, 1)];
        let done = engine.unmap_all(platform, domain, rest, at_once).unwrap();
        rig.finish(&done);
        assert_eq!(taken(&rig), before);

        // Nobody asks for a part of it this time.
        assert_eq!(rig.chain(domain, at(start), &chain), Ok(start));
        rig.write(start, &[1; 4 * PAGE as usize]).unwrap();
        let Rig { platform, engine } = &mut rig;
        let done = engine.unmap_all_if(platform, domain, whole, at_once, |_, _| true).unwrap();
        assert_eq!(rig.mappings(domain), []);
        if is_slow {
            assert_eq!((taken(&rig).0, rig.engine.retired()), (before.0 + 3, 3));
            let Rig { platform, engine } = &mut rig;
            let early = engine.map_chain(platform, domain, at(start), &chain);
            assert_eq!(early.unwrap_err().error, EngineError::NotForgotten);
        }
        rig.finish(&done);
        assert!(rig.read(start, 1).is_err() && rig.read(start + 3 * PAGE, 1).is_err());
        assert_eq!((taken(&rig), rig.engine.retired()), (before, 0));
        rig.check();
    }
}

/// As most lists come and go: for what is mapped by a few steps, all is as by the general way.
fn a_chain_that_comes_again_is_seen_where_it_was_and_told_apart_by_its_pieces(vendor: Vendor) {
    let slow = slow(vendor.machine(), Takes::After(1_000_000));
    for config in [vendor.machine(), vendor.caching(), slow] {
        let mut rig = Rig::new(config);
        let domain = rig.attach(edu());
        let (one, two) = (rig.run(4 * PAGE), rig.run(2 * PAGE));
        // A table that stays.
        rig.map(domain, one, PAGE, Access::Read);
        let before = rig.engine.domain(domain).unwrap().taken_addresses();
        let mapped = rig.mappings(domain);
        let read_only = ChainPiece { access: Access::Read, ..piece(two, 0, PAGE) };
        let chain = [piece(one, PAGE, 2 * PAGE), read_only, piece(two, PAGE, PAGE)];
        let range =
            |start: u64, page: u64, pages: u64| (Iova::new(start + page * PAGE), pages * PAGE);
        let mut places = Vec::new();
        for round in 0..6u8 {
            let start = rig.chain(domain, ANYWHERE, &chain).unwrap();
            places.push(start);
            rig.write(start, &[round; 2 * PAGE as usize]).unwrap();
            rig.write(start + 3 * PAGE, &[round; PAGE as usize]).unwrap();
            assert!(rig.write(start + 2 * PAGE, &[1]).is_err());
            assert_eq!(rig.read(start + PAGE, 1).unwrap(), [round]);
            assert_eq!(rig.read(start + 3 * PAGE, 1).unwrap(), [round]);
            let there = rig.engine.domain(domain).unwrap();
            let taken = there.taken_addresses();
            assert_eq!(taken, (before.0 + 3, before.1 + 5 * PAGE));
            let pieces = [range(start, 0, 2), range(start, 2, 1), range(start, 3, 1)];
            for ((iova, bytes), piece) in pieces.into_iter().zip(&chain) {
                let mapping = there.mapping(iova).unwrap();
                assert_eq!((mapping.bytes, mapping.offset), (bytes, piece.offset));
                assert_eq!(mapping.access, piece.access);
            }
            let Rig { platform, engine } = &mut rig;
            let gone = match round {
                // All in their order, in another, or one without the others first.
                0..4 => engine.unmap_all(platform, domain, pieces, Invalidation::Strict),
                4 => {
                    let [first, second, third] = pieces;
                    let all = [third, first, second];
                    engine.unmap_all(platform, domain, all, Invalidation::Strict)
                }
                _ => {
                    let (iova, bytes) = pieces[1];
                    let alone = engine.unmap(platform, domain, iova, bytes).unwrap();
                    rig.finish(&alone);
                    let Rig { platform, engine } = &mut rig;
                    let rest = [pieces[0], pieces[2]];
                    engine.unmap_all(platform, domain, rest, Invalidation::Strict)
                }
            };
            rig.finish(&gone.unwrap());
            for page in 0..4 {
                assert!(rig.read(start + page * PAGE, 1).is_err(), "round {round}, {page}");
            }
            assert_eq!(rig.mappings(domain), mapped);
            let there = rig.engine.domain(domain).unwrap();
            assert_eq!((there.taken_addresses(), rig.engine.retired()), (before, 0));
        }
        assert!(places.iter().all(|start| *start == places[0]), "{places:x?}");
        rig.check();
    }
}

fn r6_each_piece_of_a_chain_has_its_own_access(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(None);
    let run = rig.run(2 * PAGE);
    let read = ChainPiece { access: Access::Read, ..piece(run, 0, PAGE) };
    let write = ChainPiece { access: Access::Write, ..piece(run, PAGE, PAGE) };
    let start = rig.chain(domain, at(0x4000_0000), &[read, write]).unwrap();
    assert!(rig.read(start, 8).is_ok() && blocked(&rig.write(start, &[1])));
    assert!(rig.write(start + PAGE, &[1]).is_ok() && blocked(&rig.read(start + PAGE, 8)));
    rig.check();
}

fn r7_a_chain_that_runs_out_of_frames_leaves_nothing_behind(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(None);
    let run = rig.run(3 * PAGE);
    // Two of the pieces are beyond the end of a table of pages.
    let place = at(0x7fff_f000);
    let chain = [piece(run, 0, PAGE), piece(run, PAGE, PAGE), piece(run, 2 * PAGE, PAGE)];
    let mut refused = 0;
    loop {
        let before = rig.platform.usage();
        rig.platform.limit_frames(refused);
        let mapped = rig.chain(domain, place, &chain);
        rig.platform.limit_frames(usize::MAX);
        if mapped.is_ok() {
            break;
        }
        refused += 1;
        rig.pass(std::time::Duration::from_millis(1));
        assert_eq!((rig.mappings(domain), rig.engine.retired()), (vec![], 0), "{refused}");
        assert!(rig.platform.usage().live_frames <= before.live_frames + refused, "{refused}");
        assert!(rig.write(0x7fff_f000, &[1]).is_err());
    }
    assert!(refused > 1, "some chain was entered in part");
    rig.write(0x7fff_f000, &[1; 3 * PAGE as usize]).unwrap();
    rig.check();
}

fn r2_what_a_failed_chain_entered_is_forgotten_before_its_addresses_are_used_again(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(None);
    let run = rig.run(2 * PAGE);
    let chain = [piece(run, 0, PAGE), piece(run, PAGE, PAGE)];
    // The tables for the first piece are there, those for the second are not.
    rig.chain(domain, at(0x7fff_e000), &[piece(run, 0, PAGE)]).unwrap();
    slow_down(&mut rig.platform.machine_mut(), Takes::After(1_000_000));
    rig.platform.limit_frames(0);
    let Rig { platform, engine } = &mut rig;
    let refused = engine.map_chain(platform, domain, at(0x7fff_f000), &chain);
    let lasting = refused.unwrap_err().lasting;
    assert_eq!(engine.progress(&lasting), Progress::Pending);
    rig.platform.limit_frames(usize::MAX);
    assert_eq!(rig.engine.retired(), 1);
    let Rig { platform, engine } = &mut rig;
    let again = engine.map_chain(platform, domain, at(0x7fff_f000), &chain[..1]);
    assert_eq!(again.map(drop), Err(EngineError::NotForgotten.into()));
    rig.pass(std::time::Duration::from_millis(2));
    assert_eq!((rig.engine.retired(), rig.engine.progress(&lasting)), (0, Progress::Done));
    rig.chain(domain, at(0x7fff_f000), &chain).unwrap();
    rig.check();
}

fn r2_a_failed_chain_that_made_the_table_grow_leaves_units_with_the_grown_one(vendor: Vendor) {
    // The last page that one table of the lowest level holds, and the next: they take a table each.
    let edge = (1 << 40) - PAGE + (1 << 21);
    let most = |with_page: bool| {
        (0..).find(|&more| {
            let mut rig = Rig::new(vendor.machine());
            let domain = rig.explicit(None);
            let run = rig.run(2 * PAGE);
            let page = [piece(run, 0, PAGE)];
            let low = with_page.then(|| rig.chain(domain, at(0x1000), &page).unwrap());
            let usage = rig.platform.usage();
            rig.platform.limit_frames(usage.live_frames + more);
            let mapped = rig.chain(domain, at(edge), &[page[0], piece(run, PAGE, PAGE)]);
            rig.platform.limit_frames(usize::MAX);
            if mapped.is_err() {
                // All that is free now is used for something else.
                rig.pass(Duration::from_millis(1));
                let used = std::iter::from_fn(|| rig.platform.alloc_frame());
                let used: Vec<_> = used.take(64).collect();
                assert!(blocked(&rig.write(edge, &[1])) && blocked(&rig.write(edge + PAGE, &[1])));
                assert!(low.is_none_or(|low| rig.write(low, &[1]).is_ok()));
                used.into_iter().for_each(|frame| rig.platform.free_frame(frame));
                // What is mapped up there next is reached.
                rig.chain(domain, at(edge), &page).unwrap();
                rig.write(edge, &[1]).unwrap();
            }
            rig.check();
            mapped.is_ok()
        })
    };
    // A table of each level but the root, which is a new one where it grows, and one for the second page.
    assert!([false, true].map(most).iter().all(|most| most.is_some_and(|most| most >= 4)));
}

fn a_chain_is_seen_by_a_unit_that_keeps_what_is_absent(vendor: Vendor) {
    let mut rig = Rig::new(vendor.caching());
    let domain = rig.explicit(None);
    let run = rig.run(2 * PAGE);
    for page in [0, PAGE] {
        assert!(rig.read(0x5000_0000 + page, 8).is_err());
    }
    let chain = [piece(run, 0, PAGE), piece(run, PAGE, PAGE)];
    rig.chain(domain, at(0x5000_0000), &chain).unwrap();
    assert!(rig.read(0x5000_0000, 2 * PAGE as usize).is_ok());
    rig.check();
}

fn r2_a_chosen_address_is_not_used_again_before_units_have_forgotten_it(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.machine(), Takes::After(1_000_000)));
    let domain = rig.explicit(None);
    let (run, other) = (rig.run(PAGE), rig.run(PAGE));
    rig.chain(domain, at(0x5000_0000), &[piece(run, 0, PAGE)]).unwrap();
    rig.write(0x5000_0000, &[1]).unwrap();
    let Rig { platform, engine } = &mut rig;
    let unmapped = engine.unmap(platform, domain, Iova::new(0x5000_0000), PAGE).unwrap();
    let early = engine.map_chain(platform, domain, at(0x5000_0000), &[piece(other, 0, PAGE)]);
    assert_eq!(early.map(drop), Err(EngineError::NotForgotten.into()));
    rig.finish(&unmapped);
    rig.chain(domain, at(0x5000_0000), &[piece(other, 0, PAGE)]).unwrap();
    rig.check();
}

fn a_chosen_address_that_is_gathered_is_told_at_once(vendor: Vendor) {
    let policy = Policy { invalidation: Invalidation::Deferred, ..Policy::default() };
    let mut rig = Rig::with_policy(vendor.machine(), policy);
    let domain = rig.attach(edu());
    let run = rig.run(PAGE);
    for _ in 0..3 {
        rig.chain(domain, at(0x5000_0000), &[piece(run, 0, PAGE)]).unwrap();
        let Rig { platform, engine } = &mut rig;
        let gathered = engine.unmap(platform, domain, Iova::new(0x5000_0000), PAGE).unwrap();
        assert_eq!(gathered.tickets().count(), 0);
        assert_eq!(engine.progress(&gathered), Progress::Pending);
    }
    // What was made for those who choose addresses is not gathered in the first place.
    rig.detach(edu());
    let domain = rig.explicit(None);
    rig.chain(domain, at(0x5000_0000), &[piece(run, 0, PAGE)]).unwrap();
    let Rig { platform, engine } = &mut rig;
    let strict = engine.unmap(platform, domain, Iova::new(0x5000_0000), PAGE).unwrap();
    assert_eq!((strict.batches().count(), engine.progress(&strict)), (0, Progress::Done));
    rig.check();
}

fn an_address_tells_what_is_mapped_there(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(None);
    let run = rig.run(4 * PAGE);
    let first = ChainPiece { owner: 7, access: Access::Read, ..piece(run, PAGE, 2 * PAGE) };
    let second = ChainPiece { owner: 8, ..piece(run, 0, PAGE) };
    rig.chain(domain, at(0x5000_0000), &[first, second]).unwrap();
    let domain = rig.engine.domain(domain).unwrap();
    let look = |iova| {
        let (start, mapping) = domain.lookup(Iova::new(iova))?;
        Some((start.get(), mapping.owner, mapping.offset, mapping.access))
    };
    let first = Some((0x5000_0000, Owner::Buffer(7), PAGE, Access::Read));
    let second = Some((0x5000_2000, Owner::Buffer(8), 0, Access::ReadWrite));
    assert_eq!([0x5000_0000, 0x5000_1fff].map(look), [first; 2]);
    assert_eq!([0x5000_2000, 0x5000_2fff].map(look), [second; 2]);
    assert_eq!([0x4fff_ffff, 0x5000_3000, 0, u64::MAX].map(look), [None; 4]);
}

fn r1_what_firmware_and_interrupts_keep_cannot_be_chosen(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.explicit(None);
    let run = rig.run(PAGE);
    for iova in [0, INTERRUPT_RANGE.start.get(), INTERRUPT_RANGE.last().unwrap().get() - 0xfff] {
        let refused = rig.chain(domain, at(iova), &[piece(run, 0, PAGE)]);
        let reserved = matches!(refused, Err(EngineError::Iova(IovaError::Reserved { .. })));
        assert!(reserved, "{iova:#x}: {refused:?}");
    }
}
