//! What the engine writes in the [ledger](crate::ledger).

use alloc::vec::Vec;

use dma_types::{Iova, PciAddress, PhysAddr, SourceId};

use crate::iova::IovaRange;
use crate::ledger::{RECORD_WORDS, Record};
use crate::platform::{PLACE_WORDS, RunId, RunPlace};
use crate::unit::{Abilities, Depths, Walks};

/// A unit that translates by our tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRecord {
    /// Where its registers are.
    pub base: PhysAddr,
    /// Its segment.
    pub segment: u16,
    /// Its tables.
    pub root: UnitRoot,
}

/// The tables by which a unit looks devices up. Its queues and logs are not written down: a successor gives it others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitRoot {
    /// VT-d's root table.
    Table(PhysAddr),
    /// AMD-Vi's device table.
    DeviceTable {
        /// The segments that it is in, 1 to 8, all of the same size.
        segments: Vec<PhysAddr>,
        /// The page table of what is blocked.
        empty: PhysAddr,
    },
}

impl UnitRoot {
    /// Where it starts.
    pub fn start(&self) -> PhysAddr {
        match self {
            Self::Table(root) => *root,
            Self::DeviceTable { segments, empty } => segments.first().copied().unwrap_or(*empty),
        }
    }
}

/// The most segments of a device table.
const MOST_SEGMENTS: usize = 8;

impl Record for UnitRecord {
    const KIND: u64 = 1;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let mut words = words([self.base.get(), self.segment.into()]);
        match &self.root {
            UnitRoot::Table(root) => words[4] = root.get(),
            UnitRoot::DeviceTable { segments, empty } => {
                (words[2], words[3]) = (segments.len() as u64, empty.get());
                for (word, segment) in words[4..].iter_mut().zip(segments) {
                    *word = segment.get();
                }
            }
        }
        words
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [base, segment, count, empty, first, ..] = *words;
        let root = match usize::try_from(count).ok()? {
            0 => UnitRoot::Table(PhysAddr::new(first)),
            count if count <= MOST_SEGMENTS && count.is_power_of_two() => {
                let segments = words.get(4..4 + count)?;
                let segments = segments.iter().map(|start| PhysAddr::new(*start)).collect();
                UnitRoot::DeviceTable { segments, empty: PhysAddr::new(empty) }
            }
            _ => return None,
        };
        Some(Self { base: PhysAddr::new(base), segment: segment.try_into().ok()?, root })
    }
}

/// What a domain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A session's own, for the group of its device.
    Own,
    /// A client has made it.
    Explicit,
    /// What a group reaches while nobody holds it: what firmware reserves.
    Home,
    /// The same, of a group that the policy leaves unconfined: all memory.
    Unconfined,
}

/// For how many devices a domain's record says that it was made for them.
pub const MADE_FOR: usize = 4;

/// A domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainRecord {
    /// Its number.
    pub key: u64,
    /// The root of its page table.
    pub root: PhysAddr,
    /// How many levels its table has.
    pub levels: u8,
    /// What units must be able to do that walk it.
    pub abilities: Abilities,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether unmaps in it are gathered.
    pub is_deferred: bool,
    /// The addresses that are given out in it, if not all.
    pub aperture: Option<IovaRange>,
    /// The devices that it was made for, the first of them.
    pub made_for: [Option<PciAddress>; MADE_FOR],
}

impl Record for DomainRecord {
    const KIND: u64 = 2;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let Abilities { walks, depths, page_sizes, address_bits, coherent, write_needs_read } =
            self.abilities;
        let walks = match walks {
            Walks::Nothing => 0,
            Walks::SecondStage => 1,
            Walks::AmdV1 => 2,
        };
        let depths = depths.iter().fold(0, |set, levels| set | 1u64 << levels);
        let purpose = match self.purpose {
            Purpose::Own => 0,
            Purpose::Explicit => 1,
            Purpose::Home => 2,
            Purpose::Unconfined => 3,
        };
        let flags = u64::from(coherent)
            | u64::from(write_needs_read) << 1
            | u64::from(self.is_deferred) << 2;
        let what =
            walks | depths << 8 | u64::from(address_bits) << 16 | flags << 24 | purpose << 32;
        let aperture = self.aperture.unwrap_or(IovaRange::new(Iova::new(0), 0));
        let mut words = words([
            self.key,
            // In one word, for they change together when the table grows, and the daemon may die at any instant.
            self.root.get() | u64::from(self.levels),
            what,
            page_sizes,
            aperture.start.get(),
            aperture.bytes,
        ]);
        for (word, device) in words[6..].iter_mut().zip(self.made_for) {
            *word = device.map_or(0, |device| address_word(device) + 1);
        }
        words
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [key, table, what, page_sizes, start, bytes, ..] = *words;
        let root = PhysAddr::new(table).page();
        let [walks, depths, address_bits, flags, purpose, rest @ ..] = what.to_le_bytes();
        if rest != [0; 3] || flags & !0b111 != 0 {
            return None;
        }
        let aperture = IovaRange::new(Iova::new(start), bytes);
        let mut made_for = [None; MADE_FOR];
        for (device, word) in made_for.iter_mut().zip(&words[6..]) {
            *device = match word.checked_sub(1) {
                Some(word) => Some(address_from_word(word)?),
                None => None,
            };
        }
        Some(Self {
            key,
            root,
            levels: (table - root.get()).try_into().ok()?,
            abilities: Abilities {
                walks: match walks {
                    0 => Walks::Nothing,
                    1 => Walks::SecondStage,
                    2 => Walks::AmdV1,
                    _ => return None,
                },
                depths: Depths::new((1..8).filter(|levels| depths & 1 << levels != 0)),
                page_sizes,
                address_bits,
                coherent: flags & 1 != 0,
                write_needs_read: flags & 2 != 0,
            },
            purpose: match purpose {
                0 => Purpose::Own,
                1 => Purpose::Explicit,
                2 => Purpose::Home,
                3 => Purpose::Unconfined,
                _ => return None,
            },
            is_deferred: flags & 4 != 0,
            aperture: (bytes != 0).then_some(aperture),
            made_for,
        })
    }
}

/// A device that is attached to a domain, and by which id its unit knows that domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachmentRecord {
    /// The device.
    pub device: PciAddress,
    /// The domain's number.
    pub domain: u64,
    /// The domain's id at the device's unit.
    pub id: u16,
}

impl Record for AttachmentRecord {
    const KIND: u64 = 3;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        words([address_word(self.device), self.domain, self.id.into()])
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [device, domain, id, ..] = *words;
        Some(Self { device: address_from_word(device)?, domain, id: id.try_into().ok()? })
    }
}

/// How many daemons have had this ledger before. Numbers that each of them gives out lie apart from those of all before:
/// what was given back is not in the ledger any more, and is not to be somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord(pub u32);

impl EpochRecord {
    /// The number before the first that a daemon gives out.
    pub const fn before_first(self) -> u64 {
        (self.0 as u64) << 32
    }
}

impl Record for EpochRecord {
    const KIND: u64 = 4;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        words([self.0.into()])
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        Some(Self(words[0].try_into().ok()?))
    }
}

/// Memory that is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveRecord {
    /// For this device; `None`: for all.
    pub owner: Option<PciAddress>,
    /// The run that it is, all or a part of it.
    pub run: RunId,
    /// Where that is.
    pub place: RunPlace,
    /// Whether it is about to be given back, so that nothing more of it is given out.
    pub is_going: bool,
}

impl Record for ReserveRecord {
    const KIND: u64 = 5;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let owner = self.owner.map_or(0, |owner| address_word(owner) + 1);
        let mut words = words([owner, self.run.0]);
        words[2..2 + PLACE_WORDS].copy_from_slice(&self.place.0);
        words[2 + PLACE_WORDS] = self.is_going.into();
        words
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [owner, run, place @ ..] = words;
        let is_going = match words[2 + PLACE_WORDS] {
            0 => false,
            1 => true,
            _ => return None,
        };
        let owner = match owner.checked_sub(1) {
            Some(owner) => Some(address_from_word(owner)?),
            None => None,
        };
        let place = RunPlace(*place.first_chunk()?);
        Some(Self { owner, run: RunId(*run), place, is_going })
    }
}

/// A record's first words; the rest is zero.
pub fn words<const N: usize>(first: [u64; N]) -> [u64; RECORD_WORDS] {
    let mut words = [0; RECORD_WORDS];
    for (word, value) in words.iter_mut().zip(first) {
        *word = value;
    }
    words
}

/// A PCI address as a word of a record: the segment in bits 31:16, the source-id in 15:0.
pub fn address_word(address: PciAddress) -> u64 {
    u64::from(address.segment()) << 16 | u64::from(address.source().get())
}

/// The PCI address that a word of a record is.
pub fn address_from_word(word: u64) -> Option<PciAddress> {
    let word = u32::try_from(word).ok()?;
    Some(PciAddress::from_source((word >> 16) as u16, SourceId::new(word as u16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> DomainRecord {
        DomainRecord {
            key: 7,
            root: PhysAddr::new(0x5000),
            levels: 4,
            abilities: Abilities {
                walks: Walks::AmdV1,
                depths: Depths::new([3, 4]),
                page_sizes: 0x20_1000,
                address_bits: 48,
                coherent: true,
                write_needs_read: false,
            },
            purpose: Purpose::Explicit,
            is_deferred: true,
            aperture: Some(IovaRange::new(Iova::new(0x10_0000), 0x2000)),
            made_for: [Some("0001:00:02.0".parse().unwrap()), None, None, None],
        }
    }

    #[test]
    fn records_lie_in_the_ledger_as_written_down() {
        let device: PciAddress = "0001:00:02.0".parse().unwrap();
        let attachment = AttachmentRecord { device, domain: 9, id: 3 };
        assert_eq!(attachment.to_words()[..4], [0x1_0010, 9, 3, 0]);
        assert_eq!(AttachmentRecord::from_words(&attachment.to_words()), Some(attachment));

        let domain = domain();
        let words = domain.to_words();
        assert_eq!(
            words[..8],
            [7, 0x5004, 0x1_0530_1802, 0x20_1000, 0x10_0000, 0x2000, 0x1_0011, 0]
        );
        assert_eq!(DomainRecord::from_words(&words), Some(domain));

        let base = PhysAddr::new(0xfed9_0000);
        let root = UnitRoot::Table(PhysAddr::new(0x6000));
        let unit = UnitRecord { base, segment: 1, root };
        assert_eq!(unit.to_words()[..5], [0xfed9_0000, 1, 0, 0, 0x6000]);
        assert_eq!(UnitRecord::from_words(&unit.to_words()), Some(unit));

        let segments = [0x20_0000, 0x40_0000].map(PhysAddr::new).to_vec();
        let root = UnitRoot::DeviceTable { segments, empty: PhysAddr::new(0x7000) };
        let unit = UnitRecord { base, segment: 0, root };
        let words = unit.to_words();
        assert_eq!(words[..7], [0xfed9_0000, 0, 2, 0x7000, 0x20_0000, 0x40_0000, 0]);
        assert_eq!(UnitRecord::from_words(&words), Some(unit));

        let place = RunPlace([9, 8, 7, 6, 5]);
        let reserve = ReserveRecord { owner: Some(device), run: RunId(3), place, is_going: false };
        assert_eq!(reserve.to_words()[..8], [0x1_0011, 3, 9, 8, 7, 6, 5, 0]);
        let going = ReserveRecord { is_going: true, ..reserve };
        assert_eq!(going.to_words()[7..9], [1, 0]);
        assert_eq!(ReserveRecord::from_words(&going.to_words()), Some(going));
        let nonsense = ReserveRecord::from_words(&super::words([0, 3, 9, 8, 7, 6, 5, 2]));
        assert_eq!(nonsense, None);
        assert_eq!(ReserveRecord::from_words(&reserve.to_words()), Some(reserve));
        assert_eq!(EpochRecord::from_words(&EpochRecord(2).to_words()), Some(EpochRecord(2)));
        assert_eq!(EpochRecord(2).before_first(), 0x2_0000_0000);
    }

    #[test]
    fn r5_words_that_are_no_record_are_none() {
        assert_eq!(AttachmentRecord::from_words(&words([1 << 32, 0, 0])), None);
        assert_eq!(AttachmentRecord::from_words(&words([0, 0, 0x1_0000])), None);
        assert_eq!(DomainRecord::from_words(&words([0, 0x5100])), None);
        for what in [3, 1 << 27, 4 << 32, 1 << 40] {
            assert_eq!(DomainRecord::from_words(&words([0, 0x5003, what])), None, "{what:#x}");
        }
        for count in [3, 9, 16] {
            assert_eq!(UnitRecord::from_words(&words([0, 0, count])), None);
        }
        assert_eq!(EpochRecord::from_words(&words([1 << 32])), None);
    }
}
