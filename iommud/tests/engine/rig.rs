//! A machine, an engine on it, and devices that do as they are told.

use std::time::Duration;

use dma_types::{Access, Iova, PciAddress};
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::{Engine, Event, MapSpec};
use iommu_engine::fault::Fault;
use iommu_engine::payer::Payer;
use iommu_engine::platform::{BufferRuns, ConfigSpace, RunId};
use iommu_engine::policy::Policy;
use iommu_engine::retired::RetiredRun;
use iommu_engine::unit::UnitState;
use iommu_sim::{Blocked, MachineConfig};
use iommud::platform::sim::SimPlatform;

/// The simulated edu device.
pub(crate) fn edu() -> PciAddress {
    "0000:00:02.0".parse().unwrap()
}

/// The edu behind the root port.
pub(crate) fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

/// A run to be freed.
pub(crate) fn retired(run: RunId) -> RetiredRun {
    RetiredRun { run, bytes: 0, payer: Payer::NOBODY, record: None }
}

/// Whether a unit's tables did not let a request through.
pub(crate) fn blocked<T>(result: &Result<T, Blocked>) -> bool {
    matches!(result, Err(why) if why.is_by_tables())
}

/// A whole run to be mapped anywhere, for reading and writing.
pub(crate) fn whole(run: RunId, bytes: u64) -> MapSpec {
    let (access, limit) = (Access::ReadWrite, Iova::new(u64::MAX));
    MapSpec { run, offset: 0, bytes, access, align: 4096, first: Iova::new(0), limit, owner: 1 }
}

pub(crate) struct Rig {
    pub(crate) platform: SimPlatform,
    pub(crate) engine: Engine,
}

impl Rig {
    /// A machine whose units are up.
    pub(crate) fn new(config: MachineConfig) -> Self {
        let mut rig = Self::started(config);
        rig.settle();
        rig
    }

    /// A machine whose units have only begun to start.
    pub(crate) fn started(config: MachineConfig) -> Self {
        Self::start_on(SimPlatform::with_manual_clock(config).unwrap())
    }

    pub(crate) fn start_on(platform: SimPlatform) -> Self {
        Self::start_with(platform, Policy::default())
    }

    /// A machine with a policy, up and running.
    pub(crate) fn with_policy(config: MachineConfig, policy: Policy) -> Self {
        let mut rig = Self::start_with(SimPlatform::with_manual_clock(config).unwrap(), policy);
        rig.settle();
        rig
    }

    pub(crate) fn start_with(mut platform: SimPlatform, policy: Policy) -> Self {
        let functions: Vec<_> = platform.machine().functions().collect();
        for function in functions {
            // Memory space and bus mastering, as a driver turns them on.
            platform.config_write(function, 4, 6);
        }
        let engine = Engine::start(&mut platform, policy).unwrap();
        Self { platform, engine }
    }

    /// Lets time pass until every unit translates or is given up.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.engine.is_settled() {
                return;
            }
            self.pass(Duration::from_millis(1));
        }
        panic!("the units never settled");
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.platform.advance_time(time);
        self.engine.poll(&mut self.platform);
    }

    /// Lets time pass until the hardware has confirmed.
    pub(crate) fn finish(&mut self, completion: &Completion) {
        for _ in 0..10_000 {
            match self.engine.progress(completion) {
                Progress::Done => return,
                Progress::Pending => self.pass(Duration::from_micros(10)),
                Progress::Failed => panic!("the unit failed: {:?}", self.unit_state(0)),
            }
        }
        panic!("the hardware never confirmed");
    }

    pub(crate) fn unit_state(&self, unit: usize) -> UnitState {
        self.engine.units()[unit].unit.as_ref().unwrap().state()
    }

    /// A domain with the device in it.
    pub(crate) fn attach(&mut self, device: PciAddress) -> DomainKey {
        let domain = self.engine.create_domain(&mut self.platform, &[device]).unwrap();
        let completion = self.engine.attach(&mut self.platform, device, domain).unwrap();
        self.finish(&completion);
        domain
    }

    pub(crate) fn run(&mut self, bytes: u64) -> RunId {
        self.platform.alloc_run(bytes).unwrap()
    }

    /// Maps a whole run.
    pub(crate) fn map(
        &mut self,
        domain: DomainKey,
        run: RunId,
        bytes: u64,
        access: Access,
    ) -> Iova {
        let spec = MapSpec { access, ..whole(run, bytes) };
        let (iova, completion) = self.engine.map(&mut self.platform, domain, &spec).unwrap();
        self.finish(&completion);
        iova
    }

    pub(crate) fn unmap(&mut self, domain: DomainKey, iova: Iova, bytes: u64) {
        let completion = self.engine.unmap(&mut self.platform, domain, iova, bytes).unwrap();
        self.finish(&completion);
    }

    pub(crate) fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Blocked> {
        self.platform.machine_mut().dma_write(edu(), iova, data)
    }

    pub(crate) fn read(&mut self, iova: u64, bytes: usize) -> Result<Vec<u8>, Blocked> {
        let mut data = vec![0; bytes];
        self.platform.machine_mut().dma_read(edu(), iova, &mut data).map(|()| data)
    }

    /// The faults since the last time, with whether some were lost.
    pub(crate) fn faults(&mut self) -> (Vec<Fault>, bool) {
        let mut faults = Vec::new();
        let mut lost = false;
        for event in self.engine.take_events(&mut self.platform) {
            match event {
                Event::Fault { fault, .. } => faults.push(fault),
                Event::FaultsLost { .. } => lost = true,
            }
        }
        (faults, lost)
    }

    /// What the simulator thinks of how it was treated: nothing to complain about.
    pub(crate) fn check(&self) {
        assert_eq!(self.platform.machine().violations(), Vec::<String>::new());
        let usage = self.platform.usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0));
    }
}
