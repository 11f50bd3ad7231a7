//! Moves: the steps from the state of a cluster to the state that operators ask for.
//!
//! - **MV-1** moves that are carried out in order lead to what is asked for, and no move takes a device
//!   before it is free.
//! - **MV-2** a replica leaves only after its successor serves, as far as devices allow; without
//!   `force` no moves leave nothing to serve afterwards.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use playhouse_types::{ParallelSpec, ReplicaId};

use crate::operation::{Change, Desired, Refused, layout_text, ranks_of};
use crate::status::ReplicaState;

/// How long the requests of a replica that leaves may go on there, unless an operator gives a time.
/// After that they go on elsewhere: nothing is lost, but their prompts are computed again.
const DRAIN: Duration = Duration::from_secs(30);

/// A single step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Start a replica and wait until it serves.
    Start { id: ReplicaId, layout: ParallelSpec },
    /// Drain a replica and wait until it has no ranks; its requests may be left with it.
    Drain { id: ReplicaId, deadline: Duration },
    /// End a drained replica once its requests have gone elsewhere.
    Remove { id: ReplicaId },
    /// Start a drained or failed replica again, and wait until it serves.
    Revive { id: ReplicaId },
    /// Give a node no more ranks, or let it have some again.
    Cordon { node: String, cordoned: bool },
    /// Forget a node.
    Forget { node: String },
}

/// The actual state: the replicas, devices and nodes that there are.
#[derive(Clone, Debug)]
pub(crate) struct Actual {
    /// The replicas, ordered by id.
    pub(crate) replicas: Vec<ActualReplica>,
    /// The number of devices without a rank, for every known node that may have ranks.
    pub(crate) free_devices: Vec<(String, usize)>,
    /// Names of nodes that have been connected, or that an operator has named.
    pub(crate) known_nodes: BTreeSet<String>,
}

/// A replica of the actual state.
#[derive(Clone, Debug)]
pub(crate) struct ActualReplica {
    pub(crate) id: ReplicaId,
    pub(crate) layout: ParallelSpec,
    pub(crate) state: ReplicaState,
    /// Nodes with ranks of the replica, once for each rank.
    pub(crate) nodes: Vec<String>,
}

/// The moves worked out so far, and the state after them.
struct Draft {
    moves: Vec<Move>,
    replicas: Vec<ActualReplica>,
    /// The number of free devices.
    free: usize,
}

/// The deployment that is wanted afterwards, and the moves that lead there.
pub(crate) type Moves = (Desired, Vec<Move>);

/// Works out the moves of a change.
///
/// # Errors
/// See [`Refused`].
pub(crate) fn moves(change: &Change, desired: &Desired, actual: &Actual) -> Result<Moves, Refused> {
    let mut draft = Draft::new(actual);
    let mut after = desired.clone();
    let forced = match change {
        Change::Deployment { replicas, layout, force } => {
            after.replicas = replicas.unwrap_or(desired.replicas);
            after.layout = layout.clone().unwrap_or_else(|| desired.layout.clone());
            draft.reach(&after)?;
            *force
        }
        Change::DrainReplica { replica, deadline, force } => {
            draft.replica(*replica)?;
            draft.drain(*replica, *deadline);
            *force
        }
        Change::RestartReplica { replica } => {
            draft.restart(*replica)?;
            true
        }
        Change::RemoveReplica { replica, deadline, force } => {
            draft.replica(*replica)?;
            draft.retire(*replica, *deadline);
            after.replicas = desired.replicas.saturating_sub(1);
            *force
        }
        Change::DrainNode { node, deadline, force } => {
            draft.clear(node, *deadline, actual)?;
            *force
        }
        Change::UndrainNode { node } => {
            actual.node(node)?;
            draft.push(Move::Cordon { node: node.clone(), cordoned: false });
            true
        }
        Change::RemoveNode { node } => {
            actual.node(node)?;
            draft.forget(node)?;
            true
        }
    };
    let served = actual.replicas.iter().any(ActualReplica::will_serve);
    let serves = draft.replicas.iter().any(ActualReplica::will_serve);
    if !forced && (served && !serves || draft.replicas.is_empty()) {
        return Err(Refused::NeedsForce("no replica would be left to serve".to_owned()));
    }
    Ok((after, draft.moves))
}

// === impl Actual ===

impl Actual {
    fn node(&self, name: &str) -> Result<(), Refused> {
        match self.known_nodes.contains(name) {
            true => Ok(()),
            false => Err(Refused::NoNode(name.to_owned())),
        }
    }
}

// === impl Draft ===

impl Draft {
    fn new(actual: &Actual) -> Self {
        let free = actual.free_devices.iter().map(|(_, devices)| devices).sum();
        Self { moves: Vec::new(), replicas: actual.replicas.clone(), free }
    }

    fn push(&mut self, step: Move) {
        self.moves.push(step);
    }

    fn replica(&self, id: ReplicaId) -> Result<&ActualReplica, Refused> {
        self.replicas.iter().find(|it| it.id == id).ok_or(Refused::NoReplica(id))
    }

    /// Adds the moves to as many replicas of the layout as are wanted, and no others.
    fn reach(&mut self, wanted: &Desired) -> Result<(), Refused> {
        self.can_hold(wanted)?;
        let old: Vec<ReplicaId> = self.others(&wanted.layout);
        for id in old {
            if self.count(&wanted.layout) < wanted.replicas {
                self.replace(id, &wanted.layout)?;
            } else {
                self.retire(id, DRAIN);
            }
        }
        while self.count(&wanted.layout) > wanted.replicas {
            let victim = self.victim();
            self.retire(victim, DRAIN);
        }
        let missing = wanted.replicas - self.count(&wanted.layout);
        self.require(missing, &wanted.layout)?;
        for _ in 0..missing {
            self.start(&wanted.layout);
        }
        Ok(())
    }

    /// Checks that there are devices for all wanted replicas, once those that leave have left.
    fn can_hold(&self, wanted: &Desired) -> Result<(), Refused> {
        let taken = self.replicas.iter().map(|replica| replica.nodes.len()).sum::<usize>();
        let (devices, ranks) = (self.free + taken, ranks_of(&wanted.layout));
        let needed = wanted.replicas as usize * ranks;
        if needed <= devices {
            return Ok(());
        }
        let replicas = wanted.replicas;
        Err(Refused::Devices(format!(
            "{replicas} replicas of {ranks} ranks need {needed} devices, there are {devices}: let \
             nodes join (`playhouse node`), or start `serve` with more --devices"
        )))
    }

    /// Returns the replicas that have another layout.
    fn others(&self, layout: &ParallelSpec) -> Vec<ReplicaId> {
        self.replicas.iter().filter(|it| it.layout != *layout).map(|it| it.id).collect()
    }

    fn count(&self, layout: &ParallelSpec) -> u32 {
        let same = self.replicas.iter().filter(|it| it.layout == *layout);
        u32::try_from(same.count()).unwrap_or(u32::MAX)
    }

    /// Returns the replica that leaves first: one that will not serve, or else does not serve yet, or
    /// else came last.
    fn victim(&self) -> ReplicaId {
        let serves = |it: &ActualReplica| it.state == ReplicaState::Serving;
        let last = self.replicas.iter().max_by_key(|it| (!it.will_serve(), !serves(it), it.id));
        last.map(|it| it.id).unwrap_or_default()
    }

    /// Replaces a replica by one of another layout: the new one starts first if there are devices for
    /// it.
    fn replace(&mut self, old: ReplicaId, layout: &ParallelSpec) -> Result<(), Refused> {
        if self.free >= ranks_of(layout) {
            self.start(layout);
            self.retire(old, DRAIN);
            return Ok(());
        }
        // The old replica keeps its requests until its successor can take them over.
        self.drain(old, DRAIN);
        self.require(1, layout)?;
        self.start(layout);
        self.remove(old);
        Ok(())
    }

    /// Checks that there are free devices for this many more replicas.
    fn require(&self, replicas: u32, layout: &ParallelSpec) -> Result<(), Refused> {
        if replicas == 0 {
            return Ok(());
        }
        let (needed, free) = (replicas as usize * ranks_of(layout), self.free);
        if needed <= free {
            return Ok(());
        }
        Err(Refused::Devices(format!(
            "{replicas} more replicas of {} ranks need {needed} devices, of which {free} are free",
            ranks_of(layout)
        )))
    }

    fn start(&mut self, layout: &ParallelSpec) {
        let id = (0..).map(ReplicaId).find(|id| self.replica(*id).is_err());
        let id = id.expect("there are more numbers than replicas");
        self.free = self.free.saturating_sub(ranks_of(layout));
        let (state, nodes) = (ReplicaState::Starting, Vec::new());
        self.replicas.push(ActualReplica { id, layout: layout.clone(), state, nodes });
        self.push(Move::Start { id, layout: layout.clone() });
    }

    fn drain(&mut self, id: ReplicaId, deadline: Duration) {
        let Some(replica) = self.replicas.iter_mut().find(|it| it.id == id) else { return };
        replica.state = ReplicaState::Drained;
        self.free += replica.nodes.drain(..).count();
        self.push(Move::Drain { id, deadline });
    }

    fn remove(&mut self, id: ReplicaId) {
        self.replicas.retain(|it| it.id != id);
        self.push(Move::Remove { id });
    }

    fn retire(&mut self, id: ReplicaId, deadline: Duration) {
        self.drain(id, deadline);
        self.remove(id);
    }

    /// Adds a drain and a revival. Requests go to other replicas at once, if there are others.
    fn restart(&mut self, id: ReplicaId) -> Result<(), Refused> {
        let layout = self.replica(id)?.layout.clone();
        self.drain(id, Duration::ZERO);
        self.require(1, &layout)?;
        self.free -= ranks_of(&layout);
        self.push(Move::Revive { id });
        Ok(())
    }

    /// Frees a node of ranks: each replica that has some there gets a successor elsewhere, or is
    /// drained.
    fn clear(&mut self, node: &str, deadline: Duration, actual: &Actual) -> Result<(), Refused> {
        let known = actual.free_devices.iter().find(|(name, _)| name == node);
        let (_, free_there) = known.ok_or_else(|| Refused::NoNode(node.to_owned()))?;
        self.free -= free_there;
        self.push(Move::Cordon { node: node.to_owned(), cordoned: true });
        let there = |it: &&ActualReplica| it.nodes.iter().any(|name| name == node);
        let there: Vec<_> = self.replicas.iter().filter(there).cloned().collect();
        for ActualReplica { id, layout, nodes, .. } in there {
            let elsewhere = nodes.iter().filter(|name| *name != node).count();
            if self.free >= ranks_of(&layout) {
                self.start(&layout);
                self.retire(id, deadline);
            } else if self.free + elsewhere >= ranks_of(&layout) {
                self.drain(id, deadline);
                self.start(&layout);
                self.remove(id);
            } else {
                self.drain(id, deadline);
            }
            let on_node = nodes.len() - elsewhere;
            self.free = self.free.saturating_sub(on_node);
        }
        Ok(())
    }

    fn forget(&mut self, node: &str) -> Result<(), Refused> {
        let on_it = self.replicas.iter().find(|it| it.nodes.iter().any(|name| name == node));
        if let Some(replica) = on_it {
            return Err(Refused::Invalid(format!(
                "ranks of {} are on node {node}: drain the node first",
                replica.id
            )));
        }
        self.push(Move::Forget { node: node.to_owned() });
        Ok(())
    }
}

// === impl ActualReplica ===

impl ActualReplica {
    /// Returns whether the replica serves, or will without further help.
    fn will_serve(&self) -> bool {
        use ReplicaState::{Restarting, Serving, Starting};
        matches!(self.state, Serving | Starting | Restarting { .. })
    }
}

// === impl Move ===

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { id, layout } => write!(f, "start {id} ({})", layout_text(layout)),
            Self::Drain { id, deadline } => write!(f, "drain {id} within {} s", deadline.as_secs()),
            Self::Remove { id } => write!(f, "remove {id}"),
            Self::Revive { id } => write!(f, "start {id} again"),
            Self::Cordon { node, cordoned: true } => write!(f, "give node {node} no more ranks"),
            Self::Cordon { node, cordoned: false } => write!(f, "let node {node} have ranks"),
            Self::Forget { node } => write!(f, "forget node {node}"),
        }
    }
}
