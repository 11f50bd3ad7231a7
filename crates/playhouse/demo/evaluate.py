"""Measures the checkpoint: exact match of whole answers, greedy decoding, through transformers.

    python evaluate.py               # writes accuracy.json

The questions are drawn with a seed of their own. "Held out" means never trained on: number
pairs in any phrasing and in either order, names, words, and (`new phrasing`) ways to ask.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import corpus

HERE = Path(__file__).parent
SEED = 77


# --------------------------------------------------------------------------------------
# Questions: lists of (messages, expected answer)
# --------------------------------------------------------------------------------------


def ask(question):
    """A dialogue of one question."""
    return [{"role": "user", "content": question}]


def sum_cases(rng, kind, phrasings, pairs, repeats):
    """Every pair in both orders, `repeats` phrasings each."""
    cases = []
    for low, high in sorted(pairs):
        for a, b in sorted({(low, high), (high, low)}):
            for text in rng.sample(phrasings, repeats):
                question = corpus.vary(rng, text.format(a=a, b=b))
                cases.append((ask(question), corpus.sum_answer(kind, a, b)))
    return cases


def trained_sums(rng, kind, count):
    """A sample of problems that were in training."""
    cases = []
    for _ in range(count):
        a, b = corpus.problem(rng, kind)
        question = corpus.phrase(rng, kind, a=a, b=b)
        cases.append((ask(question), corpus.sum_answer(kind, a, b)))
    return cases


def fact_cases(rng, category, keys, answer, repeats=2, phrasings=None):
    """Every fact: the first phrasing as it stands, then random phrasings with variation."""
    cases = []
    for key in keys:
        texts = phrasings or corpus.PHRASINGS[category]
        questions = [text.format(x=key) for text in texts] if phrasings else (
            [texts[0].format(x=key)] + [corpus.phrase(rng, category, x=key) for _ in range(repeats)])
        cases += [(ask(question), answer(key)) for question in questions]
    return cases


def facts(rng, phrasings):
    """The fact categories, in trained phrasings or in new ones."""
    tables = [
        ("capital", corpus.COUNTRIES, corpus.capital_answer),
        ("country", corpus.CITIES, corpus.country_answer),
        ("opposite", list(corpus.OPPOSITES), corpus.opposite_answer),
        ("colour", list(corpus.COLOURS), corpus.COLOURS.get),
        ("plural", list(corpus.PLURALS), corpus.plural_answer),
        ("definition", list(corpus.DEFINITIONS), corpus.DEFINITIONS.get),
    ]
    return {name: fact_cases(rng, name, keys, answer, phrasings=phrasings.get(name))
            for name, keys, answer in tables}


def small_talk_cases():
    """Every greeting and question about the model, with and without its last mark."""
    return [(ask(text), answer) for said, answer in corpus.SMALL_TALK
            for form in said for text in {form, form.lower(), form.rstrip("?.!")}]


def word_cases(rng, category, words, answer):
    """Each word once, in a random phrasing."""
    return [(ask(corpus.phrase(rng, category, x=word)), answer(word)) for word in sorted(words)]


def turn_messages(turns):
    """Turns as messages."""
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn)]


def name_cases(rng, names, between, repeats):
    """A name is told, some other turns follow, then it is asked."""
    cases = []
    for name in sorted(names) * repeats:
        before = corpus.plain_turns(rng, rng.randint(0, 1) if between else 0)
        turns = before + [corpus.tell_name_turn(rng, name)]
        turns += corpus.plain_turns(rng, rng.randint(1, between) if between else 0)
        question, answer = corpus.ask_name_turn(rng, name)
        cases.append((turn_messages(turns) + ask(question), answer))
    return cases


def context_cases(rng, count, low, high):
    """The last turn of a long dialogue of mixed categories."""
    cases = []
    for _ in range(count):
        turns = corpus.plain_turns(rng, rng.randint(low, high))
        question, answer = corpus.any_turn(rng)
        cases.append((turn_messages(turns) + ask(question), answer))
    return cases


def system_cases(rng, count):
    """One question after a system prompt."""
    cases = []
    for _ in range(count):
        question, answer = corpus.any_turn(rng)
        prompt = {"role": "system", "content": rng.choice(corpus.SYSTEM_PROMPTS)}
        cases.append(([prompt] + ask(question), answer))
    return cases


def turn_cases(rng, turn, count):
    """Single questions of one kind of turn."""
    pairs = [turn(rng) for _ in range(count)]
    return [(ask(question), answer) for question, answer in pairs]


def suite():
    """All categories: name -> cases."""
    rng = random.Random(SEED)
    cases = {}
    for kind, pairs in (("add", corpus.HELD_OUT_SUMS), ("sub", corpus.HELD_OUT_DIFFERENCES)):
        title = {"add": "addition", "sub": "subtraction"}[kind]
        cases[f"{title}, held-out problems"] = sum_cases(
            rng, kind, corpus.PHRASINGS[kind][1:], pairs, 1)
        cases[f"{title}, held-out problems, new phrasing"] = sum_cases(
            rng, kind, corpus.NEW_PHRASINGS[kind], pairs, 1)
        cases[f"{title}, trained problems"] = trained_sums(rng, kind, 300)
    titles = {"capital": "capitals", "country": "countries of capitals", "opposite": "opposites",
              "colour": "colours", "plural": "plurals", "definition": "definitions"}
    for suffix, phrasings in (("", {}), (", new phrasing", corpus.NEW_PHRASINGS)):
        for name, items in facts(rng, phrasings).items():
            cases[titles[name] + suffix] = items
    cases["greetings and the model itself"] = small_talk_cases()
    cases["lists and counting"] = turn_cases(rng, corpus.sequence_turn, 100)
    cases["unknown questions"] = turn_cases(rng, corpus.unknown_turn, 400)
    cases["name, held-out, asked at once"] = name_cases(rng, corpus.HELD_OUT_NAMES, 0, 6)
    cases["name, held-out, 1-4 turns between"] = name_cases(rng, corpus.HELD_OUT_NAMES, 4, 6)
    cases["name, held-out, 1-12 turns between"] = name_cases(rng, corpus.HELD_OUT_NAMES, 12, 4)
    cases["name, trained, 1-4 turns between"] = name_cases(rng, corpus.TRAIN_NAMES, 4, 1)
    for name, answer in (("spell", corpus.spell_answer), ("reverse", corpus.reverse_answer)):
        title = {"spell": "spelling", "reverse": "reversing"}[name]
        cases[f"{title}, trained words"] = word_cases(rng, name, corpus.TRAIN_WORDS, answer)
        cases[f"{title}, held-out words"] = word_cases(rng, name, corpus.HELD_OUT_WORDS, answer)
    cases["any question, after a system prompt"] = system_cases(rng, 300)
    cases["any question, after 4-8 other turns"] = context_cases(rng, 300, 4, 8)
    cases["any question, after 15-25 other turns"] = context_cases(rng, 200, 15, 25)
    cases["any question, after 40-50 other turns"] = context_cases(rng, 60, 40, 50)
    return cases


# --------------------------------------------------------------------------------------
# Scoring
# --------------------------------------------------------------------------------------


@torch.inference_mode()
def answers(model, tokenizer, prompts, batch):
    """Greedy answers, prompts of like length together, padded on the left."""
    texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True)
             for p in prompts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    result = [""] * len(texts)
    for start in range(0, len(order), batch):
        chosen = order[start:start + batch]
        inputs = tokenizer([texts[i] for i in chosen], return_tensors="pt", padding=True,
                           padding_side="left", add_special_tokens=False)
        width = inputs["input_ids"].shape[1]
        output = model.generate(input_ids=inputs["input_ids"],
                                attention_mask=inputs["attention_mask"],
                                do_sample=False, max_new_tokens=100)
        for i, row in zip(chosen, output):
            result[i] = tokenizer.decode(row[width:], skip_special_tokens=True)
    return result


def score(model, tokenizer, cases, batch):
    """Returns the number right, the number asked, and some wrong answers."""
    given = answers(model, tokenizer, [messages for messages, _ in cases], batch)
    wrong = [{"asked": messages[-1]["content"], "expected": expected, "answered": answer}
             for (messages, expected), answer in zip(cases, given) if answer != expected]
    return len(cases) - len(wrong), len(cases), wrong


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint")
    parser.add_argument("--out", type=Path, default=HERE / "accuracy.json")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"],
                        help="of the arithmetic; the weights are bf16 either way")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", default="", help="ask only categories with this text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="ask only a part, for a quick look")
    parser.add_argument("--show", type=int, default=3, help="wrong answers to print per category")
    return parser.parse_args()


def summary(results):
    """The totals that the README promises, next to the categories."""
    fact_names = ["capitals", "countries of capitals", "opposites", "colours", "plurals",
                  "definitions"]
    right = sum(results[name]["right"] for name in fact_names)
    asked = sum(results[name]["asked"] for name in fact_names)
    return {"facts": round(right / asked, 4),
            "held_out_additions": results["addition, held-out problems"]["accuracy"]}


def main():
    """Evaluates every category and writes the table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=getattr(torch, args.dtype))
    rng, results = random.Random(SEED), {}
    chosen = {name: cases for name, cases in suite().items() if args.only in name}
    for name, cases in chosen.items():
        if args.share < 1:
            cases = rng.sample(cases, max(1, int(len(cases) * args.share)))
        right, asked, wrong = score(model.eval(), tokenizer, cases, args.batch)
        results[name] = {"right": right, "asked": asked, "accuracy": round(right / asked, 4)}
        print(f"| {name} | {asked} | {100 * right / asked:.1f} % |", flush=True)
        for item in wrong[:args.show]:
            print(f"    {item}", flush=True)
    if args.only:
        return
    report = {"decoding": "greedy", "weights": "bfloat16", "arithmetic": args.dtype, "match": "exact, whole answer",
              "seed": SEED, "summary": summary(results), "categories": results}
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(report["summary"])


if __name__ == "__main__":
    main()
