//! The model, threads and groups with which a rank computes, in whatever process.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use playhouse_collectives::AbortHandle;
use playhouse_engine::{EngineConfig, EngineEvent, StepPort};
use playhouse_layout::GroupKind;
use playhouse_model::{Groups, Model, Weights};
use playhouse_ops::Threads;
use playhouse_types::DecoderSpec;
use tracing::{info, warn};

use crate::group_place::GroupPlace;

/// A rank that can start engines.
#[derive(Clone)]
pub(crate) struct RankModel {
    pub(crate) spec: DecoderSpec,
    pub(crate) weights: Weights,
    pub(crate) threads: Threads,
}

// === impl RankModel ===

impl RankModel {
    /// Starts an engine that first joins its groups, on its own thread. `abort` ends the groups, and the
    /// joins as well.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        &self,
        config: EngineConfig,
        groups: Vec<(GroupKind, GroupPlace)>,
        abort: AbortHandle,
        on_event: impl Fn(EngineEvent) + Send + 'static,
    ) -> io::Result<(StepPort, JoinHandle<()>)> {
        let Self { spec, weights, threads } = self.clone();
        let epoch = config.epoch;
        let build = move || {
            let join =
                |(kind, place): (GroupKind, GroupPlace)| Ok((kind, place.join(epoch, &abort)?));
            let groups: Result<Groups, String> = groups.into_iter().map(join).collect();
            let groups = groups?;
            Ok(Arc::new(Model::new(&spec, weights, groups, threads.into())))
        };
        playhouse_engine::spawn(build, config, on_event)
    }
}

/// Removes the shared memory that killed ranks of this user left on this machine. Failures are ignored,
/// because they are no reason not to start.
pub fn sweep_shared_memory() {
    match playhouse_collectives::sweep() {
        Ok(0) => {}
        Ok(files) => info!(files, "removed shared memory that killed ranks had left in /dev/shm"),
        Err(why) => {
            warn!("cannot look for shared memory that killed ranks left in /dev/shm: {why}");
        }
    }
}
