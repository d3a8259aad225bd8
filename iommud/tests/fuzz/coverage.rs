//! Which requests were made, and what came of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use libdma::Error;
use libdma::protocol::call::Opcode;
use libdma::protocol::derive::Kind;

use crate::world::Ask;

/// How often a request was done, and how often refused, and with which errors, by their errno.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) done: u64,
    pub(crate) refused: u64,
    pub(crate) errors: BTreeMap<u16, u64>,
}

/// The same of each, by [`name`]. It is added to that of all worlds in the end.
#[derive(Debug, Default)]
pub(crate) struct Coverage(BTreeMap<(bool, u64), Outcomes>);

static ALL: Mutex<BTreeMap<(bool, u64), Outcomes>> = Mutex::new(BTreeMap::new());

/// What a request is called, if it is one.
fn name((is_call, number): (bool, u64)) -> Option<String> {
    match is_call {
        true => Opcode::try_from(number).ok().map(|opcode| format!("{opcode:?}")),
        false => Kind::try_from(number as u32).ok().map(|kind| format!("{kind:?}, a handle")),
    }
}

impl Coverage {
    /// Takes note of a request; `bytes` are those that were sent, or the answer to a call.
    pub(crate) fn count(&mut self, ask: Ask, bytes: &[u8], refused: Option<Error>) {
        let which = match ask {
            Ask::Call(opcode) => (true, opcode),
            Ask::Derive => {
                let kind = bytes.get(..4).and_then(|it| it.try_into().ok());
                (false, kind.map_or(0, u32::from_le_bytes).into())
            }
        };
        // Not each number that is none.
        if which.1 > 0x200 {
            return;
        }
        let outcomes = self.0.entry(which).or_default();
        match refused {
            None => outcomes.done += 1,
            Some(error) => {
                outcomes.refused += 1;
                *outcomes.errors.entry(error.errno()).or_default() += 1;
            }
        }
    }
}

impl Drop for Coverage {
    fn drop(&mut self) {
        let all = &mut *ALL.lock().unwrap_or_else(PoisonError::into_inner);
        for (which, outcomes) in core::mem::take(&mut self.0) {
            let sum = all.entry(which).or_default();
            sum.done += outcomes.done;
            sum.refused += outcomes.refused;
            for (error, times) in outcomes.errors {
                *sum.errors.entry(error).or_default() += times;
            }
        }
    }
}

/// What all worlds that have ended were asked, by the names of the requests. Those that nobody has made are there, too.
pub(crate) fn all() -> BTreeMap<String, Outcomes> {
    let counted = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let calls = (0..0x200).map(|number| (true, number));
    let every = calls.chain((0..0x200).map(|number| (false, number)));
    let row = |which| Some((name(which)?, counted.get(&which).cloned().unwrap_or_default()));
    every.filter_map(row).collect()
}
