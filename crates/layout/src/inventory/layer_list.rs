//! The weights of one layer, named and cut.

use playhouse_types::{Attention, DecoderSpec, FeedForward, Gqa, LayerSpec, Mla, Moe};

use super::{Axis, Cut, Storage, TensorRole, Weight};
use crate::product::product;
use crate::weight_type::WeightType;

/// The weights of one layer, `at` layers into the model.
pub(super) fn weights(spec: &DecoderSpec, storage: &Storage<'_>, at: usize) -> Vec<Weight> {
    let hidden = spec.hidden as u64;
    let LayerSpec { attention, feed_forward, .. } = &spec.layers[at];
    let mut list = LayerList { hidden, storage, at, weights: Vec::with_capacity(20) };
    list.vector(TensorRole::AttentionNorm, "input_layernorm.weight", hidden);
    match attention {
        Attention::Gqa(gqa) => list.gqa(gqa),
        Attention::Mla(mla) => list.mla(mla),
    }
    list.vector(TensorRole::FeedForwardNorm, "post_attention_layernorm.weight", hidden);
    match feed_forward {
        FeedForward::Dense(dense) => list.dense(dense.inner as u64, dense.bias),
        FeedForward::Moe(moe) => list.moe(moe),
    }
    list.weights
}

/// The list of a layer's weights while it is being built.
struct LayerList<'a> {
    hidden: u64,
    storage: &'a Storage<'a>,
    at: usize,
    weights: Vec<Weight>,
}

// === impl LayerList ===

impl LayerList<'_> {
    fn gqa(&mut self, gqa: &Gqa) {
        let hidden = self.hidden;
        let Gqa { heads, kv_heads, head_dim, qkv_bias, out_bias, qk_norm } = *gqa;
        let [heads, kv_heads, head_dim] = [heads, kv_heads, head_dim].map(|size| size as u64);
        let (wide, narrow) = (product(&[heads, head_dim]), product(&[kv_heads, head_dim]));
        let (by_head, by_kv) =
            (Cut::Outputs(Axis::Heads(heads)), Cut::Outputs(Axis::KvHeads(kv_heads)));
        for (role, name, rows, cut) in [
            (TensorRole::Query, "self_attn.q_proj.weight", wide, by_head),
            (TensorRole::Key, "self_attn.k_proj.weight", narrow, by_kv),
            (TensorRole::Value, "self_attn.v_proj.weight", narrow, by_kv),
        ] {
            self.matrix(role, name, [rows, hidden], cut);
        }
        if qkv_bias {
            for (role, name, rows, cut) in [
                (TensorRole::QueryBias, "self_attn.q_proj.bias", wide, by_head),
                (TensorRole::KeyBias, "self_attn.k_proj.bias", narrow, by_kv),
                (TensorRole::ValueBias, "self_attn.v_proj.bias", narrow, by_kv),
            ] {
                self.cut_vector(role, name, rows, cut);
            }
        }
        let by_input = Cut::Inputs(Axis::Heads(heads));
        let out = "self_attn.o_proj.weight";
        self.matrix(TensorRole::AttentionOut, out, [hidden, wide], by_input);
        if out_bias {
            let once = Cut::First(Axis::Heads(heads));
            let bias = "self_attn.o_proj.bias";
            self.cut_vector(TensorRole::AttentionOutBias, bias, hidden, once);
        }
        if qk_norm {
            self.vector(TensorRole::QueryNorm, "self_attn.q_norm.weight", head_dim);
            self.vector(TensorRole::KeyNorm, "self_attn.k_norm.weight", head_dim);
        }
    }

    fn mla(&mut self, mla: &Mla) {
        let hidden = self.hidden;
        let Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim } = *mla;
        let [heads, kv_rank, nope_dim, rope_dim, v_dim] =
            [heads, kv_rank, nope_dim, rope_dim, v_dim].map(|size| size as u64);
        let by_head = Cut::Outputs(Axis::Heads(heads));
        let queries = product(&[heads, nope_dim.saturating_add(rope_dim)]);
        match q_rank.map(|rank| rank as u64) {
            Some(rank) => {
                let down = "self_attn.q_a_proj.weight";
                self.matrix(TensorRole::QueryDown, down, [rank, hidden], Cut::Whole);
                self.vector(TensorRole::QueryDownNorm, "self_attn.q_a_layernorm.weight", rank);
                let up = "self_attn.q_b_proj.weight";
                self.matrix(TensorRole::QueryUp, up, [queries, rank], by_head);
            }
            None => {
                let name = "self_attn.q_proj.weight";
                self.matrix(TensorRole::Query, name, [queries, hidden], by_head);
            }
        }
        let latent = kv_rank.saturating_add(rope_dim);
        let down = "self_attn.kv_a_proj_with_mqa.weight";
        self.matrix(TensorRole::LatentDown, down, [latent, hidden], Cut::Whole);
        self.vector(TensorRole::LatentNorm, "self_attn.kv_a_layernorm.weight", kv_rank);
        let keys_values = product(&[heads, nope_dim.saturating_add(v_dim)]);
        let up = "self_attn.kv_b_proj.weight";
        self.matrix(TensorRole::LatentUp, up, [keys_values, kv_rank], by_head);
        let values = product(&[heads, v_dim]);
        let by_input = Cut::Inputs(Axis::Heads(heads));
        let out = "self_attn.o_proj.weight";
        self.matrix(TensorRole::AttentionOut, out, [hidden, values], by_input);
    }

    fn dense(&mut self, inner: u64, bias: bool) {
        self.gated(
            [
                (TensorRole::Gate, "mlp.gate_proj.weight"),
                (TensorRole::Up, "mlp.up_proj.weight"),
                (TensorRole::Down, "mlp.down_proj.weight"),
            ],
            1,
            Axis::Inner(inner),
        );
        if bias {
            let cut = Cut::Outputs(Axis::Inner(inner));
            self.cut_vector(TensorRole::GateBias, "mlp.gate_proj.bias", inner, cut);
            self.cut_vector(TensorRole::UpBias, "mlp.up_proj.bias", inner, cut);
            let once = Cut::First(Axis::Inner(inner));
            self.cut_vector(TensorRole::DownBias, "mlp.down_proj.bias", self.hidden, once);
        }
    }

    fn moe(&mut self, moe: &Moe) {
        let hidden = self.hidden;
        let Moe { experts, inner, shared_inner, shared_gate, correction_bias, .. } = *moe;
        let [experts, inner, shared_inner] = [experts, inner, shared_inner].map(|size| size as u64);
        self.plain_matrix(TensorRole::Router, "mlp.gate.weight", [experts, hidden]);
        if correction_bias {
            let (role, name) = (TensorRole::RouterCorrection, "mlp.gate.e_score_correction_bias");
            self.weights.push(Weight::vector(role, name, experts, WeightType::F32));
        }
        self.gated(
            [
                (TensorRole::ExpertGate, "mlp.experts.gate_proj.weight"),
                (TensorRole::ExpertUp, "mlp.experts.up_proj.weight"),
                (TensorRole::ExpertDown, "mlp.experts.down_proj.weight"),
            ],
            experts,
            Axis::ExpertInner(inner),
        );
        if shared_inner > 0 {
            self.gated(
                [
                    (TensorRole::SharedGate, "mlp.shared_experts.gate_proj.weight"),
                    (TensorRole::SharedUp, "mlp.shared_experts.up_proj.weight"),
                    (TensorRole::SharedDown, "mlp.shared_experts.down_proj.weight"),
                ],
                1,
                Axis::Inner(shared_inner),
            );
        }
        if shared_gate {
            let name = "mlp.shared_expert_gate.weight";
            self.plain_matrix(TensorRole::SharedScale, name, [1, hidden]);
        }
    }

    /// Gate and up, cut by outputs, and down, cut by inputs; `count` of each.
    fn gated(&mut self, names: [(TensorRole, &'static str); 3], count: u64, axis: Axis) {
        let (hidden, inner) = (self.hidden, axis.units());
        let [gate, up, down] = names;
        self.matrix(gate.0, gate.1, [inner, hidden], Cut::Outputs(axis));
        self.matrix(up.0, up.1, [inner, hidden], Cut::Outputs(axis));
        self.matrix(down.0, down.1, [hidden, inner], Cut::Inputs(axis));
        let last = self.weights.len().saturating_sub(3);
        for weight in &mut self.weights[last..] {
            weight.count = count;
        }
    }

    fn matrix(
        &mut self,
        role: TensorRole,
        name: &'static str,
        [outputs, inputs]: [u64; 2],
        cut: Cut,
    ) {
        let stored = if self.is_skipped(name) { self.storage.plain } else { self.storage.weights };
        let (is_vector, count) = (false, 1);
        self.weights.push(Weight { role, name, outputs, inputs, is_vector, count, cut, stored });
    }

    fn plain_matrix(&mut self, role: TensorRole, name: &'static str, sides: [u64; 2]) {
        self.matrix(role, name, sides, Cut::Whole);
        if let Some(weight) = self.weights.last_mut() {
            weight.stored = self.storage.plain;
        }
    }

    fn vector(&mut self, role: TensorRole, name: &'static str, length: u64) {
        self.cut_vector(role, name, length, Cut::Whole);
    }

    fn cut_vector(&mut self, role: TensorRole, name: &'static str, length: u64, cut: Cut) {
        let whole = Weight::vector(role, name, length, self.storage.plain);
        self.weights.push(Weight { cut, ..whole });
    }

    /// Whether quantization leaves this matrix alone.
    fn is_skipped(&self, name: &str) -> bool {
        if self.storage.unquantized.is_empty() {
            return false;
        }
        // Between dots, so that `layers.1` does not mean `layers.10`.
        let path = format!(".model.layers.{}.{name}.", self.at);
        self.storage.unquantized.iter().any(|part| path.contains(&format!(".{part}.")))
    }
}
