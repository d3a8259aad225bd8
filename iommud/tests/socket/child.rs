//! This program again, as a process that can be killed.

use std::env;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use libdma::protocol::call::{DeviceInfo, Hello, Opcode, Welcome};
use libdma::protocol::resume::{Resume, Resumed};
use libdma::protocol::{Secret, path};
use libdma::transport::packet::{self, ReplyHeader};
use libdma::transport::socket::Socket;
use libdma::{Access, Device, Error, ForeignMemory, Handle};
use rustix::net::RecvFlags;

use crate::rig::edu;

/// The environment variable that tells the child what to do.
const JOB: &str = "IOMMUD_TEST_JOB";

/// A child that holds the device. Killed when dropped, in the middle of it.
pub(crate) struct Holder(Child);

impl Holder {
    /// A child that opens the device at this socket.
    pub(crate) fn opening(socket: &Path) -> Self {
        let mut command = command("open");
        command.env("IOMMUD_SOCKET", socket);
        Self::start(command)
    }

    /// A child that opens the device at this socket and registers memory of its own.
    pub(crate) fn registering(socket: &Path) -> Self {
        let mut command = command("register");
        command.env("IOMMUD_SOCKET", socket);
        Self::start(command)
    }

    /// A child that gets a handle of the device over this socket.
    pub(crate) fn receiving(socket: OwnedFd) -> Self {
        let mut command = command("receive");
        command.stdin(Stdio::from(socket));
        Self::start(command)
    }

    /// The same, which then tries what it may open at the iommud of this socket.
    pub(crate) fn receiving_only(socket: OwnedFd, iommud: &Path) -> Self {
        let mut command = command("open nothing");
        command.stdin(Stdio::from(socket)).env("IOMMUD_SOCKET", iommud);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.contains("holding")), "the child holds nothing");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn command(job: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child::job", "--nocapture"]).env(JOB, job).stderr(Stdio::null());
    command
}

/// What the child does; as a test, nothing.
#[test]
fn job() {
    let device = match env::var(JOB).as_deref() {
        Err(_) => return,
        Ok("register") => {
            let device = Device::open(Socket::connect().unwrap(), edu()).unwrap();
            let memory = ForeignMemory::new(3 * 4096).unwrap();
            let _buffer = device.register(memory, Some(Access::ReadWrite), "of a child").unwrap();
            hold()
        }
        Ok("open") => Device::open(Socket::connect().unwrap(), edu()).unwrap(),
        Ok("open nothing") => {
            let device = received();
            opens_nothing(&device);
            device
        }
        Ok(_) => received(),
    };
    let ring = device.coherent("of a child").alone().slice::<u64>(8).unwrap();
    ring.write(0, 1).unwrap();
    hold()
}

/// The device whose handle came by standard input.
fn received() -> Device {
    let passed = packet::receive::<ReplyHeader>(io::stdin().as_fd(), RecvFlags::empty());
    let handle = Socket::handle(passed.unwrap().descriptor.unwrap());
    Device::from_handle(handle).unwrap()
}

/// Who was only given a handle opens no path but those by which sessions are resumed, and has nothing by them alone.
fn opens_nothing(device: &Device) {
    let transport = device.handle().transport();
    let open = |path: &str| Handle::open(transport.clone(), path);
    for path in ["units", "device/0000--00--03.0", "resume", "resumes/0000--00--02.0", ""] {
        assert_eq!(open(path).map(drop), Err(Error::NotPermitted), "{path}");
    }
    for other in ["0000:00:02.0", "0000:01:00.0"] {
        let claim = open(&path::resume(other.parse().unwrap())).unwrap();
        let _: Welcome = claim.call(Opcode::Hello, &Hello::new()).unwrap();
        // Nor by the right secret, as long as the session has a handle.
        let info: DeviceInfo = device.handle().call(Opcode::DeviceInfo, &[0u8; 0]).unwrap();
        for secret in [info.secret, Secret([7; 16]), Secret::NONE] {
            let refused = claim.call::<Resumed>(Opcode::Resume, &Resume { secret });
            assert_eq!(refused.map(drop), Err(Error::NotYours));
        }
        assert!(claim.derive_bytes(&[0; 64]).is_err());
    }
}

/// Holds what there is until it is killed.
fn hold() -> ! {
    println!("\nholding");
    loop {
        thread::park();
    }
}
