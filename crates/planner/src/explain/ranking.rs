//! A recommendation as text.

use std::fmt;

use super::names::{bytes, layout, thousands};
use crate::Recommendation;

// === impl Recommendation ===

impl fmt::Display for Recommendation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let looked = thousands(self.candidates as u64);
        if self.ranked.is_empty() {
            writeln!(out, "none of {looked} layouts fits")?;
        } else {
            writeln!(out, "best of {looked} layouts (predicted):")?;
        }
        for (ranked, place) in self.ranked.iter().zip(1..) {
            let speed = &ranked.speed;
            writeln!(out, "{place}. {}", layout(&ranked.spec))?;
            writeln!(
                out,
                "   {} tokens/s at {} requests; first token {:.0} ms, then {:.1} ms each at {} \
                 requests",
                thousands(speed.tokens_per_s as u64),
                thousands(speed.concurrent_max),
                speed.ttft_s * 1e3,
                speed.tpot_s * 1e3,
                thousands(speed.concurrent),
            )?;
            writeln!(
                out,
                "   {} of weights on the fullest rank, {} tokens of KV in all",
                bytes(ranked.memory.weight_bytes),
                thousands(ranked.kv_tokens),
            )?;
        }
        for cuts in &self.cut {
            writeln!(
                out,
                "cut: {} × {}, at best {}: {}",
                cuts.count,
                cuts.reason,
                layout(&cuts.example),
                cuts.message
            )?;
        }
        if self.capped {
            writeln!(out, "more layouts are possible than were looked at")?;
        }
        Ok(())
    }
}
