//! How often a device has started afresh, which its holders notice.
//!
//! A session has a generation, and each handle to its device is of the generation in which its client last said
//! [`Hello`](libdma::protocol::call::Hello). When the device starts afresh under its holders, because it was reset, say, the
//! generation goes up, and each of these handles answers [`Error::DeviceReset`](libdma::Error::DeviceReset) until it is greeted
//! again. Handles to memory and to domains stay as they are: so do those.
//! Generations of a device never come again: the next session goes on from there.

use iommu_engine::platform::Platform;

use crate::handles::handle::{Greeting, HandleId, Object};
use crate::records::SessionRecord;
use crate::service::Service;
use crate::sessions::session::SessionId;

impl<P: Platform> Service<P> {
    /// Has a session's device start afresh: all handles to it are to be greeted again. The new generation, or
    /// nothing if there is no such session.
    pub fn next_generation_of(&mut self, id: SessionId) -> Option<u64> {
        // Some are set aside by each opening. Were there no memory for more, it is those that the next daemon might repeat.
        let _ = self.set_numbers_aside();
        let Self { engine, platform, sessions, .. } = self;
        let device = sessions.sessions.get(&id)?.device;
        let generation = sessions.next_generation(device);
        let session = sessions.sessions.get_mut(&id)?;
        session.generation = generation;
        let record = SessionRecord {
            session: id,
            device,
            domain: session.domain.0,
            generation,
            uid: session.uid,
            secret: session.secret,
        };
        engine.update_record(platform, session.slot, &record);
        for (_, handle) in self.handles.iter_mut() {
            let is_of_it = matches!(handle.object, Object::Device(session) if session == id);
            if is_of_it && handle.greeting == Greeting::Said {
                handle.greeting = Greeting::BeforeReset;
            }
        }
        Some(generation)
    }

    /// The session that a handle is of, also if it was revoked, or closed and something that came of it is open, and whatever
    /// has become of what it is of: that of the device's handle which was opened first.
    pub(crate) fn session_of_handle(&self, handle: HandleId) -> Option<SessionId> {
        match self.handles.opened_for(handle)?.object {
            Object::Device(session) => Some(session),
            _ => None,
        }
    }

    /// The session of what maps something.
    pub(crate) fn session_of_mapper(&self, object: &Object) -> Option<SessionId> {
        match *object {
            Object::Device(session) => Some(session),
            Object::Domain(domain) => self.domains.get(&domain).map(|domain| domain.session),
            _ => None,
        }
    }
}
