//! The table that stays when its last entry goes (R2).

use std::collections::BTreeMap;

use dma_types::{Access, Iova};
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::{DomainKey, Place};
use iommu_engine::engine::MapSpec;
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::payer::{Payer, Purse};
use iommu_engine::platform::RunId;
use iommu_sim::pace::Completion as Takes;

use crate::rig::{Rig, edu, whole};
use crate::vendor::{Vendor, forgotten, slow};

both! {
    r2_a_large_page_takes_the_place_of_an_empty_table_when_units_have_forgotten_that,
    r2_a_chosen_large_page_does_too,
    r2_a_large_page_is_seen_also_where_the_table_was_given_up_before,
    r2_an_empty_table_goes_when_another_is_made,
    what_comes_and_goes_alone_takes_no_tables,
    an_empty_table_is_paid_for_until_it_is_given_up,
    who_pays_for_the_way_to_anothers_empty_table_gets_that_back,
}

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
const PLACE: u64 = 0x40_0000;

/// A run that is to be mapped within the one large page that there is at an address.
fn at(place: u64, run: RunId, bytes: u64) -> MapSpec {
    let (first, limit) = (Iova::new(place), Iova::new(place + LARGE - 1));
    MapSpec { first, limit, ..whole(run, bytes) }
}

/// Maps within the one at [`PLACE`].
fn map_there(rig: &mut Rig, domain: DomainKey, run: RunId, bytes: u64) -> (Iova, Completion) {
    rig.engine.map(&mut rig.platform, domain, &at(PLACE, run, bytes)).unwrap()
}

/// A domain in which a page was mapped there alone, and the device used it.
fn left(rig: &mut Rig) -> DomainKey {
    let domain = rig.attach(edu());
    leave_empty(rig, domain);
    domain
}

fn leave_empty(rig: &mut Rig, domain: DomainKey) {
    let page = rig.run(PAGE);
    let (iova, completion) = map_there(rig, domain, page, PAGE);
    rig.finish(&completion);
    rig.write(iova.get(), &[1]).unwrap();
    rig.unmap(domain, iova, PAGE);
    rig.pass(std::time::Duration::from_millis(1));
    assert_eq!(rig.engine.retired(), 0, "nothing was unlinked");
}

/// So many frames of a domain's table.
fn frames(rig: &Rig, domain: DomainKey) -> usize {
    let domains: Vec<_> = rig.engine.domains().filter(|(key, _)| *key == domain).collect();
    domains[0].1.frames(&rig.platform).len()
}

/// The device reaches all of a large page from the completion on, and the table that was there is free then, not before.
fn is_seen_when_forgotten(rig: &mut Rig, domain: DomainKey, iova: Iova, completion: &Completion) {
    assert_eq!(iova, Iova::new(PLACE));
    assert_eq!(rig.engine.progress(completion), Progress::Pending);
    assert_eq!(rig.engine.retired(), 1);
    rig.finish(completion);
    for offset in [0, 0x1000, LARGE - 8] {
        rig.write(PLACE + offset, &[2]).unwrap();
    }
    rig.pass(std::time::Duration::from_millis(1));
    assert_eq!(rig.engine.retired(), 0);
    rig.unmap(domain, iova, LARGE);
    rig.check();
}

fn r2_a_large_page_takes_the_place_of_an_empty_table_when_units_have_forgotten_that(
    vendor: Vendor,
) {
    for config in vendor.interfaces() {
        let mut rig = Rig::new(slow(config, Takes::After(1_000_000)));
        let domain = left(&mut rig);
        let before = frames(&rig, domain);
        let large = rig.run(LARGE);
        let (iova, completion) = map_there(&mut rig, domain, large, LARGE);
        assert_eq!(frames(&rig, domain), before - 1);
        is_seen_when_forgotten(&mut rig, domain, iova, &completion);
    }
}

fn r2_a_chosen_large_page_does_too(vendor: Vendor) {
    for config in vendor.interfaces() {
        let mut rig = Rig::new(slow(config, Takes::After(1_000_000)));
        let domain = left(&mut rig);
        let run = rig.run(LARGE);
        let place = Place::At { iova: Iova::new(PLACE), limit: Iova::new(u64::MAX) };
        let access = Access::ReadWrite;
        let chain = [ChainPiece { run, offset: 0, bytes: LARGE, access, owner: 1 }];
        let Rig { platform, engine } = &mut rig;
        let (iova, completion) = engine.map_chain(platform, domain, place, &chain).unwrap();
        is_seen_when_forgotten(&mut rig, domain, iova, &completion);
    }
}

fn r2_a_large_page_is_seen_also_where_the_table_was_given_up_before(vendor: Vendor) {
    for config in vendor.interfaces() {
        let mut rig = Rig::new(slow(config, Takes::After(1_000_000)));
        let domain = rig.attach(edu());
        // The table above stays, for there is another page in it.
        let (page, large) = (rig.run(PAGE), rig.run(LARGE));
        let beside = at(PLACE + 2 * LARGE, page, PAGE);
        let (_, mapped) = rig.engine.map(&mut rig.platform, domain, &beside).unwrap();
        rig.finish(&mapped);
        leave_empty(&mut rig, domain);
        rig.engine.give_up_empty_tables(&mut rig.platform, |_| true);
        let (iova, completion) = map_there(&mut rig, domain, large, LARGE);
        is_seen_when_forgotten(&mut rig, domain, iova, &completion);

        // The addresses are at hand, too: as many pages were there, one by one.
        let pages = rig.run(LARGE + PAGE);
        let (iova, mapped) = map_there(&mut rig, domain, pages, LARGE);
        rig.finish(&mapped);
        rig.write(PLACE, &[1]).unwrap();
        rig.unmap(domain, iova, LARGE);
        rig.pass(std::time::Duration::from_millis(1));
        rig.engine.give_up_empty_tables(&mut rig.platform, |_| true);
        let (iova, completion) = map_there(&mut rig, domain, large, LARGE);
        is_seen_when_forgotten(&mut rig, domain, iova, &completion);
    }
}

fn r2_an_empty_table_goes_when_another_is_made(vendor: Vendor) {
    for config in vendor.interfaces() {
        let mut rig = Rig::new(slow(config, Takes::After(1_000_000)));
        let domain = left(&mut rig);
        let (before, page) = (frames(&rig, domain), rig.run(PAGE));
        // Elsewhere: the way to the other table is another one.
        let spec = MapSpec { first: Iova::new(PLACE + (1 << 30)), ..whole(page, PAGE) };
        let (iova, completion) = rig.engine.map(&mut rig.platform, domain, &spec).unwrap();
        assert!(rig.engine.retired() > 0, "it is walked until units have forgotten it");
        rig.finish(&completion);
        rig.write(iova.get(), &[3]).unwrap();
        rig.pass(std::time::Duration::from_millis(1));
        assert_eq!((rig.engine.retired(), frames(&rig, domain)), (0, before));
        rig.unmap(domain, iova, PAGE);
        assert_eq!(frames(&rig, domain), before, "the other one stays now");
        rig.check();
    }
}

fn what_comes_and_goes_alone_takes_no_tables(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = left(&mut rig);
    let page = rig.run(PAGE);
    let (before, usage) = (frames(&rig, domain), rig.platform.usage());
    for round in 0..10 {
        let asked = forgotten(&rig.platform.machine());
        let (iova, completion) = map_there(&mut rig, domain, page, PAGE);
        rig.finish(&completion);
        rig.write(iova.get(), &[4]).unwrap();
        assert_eq!(forgotten(&rig.platform.machine()), asked, "round {round}");
        rig.unmap(domain, iova, PAGE);
        assert_eq!(forgotten(&rig.platform.machine()), asked + 1, "round {round}");
    }
    assert_eq!(frames(&rig, domain), before);
    assert_eq!(rig.platform.usage(), usage);
    rig.check();
}

fn an_empty_table_is_paid_for_until_it_is_given_up(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let (payer, page) = (Payer(7), rig.run(PAGE));
    let purse = Purse { payer, client: payer, frames: 8 };
    let Rig { platform, engine } = &mut rig;
    let paid = |engine: &mut iommu_engine::Engine| {
        let turned = std::iter::from_fn(|| engine.take_turnover());
        turned.filter(|it| it.0 == payer).map(|it| it.1.frames).sum::<i64>()
    };
    let spec = whole(page, PAGE);
    let mapped = engine.on_account(purse, |engine| engine.map(platform, domain, &spec));
    let taken = paid(engine);
    assert!(taken > 0);
    engine.unmap(platform, domain, mapped.unwrap().0, PAGE).unwrap();
    engine.poll(platform);
    assert_eq!(paid(engine), 0, "it stays on the account");
    engine.give_up_empty_tables(platform, |other| other != payer);
    engine.poll(platform);
    assert_eq!(paid(engine), 0, "it is nobody else's");
    engine.give_up_empty_tables(platform, |other| other == payer);
    engine.poll(platform);
    assert_eq!(paid(engine), -taken);
    rig.check();
}

fn who_pays_for_the_way_to_anothers_empty_table_gets_that_back(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let (one, other, page) = (Payer(7), Payer(8), rig.run(PAGE));
    let Rig { platform, engine } = &mut rig;
    let mut paid = BTreeMap::from([(one, 0), (other, 0)]);
    let mut paid = |engine: &mut iommu_engine::Engine| {
        for (payer, turned) in std::iter::from_fn(|| engine.take_turnover()) {
            *paid.entry(payer).or_default() += turned.frames;
        }
        (paid[&one], paid[&other])
    };
    // Each in a table of its own: those above are the one's who came first.
    for (payer, place) in [(one, PLACE), (other, PLACE + LARGE)] {
        let purse = Purse { payer, client: payer, frames: 8 };
        let spec = at(place, page, PAGE);
        let mapped = engine.on_account(purse, |engine| engine.map(platform, domain, &spec));
        engine.unmap(platform, domain, mapped.unwrap().0, PAGE).unwrap();
        engine.poll(platform);
    }
    let (above, empty) = paid(engine);
    assert!(above > 0, "the way to the empty table");
    assert_eq!(empty, 1, "which stays");
    engine.give_up_empty_tables(platform, |payer| payer == one);
    engine.poll(platform);
    assert_eq!(paid(engine), (0, 0));
    rig.check();
}
