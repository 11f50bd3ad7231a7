//! Where the ranks of an epoch tell each other how to be reached.
//!
//! - **RV-1** nobody waits for a rank that will not come: the rendezvous is over as soon as one that takes
//!   part has left, and when nothing was heard of anybody for as long as loading may be silent.

use std::sync::Arc;
use std::time::Duration;

use playhouse_layout::{GroupKind, RankId, RankMap};
use playhouse_wire::{Group, Member};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::rank::place;

/// The ranks of one replica in one epoch.
#[derive(Debug)]
pub(super) struct Rendezvous {
    map: Arc<RankMap>,
    /// Names the epoch's groups.
    name: String,
    secret: [u8; 32],
    table: watch::Sender<Table>,
}

#[derive(Debug)]
struct Table {
    /// By rank, as far as they have come: where each meets the ranks of its groups.
    members: Vec<Option<Members>>,
    /// Who has left before all had come.
    left: Option<RankId>,
    /// Counts what was heard of ranks that load.
    heard: u64,
}

/// Where a rank meets the others of each of its groups.
type Members = Vec<(GroupKind, Member)>;

/// The groups of a rank.
type Groups = Vec<(GroupKind, Group)>;

/// One rank that takes part. Dropping it before all have come ends the rendezvous for all.
pub(super) struct Attendance<'a> {
    rendezvous: &'a Rendezvous,
    rank: RankId,
}

// === impl Rendezvous ===

impl Rendezvous {
    pub(super) fn new(name: String, map: Arc<RankMap>, secret: [u8; 32]) -> Self {
        let members = vec![None; map.replica_ranks()];
        let table = watch::Sender::new(Table { members, left: None, heard: 0 });
        Self { map, name, secret, table }
    }

    /// A rank takes part from now on.
    pub(super) fn attend(&self, rank: RankId) -> Attendance<'_> {
        Attendance { rendezvous: self, rank }
    }

    /// The groups of a rank, once it is known where all are reached; why there are none, for a person.
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
            // A group is called after its first rank.
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
    /// Something was heard of the rank, which still loads.
    pub(super) fn heard(&self) {
        self.rendezvous.table.send_modify(|table| table.heard += 1);
    }

    /// Says where the rank is reached, and waits until all have said that, or nothing was heard of
    /// anybody for as long as `silence`. Returns the groups of the rank.
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
