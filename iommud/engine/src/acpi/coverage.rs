//! Who translates for a device.

/// Who translates for a device. The indices are into the table that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The unit with this index in the table's `units`.
    Unit(usize),
    /// A unit that is refused, with this index in the table's `refused`: the device is not confined.
    Refused(usize),
    /// No unit of the table: the device is not confined.
    Nobody,
}
