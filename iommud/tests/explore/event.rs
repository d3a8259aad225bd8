//! What can happen.

/// One thing that a client does, or hardware, or iommud by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// This client opens its device.
    Open(usize),
    /// It allocates a buffer of one page, which is not mapped.
    New(usize),
    /// It maps this buffer of its own, strictly or not.
    Map(usize, usize, bool),
    /// It unmaps it, as it was mapped.
    Unmap(usize, usize),
    /// It gives the buffer up.
    Drop(usize, usize),
    /// The first client lets the second have its first buffer, mapped for the second's device.
    Lend,
    /// The first client revokes what was derived of one of its handles.
    Revoke(From),
    /// It dies: its handles are closed, the device's first or last.
    Die(usize, Order),
    /// This unit does all that it was asked for.
    Confirm(usize),
    /// iommud looks at its units, and answers what pended.
    Poll,
    /// So much time passes that unmaps which were gathered are due.
    Wait,
}

/// The handle that it revokes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum From {
    /// That of its first buffer: what the second was lent of it.
    Buffer,
    /// That of its device: all of its buffers, and whatever was lent of them.
    Device,
}

/// In which order handles are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    DeviceFirst,
    DeviceLast,
}

/// How many buffers each client has at most: the second one of its own, or one that it was lent.
pub(crate) const BUFFERS: [usize; 2] = [2, 1];

/// The most of these.
pub(crate) const MOST: usize = 2;

/// All of them, whether they can happen or not.
pub(crate) fn all(clients: usize) -> Vec<Event> {
    let mut all = Vec::new();
    for (client, most) in BUFFERS.into_iter().enumerate().take(clients) {
        all.extend([Event::Open(client), Event::New(client)]);
        for buffer in 0..most {
            all.extend([true, false].map(|strict| Event::Map(client, buffer, strict)));
            all.extend([Event::Unmap(client, buffer), Event::Drop(client, buffer)]);
        }
        all.push(Event::Die(client, Order::DeviceFirst));
    }
    all.push(Event::Die(0, Order::DeviceLast));
    all.extend([From::Buffer, From::Device].map(Event::Revoke));
    all.extend([Event::Lend, Event::Confirm(0), Event::Confirm(1), Event::Poll, Event::Wait]);
    all
}
