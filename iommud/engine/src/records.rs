//! What the engine writes in the [ledger](crate::ledger).

use dma_types::{PciAddress, PhysAddr, SourceId};

use crate::ledger::{RECORD_WORDS, Record};

/// A unit that translates by our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRecord {
    /// Where its registers are.
    pub base: PhysAddr,
    /// Its segment.
    pub segment: u16,
    /// Its root table.
    pub root: PhysAddr,
}

impl Record for UnitRecord {
    const KIND: u64 = 1;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        words([self.base.get(), self.segment.into(), self.root.get()])
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [base, segment, root, ..] = *words;
        Some(Self {
            base: PhysAddr::new(base),
            segment: segment.try_into().ok()?,
            root: PhysAddr::new(root),
        })
    }
}

/// A domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainRecord {
    /// Its number.
    pub key: u64,
    /// The root of its page table.
    pub root: PhysAddr,
    /// How many levels its table has.
    pub levels: u8,
}

impl Record for DomainRecord {
    const KIND: u64 = 2;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        // In one word, for they change together when the table grows, and the daemon may die at any instant.
        words([self.key, self.root.get() | u64::from(self.levels)])
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [key, table, ..] = *words;
        let root = PhysAddr::new(table).page();
        Some(Self { key, root, levels: (table - root.get()).try_into().ok()? })
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

    #[test]
    fn records_lie_in_the_ledger_as_written_down() {
        let device: PciAddress = "0001:00:02.0".parse().unwrap();
        let attachment = AttachmentRecord { device, domain: 9, id: 3 };
        assert_eq!(attachment.to_words()[..4], [0x1_0010, 9, 3, 0]);
        assert_eq!(AttachmentRecord::from_words(&attachment.to_words()), Some(attachment));

        let domain = DomainRecord { key: 7, root: PhysAddr::new(0x5000), levels: 4 };
        assert_eq!(domain.to_words()[..4], [7, 0x5004, 0, 0]);
        assert_eq!(DomainRecord::from_words(&domain.to_words()), Some(domain));

        let base = PhysAddr::new(0xfed9_0000);
        let unit = UnitRecord { base, segment: 1, root: PhysAddr::new(0x6000) };
        assert_eq!(unit.to_words()[..4], [0xfed9_0000, 1, 0x6000, 0]);
        assert_eq!(UnitRecord::from_words(&unit.to_words()), Some(unit));
    }

    #[test]
    fn r5_words_that_are_no_record_are_none() {
        assert_eq!(AttachmentRecord::from_words(&words([1 << 32, 0, 0])), None);
        assert_eq!(AttachmentRecord::from_words(&words([0, 0, 0x1_0000])), None);
        assert_eq!(DomainRecord::from_words(&words([0, 0x5100])), None);
    }
}
