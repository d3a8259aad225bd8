//! Firmware tables (stub).
