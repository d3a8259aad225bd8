//! The allocator as a whole: by example, against hostile input, and against a model.

mod examples;
mod hostile;
mod model;
