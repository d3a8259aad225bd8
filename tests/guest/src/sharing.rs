//! A buffer that one process allocates and another looks at and has its own device read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use edud::Direction;
use libdma::protocol::Rights;
use libdma::transport::packet::{self, Packet, ReplyHeader};
use libdma::transport::socket::Socket;
use libdma::{Access, Buffer, Device, Error, Handle, SharedBuffer};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use zerocopy::FromZeros;

use crate::devices::both_edus;
use crate::dma::transfer;
use crate::failure::{Failure, Outcome, require};
use crate::other::{Other, open, open_when_free};

/// What the first process writes.
const MARK: [u8; 16] = *b"of two processes";
/// What the first process writes after the second has looked.
const LATER: [u8; 16] = *b"and at all times";

/// The word by which this program is told to be the other process.
pub(crate) const WORD: &str = "look-at-shared";

/// Starts the other process and passes it a handle by its standard input.
fn start_other(handle: &Handle) -> Outcome<Other> {
    let kind = SocketType::SEQPACKET;
    let (mine, its) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let other = Other::start(WORD, its)?;
    // SAFETY: the handle is open as long as it is borrowed, and on Linux is a descriptor.
    let descriptor = unsafe { BorrowedFd::borrow_raw(handle.raw().number() as i32) };
    let header = ReplyHeader::new_zeroed();
    packet::send(&mine, &header, &[], &[descriptor], SendFlags::empty())?;
    Ok(other)
}

/// The first process: its buffer goes to a process that may only read it, and to one that attaches it to the second
/// device.
pub(crate) fn first() -> Outcome {
    let [function, _] = both_edus()?;
    let device = open(&function)?;
    let buffer = device.allocate(8192, Some(Access::ReadWrite), "shared")?;
    buffer.write(4096, &MARK)?;
    let reader = buffer.share(Rights::READ | Rights::INSPECT)?;
    let mut reader = start_other(&reader)?;
    reader.expect("it reads: of two processes")?;
    reader.expect("it may not write")?;
    reader.expect("it may not attach")?;
    drop(reader);

    let whole = buffer.share(Rights::READ | Rights::INSPECT | Rights::SHARE)?;
    let mut other = start_other(&whole)?;
    drop(whole);
    other.expect("it reads: of two processes")?;
    other.expect("it may not write")?;
    other.expect("its device reads: of two processes")?;
    let place = address_of(&buffer, &device)?;
    buffer.write(4096, &LATER)?;
    transfer(&function, Direction::ToDevice, place + 4096, 16)?;
    // The first goes, with its session; the other's device and process keep the memory.
    drop((buffer, device));
    other.expect("its device reads: and at all times")?;
    Ok(())
}

fn address_of(buffer: &Buffer, device: &Device) -> Outcome<u64> {
    let address = buffer.io_address().ok_or(Error::NotMapped)?;
    Ok(address.for_device(device)?.get())
}

/// The other process.
pub(crate) fn other() -> Outcome {
    let passed: Packet<ReplyHeader> = packet::receive(io::stdin().as_fd(), RecvFlags::empty())
        .map_err(|error| Failure(format!("nothing was passed: {error:?}")))?;
    let descriptor: OwnedFd = passed.descriptor.ok_or(Failure("no handle was passed".into()))?;
    let handle = Socket::handle(descriptor);
    let shared = SharedBuffer::from_handle(handle)?;
    let mut found = [0; 16];
    shared.read(4096, &mut found)?;
    println!("it reads: {}", String::from_utf8_lossy(&found));
    let refused = shared.write(0, &MARK) == Err(Error::NotPermitted)
        && shared.share(Rights::WRITE).err() == Some(Error::NotPermitted);
    require!(refused, "it may write");
    println!("it may not write");

    let [_, function] = both_edus()?;
    // The other process before this one may have had it, and just have ended.
    let device = open_when_free(&function)?;
    let attached = match shared.attach(&device, Access::Read, "shared with the second") {
        Err(Error::NotPermitted) => {
            println!("it may not attach");
            return Ok(());
        }
        attached => attached?,
    };
    let own = device.allocate(4096, Some(Access::ReadWrite), "its own")?;
    let (from, to) =
        (attached.io_address().at(4096)?.for_device(&device)?.get(), address_of(&own, &device)?);
    for expected in [MARK, LATER] {
        // The first process writes the second in the meantime.
        loop {
            shared.read(4096, &mut found)?;
            if found == expected {
                break;
            }
            std::thread::yield_now();
        }
        if expected == LATER {
            // By then the first process has let go of everything.
            crate::programs::wait_until("the first is gone", || {
                Ok(crate::reports::device(&both_edus()?[0].name())?.generation.is_none())
            })?;
        }
        transfer(&function, Direction::ToDevice, from, 16)?;
        transfer(&function, Direction::FromDevice, to, 16)?;
        own.read(0, &mut found)?;
        println!("its device reads: {}", String::from_utf8_lossy(&found));
    }
    Ok(())
}
