//! A service on the machine, a driver, and its device.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::fault::{Fault, Tried};
use iommu_engine::platform::{Platform, Segment};
use iommu_engine::policy::{Policy, WithoutIommu};
use iommu_service::in_process::InProcess;
use iommu_service::{Caller, Service, Settings};
use libdma::buffer::Buffer;
use libdma::transport::Transport;
use libdma::{Device, Error};
use libdma::{MapRequest, Mapped};
use spin::Mutex;

use super::blocking::expect;
use super::hardware::Hardware;
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Failure, Outcome};
use crate::platform::{InUse, Metal};
use crate::require;

/// How long a unit may take to come up. QEMU's is up at once.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A service on the machine, and its device.
pub struct Rig {
    /// The service.
    pub service: Arc<Mutex<Service<Metal>>>,
    client: Arc<InProcess<Metal>>,
    /// The device.
    pub edu: Edu,
    hardware: Hardware,
    /// Whether drivers forget what holds on to their sessions.
    forgets: Cell<bool>,
}

impl Rig {
    /// Takes the machine over.
    pub fn start(platform: Metal) -> Result<Self, Box<(Metal, Failure)>> {
        Self::start_with(platform, Policy::default())
    }

    /// The same with a policy, but that a machine without an IOMMU is served.
    pub fn start_with(mut platform: Metal, policy: Policy) -> Result<Self, Box<(Metal, Failure)>> {
        let found = Hardware::find(&mut platform)
            .and_then(|hardware| Ok((hardware, Edu::find(&mut platform)?)));
        let (hardware, edu) = match found {
            Ok(found) => found,
            Err(failure) => return Err(Box::new((platform, failure))),
        };
        let mut settings = Settings { policy, ..Settings::default() };
        if matches!(hardware, Hardware::None) {
            settings.policy.without_iommu = WithoutIommu::Unprotected;
        }
        let service = match Service::start(platform, settings) {
            Ok(service) => service,
            Err((error, platform)) => return Err(Box::new((platform, error.into()))),
        };
        let service = Arc::new(Mutex::new(service));
        // SAFETY: cases close buffers by dropping them, and free no runs of the platform's.
        let client = Arc::new(unsafe { InProcess::new(service.clone(), Caller { uid: 0 }) });
        let rig = Self { service, client, edu, hardware, forgets: Cell::new(false) };
        match rig.settle() {
            Ok(()) => Ok(rig),
            Err(failure) => Err(Box::new((rig.stop(), failure))),
        }
    }

    fn settle(&self) -> Outcome {
        let mut service = self.service.lock();
        let start = service.platform().now();
        while !service.engine().is_settled() {
            service.poll();
            let waited = service.platform().now().since(start);
            require!(waited < PATIENCE, "the unit does not come up");
        }
        Ok(())
    }

    /// Gives the machine back as it is: translating.
    pub fn stop(self) -> Metal {
        let Self { service, client, forgets, .. } = self;
        drop(client);
        while forgets.get() && Arc::strong_count(&service) > 1 {
            // SAFETY: the others are of what was forgotten, which nobody can use or drop any more.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(&service)) };
        }
        match Arc::try_unwrap(service) {
            Ok(service) => service.into_inner().into_platform(),
            Err(_) => panic!("a driver outlives its case"),
        }
    }

    /// A driver of this case forgets guards, with which its session is never ended by it: it dies with it.
    pub fn forgets(&self) {
        self.forgets.set(true);
    }

    /// The unit, by hand.
    pub fn hardware(&self) -> Hardware {
        self.hardware
    }

    /// How many requests drivers have made.
    pub fn requests(&self) -> u64 {
        self.client.requests()
    }

    /// What carries a driver's requests.
    pub fn transport(&self) -> Arc<dyn Transport> {
        self.client.clone()
    }

    /// Opens the device, and lets it be a bus master, as its driver does.
    pub fn open(&self) -> Outcome<Device> {
        let device = Device::open(self.transport(), self.edu.function())?;
        Edu::find(self.service.lock().platform_mut())?;
        Ok(device)
    }

    /// A transfer by the device, which ends whether it was blocked or not.
    pub fn transfer(&self, direction: Direction, address: u64, bytes: u64) -> Outcome {
        let mut service = self.service.lock();
        Ok(self.edu.transfer(service.platform_mut(), direction, address, bytes)?)
    }

    /// Puts bytes into the device's own buffer, through this buffer of a driver's.
    pub fn load(&self, buffer: &Buffer, iova: Iova, bytes: &[u8]) -> Outcome {
        buffer.write(0, bytes)?;
        self.transfer(Direction::ToDevice, iova.get(), bytes.len() as u64)
    }

    /// How many faults there were since the last time, and the last of them.
    fn faults(&self) -> (u64, Option<Fault>) {
        let mut service = self.service.lock();
        let seen = service.faults().total();
        service.poll();
        let faults = service.faults();
        // The same fault again is no entry of its own; it counts.
        (faults.total() - seen, faults.entries().last().map(|entry| entry.fault))
    }

    /// Whether there is just one new fault: the device's, at this address, for this. Where the unit
    /// [does not tell](Hardware::tells_what_it_blocks), whether it blames no other device.
    pub fn expect_fault(&self, address: u64, tried: Tried) -> Outcome {
        self.expect_fault_of(&self.edu, address, tried)
    }

    /// The same of another device.
    pub fn expect_fault_of(&self, edu: &Edu, address: u64, tried: Tried) -> Outcome {
        let device = Some(edu.requester());
        let (count, last) = self.faults();
        if !self.hardware.tells_what_it_blocks() {
            let blamed = last.filter(|_| count > 0).map(|fault| fault.device);
            require!(blamed.is_none_or(|it| it == device), "the fault is {blamed:x?}'s");
            return Ok(());
        }
        let (1, Some(fault)) = (count, last) else {
            return Err(Failure(format!(
                "there are {count} new faults and not one, for {tried:?} at {address:#x}"
            )));
        };
        let found = (fault.device, fault.address.get(), fault.tried);
        let expected = (device, address & !0xfff, tried);
        require!(found == expected, "the fault says {found:x?}, and not {expected:x?}");
        Ok(())
    }

    /// Lets the device read where it must not, and checks that this is blocked and that nothing came to it: what
    /// it then writes to its own memory are zeroes.
    pub fn expect_blocked_read(&self, address: u64, own: &Buffer) -> Outcome {
        let iova = own.iova().unwrap_or_default();
        self.load(own, iova, b"nobody's secret.")?;
        self.transfer(Direction::ToDevice, address, 16)?;
        self.expect_fault(address, Tried::Read)?;
        self.transfer(Direction::FromDevice, iova.get(), 16)?;
        self.expect_no_fault()?;
        expect(own, &[0; 16], "what a blocked read brought")
    }

    /// Whether there is no new fault.
    pub fn expect_no_fault(&self) -> Outcome {
        match self.faults() {
            (1.., Some(fault)) => Err(Failure(format!("{fault:?}"))),
            _ => Ok(()),
        }
    }

    /// Whether the unit's tables, as they are in memory, let the device reach anything.
    pub fn leads_somewhere(&self) -> Outcome<bool> {
        let mut service = self.service.lock();
        self.hardware.leads_somewhere(service.platform_mut(), self.edu.requester())
    }

    /// What is handed out, after everything that waits for hardware has been confirmed.
    pub fn in_use(&self) -> InUse {
        let mut service = self.service.lock();
        service.poll();
        service.platform().in_use()
    }

    /// All that clients have had since is given back.
    pub fn expect_as_many_runs(&self, before: &InUse) -> Outcome {
        let after = self.in_use();
        require!(after.runs == before.runs, "{} runs are left of {}", after.runs, before.runs);
        Ok(())
    }

    /// The physical pieces of the one buffer there is.
    pub fn segments_of(&self, iova: Iova) -> Outcome<Vec<Segment>> {
        let service = self.service.lock();
        let found = service.engine().domains().find_map(|(_, domain)| {
            let translation = domain.translate(service.platform(), iova)?;
            Some(Segment { start: translation.phys, bytes: translation.page_bytes })
        });
        Ok(alloc::vec![found.ok_or(Failure(format!("nothing is mapped at {iova}")))?])
    }
}

/// A whole buffer, mapped once more.
pub fn map(device: &Device, buffer: &Buffer, access: Access) -> Result<Mapped, Error> {
    let bytes = buffer.len() as u64;
    let mapped = device.map(&[MapRequest { buffer, offset: 0, bytes, access }])?;
    mapped.first().copied().ok_or(Error::ShortPayload)
}

/// Runs a case on a service that takes the machine over, and leaves the machine as it was found.
pub fn with_service(context: &mut Context, case: impl FnOnce(&Rig) -> Outcome) -> Outcome {
    with_policy(context, Policy::default(), case)
}

/// The same with a policy.
pub fn with_policy(
    context: &mut Context,
    policy: Policy,
    case: impl FnOnce(&Rig) -> Outcome,
) -> Outcome {
    context.lend(|platform| match Rig::start_with(platform, policy) {
        Ok(rig) => {
            let outcome = case(&rig);
            let mut platform = rig.stop();
            let off = switch_off(&mut platform);
            (platform, outcome.and(off))
        }
        Err(refused) => {
            let (mut platform, failure) = *refused;
            let _ = switch_off(&mut platform);
            (platform, Err(failure))
        }
    })
}

/// Turns translation off, by hand, and takes everything back that an engine held.
pub fn switch_off(platform: &mut Metal) -> Outcome {
    Hardware::find(platform)?.turn_off(platform)?;
    platform.take_all_back();
    Ok(())
}
