//! A daemon of the test's own.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use libdma::transport::socket::Socket;
use libdma::{Device, Error, PciAddress};
use rustix::process::{Pid, Signal, kill_process};

use crate::vendor::Vendor;

/// How long anything may take that should happen by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The simulated device.
pub(crate) fn edu() -> PciAddress {
    "0000:00:02.0".parse().unwrap()
}

/// A folder that is gone with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("iommud-socket-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        // Other users are to come through to the socket, too.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    /// A file in it with this text.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `iommud` with these words, at this socket.
pub(crate) fn iommud(socket: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommud"));
    command.args(words).arg("--socket").arg(socket).stdin(Stdio::null());
    command
}

/// `iommuctl` with these words, at this socket; all it said.
pub(crate) fn iommuctl(socket: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommuctl"));
    command.args(words).env("IOMMUD_SOCKET", socket).output().unwrap()
}

/// A running daemon with a simulated machine. Killed when dropped.
pub(crate) struct Daemon {
    pub(crate) folder: Folder,
    child: Child,
    log: BufReader<ChildStderr>,
    said: String,
}

impl Daemon {
    /// Starts a daemon on a machine of this vendor's, and waits until it serves.
    pub(crate) fn start(vendor: Vendor) -> Self {
        Self::start_in(Folder::new(), vendor)
    }

    pub(crate) fn start_in(folder: Folder, vendor: Vendor) -> Self {
        Self::start_with(folder, &["--unit", vendor.option()])
    }

    /// Starts a daemon that simulates, with these words besides.
    pub(crate) fn start_with(folder: Folder, words: &[&str]) -> Self {
        let mut command = iommud(&folder.socket(), &[&["--sim"], words].concat());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.ends_with("iommud: ready\n") {
            let length = log.read_line(&mut said).unwrap();
            assert!(length > 0, "iommud ended before it was ready:\n{said}");
        }
        Self { folder, child, log, said }
    }

    /// What it said until it was ready.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.socket()
    }

    pub(crate) fn connect(&self) -> Arc<Socket> {
        Socket::connect_to(&self.socket()).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end: how it ended, and what it said last. The folder outlives it.
    pub(crate) fn finish(mut self) -> (ExitStatus, String, Folder) {
        let status = self.child.wait().unwrap();
        let mut last = String::new();
        while self.log.read_line(&mut last).unwrap() > 0 {}
        let folder = std::mem::replace(&mut self.folder, Folder::new());
        (status, last, folder)
    }

    /// The rows of a report.
    pub(crate) fn report(&self, name: &str) -> Vec<serde_json::Value> {
        let output = iommuctl(&self.socket(), &[name, "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Opens the device, as soon as whoever held it is gone.
    pub(crate) fn reopen(&self) -> Device {
        let opened = eventually(|| match Device::open(self.connect(), edu()) {
            Err(Error::DeviceBusy) => None,
            other => Some(other),
        });
        opened.unwrap()
    }

    /// The daemon does as it should for a client that does as it should, and has kept nothing of the others.
    pub(crate) fn is_well(&self) {
        drop(self.reopen());
        eventually(|| {
            let idle = self.report("mappings").is_empty() && self.report("domains").is_empty();
            idle.then_some(())
        });
        // The connection of the client that asks; the report is not counted in itself.
        eventually(|| (self.setting("open handles") == "1").then_some(()));
    }

    /// What the daemon says of itself.
    pub(crate) fn setting(&self, name: &str) -> String {
        let rows = self.report("config");
        let row = rows.iter().find(|row| row["name"] == name);
        row.unwrap()["value"].as_str().unwrap().into()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer, for what needs a moment to happen.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it never happened");
        thread::sleep(Duration::from_millis(5));
    }
}
