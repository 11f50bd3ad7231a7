//! What a rank computes with, wherever it runs: weights, threads, and the groups it joins.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use playhouse_collectives::{AbortHandle, Communicator, GroupSpec, Member, Secret};
use playhouse_engine::{EngineConfig, EngineEvent, StepPort};
use playhouse_layout::GroupKind;
use playhouse_model::{Groups, Model, Weights};
use playhouse_ops::Threads;
use playhouse_types::{DecoderSpec, Epoch};
use tracing::{info, warn};

/// The longest that a rank waits for the others. A step takes far less; a rank that ends wakes the
/// others at once.
const GROUP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a rank keeps to itself that another one was lost while they joined. Whoever started that one
/// knows more about it, ends this rank's epoch, and should be heard first.
const ROOT_CAUSE: Duration = Duration::from_millis(300);

/// A rank that can start engines.
#[derive(Clone)]
pub(crate) struct RankModel {
    pub(crate) spec: DecoderSpec,
    pub(crate) weights: Weights,
    pub(crate) threads: Threads,
}

/// A group to join.
pub(crate) struct GroupSeat {
    pub(crate) name: String,
    pub(crate) secret: Secret,
    pub(crate) members: Vec<Member>,
    pub(crate) rank: usize,
    /// Where ranks of other machines find this one.
    pub(crate) listener: Option<TcpListener>,
}

// === impl RankModel ===

impl RankModel {
    /// Starts an engine that first joins its groups, on its own thread. `abort` ends them, and the joins as
    /// well.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        &self,
        config: EngineConfig,
        groups: Vec<(GroupKind, GroupSeat)>,
        abort: AbortHandle,
        on_event: impl Fn(EngineEvent) + Send + 'static,
    ) -> io::Result<(StepPort, JoinHandle<()>)> {
        let Self { spec, weights, threads } = self.clone();
        let epoch = config.epoch;
        let build = move || {
            let join = |(kind, seat): (GroupKind, GroupSeat)| Ok((kind, seat.join(epoch, &abort)?));
            let groups: Result<Groups, String> = groups.into_iter().map(join).collect();
            let groups = groups?;
            Ok(Arc::new(Model::new(&spec, weights, groups, threads.into())))
        };
        playhouse_engine::spawn(build, config, on_event)
    }
}

// === impl GroupSeat ===

impl GroupSeat {
    /// Joins the group, and waits until all of it are there.
    fn join(self, Epoch(epoch): Epoch, abort: &AbortHandle) -> Result<Communicator, String> {
        let Self { name, secret, members, rank, listener } = self;
        let size = members.len();
        let spec = GroupSpec {
            group: name,
            epoch,
            secret,
            members,
            timeout: GROUP_TIMEOUT,
            buffer_bytes: GroupSpec::collective_buffer_bytes(size),
        };
        Communicator::join(&spec, rank, listener, abort).map_err(|why| {
            if why.is_of_another_rank() {
                abort.wait(ROOT_CAUSE);
            }
            format!("{}: {why}", spec.group)
        })
    }
}

/// Removes the shared memory that killed ranks of this user left on this machine. What cannot be
/// removed is no reason not to start.
pub(crate) fn sweep_shared_memory() {
    match playhouse_collectives::sweep() {
        Ok(0) => {}
        Ok(files) => info!(files, "removed shared memory that killed ranks had left in /dev/shm"),
        Err(why) => {
            warn!("cannot look for shared memory that killed ranks left in /dev/shm: {why}");
        }
    }
}
