//! Bodies that no client would write: whatever is sent, the answer is no 5xx, and the server lives.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::*;

static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(saying("ok 🙂")));

/// Values at the edges of every type.
fn odd() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![0.0, -0.0, 1.0, 16.5, 1e39, -1e300, 4e9]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["", "user", "auto", "org/tiny", "NaN", "\u{0}"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(
                "role|content|type|text|tool_calls|function|name|arguments|[a-z0-9]{0,3}",
                inner,
                0..4,
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn check(body: &[u8]) {
    for path in ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"] {
        let reply = SERVER.post_bytes(path, body);
        let text = String::from_utf8_lossy(body);
        match reply.status {
            200 => assert!(!reply.body.is_empty()),
            400 | 404 => drop(reply.error()),
            // The tests share the server, and its front door is small.
            503 => assert_eq!(reply.json()["error"]["code"], "overloaded", "{text}"),
            other => panic!("{other} for {text}: {}", reply.text()),
        }
    }
}

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "tokens",
    "n",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "return_token_ids",
    "echo",
    "best_of",
    "suffix",
    "tools",
    "response_format",
    "cache_salt",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
    "add_special_tokens",
    "return_token_strs",
    "include_stop_str_in_output",
    "reasoning_effort",
    "user",
    "priority",
    "tool_choice",
    "typical_p",
    "grammar",
    "b",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_bytes_are_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&body);
    }

    #[test]
    fn a_valid_request_with_odd_fields_is_answered_or_refused(
        fields in prop::collection::hash_map(prop::sample::select(FIELDS), odd(), 1..5),
    ) {
        let mut body = with(hello(), json!({"prompt": "a", "tokens": [1], "max_tokens": 4}));
        for (name, value) in fields {
            body[name] = value;
        }
        check(body.to_string().as_bytes());
    }

    #[test]
    fn a_valid_request_with_flipped_bytes_is_answered_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let body = with(hello(), json!({"prompt": [[1, 2], [3]], "stop": ["é"], "n": 2,
            "logit_bias": {"3": 1.5}, "max_tokens": 4, "logprobs": true, "tokens": [1]}));
        let mut body = body.to_string().into_bytes();
        for (index, byte) in flips {
            let index = index.index(body.len());
            body[index] = byte;
        }
        if cuts {
            body.truncate(cut.index(body.len()));
        }
        check(&body);
    }
}
