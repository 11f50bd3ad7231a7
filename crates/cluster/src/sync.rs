//! The primitives of the small concurrent pieces. Their model check, in `tests/models.rs`, compiles the
//! same files against primitives that try every interleaving.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use parking_lot::{Mutex, MutexGuard};
