//! The text on the screen, as a function of the state of the cluster (**TOP-3**).

use playhouse_admin::view::{Cluster, Replica};
use tokio::time::Instant;
use unicode_width::UnicodeWidthStr;

use crate::status::tree::{node_rows, percent, state_word, summary};
use crate::table::align;
use crate::terminal::{start, visible};

const HEADING: &str = "REPLICA STATE        DECODE/S  PREFILL/S   RUN  WAIT  PREFIX  KV";
/// The width below which a replica takes three lines in place of one.
const TABLE_WIDTH_MIN: usize = 76;
/// The columns of the table before the bar.
const BEFORE_BAR: usize = 62;
/// The columns of a bar's brackets and percentage.
const AROUND_BAR: usize = 9;
/// The maximum length of a bar; longer ones tell no more.
const BAR_MAX: usize = 40;

/// The cluster at one moment.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) cluster: Cluster,
}

/// Tokens per second.
struct Rates {
    decode: f64,
    prefill: f64,
}

/// Returns at most `height` lines of at most `width` columns, with line feeds between them.
pub(super) fn frame(previous: &Sample, current: &Sample, width: usize, height: usize) -> String {
    let cluster = &current.cluster;
    let rates: Vec<Rates> =
        cluster.replicas.iter().map(|replica| Rates::of(replica, previous, current)).collect();
    let mut lines = head(cluster, &rates);
    if width >= TABLE_WIDTH_MIN {
        lines.push(HEADING.to_owned());
    }
    for (replica, rates) in cluster.replicas.iter().zip(&rates) {
        if width >= TABLE_WIDTH_MIN {
            lines.push(row(replica, rates, width));
        } else {
            lines.extend(card(replica, rates, width));
        }
        lines.extend(replica.reason.iter().map(|reason| format!("  {}", visible(reason))));
    }
    if !cluster.nodes.is_empty() {
        lines.push(String::new());
        lines.extend(align(&node_rows(&cluster.nodes), false).lines().map(str::to_owned));
    }
    fit(lines, width, height)
}

fn head(cluster: &Cluster, rates: &[Rates]) -> Vec<String> {
    let decode = rates.iter().map(|rates| rates.decode).sum();
    let prefill = rates.iter().map(|rates| rates.prefill).sum();
    let (decode, prefill) = (rate(decode), rate(prefill));
    vec![
        summary(cluster),
        format!("tokens/s: {decode} decode, {prefill} prefill   (q quits)"),
        String::new(),
    ]
}

fn row(replica: &Replica, rates: &Rates, width: usize) -> String {
    format!(
        "{:<8}{:<11}{:>10}{:>11}{:>6}{:>6}{:>8}  {}",
        replica.id,
        state_word(replica),
        rate(rates.decode),
        rate(rates.prefill),
        replica.running,
        replica.waiting,
        prefix(replica),
        bar(replica, width.saturating_sub(BEFORE_BAR + AROUND_BAR)),
    )
}

fn card(replica: &Replica, rates: &Rates, width: usize) -> [String; 3] {
    let Replica { id, running, waiting, .. } = replica;
    let (decode, prefill) = (rate(rates.decode), rate(rates.prefill));
    let name = format!("{id} {:<10} ", state_word(replica));
    let bar = bar(replica, width.saturating_sub(name.len() + AROUND_BAR));
    [
        name + &bar,
        format!("  decode {decode}/s, prefill {prefill}/s"),
        format!("  run {running}, wait {waiting}, prefix {}", prefix(replica)),
    ]
}

/// Returns the share of prompt tokens that did not have to be computed.
fn prefix(replica: &Replica) -> String {
    percent(replica.prefix_hit_tokens, replica.prefix_queried_tokens)
}

fn bar(replica: &Replica, cells: usize) -> String {
    let (held, blocks) = (replica.kv_blocks_held, replica.kv_blocks);
    let cells = cells.min(BAR_MAX);
    let full = cells as f64 * held as f64 / blocks.max(1) as f64;
    // The first block takes one cell, so that idle and nearly idle differ.
    let full = (full.round() as usize).clamp(held.min(1), cells.max(1)).min(cells);
    let percent = percent(held as u64, blocks as u64);
    format!("[{}{}] {percent:>5}", "#".repeat(full), ".".repeat(cells - full))
}

fn rate(per_second: f64) -> String {
    if per_second < 999.95 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn fit(mut lines: Vec<String>, width: usize, height: usize) -> String {
    if lines.len() > height && height > 0 {
        let hidden = lines.len() - (height - 1);
        lines.truncate(height - 1);
        lines.push(format!("... {hidden} more lines"));
    }
    lines.truncate(height);
    let lines = lines.into_iter().map(|line| match width.checked_sub(1) {
        Some(most) if line.width() > width => format!("{}…", start(&line, most)),
        Some(_) => line,
        None => String::new(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

// === impl Rates ===

impl Rates {
    /// Returns the rates between two samples. Counters that decreased belong to a restarted head.
    fn of(replica: &Replica, previous: &Sample, current: &Sample) -> Self {
        let seconds = current.at.duration_since(previous.at).as_secs_f64();
        let before = previous.cluster.replicas.iter().find(|before| before.id == replica.id);
        let Some(before) = before.filter(|_| seconds > 0.0) else {
            return Self { decode: 0.0, prefill: 0.0 };
        };
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Self {
            decode: rate(replica.generated_tokens, before.generated_tokens),
            prefill: rate(replica.prefill_tokens, before.prefill_tokens),
        }
    }
}

#[cfg(test)]
mod tests;
