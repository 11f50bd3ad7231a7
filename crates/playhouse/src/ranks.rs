//! What a rank computes with, wherever it runs: weights, threads, and the groups it joins.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use playhouse_collectives::{AbortHandle, Communicator, GroupSpec, Member, Secret};
use playhouse_engine::{EngineConfig, EngineEvent, StepPort};
use playhouse_model::{Groups, Model, Weights};
use playhouse_ops::Threads;
use playhouse_types::{DecoderSpec, Epoch};

/// The longest that a rank waits for the others. A step takes far less; a rank that ends wakes the
/// others at once.
const GROUP_TIMEOUT: Duration = Duration::from_secs(60);

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

/// Ends the groups of an engine, those that it joins later too.
#[derive(Clone, Default)]
pub(crate) struct GroupAborts {
    joined: Arc<Mutex<Joined>>,
}

#[derive(Default)]
struct Joined {
    groups: Vec<AbortHandle>,
    aborted: bool,
}

// === impl RankModel ===

impl RankModel {
    /// Starts an engine that first joins its groups, on its own thread: the ranks of its stage, and
    /// its chain of stages.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        &self,
        config: EngineConfig,
        [tensor, pipeline]: [GroupSeat; 2],
        aborts: GroupAborts,
        on_event: impl Fn(EngineEvent) + Send + 'static,
    ) -> io::Result<(StepPort, JoinHandle<()>)> {
        let Self { spec, weights, threads } = self.clone();
        let epoch = config.epoch;
        let build = move || {
            let groups = Groups {
                tensor: aborts.join(tensor, epoch)?,
                pipeline: aborts.join(pipeline, epoch)?,
            };
            Ok(Arc::new(Model::new(&spec, weights, groups, threads)))
        };
        playhouse_engine::spawn(build, config, on_event)
    }
}

// === impl GroupAborts ===

impl GroupAborts {
    /// Joins a group, and waits until all of it are there.
    fn join(&self, seat: GroupSeat, Epoch(epoch): Epoch) -> Result<Communicator, String> {
        let GroupSeat { name, secret, members, rank, listener } = seat;
        let size = members.len();
        if size == 1 {
            return Ok(Communicator::solo());
        }
        let spec = GroupSpec {
            group: name,
            epoch,
            secret,
            members,
            timeout: GROUP_TIMEOUT,
            buffer_bytes: GroupSpec::collective_buffer_bytes(size),
        };
        let joined = match listener {
            Some(listener) => Communicator::join_on(listener, &spec, rank),
            None => Communicator::join(&spec, rank),
        };
        let group = joined.map_err(|why| format!("{}: {why}", spec.group))?;
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if joined.aborted {
            group.abort_handle().abort();
        }
        joined.groups.push(group.abort_handle());
        Ok(group)
    }

    /// Ends them.
    pub(crate) fn abort(&self) {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        joined.aborted = true;
        for group in &joined.groups {
            group.abort();
        }
    }
}
