//! Reading a node.

use std::sync::Arc;

use libdma::protocol::call::Opcode;
use libdma::protocol::path;
use libdma::transport::Transport;
use libdma::{Handle, PciAddress};

use super::error::Error;
use super::options::Options;

/// How much is read at a time.
const CHUNK: usize = 16 * 1024;

/// A client of iommud that reads.
pub struct Client {
    transport: Arc<dyn Transport>,
    /// Where the daemon is, for people.
    place: String,
}

impl Client {
    /// A client by this transport; `place` is where the daemon is, in words.
    pub fn new(transport: Arc<dyn Transport>, place: String) -> Self {
        Self { transport, place }
    }

    /// A client of the daemon that the command line names, or the environment, or of the usual one.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::CannotConnect`].
    #[cfg(target_os = "linux")]
    pub fn connect(options: &Options) -> Result<Self, Error> {
        use libdma::transport::socket::{DEFAULT_SOCKET, SOCKET_VARIABLE, Socket};
        use std::path::PathBuf;

        let told = options.socket.clone();
        let path = told.or_else(|| std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from));
        let path = path.unwrap_or_else(|| DEFAULT_SOCKET.into());
        let place = path.display().to_string();
        match Socket::connect_to(&path) {
            Ok(transport) => Ok(Self::new(transport, place)),
            Err(libdma::Error::DaemonGone) => Err(Error::NotRunning { place }),
            Err(error) => Err(Error::CannotConnect { place, error }),
        }
    }

    /// A client of the daemon whose scheme is in this process's namespace.
    ///
    /// # Errors
    ///
    /// None: nothing is opened yet.
    #[cfg(target_os = "redox")]
    pub fn connect(_: &Options) -> Result<Self, Error> {
        use libdma::protocol::path::SCHEME;
        use libdma::transport::scheme::Scheme;

        Ok(Self::new(Scheme::new(), format!("/scheme/{SCHEME}")))
    }

    /// Ends the quarantine of a device.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Refused`].
    pub fn release(&self, device: PciAddress) -> Result<(), Error> {
        let path = path::quarantine(device);
        let node = Handle::open(self.transport.clone(), &path);
        let released = node.and_then(|node| node.call_bytes(Opcode::Release, &mut []));
        released.map(drop).map_err(|error| match error {
            libdma::Error::DaemonGone => Error::NotRunning { place: self.place.clone() },
            error => Error::Refused { path: device.to_string(), error },
        })
    }

    /// The whole text of a node.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Refused`].
    pub fn read(&self, path: &str) -> Result<String, Error> {
        let refused = |error| match error {
            libdma::Error::DaemonGone => Error::NotRunning { place: self.place.clone() },
            error => Error::Refused { path: path.to_string(), error },
        };
        let node = Handle::open(self.transport.clone(), path).map_err(refused)?;
        let mut text = Vec::new();
        loop {
            let mut chunk = [0; CHUNK];
            let length = node.read(text.len() as u64, &mut chunk).map_err(refused)?;
            match chunk.get(..length) {
                Some([]) | None => break,
                Some(bytes) => text.extend_from_slice(bytes),
            }
        }
        String::from_utf8(text).map_err(|_| refused(libdma::Error::BadValue))
    }
}
