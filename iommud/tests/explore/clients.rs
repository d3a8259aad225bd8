//! What clients have, and what they know of it.

use iommu_engine::domain::DomainKey;
use iommu_service::{HandleId, RequestId};
use libdma::protocol::{Rights, Secret};

use crate::event::MOST;

/// A client: what it has, and what it waits for.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) device: Place<HandleId>,
    /// What proves after a restart that it was its device.
    pub(crate) secret: Secret,
    pub(crate) buffers: [Option<Held>; MOST],
    pub(crate) inside: Inside,
}

impl Default for Client {
    fn default() -> Self {
        let (device, secret, inside) = (Place::None, Secret::NONE, Inside::Own);
        Self { device, secret, buffers: [None, None], inside }
    }
}

impl Client {
    /// Who comes after it, and has nothing. The device may be on its way between two domains still.
    pub(crate) fn next(&self) -> Self {
        let is_settled = matches!(self.inside, Inside::Own | Inside::Explicit);
        let inside = if is_settled { Inside::Own } else { Inside::Unsure };
        Self { inside, ..Self::default() }
    }

    /// Whether its device is its: it has a handle, or had one that iommud's death took away.
    pub(crate) fn has_device(&self) -> bool {
        matches!(self.device, Place::Had(_) | Place::Lost)
    }

    pub(crate) fn held(&mut self) -> impl Iterator<Item = &mut Held> {
        self.buffers.iter_mut().flatten()
    }
}

/// Something that a client asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Place<T> {
    /// It has not.
    #[default]
    None,
    Asked(RequestId),
    Had(T),
    /// What it had has died with iommud.
    Lost,
}

impl<T> Place<T> {
    pub(crate) fn had(self) -> Option<T> {
        match self {
            Self::Had(it) => Some(it),
            _ => None,
        }
    }

    pub(crate) fn number(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Asked(_) => 1,
            Self::Had(_) => 2,
            Self::Lost => 3,
        }
    }
}

/// Which domain a client's device is in, as far as it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// Its own.
    Own,
    /// It is on its way into the explicit one.
    Entering(RequestId),
    Explicit,
    Leaving(RequestId),
    /// It was moved by what another did, or iommud died meanwhile.
    Unsure,
}

impl Inside {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Own => 0,
            Self::Entering(_) => 1,
            Self::Explicit => 2,
            Self::Leaving(_) => 3,
            Self::Unsure => 4,
        }
    }
}

/// A buffer that a client has.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) handle: Place<HandleId>,
    /// What requests call it.
    pub(crate) number: u64,
    pub(crate) rights: Rights,
    /// Whether it is lent: mapped from the beginning, and never unmapped but by giving it up.
    pub(crate) is_lent: bool,
    pub(crate) mapped: Option<Mapped>,
    /// Whether its handle is good for nothing but to be closed.
    pub(crate) is_revoked: bool,
    /// The restricted handle that it was allocated by, if there is one.
    pub(crate) part: Option<HandleId>,
}

/// The rights that what is lent is had with.
pub(crate) const LENT: Rights = Rights::BUFFER.difference(Rights::SHARE);

impl Held {
    pub(crate) fn new(handle: Place<HandleId>, number: u64, is_lent: bool) -> Self {
        let rights = if is_lent { LENT } else { Rights::BUFFER };
        Self { handle, number, rights, is_lent, mapped: None, is_revoked: false, part: None }
    }
}

/// What a client knows of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    pub(crate) iova: u64,
    pub(crate) strict: bool,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Mapping(RequestId),
    Mapped,
    Unmapping(RequestId),
    /// It has asked for one or the other, and iommud has died over it.
    Unsure,
}

impl Stage {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Mapping(_) => 0,
            Self::Mapped => 1,
            Self::Unmapping(_) => 2,
            Self::Unsure => 3,
        }
    }
}

/// The domain that the first client has made.
#[derive(Debug)]
pub(crate) struct Explicit {
    pub(crate) handle: Place<HandleId>,
    pub(crate) key: DomainKey,
    /// What is mapped there of which buffer.
    pub(crate) mapped: Option<(u64, Mapped)>,
}

/// What is out of reach when revoking is answered: whose, at which address, and which buffer.
pub(crate) type Revoking = (RequestId, Vec<(usize, u64, u64)>);
