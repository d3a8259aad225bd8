//! What reports call a buffer.

use core::fmt;

use libdma::Error;

/// What reports call a buffer or a peer's BAR: up to 32 bytes of printable ASCII without runs of blanks, so that a report cannot be
/// made to say what it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label([u8; 32]);

impl Label {
    /// It as it is in requests and records, padded with zeroes.
    pub const fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// It as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        core::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl TryFrom<&[u8; 32]> for Label {
    type Error = Error;

    fn try_from(bytes: &[u8; 32]) -> Result<Self, Error> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let (text, padding) = bytes.split_at(end);
        let plain = text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        let runs = text.windows(2).any(|two| two == b"  ");
        if padding.iter().any(|byte| *byte != 0) || !plain || runs {
            return Err(Error::BadValue);
        }
        Ok(Self(*bytes))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn label(text: &[u8]) -> Result<Label, Error> {
        let mut bytes = [0; 32];
        bytes[..text.len()].copy_from_slice(text);
        Label::try_from(&bytes)
    }

    #[test]
    fn only_plain_text_is_a_label_and_it_is_told_as_it_was_given() {
        for text in ["", "rx", "tx ring 0", "a name of just thirty-two bytes."] {
            let label = label(text.as_bytes()).unwrap();
            assert_eq!((label.as_str(), label.to_string().as_str()), (text, text));
            assert_eq!(Label::try_from(&label.bytes()), Ok(label));
        }
        for text in [&b"two  blanks"[..], b"line\n", b"\x1b[2J", b"\xc3\xa9", b"a\0b", b"\xff"] {
            assert_eq!(label(text), Err(Error::BadValue), "{text:?}");
        }
    }
}
