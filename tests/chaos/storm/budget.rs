//! How much more a cluster has to stand.

use std::time::Duration;

use tokio::time::Instant;

use super::REPLICAS;
use crate::rig::cluster::Cluster;
use crate::rig::fault::Fault;

/// Restarts that a replica is put to within [`PERIOD`]. It is given up after five in a minute, and a
/// storm is not to find out what a crash loop does.
const RESTARTS_MAX: usize = 4;

/// The time of service within which restarts count, as the cluster counts it: a slow start is not held against a
/// machine.
const PERIOD: Duration = Duration::from_secs(62);

/// The time after which a fault that caused no restart has come to nothing.
const AWAITED: Duration = Duration::from_secs(10);

/// The restarts that faults have cost the replicas.
pub(crate) struct Budget {
    looked: Instant,
    accounts: [Account; REPLICAS],
}

/// The restarts of one replica.
#[derive(Default)]
struct Account {
    epoch: u64,
    serves: bool,
    /// For how long it has served, as far as that was seen.
    served: Duration,
    /// When it restarted, in time served.
    restarts: Vec<Duration>,
    /// Faults whose restarts have not been seen yet, and may never be.
    awaited: Vec<Instant>,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let accounts = std::array::from_fn(|_| Account::default());
        let mut budget = Self { looked: Instant::now(), accounts };
        budget.look(cluster);
        budget.accounts.iter_mut().for_each(|account| account.restarts.clear());
        budget
    }

    /// Notes who has restarted and who has served since the last look.
    pub(crate) fn look(&mut self, cluster: &Cluster) {
        let (epochs, states) = (cluster.epochs(), cluster.states());
        let passed = self.looked.elapsed();
        self.looked += passed;
        for ((account, epoch), state) in self.accounts.iter_mut().zip(epochs).zip(states) {
            account.look(epoch, state == "serving", passed);
        }
    }

    /// Whether everybody whom a fault hits has a restart left; it is taken.
    pub(crate) fn takes(&mut self, fault: &Fault, cluster: &Cluster) -> bool {
        let hit = match fault {
            Fault::KillShard(at) | Fault::FreezeShard(at) => vec![at.replica],
            Fault::KillReplica(replica) => vec![*replica],
            Fault::ThrottleShard(_) | Fault::StartTwin(_) | Fault::TakeCheckpoint => vec![],
            Fault::KillNode(node)
            | Fault::RestartNode(node)
            | Fault::FreezeNode(node)
            | Fault::FreezeAgent(node)
            | Fault::StopNode(node) => cluster.replicas_on(*node),
            Fault::FreezeHead | Fault::CutNode { .. } | Fault::DeafNode { .. } => {
                (0..REPLICAS).collect()
            }
        };
        let can = hit.iter().all(|&replica| self.accounts[replica].has_one_left());
        if can {
            let now = Instant::now();
            hit.iter().for_each(|&replica| self.accounts[replica].awaited.push(now));
        }
        can
    }
}

// === impl Account ===

impl Account {
    fn look(&mut self, epoch: u64, serves: bool, passed: Duration) {
        let more = epoch - self.epoch;
        if more == 0 && self.serves && serves {
            self.served += passed;
        }
        let seen = self.awaited.len().min(usize::try_from(more).expect("a few"));
        self.awaited.drain(..seen);
        self.awaited.retain(|fault| fault.elapsed() < AWAITED);
        self.restarts.extend((0..more).map(|_| self.served));
        self.restarts.retain(|then| self.served - *then < PERIOD);
        (self.epoch, self.serves) = (epoch, serves);
    }

    /// What is awaited counts, too.
    fn has_one_left(&self) -> bool {
        self.restarts.len() + self.awaited.len() < RESTARTS_MAX
    }
}
