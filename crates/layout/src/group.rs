//! Groups of ranks that communicate with each other.
//!
//! - **GR-1** the groups of each kind partition the world.
//! - **GR-2** groups are listed by their lowest rank; the ranks of a group are listed in the order of its
//!   collectives.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{Coordinates, RankMap};

/// The purpose of a group of ranks.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// Splits the heads.
    Tensor,
    /// Splits the tokens of a prefill.
    Context,
    /// Splits the KV cache along the sequence.
    DecodeContext,
    /// Holds whole requests in attention.
    AttentionData,
    /// Passes activations from stage to stage.
    Pipeline,
    /// Connects the ranks at the same place in every replica.
    Data,
    /// Splits dense layers and shared experts.
    Dense,
    /// Splits the embedding table.
    Embedding,
    /// Splits the language-model head.
    Head,
    /// Holds different experts.
    Expert,
    /// Splits one expert.
    MoeTensor,
    /// Holds copies of the same experts within a stage.
    MoeData,
}

/// All groups of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Kind of the groups.
    pub kind: GroupKind,
    /// The ranks of each group.
    pub groups: Vec<Vec<u32>>,
}

// === impl GroupKind ===

impl GroupKind {
    /// Every kind of group.
    pub const ALL: [GroupKind; 12] = [
        GroupKind::Tensor,
        GroupKind::Context,
        GroupKind::DecodeContext,
        GroupKind::AttentionData,
        GroupKind::Pipeline,
        GroupKind::Data,
        GroupKind::Dense,
        GroupKind::Embedding,
        GroupKind::Head,
        GroupKind::Expert,
        GroupKind::MoeTensor,
        GroupKind::MoeData,
    ];

    /// Returns whether only models with routed experts have groups of this kind.
    #[must_use]
    pub fn is_of_experts(self) -> bool {
        matches!(self, GroupKind::Expert | GroupKind::MoeTensor | GroupKind::MoeData)
    }

    /// Returns the usual abbreviation of the kind.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            GroupKind::Tensor => "TP",
            GroupKind::Context => "CP",
            GroupKind::DecodeContext => "DCP",
            GroupKind::AttentionData => "attention-DP",
            GroupKind::Pipeline => "PP",
            GroupKind::Data => "DP",
            GroupKind::Dense => "dense-TP",
            GroupKind::Embedding => "embedding",
            GroupKind::Head => "head",
            GroupKind::Expert => "EP",
            GroupKind::MoeTensor => "MoE-TP",
            GroupKind::MoeData => "MoE-DP",
        }
    }
}

// === impl RankMap ===

impl RankMap {
    /// Returns the number of ranks in a group of this kind.
    #[must_use]
    pub fn group_size(&self, kind: GroupKind) -> u32 {
        let widths = self.widths();
        match kind {
            GroupKind::Tensor => widths.attention_tensor,
            GroupKind::Context => widths.attention_context,
            GroupKind::DecodeContext => widths.decode_context,
            GroupKind::AttentionData => widths.attention_data,
            GroupKind::Pipeline => widths.stages,
            GroupKind::Data => widths.replicas,
            GroupKind::Dense => widths.dense_tensor,
            GroupKind::Embedding => widths.embedding_tensor,
            GroupKind::Head => widths.head_tensor,
            GroupKind::Expert => widths.expert(),
            GroupKind::MoeTensor => widths.expert_slices(),
            GroupKind::MoeData => widths.moe_data,
        }
    }

    /// Returns the kind of group in which the collectives of `Dense`, `Embedding` and `Head` run: the tensor
    /// group where both are equally wide, because all of these groups are consecutive ranks.
    #[must_use]
    pub fn same_as(&self, kind: GroupKind) -> GroupKind {
        match kind {
            GroupKind::Dense | GroupKind::Embedding | GroupKind::Head
                if self.group_size(kind) == self.group_size(GroupKind::Tensor) =>
            {
                GroupKind::Tensor
            }
            kind => kind,
        }
    }

    /// Returns the kinds of groups that the ranks of a replica form for their tensors: kinds with several
    /// ranks per group whose groups do not equal the groups of another kind.
    #[must_use]
    pub fn group_kinds(&self) -> Vec<GroupKind> {
        let wanted = |kind: &GroupKind| {
            *kind != GroupKind::Data
                && self.group_size(*kind) > 1
                && self.same_as(*kind) == *kind
                && (self.is_routed() || !kind.is_of_experts())
        };
        GroupKind::ALL.into_iter().filter(wanted).collect()
    }

    /// Returns the place of `rank` in its group of this kind, and the ranks of that group in the order of the
    /// group's collectives.
    #[must_use]
    pub fn group_of(&self, kind: GroupKind, rank: u32) -> (usize, Vec<u32>) {
        let own = self.group_key(kind, &self.coordinates(rank));
        let members = self.ranks().filter(|at| self.group_key(kind, at) == own);
        let mut members: Vec<_> = members.map(|at| (self.order(kind, &at), at.rank)).collect();
        members.sort_unstable();
        let at = members.iter().position(|(_, member)| *member == rank).unwrap_or_default();
        (at, members.into_iter().map(|(_, member)| member).collect())
    }

    /// Returns the groups of one kind (**GR-1**).
    #[must_use]
    pub fn groups(&self, kind: GroupKind) -> Groups {
        let mut found: HashMap<[u32; 5], usize> = HashMap::new();
        let mut groups: Vec<Vec<(u32, u32)>> = Vec::new();
        for at in self.ranks() {
            let next = groups.len();
            let group = *found.entry(self.group_key(kind, &at)).or_insert(next);
            if group == next {
                groups.push(Vec::with_capacity(self.group_size(kind) as usize));
            }
            groups[group].push((self.order(kind, &at), at.rank));
        }
        for group in &mut groups {
            group.sort_unstable();
        }
        let ranks = |group: Vec<(u32, u32)>| group.into_iter().map(|(_, rank)| rank).collect();
        Groups { kind, groups: groups.into_iter().map(ranks).collect() }
    }

    /// Returns what the ranks of a group have in common.
    fn group_key(&self, kind: GroupKind, at: &Coordinates) -> [u32; 5] {
        let widths = self.widths();
        let within = |a: u32, b: u32, c: u32| [at.replica, at.stage, a, b, c];
        match kind {
            GroupKind::Tensor => within(at.attention_data, at.context, 0),
            GroupKind::Context => within(at.attention_data, at.tensor, 0),
            GroupKind::DecodeContext => {
                within(at.attention_data, self.sequence_place(at) / widths.decode_context.max(1), 0)
            }
            GroupKind::AttentionData => within(at.context, at.tensor, 0),
            GroupKind::Pipeline => [at.replica, at.stage_rank, 0, 0, 0],
            GroupKind::Data => [at.stage, at.stage_rank, 0, 0, 0],
            GroupKind::Dense => within(at.stage_rank / widths.dense_tensor.max(1), 0, 0),
            GroupKind::Embedding => within(at.stage_rank / widths.embedding_tensor.max(1), 0, 0),
            GroupKind::Head => within(at.stage_rank / widths.head_tensor.max(1), 0, 0),
            GroupKind::Expert => {
                let replicas = at.replica / widths.expert_replicas.max(1);
                [replicas, at.stage, at.moe_data, at.moe_tensor, at.moe_cluster]
            }
            GroupKind::MoeTensor => {
                let replicas = at.replica / widths.slice_replicas.max(1);
                [replicas, at.stage, at.moe_data, at.expert, 0]
            }
            GroupKind::MoeData => within(at.expert, at.moe_tensor, at.moe_cluster),
        }
    }

    /// A rank's place within its group.
    fn order(&self, kind: GroupKind, at: &Coordinates) -> u32 {
        match kind {
            GroupKind::DecodeContext => self.sequence_place(at),
            _ => at.rank,
        }
    }

    /// Place among the ranks of an attention-DP group, context fastest, as decode-context groups
    /// are cut.
    fn sequence_place(&self, at: &Coordinates) -> u32 {
        at.tensor.saturating_mul(self.widths().attention_context).saturating_add(at.context)
    }
}
