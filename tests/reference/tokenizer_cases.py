"""The tiny byte-level BPE tokenizer all checkpoints share, and texts with their ids."""

import json
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

BYTES_AND_MERGES = 284
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>"]
ENDOFTEXT, IM_START, IM_END, BOS = range(BYTES_AND_MERGES, BYTES_AND_MERGES + 4)
VOCAB = BYTES_AND_MERGES + len(SPECIAL)

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")

STORY = """The little theatre opened its doors again in the spring. A painter from the next town had \
covered the walls with rivers, and over the stage she had hung a moon of thin paper. Nobody knew who \
would come. At seven the first children ran in and sat on the floor, then their parents, then the \
baker, who had closed his café early and still had flour in his hair. The lights went down. For a \
moment there was no sound but the rain; then the old man at the piano began to play, slowly, as though \
he were trying to remember where he had heard this music before. "It is the wind in the other house," \
said the girl beside me, and she was right: 12 notes, a pause, 7 notes more. Outside, the trams turned \
in the square. Inside, 你好, said the puppet to the moon, 你好, and the moon bowed. Déjà vu, naïve, a \
crêpe at the café 🙂. When it was over we stayed where we were, because the rain had not stopped and \
because none of us wanted to be the first to leave.
"""

CHATML = """\
{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

TEXTS = [
    # ASCII
    "", "a", "Hello, world!", "The quick brown fox jumps over the lazy dog.", "the the the theatre",
    "I'm sure they've said it's what we'll do; he'd agree, you're right, don't.", "I'M SURE THEY'VE SAID IT'S",
    "1234567890", "3.14159e-10 and 0xDEADBEEF", "x=1;y=22;z=333;w=4444", "def f(x):\n    return x ** 2  # square\n",
    "https://example.com/a/b?c=d&e=f#g", "{\"key\": [1, 2.5, null, true], \"s\": \"q\\\"uote\"}",
    "<p class=\"a\">&amp; &lt;tag&gt;</p>", "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "!!!???...,,,;;;:::", "a\\b\\\\c\\n", "~!@#$%^&*()_+`-={}[]|:;'<>?,./", "no", "  two leading spaces",
    # accents, composed and decomposed
    "café déjà naïve crêpe", "cafe\u0301 de\u0301ja\u0300 nai\u0308ve", "Ünïcödé ñandú Ångström", "A\u030angstro\u0308m",
    "straße STRASSE ſ ﬁ ﬀ", "Łódź Česko Πλάτων Москва", "Đặng Thị Hương", "İstanbul ıI",
    # other scripts
    "你好，世界。", "こんにちは世界 カタカナ", "안녕하세요 세계", "\u1112\u1161\u11ab\u1100\u1173\u11af", "שלום עולם", "مرحبا بالعالم",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚", "中文English混合123数字", "Ⅷ ½ ² ٣ ४",
    # emoji
    "🙂", "🙂🙃 ok 👍🏽", "👩‍👩‍👧‍👦 family", "🏳️‍🌈 🇫🇷 🇯🇵", "❤️ ❤ ☎️", "1️⃣ 2️⃣",
    # white space
    " ", "    ", "\n", "\n\n\n", "\r\n\r\n", "\t\t x \t y\n\n  z ", "a \n b\n \nc   \n", "line\u2028sep\u00a0nbsp\u3000wide",
    "end with spaces   ", "zero\u200bwidth\ufeffbom",
    # special tokens in the text
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<|endoftext|>b", "<|endoftext|><|endoftext|>",
    "<|im_start|", "<|IM_END|> <| im_end |>", " <|im_end|> x <|begin_of_text|>", "\x00\x01\x7f control",
]


@cache
def build(bos=False):
    """Train the tokenizer: bytes and merges first, special tokens last, as Llama 3 and Qwen number theirs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.train_from_iterator([STORY], trainers.BpeTrainer(
        vocab_size=BYTES_AND_MERGES, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    byte_level = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = byte_level if not bos else processors.Sequence([
        byte_level,
        processors.TemplateProcessing(single=f"{SPECIAL[3]} $A", pair=f"{SPECIAL[3]} $A {SPECIAL[3]}:1 $B:1",
                                      special_tokens=[(SPECIAL[3], BOS)])])
    assert tokenizer.get_vocab_size() == VOCAB and tokenizer.token_to_id(SPECIAL[2]) == IM_END
    return tokenizer


def write(folder, chat=None, bos=False):
    """Write tokenizer.json, tokenizer_config.json and perhaps chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(build(bos).to_str(pretty=False))
    config = {
        "added_tokens_decoder": {
            str(BYTES_AND_MERGES + i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                        "single_word": False, "special": True} for i, t in enumerate(SPECIAL)},
        "bos_token": SPECIAL[3] if bos else None,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[2],
        "model_max_length": 256,
        "pad_token": SPECIAL[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if chat == "string":
        config["chat_template"] = CHATML
    elif chat == "list":
        config["chat_template"] = [
            {"name": "default", "template": CHATML},
            {"name": "tool_use", "template": "{{ tools | tojson }}\n" + CHATML}]
    elif chat == "jinja":
        (folder / "chat_template.jinja").write_text(CHATML)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def check(tokenizer, chat=None, bos=False):
    """Transformers and the tokenizers library must agree, and the chat template must be found."""
    for text in TEXTS:
        assert tokenizer.encode(text) == build(bos).encode(text).ids, text
    template = tokenizer.chat_template
    assert (template["default"] if chat == "list" else template) == (CHATML if chat else None)


def text_of_length(tokenizer, length, start):
    """Ids and text of a piece of the story that has `length` tokens, from some word on."""
    words = [i + 1 for i, c in enumerate(STORY) if c == " "]
    for turn in range(len(words)):
        first = words[(start + turn) % len(words)]
        for last in range(first + 1, min(first + 6 * length, len(STORY))):
            ids = tokenizer.encode(STORY[first:last])
            if len(ids) == length:
                return ids, STORY[first:last]
    raise ValueError(f"no piece of {length} tokens")


def make(folder):
    """Write the tokenizer without and with a BOS, and cases.json: the ids and decoded text of every text."""
    write(folder)
    write(folder / "bos", bos=True)
    plain, with_bos = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder / "bos")
    cases = []
    check(plain)
    check(with_bos, bos=True)
    for text in TEXTS:
        ids = plain.encode(text)
        assert ids == plain.encode(text, add_special_tokens=False) == with_bos.encode(text, add_special_tokens=False)
        assert with_bos.encode(text) == [BOS] + ids
        cases.append({"text": text, "ids": ids, "decoded": plain.decode(ids),
                      "decoded_without_special": plain.decode(ids, skip_special_tokens=True)})
    rows = ",\n".join("  " + json.dumps(c) for c in cases)
    (folder / "cases.json").write_text("[\n" + rows + "\n]\n")
    print(f"tokenizer: {len(cases)} texts")
