//! What can be invalidated. One type, whichever interface carries the request: the queue
//! ([`Descriptor`](super::descriptor::Descriptor)) or the registers ([`RegisterRequest`]).

use dma_types::SourceId;

use super::registers::{ContextCommand, Drain, Granularity, InvalidateAddress, IotlbInvalidate};
use crate::blocks::PageBlock;
use crate::unit::{DomainId, Touched};

/// Something that a unit is to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Every context entry.
    ContextGlobal,
    /// The context entries of one domain.
    ContextDomain(DomainId),
    /// The context entry of one function.
    ContextDevice {
        /// The domain id that its entry had when it was cached.
        domain: DomainId,
        /// The function.
        source: SourceId,
    },
    /// Every translation.
    IotlbGlobal,
    /// The translations of one domain.
    IotlbDomain(DomainId),
    /// The translations of some pages of one domain. For a unit that has page-selective invalidation,
    /// and no more pages than it takes at once; see [`plan`](super::plan).
    IotlbPages {
        /// The domain.
        domain: DomainId,
        /// The pages.
        pages: PageBlock,
        /// What changed in its table.
        touched: Touched,
    },
}

/// An invalidation as the registers carry it (6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterRequest {
    /// To be written to CCMD_REG.
    Context(ContextCommand),
    /// To be written to IVA_REG, if there is an address, and then to IOTLB_REG.
    Iotlb {
        /// For a page-selective request, the pages.
        address: Option<InvalidateAddress>,
        /// The request.
        command: IotlbInvalidate,
    },
}

impl Invalidation {
    /// What must be invalidated after this before the old entry is out of use: translations are cached
    /// under the domain id that a context entry gave (6.5.2.1). `None` for the IOTLB itself.
    pub const fn then(self) -> Option<Self> {
        match self {
            Self::ContextGlobal => Some(Self::IotlbGlobal),
            Self::ContextDomain(domain) | Self::ContextDevice { domain, .. } => {
                Some(Self::IotlbDomain(domain))
            }
            Self::IotlbGlobal | Self::IotlbDomain(_) | Self::IotlbPages { .. } => None,
        }
    }

    /// The request for the register interface, which sets it going.
    pub const fn for_registers(self, drain: Drain) -> RegisterRequest {
        let context = ContextCommand::new().with_invalidate(true).with_request(self.granularity());
        let iotlb = IotlbInvalidate::new()
            .with_invalidate(true)
            .with_request(self.granularity())
            .with_drain_reads(drain.reads)
            .with_drain_writes(drain.writes);
        match self {
            Self::ContextGlobal => RegisterRequest::Context(context),
            Self::ContextDomain(domain) => RegisterRequest::Context(context.with_domain(domain)),
            Self::ContextDevice { domain, source } => {
                RegisterRequest::Context(context.with_domain(domain).with_source(source))
            }
            Self::IotlbGlobal => RegisterRequest::Iotlb { address: None, command: iotlb },
            Self::IotlbDomain(domain) => {
                RegisterRequest::Iotlb { address: None, command: iotlb.with_domain(domain) }
            }
            Self::IotlbPages { domain, pages, touched } => RegisterRequest::Iotlb {
                address: Some(InvalidateAddress::of(pages, touched)),
                command: iotlb.with_domain(domain),
            },
        }
    }

    /// G, CIRG and IIRG, which are the same.
    pub(super) const fn granularity(self) -> Granularity {
        match self {
            Self::ContextGlobal | Self::IotlbGlobal => Granularity::Global,
            Self::ContextDomain(_) | Self::IotlbDomain(_) => Granularity::Domain,
            Self::ContextDevice { .. } | Self::IotlbPages { .. } => Granularity::Selective,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dma_types::Iova;

    const DOMAIN: DomainId = DomainId::new(0x1234);
    const SOURCE: SourceId = SourceId::new(0xabcd);
    const ALL: Drain = Drain { reads: true, writes: true };
    const NONE: Drain = Drain { reads: false, writes: false };

    fn context(invalidation: Invalidation) -> u64 {
        match invalidation.for_registers(ALL) {
            RegisterRequest::Context(command) => command.into_bits(),
            other => panic!("{other:?}"),
        }
    }

    fn iotlb(invalidation: Invalidation, drain: Drain) -> (Option<u64>, u64) {
        match invalidation.for_registers(drain) {
            RegisterRequest::Iotlb { address, command } => {
                (address.map(InvalidateAddress::into_bits), command.into_bits())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn context_requests_for_the_registers_have_the_spec_s_bits() {
        assert_eq!(context(Invalidation::ContextGlobal), 0xa000_0000_0000_0000);
        assert_eq!(context(Invalidation::ContextDomain(DOMAIN)), 0xc000_0000_0000_1234);
        let device = Invalidation::ContextDevice { domain: DOMAIN, source: SOURCE };
        assert_eq!(context(device), 0xe000_0000_abcd_1234);
    }

    #[test]
    fn iotlb_requests_for_the_registers_have_the_spec_s_bits() {
        assert_eq!(iotlb(Invalidation::IotlbGlobal, NONE), (None, 0x9000_0000_0000_0000));
        assert_eq!(iotlb(Invalidation::IotlbGlobal, ALL), (None, 0x9003_0000_0000_0000));
        let domain = Invalidation::IotlbDomain(DOMAIN);
        assert_eq!(iotlb(domain, ALL), (None, 0xa003_1234_0000_0000));
        let pages = PageBlock::new(Iova::new(0x7f12_3440_0000), 9).unwrap();
        let tables = Invalidation::IotlbPages { domain: DOMAIN, pages, touched: Touched::Tables };
        assert_eq!(iotlb(tables, ALL), (Some(0x7f12_3440_0009), 0xb003_1234_0000_0000));
        let leaves = Invalidation::IotlbPages { domain: DOMAIN, pages, touched: Touched::Leaves };
        assert_eq!(iotlb(leaves, NONE), (Some(0x7f12_3440_0049), 0xb000_1234_0000_0000));
    }

    #[test]
    fn r2_a_context_invalidation_is_followed_by_one_of_the_translations() {
        let device = Invalidation::ContextDevice { domain: DOMAIN, source: SOURCE };
        assert_eq!(device.then(), Some(Invalidation::IotlbDomain(DOMAIN)));
        let domain = Invalidation::ContextDomain(DOMAIN);
        assert_eq!(domain.then(), Some(Invalidation::IotlbDomain(DOMAIN)));
        assert_eq!(Invalidation::ContextGlobal.then(), Some(Invalidation::IotlbGlobal));
        assert_eq!(Invalidation::IotlbGlobal.then(), None);
    }
}
