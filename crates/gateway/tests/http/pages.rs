//! Web pages that may use the API, and those that may not (WEB-1 to WEB-4 of the crate).

use playhouse_gateway::{Allowed, ApiKey};
use serde_json::json;

use crate::support::{Reply, Server, murmuring};

const CHAT: &str = "/v1/chat/completions";

/// Asks for a completion with these header lines; without a `host` among them, of localhost.
fn ask(server: &Server, headers: &str) -> Reply {
    let body = json!({ "prompt": "x", "max_tokens": 1 }).to_string();
    let host = if headers.contains("host: ") { "" } else { "host: localhost:8000\r\n" };
    let length = body.len();
    let head = format!("POST /v1/completions HTTP/1.1\r\n{host}{headers}content-length: {length}");
    server.raw(format!("{head}\r\n\r\n{body}").as_bytes())
}

fn preflight(server: &Server, origin: &str) -> Reply {
    let wanted = "authorization,content-type,x-stainless-retry-count";
    let head = format!(
        "OPTIONS {CHAT} HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n\
         access-control-request-method: POST\r\naccess-control-request-headers: {wanted}\r\n\r\n"
    );
    server.raw(head.as_bytes())
}

/// The code of a refusal.
fn code(reply: &Reply) -> String {
    let (status, _, message) = reply.error();
    assert_eq!(status, 403, "{message}");
    assert!(message.contains("--allowed-origins"), "{message}");
    reply.json()["error"]["code"].as_str().expect("a code").to_owned()
}

#[test]
fn without_a_key_foreign_pages_compute_nothing_and_pages_of_this_machine_do() {
    let server = Server::start(murmuring("a"));
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json"] {
        for origin in ["https://evil.example", "null", "http://localhost.evil.example:8000"] {
            let headers = format!("origin: {origin}\r\ncontent-type: {kind}\r\n");
            assert_eq!(code(&ask(&server, &headers)), "foreign_origin", "{origin} {kind}");
        }
    }
    for host in ["rebound.evil.example:8000", "evil.example"] {
        let headers = format!("host: {host}\r\norigin: http://{host}\r\n");
        assert_eq!(code(&ask(&server, &headers)), "foreign_host", "{host}");
        let models = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(code(&server.raw(models.as_bytes())), "foreign_host", "reading, too");
        let probe = format!("GET /readyz HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(server.raw(probe.as_bytes()).status, 200, "probes call it as they like");
    }
    assert_eq!(ask(&server, "").status, 200, "no page at all");
    for origin in ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:1"] {
        let reply = ask(&server, &format!("origin: {origin}\r\n"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
        let reply = preflight(&server, origin);
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
        let headers = reply.header("access-control-allow-headers").expect("allowed headers");
        assert!(headers.contains("x-stainless-retry-count"), "{headers}");
        assert!(reply.header("access-control-allow-methods").expect("methods").contains("POST"));
    }
    let reply = preflight(&server, "https://evil.example");
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[test]
fn with_a_key_every_page_that_has_it_is_served_and_preflights_need_none() {
    let server =
        Server::with(|config| config.api_keys = vec![ApiKey::new("k", "secret")], murmuring("a"));
    let page = "host: api.example\r\norigin: https://chat.example\r\n";
    let allowed = |reply: &Reply| reply.header("access-control-allow-origin").map(str::to_owned);
    let origin = Some("https://chat.example".to_owned());
    let reply = ask(&server, page);
    assert_eq!((reply.status, allowed(&reply)), (401, origin.clone()), "the page sees why");
    let reply = ask(&server, &format!("{page}authorization: Bearer secret\r\n"));
    assert_eq!((reply.status, allowed(&reply)), (200, origin.clone()));
    let exposed = reply.header("access-control-expose-headers").expect("exposed headers");
    assert!(exposed.contains("x-request-id") && exposed.contains("retry-after-ms"), "{exposed}");
    let reply = preflight(&server, "https://chat.example");
    assert_eq!((reply.status, allowed(&reply)), (200, origin));
}

#[test]
fn named_origins_are_the_only_ones_with_a_key_or_without() {
    for keys in [vec![], vec![ApiKey::new("k", "secret")]] {
        let named = "https://chat.example".parse().expect("a header");
        let server = Server::with(
            |config| {
                config.api_keys = keys;
                config.cors.origins = Some(Allowed::Only(vec![named]));
                config.cors.credentials = true;
            },
            murmuring("a"),
        );
        let ask = |headers: &str| ask(&server, &format!("{headers}x-api-key: secret\r\n"));
        let reply = ask("host: chat.example\r\norigin: https://chat.example\r\n");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(ask("origin: http://localhost:8000\r\n").status, 200, "a page of its own");
        assert_eq!(code(&ask("origin: http://localhost:5173\r\n")), "foreign_origin");
        assert_eq!(code(&ask("origin: https://evil.example\r\n")), "foreign_origin");
    }
    let server = Server::with(|config| config.cors.origins = Some(Allowed::Any), murmuring("a"));
    let reply = ask(&server, "host: any.example\r\norigin: https://evil.example\r\n");
    assert_eq!(reply.status, 200, "who allows every page has it");
}
