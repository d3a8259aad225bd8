//! How a driver goes on when iommud was restarted.
//!
//! When iommud dies its devices reach what they reached, and memory that this process has mapped stays where it is. Pools,
//! windows and streams in windows ask iommud nothing, and notice nothing. The first request that finds iommud gone waits for
//! its successor, [resumes](crate::protocol::resume) the session by its secret, has a new handle to everything that this
//! process holds, and is made again: to the driver it has taken long, and nothing else.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `link` | [`Link`]: one session's way to iommud, over restarts |
//! | `mappings` | what was mapped by this process, as far as it was told |
//! | `place` | [`Place`]: where a handle's number is |
//! | `under_way` | [`UnderWay`]: a request that is under way, and what is noted at its end |
//!
//! # Requests that were under way
//!
//! Whether the iommud that died had done what it did not answer, nobody says. So a request is not just made again:
//!
//! - What makes something new (a buffer, a domain, an attachment) is made anew. What the dead one may have made has no
//!   handle, is not reclaimed, and is given up by [`Opcode::EndResume`](crate::protocol::call::Opcode::EndResume).
//! - What was to be mapped, and may have been in part, is looked for by
//!   [`Opcode::Next`](crate::protocol::call::Opcode::Next): what is mapped of those pieces at an address that this process was
//!   never told is unmapped. Then all of it is mapped anew.
//! - What was to be unmapped is looked up, and what is mapped still is unmapped.
//! - A device that was to enter a domain or to leave it may be there already, which is as well.
//!
//! Who is under way when the session is to be resumed is waited for, but not for good. Who comes back later is late: what it
//! made is made anew, and what it mapped is taken back and mapped anew, for the session was resumed without them.
//!
//! So whatever the driver asks for is done as a whole or not at all (rule R7), as it sees it.

mod link;
mod mappings;
mod place;
mod under_way;

pub(crate) use link::{Failed, Kept, Link, Lost};
pub(crate) use mappings::Piece;
pub(crate) use place::{Open, Place};
pub(crate) use under_way::UnderWay;
