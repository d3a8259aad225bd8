//! How much each client may hold.
//!
//! A handle costs the daemon descriptors: its socket, and its memory if it is a buffer. So do requests that
//! are pending. Users other than root have a small allowance for everything they do; each connection of
//! root's has a large one, so that one driver that leaks handles does not take those of the others; and all
//! together stay below what the daemon may open.

use std::collections::BTreeMap;

use libdma::Error;

use super::endpoint::Token;

/// On whose account something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// What began with this connection of root's.
    Connection(Token),
    /// Everything of this user's.
    User(u32),
}

impl Holder {
    /// The most handles, the connections themselves included.
    pub const fn most_handles(self) -> usize {
        match self {
            Self::Connection(_) => 1024,
            Self::User(_) => 64,
        }
    }

    /// The most requests that are pending.
    pub const fn most_requests(self) -> usize {
        match self {
            Self::Connection(_) => 256,
            Self::User(_) => 16,
        }
    }
}

/// Descriptors that are not a client's: standard streams, the socket, hardware, and those of the moment.
const OWN_DESCRIPTORS: usize = 64;
/// A handle's socket, and its memory.
const HANDLE_DESCRIPTORS: usize = 2;
/// A request's reply socket, and the client's end of the new handle.
const REQUEST_DESCRIPTORS: usize = 2;

#[derive(Debug, Default)]
struct Account {
    handles: usize,
    requests: usize,
}

/// All accounts.
#[derive(Debug)]
pub struct Accounts {
    open: BTreeMap<Holder, Account>,
    /// How many descriptors are left for clients.
    descriptors: usize,
}

impl Accounts {
    /// Accounts for a daemon that may have this many descriptors.
    pub fn new(descriptors: usize) -> Self {
        let descriptors = descriptors.saturating_sub(OWN_DESCRIPTORS);
        Self { open: BTreeMap::new(), descriptors }
    }

    /// Counts a handle.
    ///
    /// # Errors
    ///
    /// [`Error::QuotaExceeded`].
    pub fn add_handle(&mut self, holder: Holder) -> Result<(), Error> {
        let left = self.descriptors.checked_sub(HANDLE_DESCRIPTORS).ok_or(Error::QuotaExceeded)?;
        let account = self.open.entry(holder).or_default();
        if account.handles >= holder.most_handles() {
            return Err(Error::QuotaExceeded);
        }
        account.handles += 1;
        self.descriptors = left;
        Ok(())
    }

    /// A handle is gone.
    pub fn remove_handle(&mut self, holder: Holder) {
        if let Some(account) = self.open.get_mut(&holder) {
            account.handles -= 1;
            self.descriptors += HANDLE_DESCRIPTORS;
            self.tidy(holder);
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyRequests`]: it is enough to wait until some of them are answered.
    pub fn add_request(&mut self, holder: Holder) -> Result<(), Error> {
        let left = self.descriptors.checked_sub(REQUEST_DESCRIPTORS);
        let left = left.ok_or(Error::TooManyRequests)?;
        let account = self.open.entry(holder).or_default();
        if account.requests >= holder.most_requests() {
            return Err(Error::TooManyRequests);
        }
        account.requests += 1;
        self.descriptors = left;
        Ok(())
    }

    /// A request has been answered.
    pub fn remove_request(&mut self, holder: Holder) {
        if let Some(account) = self.open.get_mut(&holder) {
            account.requests -= 1;
            self.descriptors += REQUEST_DESCRIPTORS;
            self.tidy(holder);
        }
    }

    /// Forgets an account with nothing on it.
    fn tidy(&mut self, holder: Holder) {
        if self.open.get(&holder).is_some_and(|it| (it.handles, it.requests) == (0, 0)) {
            self.open.remove(&holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Holder = Holder::Connection(Token(1));
    const USER: Holder = Holder::User(1000);

    fn fill(accounts: &mut Accounts, holder: Holder) -> usize {
        (0..).take_while(|_| accounts.add_handle(holder).is_ok()).count()
    }

    #[test]
    fn r5_one_client_runs_out_before_the_others_do() {
        let mut accounts = Accounts::new(65536);
        assert_eq!(fill(&mut accounts, USER), 64);
        assert_eq!(fill(&mut accounts, ROOT), 1024);
        assert_eq!(accounts.add_handle(USER), Err(Error::QuotaExceeded));
        assert_eq!(accounts.add_handle(Holder::Connection(Token(2))), Ok(()));
        assert_eq!(accounts.add_request(USER), Ok(()));
        accounts.remove_handle(USER);
        assert_eq!(accounts.add_handle(USER), Ok(()));
    }

    #[test]
    fn r5_no_more_requests_of_one_client_wait_than_may_and_those_of_others_do() {
        let mut accounts = Accounts::new(65536);
        for (holder, most) in [(USER, 16), (ROOT, 256)] {
            let taken = (0..).take_while(|_| accounts.add_request(holder).is_ok()).count();
            assert_eq!((taken, accounts.add_request(holder)), (most, Err(Error::TooManyRequests)));
        }
        let other = Holder::Connection(Token(2));
        assert_eq!(accounts.add_request(other), Ok(()));
        accounts.remove_request(USER);
        assert_eq!(accounts.add_request(USER), Ok(()));
    }

    #[test]
    fn r5_all_together_stay_below_what_the_daemon_may_open() {
        let mut accounts = Accounts::new(OWN_DESCRIPTORS + 7);
        assert_eq!(fill(&mut accounts, ROOT), 3);
        assert_eq!(accounts.add_request(ROOT), Err(Error::TooManyRequests));
        accounts.remove_handle(ROOT);
        assert_eq!(accounts.add_request(ROOT), Ok(()));
        assert_eq!(fill(&mut Accounts::new(3), USER), 0);
    }

    #[test]
    fn what_comes_back_is_forgotten() {
        let mut accounts = Accounts::new(1024);
        accounts.add_handle(ROOT).unwrap();
        accounts.add_request(ROOT).unwrap();
        accounts.remove_request(ROOT);
        accounts.remove_handle(ROOT);
        // Once too often does no harm.
        accounts.remove_handle(ROOT);
        assert!(accounts.open.is_empty());
        assert_eq!(accounts.descriptors, 1024 - OWN_DESCRIPTORS);
    }
}
