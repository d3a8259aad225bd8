//! The table of a domain that is kept although it is empty, given up.

use alloc::vec::Vec;

use super::Engine;
use super::unmapping::Gone;
use crate::completion::Completion;
use crate::domain::{Domain, DomainKey};
use crate::payer::Payer;
use crate::platform::Platform;
use crate::policy::Invalidation;

impl Engine {
    /// Gives up the table of a domain that is kept although it is empty: from the completion on no unit walks it.
    #[cold]
    pub(super) fn give_up_empty_table(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
    ) -> Completion {
        let domain = self.domains.get_mut(&key);
        let given_up = domain.and_then(|it| it.give_up_empty(platform, &mut self.unlinked));
        let Some(change) = given_up else { return Completion::none() };
        let changes = &[change];
        let gone = Gone { key, ranges: &[], payers: &[], changes, when: Invalidation::Strict };
        let forgotten = self.forget(platform, gone, None);
        // A large page may come in its place at once, without a table that is made for it. Units see it when they have
        // forgotten this one.
        if !forgotten.is_none()
            && let Some(domain) = self.domains.get_mut(&key)
        {
            domain.catch_up(&forgotten);
        }
        forgotten
    }

    /// Gives up the empty tables for whose sake such payers pay for one.
    pub fn give_up_empty_tables(
        &mut self,
        platform: &mut impl Platform,
        whose: impl Fn(Payer) -> bool,
    ) {
        let is_theirs = |domain: &Domain| domain.keeps_empty_of(platform, &whose);
        let theirs = self.domains.iter().filter(|(_, domain)| is_theirs(domain));
        let theirs: Vec<DomainKey> = theirs.map(|(key, _)| key).collect();
        for key in theirs {
            self.give_up_empty_table(platform, key);
        }
    }
}
