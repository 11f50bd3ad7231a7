use std::io::Write;

use playhouse_gateway::ApiKey;
use serde_json::json;

use super::support::*;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[test]
fn a_body_that_is_not_one_object_is_refused() {
    let server = Server::start(mute);
    let deep = [&b"{\"messages\":"[..], &[b'['; 5000], &[b']'; 5000], b"}"].concat();
    for (body, part) in [
        (&b""[..], "EOF"),
        (b"{", "EOF"),
        (b"[1]", "object"),
        (b"{\"n\":1,\"n\":2}", "\"n\" appears twice"),
        (b"{\"user\":\"\\ud800\"}", "hex escape"),
        (b"{\"user\":\"\xc3\x28\"}", "unicode"),
        (b"{\"temperature\":NaN}", "expected"),
        (b"{\"temperature\":1e400}", "out of range"),
        (&deep, "recursion limit"),
    ] {
        for path in [CHAT, COMPLETIONS, "/tokenize", "/detokenize"] {
            let (status, _, message) = server.post_bytes(path, body).error();
            assert_eq!(status, 400, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn a_bad_field_is_named_with_its_value_and_range() {
    let server = Server::start(mute);
    for (more, param, message) in [
        (json!({"temperature": 1e39}), "temperature", "got 1e+39, must be between 0 and 2"),
        (json!({"temperature": 3}), "temperature", "got 3, must be between 0 and 2"),
        (json!({"temperature": -0.5}), "temperature", "got -0.5, must be between 0 and 2"),
        (json!({"temperature": "NaN"}), "temperature", "must be a number, got a string"),
        (json!({"top_p": 0}), "top_p", "got 0, must be in (0, 1]"),
        (json!({"top_p": 1.5}), "top_p", "got 1.5, must be in (0, 1]"),
        (json!({"top_k": -5}), "top_k", "got -5, must be between -1"),
        (json!({"top_k": 1.5}), "top_k", "got 1.5, must be an integer"),
        (json!({"min_p": 2}), "min_p", "got 2, must be between 0 and 1"),
        (json!({"presence_penalty": 2.1}), "presence_penalty", "got 2.1, must be between -2 and 2"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "got -3, must be"),
        (json!({"repetition_penalty": 1e39}), "repetition_penalty", "got 1e+39, must be finite"),
        (json!({"logit_bias": {"1": -1e39}}), "logit_bias", "must be between -100 and 100"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "got 0, must be"),
        (json!({"n": 0}), "n", "got 0, must be between 1 and 128"),
        (json!({"n": 1_000_000_000}), "n", "must be between 1 and 128"),
        (json!({"n": 1e300}), "n", "must be between 1 and 128"),
        (json!({"max_tokens": -1}), "max_tokens", "got -1, must be between 1"),
        (json!({"max_tokens": 0}), "max_tokens", "got 0, must be between 1"),
        (json!({"max_completion_tokens": 1.5}), "max_completion_tokens", "must be an integer"),
        (
            json!({"min_tokens": 9, "max_tokens": 8}),
            "min_tokens",
            "got 9, must be at most max_tokens (8)",
        ),
        (json!({"top_logprobs": 3}), "top_logprobs", "logprobs is true"),
        (
            json!({"logprobs": true, "top_logprobs": 1_000_000}),
            "top_logprobs",
            "must be between 0 and 20",
        ),
        (json!({"logprobs": 3}), "logprobs", "must be a boolean, got a number (3)"),
        (json!({"logit_bias": {"288": 1}}), "logit_bias", "got 288"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", "\"x\" must be a token id"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias", "got 101, must be between -100 and 100"),
        (json!({"logit_bias": {"1": "a"}}), "logit_bias.1", "must be a number"),
        (json!({"logit_bias": {"1": 1, "01": 2}}), "logit_bias", "token 1 appears twice"),
        (json!({"seed": 1.5}), "seed", "got 1.5, must be an integer"),
        (json!({"stop": ""}), "stop", "must not be empty"),
        (json!({"stop": vec!["a"; 17]}), "stop", "got 17 strings, must be at most 16"),
        (json!({"stop": ["a", 3]}), "stop[1]", "must be a string"),
        (json!({"stop_token_ids": [288]}), "stop_token_ids[0]", "must be between 0 and 287"),
        (json!({"stream": "yes"}), "stream", "must be a boolean"),
        (json!({"stream_options": {}}), "stream_options", "only allowed when stream is true"),
        (json!({"stream": true, "stream_options": 3}), "stream_options", "must be an object"),
        (json!({"cache_salt": ""}), "cache_salt", "must not be empty"),
        (json!({"messages": []}), "messages", "must not be empty"),
        (json!({"messages": null}), "messages", "is required"),
        (json!({"messages": "Hi"}), "messages", "must be an array"),
        (
            json!({"messages": [{"role": "user", "content": "a"}, 3]}),
            "messages[1]",
            "must be an object",
        ),
        (json!({"messages": [{"role": "alien", "content": "a"}]}), "messages[0].role", "\"alien\""),
        (json!({"messages": [{"content": "a"}]}), "messages[0].role", "is required"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "is required"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].type",
            "text only",
        ),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), "messages", "No tools, please"),
        (
            json!({"chat_template_kwargs": {"messages": 1}}),
            "chat_template_kwargs.messages",
            "reserved",
        ),
        (json!({"chat_template_kwargs": {"a": [1]}}), "chat_template_kwargs.a", "must be"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "cannot be true together",
        ),
    ] {
        let reply = server.post(CHAT, &with(hello(), more.clone()));
        let (status, found, text) = reply.error();
        assert_eq!((status, found.as_deref()), (400, Some(param)), "{more}: {text}");
        assert!(text.contains(message), "{more}: {text}");
    }
}

#[test]
fn known_fields_that_are_not_supported_are_refused_by_name() {
    let server = Server::start(mute);
    let function = json!({"type": "function", "function": {"name": "f"}});
    for (field, value) in [
        ("tools", json!([function])),
        ("tool_choice", json!("auto")),
        ("response_format", json!({"type": "json_object"})),
        ("functions", json!([{}])),
        ("structured_outputs", json!({})),
        ("guided_regex", json!("a")),
        ("guided_json", json!({})),
        ("suffix", json!("a")),
        ("use_beam_search", json!(true)),
        ("prompt_embeds", json!("a")),
        ("chat_template", json!("a")),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({})),
        ("regex", json!("[0-9]+")),
        ("ebnf", json!("root ::= \"a\"")),
        ("grammar", json!("root ::= \"a\"")),
        ("json_schema", json!({"type": "object"})),
        ("stop_regex", json!("[.!]")),
        ("typical_p", json!(0.5)),
        ("mirostat", json!(1)),
        ("dry_multiplier", json!(0.8)),
        ("xtc_probability", json!(0.1)),
        ("lora_path", json!("adapter")),
    ] {
        let body = with(hello(), json!({"prompt": "a", field: value}));
        for path in [CHAT, COMPLETIONS] {
            let reply = server.post(path, &body);
            assert_eq!(reply.json()["error"]["code"], "unsupported_parameter");
            let (status, param, message) = reply.error();
            assert_eq!((status, param.as_deref()), (400, Some(field)));
            assert!(message.contains("not supported by this server"), "{message}");
        }
    }
    let (_, param, _) = server.post(COMPLETIONS, &json!({"prompt": "a", "best_of": 2})).error();
    assert_eq!(param.as_deref(), Some("best_of"));
    for (field, value) in [("best_of", json!(3)), ("echo", json!(true))] {
        let (status, param, _) = server.post(CHAT, &with(hello(), json!({field: value}))).error();
        assert_eq!((status, param.as_deref()), (400, Some(field)));
    }
    let (_, param, _) =
        server.post("/tokenize", &with(hello(), json!({"tools": [function]}))).error();
    assert_eq!(param.as_deref(), Some("tools"));
}

#[test]
fn bad_prompts_are_refused() {
    let server = Server::start(mute);
    for (prompt, param, message) in [
        (json!(null), "prompt", "is required"),
        (json!(""), "prompt", "must not be empty"),
        (json!([]), "prompt", "must not be empty"),
        (json!([[]]), "prompt[0]", "must not be empty"),
        (json!(["a", ""]), "prompt[1]", "must not be empty"),
        (json!([1, 288]), "prompt[1]", "got 288, must be between 0 and 287"),
        (json!([[1], [-1]]), "prompt[1][0]", "got -1, must be between 0 and 287"),
        (json!(["a", 1]), "prompt[1]", "must be a string or a list of token ids"),
        (json!([1, "a"]), "prompt[1]", "must be an integer"),
        (json!({"a": 1}), "prompt", "must be a string or a list of token ids"),
        (json!(vec!["a"; 2000]), "prompt", "has 2000 prompts, must have at most 1024"),
    ] {
        let (status, found, text) = server.post(COMPLETIONS, &json!({"prompt": prompt})).error();
        assert_eq!((status, found.as_deref()), (400, Some(param)), "{text}");
        assert!(text.contains(message), "{text}");
    }
    let (_, found, _) = server.post(COMPLETIONS, &json!({"prompt": "a", "logprobs": 21})).error();
    assert_eq!(found.as_deref(), Some("logprobs"));
}

/// Returns the message of a refusal that clients recognise as a context that is too short.
fn context_error(reply: &Reply) -> String {
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded", "{}", reply.text());
    let (status, _, message) = reply.error();
    assert_eq!(status, 400);
    // What LiteLLM looks for, in lower case.
    assert!(
        message.to_lowercase().contains("this model's maximum context length is 256"),
        "{message}"
    );
    message
}

#[test]
fn a_request_longer_than_the_context_is_told_the_numbers() {
    let server = Server::start(mute);
    let (long, whole) = ("a".repeat(CONTEXT + 44), "a".repeat(CONTEXT));
    assert_eq!((tokens_of(&long).len(), tokens_of(&whole).len()), (300, 256));
    let user = |text: &str| json!({"messages": [{"role": "user", "content": text}]});
    for (path, body, number) in [
        (COMPLETIONS, json!({"prompt": long}), "300 tokens"),
        (COMPLETIONS, json!({"prompt": ["a", long]}), "300 tokens"),
        (COMPLETIONS, json!({"prompt": vec![1; 300]}), "300 tokens"),
        (COMPLETIONS, json!({"prompt": [[1], vec![1; 300]]}), "300 tokens"),
        (COMPLETIONS, json!({"prompt": whole}), "256 tokens"),
        (CHAT, user(&long), "tokens"),
        // More bytes than 256 tokens can have.
        (COMPLETIONS, json!({"prompt": "lorem ".repeat(20_000)}), "120000 bytes"),
        (CHAT, user(&"lorem ".repeat(20_000)), "120000 bytes"),
    ] {
        let message = context_error(&server.post(path, &body));
        assert!(message.contains(number) && message.contains("--max-model-len"), "{message}");
        // What LangChain and coding assistants look for.
        for words in ["prompt is too long", "exceeds the context window"] {
            assert!(message.contains(words), "{message}");
        }
    }
}

/// Two contracts of OpenAI's: the prompt and `max_tokens` of a completion fit the context together, and the
/// limit of a chat is an upper bound.
#[test]
fn max_tokens_is_room_for_a_completion_and_a_bound_for_a_chat() {
    let (sender, received) = std::sync::mpsc::channel();
    let server = Server::start(move |request, emissions| {
        let room = (request.prompt.len(), request.sampling.max_tokens as usize);
        sender.send(room).expect("the test waits");
        saying("ok")(request, emissions);
    });
    let body = json!({"prompt": "aaaa", "max_tokens": 253});
    let message = context_error(&server.post(COMPLETIONS, &body));
    assert!(["4 tokens", "253", "257"].iter().all(|part| message.contains(part)), "{message}");
    server.post(COMPLETIONS, &json!({"prompt": "aaaa", "max_tokens": 252})).ok();
    assert_eq!(received.recv().expect("a request"), (4, 252));
    for field in ["max_tokens", "max_completion_tokens"] {
        server.post(CHAT, &with(hello(), json!({field: 65_536}))).ok();
        let (prompt, most) = received.recv().expect("a request");
        assert_eq!(prompt + most, CONTEXT, "cut to the rest of the context");
    }
    let body = with(hello(), json!({"min_tokens": 250, "max_tokens": 1000}));
    let message = context_error(&server.post(CHAT, &body));
    assert!(message.contains("min_tokens is 250"), "{message}");
}

#[test]
fn what_can_never_fit_is_400_and_names_the_limit() {
    let server = Server::start(mute);
    // More choices than the front door takes, whatever else is there.
    for (path, body) in [
        (CHAT, with(hello(), json!({"n": 9}))),
        (COMPLETIONS, json!({"prompt": vec!["a"; 9]})),
        (COMPLETIONS, json!({"prompt": ["a", "b", "c"], "n": 3, "stream": true})),
    ] {
        let reply = server.post(path, &body);
        let (status, _, message) = reply.error();
        assert_eq!((status, reply.header("retry-after")), (400, None));
        assert_eq!(reply.json()["error"]["code"], "request_too_large");
        for part in ["9 requests", "at most 8", "--max-queued-requests"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains(r#"reason="never_fits",key=""} 3"#), "{metrics}");
}

#[test]
fn fields_without_effect_are_named_in_the_answer() {
    let server = Server::start(saying("ok"));
    for (path, body) in [
        (CHAT, hello()),
        (CHAT, with(hello(), json!({"stream": true}))),
        (COMPLETIONS, json!({"prompt": "a"})),
        ("/tokenize", json!({"prompt": "a"})),
        ("/detokenize", json!({"tokens": [1]})),
    ] {
        let known = with(body.clone(), json!({"user": "u", "metadata": {}, "regex": null}));
        assert_eq!(server.post(path, &known).header("x-ignored-fields"), None, "{path}");
        let odd = with(body, json!({"flavour": {"a": [1]}, "user": "u", "b\nc": 1}));
        let reply = server.post(path, &odd);
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-ignored-fields"), Some(r"flavour, b\u{a}c"), "{path}");
    }
}

#[test]
fn paths_methods_and_models_that_do_not_exist() {
    let server = Server::start(mute);
    let (status, _, message) = server.get("/v2/nothing").error();
    assert!(status == 404 && message.contains("/v2/nothing"), "{message}");
    let reply = server.get(CHAT);
    assert_eq!((reply.error().0, reply.header("allow")), (405, Some("POST")));
    let (status, param, message) =
        server.post(CHAT, &with(hello(), json!({"model": "gpt"}))).error();
    assert_eq!((status, param.as_deref()), (404, Some("model")));
    assert!(message.contains("gpt") && message.contains(MODEL), "{message}");
}

#[test]
fn overload_is_refused_with_the_time_to_wait() {
    let server = Server::start(mute);
    let mut held = server.connect();
    held.write_all(&post(CHAT, hello().to_string().as_bytes())).expect("open");
    until("it runs", || server.door.in_flight() == 1);
    // More choices than the front door has room for: those submitted before the refusal are cancelled.
    let reply = server.post(CHAT, &with(hello(), json!({"n": 8})));
    assert_eq!(reply.error().0, 503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("retry-after-ms"), Some("1000"));
    until("nothing else is left running", || server.door.in_flight() == 1);
}

#[test]
fn a_key_is_asked_everywhere_but_at_the_probes() {
    let server = Server::with(|config| config.api_keys = vec![ApiKey::new("all", "secret")], mute);
    let get = |path: &str, header: &str| {
        server.raw(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{header}\r\n").as_bytes())
    };
    for path in ["/livez", "/readyz", "/health", "/version"] {
        assert_eq!(get(path, "").status, 200);
    }
    for path in ["/v1/models", "/metrics", "/nothing", CHAT] {
        for header in [
            "",
            "authorization: Bearer wrong\r\n",
            "authorization: secret\r\n",
            "x-api-key: \r\n",
            "authorization: Bearer secret2\r\n",
        ] {
            let reply = get(path, header);
            assert_eq!(reply.error().0, 401, "{path} {header}");
            assert!(reply.header("x-request-id").is_some());
        }
    }
    for header in [
        "authorization: Bearer secret\r\n",
        "authorization: bearer secret\r\n",
        "x-api-key: secret\r\n",
    ] {
        assert_eq!(get("/v1/models", header).status, 200);
    }
}

#[test]
fn request_ids_are_repeated_if_they_are_sane() {
    let server = Server::start(mute);
    let id = |given: &[u8]| {
        let request = [b"GET /livez HTTP/1.1\r\nx-request-id: ", given, b"\r\n\r\n"].concat();
        server.raw(&request).header("x-request-id").expect("always there").to_owned()
    };
    assert_eq!(id(b"abc-123"), "abc-123");
    for bad in [&b"a b"[..], b"\xff", &[b'a'; 129], b""] {
        assert!(id(bad).starts_with("req-"), "{bad:?}");
    }
    assert_ne!(id(b""), id(b""));
}

#[test]
fn a_panic_is_a_500_and_the_server_lives() {
    let server = Server::start(|_, _| panic!("the engine's front end broke"));
    let reply = server.post(CHAT, &hello());
    let (status, _, message) = reply.error();
    assert_eq!(status, 500);
    let id = reply.header("x-request-id").expect("an id");
    assert!(message.contains(id) && !message.contains("broke"), "{message}");
    assert_eq!(server.get("/livez").status, 200);
}

#[test]
fn unusable_configurations_are_refused() {
    use playhouse_gateway::{Gateway, GatewayConfig, TemplateError};
    let refused = |change: fn(&mut GatewayConfig)| {
        let mut config = GatewayConfig::new(MODEL);
        change(&mut config);
        let door = playhouse_cluster::FrontDoor::scripted(CONTEXT, VOCAB, 1, mute);
        let metrics = std::sync::Arc::new(playhouse_telemetry::Metrics::new(MODEL));
        let gateway = Gateway::new(config, door, tokenizer(), Err(TemplateError::Missing), metrics);
        gateway.err().expect("must be refused").to_string()
    };
    assert!(refused(|c| c.served_model_names.clear()).contains("served_model_names"));
    let keys = |keys: [(&str, &str); 2]| keys.map(|(name, key)| ApiKey::new(name, key)).to_vec();
    assert!(refused(|c| c.api_keys = vec![ApiKey::new("mine", "")]).contains("mine"));
    for twice in [[("a", "1"), ("a", "2")], [("a", "1"), ("b", "1")]] {
        let door = playhouse_cluster::FrontDoor::scripted(CONTEXT, VOCAB, 1, mute);
        let metrics = std::sync::Arc::new(playhouse_telemetry::Metrics::new(MODEL));
        let config = GatewayConfig { api_keys: keys(twice), ..GatewayConfig::new(MODEL) };
        let error = Gateway::new(config, door, tokenizer(), Err(TemplateError::Missing), metrics)
            .err()
            .expect("refused");
        assert!(error.to_string().contains("same"), "{error}");
    }
    assert!(refused(|c| c.sampling.top_p = f32::NAN).contains("top_p"));
    assert!(refused(|c| c.eos_tokens = vec![288]).contains("288"));
}
