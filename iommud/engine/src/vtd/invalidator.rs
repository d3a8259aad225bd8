//! How a unit is made to forget, by its queue or by its registers, without waiting.
//!
//! What is asked goes through one line: flushing the write buffers where a unit needs that (6.8), the
//! invalidations, and at the end of each submission a fence that stands for its [`Ticket`]. The queue takes
//! as much of the line as it has room for; the registers take one request at a time, and the next when the
//! unit is polled and has finished. Either way the tickets of a unit are confirmed in order.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::descriptor::{Descriptor, WaitDescriptor};
use super::invalidation::{Invalidation, RegisterRequest};
use super::queue::Queue;
use super::registers::{
    ContextCommand, Drain, FaultStatus, GlobalCommand, GlobalStatus, Granularity, QueueAddress,
    RegisterFile,
};
use crate::completion::Ticket;
use crate::platform::{Instant, Platform, TableFrames};
use crate::unit::{Tickets, UnitFailure};

/// One thing in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    FlushWriteBuffer,
    Invalidate(Invalidation),
    Fence(Ticket),
}

/// A request that occupies registers until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    WriteBuffer,
    Context,
    Iotlb,
}

/// A unit's way of invalidating.
#[derive(Debug)]
pub struct Invalidator {
    /// The queue, or `None` where requests go through the registers.
    queue: Option<Queue>,
    drain: Drain,
    needs_write_buffer_flush: bool,
    /// What is on in the unit. A command says it again, and not what the unit says of itself: what it makes up is not to turn
    /// anything on, or translation off (rules R1 and R5).
    on: GlobalCommand,
    line: VecDeque<Command>,
    running: Option<Running>,
    tickets: Tickets,
    /// The last ticket whose fence is in the queue or was. What is in the line yet nobody can have confirmed.
    issued: Ticket,
}

impl Invalidator {
    /// By a queue if the unit has one (`queued`), else by registers. `None` if there are no frames for
    /// the queue.
    pub fn new(
        frames: &mut impl TableFrames,
        queued: bool,
        drain: Drain,
        needs_write_buffer_flush: bool,
    ) -> Option<Self> {
        let queue = if queued { Some(Queue::new(frames)?) } else { None };
        Some(Self {
            queue,
            drain,
            needs_write_buffer_flush,
            on: GlobalCommand::new(),
            line: VecDeque::new(),
            running: None,
            tickets: Tickets::default(),
            issued: Ticket(0),
        })
    }

    /// Gives its frames back. Only if no unit has been told of them.
    pub fn free(self, frames: &mut impl TableFrames) {
        if let Some(queue) = self.queue {
            queue.free(frames);
        }
    }

    /// Takes note of what is on in the unit.
    pub fn keep(&mut self, on: GlobalCommand) {
        self.on = on;
    }

    /// Where the queue is, if there is one.
    pub fn queue_address(&self) -> Option<QueueAddress> {
        self.queue.as_ref().map(Queue::address)
    }

    /// Every ticket up to this one is confirmed.
    #[inline]
    pub fn confirmed(&self) -> Ticket {
        self.tickets.confirmed()
    }

    /// How many tickets are not confirmed.
    pub fn open(&self) -> usize {
        self.tickets.open()
    }

    /// Asks for what is a single descriptor where nothing stands before it: the ticket, or no ticket if the unit has done it by now.
    /// `None`, with nothing done, where it takes more, as [`submit`](Self::submit) does.
    #[inline]
    pub fn ask(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        request: [u64; 2],
    ) -> Option<Option<Ticket>> {
        let queue = self.queue.as_mut()?;
        if self.needs_write_buffer_flush || !self.line.is_empty() {
            return None;
        }
        let ticket = self.tickets.next();
        if !queue.ask(platform, registers, request, ticket) {
            return self.ask_with_a_look(platform, registers, request);
        }
        self.issued = ticket;
        if queue.status(platform) == ticket.0 as u32 {
            self.tickets.give_out_confirmed(ticket);
            return Some(None);
        }
        self.tickets.give_out();
        self.not_at_once(platform);
        Some(self.unconfirmed(ticket))
    }

    /// The same where it takes a look whether there is room, or a mark.
    #[cold]
    fn ask_with_a_look(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        request: [u64; 2],
    ) -> Option<Option<Ticket>> {
        if !self.queue.as_mut()?.push(platform, registers, request) {
            return None;
        }
        let ticket = self.fence(platform, registers);
        Some(self.unconfirmed(ticket))
    }

    /// A ticket, unless it is confirmed.
    fn unconfirmed(&self, ticket: Ticket) -> Option<Ticket> {
        (self.confirmed() < ticket).then_some(ticket)
    }

    /// Has the unit say when it is through with all that it was asked, for which the ticket stands.
    fn fence(&mut self, platform: &mut impl Platform, registers: &RegisterFile) -> Ticket {
        let ticket = self.tickets.give_out();
        self.put(platform, registers, Command::Fence(ticket));
        if let Some(queue) = &mut self.queue {
            queue.announce(platform, registers);
        }
        self.not_at_once(platform);
        ticket
    }

    /// Waits for what was asked for last. What was asked before may be confirmed by now.
    #[inline(never)]
    fn not_at_once(&mut self, platform: &impl Platform) {
        self.collect(platform);
        if self.tickets.confirmed() < self.tickets.submitted() {
            self.tickets.wait(platform.now());
        }
    }

    /// Asks for these invalidations, and gives the ticket that stands for all of them. Often it is
    /// confirmed when this returns.
    pub fn submit(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        invalidations: impl IntoIterator<Item = Invalidation>,
    ) -> Ticket {
        if self.needs_write_buffer_flush {
            self.put(platform, registers, Command::FlushWriteBuffer);
        }
        for invalidation in invalidations {
            self.put(platform, registers, Command::Invalidate(invalidation));
        }
        self.fence(platform, registers)
    }

    /// Goes on with the line, and takes note of what is confirmed.
    ///
    /// # Errors
    ///
    /// [`UnitFailure::Vanished`], [`UnitFailure::QueueStopped`] and [`UnitFailure::InvalidationRefused`]: after
    /// any of them, nothing that is open will ever be confirmed.
    pub fn poll(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
    ) -> Result<(), UnitFailure> {
        if self.open() == 0 {
            return Ok(());
        }
        let now = platform.now();
        loop {
            if let Some(running) = self.running {
                if !finished(running, platform, registers)? {
                    break;
                }
                self.running = None;
                self.tickets.progress(now);
            }
            let Some(command) = self.line.pop_front() else { break };
            if !self.issue(platform, registers, command) {
                self.line.push_front(command);
                break;
            }
        }
        if let Some(queue) = &mut self.queue {
            queue.announce(platform, registers);
        }
        self.collect(platform);
        if self.open() > 0 {
            let status: FaultStatus = registers.read(platform);
            if status.into_bits() == u32::MAX {
                return Err(UnitFailure::Vanished);
            }
            if self.queue.is_some() && (status.queue_error() || status.time_out()) {
                return Err(UnitFailure::QueueStopped);
            }
        }
        Ok(())
    }

    /// For how long the unit has done nothing of what it is asked for; see [`Tickets::stuck_for`].
    pub fn stuck_for(&self, now: Instant) -> Option<Duration> {
        self.tickets.stuck_for(now)
    }

    /// Whether anything has been submitted.
    pub fn is_unused(&self) -> bool {
        self.tickets.is_unused()
    }

    /// Does this at once if nothing is before it and it can be, else puts it in the line.
    #[inline]
    fn put(&mut self, platform: &mut impl Platform, registers: &RegisterFile, command: Command) {
        if !self.line.is_empty()
            || self.running.is_some()
            || !self.issue(platform, registers, command)
        {
            self.line.push_back(command);
        }
    }

    /// Begins a command; false if it must wait.
    #[inline]
    fn issue(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        command: Command,
    ) -> bool {
        let Some(queue) = &mut self.queue else {
            self.issue_by_registers(platform, registers, command);
            return true;
        };
        match command {
            Command::Invalidate(invalidation) => {
                let request = Descriptor::invalidating(invalidation, self.drain);
                queue.push(platform, registers, request.words())
            }
            Command::Fence(ticket) => {
                let wait = WaitDescriptor::writing(ticket.0 as u32, queue.status_address());
                let has_room = queue.push(platform, registers, Descriptor::from(wait).words());
                if has_room {
                    self.issued = ticket;
                }
                has_room
            }
            // No queue carries that.
            Command::FlushWriteBuffer => {
                self.issue_by_registers(platform, registers, command);
                true
            }
        }
    }

    /// Begins a command by the registers.
    #[inline(never)]
    fn issue_by_registers(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        command: Command,
    ) {
        match command {
            Command::FlushWriteBuffer => {
                registers.write(platform, self.on.with_flush_write_buffer(true));
                self.running = Some(Running::WriteBuffer);
            }
            Command::Invalidate(invalidation) => {
                self.running =
                    Some(invalidate_by_registers(platform, registers, invalidation, self.drain));
            }
            Command::Fence(ticket) => self.tickets.confirm(ticket, || platform.now()),
        }
    }

    /// Reads how far the queue is.
    #[inline]
    fn collect(&mut self, platform: &impl Platform) {
        if let Some(queue) = &self.queue {
            let status = queue.status(platform);
            if let Some(ticket) = Queue::ticket(status, self.tickets.confirmed(), self.issued) {
                self.tickets.confirm(ticket, || platform.now());
            }
        }
    }
}

/// Sets a request going by the registers (6.5.1).
fn invalidate_by_registers(
    platform: &mut impl Platform,
    registers: &RegisterFile,
    invalidation: Invalidation,
    drain: Drain,
) -> Running {
    match invalidation.for_registers(drain) {
        RegisterRequest::Context(command) => {
            registers.write(platform, command);
            Running::Context
        }
        RegisterRequest::Iotlb { address, command } => {
            if let Some(address) = address {
                registers.write_invalidate_address(platform, address);
            }
            registers.write_iotlb(platform, command);
            Running::Iotlb
        }
    }
}

/// Whether a request by the registers is done. In a unit that is gone it never is.
fn finished(
    running: Running,
    platform: &mut impl Platform,
    registers: &RegisterFile,
) -> Result<bool, UnitFailure> {
    let (busy, done) = match running {
        Running::WriteBuffer => {
            let status: GlobalStatus = registers.read(platform);
            return Ok(!status.flushing_write_buffer());
        }
        Running::Context => {
            let command: ContextCommand = registers.read(platform);
            (command.invalidate(), command.done())
        }
        Running::Iotlb => {
            let command = registers.read_iotlb(platform);
            (command.invalidate(), command.done())
        }
    };
    match done {
        _ if busy => Ok(false),
        Granularity::Refused => Err(UnitFailure::InvalidationRefused),
        _ => Ok(true),
    }
}
