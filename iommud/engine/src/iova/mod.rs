//! I/O address allocation (stub).
