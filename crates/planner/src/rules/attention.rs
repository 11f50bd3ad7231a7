//! Context parallelism, attention data parallelism and the roles that depend on them.

use playhouse_types::Role;

use super::Case;
use super::table::Findings;

pub(super) fn decode_divides(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (decode, tensor) = (case.decode_context?, case.attention_tensor?);
    if case.attention_context? == 1 && tensor % decode != 0 {
        out.push(format_args!(
            "decode context re-uses the ranks of attention_tensor: {tensor} cannot be grouped by \
             {decode}"
        ));
    }
    None
}

pub(super) fn decode_axis(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (decode, tensor, context) =
        (case.decode_context?, case.attention_tensor?, case.attention_context?);
    let whole = tensor.saturating_mul(context);
    if context > 1 && decode != 1 && decode != context && decode != whole {
        out.push(format_args!(
            "beside a prefill context of {context}, the decode context is off (1), spans that \
             axis ({context}) or it and attention_tensor ({whole}); {decode} is none of them"
        ));
    }
    None
}

pub(super) fn decode_exceeds_kv_heads(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (decode, tensor) = (case.decode_context?, case.attention_tensor?);
    for (_, kv) in case.facts?.grouped_heads() {
        if decode > 1 && tensor <= kv {
            out.push(format_args!(
                "decode context splits the copies of a KV head, but {kv} KV heads over {tensor} \
                 ranks have no copies"
            ));
            return None;
        }
        let copies = tensor / kv;
        if decode > 1 && decode > copies {
            out.push(format_args!(
                "a decode context of {decode} exceeds the {copies} copies of each of {kv} KV \
                 heads over {tensor} ranks"
            ));
            return None;
        }
    }
    None
}

pub(super) fn decode_query_group(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let decode = case.decode_context?;
    for (heads, kv) in case.facts?.grouped_heads() {
        let group = heads / kv;
        if group % decode != 0 {
            out.push(format_args!(
                "each KV head serves {heads} / {kv} = {group} query heads, which a decode context \
                 of {decode} cannot split"
            ));
            return None;
        }
    }
    None
}

pub(super) fn interleave_block(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (interleave, block) = (case.spec.kv_interleave_tokens, case.block_tokens);
    if interleave > 0 && (block < interleave || !block.is_multiple_of(interleave)) {
        out.push(format_args!(
            "a KV block of {block} tokens is not a multiple of an interleave of {interleave}"
        ));
    }
    None
}

pub(super) fn decode_beside_prefill_context(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (decode, prefill) = (case.decode_context?, case.prefill_context?);
    if decode > 1 && prefill > 1 {
        out.push(format_args!(
            "a decode context of {decode} and a prefill context of {prefill} exclude each other"
        ));
    }
    None
}

pub(super) fn attention_data_all(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (data, tensor) = (case.attention_data?, case.tensor?);
    if data != 1 && data != tensor {
        out.push(format_args!(
            "attention data parallelism is off (1) or as wide as tensor ({tensor}); \
             {data} is neither"
        ));
    }
    None
}

pub(super) fn decode_context_role(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let decode = case.decode_context?;
    if decode > 1 && case.spec.role != Role::Unified && !case.facts?.latent {
        out.push(format_args!(
            "prefill and decode apart with a decode context of {decode} need latent attention \
             (MLA); this model has KV heads"
        ));
    }
    None
}

pub(super) fn helix_latent(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let decode = case.decode_context?;
    if decode > 1 && !case.facts?.latent {
        out.push(format_args!(
            "a decode context of {decode} (Helix) needs latent attention (MLA); this model has KV \
             heads"
        ));
    }
    None
}

pub(super) fn helix_role(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let decode = case.decode_context?;
    if decode > 1 && case.spec.role != Role::Decode {
        out.push(format_args!(
            "a decode context of {decode} (Helix) runs only in a generation server, beside \
             separate context servers"
        ));
    }
    None
}
