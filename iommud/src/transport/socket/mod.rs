//! The transport on Linux: a handle is a connected `SOCK_SEQPACKET` socket.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`server`] | [`Server`]: the loop, and what comes and goes in it |
//! | [`serve`] | what each request does |
//! | [`request`] | requests, taken out of their packets |
//! | [`reply`] | answers, and the handles that go with them |
//! | [`endpoint`] | the daemon's ends of clients' handles |
//! | [`accounts`] | how much each client may hold |
//! | [`listener`] | the socket in the file system |
//! | [`heap`] | what the C library keeps of the memory that was freed |
//! | [`host`] | [`Host`]: what a platform needs to have for this transport |
//! | [`simulated`] | the registers of simulated devices |
//!
//! # How a handle lives
//!
//! Connecting gives a handle to the root. A handle that is opened or derived is one end of a new pair of
//! sockets, sent to the client with the answer; the other end stays here. It may be duplicated, inherited and
//! passed on, and when its last copy is closed, in whatever way, this end hears of it and the service closes
//! the handle. Packets are described in [`libdma::transport::packet`], which both ends use.
//!
//! Each request brings the socket for its answer, or names one that is kept for the handle: whoever has the handle besides has
//! another. Those that are kept are made here, take nothing, and are closed with this end: so nobody waits at one that is dead, and
//! none of them holds a handle (rule R4).
//!
//! A device's handle becomes readable when there are faults to be read: one small packet, which libdma takes when it
//! reads them. No more is sent before that, so that one who never reads has one packet waiting and no more.
//!
//! Who may open what is judged by the uid of the process that connected, as the kernel noted it then; from
//! there on the descriptor is the authority, as on Redox.
//!
//! # Clients that do not mean well
//!
//! There is one thread, and no client can make it wait: requests are taken and answers given without
//! blocking, and an answer that its client has no room for is dropped. A request that makes no sense is
//! answered with an error if there is a socket to answer on, else ignored. What a client holds here is
//! counted, so that it runs out of its own allowance before the daemon runs out of descriptors.
//!
//! One way is left: the daemon closes what descriptors a client sends, and closing a file that another
//! process serves (FUSE) waits for that process. Linux is for tests, so this is only said.

pub mod accounts;
pub mod endpoint;
pub mod heap;
pub mod host;
pub mod listener;
pub mod reply;
pub mod request;
pub mod serve;
pub mod server;
pub mod simulated;

pub use host::Host;
pub use listener::{ListenError, Listener};
pub use server::Server;
