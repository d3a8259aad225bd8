//! Requests that reach another device without ever getting to a unit: PCI Express Base Specification 5.0, 6.12
//! (Access Control Services).

use dma_types::PciAddress;

use super::access::Machine;
use super::topology::bridges;
use crate::memory::Memory;
use crate::pci::Function;

impl<M: Memory> Machine<M> {
    /// Whether a request of `source` to a register of `target` goes there directly: nothing on its way to
    /// where the ways of the two part turns it upwards, to the root complex and its unit.
    pub fn is_peer(&self, source: PciAddress, target: PciAddress) -> bool {
        let is_bridge = |at| self.functions.get(&at).is_some_and(|it| it.bridge_kind().is_some());
        if source == target || source.segment() != target.segment() || is_bridge(source) {
            // What a bridge itself asks goes upwards.
            return false;
        }
        let redirects =
            |at: PciAddress| self.functions.get(&at).is_some_and(Function::redirects_requests);
        let same_device = (source.bus(), source.device()) == (target.bus(), target.device());
        if same_device {
            return !redirects(source);
        }
        let way = |to| -> Vec<_> { bridges(&self.functions, to).map(|(at, _)| at).collect() };
        let (up, down) = (way(source), way(target));
        let shared = up.iter().zip(&down).take_while(|(a, b)| a == b).count();
        // What shares no bridge meets in the root complex, which asks the unit.
        shared > 0 && !redirects(source) && !up[shared..].iter().any(|&bridge| redirects(bridge))
    }
}
