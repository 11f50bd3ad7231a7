//! The cluster as a tree of text.

use std::ops::Range;

use playhouse_admin::view::{
    Cluster, Device, Node, Operation, Replica, ReplicaState, Shard, ShardState, Stage,
};

use crate::sizing::Bytes;
use crate::table::{Cell, Mood, align};
use crate::terminal::visible;
use crate::wording::{change_words, phase_word};

/// Returns the whole tree, each line with its end.
pub(super) fn text(cluster: &Cluster, colour: bool) -> String {
    let mut text = summary(cluster) + "\n";
    if let Some(operation) = &cluster.operation {
        text += &under_way(operation);
    }
    if !cluster.nodes.is_empty() {
        text = text + "\n" + &align(&node_rows(&cluster.nodes), colour);
    }
    let mut rows = vec![
        ["", "STATE", "NODE", "DEVICE", "PID", "LAYERS", "HEADS", "KV HEADS", "WEIGHTS"]
            .map(Cell::from)
            .into(),
    ];
    for replica in &cluster.replicas {
        rows.extend(replica_rows(replica));
    }
    text + "\n" + &align(&rows, colour)
}

/// Returns one row per node, under a heading.
pub(crate) fn node_rows(nodes: &[Node]) -> Vec<Vec<Cell>> {
    let mut rows = vec![["NODE", "STATE", "ADDRESS", "DEVICES"].map(Cell::from).into()];
    rows.extend(nodes.iter().map(|node| {
        let state = match (node.connected, node.drained) {
            (true, false) => Cell::new("connected", Mood::Good),
            (true, true) => Cell::new("drained", Mood::Busy),
            (false, _) => Cell::new("lost", Mood::Bad),
        };
        let address = node.address.as_deref().map_or("-".to_owned(), visible);
        let devices: Vec<_> = node.devices.chunk_by(alike).map(device_group).collect();
        let devices = devices.join(", ");
        vec![visible(&node.name).into(), state, address.into(), devices.into()]
    }));
    rows
}

fn alike(one: &Device, other: &Device) -> bool {
    (one.memory_bytes, one.threads) == (other.memory_bytes, other.threads)
}

/// Returns the devices that differ only in their names as one text.
fn device_group(devices: &[Device]) -> String {
    let names: Vec<_> = devices.iter().map(|device| visible(&device.name)).collect();
    let (each, Device { memory_bytes, threads, .. }) =
        (if devices.len() > 1 { "each " } else { "" }, &devices[0]);
    format!("{} ({each}{}, threads {threads})", names.join(" "), Bytes(*memory_bytes))
}

/// Returns the word for the state of a replica.
pub(crate) fn state_word(replica: &Replica) -> &'static str {
    match replica.state {
        ReplicaState::Serving if replica.stalled => "stalled",
        ReplicaState::Serving if replica.slower_than_peers.is_some() => "slow",
        ReplicaState::Starting => "starting",
        ReplicaState::Serving => "serving",
        ReplicaState::Restarting => "restarting",
        ReplicaState::Failed => "failed",
        ReplicaState::Draining => "draining",
        ReplicaState::Drained => "drained",
        ReplicaState::Stopped => "stopped",
    }
}

/// Returns `part` of `whole` in percent; a dash if `whole` is 0.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0} %", part as f64 * 100.0 / whole as f64),
    }
}

/// Returns how many replicas serve, and how many requests there are.
pub(crate) fn summary(cluster: &Cluster) -> String {
    let (serving, all) = (cluster.serving(), cluster.replicas.len());
    let draining = if cluster.draining { ", draining" } else { "" };
    let in_flight = cluster.in_flight;
    // A stalled replica keeps its requests.
    let nobody = cluster.replicas.iter().all(|it| it.state != ReplicaState::Serving);
    let parked = if nobody && in_flight > 0 { " (parked until one serves)" } else { "" };
    format!("{serving} of {all} replicas serve, in flight: {in_flight}{parked}{draining}")
}

/// Returns the change that is under way, and its progress.
fn under_way(operation: &Operation) -> String {
    let Operation { id, change, phase, steps, .. } = operation;
    let last = steps.last().map(|step| format!(": {}", visible(&step.text)));
    let (change, phase) = (change_words(change), phase_word(*phase));
    format!("operation {id}, {change}: {phase}{}\n", last.unwrap_or_default())
}

fn replica_rows(replica: &Replica) -> Vec<Vec<Cell>> {
    let name = format!("replica {}", replica.id);
    let mood = match replica.state {
        ReplicaState::Serving if replica.stalled || replica.slower_than_peers.is_some() => {
            Mood::Bad
        }
        ReplicaState::Serving => Mood::Good,
        ReplicaState::Starting
        | ReplicaState::Restarting
        | ReplicaState::Draining
        | ReplicaState::Drained => Mood::Busy,
        ReplicaState::Failed | ReplicaState::Stopped => Mood::Bad,
    };
    let state = Cell::new(state_word(replica), mood);
    let mut rows = vec![vec![name.into(), state, load(replica).into()]];
    if let Some(reason) = &replica.reason {
        rows.push(vec!["│".into(), visible(reason).into()]);
    }
    if let Some(what) = &replica.waits_for {
        rows.push(vec!["│".into(), format!("waits for devices: {}", visible(what)).into()]);
    }
    if let Some(seconds) = replica.seconds_without_progress.filter(|_| replica.stalled) {
        let text = format!("nothing has come of its work for {seconds} s");
        rows.push(vec!["│".into(), text.into()]);
    }
    if let Some(times) = replica.slower_than_peers {
        let text = format!("its steps take {times} times what others take, which get its requests");
        rows.push(vec!["│".into(), text.into()]);
    }
    let last = replica.stages.len().saturating_sub(1);
    for (number, stage) in replica.stages.iter().enumerate() {
        rows.extend(stage_rows(number, stage, number == last));
    }
    rows
}

fn load(replica: &Replica) -> String {
    let (held, blocks) = (replica.kv_blocks_held, replica.kv_blocks);
    [
        format!("epoch {}", replica.epoch),
        format!("{} running, {} waiting", replica.running, replica.waiting),
        format!("KV {held}/{blocks} blocks ({})", percent(held as u64, blocks as u64)),
        format!(
            "prefix hits {}",
            percent(replica.prefix_hit_tokens, replica.prefix_queried_tokens)
        ),
        format!("{} prefilled, {} generated", replica.prefill_tokens, replica.generated_tokens),
    ]
    .join("  ")
}

fn stage_rows(number: usize, stage: &Stage, is_last: bool) -> Vec<Vec<Cell>> {
    let (branch, trunk) = if is_last { ("└─", "  ") } else { ("├─", "│ ") };
    let name = format!("{branch} stage {number}");
    let mut rows = vec![vec![name.into(), format!("layers {}", layers(&stage.layers)).into()]];
    let last = stage.shards.len().saturating_sub(1);
    for (number, shard) in stage.shards.iter().enumerate() {
        let branch = if number == last { "└─" } else { "├─" };
        rows.push(shard_row(format!("{trunk} {branch} shard {number}"), shard));
    }
    rows
}

fn shard_row(name: String, shard: &Shard) -> Vec<Cell> {
    let state = match (shard.state, shard.loading) {
        (ShardState::Starting, _) => Cell::new("starting", Mood::Busy),
        (ShardState::Loading, None) => Cell::new("loading", Mood::Busy),
        (ShardState::Loading, Some(done)) => {
            Cell::new(format!("loading {}", percent(done.bytes, done.of_bytes)), Mood::Busy)
        }
        (ShardState::Ready, _) => Cell::new("ready", Mood::Good),
        (ShardState::Lost, _) => Cell::new("lost", Mood::Bad),
        (ShardState::Ended, _) => Cell::new("ended", Mood::Plain),
    };
    let [node, device, pid] = match &shard.whereabouts {
        Some(place) => [visible(&place.node), visible(&place.device), place.pid.to_string()],
        None => ["-"; 3].map(str::to_owned),
    };
    vec![
        name.into(),
        state,
        node.into(),
        device.into(),
        pid.into(),
        layers(&shard.layers).into(),
        shard.query_heads.to_string().into(),
        shard.kv_heads.to_string().into(),
        Bytes(shard.weight_bytes).to_string().into(),
    ]
}

/// Returns the first and the last layer.
fn layers(range: &Range<usize>) -> String {
    match range.len() {
        0 => "-".to_owned(),
        1 => range.start.to_string(),
        _ => format!("{}-{}", range.start, range.end - 1),
    }
}

#[cfg(test)]
pub(crate) mod tests;
