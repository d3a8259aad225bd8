//! The explicit domain of the first client, and the devices in it.

use iommu_engine::domain::DomainKey;
use iommu_engine::policy::Invalidation;
use iommu_service::{Outcome, RequestId};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::Opcode;
use libdma::protocol::derive::Kind;
use libdma::protocol::domain::{Create, DomainInfo, Enter, Leave};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::clients::{Explicit, Inside, Mapped, Place, Stage};
use crate::world::World;

impl World {
    pub(crate) fn make_domain(&mut self) {
        let request = Create {
            kind: U32::new(Kind::Domain as u32),
            reserved: U32::ZERO,
            base: U64::new(self.bound.bytes),
            bytes: U64::new(self.limit() + 1 - self.bound.bytes),
            label: [0; 32],
        };
        let made = self.service.derive(self.device(0), request.as_bytes()).unwrap();
        let Outcome::Done(handle) = made else { panic!("no hardware is needed") };
        self.greet(handle);
        let mut info = DomainInfo::new_zeroed();
        self.service.call(handle, Opcode::DomainInfo as u64, info.as_mut_bytes()).unwrap();
        assert!(info.domain.get() > self.highest[1], "a domain has another's number");
        self.highest[1] = info.domain.get();
        let (handle, key) = (Place::Had(handle), DomainKey(info.domain.get()));
        self.explicit = Some(Explicit { handle, key, mapped: None });
    }

    pub(crate) fn map_there(&mut self) {
        let limit = self.limit();
        let number = self.clients[0].buffers[0].as_ref().map(|it| it.number);
        let Some((explicit, number)) = self.explicit.as_mut().zip(number) else { return };
        let Some(handle) = explicit.handle.had() else { return };
        let unsure = Mapped { iova: 0, strict: false, stage: Stage::Unsure };
        explicit.mapped = Some((number, unsure));
        let mapped = self.map_by(handle, number, limit, false);
        if let Some(explicit) = &mut self.explicit {
            explicit.mapped = mapped.map(|mapped| (number, mapped));
        }
    }

    pub(crate) fn unmap_there(&mut self) {
        let Some(explicit) = &mut self.explicit else { return };
        let (Some(handle), Some((number, mapped))) = (explicit.handle.had(), explicit.mapped)
        else {
            return;
        };
        explicit.mapped = Some((number, Mapped { stage: Stage::Unsure, ..mapped }));
        match self.unmap_by(handle, mapped) {
            None => self.unmapped_there(),
            Some(request) => {
                let stage = Stage::Unmapping(request);
                let left = Some((number, Mapped { stage, ..mapped }));
                self.explicit.iter_mut().for_each(|it| it.mapped = left);
            }
        }
    }

    /// An unmap in the domain is answered.
    fn unmapped_there(&mut self) {
        let Some((number, mapped)) = self.explicit.as_mut().and_then(|it| it.mapped.take()) else {
            return;
        };
        let Some(key) = self.explicit.as_ref().map(|it| it.key) else { return };
        if mapped.strict || self.invalidation == Invalidation::Strict {
            for client in [0, 1] {
                self.known.is_gone_in(client, key, mapped.iova, number);
            }
        }
    }

    pub(crate) fn drop_domain(&mut self) {
        let Some(handle) = self.explicit.take().and_then(|it| it.handle.had()) else { return };
        self.move_out();
        self.service.close(handle);
    }

    pub(crate) fn enter(&mut self, client: usize) {
        let Some(handle) = self.explicit.as_ref().and_then(|it| it.handle.had()) else { return };
        let device = self.device(client);
        let ticket = self.offer(handle, Rights::empty(), 0);
        let mut request = Enter { ticket: ticket.0 };
        self.clients[client].inside = Inside::Unsure;
        let entered = self.service.call(device, Opcode::Enter as u64, request.as_mut_bytes());
        self.clients[client].inside = match entered {
            Ok(Outcome::Done(_)) => {
                self.has_moved(client);
                Inside::Explicit
            }
            Ok(Outcome::Pending(request)) => Inside::Entering(request),
            Err(Error::NotReady) if !self.service.engine().is_settled() => Inside::Own,
            Err(other) => panic!("{other}"),
        };
    }

    pub(crate) fn leave(&mut self, client: usize) {
        let Some(key) = self.explicit.as_ref().map(|it| it.key) else { return };
        let device = self.device(client);
        let mut request = Leave { domain: U64::new(key.0) };
        self.clients[client].inside = Inside::Unsure;
        let left = self.service.call(device, Opcode::Leave as u64, request.as_mut_bytes());
        self.clients[client].inside = match left {
            Ok(Outcome::Done(_)) => {
                self.has_moved(client);
                Inside::Own
            }
            Ok(Outcome::Pending(request)) => Inside::Leaving(request),
            Err(Error::NotReady) if !self.service.engine().is_settled() => Inside::Explicit,
            Err(other) => panic!("{other}"),
        };
    }

    /// Its device is in another domain, and it was told so: nothing of before is reached.
    fn has_moved(&mut self, client: usize) {
        let group = self.service.engine().group(crate::world::devices()[client]);
        if let Some(key) = group.and_then(|group| group.attached) {
            self.known.is_only_in(client, key);
        }
    }

    /// What of the domain's pended is answered, if it was this.
    pub(crate) fn domain_answered(&mut self, request: RequestId) -> bool {
        for client in [0, 1] {
            let inside = match self.clients[client].inside {
                Inside::Entering(asked) if asked == request => Inside::Explicit,
                Inside::Leaving(asked) if asked == request => Inside::Own,
                _ => continue,
            };
            self.clients[client].inside = inside;
            self.has_moved(client);
            return true;
        }
        match self.explicit.as_mut().and_then(|it| it.mapped.as_mut()) {
            Some((_, mapped)) if mapped.stage == Stage::Mapping(request) => {
                mapped.stage = Stage::Mapped;
                true
            }
            Some((_, mapped)) if mapped.stage == Stage::Unmapping(request) => {
                self.unmapped_there();
                true
            }
            _ => false,
        }
    }

    /// Sees whether the domain was revoked with what was derived from the first client's device.
    pub(crate) fn lose_domain(&mut self) {
        let Some(handle) = self.explicit.as_ref().and_then(|it| it.handle.had()) else { return };
        let mut info = DomainInfo::new_zeroed();
        let asked = self.service.call(handle, Opcode::DomainInfo as u64, info.as_mut_bytes());
        if asked == Err(Error::Revoked) {
            self.drop_domain();
        }
        // Of a buffer that was revoked nothing is mapped anywhere.
        let revoked: Vec<u64> = self.clients[0]
            .buffers
            .iter()
            .flatten()
            .filter_map(|it| it.is_revoked.then_some(it.number))
            .collect();
        if let Some(explicit) = &mut self.explicit {
            explicit.mapped.take_if(|(number, _)| revoked.contains(number));
        }
    }
}
