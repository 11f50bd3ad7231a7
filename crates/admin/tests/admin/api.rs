//! The guarantees of the crate over real sockets, with a script in the place of a cluster.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use playhouse_admin::{
    AdminConfig, BODY_BYTES_MAX, DEADLINE_SECONDS_MAX, KEY_BYTES_MAX, PARALLEL_MAX,
    TTL_SECONDS_MAX, serve, view,
};
use playhouse_cluster::{NoToken, OperationId, Phase};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::script::{self, CreateToken, Script, TOKEN, ask, cluster, error, raw};

/// Starts a server; it ends with the sender.
async fn start(create_token: CreateToken) -> (std::net::SocketAddr, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let config = AdminConfig { token: TOKEN.to_owned(), audit: None, tls: None };
    let script = Script { create_token, ..Script::new() };
    tokio::spawn(serve(listener, config, script, async { drop(stopped.await) }));
    (address, stop)
}

fn granted(ttl: Duration) -> Result<String, NoToken> {
    Ok(format!("token for {} s", ttl.as_secs()))
}

#[tokio::test]
async fn the_cluster_is_told_whole() {
    let (address, _stop) = start(granted).await;
    let (status, body) = ask(address, "GET /admin/v1/cluster", "").await;
    assert_eq!(status, 200);
    assert_eq!(
        body["replicas"][1]["stages"][0]["shards"][1],
        json!({
            "state": "loading", "loading": { "bytes": 1, "of_bytes": 4 },
            "whereabouts": { "node": "a\u{1b}[2J", "device": "cpu:0", "pid": 7 },
            "layers": { "start": 0, "end": 2 }, "query_heads": 4, "kv_heads": 2,
            "weight_bytes": 1u64 << 40,
        })
    );
    assert_eq!(body["replicas"][3]["reason"], "it \"died\"\n");
    let read: view::Cluster = serde_json::from_value(body).expect("the types read what they wrote");
    let operation = read.operation.clone();
    assert_eq!(operation.as_ref().map(|operation| operation.id), Some(1));
    assert_eq!(read, view::Cluster { operation, ..cluster().into() });
    assert_eq!(read.serving(), 1);
}

/// ADM-1
#[tokio::test]
async fn every_path_but_livez_asks_for_the_token() {
    let (address, _stop) = start(granted).await;
    for path in ["cluster", "tokens", "openapi.json", "livez/", "", "../admin/v1/cluster"] {
        for given in [
            "",
            "authorization: Bearer\r\n",
            "authorization: Bearer \r\n",
            "authorization: Bearer correct hors\r\n",
            "authorization: Bearer correct horse battery\r\n",
            "authorization: Basic correct horse\r\n",
            "authorization: correct horse\r\n",
            "x-api-key: correct horse\r\n",
        ] {
            let request =
                format!("GET /admin/v1/{path} HTTP/1.1\r\nhost: localhost\r\n{given}\r\n");
            let (status, body) = raw(address, request.as_bytes()).await;
            let body = serde_json::from_str(&body).expect("JSON");
            assert_eq!((status, error(body).code.as_str()), (401, "unauthorized"), "{request}");
        }
    }
    let (status, body) =
        raw(address, b"GET /admin/v1/livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!((status, body.as_str()), (200, "{\"status\":\"alive\"}"));
}

/// ADM-7
#[tokio::test]
async fn no_page_of_another_site_is_answered_even_with_the_token() {
    let (address, _stop) = start(granted).await;
    let ask = async |headers: &str| {
        let token = "authorization: Bearer correct horse\r\n";
        let request = format!("GET /admin/v1/cluster HTTP/1.1\r\n{headers}{token}\r\n");
        raw(address, request.as_bytes()).await
    };
    for (headers, code) in [
        ("host: localhost\r\norigin: https://evil.example\r\n", "foreign_origin"),
        ("host: localhost:1\r\norigin: http://localhost:5173\r\n", "foreign_origin"),
        ("host: localhost\r\norigin: null\r\n", "foreign_origin"),
        ("host: evil.example:1\r\norigin: http://evil.example:1\r\n", "foreign_host"),
        ("host: evil.example\r\n", "foreign_host"),
    ] {
        let (status, body) = ask(headers).await;
        let body = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, error(body).code.as_str()), (403, code), "{headers}");
    }
    for headers in [
        "host: localhost:1\r\norigin: http://localhost:1\r\n",
        "host: 127.0.0.1\r\n",
        "host: [::1]:8001\r\n",
        "host: 192.0.2.7:8001\r\n",
        "",
    ] {
        assert_eq!(ask(headers).await.0, 200, "{headers}");
    }
    let (status, _) =
        raw(address, b"GET /admin/v1/livez HTTP/1.1\r\nhost: probe.example\r\n\r\n").await;
    assert_eq!(status, 200, "probes call it as they like");
}

#[tokio::test]
async fn an_empty_configured_token_lets_nobody_in() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let config = AdminConfig { token: String::new(), audit: None, tls: None };
    tokio::spawn(serve(listener, config, Script::new(), std::future::pending()));
    let request = b"GET /admin/v1/cluster HTTP/1.1\r\nauthorization: Bearer \r\n\r\n";
    assert_eq!(raw(address, request).await.0, 401);
}

/// ADM-2
#[tokio::test]
async fn wrong_paths_and_methods_are_refused_in_the_one_shape() {
    let (address, _stop) = start(granted).await;
    for (line, expected, code) in [
        ("GET /", 404, "not_found"),
        ("GET /admin/v1/cluster/", 404, "not_found"),
        ("GET /v1/models", 404, "not_found"),
        ("POST /admin/v1/cluster", 405, "method_not_allowed"),
        ("GET /admin/v1/tokens", 405, "method_not_allowed"),
        ("DELETE /admin/v1/livez", 405, "method_not_allowed"),
        ("PUT /admin/v1/deployment", 405, "method_not_allowed"),
        ("GET /admin/v1/replicas", 404, "not_found"),
        ("GET /admin/v1/nodes/a/drain", 405, "method_not_allowed"),
        ("GET /admin/v1/operations/1%ff", 404, "not_found"),
    ] {
        let (status, body) = ask(address, line, "").await;
        assert_eq!((status, error(body).code.as_str()), (expected, code), "{line}");
    }
}

#[tokio::test]
async fn a_token_is_made_for_the_time_asked_for() {
    let (address, _stop) = start(granted).await;
    for seconds in [1, 3600, TTL_SECONDS_MAX] {
        let body = json!({ "ttl_seconds": seconds }).to_string();
        let (status, token) = ask(address, "POST /admin/v1/tokens", &body).await;
        let text = format!("token for {seconds} s");
        assert_eq!(status, 200);
        assert_eq!(token, json!({ "token": text, "expires_in_seconds": seconds }));
    }
}

#[tokio::test]
async fn wrong_bodies_are_400_and_name_the_field() {
    let (address, _stop) = start(|_| panic!("nothing asks for a token")).await;
    for seconds in [0, -1, TTL_SECONDS_MAX + 1, i64::MIN, i64::MAX] {
        let body = json!({ "ttl_seconds": seconds }).to_string();
        let (status, body) = ask(address, "POST /admin/v1/tokens", &body).await;
        let error = error(body);
        assert_eq!((status, error.code.as_str()), (400, "invalid_field"));
        assert_eq!(error.field.as_deref(), Some("ttl_seconds"));
        assert!(error.message.contains(&seconds.to_string()), "{}", error.message);
    }
    let deep = "[".repeat(BODY_BYTES_MAX);
    for (body, says) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "invalid length"),
        ("null", "invalid type"),
        ("{}", "missing field `ttl_seconds`"),
        (r#"{"ttl_seconds": "1"}"#, "invalid type"),
        (r#"{"ttl_seconds": 1.5}"#, "invalid type"),
        (r#"{"ttl_seconds": 1e400}"#, "number out of range"),
        (r#"{"ttl_seconds": 99999999999999999999}"#, "invalid type"),
        (r#"{"ttl_seconds": 1, "ttl": 2}"#, "unknown field `ttl`"),
        (r#"{"ttl_seconds": 1, "ttl_seconds": 2}"#, "duplicate field"),
        (r#"{"ttl_seconds": 1} x"#, "trailing characters"),
        (&deep, "invalid"),
    ] {
        let (status, body) = ask(address, "POST /admin/v1/tokens", body).await;
        let error = error(body);
        assert_eq!((status, error.code.as_str()), (400, "invalid_body"));
        assert!(error.message.contains(says), "{says:?} not in {:?}", error.message);
    }
}

/// ADM-3
#[tokio::test]
async fn a_huge_body_is_413_before_it_is_sent() {
    let (address, _stop) = start(granted).await;
    for length in [BODY_BYTES_MAX + 1, 1 << 40] {
        let request = format!(
            "POST /admin/v1/tokens HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\n\
             content-length: {length}\r\n\r\n"
        );
        let (status, body) = raw(address, request.as_bytes()).await;
        let body = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, error(body).code.as_str()), (413, "body_too_large"));
    }
}

#[tokio::test]
async fn no_token_is_503_with_the_reason() {
    for (create_token, code, says) in [
        ((|_| Err(NoToken::NotListening)) as CreateToken, "not_listening", "--cluster-listen"),
        (|_| Err(NoToken::Failed("no entropy".into())), "token_failed", "no entropy"),
    ] {
        let (address, _stop) = start(create_token).await;
        let (status, body) = ask(address, "POST /admin/v1/tokens", r#"{"ttl_seconds":1}"#).await;
        let error = error(body);
        assert_eq!((status, error.code.as_str()), (503, code));
        assert!(error.message.contains(says), "{}", error.message);
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_get_an_error_and_end_the_connection_only() {
    let (address, _stop) = start(granted).await;
    let long = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(64 << 10));
    for bytes in [&b"nonsense\r\n\r\n"[..], b"\x16\x03\x01\0\xa5\r\n\r\n", long.as_bytes()] {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        drop(stream.write_all(bytes).await);
        let mut answer = Vec::new();
        // Bytes that are not read may reset the connection before the answer is seen; few bytes cannot.
        if stream.read_to_end(&mut answer).await.is_err() || answer.is_empty() {
            assert!(bytes.len() > 16 << 10, "an answer");
            continue;
        }
        let answer = String::from_utf8(answer).expect("UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 4"), "{head}");
        let error = error(serde_json::from_str(body).expect("JSON"));
        assert!(["malformed_http", "headers_too_large"].contains(&&*error.code), "{error:?}");
    }
    assert_eq!(ask(address, "GET /admin/v1/livez", "").await.0, 200);
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let (address, stop) = start(granted).await;
    let mut silent = TcpStream::connect(address).await.expect("it listens");
    assert_eq!(ask(address, "GET /admin/v1/livez", "").await.0, 200);
    drop(stop);
    // Neither the listener nor a silent client keeps it.
    drop(silent.read_to_end(&mut Vec::new()).await);
    assert!(TcpStream::connect(address).await.is_err());
}

/// Over HTTP/2, what comes along with the first request is answered, and then the client is told to leave.
#[tokio::test]
async fn it_speaks_http2() {
    let script = Script::new();
    let stream = TcpStream::connect(script.serve(None).await).await.expect("it listens");
    let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = connected.expect("it speaks HTTP/2");
    let left = tokio::spawn(connection);
    let ask = |path: &str, token: &str, accept: &str| {
        let asked = Request::get(format!("http://localhost/admin/v1/{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("accept", accept)
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let mut sender = sender.clone();
        async move { sender.send_request(asked).await.expect("answered").into_parts() }
    };
    let text = |body: Incoming| async {
        let body = body.collect().await.expect("whole").to_bytes();
        String::from_utf8(body.to_vec()).expect("UTF-8")
    };
    let (cluster, refused, followed) = tokio::join!(
        ask("cluster", TOKEN, "*/*"),
        ask("cluster", "wrong", "*/*"),
        ask("operations/1", TOKEN, "text/event-stream"),
    );
    let statuses = [&cluster, &refused, &followed].map(|(head, _)| head.status.as_u16());
    assert_eq!(statuses, [200, 401, 200]);
    let read: view::Cluster = serde_json::from_str(&text(cluster.1).await).expect("as ever");
    assert_eq!(read.serving(), 1);
    let refused = serde_json::from_str(&text(refused.1).await).expect("JSON");
    assert_eq!(error(refused).code, "unauthorized");
    script.ledger.end(OperationId(1), Phase::Done);
    let events = text(followed.1).await;
    assert!(events.contains("event: step") && events.contains("event: end"), "{events}");
    left.await.expect("no panic").expect("told to leave");
}

/// ADM-4
#[tokio::test]
async fn the_description_is_that_of_the_answers() {
    let (address, _stop) = start(granted).await;
    let (_, document) = ask(address, "GET /admin/v1/openapi.json", "").await;
    let mut described = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            described.push(format!("{method} {path}"));
            let body = operation.get("requestBody").map_or(String::new(), |body| {
                let request = match path.ends_with("tokens") {
                    true => json!({ "ttl_seconds": 60 }),
                    false => json!({ "pipeline_parallel": 2, "pipeline_partition": [1, 2] }),
                };
                check(&document, schema(body), &request).expect("our request is as described");
                request.to_string()
            });
            let path = path.replace("{id}", "1").replace("{name}", "node");
            let line = format!("{} {path}", method.to_uppercase());
            let mut lines = vec![line.clone()];
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            if parameters.clone().any(|it| it["$ref"] == "#/components/parameters/dry_run") {
                lines.push(format!("{line}?dry_run=true"));
            }
            for line in lines {
                let (status, answer) = ask(address, &line, &body).await;
                let answered = &operation["responses"][status.to_string()];
                check(&document, schema(answered), &answer)
                    .unwrap_or_else(|why| panic!("{line}: {status}: {why}"));
            }
            let open = operation["security"] == json!([]);
            let (refused, answer) =
                raw(address, format!("{line} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
                    .await;
            assert_eq!(open, refused != 401, "{line}");
            if !open {
                let answer = serde_json::from_str(&answer).expect("JSON");
                check(&document, schema(&operation["responses"]["401"]), &answer).expect("as told");
            }
        }
    }
    described.sort();
    let known = [
        "delete /admin/v1/nodes/{name}",
        "delete /admin/v1/nodes/{name}/drain",
        "delete /admin/v1/operations/{id}",
        "delete /admin/v1/replicas/{id}",
        "get /admin/v1/cluster",
        "get /admin/v1/deployment",
        "get /admin/v1/livez",
        "get /admin/v1/openapi.json",
        "get /admin/v1/operations",
        "get /admin/v1/operations/{id}",
        "patch /admin/v1/deployment",
        "post /admin/v1/nodes/{name}/drain",
        "post /admin/v1/nodes/{name}/revoke",
        "post /admin/v1/replicas/{id}/drain",
        "post /admin/v1/replicas/{id}/restart",
        "post /admin/v1/tokens",
    ];
    assert_eq!(described, known);
    let bounds = &document["components"]["schemas"]["TokenRequest"]["properties"]["ttl_seconds"];
    assert_eq!(bounds["maximum"], TTL_SECONDS_MAX);
    let bounds = &document["components"]["schemas"]["DeploymentPatch"]["properties"];
    assert_eq!(bounds["data_parallel"]["maximum"], PARALLEL_MAX);
    let parameters = &document["components"]["parameters"];
    assert_eq!(parameters["deadline"]["schema"]["maximum"], DEADLINE_SECONDS_MAX);
    assert_eq!(parameters["key"]["schema"]["maxLength"], KEY_BYTES_MAX);
    let body = json!({ "$ref": "#/components/schemas/ErrorBody" });
    let (_, refused) = ask(address, "POST /admin/v1/tokens", r#"{"ttl_seconds":0}"#).await;
    check(&document, &body, &refused).expect("with a field");
    let (_, refused) = ask(address, "PATCH /admin/v1/deployment", r#"{"data_parallel":9}"#).await;
    check(&document, &body, &refused).expect("with an operation");
    for change in script::changes() {
        let change = serde_json::to_value(view::Change::from(change)).expect("JSON");
        check(&document, &json!({ "$ref": "#/components/schemas/Change" }), &change)
            .unwrap_or_else(|why| panic!("{why}"));
    }
}

fn schema(of: &Value) -> &Value {
    &of["content"]["application/json"]["schema"]
}

/// Whether `value` is what `schema` says, in as much of JSON Schema as the document uses.
fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let found = document.pointer(&reference[1..]).ok_or(format!("no {reference}"))?;
        return check(document, found, value);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &&Value| check(document, choice, value).is_ok();
        return match choices.iter().filter(fits).count() {
            1 => Ok(()),
            fitting => Err(format!("{value} fits {fitting} of {schema}")),
        };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = &schema["type"];
    let named =
        *kinds == *kind || kinds.as_array().is_some_and(|kinds| kinds.contains(&json!(kind)));
    let listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    if !named || !listed {
        return Err(format!("{value} is not {schema}"));
    }
    for item in value.as_array().into_iter().flatten() {
        check(document, &schema["items"], item)?;
    }
    let Some(properties) = schema["properties"].as_object() else { return Ok(()) };
    let fields = value.as_object().expect("only objects have properties");
    for required in schema["required"].as_array().expect("what is required is said") {
        let name = required.as_str().expect("a name");
        fields.get(name).ok_or(format!("no {name} in {value}"))?;
    }
    for (name, field) in fields {
        let described = properties.get(name).ok_or(format!("{name} is not described"))?;
        check(document, described, field)?;
    }
    Ok(())
}
