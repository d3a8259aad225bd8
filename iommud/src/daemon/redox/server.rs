//! Serves.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};

use iommu_service::Settings;
use libdma::protocol::path::SCHEME;
use libredox::Fd;
use libredox::call::{call_wo, getns, register_scheme_to_ns};
use libredox::errno::EEXIST;
use syscall::CallFlags;

use super::error::Error;
use super::{INIT_VARIABLE, descriptor, inherited};
use crate::daemon::hand_over::{HandOver, NotByKeeper, Start};
use crate::daemon::options::Options;
use crate::daemon::policy::Told;
use crate::daemon::{bring_up, log};
use crate::platform::redox::{Heir, MemoryObject, Redox};
use crate::transport::scheme::{Door, Server};

/// Serves until the scheme is gone, in the process that the keeper started for it.
///
/// # Errors
///
/// Whatever keeps the daemon from serving.
pub fn serve(options: &Options, left: &HandOver) -> Result<(), Error> {
    let &[memory, report, ref own @ ..] = &left.descriptors[..] else {
        return Err(NotByKeeper.into());
    };
    let memory = MemoryObject::inherited(Fd::new(memory))?;
    descriptor::keep(report)?;
    // SAFETY: the keeper left the descriptor to this process, for nothing but this.
    let mut keeper = unsafe { File::from_raw_fd(report as i32) };
    let heir = match own.first() {
        None => None,
        Some(own) => {
            let own = MemoryObject::inherited(Fd::new(*own))?;
            Some(Heir { own, keeper: keeper.try_clone().map_err(Error::Spawn)? })
        }
    };
    let init = inherited(INIT_VARIABLE)?;
    let told = Told::by(options)?;
    let door = Door::open()?;
    if init.is_none() {
        // Before any hardware is touched: two daemons on one IOMMU would undo each other's work. Init has the
        // name still to give; the keeper has seen that it is free.
        register_scheme_to_ns(getns()?, SCHEME, door.root()?).map_err(|error| {
            if error.errno() == EEXIST { Error::AlreadyServed } else { error.into() }
        })?;
    }
    let platform = Redox::open(memory, heir)?;
    let settings = settings(left.start, &told);
    let mut service = bring_up::start(platform, settings).map_err(Error::Start)?;
    told.warn(&service);
    bring_up::settle(&mut service);
    bring_up::report(&service);
    if left.start == Start::Init {
        let functions: Vec<_> =
            service.engine().devices().map(|device| device.function.address).collect();
        service.platform_mut().learn_bars(functions.into_iter());
    }
    // A keeper that is gone is not waited for.
    let _ = keeper.write_all(&[bring_up::outcome(&service) as u8]);
    if let Some(pipe) = init {
        // This gives the descriptor away.
        let root = door.root()?.to_ne_bytes();
        call_wo(pipe.as_raw_fd() as usize, &root, CallFlags::FD, &[])?;
    }
    let mut server = Server::new(service, door)?;
    log::line("ready");
    server.run()?;
    log::line("the scheme is gone");
    Ok(())
}

fn settings(start: Start, told: &Told) -> Settings {
    let mut lines = vec![
        ("platform", "redox".into()),
        ("iommud version", env!("CARGO_PKG_VERSION").into()),
        ("scheme", format!("/scheme/{SCHEME}")),
    ];
    lines.extend(start.settings());
    lines.extend(told.settings());
    Settings { lines, policy: told.policy.clone() }
}
