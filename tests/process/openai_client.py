"""The openai package as a user has it, against a running server with the demo model.

    python openai_client.py http://127.0.0.1:8000/v1

Exits with 0 when everything is as the client's types and the API's documentation say.
"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def chat(**fields):
    fields = {"model": "demo", "messages": QUESTION, "temperature": 0} | fields
    return client.chat.completions.create(**fields)


def complete(prompt, **fields):
    return client.completions.create(**{"model": "demo", "prompt": prompt, "temperature": 0} | fields)


def refused(kind, call, **expected):
    """`call` raises `kind`, with these attributes."""
    try:
        call()
    except kind as error:
        for name, value in expected.items():
            assert getattr(error, name) == value, (name, getattr(error, name), value)
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


models = client.models.list().data
assert [model.id for model in models] == ["demo"] and models[0].object == "model"
assert client.models.retrieve("demo").id == "demo"

whole = chat(logprobs=True, top_logprobs=3)
choice = whole.choices[0]
assert "Paris" in choice.message.content and choice.finish_reason == "stop"
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.usage.prompt_tokens_details.cached_tokens >= 0
content = choice.logprobs.content
assert "".join(token.token for token in content).startswith(choice.message.content)
assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content)
assert all(bytes(token.bytes).decode() == token.token for token in content if token.bytes)

chunks = list(chat(stream=True, stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
assert text == choice.message.content
assert chunks[0].choices[0].delta.role == "assistant"
assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
with client.chat.completions.stream(model="demo", messages=QUESTION, temperature=0) as stream:
    assert stream.get_final_completion().choices[0].message.content == text

several = chat(n=3, temperature=1, seed=7, max_completion_tokens=8)
assert [choice.index for choice in several.choices] == [0, 1, 2]
again = chat(n=3, temperature=1, seed=7, max_completion_tokens=8)
assert [c.message.content for c in several.choices] == [c.message.content for c in again.choices]

stopped = chat(stop=[" Paris", "never"])
assert "Paris" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"
cut = chat(max_completion_tokens=2)
assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 2

raw = client.chat.completions.with_raw_response.create(
    model="demo", messages=QUESTION, extra_headers={"x-request-id": "mine"},
    extra_body={"top_k": 1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True},
)
assert raw.headers["x-request-id"] == "mine" and raw.parse()._request_id == "mine"
assert len(raw.parse().choices[0].token_ids) == raw.parse().usage.completion_tokens

plain = complete("The capital of France is", max_tokens=4, logprobs=2, echo=True)
assert plain.choices[0].text.startswith("The capital of France is")
assert len(plain.choices[0].logprobs.tokens) == len(plain.choices[0].logprobs.token_logprobs)
assert plain.choices[0].logprobs.token_logprobs[0] is None
pair = complete(["one", "two"], max_tokens=2)
assert [choice.index for choice in pair.choices] == [0, 1]
ids = [[70, 71, 72], [73]]
assert len(complete(ids, max_tokens=1).choices) == 2 and len(complete(ids[0], max_tokens=1).choices) == 1
streamed = "".join(c.choices[0].text for c in complete("one", max_tokens=5, stream=True))
assert streamed == complete("one", max_tokens=5).choices[0].text

bad = openai.BadRequestError
refused(openai.NotFoundError, lambda: chat(model="other"), code="model_not_found", param="model")
refused(bad, lambda: chat(temperature=-1), param="temperature", type="invalid_request_error")
refused(bad, lambda: chat(n=0), param="n")
refused(bad, lambda: chat(stop=["x"] * 17), param="stop")
refused(bad, lambda: chat(messages=[]), param="messages")
refused(bad, lambda: chat(tools=[{"type": "function", "function": {"name": "f"}}]), param="tools")
text = refused(bad, lambda: complete([70] * 5000), code="context_length_exceeded")
assert "5000" in text and "maximum context length is 2048 tokens" in text, text
seven = "Seven sailors saw"
copies = complete([seven] * 4, temperature=1.5, max_tokens=16, extra_body={"ignore_eos": True})
assert len({choice.text for choice in copies.choices}) > 1, "copies of a prompt are draws of their own"
assert chat(max_completion_tokens=65_536).choices[0].finish_reason == "stop"
called = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
history = [
    {"role": "user", "content": "What is 1 + 2?"},
    {"role": "assistant", "content": None, "tool_calls": [called]},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "3"}]},
    {"role": "user", "content": "Thank you."},
]
assert chat(messages=history, max_completion_tokens=4).choices[0].message.role == "assistant"
refused(bad, lambda: chat(extra_body={"regex": "[0-9]+"}), param="regex", code="unsupported_parameter")

print(f"openai {openai.__version__}: all good")
