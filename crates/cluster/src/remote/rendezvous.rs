//! Where the ranks of an epoch tell each other how to be reached.
//!
//! - **RV-1** nobody waits for a rank that will not come: the rendezvous is over as soon as one that takes
//!   part has left, and when nothing was heard of anybody for as long as loading may be silent.

use std::time::Duration;

use playhouse_wire::{Group, Member};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::rank::{Layout, Rank};

/// The ranks of one replica in one epoch.
#[derive(Debug)]
pub(super) struct Rendezvous {
    layout: Layout,
    /// Names the epoch's groups.
    name: String,
    secret: [u8; 32],
    table: watch::Sender<Table>,
}

#[derive(Debug)]
struct Table {
    /// Stage by stage, as far as they have come: where each meets its stage and its chain.
    members: Vec<Option<[Member; 2]>>,
    /// Who has left before all had come.
    left: Option<Rank>,
    /// Counts what was heard of ranks that load.
    heard: u64,
}

/// One rank that takes part. Dropping it before all have come ends the rendezvous for all.
pub(super) struct Attendance<'a> {
    rendezvous: &'a Rendezvous,
    rank: Rank,
}

// === impl Rendezvous ===

impl Rendezvous {
    pub(super) fn new(name: String, layout: Layout, secret: [u8; 32]) -> Self {
        let members = vec![None; layout.ranks()];
        let table = watch::Sender::new(Table { members, left: None, heard: 0 });
        Self { layout, name, secret, table }
    }

    /// A rank takes part from now on.
    pub(super) fn attend(&self, rank: Rank) -> Attendance<'_> {
        Attendance { rendezvous: self, rank }
    }

    fn index(&self, rank: Rank) -> usize {
        rank.stage * self.layout.tensor + rank.tensor
    }

    fn groups(&self, rank: Rank, all: &[[Member; 2]]) -> (Group, Group) {
        let Layout { stages, tensor } = self.layout;
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

// === impl Attendance ===

impl Attendance<'_> {
    /// Something was heard of the rank, which still loads.
    pub(super) fn heard(&self) {
        self.rendezvous.table.send_modify(|table| table.heard += 1);
    }

    /// Says where the rank is reached, and waits until all have said that, or nothing was heard of
    /// anybody for as long as `silence`. Returns the groups of the rank: its stage, and its chain of
    /// stages.
    ///
    /// # Errors
    /// Why the ranks do not come together (**RV-1**).
    pub(super) async fn meet(
        &self,
        members: [Member; 2],
        silence: Duration,
    ) -> Result<(Group, Group), String> {
        let Self { rendezvous, rank } = self;
        rendezvous.table.send_modify(|table| {
            table.members[rendezvous.index(*rank)] = Some(members);
        });
        let mut table = rendezvous.table.subscribe();
        loop {
            {
                let table = table.borrow_and_update();
                if table.members.iter().all(Option::is_some) {
                    let all: Vec<_> = table.members.iter().flatten().cloned().collect();
                    return Ok(rendezvous.groups(*rank, &all));
                }
                if let Some(Rank { stage, tensor, .. }) = table.left {
                    return Err(format!("stage {stage} shard {tensor} left before all had loaded"));
                }
            }
            let news = timeout(silence, table.changed()).await;
            news.map_err(|_| format!("nothing was heard of the other ranks for {silence:?}"))?
                .map_err(|_| "the replica is gone".to_owned())?;
        }
    }
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        let rank = self.rank;
        self.rendezvous.table.send_if_modified(|table| {
            let early = table.members.iter().any(Option::is_none);
            if early {
                table.left.get_or_insert(rank);
            }
            early
        });
    }
}
