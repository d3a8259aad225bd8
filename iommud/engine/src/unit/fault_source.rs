//! How it is learnt that a unit has recorded a fault.

/// How often what a unit has recorded is looked through in a row, before it is left until the next poll: a device
/// that causes faults without end holds nobody up (rule R5).
pub const MOST_ROUNDS: usize = 4;

/// How it is learnt that a unit has recorded a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSource {
    interrupts: bool,
    drained: bool,
}

impl FaultSource {
    /// A unit that interrupts, or one that does not.
    pub const fn new(interrupts: bool) -> Self {
        Self { interrupts, drained: true }
    }

    /// Whether the unit interrupts when it records a fault.
    pub const fn interrupts(self) -> bool {
        self.interrupts
    }

    /// Takes note of whether all that the unit recorded has been read and acknowledged, so that the next fault
    /// interrupts again.
    pub fn set_drained(&mut self, drained: bool) {
        self.drained = drained;
    }

    /// Whether faults would go unseen if the unit were not polled.
    pub const fn wants_polling(self) -> bool {
        !self.interrupts || !self.drained
    }
}
