use serde_json::{Value, json};

use super::support::*;

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn every_spelling_of_a_prompt_is_the_same_prompt() {
    let server = Server::start(|request, emissions| {
        let tokens = request.prompt.to_vec();
        for emission in speech(&request, &tokens) {
            drop(emissions.send(emission));
        }
    });
    let (one, two) = (tokens_of("one"), tokens_of("and two"));
    for (prompt, expected) in [
        (json!("one"), vec!["one"]),
        (json!(one), vec!["one"]),
        (json!(["one", "and two"]), vec!["one", "and two"]),
        (json!([one, two]), vec!["one", "and two"]),
    ] {
        let body = json!({"prompt": prompt, "max_tokens": 30});
        let reply = server.post(COMPLETIONS, &body).ok();
        assert_eq!(reply["object"], "text_completion");
        assert!(reply["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")));
        let texts: Vec<&Value> =
            reply["choices"].as_array().expect("choices").iter().map(|c| &c["text"]).collect();
        assert_eq!(texts, expected, "{prompt}");
    }
    let body = json!({"prompt": ["a", "b"], "n": 2, "max_tokens": 3});
    let reply = server.post(COMPLETIONS, &body).ok();
    let texts: Vec<_> = (0..4).map(|i| reply["choices"][i]["text"].clone()).collect();
    assert_eq!(texts, ["a", "a", "b", "b"]);
    assert_eq!(reply["usage"]["prompt_tokens"], 2);
    // The engine was asked for 16 tokens: OpenAI's default.
    let reply = server.post(COMPLETIONS, &json!({"prompt": "a".repeat(30)})).ok();
    assert_eq!(reply["usage"]["completion_tokens"], 16);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}

/// What lm-eval's `local-completions` sends and reads.
#[test]
fn echo_with_logprobs_scores_the_prompt() {
    let server = Server::start(saying("xyz"));
    let text = "Déjà vu";
    let ids = tokens_of(text);
    for (prompt, max_tokens) in [(json!([ids]), 1), (json!([text]), 1), (json!([ids]), 0)] {
        let body = json!({"prompt": prompt, "temperature": 0, "max_tokens": max_tokens,
                          "logprobs": 1, "seed": 1234, "echo": true});
        let reply = server.post(COMPLETIONS, &body).ok();
        let choice = &reply["choices"][0];
        let completion = if max_tokens == 1 { "x" } else { "" };
        assert_eq!(choice["text"], format!("{text}{completion}"));
        assert_eq!(reply["usage"]["completion_tokens"], max_tokens);
        let logprobs = &choice["logprobs"];
        for array in ["text_offset", "token_logprobs", "tokens", "top_logprobs"] {
            let length = logprobs[array].as_array().map(Vec::len);
            assert_eq!(length, Some(ids.len() + max_tokens), "{array}");
        }
        assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
        for (position, &id) in ids.iter().enumerate().skip(1) {
            let expected = f64::from(logprob(id, 0).logprob);
            assert_eq!(logprobs["token_logprobs"][position], expected);
            let top = logprobs["top_logprobs"][position].as_object().expect("an object");
            assert!(top.values().all(|value| value.as_f64().is_some_and(|v| v <= 0.0)));
        }
        // The offset is that of the first character a token completes.
        let offsets: Vec<u64> =
            serde_json::from_value(logprobs["text_offset"].clone()).expect("offsets");
        assert!(offsets.is_sorted() && offsets[0] == 0);
        if max_tokens == 1 {
            assert_eq!(offsets.last(), Some(&(text.chars().count() as u64)));
        }
    }
}

/// Offsets count in the text of the answer, which has the special tokens that the client wrote.
#[test]
fn offsets_count_special_tokens_that_stand_in_the_text() {
    let server = Server::start(saying("xyz"));
    let offsets = |prompt: Value, skip: bool| -> (String, Vec<usize>) {
        let body = json!({"prompt": prompt, "max_tokens": 1, "logprobs": 0, "echo": true,
                          "skip_special_tokens": skip});
        let reply = server.post(COMPLETIONS, &body).ok();
        let choice = &reply["choices"][0];
        let text = choice["text"].as_str().expect("text").to_owned();
        let offsets = choice["logprobs"]["text_offset"].clone();
        (text, serde_json::from_value(offsets).expect("offsets"))
    };
    let text = "a<|im_end|>b";
    let ids = tokens_of(text);
    assert_eq!(ids.len(), 3);
    for skip in [true, false] {
        let expected = (format!("{text}x"), vec![0, 1, 11, 12]);
        assert_eq!(offsets(json!(text), skip), expected, "written by the client");
    }
    assert_eq!(offsets(json!(ids), false), (format!("{text}x"), vec![0, 1, 11, 12]));
    assert_eq!(offsets(json!(ids), true), ("abx".to_owned(), vec![0, 1, 1, 2]));
}

/// **REQ-3**
#[test]
fn prompts_without_a_seed_are_draws_of_their_own() {
    // The answer is the seed.
    let server = Server::start(|request, emissions| {
        let tokens = tokens_of(&request.sampling.seed.to_string());
        for emission in speech(&request, &tokens) {
            drop(emissions.send(emission));
        }
    });
    let seeds = |more: Value| -> Vec<String> {
        let body = with(json!({"prompt": ["a", "a", "a"], "max_tokens": 100, "n": 2}), more);
        let reply = server.post(COMPLETIONS, &body).ok();
        let choices = reply["choices"].as_array().expect("choices");
        choices.iter().map(|choice| choice["text"].as_str().expect("text").to_owned()).collect()
    };
    let mut drawn = seeds(json!({}));
    assert_eq!(drawn.len(), 6);
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 6, "{drawn:?}");
    assert_eq!(
        seeds(json!({"seed": 7})),
        ["7", "8", "7", "8", "7", "8"],
        "what the client asks for"
    );
}

#[test]
fn logprobs_without_echo_cover_the_completion() {
    let server = Server::start(saying("xyz"));
    let body = json!({"prompt": "a", "logprobs": 2, "max_tokens": 2});
    let reply = server.post(COMPLETIONS, &body).ok();
    let logprobs = &reply["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["x", "y"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1]));
    assert_eq!(logprobs["top_logprobs"][0].as_object().map(serde_json::Map::len), Some(2));
}

#[test]
fn a_stream_says_what_the_whole_says() {
    let server = Server::start(murmuring("x yz"));
    let body = json!({"prompt": ["p", "pq"], "max_tokens": 30, "echo": true, "logprobs": 0,
                      "return_token_ids": true});
    let whole = server.post(COMPLETIONS, &body).ok();
    let events = server.events(COMPLETIONS, &with(body, json!({"stream": true})));
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    for index in 0..2 {
        let expected = &whole["choices"][index];
        let mut text = String::new();
        let mut tokens: Vec<Value> = Vec::new();
        let mut ids: Vec<Value> = Vec::new();
        let mut finish = Value::Null;
        let mut prompt_ids = Value::Null;
        for event in &events[..events.len() - 1] {
            let chunk: Value = serde_json::from_str(event).expect("JSON");
            let choice = &chunk["choices"][0];
            if choice["index"] != index {
                continue;
            }
            text.push_str(choice["text"].as_str().expect("text"));
            tokens.extend(choice["logprobs"]["tokens"].as_array().expect("tokens").clone());
            ids.extend(choice["token_ids"].as_array().expect("ids").clone());
            finish = choice["finish_reason"].clone();
            if prompt_ids.is_null() {
                prompt_ids = choice["prompt_token_ids"].clone();
            }
        }
        assert_eq!(expected["text"], text);
        assert_eq!(expected["logprobs"]["tokens"], json!(tokens));
        assert_eq!(expected["token_ids"], json!(ids));
        assert_eq!(expected["prompt_token_ids"], prompt_ids);
        assert_eq!((&expected["finish_reason"], finish), (&json!("stop"), json!("stop")));
    }
}

#[test]
fn dangling_bytes_are_one_replacement_character() {
    // The first three of the four bytes of an emoji.
    let tokens = tokens_of("🙂");
    assert_eq!(tokens.len(), 4);
    let server = Server::start(saying("a🙂"));
    let body = json!({"prompt": "p", "max_tokens": 4});
    assert_eq!(server.post(COMPLETIONS, &body).ok()["choices"][0]["text"], "a\u{FFFD}");
}
