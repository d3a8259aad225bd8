//! What a person is shown of a guard, by `{:?}`.

use core::fmt;

use dma_types::{Iova, PciAddress};

/// Whose it is, where the device sees it, if it does, and how long it is: what a driver's own log can use, and nothing of
/// what is beneath.
pub(crate) fn guard<'a, 'b>(
    f: &'a mut fmt::Formatter<'b>,
    name: &str,
    device: PciAddress,
    iova: Option<Iova>,
    bytes: u64,
) -> fmt::DebugStruct<'a, 'b> {
    let mut shown = f.debug_struct(name);
    shown.field("device", &device);
    if let Some(iova) = iova {
        shown.field("iova", &iova);
    }
    shown.field("bytes", &bytes);
    shown
}
