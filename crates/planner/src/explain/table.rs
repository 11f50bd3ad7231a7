//! A plan as text: a row per rank, the groups, the traffic.

use std::fmt;

use super::names::{bytes, layout, range, set, thousands, visible};
use crate::{Exchange, ExpertSlice, GroupKind, Operation, Plan, PlannedRank, Slice, StageTraffic};

/// A column of the table: its title, and the function that fills it for a rank.
struct Column {
    title: &'static str,
    cell: fn(&PlannedRank) -> String,
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
        let placed = self.placement.is_some();
        let alike = widths.embedding_tensor == widths.head_tensor;
        [
            optional(true, "rank", |rank| rank.at.rank.to_string()),
            optional(placed, "node", |rank| visible(rank.node.as_deref().unwrap_or_default())),
            optional(placed, "device", |rank| {
                rank.device.map(|device| device.to_string()).unwrap_or_default()
            }),
            optional(true, "replica", |rank| rank.at.replica.to_string()),
            optional(true, "stage", |rank| rank.at.stage.to_string()),
            optional(true, "TP", |rank| rank.at.tensor.to_string()),
            optional(widths.attention_context > 1, "CP", |rank| rank.at.context.to_string()),
            optional(widths.decode_context > 1, "DCP", |rank| rank.at.decode_context.to_string()),
            optional(widths.attention_data > 1, "attn-DP", |rank| {
                rank.at.attention_data.to_string()
            }),
            optional(widths.expert() > 1, "EP", |rank| rank.at.expert.to_string()),
            optional(routed && widths.expert_slices() > 1, "MoE-TP", |rank| {
                rank.at.moe_tensor.to_string()
            }),
            optional(true, "layers", |rank| range(rank.holding.layers)),
            optional(true, "heads", |rank| range(rank.holding.query_heads)),
            optional(true, "KV heads", |rank| {
                rank.holding.kv_heads.map_or_else(|| "latent".to_owned(), range)
            }),
            optional(routed, "experts", |rank| {
                rank.holding.experts.map_or_else(String::new, experts)
            }),
            optional(alike, "vocabulary", |rank| {
                rows(rank.holding.head.or(rank.holding.embedding))
            }),
            optional(!alike, "embedding", |rank| rows(rank.holding.embedding)),
            optional(!alike, "head", |rank| rows(rank.holding.head)),
            optional(true, "weights", |rank| bytes(rank.memory.weight_bytes)),
            optional(true, "KV/token", |rank| bytes(rank.memory.kv_bytes_per_token)),
            optional(true, "workspace", |rank| bytes(rank.memory.workspace_bytes)),
            optional(placed, "KV tokens", |rank| rank.kv_tokens.map(thousands).unwrap_or_default()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn write_ranks(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        let row = |rank: &PlannedRank| -> Vec<String> {
            columns.iter().map(|column| (column.cell)(rank)).collect()
        };
        let title = columns.iter().map(|column| column.title.to_owned()).collect();
        let rows: Vec<Vec<String>> =
            std::iter::once(title).chain(self.ranks.iter().map(row)).collect();
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

/// Rows of the vocabulary that a rank holds, or `-` for none.
fn rows(held: Option<Slice>) -> String {
    held.map_or_else(|| "-".to_owned(), range)
}

/// `0-31`, or `3,11,…,59` for round-robin.
fn experts(experts: ExpertSlice) -> String {
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
