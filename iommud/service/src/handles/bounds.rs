//! What the mappings of a handle are within.
//!
//! A device's or a domain's handle may be derived within bounds, and so is whatever comes of it. Bounds only narrow (rule R3):
//! those of a derived handle are within those of the handle that it was derived from.

use dma_types::{Access, Iova, PAGE_SIZE};
use libdma::Error;
use libdma::protocol::call::access_from_code;
use libdma::protocol::derive::Restrict;

use crate::account::AccountId;

/// What the mappings of a handle are within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most that a device may do with what is mapped.
    pub access: Access,
    /// The first I/O address that a mapping may touch.
    pub first: Iova,
    /// The last one.
    pub last: Iova,
    /// The account that has a quota of its own, if the handle has one: what the handle knows is what is on that account, and
    /// on those below.
    pub account: Option<AccountId>,
}

impl Bounds {
    /// All that a session may have.
    pub const NONE: Self = Self {
        access: Access::ReadWrite,
        first: Iova::new(0),
        last: Iova::new(u64::MAX),
        account: None,
    };

    /// Whether these addresses may be mapped.
    pub fn contain(&self, iova: Iova, bytes: u64) -> bool {
        let last = bytes.checked_sub(1).and_then(|rest| iova.checked_add(rest));
        iova >= self.first && last.is_some_and(|last| last <= self.last)
    }

    /// What is left of an access that is allowed otherwise.
    pub fn limit(&self, allowed: Option<Access>) -> Option<Access> {
        let allowed = allowed?;
        let reads = allowed.may_read() && self.access.may_read();
        let writes = allowed.may_write() && self.access.may_write();
        Access::from_permissions(reads, writes)
    }

    /// The bounds that are asked for, on this account.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if they are not within these, [`Error::BadValue`], [`Error::BadAlignment`].
    pub fn within(&self, request: &Restrict) -> Result<Self, Error> {
        let access = access_from_code(request.access.get())?;
        let (first, last) = match (request.first.get(), request.last.get()) {
            (0, u64::MAX) => (self.first, self.last),
            (first, last) => (Iova::new(first), Iova::new(last)),
        };
        let is_end = last.get() == u64::MAX || (last.get() + 1).is_multiple_of(PAGE_SIZE);
        if !first.is_aligned(PAGE_SIZE) || !is_end {
            return Err(Error::BadAlignment);
        }
        if first > last {
            return Err(Error::BadValue);
        }
        if first < self.first || last > self.last || !access.is_within(self.access) {
            return Err(Error::NotPermitted);
        }
        Ok(Self { access, first, last, account: self.account })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn request(access: u32, first: u64, last: u64) -> Restrict {
        Restrict {
            access: access.into(),
            first: first.into(),
            last: last.into(),
            ..Restrict::new_zeroed()
        }
    }

    #[test]
    fn r3_bounds_only_narrow() {
        let all = Bounds::NONE.within(&request(3, 0, u64::MAX)).unwrap();
        assert_eq!(all, Bounds::NONE);
        let some = all.within(&request(1, 0x1000, 0x4fff)).unwrap();
        assert_eq!(
            (some.access, some.first.get(), some.last.get()),
            (Access::Read, 0x1000, 0x4fff)
        );
        assert_eq!(some.within(&request(1, 0, u64::MAX)), Ok(some), "all that there is");
        assert!(some.within(&request(1, 0x2000, 0x2fff)).is_ok());
        for (access, first, last) in
            [(3, 0x1000, 0x4fff), (2, 0x1000, 0x4fff), (1, 0, 0x4fff), (1, 0x1000, 0x5fff)]
        {
            assert_eq!(some.within(&request(access, first, last)), Err(Error::NotPermitted));
        }
        for (iova, bytes, contained) in [
            (0x1000, 0x4000, true),
            (0x1000, 0x5000, false),
            (0, 0x1000, false),
            (0x4000, 0x1000, true),
            (0x1000, 0, false),
            (0x1000, u64::MAX, false),
        ] {
            assert_eq!(some.contain(Iova::new(iova), bytes), contained, "{iova:#x} {bytes:#x}");
        }
    }

    #[test]
    fn r5_bounds_that_make_no_sense_are_refused() {
        let none = Bounds::NONE;
        assert_eq!(none.within(&request(0, 0, u64::MAX)), Err(Error::BadValue));
        assert_eq!(none.within(&request(4, 0, u64::MAX)), Err(Error::BadValue));
        assert_eq!(none.within(&request(3, 1, 0xfff)), Err(Error::BadAlignment));
        assert_eq!(none.within(&request(3, 0, 0x1000)), Err(Error::BadAlignment));
        assert_eq!(none.within(&request(3, 0x2000, 0xfff)), Err(Error::BadValue));
    }
}
