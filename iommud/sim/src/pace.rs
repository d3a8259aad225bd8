//! How fast hardware is, and whether it is there at all.

/// When something that a unit was told to do is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// At once.
    #[default]
    Immediate,
    /// This many nanoseconds later.
    After(u64),
    /// Never: the unit is stuck.
    Never,
}

impl Completion {
    /// Whether something asked for at `since` is done at `now`, both in nanoseconds.
    pub(crate) fn is_done(self, since: u64, now: u64) -> bool {
        match self {
            Self::Immediate => true,
            Self::After(nanoseconds) => now >= since.saturating_add(nanoseconds),
            Self::Never => false,
        }
    }
}

/// Whether the registers answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// They do.
    #[default]
    Working,
    /// They read as all ones, as when there is no unit.
    AllOnes,
    /// They read as zero, as when firmware has hidden the unit.
    AllZeroes,
}
