//! A plan as SVG: a row per replica, a box per stage, a frame per tensor group, a cell per rank.
//!
//! Cells are coloured by node, with the node's name in the cell, so nothing depends on colour alone. Arrows
//! between the boxes show the pipeline. Text is in the viewer's own sans-serif font.

use std::fmt::Write;

use super::names::{bytes, layout, range};
use crate::{Plan, PlannedRank};

/// Most ranks that are drawn; the picture of a larger plan says how many are missing.
const DRAWN_MAX: usize = 1024;

const CELL_WIDTH: usize = 164;
const CELL_HEIGHT: usize = 76;
const GAP: usize = 6;
/// Margin around the cells of a tensor group.
const FRAME: usize = 5;
/// Height of the title above the cells of a stage.
const TITLE: usize = 22;
/// Width of the arrow between stages.
const ARROW: usize = 34;
const MARGIN: usize = 16;
/// Width of the replica's name left of the stages.
const LABEL: usize = 84;
const HEADER: usize = 60;

/// Light fills that differ in hue, legible under black text.
const FILLS: [&str; 8] =
    ["#cfe3ff", "#ffe2c2", "#d3f0d0", "#f6d3e6", "#e6dcff", "#fff2b8", "#c9eeee", "#e4e4e4"];

/// The sizes of a picture.
struct Canvas {
    /// Ranks of a tensor group, drawn side by side.
    tensor: usize,
    /// Tensor groups of a stage, drawn one below the other.
    rows: usize,
    stages: usize,
    replicas: usize,
}

// === impl Plan ===

impl Plan {
    /// Returns the plan as an SVG picture.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let canvas = Canvas::of(self);
        let (title, legend) = (self.title(&canvas), self.legend());
        // About the widths of a letter at the two sizes.
        let words = (title.chars().count() * 9).max(legend.chars().count() * 6) + 2 * MARGIN;
        let (width, height) = (canvas.width().max(words), canvas.height());
        let mut svg = String::new();
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"
        );
        text(&mut svg, MARGIN, 26, "font-size=\"15\" font-weight=\"bold\"", &title);
        text(&mut svg, MARGIN, 46, "fill=\"#444444\"", &legend);
        for replica in 0..canvas.replicas {
            self.draw_replica(&mut svg, &canvas, replica);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn title(&self, canvas: &Canvas) -> String {
        let drawn = canvas.replicas * canvas.stages * canvas.stage_ranks();
        let more = match self.ranks.len().saturating_sub(drawn) {
            0 => String::new(),
            more => format!(" ({more} more not drawn)"),
        };
        format!("{}: {} ranks{more}", layout(&self.spec), self.ranks.len())
    }

    fn legend(&self) -> String {
        let mut legend = "frame: tensor group · arrow: pipeline · row: replica".to_owned();
        if self.placement.is_some() {
            legend += " · colour: node";
        }
        if self.widths.expert() > 1 {
            legend += " · EP: place in the expert group";
        }
        legend
    }

    fn draw_replica(&self, svg: &mut String, canvas: &Canvas, replica: usize) {
        let y = HEADER + replica * (canvas.stage_height() + 2 * GAP);
        let middle = y + canvas.stage_height() / 2;
        text(svg, MARGIN, middle, "font-weight=\"bold\"", &format!("replica {replica}"));
        for stage in 0..canvas.stages {
            let x = canvas.stage_x(stage);
            let first = (replica * canvas.stages + stage) * canvas.stage_ranks();
            let end = (first + canvas.stage_ranks()).min(self.ranks.len());
            self.draw_stage(svg, canvas, (x, y), &self.ranks[first..end]);
            if stage + 1 < canvas.stages {
                let (from, to) =
                    (x + canvas.stage_width() + 4, x + canvas.stage_width() + ARROW - 4);
                let _ = writeln!(
                    svg,
                    "<path d=\"M{from} {middle}H{to}m-7 -5l7 5l-7 5\" fill=\"none\" \
                     stroke=\"#333333\" stroke-width=\"2\"/>"
                );
            }
        }
    }

    fn draw_stage(
        &self,
        svg: &mut String,
        canvas: &Canvas,
        at: (usize, usize),
        ranks: &[PlannedRank],
    ) {
        let (x, y) = at;
        let Some(first) = ranks.first() else { return };
        let (width, height) = (canvas.stage_width(), canvas.stage_height());
        frame(svg, (x, y, width, height), "#fafafa", "#333333", 1);
        let title = format!("stage {} · layers {}", first.at.stage, range(first.holding.layers));
        text(svg, x + GAP, y + 15, "font-weight=\"bold\"", &title);
        for (row, group) in ranks.chunks(canvas.tensor).enumerate() {
            let (left, top) = (x + GAP, y + TITLE + row * (canvas.row_height() + GAP));
            let outer = (left, top, canvas.group_width(), canvas.row_height());
            frame(svg, outer, "none", "#b3541e", 2);
            for (column, rank) in group.iter().enumerate() {
                let cell = left + FRAME + column * (CELL_WIDTH + GAP);
                self.draw_rank(svg, (cell, top + FRAME), rank);
            }
        }
    }

    fn draw_rank(&self, svg: &mut String, (x, y): (usize, usize), rank: &PlannedRank) {
        let node = self.placement.as_ref().and_then(|placement| {
            placement.devices.get(rank.at.rank as usize).map(|device| device.node as usize)
        });
        let fill = node.map_or("#eef2f6", |node| FILLS[node % FILLS.len()]);
        frame(svg, (x, y, CELL_WIDTH, CELL_HEIGHT), fill, "#555555", 1);
        let bold = "font-weight=\"bold\"";
        text(svg, x + 6, y + 15, bold, &format!("rank {}", rank.at.rank));
        let mut lines = Vec::new();
        if let (Some(node), Some(device)) = (&rank.node, rank.device) {
            lines.push(format!("{} · {device}", shortened(node)));
        }
        let kv = rank.holding.kv_heads.map_or_else(|| "latent".to_owned(), range);
        lines.push(format!("heads {} · KV {kv}", range(rank.holding.query_heads)));
        if let Some(experts) = rank.holding.experts {
            lines.push(format!("EP {} · {} experts", rank.at.expert, experts.count));
        }
        lines.push(bytes(rank.memory.weight_bytes));
        for (line, at) in lines.iter().zip(1..) {
            text(svg, x + 6, y + 15 + at * 13, "", line);
        }
    }
}

// === impl Canvas ===

impl Canvas {
    fn of(plan: &Plan) -> Self {
        let widths = &plan.widths;
        let (tensor, stage) = (widths.attention_tensor.max(1), widths.stage_ranks.max(1));
        let replica = usize::try_from(widths.replica_ranks()).unwrap_or(usize::MAX).max(1);
        // Of a replica that is too large by itself the first stages are drawn.
        let stages = (DRAWN_MAX / stage as usize).clamp(1, (widths.stages as usize).max(1));
        let replicas = (DRAWN_MAX / replica).clamp(1, (widths.replicas as usize).max(1));
        let rows = (stage.div_ceil(tensor)) as usize;
        let whole = Self { tensor: tensor as usize, rows, stages, replicas };
        // Rows that would be of another stage cannot be left out, so a cut replica stands alone.
        if stages < widths.stages as usize { Self { replicas: 1, ..whole } } else { whole }
    }

    fn stage_ranks(&self) -> usize {
        self.tensor * self.rows
    }

    fn row_height(&self) -> usize {
        CELL_HEIGHT + 2 * FRAME
    }

    fn group_width(&self) -> usize {
        self.tensor * (CELL_WIDTH + GAP) - GAP + 2 * FRAME
    }

    fn stage_width(&self) -> usize {
        self.group_width() + 2 * GAP
    }

    fn stage_height(&self) -> usize {
        TITLE + self.rows * (self.row_height() + GAP)
    }

    fn stage_x(&self, stage: usize) -> usize {
        MARGIN + LABEL + stage * (self.stage_width() + ARROW)
    }

    fn width(&self) -> usize {
        self.stage_x(self.stages) - ARROW + MARGIN
    }

    fn height(&self) -> usize {
        HEADER + self.replicas * (self.stage_height() + 2 * GAP) + MARGIN
    }
}

fn frame(
    svg: &mut String,
    (x, y, width, height): (usize, usize, usize, usize),
    fill: &str,
    stroke: &str,
    line: usize,
) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\" fill=\"{fill}\" \
         stroke=\"{stroke}\" stroke-width=\"{line}\"/>"
    );
}

fn text(svg: &mut String, x: usize, y: usize, style: &str, content: &str) {
    let _ = write!(svg, "<text x=\"{x}\" y=\"{y}\" {style}>");
    for letter in content.chars() {
        match letter {
            '&' => svg.push_str("&amp;"),
            '<' => svg.push_str("&lt;"),
            '>' => svg.push_str("&gt;"),
            // XML has no way to write the others.
            letter if letter.is_control() => svg.push(' '),
            letter => svg.push(letter),
        }
    }
    svg.push_str("</text>\n");
}

/// Returns a name that fits in a cell.
fn shortened(name: &str) -> String {
    const SHOWN: usize = 14;
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
