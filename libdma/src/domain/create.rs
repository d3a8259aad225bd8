//! How a domain is made.

use dma_types::Iova;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::Domain;
use crate::check::{self, Note, Space};
use crate::device::Device;
use crate::io_address::AddressSpace;
use crate::protocol::call::{Hello, Opcode, Welcome};
use crate::protocol::derive::{Allocate, Kind};
use crate::protocol::domain::{Create, DomainInfo};
use crate::protocol::resume::Thing;
use crate::protocol::{Error, Rights};
use crate::resume::UnderWay;

/// What a [`Domain`] is to be: see [`Device::new_domain`].
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is made before `create`"]
pub struct NewDomain<'a> {
    device: &'a Device,
    aperture: Option<(Iova, u64)>,
    label: &'a str,
}

impl NewDomain<'_> {
    /// Maps at no other addresses than the `bytes` from `base` on: Linux's `arm_iommu_create_mapping`. Both are
    /// multiples of 4096.
    ///
    /// Without it the aperture is all that the device puts on its bus, by its [highest address](Device::highest_address).
    pub fn aperture(self, base: Iova, bytes: u64) -> Self {
        Self { aperture: Some((base, bytes)), ..self }
    }

    /// Makes the domain.
    ///
    /// # Errors
    ///
    /// [`Error::NoIommu`]; for an aperture [`Error::ZeroSize`], [`Error::BadAlignment`], and [`Error::Overflow`] if the
    /// device's IOMMU does not translate all of it; [`Error::QuotaExceeded`], for which a domain counts as a buffer;
    /// [`Error::OutOfMemory`], [`Error::NotPermitted`], [`Error::UnitFailed`].
    #[track_caller]
    pub fn create(self) -> Result<Domain, Error> {
        let session = self.device.session();
        let (base, bytes) = match self.aperture {
            // An aperture of nothing is not all that there is.
            Some((_, 0)) => return Err(Error::ZeroSize),
            Some(aperture) => aperture,
            None if self.device.highest_address() >= session.last_address() => (Iova::new(0), 0),
            None => (Iova::new(0), self.device.highest_address().get() + 1),
        };
        let request = Create {
            kind: U32::new(Kind::Domain as u32),
            reserved: U32::ZERO,
            base: U64::new(base.get()),
            bytes: U64::new(bytes),
            label: Allocate::label(self.label),
        };
        let windows = self.device.windows();
        let make = |_: Option<&UnderWay<'_>>| {
            let mut handle = session.handle().derive_once(request.as_bytes())?;
            let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
            let info: DomainInfo = handle.call(Opcode::DomainInfo, &[0u8; 0])?;
            if let Some(link) = session.link() {
                // Who is told the session's secret has a handle with all rights.
                handle.keep(link, (Thing::Domain, info.domain.get()), Rights::DOMAIN);
            } else {
                handle.keep_nowhere();
            }
            Ok((handle, info))
        };
        let (handle, info) = windows.after_trimming(|| session.request_new(make))?;
        let domain = Some(info.domain.get());
        let space = Space::new(AddressSpace { domain, ..session.addresses() });
        let (kind, label) = (check::Kind::Domain, self.label);
        let mark = check::made(|| Note { kind, label, space, iova: None, bytes: 0, access: None });
        Ok(Domain { handle, info, space, windows: windows.clone(), mark })
    }
}

impl Device {
    /// An explicit domain made from this device, to be [created](NewDomain::create). The
    /// [label](Device#labels) is what reports call it.
    pub fn new_domain<'a>(&'a self, label: &'a str) -> NewDomain<'a> {
        NewDomain { device: self, aperture: None, label }
    }
}
