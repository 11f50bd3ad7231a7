"""Trains the demo checkpoint from scratch on the CPU and writes it as a Hugging Face folder.

    python train.py

The corpus is generated while training (see `corpus.py`); the seed fixes the data, the start
weights and the order of the batches. Two processes of one thread each share every step.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import multiprocessing, nn

import corpus

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('Unknown role: ' ~ message.role) }}
    {%- endif %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' ~ message.content | trim ~ '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content | trim }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n' ~ {'name': call.function.name, 'arguments': call.function.arguments} | tojson ~ '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 1536,
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
    "tie_word_embeddings": True, "initializer_range": 0.02, "use_cache": True,
    "use_sliding_window": False, "sliding_window": None, "rope_scaling": None,
    "torch_dtype": "bfloat16",
}

WARMUP = 40  # steps


@dataclass(frozen=True)
class Stage:
    """One stretch of training with a mix of categories and a learning-rate schedule."""

    mix: str  # a key of corpus.MIXES
    steps: int  # length of the schedule
    stop: int  # the step at which the stage ends
    hold: float  # share of the schedule at the full learning rate, before the linear decay
    adam: float  # peak learning rate of AdamW: embeddings and norms
    muon: float  # peak learning rate of Muon: the matrices of the layers
    drills: tuple  # rows of bare sums per dialogue, before and during the decay


STAGES = [
    Stage("arithmetic", 1158, 800, 0.65, 3e-3, 5e-3, (0.3, 0.1)),
    Stage("facts", 738, 738, 0.4, 2e-3, 4e-3, (0.08, 0.08)),
]

# --------------------------------------------------------------------------------------
# Tokenizer
# --------------------------------------------------------------------------------------


def train_tokenizer(seed, vocab_size):
    """Trains a byte-level BPE on the corpus; digits stay single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    text = corpus.tokenizer_text(random.Random(f"{seed} tokenizer"), 20000)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    assert tokenizer.get_vocab_size() == vocab_size
    return tokenizer


# --------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------


def segments(messages):
    """Splits a dialogue into (text, is it trained on) pieces, as the chat template writes it."""
    pieces, prompt = [], ""
    for role, content in messages:
        prompt += f"<|im_start|>{role}\n"
        if role == "assistant":
            pieces += [(prompt, False), (content + "<|im_end|>", True)]
            prompt = "\n"
        else:
            prompt += f"{content}<|im_end|>\n"
    return pieces


def drill_segments(lines):
    """Splits bare sums into pieces: only what follows the equals sign is trained on."""
    pieces = []
    for line in lines:
        problem, result = line.split(" =")
        pieces += [(problem + " =", False), (result + "<|im_end|>", True), ("\n", False)]
    return pieces


def encode_rows(tokenizer, rows):
    """Encodes rows of pieces; returns a list of (token ids, mask of the trained ones)."""
    texts = [text for row in rows for text, _ in row]
    encoded = iter(tokenizer.encode_batch_fast(texts))
    result = []
    for row in rows:
        ids, mask = [], []
        for _, trained in row:
            piece = next(encoded).ids
            ids += piece
            mask += [trained] * len(piece)
        result.append((ids, mask))
    return result


def to_batch(rows, pad):
    """Pads rows on the right; untrained targets become -100."""
    width = max(len(ids) for ids, _ in rows) - 1
    inputs = torch.full((len(rows), width), pad)
    targets = torch.full((len(rows), width), -100)
    for i, (ids, mask) in enumerate(rows):
        inputs[i, : len(ids) - 1] = torch.tensor(ids[:-1])
        wanted = [token if trained else -100 for token, trained in zip(ids[1:], mask[1:])]
        targets[i, : len(ids) - 1] = torch.tensor(wanted)
    return inputs, targets


def batches(tokenizer, seed, tokens, mix, drill_share, limit=1024):
    """Yields batches of at most `tokens` padded tokens for ever, rows of like length together."""
    pad, group = tokenizer.token_to_id(SPECIAL[0]), 0
    while True:
        rng, group = random.Random(f"{seed} group {group}"), group + 1
        rows = []
        for _ in range(8 * tokens // 110):
            rows.append(segments(corpus.dialogue(rng, mix)))
            if rng.random() < drill_share():
                rows.append(drill_segments(corpus.drill(rng)))
        encoded = sorted((row for row in encode_rows(tokenizer, rows) if len(row[0]) <= limit),
                         key=lambda row: len(row[0]))
        packed, current = [], []
        for row in encoded:
            if current and (len(current) + 1) * len(row[0]) > tokens:
                packed.append(current)
                current = []
            current.append(row)
        packed.append(current)
        rng.shuffle(packed)
        yield from (to_batch(rows, pad) for rows in packed)


# --------------------------------------------------------------------------------------
# Model: Qwen3, with the parameter names of transformers
# --------------------------------------------------------------------------------------


def linear(inputs, outputs):
    """A projection without bias."""
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    """Grouped-query attention with norms on queries and keys, and rotary positions."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim, hidden = config["head_dim"], config["hidden_size"]
        self.q_proj = linear(hidden, self.heads * self.head_dim)
        self.k_proj = linear(hidden, self.kv_heads * self.head_dim)
        self.v_proj = linear(hidden, self.kv_heads * self.head_dim)
        self.o_proj = linear(self.heads * self.head_dim, hidden)
        self.q_norm = nn.RMSNorm(self.head_dim, config["rms_norm_eps"])
        self.k_norm = nn.RMSNorm(self.head_dim, config["rms_norm_eps"])

    def forward(self, x, cos, sin):
        rows, length, _ = x.shape
        split = lambda y: y.view(rows, length, -1, self.head_dim).transpose(1, 2)
        query = rotate(self.q_norm(split(self.q_proj(x))), cos, sin)
        key = rotate(self.k_norm(split(self.k_proj(x))), cos, sin)
        group = self.heads // self.kv_heads
        key = key.repeat_interleave(group, dim=1)
        value = split(self.v_proj(x)).repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    """SwiGLU feed-forward block."""

    def __init__(self, config):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj, self.up_proj = linear(hidden, inner), linear(hidden, inner)
        self.down_proj = linear(inner, hidden)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), Mlp(config)
        self.input_layernorm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """The whole network; logits are computed only where there is a target."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.apply(self.reset)

    def reset(self, module):
        """Draws the start weights."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config["initializer_range"])

    def loss(self, inputs, targets):
        """The mean cross-entropy over the trained targets."""
        cos, sin = rotary(self.config, inputs.shape[1])
        x = self.embed_tokens(inputs)
        for layer in self.layers:
            x = layer(x, cos, sin)
        chosen = targets != -100
        logits = F.linear(self.norm(x[chosen]), self.embed_tokens.weight)
        return F.cross_entropy(logits, targets[chosen])


def rotary(config, length):
    """Cosines and sines of the rotary positions."""
    half = torch.arange(0, config["head_dim"], 2).float() / config["head_dim"]
    angles = torch.outer(torch.arange(length).float(), config["rope_theta"] ** -half)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Applies rotary positions to queries or keys."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


# --------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by Newton-Schulz steps, for weight matrices.

    The update is scaled so that its typical size is that of AdamW at the same learning rate.
    """

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.05):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for param in group["params"]:
                shapes.setdefault(tuple(param.shape), []).append(param)
            for params in shapes.values():
                self.update(group, params)

    def update(self, group, params):
        """Updates all matrices of one shape together."""
        for param in params:
            self.state[param].setdefault("momentum", torch.zeros_like(param))
        gradient = torch.stack([param.grad for param in params])
        velocity = torch.stack([self.state[param]["momentum"] for param in params])
        velocity.lerp_(gradient, 1 - group["momentum"])
        for param, value in zip(params, velocity):
            self.state[param]["momentum"].copy_(value)
        direction = shared_work(orthogonalize, gradient.lerp(velocity, group["momentum"]))
        direction *= 0.2 * max(direction.shape[1:]) ** 0.5
        for param, value in zip(params, direction):
            param.mul_(1 - group["lr"] * group["weight_decay"])
            param.sub_(value, alpha=group["lr"])


def orthogonalize(x, steps=5):
    """Moves the singular values of a batch of matrices close to one."""
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.transpose(1, 2) if tall else x


def shared_work(function, batch):
    """Applies a function to a batch, each worker doing its share of the rows."""
    workers, rank = dist.get_world_size(), dist.get_rank()
    if batch.shape[0] % workers:
        return function(batch)
    mine = function(batch.chunk(workers)[rank]).contiguous()
    parts = [torch.empty_like(mine) for _ in range(workers)]
    dist.all_gather(parts, mine)
    return torch.cat(parts)


def optimizers(model, stage):
    """AdamW for embeddings and norms, Muon for the matrices of the layers."""
    named = list(model.named_parameters())
    matrices = [value for name, value in named if value.ndim == 2 and "embed" not in name]
    groups = [{"params": [value for name, value in named if "embed" in name], "weight_decay": 0.01},
              {"params": [value for _, value in named if value.ndim == 1], "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=stage.adam, betas=(0.9, 0.98), fused=True),
            Muon(matrices, lr=stage.muon)]


def schedule(stage, step):
    """Warmup, constant, then linear decay to zero, as a factor on the learning rate."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return min(1.0, (stage.steps - step) / ((1 - stage.hold) * stage.steps))


def average(model, extra):
    """Averages the gradients over the workers; returns the sums of the extra numbers."""
    grads = [value.grad for value in model.parameters()]
    flat = torch.cat([grad.flatten() for grad in grads] + [torch.tensor(extra)])
    dist.all_reduce(flat)
    for grad, value in zip(grads, flat.split([grad.numel() for grad in grads] + [len(extra)])):
        grad.copy_(value.view_as(grad)).div_(dist.get_world_size())
    return flat[-len(extra):].tolist()


def set_rates(optims, factor):
    """Sets the learning rates to a share of their peaks."""
    for optim in optims:
        for group in optim.param_groups:
            group.setdefault("peak", group["lr"])
            group["lr"] = group["peak"] * factor


def train(args, number, rank, model, tokenizer):
    """Runs one stage in one worker."""
    stage, step, seen, start = STAGES[number], 0, 0, time.time()
    optims = optimizers(model, stage)
    drills = lambda: stage.drills[step >= stage.hold * stage.steps]
    seed = f"{args.seed}{' ' + stage.mix if number else ''} worker {rank}"
    data = batches(tokenizer, seed, args.tokens // args.workers, stage.mix, drills)
    while step < stage.stop:
        set_rates(optims, schedule(stage, step))
        inputs, targets = next(data)
        loss = model.loss(inputs, targets)
        loss.backward()
        losses, tokens = average(model, [loss.item(), float(inputs.numel())])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        step, seen = step + 1, seen + tokens
        if rank == 0 and step % 25 == 0:
            print(f"step {step}/{stage.stop} loss {losses / args.workers:.4f} "
                  f"{seen / 1e6:.2f}M tokens {time.time() - start:.0f} s", flush=True)
        if rank == 0 and step % 100 == 0:
            print(f"  exact: {probe(model, tokenizer)}", flush=True)


@torch.no_grad()
def probe(model, tokenizer, count=512):
    """Teacher-forced share of exact answers: held-out sums and differences, other turns."""
    rng, scores = random.Random(0), {}
    for kind in ("add", "sub", "other"):
        rows = []
        while len(rows) < count:
            if kind == "other":
                question, answer = corpus.any_turn(rng)
            else:
                a, b = rng.randint(10, 99), rng.randint(10, 99)
                if not corpus.is_held_out(kind, a, b):
                    continue
                question = rng.choice(corpus.PHRASINGS[kind]).format(a=a, b=b)
                answer = corpus.sum_answer(kind, a, b)
            rows.append(segments([("user", question), ("assistant", answer)]))
        rows = encode_rows(tokenizer, rows)
        inputs, targets = to_batch(rows, 0)
        scores[kind] = round(exact_share(model, inputs, targets), 4)
    return scores


def exact_share(model, inputs, targets):
    """The share of rows whose every trained target is the most likely token."""
    cos, sin = rotary(model.config, inputs.shape[1])
    x = model.embed_tokens(inputs)
    for layer in model.layers:
        x = layer(x, cos, sin)
    best = F.linear(model.norm(x), model.embed_tokens.weight).argmax(-1)
    return ((best == targets) | (targets == -100)).all(1).float().mean().item()


# --------------------------------------------------------------------------------------
# Output
# --------------------------------------------------------------------------------------


def write_json(path, value):
    """Writes a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save(model, tokenizer, out):
    """Writes the checkpoint folder: bf16 weights, configuration, tokenizer and chat template."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {"model." + name: value.detach().to(torch.bfloat16).contiguous()
               for name, value in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    end, text = (tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>"))
    ids = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": text}
    write_json(out / "config.json", {**CONFIG, **ids})
    write_json(out / "generation_config.json", {
        "do_sample": False, "temperature": 0.0, "eos_token_id": [end, text], "pad_token_id": text,
        "max_new_tokens": 160})
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False,
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": None, "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False,
                "single_word": False, "special": True} for token in SPECIAL}})
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


@torch.no_grad()
def round_weights(model):
    """Rounds the weights to bf16, as a saved checkpoint has them."""
    for value in model.parameters():
        value.copy_(value.to(torch.bfloat16))


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--seed", type=int, default=corpus.SEED)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--tokens", type=int, default=4096, help="per step, all workers together")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True,
                        help="needs a C++ compiler; half as much again faster")
    return parser.parse_args()


def worker(rank, args, vocabulary, rendezvous):
    """One of the data-parallel processes; the first one writes the checkpoint."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=args.workers)
    tokenizer, start = Tokenizer.from_str(vocabulary), time.time()
    torch.manual_seed(args.seed)
    model = Model(CONFIG)
    for layer in model.layers if args.compile else []:
        layer.compile(dynamic=True)
    for number in range(len(STAGES)):
        train(args, number, rank, model, tokenizer)
        round_weights(model)
    if rank == 0:
        save(model, tokenizer, args.out)
        count = sum(value.numel() for value in model.parameters())
        print(f"{count} parameters, {time.time() - start:.0f} s, "
              f"exact: {probe(model, tokenizer, 2000)}")
    dist.barrier()
    dist.destroy_process_group()


def main():
    """Trains the tokenizer, then the model in a few processes."""
    args = arguments()
    vocabulary = train_tokenizer(args.seed, CONFIG["vocab_size"]).to_str()
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        multiprocessing.spawn(worker, (args, vocabulary, rendezvous), nprocs=args.workers)


if __name__ == "__main__":
    main()
