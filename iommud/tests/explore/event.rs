//! What can happen.

use crate::search::Bound;

/// One thing that a client does, or hardware, or iommud by itself, or that becomes of iommud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// This client opens its device.
    Open(usize),
    /// It allocates a buffer, which is not mapped.
    New(usize),
    /// It maps this buffer of its own, strictly or not.
    Map(usize, usize, bool),
    /// It unmaps it, as it was mapped.
    Unmap(usize, usize),
    /// It gives the buffer up.
    Drop(usize, usize),
    /// The first client lets the second have its first buffer, mapped for the second's device.
    Lend,
    /// The first client derives a restricted handle of its device's, and by that allocates a buffer, mapped.
    Part,
    /// The first client revokes what was derived of one of its handles.
    Revoke(From),
    /// The first client makes a domain.
    Domain,
    /// It maps its first buffer there.
    MapThere,
    /// It unmaps it there.
    UnmapThere,
    /// It gives the domain up.
    DropDomain,
    /// The device of this client moves into the domain.
    Enter(usize),
    /// And back into its own.
    Leave(usize),
    /// A client dies: its handles are closed, the device's first or last.
    Die(usize, Order),
    /// This unit does all that it was asked for.
    Confirm(usize),
    /// iommud looks at its units, and answers what pended.
    Poll,
    /// Units do all that they were asked for, and iommud looks, until nothing is under way: what else takes five events.
    Settle,
    /// So much time passes that unmaps which were gathered are due, and that nobody may resume a session any more.
    Wait,
    /// iommud dies, and its successor adopts what it had.
    Restart,
    /// A client resumes its session, reclaims what it had, and settles: after all that is under way, if units have yet to
    /// forget what they knew before a restart.
    Resume(usize),
}

impl Event {
    /// Whether iommud does something, and may die over it.
    pub(crate) const fn is_iommuds(self) -> bool {
        !matches!(self, Self::Confirm(_) | Self::Restart | Self::Settle)
    }
}

/// The handle that it revokes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum From {
    /// That of its first buffer: what the second was lent of it.
    Buffer,
    /// The restricted one: what was allocated by it.
    Part,
    /// That of its device: all of its buffers, whatever was lent of them, and its domain.
    Device,
}

/// In which order handles are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    DeviceFirst,
    DeviceLast,
}

/// An event, and if iommud dies in the midst of it, after how many of its accesses to tables and registers. What it had
/// done by then is done, and its successor adopts it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) event: Event,
    pub(crate) dies_after: Option<u64>,
}

impl core::fmt::Debug for Step {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.dies_after {
            None => write!(f, "{:?}", self.event),
            Some(accesses) => write!(f, "{:?} (dead after {accesses})", self.event),
        }
    }
}

impl core::convert::From<Event> for Step {
    fn from(event: Event) -> Self {
        Self { event, dies_after: None }
    }
}

/// How many buffers each client has at most: the second one of its own, or one that it was lent.
pub(crate) const BUFFERS: [usize; 2] = [2, 1];

/// The most of these.
pub(crate) const MOST: usize = 2;

/// All of them, whether they can happen or not.
pub(crate) fn all(bound: &Bound) -> Vec<Event> {
    let mut all = Vec::new();
    for (client, most) in BUFFERS.into_iter().enumerate().take(bound.clients) {
        all.extend([Event::Open(client), Event::New(client)]);
        for buffer in 0..most {
            all.extend([true, false].map(|strict| Event::Map(client, buffer, strict)));
            all.extend([Event::Unmap(client, buffer), Event::Drop(client, buffer)]);
        }
        all.push(Event::Die(client, Order::DeviceFirst));
        if bound.deaths > 0 {
            all.push(Event::Resume(client));
        }
        if bound.domains {
            all.extend([Event::Enter(client), Event::Leave(client)]);
        }
    }
    all.push(Event::Die(0, Order::DeviceLast));
    if bound.domains {
        all.extend([Event::Domain, Event::MapThere, Event::UnmapThere, Event::DropDomain]);
    }
    if bound.parts {
        all.extend([Event::Part, Event::Revoke(From::Part)]);
    }
    if bound.deaths > 0 {
        all.extend([Event::Restart, Event::Settle]);
    }
    all.extend([From::Buffer, From::Device].map(Event::Revoke));
    all.extend([Event::Lend, Event::Confirm(0), Event::Confirm(1), Event::Poll, Event::Wait]);
    all
}
