use serde_json::json;

use super::support::*;

#[test]
fn tokenize_counts_what_a_prompt_costs() {
    let server = Server::start(mute);
    let ids = tokens_of("Hello, world!");
    let body = json!({"prompt": "Hello, world!", "return_token_strs": true});
    let reply = server.post("/tokenize", &body).ok();
    assert_eq!(reply["tokens"], json!(ids));
    assert_eq!((&reply["count"], &reply["max_model_len"]), (&json!(ids.len()), &json!(CONTEXT)));
    let strings: Vec<String> =
        serde_json::from_value(reply["token_strs"].clone()).expect("strings");
    assert_eq!(strings.concat(), "Hello, world!");
    let reply = server.post("/tokenize", &hello()).ok();
    assert_eq!(reply["tokens"], json!(tokens_of("[user|Hi][assistant|")));
    assert!(reply["token_strs"].is_null());
    let back = server.post("/detokenize", &json!({"tokens": ids})).ok();
    assert_eq!(back, json!({"prompt": "Hello, world!"}));
    let (status, param, message) = server.post("/detokenize", &json!({"tokens": [1, 288]})).error();
    assert_eq!((status, param.as_deref()), (400, Some("tokens[1]")));
    assert_eq!(message, "tokens[1]: got 288, must be between 0 and 287");
}

#[test]
fn tokenize_counts_nothing_and_more_than_the_context() {
    let server = Server::start(mute);
    for more in [json!({}), json!({"add_special_tokens": false})] {
        let reply = server.post("/tokenize", &with(json!({"prompt": ""}), more)).ok();
        assert_eq!((&reply["count"], &reply["tokens"]), (&json!(0), &json!([])));
    }
    let text = "lorem ".repeat(100_000);
    let reply = server.post("/tokenize", &json!({"prompt": text})).ok();
    assert_eq!(reply["count"], tokens_of(&text).len());
    let text = "lorem ".repeat(200_000);
    let reply = server.post("/tokenize", &json!({"prompt": text}));
    assert_eq!(reply.error().0, 400);
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    assert_eq!(server.post("/detokenize", &json!({"tokens": []})).ok(), json!({"prompt": ""}));
    for (body, param) in [
        (json!({"prompt": [1]}), "prompt"),
        (json!({"prompt": 1}), "prompt"),
        (json!({}), "prompt"),
    ] {
        let (status, found, _) = server.post("/tokenize", &body).error();
        assert_eq!((status, found.as_deref()), (400, Some(param)));
    }
    for body in [json!({}), json!({"tokens": "a"}), json!({"tokens": [[1]]})] {
        let (status, found, _) = server.post("/detokenize", &body).error();
        assert_eq!((status, found.as_deref()), (400, Some("tokens")));
    }
}

#[test]
fn models_are_listed_and_found_by_names_with_slashes() {
    let server = Server::with(|config| config.served_model_names.push("alias".into()), mute);
    let list = server.get("/v1/models").ok();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], MODEL);
    assert_eq!(list["data"][1]["id"], "alias");
    assert_eq!(list["data"][0]["max_model_len"], CONTEXT);
    assert_eq!(server.get(&format!("/v1/models/{MODEL}")).ok(), list["data"][0]);
    assert_eq!(server.get("/v1/models/org%2Ftiny").ok(), list["data"][0]);
    assert_eq!(server.get("/v1/models/%ff").error().0, 400);
    let (status, param, message) = server.get("/v1/models/none").error();
    assert_eq!((status, param.as_deref()), (404, Some("model")));
    assert!(message.contains("none") && message.contains(MODEL), "{message}");
}

#[test]
fn probes_follow_the_front_door() {
    let server = Server::start(mute);
    for path in ["/health", "/readyz", "/livez"] {
        assert_eq!(server.get(path).status, 200);
    }
    let verbose = server.get("/readyz?verbose").ok();
    assert_eq!(verbose["checks"], json!({ "replica": "ok", "draining": "no" }));
    let replica = json!({
        "id": 0, "state": "serving", "epoch": 1, "reason": null, "seconds_without_progress": null,
    });
    assert_eq!(verbose["replicas"], json!([replica]));
    assert!(server.get("/version").ok()["version"].is_string());
    server.door.start_drain();
    assert_eq!(server.get("/livez").status, 200);
    let (status, _, message) = server.get("/health").error();
    assert_eq!(status, 503);
    assert!(message.contains("shutting down"), "{message}");
    let reply = server.get("/readyz?verbose");
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.json()["missing"], "the server is shutting down");
    assert_eq!(reply.json()["checks"]["draining"], "yes");
    let reply = server.post("/v1/chat/completions", &hello());
    assert_eq!((reply.error().0, reply.header("retry-after")), (503, Some("1")));
}
