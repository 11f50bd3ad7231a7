//! Planning of layouts: whether a layout can run, what it costs, and which layout is best. A parallel spec in
//! the words of any engine, the shape of a model and hardware go in; broken rules, memory, traffic and
//! recommendations come out. The place of every rank, and its share of the model, are in `playhouse-layout`.
//! Pure: no clock, randomness or I/O (**A1**).
#![forbid(unsafe_code)]

mod cluster_config;
pub mod dialect;
mod explain;
mod hardware;
mod holding;
mod memory;
mod nearest;
mod plan;
mod published;
mod recommend;
mod roofline;
mod rules;
mod traffic;

use playhouse_layout::{
    Axis, Coordinates, CrossDomain, Cut, ExpertSlice, GroupKind, Groups, Inventory, LayerRun,
    Machine, ModelShape, Placement, PlacementError, RankMap, Slice, Weight, WeightType, Widths,
};

pub use cluster_config::ClusterConfig;
pub use explain::layout;
pub use hardware::{DeviceType, Hardware, HardwareError, Node};
pub use holding::Holding;
pub use memory::{KvType, RankMemory, Serving};
pub use plan::{Plan, PlannedRank, StageTraffic};
pub use published::PublishedModel;
pub use recommend::{
    CANDIDATES_MAX, Cuts, Goal, RANKED_MAX, Ranked, Recommendation, Wish, candidates, recommend,
};
pub use roofline::{Speed, Workload};
pub use rules::{Change, Field, RANKS_MAX, RuleSet, Violation, check, rank_map};
pub use traffic::{Exchange, Operation, StepLoad, exchanges};
