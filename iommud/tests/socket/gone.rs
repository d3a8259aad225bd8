//! The daemon is gone: each call says so, and what the driver holds is as it was.

use libdma::protocol::Rights;
use libdma::raw::RawError;
use libdma::{Access, Device, Error, ForeignMemory, FromDevice, MapRequest, ScatterList, ToDevice};
use rustix::process::Signal;

use crate::rig::{Daemon, edu};
use crate::vendor::Vendor;

both! {
    r7_when_the_daemon_is_gone_each_call_says_so_and_nothing_is_lost,
}

/// As long as a call of the driver's fails for this reason.
#[track_caller]
fn is_gone<T>(result: Result<T, impl Into<Error>>) {
    assert_eq!(result.err().map(Into::into), Some(Error::DaemonGone));
}

fn r7_when_the_daemon_is_gone_each_call_says_so_and_nothing_is_lost(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let transport = daemon.connect();
    let device = Device::open(transport.clone(), edu()).unwrap();
    let buffer = device.allocate(8192, Some(Access::Read), "buffer").unwrap();
    buffer.write(0, b"as it was").unwrap();
    let block = device.coherent("block").value::<u64>().unwrap();
    let pool = device.pool("pool").bytes(256).unwrap();
    let held = pool.alloc().unwrap();
    let (windowed, strict) =
        (device.stream::<ToDevice>("tx"), device.stream::<ToDevice>("tx").strict());
    let ready = strict.copy_of(b"ready").unwrap();
    let mapped = strict.copy_of(b"mapped").unwrap().map().unwrap();
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
    let pieces = device.map(&[piece]).unwrap();
    let domain = device.new_domain("domain").create().unwrap();
    let inside = domain.attach(&device).unwrap();
    daemon.signal(Signal::KILL);
    let (_, _, _folder) = daemon.finish();

    is_gone(Device::open(transport, edu()));
    is_gone(device.derive(Rights::INSPECT));
    is_gone(device.allocate(4096, None, "late"));
    is_gone(device.buffer("late").contiguous().allocate(4096));
    is_gone(device.buffer("late").allocate_unmapped(4096));
    is_gone(device.coherent("late").bytes(3 << 20));
    is_gone(device.coherent("late").alone().bytes(64));
    is_gone(device.stream::<FromDevice>("late").buffer(64));
    is_gone(device.pool("late").access(Access::Write).bytes(64).unwrap().alloc());
    is_gone(device.map(&[piece]));
    is_gone(device.unmap(&pieces));
    is_gone(device.lookup(pieces[0].iova()));
    is_gone(device.events());
    is_gone(buffer.share(Rights::READ));
    is_gone(buffer.attach(&device, Access::Read, "late"));
    is_gone(device.offer_bar(0, 0, 4096, Access::Write));
    is_gone(device.new_domain("late").create());
    is_gone(domain.map(&[piece]));
    is_gone(domain.attach(&device));
    let refused = inside.leave().unwrap_err();
    assert_eq!(refused.error, Error::DaemonGone);
    let refused = device.register(ForeignMemory::new(4096).unwrap(), None, "late").unwrap_err();
    assert_eq!((refused.error, refused.memory.is_some()), (Error::DaemonGone, true));
    let raw = device.raw_stream("late").strict().map_single(b"late", Access::Read);
    assert_eq!(raw, Err(RawError::Failed(Error::DaemonGone)));
    let mut list = ScatterList::new(&strict);
    list.push_slice(b"late").unwrap();
    is_gone(list.map());

    // What was to change is as it was, and can be read still.
    let refused = ready.map().unwrap_err();
    assert_eq!(refused.error, Error::DaemonGone);
    let mut out = [0; 5];
    refused.into_kept().read(0, &mut out).unwrap();
    assert_eq!(&out, b"ready");
    is_gone(mapped.unmap());
    let mut out = [0; 9];
    buffer.read(0, &mut out).unwrap();
    assert_eq!(&out, b"as it was");
    // Windows are there until they are dropped.
    block.set(7);
    assert_eq!(block.get(), 7);
    drop((held, pool.alloc().unwrap()));
    is_gone(windowed.copy_of(b"in no window"));
    assert_eq!(
        Error::DaemonGone.to_string(),
        "iommud is not running, or was restarted since the handle was opened"
    );
}
