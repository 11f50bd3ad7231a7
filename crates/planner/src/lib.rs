//! Whether a layout can run, what it costs, and which one is best: a parallel spec in the words of any engine, a
//! model's shape and hardware in; broken rules, memory, traffic and recommendations out. Where every rank is, and
//! what it holds, is `playhouse-layout`. Pure: no clock, randomness or I/O (**A1**).
#![forbid(unsafe_code)]

mod cluster_config;
pub mod dialect;
mod explain;
mod hardware;
mod holding;
mod memory;
mod plan;
mod recommend;
mod roofline;
mod rules;
mod traffic;

use playhouse_layout::{
    Axis, Coordinates, CrossDomain, Cut, Experts, GroupKind, Groups, Inventory, LayerRun, Machine,
    ModelShape, Placement, PlacementError, RankMap, Slice, Weight, WeightType, Widths,
};

pub use cluster_config::ClusterConfig;
pub use explain::layout;
pub use hardware::{DeviceType, Hardware, HardwareError, Node};
pub use holding::Holding;
pub use memory::{KvType, RankMemory, Serving};
pub use plan::{Plan, PlannedRank, StageTraffic};
pub use recommend::{
    CANDIDATES_MAX, Cuts, Goal, RANKED_MAX, Ranked, Recommendation, Wish, candidates, recommend,
};
pub use roofline::{Speed, Workload};
pub use rules::{Change, Field, RANKS_MAX, RuleSet, Violation, check, rank_map};
pub use traffic::{Exchange, Operation, StepLoad, exchanges};
