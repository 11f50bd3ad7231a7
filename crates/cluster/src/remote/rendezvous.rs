//! The rendezvous: ranks of an epoch tell each other how they are reached.
//!
//! - **RV-1** no rank waits for another that will not come: the rendezvous is over as soon as a rank
//!   that takes part has left, and when nothing was heard of any rank for as long as loading may be
//!   silent.

use std::sync::Arc;
use std::time::Duration;

use playhouse_layout::{GroupKind, RankId, RankMap};
use playhouse_wire::{Group, Member};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::rank::place;

/// The rendezvous of the ranks of one replica in one epoch.
#[derive(Debug)]
pub(super) struct Rendezvous {
    map: Arc<RankMap>,
    /// The name of the epoch's groups.
    name: String,
    secret: [u8; 32],
    table: watch::Sender<RendezvousTable>,
}

#[derive(Debug)]
struct RendezvousTable {
    /// How each rank is reached in its groups, by rank, as far as the ranks have come.
    members: Vec<Option<Members>>,
    /// The rank that has left before all had come.
    left: Option<RankId>,
    /// The number of reports of ranks that load.
    heard: u64,
}

/// How a rank is reached in each of its groups.
type Members = Vec<(GroupKind, Member)>;

/// The groups of a rank.
type Groups = Vec<(GroupKind, Group)>;

/// A rank's part in the rendezvous. Dropping it before all have come ends the rendezvous for all.
pub(super) struct Attendance<'a> {
    rendezvous: &'a Rendezvous,
    rank: RankId,
}

// === impl Rendezvous ===

impl Rendezvous {
    pub(super) fn new(name: String, map: Arc<RankMap>, secret: [u8; 32]) -> Self {
        let members = vec![None; map.replica_ranks()];
        let table = watch::Sender::new(RendezvousTable { members, left: None, heard: 0 });
        Self { map, name, secret, table }
    }

    /// Lets a rank take part from now on.
    pub(super) fn attend(&self, rank: RankId) -> Attendance<'_> {
        Attendance { rendezvous: self, rank }
    }

    /// Returns the groups of a rank, once it is known how all are reached; or why there are none, for a
    /// person.
    fn groups(&self, rank: RankId, all: &[Option<Members>]) -> Result<Groups, String> {
        let group = |kind: GroupKind| {
            let (at, ranks) = self.map.group_of(kind, rank.index);
            let member = |rank: &u32| {
                let members = all.get(*rank as usize)?.as_ref()?;
                let of_kind = members.iter().find(|(other, _)| *other == kind);
                of_kind.map(|(_, member)| member.clone())
            };
            let members = ranks.iter().map(member).collect::<Option<Vec<_>>>();
            let members = members.ok_or_else(|| {
                format!("a rank does not say where it meets its {} group", kind.label())
            })?;
            // A group is named after its first rank.
            let first = ranks.first().copied().unwrap_or_default();
            let name = format!("{}-{}-{first}", self.name, kind.label());
            let rank = u32::try_from(at).unwrap_or(u32::MAX);
            Ok((kind, Group { name, secret: self.secret, rank, members }))
        };
        self.map.group_kinds().into_iter().map(group).collect()
    }
}

// === impl Attendance ===

impl Attendance<'_> {
    /// Records that the rank, which still loads, was heard of.
    pub(super) fn heard(&self) {
        self.rendezvous.table.send_modify(|table| table.heard += 1);
    }

    /// Says how the rank is reached, and waits until all ranks have said that, or nothing was heard of
    /// any rank for as long as `silence`. Returns the groups of the rank.
    ///
    /// # Errors
    /// Why the ranks do not come together (**RV-1**).
    pub(super) async fn meet(&self, members: Members, silence: Duration) -> Result<Groups, String> {
        let Self { rendezvous, rank } = self;
        rendezvous.table.send_modify(|table| {
            table.members[rank.at()] = Some(members);
        });
        let mut table = rendezvous.table.subscribe();
        loop {
            {
                let table = table.borrow_and_update();
                if table.members.iter().all(Option::is_some) {
                    return rendezvous.groups(*rank, &table.members);
                }
                if let Some(left) = table.left {
                    let place = place(&rendezvous.map, left.index);
                    return Err(format!("{place} left before all had loaded"));
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
