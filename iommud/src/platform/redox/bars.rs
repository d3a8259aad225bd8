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
//! back. An iommud that is started later, by hand or because the one before died, asks nobody and knows of no registers: drivers
//! have the channels then, or have left their devices with work to do, which mastering would set going again.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use dma_types::PciAddress;
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
    fn r5_an_answer_about_another_function_or_none_is_refused() {
        let mut bars = Bars::default();
        assert!(matches!(bars.learn(function(2), &mut Pcid::of(3)), Err(Error::Meaningless)));
        assert!(matches!(bars.learn(function(2), &mut Pcid(vec![0; 8])), Err(Error::Meaningless)));
        assert!(matches!(bars.learn(function(2), &mut Pcid(vec![1])), Err(Error::Channel(_))));
        assert_eq!([2, 3].map(|device| bars.get(function(device), 0)), [None, None]);
    }
}
