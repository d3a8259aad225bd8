//! How much is held.

use core::array;
use core::ops::Index;

use iommu_engine::policy::{Quotas, Resource};

/// How much is held, or to be held, of each [`Resource`]: what [`Quotas`] limit.
///
/// | resource | what counts |
/// | --- | --- |
/// | [`Buffers`](Resource::Buffers) | buffers, parts of peers' BARs and explicit domains |
/// | [`BufferBytes`](Resource::BufferBytes) | memory in buffers |
/// | [`MappedBytes`](Resource::MappedBytes) | what is mapped |
/// | [`IovaBytes`](Resource::IovaBytes) | I/O addresses, those included that wait for hardware to forget them |
/// | [`Mappings`](Resource::Mappings) | mappings |
/// | [`PageTableBytes`](Resource::PageTableBytes) | memory in page tables |
/// | [`Requests`](Resource::Requests) | requests that are not answered yet |
/// | [`Operations`](Resource::Operations) | unmaps that hardware has not confirmed yet |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage([u64; Resource::ALL.len()]);

impl Usage {
    /// Nothing.
    pub const NONE: Self = Self([0; Resource::ALL.len()]);

    /// So much of a resource, and of the others as before.
    pub const fn with(mut self, resource: Resource, amount: u64) -> Self {
        self.0[resource as usize] = amount;
        self
    }

    /// How much of a resource.
    pub const fn of(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    /// Both together. What no machine can have counts as the most that there can be.
    #[inline]
    pub fn and(&self, other: &Self) -> Self {
        Self(array::from_fn(|index| self.0[index].saturating_add(other.0[index])))
    }

    /// The most that may be held with these limits: of what has none, more than there can be.
    pub(super) fn most(limits: &Quotas) -> Self {
        Self(Resource::ALL.map(|resource| limits.of(resource).unwrap_or(u64::MAX)))
    }

    /// Whether so much more is no more than the most, of everything of which more is wanted.
    #[inline]
    pub(super) fn leaves_room(&self, more: &Self, most: &Self) -> bool {
        // Without branches: it is on the way of each request.
        let fits = |index: usize| {
            let (held, more, most) = (self.0[index], more.0[index], most.0[index]);
            (more == 0) | (held.saturating_add(more) <= most)
        };
        (0..Resource::ALL.len()).fold(true, |all, index| all & fits(index))
    }

    /// This without the other, which is a part of it.
    #[inline]
    pub(super) fn without(&self, other: &Self) -> Self {
        Self(array::from_fn(|index| less(self.0[index], other.0[index])))
    }

    /// More of a resource, or less of it where that is negative.
    #[inline]
    pub(super) fn turn(&mut self, resource: Resource, change: i64) {
        let held = &mut self.0[resource as usize];
        *held = match change {
            0.. => held.saturating_add(change.unsigned_abs()),
            _ => less(*held, change.unsigned_abs()),
        };
    }
}

impl Index<Resource> for Usage {
    type Output = u64;

    #[inline]
    fn index(&self, resource: Resource) -> &u64 {
        &self.0[resource as usize]
    }
}

/// The difference. To give back more than was taken is a mistake of ours, which tests are to see and no client is to suffer
/// from.
const fn less(held: u64, given_back: u64) -> u64 {
    debug_assert!(held >= given_back, "more was given back than was taken");
    held.saturating_sub(given_back)
}
