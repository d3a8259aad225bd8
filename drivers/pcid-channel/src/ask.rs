//! Requests and their answers.

use std::io::{Read, Write};

use crate::config::{Config, REQUEST_CONFIG, parse_word, request_word};
use crate::error::Error;

/// The longest answer that base's own drivers take (`driver_interface/mod.rs`, `recv`).
const LONGEST: u64 = 0x10_0000;

/// Asks which function the channel is for. The answer is read whole, so that the next to use the channel finds it
/// as it was.
///
/// # Errors
///
/// [`Error`].
pub fn ask(channel: &mut (impl Read + Write)) -> Result<Config, Error> {
    Config::parse(&exchange(channel, &REQUEST_CONFIG)?).ok_or(Error::Meaningless)
}

/// Asks for the word of the function's configuration space at an offset.
///
/// # Errors
///
/// [`Error`].
pub fn read_config(channel: &mut (impl Read + Write), offset: u16) -> Result<u32, Error> {
    parse_word(&exchange(channel, &request_word(offset))?).ok_or(Error::Meaningless)
}

/// Sends a request and reads its answer.
fn exchange(channel: &mut (impl Read + Write), request: &[u8]) -> Result<Vec<u8>, Error> {
    channel.write_all(request)?;
    let mut length = [0; 8];
    channel.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST {
        return Err(Error::TooLong(length));
    }
    let mut answer = Vec::new();
    if channel.take(length).read_to_end(&mut answer)? as u64 != length {
        return Err(Error::Meaningless);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A channel that answers one request, and is out of step if the answer is not read to its end.
    struct Pcid {
        answer: Vec<u8>,
        read: usize,
        asked: Vec<u8>,
    }

    impl Pcid {
        fn answering(length: u64, answer: &[u8]) -> Self {
            let answer = [&length.to_le_bytes()[..], answer].concat();
            Self { answer, read: 0, asked: Vec::new() }
        }
    }

    impl Write for Pcid {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Pcid {
        /// In pieces, as a scheme may.
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let left = &self.answer[self.read..];
            let bytes = left.len().min(out.len()).min(7);
            out[..bytes].copy_from_slice(&left[..bytes]);
            self.read += bytes;
            Ok(bytes)
        }
    }

    /// Function 00:03.0 with no BARs, and what follows those, which nothing here looks at.
    fn config() -> Vec<u8> {
        let mut config = vec![1, 0, 0, 0, 0, 0, 0, 3, 0];
        config.extend([0; 24 + 30]);
        config
    }

    #[test]
    fn the_answer_is_read_to_its_end() {
        let config = config();
        let mut pcid = Pcid::answering(config.len() as u64, &config);
        assert_eq!(ask(&mut pcid).unwrap().address.to_string(), "0000:00:03.0");
        assert_eq!((pcid.read, pcid.asked), (pcid.answer.len(), REQUEST_CONFIG.to_vec()));
    }

    #[test]
    fn r5_answers_that_lie_about_their_length_are_errors() {
        for (length, is_too_long) in [(u64::MAX, true), (LONGEST + 1, true), (LONGEST, false)] {
            let refused = ask(&mut Pcid::answering(length, &config())).unwrap_err();
            assert_eq!(matches!(refused, Error::TooLong(_)), is_too_long, "{refused}");
        }
        assert!(matches!(ask(&mut Pcid::answering(0, &[])), Err(Error::Meaningless)));
        let mut silent = Pcid { answer: vec![1, 2, 3], read: 0, asked: Vec::new() };
        assert!(matches!(ask(&mut silent), Err(Error::Channel(_))));
    }
}
