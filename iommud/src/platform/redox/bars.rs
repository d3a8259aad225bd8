//! Where functions' registers are, and how far they go.
//!
//! How long a BAR is can only be found out by writing to it (PCI Local Bus 3.0, 6.2.5.1), and while that is done the
//! registers are elsewhere: a driver that is at work loses them, and so does a framebuffer in which somebody draws. And
//! who can write to the function at that moment, as its driver can by way of pcid, decides what is found. So nothing is
//! written here. pcid has found it out when it started, before there was any driver, and tells it to whoever has the
//! function's channel (base 9e128703, `drivers/pcid/src/main.rs`: `handle_parsed_header`).
//!
//! A channel is one process's at a time, and opening it turns the function's mastering on (`enable_function`). So pcid is
//! asked once, when init starts iommud: nobody has driven a function by then, every one is denied already where there is
//! an IOMMU, and pcid-spawner will open each channel as well, next. What the function's command register was is put
//! back. An iommud that is started later asks nobody: drivers have the channels then, or have left their devices with work
//! to do, which mastering would set going again. One that comes after one that died knows what that one was told: it is written
//! down in the memory object. One that is started by hand knows of no registers.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::io::{Read, Write};

use dma_types::{PciAddress, PhysAddr, SourceId};
use iommu_engine::platform::Segment;
use pcid_channel::config::BARS;
use pcid_channel::{Error, ask};

/// What is known of functions' memory BARs.
#[derive(Debug, Default)]
pub struct Bars(BTreeMap<PciAddress, [Option<Segment>; BARS]>);

impl Bars {
    /// Asks pcid of a function, whose channel this is.
    ///
    /// # Errors
    ///
    /// Those of the channel; [`Error::Meaningless`] if it is another function's. Nothing is known of it then.
    pub fn learn(
        &mut self,
        function: PciAddress,
        channel: &mut (impl Read + Write),
    ) -> Result<(), Error> {
        let config = ask(channel)?;
        if config.address != function {
            return Err(Error::Meaningless);
        }
        let bars =
            config.bars.map(|bar| bar.map(|it| Segment { start: it.start, bytes: it.bytes }));
        self.0.insert(function, bars);
        Ok(())
    }

    /// Where the memory BAR of this number was before there were drivers, and how long it is.
    pub fn get(&self, function: PciAddress, number: u8) -> Option<Segment> {
        *self.0.get(&function)?.get(usize::from(number))?
    }
}

/// How many words a BAR takes: whose and which it is, where it starts, its length.
const WORDS: usize = 3;

impl Bars {
    /// Writes all of it down, as far as there is room: for [`read`](Self::read).
    pub fn write(&self, words: &[AtomicU64]) {
        let Some((count, words)) = words.split_first() else { return };
        let bars = self.0.iter().flat_map(|(function, bars)| {
            let numbered = bars.iter().zip(0..);
            numbered.filter_map(|(bar, number)| Some((key(*function, number), (*bar)?)))
        });
        let mut written = 0;
        for ((key, bar), entry) in bars.zip(words.chunks_exact(WORDS)) {
            for (word, value) in entry.iter().zip([key, bar.start.get(), bar.bytes]) {
                word.store(value, Ordering::Relaxed);
            }
            written += 1;
        }
        // Last, so that nobody finds what is not all there.
        count.store(written, Ordering::Release);
    }

    /// What was written down; nothing if it makes no sense.
    pub fn read(words: &[AtomicU64]) -> Self {
        Self::try_read(words).unwrap_or_default()
    }

    fn try_read(words: &[AtomicU64]) -> Option<Self> {
        let (count, words) = words.split_first()?;
        let count = usize::try_from(count.load(Ordering::Acquire)).ok()?;
        let mut entries = words.chunks_exact(WORDS);
        let mut bars = Self::default();
        for _ in 0..count {
            let [key, start, bytes] = entries.next()? else { return None };
            let [key, start, bytes] = [key, start, bytes].map(|word| word.load(Ordering::Relaxed));
            // A BAR lies at a multiple of its length, which is a power of two (PCI Local Bus 3.0, 6.2.5.1).
            let is_aligned = bytes.is_power_of_two() && start.is_multiple_of(bytes);
            if !is_aligned || bytes < MIN_BYTES || start.checked_add(bytes).is_none() {
                return None;
            }
            let segment = Segment { start: PhysAddr::new(start), bytes };
            let number = usize::try_from(key & 0xff).ok()?;
            let slot = bars.0.entry(function_of(key)?).or_default().get_mut(number)?;
            if slot.replace(segment).is_some() {
                return None;
            }
        }
        Some(bars)
    }
}

/// The least that registers in memory take up.
const MIN_BYTES: u64 = 16;

/// A BAR's first word: segment, source-id and number.
fn key(function: PciAddress, number: u64) -> u64 {
    u64::from(function.segment()) << 32 | u64::from(function.source().get()) << 16 | number
}

fn function_of(key: u64) -> Option<PciAddress> {
    let segment = u16::try_from(key >> 32).ok()?;
    Some(PciAddress::from_source(segment, SourceId::new((key >> 16) as u16)))
}

#[cfg(test)]
mod tests {
    use std::io;

    use dma_types::PhysAddr;

    use super::*;

    /// A channel that gives this answer to whatever it is asked.
    struct Pcid(Vec<u8>);

    impl Pcid {
        /// Of function 00:`device`.0, with a BAR of 1 MiB at 0xfea00000, ports, 16 KiB in 64 bits, whose second half is no
        /// BAR, and two that are none.
        fn of(device: u8) -> Self {
            let mut answer = vec![1, 0, 0, 0, 0, 0, 0, device, 0];
            answer.extend([1, 0, 0, 0, 0, 0, 0xa0, 0xfe, 0, 0, 0x10, 0]);
            answer.extend([3, 0, 0, 0, 0, 0xc0]);
            answer.extend([2, 0, 0, 0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0]);
            answer.extend([0; 12]);
            Self([&(answer.len() as u64).to_le_bytes()[..], &answer].concat())
        }
    }

    impl Read for Pcid {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let bytes = self.0.as_slice().read(out)?;
            self.0.drain(..bytes);
            Ok(bytes)
        }
    }

    impl Write for Pcid {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn function(device: u8) -> PciAddress {
        PciAddress::new(0, 0, device, 0).unwrap()
    }

    #[test]
    fn what_pcid_tells_is_known_and_nothing_else() {
        let mut bars = Bars::default();
        bars.learn(function(2), &mut Pcid::of(2)).unwrap();
        let segment = |start, bytes| Some(Segment { start: PhysAddr::new(start), bytes });
        let found = [0, 1, 2, 3, 4, 5, 6, 255].map(|number| bars.get(function(2), number));
        let (first, wide) = (segment(0xfea0_0000, 1 << 20), segment(0x1_0000_8000, 16 << 10));
        assert_eq!(found, [first, None, wide, None, None, None, None, None]);
        assert_eq!(bars.get(function(3), 0), None);
    }

    #[test]
    fn what_is_known_is_known_to_a_successor_as_far_as_there_was_room() {
        let mut bars = Bars::default();
        for device in [2, 31] {
            bars.learn(function(device), &mut Pcid::of(device)).unwrap();
        }
        let words: Vec<_> = (0..64).map(|_| AtomicU64::new(u64::MAX)).collect();
        bars.write(&words);
        assert_eq!(Bars::read(&words).0, bars.0);
        assert_eq!(words[0].load(Ordering::Relaxed), 4);
        bars.write(&words[..WORDS * 3]);
        let some = Bars::read(&words[..WORDS * 3]);
        assert_eq!(some.get(function(2), 2), bars.get(function(2), 2));
        assert_eq!(some.get(function(31), 0), None);
        Bars::default().write(&words);
        assert!(Bars::read(&words).0.is_empty());
        bars.write(&[]);
        assert!(Bars::read(&[]).0.is_empty());
    }

    #[test]
    fn r5_what_was_written_down_and_makes_no_sense_is_not_known() {
        let good = [1, 2 << 19, 0xfea0_0000, 1 << 20];
        let read = |words: [u64; 4]| Bars::read(&words.map(AtomicU64::new));
        assert_eq!(read(good).get(function(2), 0).map(|it| it.bytes), Some(1 << 20));
        for (word, value) in [
            (0, 2),
            (0, u64::MAX),
            (1, good[1] + BARS as u64),
            (1, 1 << 48),
            (2, 0xfea0_1000),
            (2, u64::MAX - (1 << 20) + 1),
            (3, 0),
            (3, 8),
            (3, 3 << 20),
        ] {
            let mut words = good;
            words[word] = value;
            assert!(read(words).0.is_empty(), "{words:x?}");
        }
        let of_another_segment = [good[0], good[1] | 1 << 32, good[2], good[3]];
        let another = PciAddress::new(1, 0, 2, 0).unwrap();
        assert!(read(of_another_segment).get(another, 0).is_some());
        let mut known = Bars::default();
        known.0.insert(another, [read(good).get(function(2), 0); BARS]);
        let words = [const { AtomicU64::new(0) }; 32];
        known.write(&words);
        assert_eq!(Bars::read(&words).0, known.0);
        // The same BAR twice.
        let twice = [2, good[1], good[2], good[3], good[1], good[2], good[3]];
        assert!(Bars::read(&twice.map(AtomicU64::new)).0.is_empty());
    }

    #[test]
    fn r5_an_answer_about_another_function_or_none_is_refused() {
        let mut bars = Bars::default();
        assert!(matches!(bars.learn(function(2), &mut Pcid::of(3)), Err(Error::Meaningless)));
        assert!(matches!(bars.learn(function(2), &mut Pcid(vec![0; 8])), Err(Error::Meaningless)));
        assert!(matches!(bars.learn(function(2), &mut Pcid(vec![1])), Err(Error::Channel(_))));
        assert_eq!([2, 3].map(|device| bars.get(function(device), 0)), [None, None]);
    }
}
