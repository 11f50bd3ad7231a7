//! The plan of a layout: everything about every rank, in one value that can be printed.

use playhouse_types::ParallelSpec;
use serde::Serialize;

use crate::rules::checked_map;
use crate::traffic::exchanges;
use crate::{
    Change, Coordinates, CrossDomain, Exchange, Field, GroupKind, Groups, Hardware, Holding,
    Inventory, ModelShape, Node, Placement, PlacementError, RankMap, RankMemory, Serving, StepLoad,
    Violation, Widths,
};

/// The plan of a layout that can run: where each rank is, what it holds, and with which ranks it
/// communicates.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The layout.
    pub spec: ParallelSpec,
    /// The widths of the layout, derived ones included.
    pub widths: Widths,
    /// The load for which memory and traffic are computed.
    pub serving: Serving,
    /// Every rank in order.
    pub ranks: Vec<PlannedRank>,
    /// The groups of each kind that has more than one rank and does not equal another kind.
    pub groups: Vec<Groups>,
    /// Bytes that the first rank of each stage of a replica sends in a step.
    pub traffic: Vec<StageTraffic>,
    /// The device of each rank, given hardware.
    pub placement: Option<Placement>,
    /// Tokens of KV that fit in all replicas, given hardware.
    pub kv_tokens: Option<u64>,
    /// Parts of the layout that run, but not well, and numbers that are estimates.
    pub warnings: Vec<String>,
}

/// The plan of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedRank {
    /// Place of the rank in the layout.
    #[serde(flatten)]
    pub at: Coordinates,
    /// Node of the rank, given hardware.
    pub node: Option<String>,
    /// Device of the rank on its node.
    pub device: Option<u32>,
    /// Share of the model that the rank holds.
    #[serde(flatten)]
    pub holding: Holding,
    /// Memory of the rank.
    #[serde(flatten)]
    pub memory: RankMemory,
    /// Tokens of KV that fit on the rank's device.
    pub kv_tokens: Option<u64>,
}

/// The exchanges of a stage in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageTraffic {
    /// Index of the stage.
    pub stage: u32,
    /// Exchanges of the stage's first rank in a step full of prompts.
    pub prompts: Vec<Exchange>,
    /// Exchanges of that rank in a step in which [`Plan::generated`] requests of a replica generate.
    pub decode: Vec<Exchange>,
}

/// Largest factor by which a layout may be wider that is offered instead.
const WIDER_MAX: u32 = 16;

/// The input of a plan.
struct PlanInput<'a> {
    spec: &'a ParallelSpec,
    shape: &'a ModelShape,
    hardware: &'a Hardware,
    serving: &'a Serving,
    cross: CrossDomain,
}

// === impl Plan ===

impl Plan {
    /// Plans `spec` for `shape`, on `hardware` if given. A stage that fits on no node is spread over several
    /// nodes or refused, as `cross` says.
    ///
    /// # Errors
    /// Everything that keeps the layout from running: broken rules; too few devices or too little memory on
    /// this hardware.
    pub fn new(
        spec: &ParallelSpec,
        shape: &ModelShape,
        hardware: Option<&Hardware>,
        serving: &Serving,
        cross: CrossDomain,
    ) -> Result<Self, Vec<Violation>> {
        let map = checked_map(spec, shape, serving.block_tokens)?;
        let inventory = Inventory::of(shape);
        let placement = hardware
            .map(|hardware| Placement::new(&map, &hardware.machines(), cross, None))
            .transpose()
            .map_err(|refused| vec![refused.into()])?;
        let mut plan = Self {
            spec: spec.clone(),
            widths: *map.widths(),
            serving: *serving,
            ranks: Vec::with_capacity(map.world() as usize),
            groups: GroupKind::ALL
                .into_iter()
                .filter(|&kind| map.group_size(kind) > 1 && map.same_as(kind) == kind)
                .filter(|kind| shape.is_moe() || !kind.is_of_experts())
                .map(|kind| map.groups(kind))
                .collect(),
            traffic: traffic(&map, shape, &inventory, serving),
            placement,
            kv_tokens: None,
            warnings: Vec::new(),
        };
        for at in map.ranks() {
            let holding = Holding::of(&map.share(&at), shape);
            let memory = RankMemory::of(&map, shape, &inventory, &at, serving);
            let place = hardware.and_then(|hardware| plan.place(hardware, at.rank));
            let kv_tokens = match (hardware, place) {
                (Some(hardware), Some((node, device))) => {
                    let usable = serving.usable_bytes(node.device.memory_bytes);
                    let room = memory.tokens_in(usable);
                    if room.is_none() {
                        let input = PlanInput { spec, shape, hardware, serving, cross };
                        return Err(vec![input.too_small(at.rank, node, device, &memory)]);
                    }
                    room
                }
                _ => None,
            };
            let node = place.map(|(node, _)| node.name.clone());
            let device = place.map(|(node, device)| node.first_device.saturating_add(device));
            plan.ranks.push(PlannedRank { at, node, device, holding, memory, kv_tokens });
        }
        plan.kv_tokens = plan.capacity();
        plan.warnings = shape.note().into_iter().chain(plan.warn()).collect();
        Ok(plan)
    }

    /// Returns the plan as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan has string keys only")
    }

    /// Returns the number of requests of a replica that generate a token in one step: the running requests
    /// divided over the stages, because the stages work on different requests.
    #[must_use]
    pub fn generated(&self) -> u64 {
        generated(&self.serving, &self.widths)
    }

    /// Returns the node of a rank, and the index of its device there.
    fn place<'a>(&self, hardware: &'a Hardware, rank: u32) -> Option<(&'a Node, u32)> {
        let device = self.placement.as_ref()?.devices.get(rank as usize)?;
        Some((hardware.nodes.get(device.node as usize)?, device.device))
    }

    /// Returns the tokens of KV in all replicas: an attention-DP group of a replica has as many as its
    /// fullest rank has room for.
    fn capacity(&self) -> Option<u64> {
        let groups = u64::from(self.widths.attention_data);
        let size = usize::try_from(self.widths.replica_ranks()).unwrap_or(usize::MAX).max(1);
        self.ranks
            .chunks(size)
            .map(|replica| {
                let least = replica.iter().map(|rank| rank.kv_tokens).min().flatten()?;
                Some(least.saturating_mul(groups))
            })
            .try_fold(0u64, |sum, tokens| Some(sum.saturating_add(tokens?)))
    }

    fn warn(&self) -> Vec<String> {
        let crossing = self.placement.iter().flat_map(|placement| &placement.crossing);
        crossing
            .filter_map(|&rank| self.ranks.get(rank as usize))
            .map(|first| {
                format!(
                    "stage {} of replica {} sits on several nodes: its {} ranks exchange every layer \
                     over the network; a tensor width of one node and more pipeline stages avoid that",
                    first.at.stage, first.at.replica, self.widths.stage_ranks
                )
            })
            .collect()
    }
}

fn traffic(
    map: &RankMap,
    shape: &ModelShape,
    inventory: &Inventory,
    serving: &Serving,
) -> Vec<StageTraffic> {
    let widths = map.widths();
    let prompts = StepLoad {
        prefill_tokens: serving.step_tokens,
        decode_tokens: 0,
        sampled: serving.running.min(serving.step_tokens),
    };
    let generated = generated(serving, widths);
    let decode = StepLoad { prefill_tokens: 0, decode_tokens: generated, sampled: generated };
    (0..widths.stages)
        .map(|stage| {
            let at = map.coordinates(stage.saturating_mul(widths.stage_ranks));
            let sent = |load| exchanges(map, shape, inventory, &at, load, serving.kv);
            StageTraffic { stage, prompts: sent(&prompts), decode: sent(&decode) }
        })
        .collect()
}

fn generated(serving: &Serving, widths: &Widths) -> u64 {
    serving.running.div_ceil(u64::from(widths.stages).max(1))
}

// === impl PlanInput ===

impl PlanInput<'_> {
    /// Reports a device that is too small for what a rank needs, with the nearest wider layouts that fit.
    fn too_small(&self, rank: u32, node: &Node, device: u32, memory: &RankMemory) -> Violation {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let device = node.first_device.saturating_add(device);
        let has = node.device.memory_bytes;
        let (percent, usable) = (self.serving.memory_percent, self.serving.usable_bytes(has));
        let needed = memory.weight_bytes.saturating_add(memory.workspace_bytes);
        let message = format!(
            "rank {rank} needs {:.1} GiB for weights and {:.1} GiB for activations, {:.1} GiB in \
             all; device {device} of {} has {:.1} GiB, of which {percent} % may be used: {:.1} GiB",
            gib(memory.weight_bytes),
            gib(memory.workspace_bytes),
            gib(needed),
            node.name,
            gib(has),
            gib(usable)
        );
        let nearest: Vec<_> =
            [Field::Tensor, Field::Pipeline].into_iter().filter_map(|of| self.wider(of)).collect();
        let ways: Vec<_> = nearest
            .iter()
            .map(|change| {
                let now = change.field.get(self.spec).unwrap_or_default();
                format!("{} = {now} → {}", change.field, change.value)
            })
            .collect();
        let fix = if ways.is_empty() {
            format!(
                "no wider tensor or pipeline fits on these {} devices: use more of them, or larger \
                 ones",
                self.hardware.devices()
            )
        } else {
            ways.join("; or ")
        };
        Violation { nearest, ..Violation::new("memory-fits", message, fix) }
    }

    /// Returns the least multiple of a width with which the model can run here.
    fn wider(&self, field: Field) -> Option<Change> {
        let now = field.get(self.spec)?;
        (2..=WIDER_MAX)
            .filter_map(|times| Some(Change { field, value: now.checked_mul(times)? }))
            .take_while(|change| {
                let mut spec = self.spec.clone();
                change.apply(&mut spec);
                Widths::of(&spec).world() <= self.hardware.devices()
            })
            .find(|change| self.runs_with(*change).is_some())
    }

    fn runs_with(&self, change: Change) -> Option<()> {
        let mut spec = self.spec.clone();
        change.apply(&mut spec);
        let map = checked_map(&spec, self.shape, self.serving.block_tokens).ok()?;
        let placement = Placement::new(&map, &self.hardware.machines(), self.cross, None).ok()?;
        let inventory = Inventory::of(self.shape);
        map.ranks().try_for_each(|at| {
            let device = placement.devices.get(at.rank as usize)?;
            let node = self.hardware.nodes.get(device.node as usize)?;
            let memory = RankMemory::of(&map, self.shape, &inventory, &at, self.serving);
            let usable = self.serving.usable_bytes(node.device.memory_bytes);
            memory.tokens_in(usable).map(|_| ())
        })
    }
}

// === impl Violation ===

impl From<PlacementError> for Violation {
    fn from(refused: PlacementError) -> Self {
        let (rule, fix) = match refused {
            PlacementError::TooFew { devices, .. } => {
                ("devices-suffice", format!("use at most {devices} ranks in all, or more nodes"))
            }
            PlacementError::Crosses { free, .. } => (
                "stage-in-node",
                format!("use stages of at most {free} ranks and more of them (pipeline)"),
            ),
        };
        Self::new(rule, refused.to_string(), fix)
    }
}
