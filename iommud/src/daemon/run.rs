//! From the command line to the end.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use iommu_service::{Service, Settings};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::Error;
use super::options::{Options, UnitKind};
use super::policy::{self, Told};
use super::{bring_up, log};
use crate::platform::linux::Linux;
use crate::platform::sim::SimPlatform;
use crate::transport::socket::{Host, Listener, Server};

/// How long the simulated device takes for a transfer: long enough for its driver to wait for it as it would
/// for hardware.
const TRANSFER_NANOS: u64 = 1_000_000;

/// Serves until it is told to end.
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
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register(signal, stop.clone())?;
    }
    raise_descriptor_limit();
    // Before any hardware is touched: two daemons on one IOMMU would undo each other's work.
    let listener = Listener::bind(&options.socket())?;
    if options.sim {
        log::line("SIMULATED: this daemon confines nothing real");
        let platform = SimPlatform::new(machine(options.unit)).map_err(Error::Simulator)?;
        serve(platform, listener, options, &told, &stop)
    } else {
        serve(Linux::open()?, listener, options, &told, &stop)
    }
}

fn serve<P: Host>(
    platform: P,
    listener: Listener,
    options: &Options,
    told: &Told,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let mut service = Service::start(platform, settings(options, told))
        .map_err(|(error, _)| Error::Start(error))?;
    told.warn(&service);
    bring_up::settle(&mut service);
    bring_up::report(&service);
    let mut server = Server::new(service, listener)?;
    log::line("ready");
    server.run(stop)?;
    log::line("told to end");
    Ok(())
}

/// The machine that is simulated.
fn machine(unit: UnitKind) -> MachineConfig {
    let mut machine = match unit {
        UnitKind::Vtd => MachineConfig::default(),
        UnitKind::Amdvi => MachineConfig::with_amdvi(AmdviConfig::default()),
        UnitKind::None => MachineConfig::without_units(),
    };
    for edu in &mut machine.edus {
        edu.dma_nanos = TRANSFER_NANOS;
    }
    machine
}

fn settings(options: &Options, told: &Told) -> Settings {
    let platform =
        if options.sim { "SIMULATED: confines nothing real" } else { "linux: a guest in QEMU" };
    let mut lines = vec![
        ("platform", platform.into()),
        ("iommud version", env!("CARGO_PKG_VERSION").into()),
        ("socket", options.socket().display().to_string()),
    ];
    lines.extend(told.settings());
    Settings { lines, policy: told.policy.clone() }
}

/// Takes as many descriptors as the system lets it, for each handle costs one or two.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is refused, there are fewer handles.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
