//! Global commands and register-based invalidation: VT-d 3.1, 10.4.4 to 10.4.8 and 6.5.1.

use super::cache::{ContextScope, IotlbScope};
use super::registers::{ContextCommand, Global, InvalidateAddress, IotlbCommand, RootTableAddress};
use super::unit::{Violation, VtdUnit};

/// The bits of a source-id that each value of FM leaves out of the comparison.
pub(super) const FUNCTION_MASKS: [u16; 4] = [0, 0b100, 0b110, 0b111];

/// Granularities of context-cache invalidation, as CIRG and CAIG and descriptors have them.
pub(super) mod granularity {
    /// Hardware has found the request wrong and done nothing.
    pub(in super::super) const NONE: u8 = 0;
    pub(in super::super) const GLOBAL: u8 = 1;
    pub(in super::super) const DOMAIN: u8 = 2;
    /// A device, for the context cache; pages, for the IOTLB.
    pub(in super::super) const SELECTIVE: u8 = 3;
}

impl VtdUnit {
    /// Writes GCMD_REG.
    pub(super) fn write_global(&mut self, value: Global) {
        if self.command.is_some() {
            self.violate(Violation::CommandWhileBusy);
        }
        let status = self.status;
        let several = [
            value.translation() != status.translation(),
            value.queued_invalidation() != status.queued_invalidation(),
            value.interrupt_remapping() != status.interrupt_remapping(),
            value.compatibility_interrupts() != status.compatibility_interrupts(),
            value.set_root_table(),
            value.set_interrupt_table(),
            value.write_buffer_flush(),
        ];
        if several.into_iter().filter(|&changes| changes).count() > 1 {
            self.violate(Violation::SeveralCommands);
        }
        if value.set_root_table() {
            self.status.set_set_root_table(false);
        }
        if value.write_buffer_flush() && self.config.write_buffer {
            self.status.set_write_buffer_flush(true);
        }
        if value.set_interrupt_table() {
            self.status.set_set_interrupt_table(false);
        }
        self.command = Some((value, self.now));
    }

    /// Does what GCMD_REG asks, if its time has come.
    pub(super) fn step_global(&mut self) {
        let Some((value, since)) = self.command else { return };
        if !self.config.timing.commands.is_done(since, self.now) {
            return;
        }
        let queue = value.queued_invalidation() && self.config.queued_invalidation;
        if self.status.queued_invalidation() && !queue && self.is_queue_busy() {
            // The queue is turned off once what is in it is done.
            return;
        }
        self.command = None;
        if queue != self.status.queued_invalidation() {
            self.status.set_queued_invalidation(queue);
            self.reset_queue(queue);
        }
        if value.set_root_table() {
            self.root = RootTableAddress::from_bits(self.root_register);
            if self.root.mode() != 0 {
                self.violate(Violation::RootTableMode);
            }
            self.invalidated = (false, false);
            self.status.set_set_root_table(true);
        }
        if value.write_buffer_flush() {
            self.write_buffer.clear();
            self.status.set_write_buffer_flush(false);
        }
        if value.translation() != self.status.translation() {
            self.set_translation(value.translation());
        }
        if self.config.interrupt_remapping {
            self.status.set_interrupt_remapping(value.interrupt_remapping());
            self.status.set_compatibility_interrupts(value.compatibility_interrupts());
            if value.set_interrupt_table() {
                self.status.set_set_interrupt_table(true);
            }
        }
    }

    fn set_translation(&mut self, on: bool) {
        self.status.set_translation(on);
        if !on {
            self.faults.rewind();
        } else if !self.status.set_root_table() {
            self.violate(Violation::RootTableNotSet);
        } else if self.invalidated != (true, true) {
            self.violate(Violation::RootTableNotInvalidated);
        }
    }

    /// Writes CCMD_REG.
    pub(super) fn write_context_command(&mut self, value: ContextCommand) {
        if self.context_command.busy() {
            return self.violate(Violation::InvalidationWhileBusy);
        }
        self.context_command = value;
        self.context_since = self.now;
        if value.busy() && self.status.queued_invalidation() {
            self.violate(Violation::RegisterInvalidationWithQueue);
        }
    }

    /// Writes IOTLB_REG.
    pub(super) fn write_iotlb_command(&mut self, value: IotlbCommand) {
        if self.iotlb_command.busy() {
            return self.violate(Violation::InvalidationWhileBusy);
        }
        self.iotlb_command = value;
        self.iotlb_since = self.now;
        if value.busy() && self.status.queued_invalidation() {
            self.violate(Violation::RegisterInvalidationWithQueue);
        }
        if value.busy() && self.context_command.busy() {
            self.violate(Violation::IotlbBeforeContext);
        }
    }

    /// Does what CCMD_REG and IOTLB_REG ask, if its time has come. With the queue on it never comes.
    pub(super) fn step_invalidation(&mut self) {
        if self.status.queued_invalidation() {
            return;
        }
        let timing = self.config.timing.registers;
        if self.context_command.busy() && timing.is_done(self.context_since, self.now) {
            let actual = self.invalidate_contexts();
            self.context_command = self.context_command.with_actual(actual).with_busy(false);
        }
        if self.iotlb_command.busy() && timing.is_done(self.iotlb_since, self.now) {
            let actual = self.invalidate_pages();
            self.iotlb_command = self.iotlb_command.with_actual(actual).with_busy(false);
        }
    }

    fn invalidate_contexts(&mut self) -> u8 {
        let command = self.context_command;
        let requested = command.requested();
        let scope = match requested {
            granularity::GLOBAL => ContextScope::Global,
            granularity::DOMAIN => ContextScope::Domain(command.domain()),
            granularity::SELECTIVE => ContextScope::Device {
                domain: command.domain(),
                source: command.source(),
                mask: FUNCTION_MASKS[usize::from(command.function_mask() & 3)],
            },
            _ => return granularity::NONE,
        };
        self.drop_contexts(scope);
        requested
    }

    fn invalidate_pages(&mut self) -> u8 {
        let domain = self.iotlb_command.domain();
        let address = InvalidateAddress::from_bits(self.invalidate_address);
        let (scope, actual) = match self.iotlb_command.requested() {
            granularity::GLOBAL => (IotlbScope::Global, granularity::GLOBAL),
            granularity::DOMAIN => (IotlbScope::Domain(domain), granularity::DOMAIN),
            granularity::SELECTIVE if !self.config.page_selective => {
                (IotlbScope::Domain(domain), granularity::DOMAIN)
            }
            granularity::SELECTIVE if address.mask() <= self.config.max_address_mask => {
                (pages(domain, address), granularity::SELECTIVE)
            }
            _ => return granularity::NONE,
        };
        self.drop_pages(scope);
        actual
    }

    /// Drops context entries. The write buffer is flushed before, as hardware that has one must (6.8).
    pub(super) fn drop_contexts(&mut self, scope: ContextScope) {
        self.counters.context_invalidations += 1;
        self.write_buffer.clear();
        self.caches.drop_contexts(scope);
        if scope == ContextScope::Global {
            self.invalidated = (true, false);
        }
    }

    /// Drops translations. The write buffer is flushed before, as hardware that has one must (6.8).
    pub(super) fn drop_pages(&mut self, scope: IotlbScope) {
        self.counters.iotlb_invalidations += 1;
        self.write_buffer.clear();
        self.caches.drop_pages(scope);
        if scope == IotlbScope::Global {
            self.invalidated.1 = true;
        }
    }
}

/// The pages that an address with mask and hint names.
pub(super) fn pages(domain: u16, address: InvalidateAddress) -> IotlbScope {
    IotlbScope::Pages {
        domain,
        page: address.page(),
        mask: address.mask(),
        leaf_only: address.leaf_only(),
    }
}
