//! Requests, taken out of their packets.

use libdma::Error;
use libdma::transport::packet::{Kind, Packet, RequestHeader};

/// A request, checked as far as the transport knows what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Open this path.
    Open(String),
    /// Make a new handle, as these bytes say.
    Derive(Vec<u8>),
    /// Make this call.
    Call {
        /// The opcode.
        opcode: u64,
        /// Its payload, which the answer overwrites.
        payload: Vec<u8>,
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
}

impl Request {
    /// The request in a packet.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCall`] for a kind that there is not, [`Error::NoSuchPath`] for a path that is no text,
    /// [`Error::ShortPayload`], and [`Error::BadValue`] for anything that should be zero, or absent.
    pub fn parse(packet: &mut Packet<RequestHeader>) -> Result<Self, Error> {
        let header = packet.header;
        let payload = core::mem::take(&mut packet.payload);
        let kind = Kind::from_number(header.kind.get()).ok_or(Error::UnknownCall)?;
        let argument = header.argument.get();
        if header.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        match kind {
            Kind::Open | Kind::Derive | Kind::Supply if argument != 0 => Err(Error::BadValue),
            Kind::Open => String::from_utf8(payload).map(Self::Open).map_err(|_| Error::NoSuchPath),
            Kind::Derive => Ok(Self::Derive(payload)),
            Kind::Call => Ok(Self::Call { opcode: argument, payload }),
            Kind::Read if payload.is_empty() => Ok(Self::Read { offset: argument }),
            Kind::Read => Err(Error::BadValue),
            Kind::Map => {
                let writable = match payload[..] {
                    [] => return Err(Error::ShortPayload),
                    [0] => false,
                    [1] => true,
                    _ => return Err(Error::BadValue),
                };
                Ok(Self::Map { bytes: argument, writable })
            }
            Kind::Supply if payload.is_empty() => Ok(Self::Supply),
            Kind::Supply => Err(Error::BadValue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    fn parse(header: [u8; 16], payload: &[u8]) -> Result<Request, Error> {
        let header = RequestHeader::read_from_bytes(&header).unwrap();
        Request::parse(&mut Packet {
            header,
            payload: payload.into(),
            descriptor: None,
            memory: None,
        })
    }

    fn header(kind: u8, argument: u8) -> [u8; 16] {
        [kind, 0, 0, 0, 0, 0, 0, 0, argument, 0, 0, 0, 0, 0, 0, 0]
    }

    #[test]
    fn requests_are_what_their_packets_say() {
        assert_eq!(parse(header(1, 0), b"units"), Ok(Request::Open("units".into())));
        assert_eq!(parse(header(2, 0), &[1]), Ok(Request::Derive(vec![1])));
        let call = Request::Call { opcode: 3, payload: vec![7, 8] };
        assert_eq!(parse(header(3, 3), &[7, 8]), Ok(call));
        assert_eq!(parse(header(4, 9), &[]), Ok(Request::Read { offset: 9 }));
        assert_eq!(parse(header(5, 64), &[1]), Ok(Request::Map { bytes: 64, writable: true }));
        assert_eq!(parse(header(5, 64), &[0]), Ok(Request::Map { bytes: 64, writable: false }));
        assert_eq!(parse(header(6, 0), &[]), Ok(Request::Supply));
    }

    #[test]
    fn r5_what_is_no_request_is_a_typed_error() {
        assert_eq!(parse(header(0, 0), &[]), Err(Error::UnknownCall));
        assert_eq!(parse(header(7, 0), &[]), Err(Error::UnknownCall));
        assert_eq!(parse(header(6, 1), &[]), Err(Error::BadValue));
        assert_eq!(parse(header(6, 0), &[0]), Err(Error::BadValue));
        assert_eq!(parse([0xff; 16], &[0xff]), Err(Error::UnknownCall));
        let mut reserved = header(1, 0);
        reserved[7] = 1;
        assert_eq!(parse(reserved, b"units"), Err(Error::BadValue));
        assert_eq!(parse(header(1, 1), b"units"), Err(Error::BadValue));
        assert_eq!(parse(header(1, 0), b"\xff"), Err(Error::NoSuchPath));
        assert_eq!(parse(header(2, 1), &[1]), Err(Error::BadValue));
        assert_eq!(parse(header(4, 0), &[0]), Err(Error::BadValue));
        assert_eq!(parse(header(5, 64), &[]), Err(Error::ShortPayload));
        assert_eq!(parse(header(5, 64), &[2]), Err(Error::BadValue));
        assert_eq!(parse(header(5, 64), &[1, 1]), Err(Error::BadValue));
    }
}
