//! The socket in the file system, to which clients connect.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with, sockopt,
};
use thiserror::Error;

/// How many clients may be waiting to be accepted.
const BACKLOG: i32 = 64;

/// A socket that clients connect to. It is removed from the file system when dropped, unless it was lent.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// `None` for one that was lent.
    path: Option<PathBuf>,
}

/// Why there is no socket to connect to.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another iommud serves at {0}: stop that one first, or choose another --socket")]
    AlreadyServed(PathBuf),
    /// There is a file, and it is not a socket that a dead iommud left behind.
    #[error("{0} is there already and is no socket: remove it, or choose another --socket")]
    NotASocket(PathBuf),
    /// The operating system refused something.
    #[error("cannot listen at {path}: {error}")]
    System {
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl Listener {
    /// Listens at `path`. What a dead daemon left there is replaced.
    ///
    /// # Errors
    ///
    /// [`ListenError`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |error: io::Error| ListenError::System { path: path.into(), error };
        let address = SocketAddrUnix::new(path).map_err(|errno| failed(errno.into()))?;
        let socket = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(|errno| failed(errno.into()))
        };
        if let Ok(there) = fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(ListenError::NotASocket(path.into()));
            }
            match connect(socket()?, &address) {
                // One whose backlog is full is there too.
                Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
                    return Err(ListenError::AlreadyServed(path.into()));
                }
                Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed)?,
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        let socket = socket()?;
        bind(&socket, &address).map_err(|errno| failed(errno.into()))?;
        let listener = Self { socket, path: Some(path.into()) };
        // Anybody may connect and read reports; what else a client may do is judged by its uid.
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
        listen(&listener.socket, BACKLOG).map_err(|errno| failed(errno.into()))?;
        Ok(listener)
    }

    /// One that is another process's, which removes it.
    pub fn lent(socket: OwnedFd) -> Self {
        Self { socket, path: None }
    }

    /// One at `path` whose process is dead.
    pub fn left(socket: OwnedFd, path: &Path) -> Self {
        Self { socket, path: Some(path.into()) }
    }

    /// Takes the next client's connection, and the uid it connected with.
    pub fn accept(&self) -> Result<(OwnedFd, u32), Errno> {
        let connection = accept_with(&self.socket, SocketFlags::CLOEXEC)?;
        let peer = sockopt::socket_peercred(&connection)?;
        Ok((connection, peer.uid.as_raw()))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // If it is gone already, somebody else has removed it.
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}
