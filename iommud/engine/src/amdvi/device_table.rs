//! The device table of one unit, in memory (2.2.2): an entry for each of 65536 requesters.
//!
//! It is always full. An entry that is missing, or not valid, lets requests pass untranslated on some units, so
//! that a device which nobody knows must have one that blocks it (rule R1).
//!
//! # Changing an entry
//!
//! A unit reads an entry at once, all 256 bits, and we write it by 64. So it is always one store, of the first
//! word, that lets a device reach something or takes it away, and the domain id changes only while the entry
//! blocks: whatever mixture a unit reads blocks, or is the old entry, or the new.

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use dma_types::{PAGE_SIZE, PhysAddr, SourceId};

use super::device_table_entry::{BLOCKED_DOMAIN, DeviceTableEntry, DomainWord, TranslationWord};
use super::registers::{Control, DeviceTableBase, RegisterFile, SegmentBase};
use crate::acpi::ivrs::DteSettings;
use crate::platform::{Registers, TableFrames};
use crate::records::UnitRoot;
use crate::unit::{DomainId, Translation};

/// The frames of a full table: 65536 entries of 32 bytes.
const FRAMES: usize = 512;

/// The words of an entry.
const ENTRY_WORDS: usize = 4;

/// The entries of a frame.
const ENTRIES: usize = 512 / ENTRY_WORDS;

/// A unit's device table.
#[derive(Debug)]
pub struct DeviceTable {
    /// Where it is: whole, or its segments, a power of two of them that are all of the same size.
    segments: Vec<PhysAddr>,
    /// A page table in which nothing is mapped.
    empty: PhysAddr,
}

impl DeviceTable {
    /// A table in which everything is blocked, with what firmware asks for in some requesters' entries: of
    /// several settings for one, the last holds. `None` if there are no frames for it.
    ///
    /// It is whole if there is memory for it in one piece, else in as few segments as there is memory for. The
    /// unit takes two to the power of `most_segments_order` of them, at most 3.
    pub fn new(
        frames: &mut impl TableFrames,
        most_segments_order: u8,
        settings: &[(RangeInclusive<SourceId>, DteSettings)],
    ) -> Option<Self> {
        let empty = frames.alloc_frame()?;
        let segments = (0..=most_segments_order.min(3)).find_map(|order| segments(frames, order));
        let Some(segments) = segments else {
            frames.free_frame(empty);
            return None;
        };
        let table = Self { segments, empty };
        table.fill(frames, settings);
        Some(table)
    }

    /// Gives its frames back. Only for a table that no unit has been told of.
    pub fn free(self, frames: &mut impl TableFrames) {
        for segment in &self.segments {
            frames.free_table(*segment, FRAMES / self.segments.len());
        }
        frames.free_frame(self.empty);
    }

    /// The table that a predecessor left, as it was written down.
    pub fn found(segments: &[PhysAddr], empty: PhysAddr) -> Self {
        Self { segments: segments.to_vec(), empty }
    }

    /// What is written down of it.
    pub fn record(&self) -> UnitRoot {
        UnitRoot::DeviceTable { segments: self.segments.clone(), empty: self.empty }
    }

    /// Whether the unit translates by this table.
    pub fn is_announced(&self, platform: &mut impl Registers, registers: &RegisterFile) -> bool {
        let control: Control = registers.read(platform);
        let base: DeviceTableBase = registers.read(platform);
        let pages = FRAMES / self.segments.len().max(1);
        control != Control::GONE
            && control.translation()
            && control.segments_order() == self.segments_order()
            && base == DeviceTableBase::naming(self.start(), pages)
    }

    /// Looks at all of the table, which a predecessor left. `visit` is asked for each frame whether nothing else is in it.
    /// By what each requester is translated that is not blocked; `None` for what cannot be our table.
    pub fn examine(
        &self,
        frames: &impl TableFrames,
        visit: &mut impl FnMut(PhysAddr) -> bool,
    ) -> Option<BTreeMap<SourceId, Translation>> {
        let empty = frames.table(self.empty).filter(|_| visit(self.empty))?;
        if empty.iter().any(|word| word.load(Ordering::Acquire) != 0) {
            return None;
        }
        for frame in self.frames() {
            frames.table(frame).filter(|_| visit(frame))?;
        }
        let mut found = BTreeMap::new();
        for source in (0..=u16::MAX).map(SourceId::new) {
            let word = TranslationWord::from_bits(self.load(frames, source, 0));
            let domain = DomainWord::from_bits(self.load(frames, source, 1));
            if word == TranslationWord::blocked(domain, self.empty) {
                continue;
            }
            let translation = word.translation(domain.domain())?;
            found.insert(source, translation);
        }
        Some(found)
    }

    /// All the frames that its entries are in.
    fn frames(&self) -> impl Iterator<Item = PhysAddr> {
        let pages = (FRAMES / self.segments.len().max(1)) as u64;
        self.segments.iter().flat_map(move |start| {
            (0..pages).map(move |page| PhysAddr::new(start.get().wrapping_add(page * PAGE_SIZE)))
        })
    }

    /// Where it starts, or its first segment.
    pub fn start(&self) -> PhysAddr {
        self.segments.first().copied().unwrap_or(self.empty)
    }

    /// The logarithm of how many segments it is in: what
    /// [`Control::segments_order`](super::registers::Control::segments_order) must say.
    pub fn segments_order(&self) -> u8 {
        self.segments.len().ilog2() as u8
    }

    /// Tells the unit where the table is. The first segment comes last: it counts at once.
    pub fn announce(&self, platform: &mut impl Registers, registers: &RegisterFile) {
        let pages = FRAMES / self.segments.len();
        for (index, segment) in self.segments.iter().enumerate().skip(1) {
            registers.write_segment(platform, index, SegmentBase::naming(*segment, pages));
        }
        registers.write(platform, DeviceTableBase::naming(self.start(), pages));
    }

    /// Has a requester translated, which must be blocked. False, and nothing changed, if that cannot be said:
    /// a table has 1 to 6 levels.
    #[must_use]
    pub fn attach(
        &self,
        frames: &impl TableFrames,
        source: SourceId,
        translation: Translation,
    ) -> bool {
        let Some(word) = TranslationWord::translating(translation) else { return false };
        self.change_domain(frames, source, translation.domain);
        self.store(frames, source, 0, word.into_bits());
        true
    }

    /// Blocks a requester, and has logged what it is denied.
    pub fn block(&self, frames: &impl TableFrames, source: SourceId) {
        let domain = DomainWord::from_bits(self.load(frames, source, 1));
        let blocked = TranslationWord::blocked(domain, self.empty);
        self.store(frames, source, 0, blocked.into_bits());
        self.change_domain(frames, source, BLOCKED_DOMAIN);
    }

    /// Has a requester translated by another table of the same domain: its old root, grown. False, and nothing
    /// changed, if it is not translated under that domain id, or that cannot be said.
    #[must_use]
    pub fn retarget(
        &self,
        frames: &impl TableFrames,
        source: SourceId,
        translation: Translation,
    ) -> bool {
        let Some(word) = TranslationWord::translating(translation) else { return false };
        let domain = DomainWord::from_bits(self.load(frames, source, 1)).domain();
        if domain != translation.domain || domain == BLOCKED_DOMAIN {
            return false;
        }
        self.store(frames, source, 0, word.into_bits());
        true
    }

    /// Has nothing logged of what a requester is denied, or again everything. One word changes, and in it nothing that
    /// the requester is translated by.
    pub fn silence(&self, frames: &impl TableFrames, source: SourceId, silent: bool) {
        let word = DomainWord::from_bits(self.load(frames, source, 1)).with_events_never(silent);
        self.store(frames, source, 1, word.into_bits());
    }

    /// Has everything logged of every requester that is denied something.
    pub fn end_silences(&self, frames: &impl TableFrames) {
        for source in (0..=u16::MAX).map(SourceId::new) {
            let word = DomainWord::from_bits(self.load(frames, source, 1));
            if word.events_never() {
                self.store(frames, source, 1, word.with_events_never(false).into_bits());
            }
        }
    }

    fn change_domain(&self, frames: &impl TableFrames, source: SourceId, domain: DomainId) {
        let word = DomainWord::from_bits(self.load(frames, source, 1));
        let word = word.with_domain(domain).with_events_never(false);
        self.store(frames, source, 1, word.into_bits());
    }

    /// Writes every entry.
    fn fill(
        &self,
        frames: &impl TableFrames,
        settings: &[(RangeInclusive<SourceId>, DteSettings)],
    ) {
        let blocked = DeviceTableEntry::blocked(DteSettings::new(), self.empty).words();
        let pages = 0..(FRAMES / self.segments.len()) as u64;
        for start in &self.segments {
            for frame in pages.clone().map(|page| PhysAddr::new(start.get() + page * PAGE_SIZE)) {
                let Some(table) = frames.table(frame) else { continue };
                for (place, value) in table.iter().zip(blocked.iter().cycle()) {
                    place.store(*value, Ordering::Release);
                }
            }
        }
        for (source, settings) in each_once(settings) {
            let entry = DeviceTableEntry::blocked(settings, self.empty);
            for (word, value) in entry.words().into_iter().enumerate() {
                self.store(frames, source, word, value);
            }
        }
    }

    fn load(&self, frames: &impl TableFrames, source: SourceId, word: usize) -> u64 {
        self.word(frames, source, word).map_or(0, |place| place.load(Ordering::Acquire))
    }

    fn store(&self, frames: &impl TableFrames, source: SourceId, word: usize, value: u64) {
        if let Some(place) = self.word(frames, source, word) {
            place.store(value, Ordering::Release);
        }
    }

    /// A word of a requester's entry. The highest bits of the source-id choose the segment.
    fn word<'a>(
        &self,
        frames: &'a impl TableFrames,
        source: SourceId,
        word: usize,
    ) -> Option<&'a AtomicU64> {
        let frame = usize::from(source.get()) / ENTRIES;
        let frames_each = FRAMES / self.segments.len();
        let segment = self.segments.get(frame / frames_each)?;
        let within = (frame % frames_each) as u64 * PAGE_SIZE;
        let table = frames.table(PhysAddr::new(segment.get() + within))?;
        table.get(usize::from(source.get()) % ENTRIES * ENTRY_WORDS + word)
    }
}

/// The settings of each requester that has any, the last of several: firmware's table has room to name each of
/// them thousands of times (rule R5).
fn each_once(
    settings: &[(RangeInclusive<SourceId>, DteSettings)],
) -> impl Iterator<Item = (SourceId, DteSettings)> {
    let mut each = alloc::vec![DteSettings::new(); ENTRIES * FRAMES];
    for (sources, settings) in settings {
        let sources = usize::from(sources.start().get())..=usize::from(sources.end().get());
        if let Some(named) = each.get_mut(sources) {
            named.fill(*settings);
        }
    }
    let each = (0..=u16::MAX).map(SourceId::new).zip(each);
    each.filter(|(_, settings)| *settings != DteSettings::new())
}

/// Memory for two to the power of `order` segments, or nothing.
fn segments(frames: &mut impl TableFrames, order: u8) -> Option<Vec<PhysAddr>> {
    let count = 1usize << order;
    let mut segments = Vec::with_capacity(count);
    for _ in 0..count {
        match frames.alloc_table(FRAMES / count) {
            Some(segment) => segments.push(segment),
            None => {
                for segment in segments {
                    frames.free_table(segment, FRAMES / count);
                }
                return None;
            }
        }
    }
    Some(segments)
}

#[cfg(test)]
mod tests {
    use super::super::registers::fake::{FakeRegisters, WINDOW};
    use super::*;
    use crate::fakes::FakeFrames;

    const DEVICE: SourceId = SourceId::new(0x0010);
    const FAR: SourceId = SourceId::new(0xff7f);
    const DOMAIN: DomainId = DomainId::new(5);
    const TABLE: PhysAddr = PhysAddr::new(0x5000);
    const TRANSLATION: Translation = Translation { domain: DOMAIN, table: TABLE, levels: 4 };

    fn words(table: &DeviceTable, frames: &FakeFrames, source: SourceId) -> [u64; 4] {
        [0, 1, 2, 3].map(|word| table.load(frames, source, word))
    }

    #[test]
    fn r1_every_requester_there_can_be_is_blocked() {
        let mut frames = FakeFrames::new(1024);
        let table = DeviceTable::new(&mut frames, 0, &[]).unwrap();
        let blocked = [0x203 | table.empty.get(), 0, 0, 0];
        assert!((0..=u16::MAX).all(|it| words(&table, &frames, SourceId::new(it)) == blocked));
        let empty = frames.table(table.empty).unwrap();
        assert!(empty.iter().all(|entry| entry.load(Ordering::Relaxed) == 0));
        // As the unit reads it: from the start, 32 bytes each.
        let last = PhysAddr::new(table.start().get() + 511 * PAGE_SIZE);
        assert!(table.attach(&frames, SourceId::new(0xffff), TRANSLATION));
        let entry = &frames.table(last).unwrap()[508..];
        let words: Vec<u64> = entry.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        assert_eq!(words, [0x6000_0000_0000_5803, 5, 0, 0]);
    }

    #[test]
    fn a_table_that_fits_nowhere_whole_is_made_in_segments() {
        // 512 frames in a row start at 0 at the earliest, where the header is, or at 512.
        let mut frames = FakeFrames::new(900);
        assert!(DeviceTable::new(&mut frames, 0, &[]).is_none());
        assert!(DeviceTable::new(&mut frames, 1, &[]).is_some());
        let mut frames = FakeFrames::new(600);
        let table = DeviceTable::new(&mut frames, 3, &[]).unwrap();
        assert_eq!(table.segments_order(), 3);
        for source in [DEVICE, FAR] {
            assert!(table.attach(&frames, source, TRANSLATION));
            assert_eq!(words(&table, &frames, source)[1], 5);
        }
        // The three highest bits of the source-id choose the segment.
        let frame = PhysAddr::new(table.segments[7].get() + 62 * PAGE_SIZE);
        let word = frames.table(frame).unwrap()[0x7f * 4].load(Ordering::Relaxed);
        assert_eq!(word, 0x6000_0000_0000_5803);

        let mut platform = FakeRegisters::new();
        table.announce(&mut platform, &RegisterFile::new(WINDOW));
        let segments = table.segments.iter().map(|segment| segment.get() | 0x3f);
        let places = [0, 0x100, 0x108, 0x110, 0x118, 0x120, 0x128, 0x130];
        let mut expected: Vec<_> = places.into_iter().zip(segments).collect();
        expected.rotate_left(1);
        assert_eq!(platform.writes, expected);
        table.free(&mut frames);
        assert_eq!(frames.live(), 0);
    }

    #[test]
    fn no_memory_for_a_table_leaves_none_taken() {
        let mut frames = FakeFrames::new(400);
        assert!(DeviceTable::new(&mut frames, 3, &[]).is_none());
        assert_eq!(frames.live(), 0);
    }

    #[test]
    fn a_change_keeps_what_firmware_asked_for_and_the_last_word_about_a_device_holds() {
        let mut frames = FakeFrames::new(1024);
        let all = SourceId::new(0)..=SourceId::new(0xffff);
        let settings =
            [(all, DteSettings::from_bits(0x04)), (DEVICE..=DEVICE, DteSettings::from_bits(0xd7))];
        let table = DeviceTable::new(&mut frames, 0, &settings).unwrap();
        assert_eq!(words(&table, &frames, FAR), [0x203 | table.empty.get(), 0, 1 << 58, 0]);
        let blocked = words(&table, &frames, DEVICE);
        assert_eq!(blocked[0], 0x4000_0000_0000_0203 | table.empty.get());

        assert!(table.attach(&frames, DEVICE, TRANSLATION));
        let attached = [0x6000_0000_0000_5803, 0x100_0000_0005, 0xc700_0000_0000_0000, 0];
        assert_eq!(words(&table, &frames, DEVICE), attached);
        let grown = Translation { table: PhysAddr::new(0x6000), levels: 5, ..TRANSLATION };
        assert!(table.retarget(&frames, DEVICE, grown));
        assert_eq!(words(&table, &frames, DEVICE)[0], 0x6000_0000_0000_6a03);
        table.block(&frames, DEVICE);
        assert_eq!(words(&table, &frames, DEVICE), blocked);
    }

    #[test]
    fn a_silent_requester_is_translated_as_before_and_silent_until_it_is_attached_elsewhere() {
        let mut frames = FakeFrames::new(1024);
        let settings = [(DEVICE..=DEVICE, DteSettings::from_bits(0xd7))];
        let table = DeviceTable::new(&mut frames, 0, &settings).unwrap();
        let suppress_all = 1 << 34;
        let blocked = words(&table, &frames, DEVICE);
        table.silence(&frames, DEVICE, true);
        let silent = [blocked[0], blocked[1] | suppress_all, blocked[2], blocked[3]];
        assert_eq!(words(&table, &frames, DEVICE), silent);
        assert!(table.attach(&frames, DEVICE, TRANSLATION));
        let attached = [0x6000_0000_0000_5803, 0x100_0000_0005, 0xc700_0000_0000_0000, 0];
        assert_eq!(words(&table, &frames, DEVICE), attached);
        table.silence(&frames, DEVICE, true);
        assert_eq!(words(&table, &frames, DEVICE)[1], attached[1] | suppress_all);
        table.silence(&frames, DEVICE, false);
        assert_eq!(words(&table, &frames, DEVICE), attached);
        table.silence(&frames, DEVICE, true);
        table.block(&frames, DEVICE);
        assert_eq!(words(&table, &frames, DEVICE), blocked);
    }

    #[test]
    fn r5_a_table_that_names_every_device_thousands_of_times_takes_no_longer() {
        let all = SourceId::new(0)..=SourceId::new(0xffff);
        // As many as there are in the longest block.
        let mut settings = alloc::vec![(all.clone(), DteSettings::from_bits(0x01)); 0x3ff0];
        settings.push((all, DteSettings::from_bits(0x04)));
        let table = DeviceTable::new(&mut FakeFrames::new(1024), 0, &settings).unwrap();
        assert_eq!(table.segments_order(), 0);
    }

    #[test]
    fn r1_what_cannot_be_said_changes_nothing() {
        let mut frames = FakeFrames::new(1024);
        let table = DeviceTable::new(&mut frames, 0, &[]).unwrap();
        for levels in [0, 7] {
            assert!(!table.attach(&frames, DEVICE, Translation { levels, ..TRANSLATION }));
        }
        // Not attached, or not to this domain.
        assert!(!table.retarget(&frames, DEVICE, TRANSLATION));
        assert_eq!(words(&table, &frames, DEVICE), [0x203 | table.empty.get(), 0, 0, 0]);
        assert!(table.attach(&frames, DEVICE, TRANSLATION));
        let other = Translation { domain: DomainId::new(6), ..TRANSLATION };
        assert!(!table.retarget(&frames, DEVICE, other));
        assert!(!table.retarget(&frames, DEVICE, Translation { levels: 0, ..TRANSLATION }));
        assert_eq!(words(&table, &frames, DEVICE)[..2], [0x6000_0000_0000_5803, 5]);
    }
}
