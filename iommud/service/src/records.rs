//! What the service writes in the [ledger](iommu_engine::ledger).

use alloc::vec::Vec;
use core::time::Duration;

use dma_types::{Access, CacheType, Iova, PciAddress, PhysAddr};
use iommu_engine::iova::IovaRange;
use iommu_engine::ledger::{RECORD_WORDS, Record};
use iommu_engine::pci::reset::{MOST_SAVED, ResetBy, Saved};
use iommu_engine::platform::{PLACE_WORDS, RunId, RunPlace, Segment};
use iommu_engine::records::{address_from_word, address_word, words};
use libdma::protocol::call::{access_code, access_from_code, cache_code, cache_from_code};
use libdma::protocol::{Rights, Secret};

use crate::memory::peer_bars::PeerBarId;
use crate::sessions::session::{BufferId, SessionId};

/// A session, with the secret that proves whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its number.
    pub session: SessionId,
    /// Its device.
    pub device: PciAddress,
    /// The number of its domain.
    pub domain: u64,
    /// Which session of the device it is.
    pub generation: u64,
    /// Who opened it.
    pub uid: u32,
    /// Its secret.
    pub secret: Secret,
}

impl Record for SessionRecord {
    const KIND: u64 = 0x11;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let secret = u128::from_le_bytes(self.secret.0);
        words([
            self.session.0,
            address_word(self.device),
            self.domain,
            self.generation,
            self.uid.into(),
            secret as u64,
            (secret >> 64) as u64,
        ])
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [session, device, domain, generation, uid, low, high, ..] = *words;
        Some(Self {
            session: SessionId(session),
            device: address_from_word(device)?,
            domain,
            generation,
            uid: uid.try_into().ok()?,
            secret: Secret((u128::from(high) << 64 | u128::from(low)).to_le_bytes()),
        })
    }
}

/// A buffer. It is written down until its memory is free, which may be after the record of its session has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferRecord {
    /// Its number.
    pub buffer: BufferId,
    /// Its session.
    pub session: SessionId,
    /// Its memory.
    pub run: RunId,
    /// Its length.
    pub bytes: u64,
    /// How it was mapped when it was made. Other mappings are found in the page tables.
    pub first: Option<(Iova, Access)>,
    /// The rights that its first handle had.
    pub rights: Rights,
    /// The most that the device may do with it, if anything.
    pub allowed: Option<Access>,
    /// How CPUs cache it.
    pub cache: CacheType,
    /// What reports call it, as in the request.
    pub label: [u8; 32],
    /// Where its memory is, if a successor will have it.
    pub place: Option<RunPlace>,
    /// Whether all handles to it were revoked.
    pub is_revoked: bool,
    /// Whether its mapping, if it has one, is strict, and its only one: see `strict`.
    pub is_strict: bool,
}

impl Record for BufferRecord {
    const KIND: u64 = 0x12;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let (iova, access) =
            self.first.map_or((0, 0), |(iova, access)| (iova.get(), access_code(access)));
        let codes = u64::from(access)
            | u64::from(self.allowed.map_or(0, access_code)) << 8
            | u64::from(cache_code(self.cache)) << 16
            | u64::from(self.place.is_some()) << 24
            | u64::from(self.is_revoked) << 25
            | u64::from(self.is_strict) << 26
            | u64::from(self.rights.bits()) << 32;
        let mut words = words([self.buffer.0, self.session.0, self.run.0, self.bytes, iova, codes]);
        for (word, bytes) in words[6..].iter_mut().zip(self.label.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let place = self.place.map_or([0; PLACE_WORDS], |place| place.0);
        for (word, place) in words[10..].iter_mut().zip(place) {
            *word = place;
        }
        words
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [buffer, session, run, bytes, iova, codes, ..] = *words;
        let [access, allowed, cache, flags, rights @ ..] = codes.to_le_bytes();
        let first = access_or_none(access)?.map(|access| (Iova::new(iova), access));
        let place = RunPlace(*words[10..].first_chunk()?);
        if flags > 7 {
            return None;
        }
        let place = (flags & 1 != 0).then_some(place);
        let mut label = [0; 32];
        for (bytes, word) in label.as_chunks_mut().0.iter_mut().zip(&words[6..]) {
            *bytes = word.to_le_bytes();
        }
        Some(Self {
            buffer: BufferId(buffer),
            session: SessionId(session),
            run: RunId(run),
            bytes,
            first,
            rights: Rights::from_bits(u32::from_le_bytes(rights))?,
            allowed: access_or_none(allowed)?,
            cache: cache_from_code(cache.into()).ok()?,
            label,
            place,
            is_revoked: flags & 2 != 0,
            is_strict: flags & 4 != 0,
        })
    }
}

/// What a code stands for that is zero for nothing. `None` if that is nothing at all.
fn access_or_none(code: u8) -> Option<Option<Access>> {
    match code {
        0 => Some(None),
        code => access_from_code(code.into()).ok().map(Some),
    }
}

/// A part of one device's BAR in the domain of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerBarRecord {
    /// Its number.
    pub peer_bar: PeerBarId,
    /// The session whose device reaches it.
    pub session: SessionId,
    /// The session whose device it is of.
    pub of_session: SessionId,
    /// Where the registers are.
    pub place: Segment,
    /// Where they are mapped.
    pub iova: Iova,
    /// What the device may do.
    pub access: Access,
    /// Of which BAR they are.
    pub bar: u8,
    /// Where in that they start.
    pub offset: u64,
    /// What reports call it, as in the request.
    pub label: [u8; 32],
}

impl Record for PeerBarRecord {
    const KIND: u64 = 0x14;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let (start, bytes) = (self.place.start.get(), self.place.bytes);
        let mut words = words([
            self.peer_bar.0,
            self.session.0,
            self.of_session.0,
            start,
            bytes,
            self.iova.get(),
            access_code(self.access).into(),
            self.bar.into(),
            self.offset,
        ]);
        for (word, bytes) in words[9..].iter_mut().zip(self.label.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [peer_bar, session, of_session, start, bytes, iova, access, bar, offset, ..] = *words;
        let mut label = [0; 32];
        for (bytes, word) in label.as_chunks_mut().0.iter_mut().zip(&words[9..]) {
            *bytes = word.to_le_bytes();
        }
        Some(Self {
            peer_bar: PeerBarId(peer_bar),
            session: SessionId(session),
            of_session: SessionId(of_session),
            place: Segment { start: PhysAddr::new(start), bytes },
            iova: Iova::new(iova),
            access: access_from_code(access.try_into().ok()?).ok()?,
            bar: bar.try_into().ok()?,
            offset,
            label,
        })
    }
}

/// A domain that a client has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplicitRecord {
    /// Its number. Its tables are in the engine's record of it, and which devices are in it in theirs.
    pub domain: u64,
    /// The session that it belongs to.
    pub session: SessionId,
    /// Its aperture.
    pub aperture: IovaRange,
    /// What reports call it, as in the request.
    pub label: [u8; 32],
}

impl Record for ExplicitRecord {
    const KIND: u64 = 0x13;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let IovaRange { start, bytes } = self.aperture;
        let mut words = words([self.domain, self.session.0, start.get(), bytes]);
        for (word, bytes) in words[4..].iter_mut().zip(self.label.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [domain, session, start, bytes, ..] = *words;
        let aperture = IovaRange::new(Iova::new(start), bytes);
        aperture.last()?;
        let mut label = [0; 32];
        for (bytes, word) in label.as_chunks_mut().0.iter_mut().zip(&words[4..]) {
            *bytes = word.to_le_bytes();
        }
        Some(Self { domain, session: SessionId(session), aperture, label })
    }
}

/// A function in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineRecord {
    /// The function.
    pub device: PciAddress,
    /// Whether it mastered the bus before.
    pub was_master: bool,
    /// Who signed the accesses for which it is there.
    pub requester: PciAddress,
    /// How many they were.
    pub faults: u32,
    /// Within which time, of which half a thousand years can be written down.
    pub within: Duration,
}

impl Record for QuarantineRecord {
    const KIND: u64 = 0x18;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let within = u64::try_from(self.within.as_nanos()).unwrap_or(u64::MAX);
        words([
            address_word(self.device),
            self.was_master.into(),
            address_word(self.requester),
            self.faults.into(),
            within,
        ])
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [device, was_master, requester, faults, within, ..] = *words;
        Some(Self {
            device: address_from_word(device)?,
            was_master: match was_master {
                0 => false,
                1 => true,
                _ => return None,
            },
            requester: address_from_word(requester)?,
            faults: faults.try_into().ok()?,
            within: Duration::from_nanos(within),
        })
    }
}

/// A function that is being reset. It is written down before anything of that is done, until all is put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetRecord {
    /// The function.
    pub device: PciAddress,
    /// What it is reset by.
    pub by: ResetBy,
    /// What is put back.
    pub saved: Saved,
}

/// How many words what is put back has, of two registers each.
const SAVED_WORDS: usize = MOST_SAVED.div_ceil(2);

impl Record for ResetRecord {
    const KIND: u64 = 0x19;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        let mut words = words([address_word(self.device), self.by.to_word()]);
        for (index, dword) in self.saved.values().enumerate() {
            words[2 + index / 2] |= u64::from(dword) << (32 * (index % 2));
        }
        words
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [device, by, ..] = *words;
        let by = ResetBy::from_word(by)?;
        let saved: [u64; SAVED_WORDS] = *words[2..].first_chunk()?;
        let values: Vec<u32> =
            saved.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).collect();
        let saved = Saved::from_values(by, &values)?;
        Some(Self { device: address_from_word(device)?, by, saved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_their_words() {
        let session = SessionRecord {
            session: SessionId(3),
            device: "0000:00:02.0".parse().unwrap(),
            domain: 5,
            generation: 2,
            uid: 0,
            secret: Secret(*b"0123456789abcdef"),
        };
        let words = session.to_words();
        assert_eq!(words[..5], [3, 0x10, 5, 2, 0]);
        assert_eq!(words[5].to_le_bytes(), *b"01234567");
        assert_eq!(SessionRecord::from_words(&words), Some(session));

        let buffer = BufferRecord {
            buffer: BufferId(9),
            session: SessionId(3),
            run: RunId(4),
            bytes: 0x2000,
            first: Some((Iova::new(0x1_0000), Access::Write)),
            rights: Rights::READ | Rights::INSPECT,
            allowed: Some(Access::ReadWrite),
            cache: CacheType::WriteBack,
            label: *b"ring\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0!",
            place: Some(RunPlace([11, 12, 13, 14, 15])),
            is_revoked: false,
            is_strict: false,
        };
        let words = buffer.to_words();
        assert_eq!(
            words[..7],
            [9, 3, 4, 0x2000, 0x1_0000, 0x14_0100_0302, u64::from_le_bytes(*b"ring\0\0\0\0")]
        );
        assert_eq!(words[10..], [11, 12, 13, 14, 15]);
        assert_eq!(BufferRecord::from_words(&words), Some(buffer));
        let buffer = BufferRecord { place: None, is_revoked: true, ..buffer };
        let words = buffer.to_words();
        assert_eq!((words[5], words[10]), (0x14_0200_0302, 0));
        assert_eq!(BufferRecord::from_words(&words), Some(buffer));
        let strict = BufferRecord { is_strict: true, ..buffer };
        assert_eq!(strict.to_words()[5], 0x14_0600_0302);
        assert_eq!(BufferRecord::from_words(&strict.to_words()), Some(strict));

        let peer_bar = PeerBarRecord {
            peer_bar: PeerBarId(6),
            session: SessionId(3),
            of_session: SessionId(2),
            place: Segment { start: PhysAddr::new(0xfea0_0000), bytes: 0x1000 },
            iova: Iova::new(0x1_0000),
            access: Access::Write,
            bar: 2,
            offset: 0x3000,
            label: *b"doorbell\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0!",
        };
        let words = peer_bar.to_words();
        assert_eq!(words[..9], [6, 3, 2, 0xfea0_0000, 0x1000, 0x1_0000, 2, 2, 0x3000]);
        assert_eq!(PeerBarRecord::from_words(&words), Some(peer_bar));
    }

    #[test]
    fn a_domain_comes_back_from_its_words() {
        let domain = ExplicitRecord {
            domain: 4,
            session: SessionId(3),
            aperture: IovaRange::new(Iova::new(0x10_0000), 0x2000),
            label: *b"shared\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0!",
        };
        let words = domain.to_words();
        assert_eq!(words[..5], [4, 3, 0x10_0000, 0x2000, u64::from_le_bytes(*b"shared\0\0")]);
        assert_eq!(words[7].to_le_bytes()[7], b'!');
        assert_eq!(ExplicitRecord::from_words(&words), Some(domain));
    }

    #[test]
    fn a_quarantine_comes_back_from_its_words() {
        let record = QuarantineRecord {
            device: "0000:00:02.0".parse().unwrap(),
            was_master: true,
            requester: "0001:00:01.0".parse().unwrap(),
            faults: 32,
            within: Duration::from_secs(1),
        };
        let words = record.to_words();
        assert_eq!(words[..6], [0x10, 1, 0x1_0008, 32, 1_000_000_000, 0]);
        assert_eq!(QuarantineRecord::from_words(&words), Some(record));
    }

    /// A reset by PCI Express: BAR 0, the interrupt's line, Device Control and the command register.
    const RESET: [u64; 8] =
        [0x10, 0x10_0050, 0xfea0_0000_0000_0010, 0, 0, 0, 0x0020_2810_0000_010b, 0x0000_0003];

    #[test]
    fn a_reset_comes_back_from_its_words() {
        let record = ResetRecord::from_words(&words(RESET)).unwrap();
        let device = "0000:00:02.0".parse().unwrap();
        assert_eq!((record.device, record.by), (device, ResetBy::Express(0x50)));
        assert_eq!(record.to_words(), words(RESET));
        // By Advanced Features a register less is put back.
        let less = [0x10, 0x13_0060, 0, 0, 0, 0, 0x0000_0003_0000_010b, 0];
        let record = ResetRecord::from_words(&words(less)).unwrap();
        assert_eq!((record.by, record.to_words()), (ResetBy::AdvancedFeatures(0x60), words(less)));
        let more = [0x10, 0x13_0060, 0, 0, 0, 0, 0, 3];
        assert_eq!(ResetRecord::from_words(&words(more)), None);
    }

    #[test]
    fn r5_a_reset_that_would_do_more_than_put_back_is_none() {
        // Bus mastering, ones that clear a status, another reset, a function or a capability that there cannot be.
        for (word, bit) in
            [(7, 2), (7, 31), (7, 32), (6, 47), (6, 48), (0, 32), (1, 32), (1, 1), (1, 16)]
        {
            let mut spoilt = words(RESET);
            spoilt[word] |= 1 << bit;
            assert_eq!(ResetRecord::from_words(&spoilt), None, "{word} {bit}");
        }
        let mut spoilt = words(RESET);
        spoilt[1] = 0x10_003c;
        assert_eq!(ResetRecord::from_words(&spoilt), None);
    }

    #[test]
    fn r5_words_that_are_no_record_are_none() {
        assert_eq!(QuarantineRecord::from_words(&words([0, 2])), None);
        for codes in [4, 4 << 8, 9 << 16, 8 << 24, 1 << 63] {
            assert_eq!(BufferRecord::from_words(&words([0, 0, 0, 0, 0, codes])), None);
        }
        assert_eq!(SessionRecord::from_words(&words([0, 1 << 40])), None);
        assert_eq!(PeerBarRecord::from_words(&words([0; 7])), None);
        assert_eq!(ExplicitRecord::from_words(&words([1, 1, u64::MAX, 2])), None);
        assert_eq!(ExplicitRecord::from_words(&words([1, 1, 0, 0])), None);
    }
}
