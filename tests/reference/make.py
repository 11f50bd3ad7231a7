"""Make the reference checkpoints, tokenizer cases and chat cases in this folder.

    pip install -r requirements.txt
    python make.py                 # everything
    python make.py --only NAME     # one checkpoint, or `tokenizer`, or `chat`

Every checkpoint is a tiny random model written as a Hugging Face folder, loaded
back with transformers (CPU, eager attention, the checkpoint's own dtype) and run.
See README.md for the files and the table of cases.
"""

import argparse
import json
import shutil
import tempfile
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import chat_cases
import tokenizer_cases

HERE = Path(__file__).parent
STEPS = 32  # greedy tokens per prompt
LENGTHS = (2, 11, 33)  # prompt lengths in tokens
MIN_DISTINCT = 8  # different tokens in every continuation
MIN_GAP = {"float32": 0.02, "bfloat16": 0.25, "float16": 0.25}  # top-1 minus top-2 log-prob
MAX_DRIFT = 0.06  # largest |log-prob - same weights computed in f32| of a 16-bit case
MAX_SEEDS = 2000  # tried before giving up

FAMILIES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
            "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

BASE = dict(
    vocab_size=tokenizer_cases.VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
    tie_word_embeddings=False, bos_token_id=None, eos_token_id=tokenizer_cases.IM_END, pad_token_id=None,
)


def rope(kind="default", theta=10000.0, **fields):
    return {"rope_type": kind, "rope_theta": theta, **fields}


def case(name, family, dtype="float32", spelling="new", chat=None, bos=False, lengths=LENGTHS,
         shard=None, eos_at=None, generation=None, patch=None, rope=rope(), **config):
    """One row of the table.

    spelling  how config.json says its rope: "new" (rope_parameters), or rope_theta with
              rope_scaling naming its kind by "rope_type" or by the oldest key "type"
    chat      where the chat template is: None, "jinja", "string" or "list"
    bos       the tokenizer puts a BOS in front of the text
    shard     largest shard size, for a checkpoint in several files
    eos_at    (prompt, step): make its first new greedy token from that step on a second eos id,
              in generation_config.json only
    generation more fields of generation_config.json
    patch     last changes to config.json; None removes a key
    """
    config = BASE | dict(rope_parameters=rope, bos_token_id=tokenizer_cases.BOS if bos else None) | config
    return dict(name=name, family=family, dtype=dtype, spelling=spelling, chat=chat, bos=bos,
                lengths=lengths, shard=shard, eos_at=eos_at, generation=generation or {},
                patch=patch or {}, config=config)


CASES = [
    case("llama-mha-f32", "llama", num_attention_heads=2, num_key_value_heads=2, bos=True, spelling="rope_type",
         rms_norm_eps=0.01, patch=dict(num_key_value_heads=None, head_dim=None)),
    case("llama-gqa2-llama3-f32", "llama", num_attention_heads=2, num_key_value_heads=1, spelling="rope_type",
         chat="jinja", bos=True, rope=rope("llama3", 10000.0, factor=8.0, low_freq_factor=1.0,
                                           high_freq_factor=4.0, original_max_position_embeddings=32)),
    case("llama-yarn-f32", "llama", num_attention_heads=2,
         rope=rope("yarn", factor=8.0, original_max_position_embeddings=32)),
    case("llama-yarn-explicit-f32", "llama", num_attention_heads=2, num_key_value_heads=1, spelling="rope_type",
         rope=rope("yarn", 1000.0, factor=4.0, original_max_position_embeddings=64, attention_factor=1.25,
                   beta_fast=8.0, beta_slow=0.5)),
    case("llama-dynamic-f32", "llama", num_attention_heads=2, spelling="type", max_position_embeddings=40,
         lengths=(3, 13, 45), rope=rope("dynamic", factor=2.0)),
    case("llama-tied-f32", "llama", tie_word_embeddings=True, num_hidden_layers=3, chat="jinja", eos_at=(1, 8)),
    case("llama-linear-bias-headdim-f32", "llama", num_attention_heads=2, num_key_value_heads=2, head_dim=24,
         attention_bias=True, mlp_bias=True, rms_norm_eps=1e-6, spelling="type", rope=rope("linear", factor=4.0)),
    case("llama-gqa8-bf16", "llama", "bfloat16", hidden_size=48, intermediate_size=64, num_attention_heads=8,
         num_key_value_heads=1, head_dim=16, rope=rope(theta=500000.0), chat="jinja"),
    case("llama-wide-bf16", "llama", "bfloat16", hidden_size=256, intermediate_size=120, num_key_value_heads=1, head_dim=32,
         lengths=(3, 9, 21),
         spelling="rope_type", rope=rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0,
                                         high_freq_factor=4.0, original_max_position_embeddings=64)),
    case("llama-odd-bf16", "llama", "bfloat16", hidden_size=72, intermediate_size=100, num_attention_heads=3,
         num_key_value_heads=1, lengths=(3, 9, 21), spelling="rope_type"),

    case("mistral-window16-f32", "mistral", sliding_window=16, spelling="rope_type", chat="string"),
    case("mistral-full-sharded-f32", "mistral", hidden_size=40, intermediate_size=52, num_key_value_heads=1,
         head_dim=16, sliding_window=None, rms_norm_eps=0.01, rope=rope(theta=1000000.0), shard="80KB"),
    case("mistral-window24-bf16", "mistral", "bfloat16", hidden_size=64, intermediate_size=56, sliding_window=24,
         lengths=(3, 20, 30), chat="list"),

    case("qwen2-tied-f32", "qwen2", vocab_size=304, tie_word_embeddings=True, spelling="rope_type", chat="jinja",
         rms_norm_eps=1e-6, patch=dict(sliding_window=16, use_sliding_window=False, layer_types=None),
         generation=dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)),
    case("qwen2-window-f32", "qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=16,
         max_window_layers=1, rms_norm_eps=0.01, rope=rope(theta=1000000.0), spelling="rope_type",
         patch=dict(layer_types=None)),
    case("qwen2-layertypes-bf16", "qwen2", "bfloat16", hidden_size=48, num_hidden_layers=4, num_attention_heads=6,
         use_sliding_window=True, sliding_window=20, layer_types=["sliding_attention", "full_attention"] * 2, chat="jinja"),

    case("qwen3-gqa4-f32", "qwen3", num_key_value_heads=1, head_dim=16, rms_norm_eps=0.01, chat="jinja"),
    case("qwen3-gqa8-yarn-f32", "qwen3", num_attention_heads=8, num_key_value_heads=1, head_dim=16, spelling="type",
         rope=rope("yarn", 1000.0, factor=4.0, mscale=1.0, mscale_all_dim=0.5, truncate=False),
         max_position_embeddings=128, chat="jinja", patch=dict(layer_types=None)),
    case("qwen3-tied-window-f32", "qwen3", head_dim=16, tie_word_embeddings=True, attention_bias=True,
         use_sliding_window=True, sliding_window=16, max_window_layers=1, spelling="rope_type",
         patch=dict(layer_types=None)),
    case("qwen3-headdim32-bf16", "qwen3", "bfloat16", hidden_size=64, intermediate_size=40, num_key_value_heads=1,
         head_dim=32, rope=rope(theta=1000000.0), chat="jinja"),
    case("qwen3-f16", "qwen3", "float16", hidden_size=48, head_dim=16, spelling="rope_type",
         patch=dict(layer_types=None)),
]


def weights(model, seed):
    """Fill a model with random weights whose next-token distribution is peaked but varied.

    Norm weights and biases are random too. With its own lm_head a model leans towards
    one random successor per token, so that greedy text neither hangs on a near-tie nor
    loops; with tied embeddings the final norm has random signs, so that a token does not
    simply predict itself.
    """
    draw = torch.Generator().manual_seed(seed)
    randn = lambda shape: torch.randn(shape, generator=draw)
    config, named = model.config, dict(model.named_parameters())
    half = model.dtype != torch.float32
    tied = config.tie_word_embeddings
    embed = randn(named["model.embed_tokens.weight"].shape) * (0.35 if tied else 1.0)
    if half:
        embed /= embed.pow(2).mean(-1, keepdim=True).sqrt()
    for name, p in named.items():
        if name == "model.embed_tokens.weight":
            value = embed
        elif name == "lm_head.weight":
            order = torch.randperm(tokenizer_cases.BYTES_AND_MERGES, generator=draw)
            value = randn(p.shape) * (0.3 if half else 1.6) / p.shape[1] ** 0.5
            value[order.roll(-1)] += embed[order] * (8.0 if half else 6.0) / p.shape[1]
        elif "norm" in name:
            value = 1 + 0.1 * randn(p.shape)
            if "q_norm" in name or "k_norm" in name:
                value *= 1.3
            if name == "model.norm.weight" and tied:
                value *= randn(p.shape).sign()
        elif name.endswith("bias"):
            value = (0.3 if "self_attn" in name else 0.1) * randn(p.shape)
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
            if half and ("o_proj" in name or "down_proj" in name):
                gain = (1.5 / config.num_hidden_layers) ** 0.5
            value = gain * randn(p.shape) / p.shape[1] ** 0.5
        with torch.no_grad():
            p.copy_(value)


def rewrite_config(folder, case):
    """Put config.json into the case's spelling and apply its patch."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if case["spelling"] != "new":
        scaling = config.pop("rope_parameters")
        config["rope_theta"] = scaling.pop("rope_theta")
        kind = scaling.pop("rope_type")
        # `original_max_position_embeddings` is filled in by transformers when the case leaves it out.
        scaling = {k: v for k, v in scaling.items() if k in case["config"]["rope_parameters"]}
        config["rope_scaling"] = None if kind == "default" else {case["spelling"]: kind, **scaling}
        config["torch_dtype"] = config.pop("dtype")
    for key, value in case["patch"].items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    config["architectures"] = [FAMILIES[case["family"]]]
    write_json(path, config)


def write_json(path, value, **kwargs):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, **kwargs) + "\n")


def write_checkpoint(folder, case, seed):
    """Write the model (config, weights) of one seed."""
    config = AutoConfig.for_model(case["family"], **json.loads(json.dumps(case["config"])))
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, case["dtype"]))
    weights(model, seed)
    model.save_pretrained(folder, **({"max_shard_size": case["shard"]} if case["shard"] else {}))
    rewrite_config(folder, case)
    loaded = AutoConfig.from_pretrained(folder)
    loaded.rope_parameters.pop("type", None)
    for key in ("rope_parameters", "sliding_window", "layer_types", "head_dim", "num_key_value_heads"):
        assert getattr(loaded, key, None) == getattr(config, key, None), (case["name"], key)


def load(folder, dtype="auto"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    model.generation_config.eos_token_id = None  # greedy text must not stop
    model.generation_config.do_sample = False
    for key in ("temperature", "top_p", "top_k", "repetition_penalty"):
        setattr(model.generation_config, key, None)
    return model


@torch.no_grad()
def run(folder, model, tokens, dynamic):
    """Greedy tokens, and log-probs at every position of the prompt and all greedy tokens but the last."""
    if dynamic:
        model = load(folder)  # its rope remembers the longest sequence seen: every prompt starts afresh
    prompt = torch.tensor([tokens])
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=STEPS,
                         return_dict_in_generate=True, output_logits=True)
    greedy = out.sequences[0, len(tokens):].tolist()
    assert len(greedy) == STEPS
    cached = torch.stack(out.logits, 1)[0].float().log_softmax(-1)
    if dynamic:
        # Keys keep the rotation of the step that wrote them, so only the cached run is the truth.
        prefill = load(folder)(prompt, use_cache=False).logits[0].float().log_softmax(-1)
        assert torch.allclose(prefill[-1], cached[0], atol=1e-4)
        return greedy, torch.cat([prefill[:-1], cached])
    full = model(torch.tensor([tokens + greedy[:-1]]), use_cache=False).logits[0].float().log_softmax(-1)
    if model.dtype == torch.float32:
        assert torch.allclose(full[len(tokens) - 1:], cached, atol=1e-4), "cached and full runs differ"
    return greedy, full


def smallest_gap(logprobs):
    """The smallest difference of the two best log-probs at a greedy step."""
    best, second = logprobs[-STEPS:].topk(2).values.T
    return (best - second).min().item()


def fault(greedy, logprobs, dtype):
    """Why this continuation is no good, or None."""
    last = logprobs[-STEPS:]
    if last.argmax(-1).tolist() != greedy:
        return "argmax"
    if max(greedy) >= tokenizer_cases.BYTES_AND_MERGES:
        return "special"
    if len(set(greedy)) < MIN_DISTINCT:
        return "repeats"
    if smallest_gap(logprobs) <= MIN_GAP[dtype]:
        return "gap"


def prompts(tokenizer, case):
    """Three prompts: text, random ids, text."""
    start = zlib.crc32(case["name"].encode())
    draw = torch.Generator().manual_seed(start)
    for i, length in enumerate(case["lengths"]):
        if i == 1:
            yield torch.randint(tokenizer_cases.VOCAB, (length,), generator=draw).tolist(), None
        else:
            yield tokenizer_cases.text_of_length(tokenizer, length, start + i)


def evaluate(folder, case, inputs):
    """Run all prompts of a written checkpoint; None when its seed will not do."""
    dynamic = case["config"]["rope_parameters"]["rope_type"] == "dynamic"
    model = load(folder)
    exact = load(folder, torch.float32) if case["dtype"] != "float32" else None
    rows, drift = [], 0.0
    for tokens, text in inputs:
        greedy, logprobs = run(folder, model, tokens, dynamic)
        if fault(greedy, logprobs, case["dtype"]):
            return None
        if exact:
            with torch.no_grad():
                f32 = exact(torch.tensor([tokens + greedy[:-1]]), use_cache=False).logits[0].log_softmax(-1)
            drift = max(drift, (f32 - logprobs).abs().max().item())
            if drift > MAX_DRIFT:
                return None
        rows.append((tokens, text, greedy, logprobs))
    return rows, drift


def make_case(case):
    folder = HERE / case["name"]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tokenizer_cases.write(scratch, case["chat"], case["bos"])
        inputs = list(prompts(AutoTokenizer.from_pretrained(scratch), case))
        for seed in range(MAX_SEEDS):
            write_checkpoint(scratch, case, seed)
            if found := evaluate(scratch, case, inputs):
                break
        else:
            raise SystemExit(f"{case['name']}: no seed below {MAX_SEEDS} will do")
        rows, drift = found
        tokenizer = AutoTokenizer.from_pretrained(scratch)
        tokenizer_cases.check(tokenizer, case["chat"], case["bos"])

        generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": case["config"]["eos_token_id"],
                      **case["generation"], "transformers_version": transformers.__version__}
        if case["eos_at"]:
            prompt, step = case["eos_at"]
            greedy = rows[prompt][2]
            first = next(t for i, t in enumerate(greedy) if i >= step and t not in greedy[:i])
            generation["eos_token_id"] = [generation["eos_token_id"], first]
        write_json(scratch / "generation_config.json", {k: v for k, v in generation.items() if v is not None})

        reference = {
            "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "dtype": case["dtype"],
            "seed": seed, "drift_from_f32": round(drift, 4),
            "prompts": [{"tokens": tokens, "greedy": greedy, "min_gap": round(smallest_gap(logprobs), 4),
                         **({"text": text} if text else {}),
                         "greedy_text": tokenizer.decode(greedy)} for tokens, text, greedy, logprobs in rows]}
        (scratch / "reference.json").write_text(dumps_rows(reference))
        save_file({f"logprobs.{i}": row[3].contiguous() for i, row in enumerate(rows)},
                  scratch / "reference.safetensors")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in scratch.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    size = sum(f.stat().st_size for f in folder.iterdir())
    gap = min(p["min_gap"] for p in reference["prompts"])
    print(f"{case['name']:30} seed {seed:4}  gap {gap:.3f}  drift {drift:.3f}  {size / 1e3:6.0f} kB", flush=True)


def dumps_rows(reference):
    """JSON with one line per prompt."""
    head = {k: v for k, v in reference.items() if k != "prompts"}
    rows = ",\n".join("    " + json.dumps(p, ensure_ascii=False) for p in reference["prompts"])
    return json.dumps(head, indent=2)[:-2] + ',\n  "prompts": [\n' + rows + "\n  ]\n}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", action="append", help="make only this (may be repeated)")
    only = parser.parse_args().only
    names = [c["name"] for c in CASES] + ["tokenizer", "chat"]
    if unknown := set(only or ()) - set(names):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(names)}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = lambda name: not only or name in only
    if wanted("tokenizer"):
        tokenizer_cases.make(HERE / "tokenizer")
    if wanted("chat"):
        chat_cases.make(HERE / "chat")
    for case in CASES:
        if wanted(case["name"]):
            make_case(case)


if __name__ == "__main__":
    main()
