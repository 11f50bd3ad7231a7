//! A plan as text: a row for the ranks that hold equally much, the groups, the traffic.

use std::collections::BTreeSet;
use std::fmt;

use super::names::{bytes, layout, range, set, thousands, visible};
use crate::{Exchange, ExpertSlice, GroupKind, Operation, Plan, PlannedRank, Slice, StageTraffic};

/// A column of the table: its title, and the function that fills it for a row of ranks; `None` where the
/// cells of the ranks cannot stand in one.
struct Column {
    title: &'static str,
    cell: fn(&[PlannedRank]) -> Option<String>,
}

// === impl Plan ===

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}: {} ranks", layout(&self.spec), thousands(self.widths.world()))?;
        writeln!(out)?;
        self.write_ranks(out)?;
        writeln!(out)?;
        self.write_groups(out)?;
        self.write_traffic(out)?;
        if let Some(tokens) = self.kv_tokens {
            writeln!(out, "\nKV cache: {} tokens in all replicas", thousands(tokens))?;
        }
        for warning in &self.warnings {
            writeln!(out, "\nwarning: {}", visible(warning))?;
        }
        Ok(())
    }
}

impl Plan {
    /// Returns the columns that say something about this plan.
    fn columns(&self) -> Vec<Column> {
        let widths = &self.widths;
        let optional = |wanted: bool, title, cell| wanted.then_some(Column { title, cell });
        let routed = self.ranks.iter().any(|rank| rank.holding.experts.is_some());
        let experts_title =
            if self.spec.redundant_experts > 0 { "expert slots" } else { "experts" };
        let placed = self.placement.is_some();
        let shared = widths.embedding_tensor == widths.head_tensor;
        [
            optional(true, "rank", |ranks| span(ranks, |rank| Some(rank.at.rank))),
            optional(placed, "node", |ranks| {
                same(ranks, |rank| visible(rank.node.as_deref().unwrap_or_default()))
            }),
            optional(placed, "device", |ranks| span(ranks, |rank| rank.device)),
            optional(true, "replica", |ranks| span(ranks, |rank| Some(rank.at.replica))),
            optional(true, "stage", |ranks| span(ranks, |rank| Some(rank.at.stage))),
            optional(true, "TP", |ranks| span(ranks, |rank| Some(rank.at.tensor))),
            optional(widths.attention_context > 1, "CP", |ranks| {
                span(ranks, |rank| Some(rank.at.context))
            }),
            optional(widths.decode_context > 1, "DCP", |ranks| {
                span(ranks, |rank| Some(rank.at.decode_context))
            }),
            optional(widths.attention_data > 1, "attn-DP", |ranks| {
                span(ranks, |rank| Some(rank.at.attention_data))
            }),
            optional(widths.expert() > 1, "EP", |ranks| span(ranks, |rank| Some(rank.at.expert))),
            optional(routed && widths.expert_slices() > 1, "MoE-TP", |ranks| {
                span(ranks, |rank| Some(rank.at.moe_tensor))
            }),
            optional(true, "layers", |ranks| same(ranks, |rank| range(rank.holding.layers))),
            optional(true, "heads", |ranks| {
                slices(ranks, "-", |rank| Some(rank.holding.query_heads))
            }),
            optional(true, "KV heads", |ranks| {
                slices(ranks, "latent", |rank| rank.holding.kv_heads)
            }),
            optional(routed, experts_title, experts),
            optional(shared, "vocabulary", |ranks| {
                slices(ranks, "-", |rank| rank.holding.head.or(rank.holding.embedding))
            }),
            optional(!shared, "embedding", |ranks| {
                slices(ranks, "-", |rank| rank.holding.embedding)
            }),
            optional(!shared, "head", |ranks| slices(ranks, "-", |rank| rank.holding.head)),
            optional(true, "weights", |ranks| same(ranks, |rank| bytes(rank.memory.weight_bytes))),
            optional(true, "KV/token", |ranks| {
                same(ranks, |rank| bytes(rank.memory.kv_bytes_per_token))
            }),
            optional(true, "workspace", |ranks| {
                same(ranks, |rank| bytes(rank.memory.workspace_bytes))
            }),
            optional(placed, "KV tokens", |ranks| {
                same(ranks, |rank| rank.kv_tokens.map(thousands).unwrap_or_default())
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Writes a row for each run of ranks that hold equally much, side by side.
    fn write_ranks(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        let row = |ranks: &[PlannedRank]| -> Option<Vec<String>> {
            columns.iter().map(|column| (column.cell)(ranks)).collect()
        };
        let title = columns.iter().map(|column| column.title.to_owned()).collect();
        let mut rows: Vec<Vec<String>> = vec![title];
        for run in self.ranks.chunk_by(alike) {
            match row(run) {
                Some(row) => rows.push(row),
                None => rows.extend(run.chunks(1).filter_map(row)),
            }
        }
        write_aligned(out, &rows)
    }

    fn write_groups(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for groups in &self.groups {
            let listed = match groups.kind {
                GroupKind::Pipeline => self.chains(),
                _ => groups.groups.iter().map(|ranks| set(ranks)).collect(),
            };
            writeln!(out, "{:<20}{}", format!("{} groups", groups.kind.label()), listed.join(" "))?;
        }
        Ok(())
    }

    /// Returns the stages of each replica in order: `{0,1}→{2,3}`.
    fn chains(&self) -> Vec<String> {
        let ranks: Vec<u32> = self.ranks.iter().map(|rank| rank.at.rank).collect();
        let stage = (self.widths.stage_ranks as usize).max(1);
        let replica = stage.saturating_mul(self.widths.stages as usize).max(1);
        ranks
            .chunks(replica)
            .map(|ranks| ranks.chunks(stage).map(set).collect::<Vec<_>>().join("→"))
            .collect()
    }

    fn write_traffic(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prompts = format!("{} prompt tokens", thousands(self.serving.step_tokens));
        let decode = format!("{} generated tokens", thousands(self.generated()));
        self.write_step(out, &prompts, |stage| &stage.prompts)?;
        self.write_step(out, &decode, |stage| &stage.decode)
    }

    fn write_step(
        &self,
        out: &mut fmt::Formatter<'_>,
        load: &str,
        exchanges: impl Fn(&StageTraffic) -> &[Exchange],
    ) -> fmt::Result {
        let mut rows = Vec::new();
        for stage in &self.traffic {
            for exchange in exchanges(stage) {
                rows.push(vec![
                    format!("stage {}", stage.stage),
                    exchange.group.label().to_owned(),
                    format!("{} ranks", exchange.ranks),
                    operation(exchange.operation).to_owned(),
                    format!("{} calls", thousands(exchange.calls)),
                    bytes(exchange.bytes),
                ]);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nsent by one rank in a step of {load} per replica:")?;
        write_aligned(out, &rows)
    }
}

/// Writes columns as wide as their widest cell, cells to the right.
fn write_aligned(out: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        writeln!(out, "{}", cells.join("  "))?;
    }
    Ok(())
}

/// Returns whether two ranks are in one place and hold equally much.
fn alike(one: &PlannedRank, other: &PlannedRank) -> bool {
    let place = |rank: &PlannedRank| (rank.at.stage, rank.holding.layers, rank.kv_tokens);
    one.node == other.node && one.memory == other.memory && place(one) == place(other)
}

/// Returns what is the same for all ranks.
fn same(ranks: &[PlannedRank], cell: impl Fn(&PlannedRank) -> String) -> Option<String> {
    let first = cell(ranks.first()?);
    ranks[1..].iter().all(|rank| cell(rank) == first).then_some(first)
}

/// Returns the numbers of the ranks, from the first to the last: `0-7`.
fn span(ranks: &[PlannedRank], number: fn(&PlannedRank) -> Option<u32>) -> Option<String> {
    let numbers: Vec<u32> = ranks.iter().filter_map(number).collect();
    let (first, last) = (numbers.iter().min()?, numbers.iter().max()?);
    Some(if first == last { first.to_string() } else { format!("{first}-{last}") })
}

/// Returns the slice of all ranks, and how much each holds if it is less: `0-31 (4 each)`; `none` if none holds
/// any.
fn slices(
    ranks: &[PlannedRank],
    none: &str,
    held: fn(&PlannedRank) -> Option<Slice>,
) -> Option<String> {
    let slices: Option<Vec<Slice>> = ranks.iter().map(held).collect();
    match slices {
        Some(slices) => union(slices),
        None => ranks.iter().all(|rank| held(rank).is_none()).then(|| none.to_owned()),
    }
}

/// Returns the union of slices that are equally long and leave no gap.
fn union(mut slices: Vec<Slice>) -> Option<String> {
    slices.sort_unstable_by_key(|slice| slice.first);
    slices.dedup();
    let (first, last) = (*slices.first()?, *slices.last()?);
    if slices.len() == 1 {
        return Some(range(first));
    }
    let joined = |two: &[Slice]| two[0].count == two[1].count && two[0].end() == two[1].first;
    let whole = Slice { first: first.first, count: last.end() - first.first };
    let each = thousands(first.count);
    slices.windows(2).all(joined).then(|| format!("{} ({each} each)", range(whole)))
}

/// Returns the experts of the ranks: `0-31`, or `3,11,…,59` for round-robin, and how many each holds if
/// several hold different ones.
fn experts(ranks: &[PlannedRank]) -> Option<String> {
    let held: Vec<ExpertSlice> = ranks.iter().filter_map(|rank| rank.holding.experts).collect();
    let Some(first) = held.first() else { return Some(String::new()) };
    if held.iter().all(|experts| experts == first) {
        return Some(listed(*first));
    }
    if held.iter().any(|experts| (experts.count, experts.step) != (first.count, first.step)) {
        return None;
    }
    if first.step == 1 {
        let slice = |experts: &ExpertSlice| Slice { first: experts.first, count: experts.count };
        return union(held.iter().map(slice).collect());
    }
    // Ranks that take turns hold all experts together, if all of them are here.
    let starts: BTreeSet<u64> = held.iter().map(|experts| experts.first).collect();
    let whole = Slice { first: 0, count: first.step.saturating_mul(first.count) };
    starts.into_iter().eq(0..first.step).then(|| format!("{} ({} each)", range(whole), first.count))
}

fn listed(experts: ExpertSlice) -> String {
    let ExpertSlice { first, count, step } = experts;
    let at = |place: u64| first.saturating_add(step.saturating_mul(place));
    match (count, step) {
        (0, _) => "-".to_owned(),
        (1, _) => first.to_string(),
        (_, 1) => format!("{first}-{}", at(count - 1)),
        (2, _) => format!("{first},{}", at(1)),
        _ => format!("{first},{},…,{}", at(1), at(count - 1)),
    }
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::AllReduce => "all-reduce",
        Operation::AllGather => "all-gather",
        Operation::GatherScatter => "gather and scatter",
        Operation::AllToAll => "all-to-all",
        Operation::Send => "send",
    }
}
