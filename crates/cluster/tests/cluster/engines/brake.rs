//! Holds engines before their steps for as long as a test wants: what runs cannot end meanwhile.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Off at first, and when dropped.
#[derive(Default)]
pub(crate) struct Brake(Arc<(Mutex<Grip>, Condvar)>);

#[derive(Default)]
struct Grip {
    /// The number of steps that may still begin; `None` for any number.
    steps: Option<u64>,
    /// The next step fails, also one that is held.
    kill: bool,
}

/// The check that engines make before each step.
#[derive(Clone)]
pub(crate) struct Brakes(Arc<(Mutex<Grip>, Condvar)>);

// === impl Brake ===

impl Brake {
    /// For engines.
    pub(crate) fn brakes(&self) -> Brakes {
        Brakes(Arc::clone(&self.0))
    }

    /// Lets this number of further steps begin, and no other.
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
        change(&mut self.0.0.lock());
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
        let mut grip = self.0.0.lock();
        self.0.1.wait_while(&mut grip, held);
        if std::mem::take(&mut grip.kill) {
            return Err("killed by the test".to_owned());
        }
        grip.steps = grip.steps.map(|steps| steps - 1);
        Ok(())
    }
}
