//! The tokens from which a draw chooses, narrowed without sorting the whole vocabulary.

use std::cmp::Ordering;

use playhouse_types::TokenId;

use super::tame;

/// Tokens that are sorted first in the search for the nucleus; then eight times as many, and so on.
const NUCLEUS_GUESS: usize = 256;

/// The tokens with a probability above zero, in order of id until a `keep_` function narrows them, then by
/// [`by_rank`]: the order is fixed in both cases, so that a draw is reproducible.
pub(super) struct Candidates(Vec<Candidate>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    token: TokenId,
    /// Logit divided by temperature, minus the most likely token's; at most 0.
    score: f32,
}

/// Orders the most likely token first, ties by lower id.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.token.cmp(&b.token))
}

// === impl Candidates ===

impl Candidates {
    /// Returns the tokens at least `min_p` times as likely as the most likely one. Empty if no logit is above
    /// minus infinity.
    pub(super) fn new(logits: &[f32], temperature: f32, min_p: f32) -> Self {
        let best = logits.iter().copied().map(tame).fold(f32::NEG_INFINITY, f32::max);
        if best == f32::NEG_INFINITY {
            return Self(Vec::new());
        }
        // Minus infinity for 0; a token of probability zero is no candidate in either case.
        let least = min_p.ln().max(f32::MIN);
        // Adding 0.0 makes 0.0 of -0.0, which `total_cmp` would rank lower.
        let score = |logit| (tame(logit) - best) / temperature + 0.0;
        let candidate = |(token, &logit)| Candidate { token, score: score(logit) };
        let likely = |candidate: &Candidate| candidate.score >= least;
        Self((0..).zip(logits).map(candidate).filter(likely).collect())
    }

    /// Keeps the `k` most likely tokens; 0 keeps all.
    pub(super) fn keep_top_k(&mut self, k: u32) {
        let k = k as usize;
        if k > 0 && k < self.0.len() {
            self.0.select_nth_unstable_by(k - 1, by_rank);
            self.0.truncate(k);
            self.0.sort_unstable_by(by_rank);
        }
    }

    /// Keeps the fewest most likely tokens whose share of the probability reaches `p`.
    pub(super) fn keep_top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let enough = f64::from(p) * self.mass();
        let all = self.0.len();
        let (mut sorted, mut mass) = (0, 0.0);
        while sorted < all {
            let next = (8 * sorted).max(NUCLEUS_GUESS).min(all);
            if next < all {
                self.0[sorted..].select_nth_unstable_by(next - sorted, by_rank);
            }
            self.0[sorted..next].sort_unstable_by(by_rank);
            for (index, candidate) in self.0[sorted..next].iter().enumerate() {
                mass += candidate.weight();
                if mass >= enough {
                    self.0.truncate(sorted + index + 1);
                    return;
                }
            }
            sorted = next;
        }
    }

    /// Returns the token at `share` of the probability, counted in the order of the candidates.
    pub(super) fn draw(&self, share: f64) -> Option<TokenId> {
        let mut mass = 0.0;
        let sums: Vec<f64> = self
            .0
            .iter()
            .map(|candidate| {
                mass += candidate.weight();
                mass
            })
            .collect();
        let index = sums.partition_point(|&sum| sum <= share * mass);
        // Rounding may leave the target at the very end.
        self.0.get(index).or(self.0.last()).map(|candidate| candidate.token)
    }

    fn mass(&self) -> f64 {
        self.0.iter().map(Candidate::weight).sum()
    }
}

// === impl Candidate ===

impl Candidate {
    /// Returns the probability relative to the most likely token.
    fn weight(&self) -> f64 {
        f64::from(self.score.exp())
    }
}
