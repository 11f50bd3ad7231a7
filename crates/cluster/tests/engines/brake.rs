//! Holds engines before their steps for as long as a test wants: what runs cannot end meanwhile.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Off at first, and when dropped.
#[derive(Default)]
pub(crate) struct Brake(Arc<(Mutex<Grip>, Condvar)>);

#[derive(Default)]
struct Grip {
    /// How many steps may still begin; `None` is any number.
    steps: Option<u64>,
    /// The next step fails, also one that is held.
    kill: bool,
}

/// What engines ask before each step.
#[derive(Clone)]
pub(crate) struct Brakes(Arc<(Mutex<Grip>, Condvar)>);

// === impl Brake ===

impl Brake {
    /// For engines.
    pub(crate) fn brakes(&self) -> Brakes {
        Brakes(Arc::clone(&self.0))
    }

    /// So many more steps begin, and no other.
    pub(crate) fn hold_after(&self, steps: u64) {
        self.change(|grip| grip.steps = Some(steps));
    }

    pub(crate) fn release(&self) {
        self.change(|grip| grip.steps = None);
    }

    /// The next step of any engine kills it, or the one that is held.
    pub(crate) fn kill(&self) {
        self.change(|grip| grip.kill = true);
    }

    fn change(&self, change: impl FnOnce(&mut Grip)) {
        change(&mut lock(&self.0.0));
        self.0.1.notify_all();
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.release();
    }
}

// === impl Brakes ===

impl Brakes {
    /// Waits until a step may begin; an error is the death of its engine.
    pub(crate) fn before_a_step(&self) -> Result<(), String> {
        let held = |grip: &mut Grip| grip.steps == Some(0) && !grip.kill;
        let grip = self.0.1.wait_while(lock(&self.0.0), held);
        let mut grip = grip.unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut grip.kill) {
            return Err("killed by the test".to_owned());
        }
        grip.steps = grip.steps.map(|steps| steps - 1);
        Ok(())
    }
}

fn lock(grip: &Mutex<Grip>) -> MutexGuard<'_, Grip> {
    grip.lock().unwrap_or_else(PoisonError::into_inner)
}
