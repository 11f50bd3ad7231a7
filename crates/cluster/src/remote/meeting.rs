//! Where the ranks of an epoch tell each other how to be reached.

use playhouse_wire::{Group, Member};
use tokio::sync::watch;

use crate::rank::{Layout, Rank};

/// The ranks of one replica in one epoch.
#[derive(Debug)]
pub(crate) struct Meeting {
    layout: Layout,
    /// Names the epoch's groups.
    name: String,
    secret: [u8; 32],
    /// Stage by stage, as far as they have come: where each meets its stage and its chain.
    members: watch::Sender<Vec<Option<[Member; 2]>>>,
}

// === impl Meeting ===

impl Meeting {
    pub(crate) fn new(name: String, layout: Layout, secret: [u8; 32]) -> Self {
        Self { layout, name, secret, members: watch::Sender::new(vec![None; layout.ranks()]) }
    }

    /// Waits until all ranks have come. Returns the groups of `rank`: its stage, and its chain of
    /// stages.
    pub(crate) async fn attend(&self, rank: Rank, members: [Member; 2]) -> (Group, Group) {
        let Layout { stages, tensor } = self.layout;
        self.members.send_modify(|all| {
            all[rank.stage * tensor + rank.tensor] = Some(members);
        });
        let mut all = self.members.subscribe();
        let all = all.wait_for(|all| all.iter().all(Option::is_some)).await;
        // The sender is ours, so there is no error.
        let all: Vec<[Member; 2]> =
            all.map(|all| all.iter().flatten().cloned().collect()).unwrap_or_default();
        let group = |name: String, at: usize, members: Vec<Member>| Group {
            name: format!("{}-{name}", self.name),
            secret: self.secret,
            rank: u32::try_from(at).unwrap_or(u32::MAX),
            members,
        };
        let first = rank.stage * tensor;
        let stage = all[first..first + tensor].iter().map(|[stage, _]| stage.clone()).collect();
        let chain = (0..stages).map(|stage| all[stage * tensor + rank.tensor][1].clone()).collect();
        (
            group(format!("s{}", rank.stage), rank.tensor, stage),
            group(format!("t{}", rank.tensor), rank.stage, chain),
        )
    }
}
