"""Chat templates, conversations, and the text transformers renders from them.

Whole templates are the files in chat/templates; short ones, each for one part of
the language, are in SNIPPETS. `now()` is a fixed moment.
"""

import datetime
import json
import tempfile
from pathlib import Path

import jinja2
import transformers
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

import tokenizer_cases

NOW = datetime.datetime(2024, 7, 6, 15, 4, 5)


def message(role, content=None, **fields):
    return {"role": role, "content": content, **fields}


def call(name, arguments, id="abcdefghi"):
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


def case(template, messages, tools=None, generate=True, name=None, proceed=False, **kwargs):
    """One rendering; `kwargs` are more variables of the template."""
    return dict(template=template, name=name or template, messages=messages, tools=tools,
                add_generation_prompt=generate, continue_final_message=proceed, kwargs=kwargs)


HI = [message("user", "Hi")]
TURNS = [message("user", "What is 2 + 2?"), message("assistant", "4."), message("user", "And 'twice' <that> & more?")]
SYSTEM = [message("system", "  Be brief.\n"), *TURNS]
UNICODE = [message("user", "naïve café 你好 👩‍👧 \"quoted\" \\ back\tslash\n\nend ")]
PARTS = [message("user", [{"type": "text", "text": "Look: "}, {"type": "image", "url": "x"}, {"type": "text", "text": " what is it?"}])]

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather <now> & \"later\" at a place: température.",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "A city,\nby name"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": "array", "items": {"type": "integer"}}}, "required": ["city"]}}}
CLOCK = {"type": "function", "function": {
    "name": "clock", "description": "The time.", "parameters": {"type": "object", "properties": {}},
    "return": {"type": "object", "properties": {"hour": {"type": "number"}, "zone": {"type": ["string", "null"]}}}}}
ARGUMENTS = {"city": "Zürich", "days": [1, 2], "exact": True, "scale": 1.0, "tiny": 1e-7, "big": 1e22, "none": None, "nested": {"b": "<>&'", "a": []}}
TOOL_TURNS = [message("user", "Weather?"), message("assistant", tool_calls=[call("get_weather", ARGUMENTS)]),
              message("tool", "{\"sky\": \"clear\"}", tool_call_id="abcdefghi", name="get_weather"),
              message("assistant", "Clear."), message("user", "Thanks")]
TWO_CALLS = [message("user", "Weather and time?"),
             message("assistant", "Let me see.", tool_calls=[call("get_weather", {"city": "Bern"}), call("clock", "{}", "123456789")]),
             message("tool", "rain", tool_call_id="abcdefghi"), message("tool", "noon", tool_call_id="123456789")]
THOUGHT = [message("user", "Why?"), message("assistant", "<think>\nBecause.\n</think>\n\nSo."), message("user", "Really?"),
           message("assistant", "<think>\n\nHmm, yes.\n\n</think>\n\nYes.")]

# Each renders with `messages` TURNS and these variables.
VALUES = dict(s="  Hello, World  ", word="playhouse", csv="a,b,,c", lines="one\ntwo\r\nthree", n=7, neg=-7, x=2.5, t=True, nil=None,
              items=[3, 1, 2], words=["b", "A", "c"], d={"z": 1, "a": [True, None, 1.5, "é<"], "m": {"k": "v"}}, empty="", nothing=[],
              people=[{"name": "Ann", "age": 30, "ok": True}, {"name": "Bob", "age": 25}, {"name": "Cy", "age": 30, "ok": False}])
SNIPPETS = {
    "method-strip": "{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ word.strip('pe') }}|{{ word.lstrip('lp') }}|{{ word.rstrip('es') }}",
    "method-split": "{{ csv.split(',')|join('+') }}|{{ s.split()|join('+') }}|{{ csv.split(',', 1)[1] }}|{{ csv.rsplit(',', 1)[0] }}|{{ csv.split(',')[-1] }}|{{ lines.splitlines()|join('+') }}|{{ csv.split('x')|length }}",
    "method-case": "{{ word.upper() }}|{{ 'ABC'.lower() }}|{{ 'hello world'.title() }}|{{ 'hELLO wORLD'.capitalize() }}",
    "method-tests": "{{ word.startswith('play') }}|{{ word.endswith('x') }}|{{ '123'.isdigit() }}|{{ 'ab'.isalpha() }}|{{ 'a1'.isalnum() }}|{{ 'AB'.isupper() }}|{{ 'ab'.islower() }}|{{ ' '.isspace() }}",
    "method-startswith-tuple": "{{ word.startswith(('x', 'pl')) }}",
    "method-find": "{{ word.find('h') }}|{{ word.find('q') }}|{{ word.rfind('e') }}|{{ word.count('e') }}|{{ word.replace('house', 'ground') }}|{{ 'aaa'.replace('a', 'b', 2) }}|{{ '-'.join(words) }}",
    "method-dict": "{{ d.get('z') }}|{{ d.get('q') }}|{{ d.get('q', 'none there') }}|{% for k, v in d.items() %}{{ k }};{% endfor %}|{{ d.keys()|join(',') }}|{{ d['m'].values()|list|length }}|{{ 'z' in d }}",
    "method-removeprefix": "{{ word.removeprefix('play') }}|{{ word.removesuffix('house') }}",
    "method-format": "{{ '{} and {}'.format(word, n) }}|{{ '{0}{1}{0}'.format('a', 'b') }}",
    "percent-format": "{{ '%s has %d of %.2f' % (word, n, x) }}|{{ '%s' % word }}|{{ '%05d|%x' % (n, 255) }}",
    "slices": "{{ word[1:4] }}|{{ word[:-5] }}|{{ word[-5:] }}|{{ word[::-1] }}|{{ word[::2] }}|{{ items[1:]|join(',') }}|{{ items[::-1]|join(',') }}|{{ items[-1] }}|{{ word[0] }}|{{ items[5:]|length }}|{{ 'héé你好'[1:4] }}",
    "arithmetic": "{{ n // 2 }}|{{ n / 2 }}|{{ n % 4 }}|{{ neg // 2 }}|{{ neg % 4 }}|{{ n ** 2 }}|{{ -n }}|{{ n * x }}|{{ 6 / 2 }}|{{ 'ab' * 3 }}|{{ 10 - 3 * 2 }}|{{ (1 + 2) * 3 }}",
    "logic": "{{ nil or 'x' }}|{{ empty and 1 }}|{{ not t }}|{{ 1 if t else 2 }}|{{ 'y' if nothing }}|{{ n == 7.0 }}|{{ 'a' in csv }}|{{ 9 not in items }}|{{ 'a' ~ 1 ~ none }}",
    "chained-comparison": "{{ 1 < n <= 7 }}|{{ 1 < n < 7 }}",
    "bool-is-int": "{{ t == 1 }}|{{ t + 1 }}|{{ t is number }}|{{ t is integer }}",
    "tests": "{{ nil is none }}|{{ n is number }}|{{ n is integer }}|{{ x is float }}|{{ s is string }}|{{ d is mapping }}|{{ items is sequence }}|{{ s is iterable }}|{{ d is iterable }}|{{ q is defined }}|{{ q is undefined }}|{{ n is odd }}|{{ n is divisibleby 7 }}|{{ t is true }}|{{ t is boolean }}|{{ n is eq 7 }}|{{ n is gt 3 }}|{{ 2 is in items }}|{{ d is sequence }}",
    "missing": "[{{ q }}][{{ d.q }}][{{ d['q'] }}][{{ messages[0].name }}][{{ bos_token }}][{{ q is defined and q.r }}]",
    "none-arguments": "{{ tools is defined }}|{{ tools is none }}|{{ documents is defined }}|{{ documents is none }}|{{ add_generation_prompt is defined }}|{{ tools_in_user_message is defined }}",
    "print-scalars": "{{ none }}|{{ true }}|{{ false }}|{{ None }}|{{ True }}|{{ 1.0 }}|{{ 0.1 }}|{{ 1e22 }}|{{ 1e-7 }}|{{ 100000000000000000000.0 }}|{{ x }}|{{ n }}",
    "print-containers": "{{ items }}|{{ words }}|{{ d }}|{{ [] }}|{{ {} }}|{{ [none, true, 1.0, 'it\\'s', \"q\\\"\"] }}",
    "print-tuple": "{{ (1, 'a') }}|{{ (1,) }}",
    "string-filter": "{{ none|string }}|{{ true|string }}|{{ 1.5|string }}|{{ d|string }}|{{ n|string + '!' }}",
    "tojson": "{{ d|tojson }}|{{ items|tojson }}|{{ s|tojson }}|{{ none|tojson }}|{{ t|tojson }}|{{ 1.0|tojson }}|{{ '</script>\\'&'|tojson }}|{{ '你好 é 👍\\u007f\\n\\t'|tojson }}|{{ []|tojson }}{{ {}|tojson }}",
    "tojson-options": "{{ d|tojson(indent=2) }}\n{{ d|tojson(sort_keys=true) }}\n{{ d|tojson(separators=(',', ':')) }}\n{{ d|tojson(indent=4, sort_keys=True) }}\n{{ {'a': [], 'b': {}}|tojson(indent=1) }}",
    "tojson-ascii": "{{ d|tojson(ensure_ascii=true) }}|{{ '👍'|tojson(true) }}",
    "filters": "{{ items|sort|join(',') }}|{{ words|sort|join }}|{{ items|first }}|{{ items|last }}|{{ items|length }}|{{ items|sum }}|{{ items|max }}|{{ items|min }}|{{ items|reverse|list|join }}|{{ [1,1,2]|unique|join }}|{{ s|trim|upper }}|{{ s|trim|lower }}|{{ word|capitalize }}|{{ 'a b'|title }}|{{ '5'|int + 1 }}|{{ x|round|int }}|{{ neg|abs }}|{{ '2.5'|float }}|{{ word|replace('p', 'P') }}|{{ word|list|count }}",
    "filters-attributes": "{{ people|map(attribute='name')|join(', ') }}|{{ people|selectattr('ok')|map(attribute='name')|join }}|{{ people|selectattr('age', 'equalto', 30)|list|length }}|{{ people|rejectattr('ok', 'defined')|map(attribute='name')|join }}|{{ words|map('upper')|join }}|{{ items|select('gt', 1)|join }}|{{ items|reject('odd')|join }}|{{ people|sort(attribute='age')|map(attribute='name')|join }}|{% for age, group in people|groupby('age') %}{{ age }}:{{ group|length }} {% endfor %}",
    "filters-default": "{{ q|default('d') }}|{{ empty|default('d') }}|{{ empty|default('d', true) }}|{{ nil|default('d', boolean=true) }}|{{ nil|d('d') }}|{{ d.q|default('d') }}|{{ d|dictsort|map('first')|join }}|{{ d|items|map('first')|join }}",
    "filters-text": "{{ 'a\\nb'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'x'|safe }}",
    "filters-escape": "{{ '<a>&'|e }}|{{ '\"\\''|escape }}",
    "filters-rare": "{{ '%s-%s'|format(1, 'b') }}|{{ 'a b c'|wordcount }}|{{ 'a long line'|truncate(6, true, '') }}|{{ 'x'|center(5) }}",
    "loop": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if loop.nextitem is defined }} {% endfor %}",
    "loop-cycle": "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.depth }}{{ loop.changed(m.role) }}{% endfor %}",
    "loop-else": "{% for m in messages if m.role == 'tool' %}x{% else %}no tools{% endfor %}{% for i in range(2, 9, 3) %}{{ i }},{% endfor %}{% for k in d %}{{ k }}{% endfor %}",
    "loop-controls": "{% for i in range(10) %}{% if i is odd %}{% continue %}{% endif %}{% if i > 6 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% set out = 0 %}{% for m in messages %}{% set out = out + 1 %}{% set ns.n = ns.n + m.content|length %}{% if m.role == 'assistant' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }} {{ out }}",
    "set-block": "{% set greeting %}\n  Hello {{ word }}\n{% endset %}[{{ greeting }}]{% set a, b = 1, 2 %}{{ a }}{{ b }}{% filter upper %}loud {{ word }}{% endfilter %}{% with z = 5 %}{{ z }}{% endwith %}{{ z is defined }}",
    "macro": "{% macro show(m, sep=': ', end='') %}{{ m.role }}{{ sep }}{{ m.content }}{{ end }}{% endmacro %}{{ show(messages[0]) }}|{{ show(messages[1], end='!', sep='=') }}|{% macro box() %}<{{ caller() }}>{% endmacro %}{% call box() %}in{% endcall %}",
    "white-space": "  {% if true %}  \n  a  \n  {% endif %}  \nb\n{%- if true -%}\n  c  \n{%- endif -%}\n  d {#- comment -#} e\n\t{# gone #}\n{{- 'f' -}}\n g\n{% raw %}{{ raw }}{% endraw %}\n\n",
    "white-space-plus": "a\n   {%+ if true %}b{% endif +%}\nc",
    "strftime": "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%A, %B %d, %Y') }}|{{ strftime_now('%H:%M:%S') }}|{{ strftime_now('%j %a %y %I %p %%') }}",
    "dict-literal": "{% set r = {'user': 'U', 'assistant': 'A'} %}{% for m in messages %}{{ r[m['role']] }}{% endfor %}{{ dict(a=1, b='x')|tojson }}{{ {'a': 1}|tojson }}{{ r|length }}{{ (items + [9])|join }}",
    "dict-merge": "{{ dict(d['m'], tool='T')|tojson }}",
    "concatenate": "{{ messages[0].role + ': ' + messages[0].content }}|{{ n ~ '' }}|{{ ['x', 'y'] == ['x', 'y'] }}|{{ messages[0] == messages[-1] }}|{{ messages|length - 1 }}",
    "adjacent-strings": "{{ 'a' 'b' }}",
    "tests-none": "{{ nil is iterable }}|{{ q is iterable }}|{{ n is iterable }}|{{ t is iterable }}|{{ nil is sequence }}|{{ nil is mapping }}|{{ nil is string }}|{{ nil is number }}|{{ q is mapping }}|{{ q is string }}|{{ range is callable }}|{{ nil is callable }}|{% if tools is iterable and tools | length > 0 %}T{% endif %}",
    "filters-undefined": "{{ q|length }}|{{ q|list }}|{{ q|join }}|[{{ q|first }}]|[{{ q|last }}]|[{{ q|string }}]|{{ d.q|count }}",
    "filters-numbers": "{{ 'x'|int }}|{{ 'x'|int(3) }}|{{ 'x'|int(default=4) }}|{{ ''|float }}|{{ items|int }}|{{ '7.9'|int }}|{{ '0x1f'|int(base=16) }}",
    "filters-count": "{{ 'aaa'|replace('a', 'b', 2) }}|{{ 'x'|center(5) }}|{{ 'a b c'|wordcount }}",
    "method-split-more": "{{ csv.split(',', maxsplit=1)|length }}|{{ s.rsplit()|join('+') }}|{{ 'a b c'.rsplit(none, 1)|join('+') }}|{{ word.partition('h')|join('+') }}|{{ word.rpartition('x')|join('+') }}|{{ word.index('h') }}",
    "method-fill": "{{ '7'.zfill(3) }}|{{ 'x'.center(4, '-') }}|{{ 'x'.ljust(3) }}|{{ 'x'.rjust(3, '.') }}|{{ 'aB'.swapcase() }}|{{ d.copy() == d }}",
    "string-escapes": "{{ 'one \\\n two' }}|{{ 'a\\x41\\u00e9\\tb' }}|{{ '\\d\\/' }}|{{ '\\'\\\\' }}",
    "carriage-returns": "a\r\nb {{ 'c' }}\r\n{% if true %}\r\nd\r\n{% endif %}\re",
    "raise": "{{ raise_exception('No ' ~ n ~ ' \"quotes\" and é') }}",
    "raise-late": "text before {% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('role ' + m.role) }}{% endif %}{% endfor %}",
    "error-undefined": "{{ q.r }}",
    "error-undefined-add": "{{ 'a' + q }}",
    "error-add": "{{ 'a' + 1 }}",
    "error-call": "{{ word.frobnicate() }}",
    "error-append": "{{ items.append(4) }}",
    "error-filter": "{{ n|frobnicate }}",
    "error-syntax": "{% if %}",
}

LLAMA3 = dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
MISTRAL = dict(bos_token="<s>", eos_token="</s>")

CASES = [
    case("chatml", HI), case("chatml", TURNS), case("chatml", SYSTEM, generate=False), case("chatml", UNICODE),
    case("chatml", [message("assistant", None)], name="chatml-null-content"),
    case("chatml", PARTS, name="chatml-parts"),
    case("chatml", [*TURNS, message("assistant", "It is 'th")], generate=False, proceed=True, name="chatml-continue"),
    case("chatml", [*TURNS, message("assistant", "It is  \n")], generate=False, proceed=True, name="chatml-continue-space"),
    *(case("chatml", [*TURNS, message("assistant", content)], generate=False, proceed=True, name="chatml-continue-word")
      for content in ["<", "|", "end", "im_end", "", "\n", "4.", " a\t"]),
    case("gemma", [*HI, message("model", [{"type": "text", "text": "a"}, {"type": "text", "text": "turn"}])], generate=False, proceed=True,
         name="gemma-continue-parts", **MISTRAL),
    case("chatml", TURNS, proceed=True, name="chatml-continue-and-generate"),
    case("chatml_system", HI), case("chatml_system", SYSTEM), case("chatml_system", PARTS), case("chatml_system", TURNS, generate=False),
    case("chatml_system", HI, default_system="Rhyme.", name="chatml_system-kwarg"),
    case("chatml_system", HI, default_system="", name="chatml_system-kwarg-empty"),
    case("chatml_system", [message("user", "Hi", name="Ann")], name="chatml_system-name"),
    case("chatml_system", [*HI, message("critic", "Bad")], name="chatml_system-role"),
    case("chatml_system", [message("user", [{"type": "video"}])], name="chatml_system-part"),
    case("llama3", HI, **LLAMA3), case("llama3", SYSTEM, **LLAMA3), case("llama3", TURNS, generate=False, **LLAMA3),
    case("llama3", SYSTEM, date_string="1 Jan 2030", name="llama3-date", **LLAMA3),
    case("llama3", SYSTEM, [WEATHER, CLOCK], name="llama3-tools", **LLAMA3),
    case("llama3", SYSTEM, [WEATHER], tools_in_user_message=False, name="llama3-tools-in-system", **LLAMA3),
    case("llama3", SYSTEM[:1], [WEATHER], name="llama3-tools-no-user", **LLAMA3),
    case("llama3", TOOL_TURNS, [WEATHER], name="llama3-call", **LLAMA3),
    case("llama3", TWO_CALLS, [WEATHER, CLOCK], name="llama3-two-calls", **LLAMA3),
    case("llama3", [*HI, message("tool", {"sky": ["é", 1.0]})], name="llama3-mapping", **LLAMA3),
    case("llama3", HI, custom_tools=[CLOCK], name="llama3-custom-tools", **LLAMA3),
    case("mistral", HI, **MISTRAL), case("mistral", TURNS, **MISTRAL), case("mistral", SYSTEM, generate=False, **MISTRAL),
    case("mistral", TOOL_TURNS, [WEATHER, CLOCK], name="mistral-tools", **MISTRAL),
    case("mistral", TWO_CALLS, name="mistral-two-calls", **MISTRAL),
    case("mistral", [*HI, *HI], name="mistral-user-user", **MISTRAL),
    case("mistral", [message("assistant", "Hello")], name="mistral-assistant-first", **MISTRAL),
    case("mistral", [*HI, message("critic", "Bad")], name="mistral-role", **MISTRAL),
    case("mistral", [*HI, message("assistant", tool_calls=[call("clock", {}, "1")])], name="mistral-id", **MISTRAL),
    case("mistral", [*HI, message("tool", {"content": 21.5}, tool_call_id="abcdefghi")], name="mistral-number-content", **MISTRAL),
    case("qwen3", HI), case("qwen3", SYSTEM), case("qwen3", THOUGHT, generate=False), case("qwen3", PARTS),
    case("qwen3", HI, enable_thinking=False, name="qwen3-no-thinking"),
    case("qwen3", HI, enable_thinking=True, name="qwen3-thinking"),
    case("qwen3", SYSTEM, [WEATHER, CLOCK], name="qwen3-tools"),
    case("qwen3", HI, [], name="qwen3-empty-tools"),
    case("qwen3", TOOL_TURNS, [WEATHER], name="qwen3-call"),
    case("qwen3", TWO_CALLS, [WEATHER, CLOCK], name="qwen3-two-calls"),
    case("qwen3", [*HI, message("assistant", "So.", reasoning_content="Because.\n")], generate=False, name="qwen3-reasoning"),
    case("qwen3", [*HI, message("assistant", "So.", reasoning="Because.")], generate=False, name="qwen3-reasoning-alias"),
    case("qwen3", [*HI, message("assistant", "So.", reasoning_content=None)], generate=False, name="qwen3-reasoning-null"),
    case("qwen3", [*THOUGHT, message("user", "<tool_response>\nx\n</tool_response>")], name="qwen3-tool-response-user"),
    case("gemma", TURNS, **MISTRAL), case("gemma", SYSTEM, **MISTRAL), case("gemma", PARTS, generate=False, **MISTRAL),
    case("gemma", [*HI, *HI], name="gemma-user-user", **MISTRAL),
    case("gemma", [message("user", {"text": 1})], name="gemma-mapping", **MISTRAL),
    case("gemma", [message("user", 5)], name="gemma-number", **MISTRAL),
    case("deepseek", SYSTEM, **MISTRAL), case("deepseek", THOUGHT, **MISTRAL), case("deepseek", TWO_CALLS, **MISTRAL),
    case("deepseek", TOOL_TURNS, thinking=True, name="deepseek-tools", **MISTRAL),
    case("types", TURNS, [WEATHER, CLOCK]), case("types", TURNS),
    case("types", [*TURNS, message("skip", "x"), message("system", " y ", thread=[message("user", "deep "), message("stop", "z"), *HI]),
                   message("stop", "z"), *HI], name="types-recursive"),
    case("generation", TURNS), case("generation", THOUGHT, generate=False),
    *(case(name, TURNS, generate=False, **VALUES) for name in SNIPPETS),
]


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW.timetuple()[:6])


def render(tokenizer, source, case):
    try:
        text = tokenizer.apply_chat_template(
            case["messages"], tools=case["tools"], chat_template=source, tokenize=False,
            add_generation_prompt=case["add_generation_prompt"],
            continue_final_message=case["continue_final_message"], **case["kwargs"])
        return {"text": text}
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        # raise_exception raises TemplateError itself, all else its subclasses or a Python error.
        kind = "raised" if type(error) is jinja2.TemplateError else type(error).__name__
        return {"error": str(error), "kind": kind}


def make(folder):
    """Write cases.json: the templates, and every case with its text or its error."""
    chat_template_utils.datetime = FixedClock
    templates = {p.stem: p.read_text() for p in sorted((folder / "templates").glob("*.jinja"))} | SNIPPETS
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer_cases.write(Path(scratch))
        tokenizer = AutoTokenizer.from_pretrained(scratch)
    rows, names = [], set()
    for case in CASES:
        number = sum(r["name"].split("#")[0] == case["name"] for r in rows) + 1
        name = case["name"] if number == 1 else f"{case['name']}#{number}"
        assert name not in names
        names.add(name)
        rows.append({**case, "name": name, **render(tokenizer, templates[case["template"]], case)})
    out = {"transformers": transformers.__version__, "jinja2": jinja2.__version__, "now": NOW.isoformat(),
           "special_tokens": tokenizer.special_tokens_map, "templates": templates}
    lines = ",\n".join("    " + json.dumps(r, ensure_ascii=False) for r in rows)
    (folder / "cases.json").write_text(
        json.dumps(out, indent=2, ensure_ascii=False)[:-2] + ',\n  "cases": [\n' + lines + "\n  ]\n}\n")
    print(f"chat: {len(rows)} cases, {sum('error' in r for r in rows)} of them errors")
