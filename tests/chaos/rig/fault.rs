//! What can happen to a cluster, and how it is made good.
//!
//! A new fault is a variant, an arm of `strike` and, if it does not heal by itself, one of `heal`.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::cluster::{At, Cluster};
use super::process::{Process, signal};

/// Something that happens to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL of the process of a rank.
    KillShard(At),
    /// SIGSTOP of it.
    FreezeShard(At),
    /// Its process stands still for most of the time.
    ThrottleShard(At),
    /// SIGKILL of all processes of a replica.
    KillReplica(usize),
    /// SIGKILL of a node's agent, whose ranks end with it.
    KillNode(usize),
    /// SIGKILL of a node's agent, which is started anew at once, as by systemd: the head may not have
    /// noticed yet.
    RestartNode(usize),
    /// SIGSTOP of the head and all it has started: a machine that was suspended.
    FreezeHead,
    /// SIGSTOP of a node's agent alone; its ranks run on.
    FreezeAgent(usize),
    /// SIGSTOP of a node's agent and all its ranks: a machine that hangs.
    FreezeNode(usize),
    /// SIGTERM of a node's agent: it says goodbye.
    StopNode(usize),
    /// A second agent starts with the folder of a node, and has to end at once.
    StartTwin(usize),
    /// The folder of the checkpoint is away.
    TakeCheckpoint,
    /// The cable of a node is pulled: its end in the namespace that is named goes down.
    CutNode {
        /// The namespace at the other end of the cable.
        space: String,
        /// The other end.
        link: String,
    },
    /// A node in a network namespace hears nothing any more, and is still heard.
    DeafNode {
        /// Its namespace.
        space: String,
    },
}

// === impl Fault ===

impl Fault {
    /// Lets it happen, unless that is gone already which it would happen to.
    pub(crate) fn strike(&self, cluster: &mut Cluster) {
        match self {
            Self::KillShard(at) => cluster.shard(*at).into_iter().for_each(kill),
            Self::FreezeShard(at) => {
                let shard = cluster.shard(*at);
                cluster.freeze(self, shard.into_iter().collect());
            }
            Self::ThrottleShard(at) => {
                let shard = cluster.shard(*at);
                shard.into_iter().for_each(|pid| cluster.throttle(self, pid));
            }
            Self::StartTwin(node) => {
                let code = cluster.start_twin(*node);
                assert!(code.is_none_or(|code| code == 1), "{code:?}\n{}", cluster.logs());
            }
            Self::TakeCheckpoint => cluster.checkpoint().take_away(),
            Self::KillReplica(replica) => cluster.shards_of(*replica).into_iter().for_each(kill),
            // Its drop kills it.
            Self::KillNode(node) => drop(cluster.take_node(*node)),
            Self::RestartNode(node) => {
                drop(cluster.take_node(*node));
                cluster.start_node(*node);
            }
            Self::FreezeHead => {
                let family = cluster.head_family();
                cluster.freeze(self, family);
            }
            Self::FreezeAgent(node) => {
                let agent = cluster.node_family(*node).into_iter().take(1);
                cluster.freeze(self, agent.collect());
            }
            Self::FreezeNode(node) => {
                let family = cluster.node_family(*node);
                cluster.freeze(self, family);
            }
            Self::StopNode(node) => {
                let status = cluster.take_node(*node).map(Process::stop);
                let stopped = status.is_none_or(|status| status.code() == Some(0));
                assert!(stopped, "{status:?}: a node stops well\n{}", cluster.logs());
            }
            Self::CutNode { space, link } => switch(space, link, "down"),
            Self::DeafNode { space } => assert!(deafen(space), "nft drops packets"),
        }
    }

    /// Makes good what does not heal by itself.
    pub(crate) fn heal(&self, cluster: &mut Cluster) {
        match self {
            Self::KillShard(_)
            | Self::KillReplica(_)
            | Self::RestartNode(_)
            | Self::StartTwin(_) => {}
            Self::ThrottleShard(_) => cluster.release(self),
            Self::TakeCheckpoint => cluster.checkpoint().bring_back(),
            Self::FreezeShard(_)
            | Self::FreezeNode(_)
            | Self::FreezeAgent(_)
            | Self::FreezeHead => cluster.thaw(self),
            Self::KillNode(node) | Self::StopNode(node) => cluster.start_node(*node),
            Self::CutNode { space, link } => switch(space, link, "up"),
            Self::DeafNode { space } => {
                assert!(nft(space, "flush ruleset"), "nft lets packets through again");
            }
        }
    }

    /// Returns the time within which the cluster must detect the fault (**G3**).
    pub(crate) fn seen_within(&self) -> Duration {
        match self {
            Self::KillShard(_) | Self::KillReplica(_) | Self::StopNode(_) => Duration::from_secs(1),
            // Of a machine whose agent dies nobody is left to tell: that is silence, as with a hang.
            _ => Duration::from_secs(3),
        }
    }
}

/// Returns whether network namespaces here can drop packets.
pub(crate) fn can_deafen(space: &str) -> bool {
    deafen(space) && nft(space, "flush ruleset")
}

fn deafen(space: &str) -> bool {
    // At the input: a drop at the output would be an error that the sender sees.
    let chain = "add chain inet chaos input { type filter hook input priority 0; }";
    let drop = "add rule inet chaos input iifname eth0 drop";
    nft(space, &format!("add table inet chaos; {chain}; {drop}"))
}

fn nft(space: &str, rules: &str) -> bool {
    let words = ["netns", "exec", space, "nft", rules];
    let ran = Command::new("ip").args(words).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn switch(space: &str, link: &str, state: &str) {
    let words = ["-n", space, "link", "set", link, state];
    let status = Command::new("ip").args(words).status().expect("ip runs");
    assert!(status.success(), "ip {words:?}");
}
