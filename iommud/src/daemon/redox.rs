//! From the start to the end, on Redox.
//!
//! Init starts the daemon as a service of type `{ scheme = "iommu" }`: it leaves a pipe on which it waits for
//! a descriptor of the scheme's root, and gives the scheme its name itself. By hand, the daemon goes into the
//! background and takes the name before whoever started it goes on. Either way nobody can open a device
//! before the units translate.

use std::env;
use std::io::{self, Write};
use std::process;

use iommu_engine::error::StartError;
use iommu_service::{Service, Settings};
use libdma::protocol::path::SCHEME;
use libredox::Fd;
use libredox::call::{call_wo, fcntl, getns, register_scheme_to_ns};
use libredox::error::Error as SystemError;
use libredox::flag::{F_SETFD, O_CLOEXEC};
use redox_daemon::Daemon;
use syscall::CallFlags;
use thiserror::Error as ThisError;

use super::options::Options;
use super::policy::{self, Told};
use super::{bring_up, log};
use crate::platform::redox::{OpenError, Redox};
use crate::policy::PolicyError;
use crate::transport::scheme::Server;

/// The environment variable in which init names its pipe.
const READY_VARIABLE: &str = "INIT_NOTIFY";

/// Why the daemon ended.
#[derive(Debug, ThisError)]
pub enum Error {
    /// There is a policy, and it is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Another one serves.
    #[error("another iommud serves /scheme/{SCHEME} already")]
    AlreadyServed,
    /// The platform cannot be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine could not start.
    #[error("{0}")]
    Start(StartError),
    /// It could not go into the background, or has ended there and said why.
    #[error("not ready in the background: {0}")]
    Background(SystemError),
    /// The pipe that init named is none.
    #[error("{READY_VARIABLE} does not name a pipe")]
    NotStartedByInit,
    /// The kernel refused something without which nothing goes on.
    #[error("cannot serve: {0}")]
    Serve(#[from] SystemError),
}

impl Error {
    /// The exit code that stands for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(StartError::NoIommu) => 2,
            _ => 1,
        }
    }
}

/// Who waits for the daemon to be ready.
enum Starter {
    /// Init, which waits on this pipe for the scheme's root.
    Init(Fd),
    /// Whoever started it by hand.
    Hand(Daemon),
}

/// Serves until the scheme is gone.
///
/// # Errors
///
/// Whatever keeps the daemon from serving.
pub fn run(options: &Options) -> Result<(), Error> {
    if let Some(file) = &options.check_policy {
        // Nobody is left to tell if the answer cannot be printed; the exit code says it, too.
        let _ = io::stdout().write_all(policy::check(file)?.as_bytes());
        return Ok(());
    }
    let told = Told::by(options)?;
    match env::var(READY_VARIABLE) {
        Ok(number) => serve(Starter::Init(init_pipe(&number)?), &told),
        Err(_) => {
            // The scheme belongs to the process that makes it, which must be the one in the background.
            let Err(error) = Daemon::new(|daemon| match serve(Starter::Hand(daemon), &told) {
                Ok(()) => process::exit(0),
                Err(error) => {
                    log::line(&error);
                    process::exit(error.exit_code().into())
                }
            });
            Err(background(error.errno()))
        }
    }
}

/// redox-daemon's errors are those of an older libredox.
fn background(errno: i32) -> Error {
    Error::Background(SystemError::new(errno))
}

/// Takes the pipe over that init left.
fn init_pipe(number: &str) -> Result<Fd, Error> {
    let number: u16 = number.parse().map_err(|_| Error::NotStartedByInit)?;
    let pipe = Fd::new(number.into());
    // The flag has the same value among a descriptor's flags as among those of open.
    fcntl(pipe.raw(), F_SETFD as usize, O_CLOEXEC as usize).map_err(|_| Error::NotStartedByInit)?;
    Ok(pipe)
}

fn serve(starter: Starter, told: &Told) -> Result<(), Error> {
    // Before any hardware is touched: two daemons on one IOMMU would undo each other's work.
    if Fd::open(&format!("/scheme/{SCHEME}"), O_CLOEXEC, 0).is_ok() {
        return Err(Error::AlreadyServed);
    }
    let mut service = Service::start(Redox::open()?, settings(&starter, told))
        .map_err(|(error, _)| Error::Start(error))?;
    told.warn(&service);
    bring_up::settle(&mut service);
    bring_up::report(&service);
    let mut server = Server::new(service)?;
    let root = server.root()?;
    match starter {
        Starter::Init(pipe) => {
            // This gives the descriptor away.
            call_wo(pipe.raw(), &root.to_ne_bytes(), CallFlags::FD, &[])?;
        }
        Starter::Hand(daemon) => {
            register_scheme_to_ns(getns()?, SCHEME, root)?;
            daemon.ready().map_err(|error| background(error.errno()))?;
        }
    }
    log::line("ready");
    server.run()?;
    log::line("the scheme is gone");
    Ok(())
}

fn settings(starter: &Starter, told: &Told) -> Settings {
    let started = match starter {
        Starter::Init(_) => "by init",
        Starter::Hand(_) => "by hand",
    };
    let mut lines = vec![
        ("platform", "redox".into()),
        ("iommud version", env!("CARGO_PKG_VERSION").into()),
        ("scheme", format!("/scheme/{SCHEME}")),
        ("started", started.into()),
    ];
    lines.extend(told.settings());
    Settings { lines, policy: told.policy.clone() }
}
