//! What drivers and `iommud` say to each other, over whatever carries it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`call`] | the calls on a handle: opcodes and their fixed little-endian structs |
//! | [`derive`](mod@derive) | the requests that make a new handle from one |
//! | [`domain`] | I/O address spaces that clients make |
//! | [`error`] | every way a request can fail, with its errno |
//! | [`event`] | what happened to a device |
//! | [`fault`] | what is said of a blocked access |
//! | [`handle`] | what a handle is told of itself, how handles are revoked, and devices reset |
//! | [`limit`] | which limit a request was refused by |
//! | [`path`] | the names under `/scheme/iommu/` |
//! | [`resume`](mod@resume) | how a client goes on after iommud was restarted |
//! | [`rights`] | what a handle allows |
//! | [`secret`] | what proves whose a session is |
//! | [`sim`] | the registers of a simulated device |
//! | [`ticket`] | how a request on one handle names what another grants |
//!
//! # Handles
//!
//! Everything is done through a handle, which is a descriptor of the operating system: on Redox a file
//! descriptor of the `iommu` scheme, on Linux a connected socket. It may be duplicated, inherited and
//! passed on, and when its last copy closes, what it held is given back (rule R4). There are three kinds
//! besides the text nodes: *devices*, each of which has a domain of its own, *domains* besides, and
//! *buffers*. A mapping is a buffer at an I/O address; it has no descriptor of its own.
//!
//! # Requests
//!
//! | request | on Redox | what it does |
//! | --- | --- | --- |
//! | open | `openat(root, path)` | opens a text node or a device; the caller's uid is judged here |
//! | derive | `dup(handle, bytes)` | makes a new handle from one: a buffer from a device, a weaker copy |
//! | call | `SYS_CALL` | one of [`call::Opcode`], with a payload that the answer overwrites |
//! | read | `read` | the text of a node |
//! | map | `mmap` | a buffer's memory in the caller's address space |
//! | supply | `SYS_CALL` with `FD` | gives a handle that waits for it its memory; see [`derive::Register`] |
//! | close | `close` | the end of everything the handle held |
//!
//! When iommud is restarted all handles are dead, and what they stood for waits: see [`resume`](mod@resume).
//!
//! A device's handle becomes readable when there are events to be read; see [`crate::event`].
//!
//! Structs are fixed in size and little-endian, reserved fields must be zero, and a request that fails
//! has changed nothing (rule R7). A client says [`call::Hello`] on a device handle before anything else.

/// Enums whose variants are numbers on the wire.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident: $number:ident { $($(#[$what:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($number)]
        pub enum $name {
            $($(#[$what])* $variant = $code,)*
        }

        impl TryFrom<$number> for $name {
            type Error = $crate::protocol::Error;

            /// [`BadValue`](crate::protocol::Error::BadValue) for a number that stands for nothing.
            fn try_from(number: $number) -> Result<Self, $crate::protocol::Error> {
                match number {
                    $($code => Ok(Self::$variant),)*
                    _ => Err($crate::protocol::Error::BadValue),
                }
            }
        }
    };
}

pub mod call;
pub mod derive;
pub mod domain;
pub mod error;
pub mod event;
pub mod fault;
pub mod handle;
pub mod limit;
pub mod path;
pub mod resume;
pub mod rights;
pub mod secret;
pub mod sim;
pub mod ticket;

pub use error::Error;
pub use rights::Rights;
pub use secret::Secret;
pub use ticket::Ticket;

/// The version of this protocol. Versions are compatible only if they are equal; the handshake exists
/// so that a mismatch is an answer and not a misread struct.
pub const VERSION: u32 = 3;

/// The most entries that one batch may have.
pub const MAX_BATCH: usize = 128;

/// The longest buffer that one request may ask for: 1 GiB, more than any device's rings and pools, and
/// little enough that a mistaken size is an answer and not the end of the machine's memory.
pub const MAX_BUFFER_BYTES: u64 = 1 << 30;
