//! Variables by which whoever started this process names descriptors that it made over to it.

use std::collections::BTreeSet;
use std::env;
use std::sync::{Mutex, PoisonError};

/// Variables whose descriptors have been taken over.
static TAKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What a variable says, if it is set and nobody has taken that before: a descriptor is made over once, and its number may
/// be another's when it is closed.
pub(crate) fn take(variable: &str) -> Option<String> {
    let value = env::var(variable).ok()?;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    taken.insert(variable.into()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_variable_names_is_taken_once() {
        // Cargo sets it for every test.
        let set = "CARGO_PKG_NAME";
        assert_eq!(take(set).as_deref(), Some("driver-platform"));
        assert_eq!(take(set), None);
        assert_eq!(take("NO_SUCH_VARIABLE_ANYWHERE"), None);
    }
}
