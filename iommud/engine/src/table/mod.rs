//! The page-table algorithm (stub).
