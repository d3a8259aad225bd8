//! Requests, taken out of their packets.

use libdma::Error;
use libdma::transport::packet::{Kind, RequestHeader};

/// A request, checked as far as the transport knows what is in it.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'p> {
    /// Open this path.
    Open(&'p str),
    /// Make a new handle, as these bytes say.
    Derive(&'p [u8]),
    /// Make this call.
    Call {
        /// The opcode.
        opcode: u64,
        /// Its payload, which the answer overwrites.
        payload: &'p mut [u8],
    },
    /// Read a text.
    Read {
        /// From here on.
        offset: u64,
    },
    /// Share a buffer's memory.
    Map {
        /// This much of it.
        bytes: u64,
        /// To be written.
        writable: bool,
    },
    /// Take the memory that came with the packet.
    Supply,
    /// Keep a socket for answers.
    Keep,
}

impl<'p> Request<'p> {
    /// The request in a packet.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCall`] for a kind that there is not, [`Error::NoSuchPath`] for a path that is no text,
    /// [`Error::ShortPayload`], and [`Error::BadValue`] for anything that should be zero, or absent.
    pub fn parse(header: &RequestHeader, payload: &'p mut [u8]) -> Result<Self, Error> {
        let kind = Kind::from_number(header.kind.get()).ok_or(Error::UnknownCall)?;
        let argument = header.argument.get();
        if header.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        match kind {
            Kind::Open | Kind::Derive | Kind::Supply | Kind::Keep if argument != 0 => {
                Err(Error::BadValue)
            }
            Kind::Open => str::from_utf8(payload).map(Self::Open).map_err(|_| Error::NoSuchPath),
            Kind::Derive => Ok(Self::Derive(payload)),
            Kind::Call => Ok(Self::Call { opcode: argument, payload }),
            Kind::Read if payload.is_empty() => Ok(Self::Read { offset: argument }),
            Kind::Read => Err(Error::BadValue),
            Kind::Map => {
                let writable = match payload {
                    [] => return Err(Error::ShortPayload),
                    [0] => false,
                    [1] => true,
                    _ => return Err(Error::BadValue),
                };
                Ok(Self::Map { bytes: argument, writable })
            }
            Kind::Supply if payload.is_empty() => Ok(Self::Supply),
            // One that is kept already is not kept again.
            Kind::Keep if payload.is_empty() && header.kept.get() == 0 => Ok(Self::Keep),
            Kind::Supply | Kind::Keep => Err(Error::BadValue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    fn parse<const N: usize>(
        header: [u8; 24],
        payload: &mut [u8; N],
    ) -> Result<Request<'_>, Error> {
        Request::parse(&RequestHeader::read_from_bytes(&header).unwrap(), payload)
    }

    fn header(kind: u8, argument: u8) -> [u8; 24] {
        let mut header = [0; 24];
        (header[0], header[8]) = (kind, argument);
        header
    }

    #[test]
    fn requests_are_what_their_packets_say() {
        assert_eq!(parse(header(1, 0), &mut { *b"units" }), Ok(Request::Open("units")));
        assert_eq!(parse(header(2, 0), &mut [1]), Ok(Request::Derive(&[1])));
        let call = Request::Call { opcode: 3, payload: &mut [7, 8] };
        assert_eq!(parse(header(3, 3), &mut [7, 8]), Ok(call));
        assert_eq!(parse(header(4, 9), &mut []), Ok(Request::Read { offset: 9 }));
        assert_eq!(parse(header(5, 64), &mut [1]), Ok(Request::Map { bytes: 64, writable: true }));
        assert_eq!(parse(header(5, 64), &mut [0]), Ok(Request::Map { bytes: 64, writable: false }));
        assert_eq!(parse(header(6, 0), &mut []), Ok(Request::Supply));
        assert_eq!(parse(header(7, 0), &mut []), Ok(Request::Keep));
    }

    #[test]
    fn r5_what_is_no_request_is_a_typed_error() {
        assert_eq!(parse(header(0, 0), &mut []), Err(Error::UnknownCall));
        assert_eq!(parse(header(8, 0), &mut []), Err(Error::UnknownCall));
        assert_eq!(parse(header(7, 1), &mut []), Err(Error::BadValue));
        assert_eq!(parse(header(7, 0), &mut [0]), Err(Error::BadValue));
        let mut kept = header(7, 0);
        kept[16] = 1;
        assert_eq!(parse(kept, &mut []), Err(Error::BadValue));
        assert_eq!(parse(header(6, 1), &mut []), Err(Error::BadValue));
        assert_eq!(parse(header(6, 0), &mut [0]), Err(Error::BadValue));
        assert_eq!(parse([0xff; 24], &mut [0xff]), Err(Error::UnknownCall));
        let mut reserved = header(1, 0);
        reserved[7] = 1;
        assert_eq!(parse(reserved, &mut { *b"units" }), Err(Error::BadValue));
        assert_eq!(parse(header(1, 1), &mut { *b"units" }), Err(Error::BadValue));
        assert_eq!(parse(header(1, 0), &mut { *b"\xff" }), Err(Error::NoSuchPath));
        assert_eq!(parse(header(2, 1), &mut [1]), Err(Error::BadValue));
        assert_eq!(parse(header(4, 0), &mut [0]), Err(Error::BadValue));
        assert_eq!(parse(header(5, 64), &mut []), Err(Error::ShortPayload));
        assert_eq!(parse(header(5, 64), &mut [2]), Err(Error::BadValue));
        assert_eq!(parse(header(5, 64), &mut [1, 1]), Err(Error::BadValue));
    }
}
