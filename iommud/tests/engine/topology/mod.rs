//! Machines as they are built: bridges, several units, aliases, groups and reserved memory.

mod aliases;
mod groups;
mod hostile;
mod reserved;
mod scopes;
pub(crate) mod table;
pub(crate) mod traffic;
