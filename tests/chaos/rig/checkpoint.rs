//! A checkpoint that can be away for a while.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A copy of a checkpoint that can be taken away. Removed when dropped.
pub(crate) struct Checkpoint {
    here: PathBuf,
    away: PathBuf,
}

// === impl Checkpoint ===

impl Checkpoint {
    pub(crate) fn copy(folder: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("playhouse-chaos-checkpoint-{}-{next}", std::process::id());
        let here = std::env::temp_dir().join(&name);
        fs::create_dir_all(&here).expect("the temporary folder can be written");
        for file in fs::read_dir(folder).expect("the checkpoint is there") {
            let file = file.expect("it can be read");
            fs::copy(file.path(), here.join(file.file_name())).expect("it can be copied");
        }
        Self { away: here.with_extension("away"), here }
    }

    /// Where it is, for a [`Model`](super::load::Model).
    pub(crate) fn folder(&self) -> &'static str {
        self.here.to_str().expect("plain").to_owned().leak()
    }

    pub(crate) fn take_away(&self) {
        fs::rename(&self.here, &self.away).expect("it is here");
    }

    pub(crate) fn bring_back(&self) {
        fs::rename(&self.away, &self.here).expect("it is away");
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.here));
        drop(fs::remove_dir_all(&self.away));
    }
}
