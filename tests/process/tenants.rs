//! Holders of different API keys: what one can learn of another, and how keys come and go.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::cluster::{Folder, Process, wait_until};
use crate::server::Server;

const BINARY: &str = env!("CARGO_BIN_EXE_playhouse");

/// Prompt tokens that were found in the prefix cache.
fn cached(server: &Server, key: &str, prompt: &str) -> u64 {
    let body = json!({ "prompt": prompt, "max_tokens": 1 }).to_string();
    let headers = format!("content-type: application/json\r\nauthorization: Bearer {key}\r\n");
    let reply = server.send("POST", "/v1/completions", &headers, &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let usage = &reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"];
    usage.as_u64().unwrap_or_else(|| panic!("no count in {}", reply.body))
}

#[test]
fn a_key_finds_no_prefix_of_another_unless_they_are_of_one_group() {
    let folder = Folder::new();
    let file = folder.join("keys.toml");
    let key =
        |name: &str, more: &str| format!("[[key]]\nname = '{name}'\nkey = 'k-{name}'\n{more}");
    let group = "cache_group = 'team'\n";
    let keys = [key("a", ""), key("b", ""), key("c", group), key("d", group)].concat();
    fs::write(&file, keys).expect("written");
    // Two replicas: the router's index must keep keys apart as well, and find what is a key's own.
    let server = Server::start(&["--api-keys-file", &file, "-dp", "2"]);
    let prompt = "The rain in Spain stays mainly in the plain. ".repeat(8);
    let ask = |key| cached(&server, key, &prompt);
    assert_eq!(ask("k-a"), 0, "nobody has asked before");
    assert_eq!(ask("k-b"), 0, "a's prompt is not found by b");
    assert!(ask("k-a") > 0 && ask("k-b") > 0, "each finds its own");
    assert_eq!(ask("k-c"), 0, "nor by a group");
    assert!(ask("k-d") > 0, "which shares");
}

#[test]
fn keys_are_made_once_and_read_anew_while_it_serves() {
    let folder = Folder::new();
    let file = folder.join("keys.toml");
    let make = |name| {
        let made = Command::new(BINARY).args(["key", "create", "--name", name]).output();
        let made = made.expect("the binary starts");
        assert!(made.status.success());
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let (key, lines) = (text(made.stdout), text(made.stderr));
        assert!(!lines.contains(key.trim()), "the file gets the digest only: {lines}");
        (key.trim().to_owned(), lines)
    };
    let ((old, old_lines), (new, new_lines)) = (make("old"), make("new"));
    assert_ne!(old, new);
    let bad = Command::new(BINARY).args(["key", "create", "--name", "a b"]).output();
    assert_eq!(bad.expect("the binary starts").status.code(), Some(2));

    fs::write(&file, &old_lines).expect("written");
    let serve = ["serve", "--port", "0", "--admin-port", "0", "--api-keys-file", &file];
    let mut server = Process::start(None, &serve);
    let api = server.after("API       http://");
    let api = api.split('/').next().expect("an address").to_owned();
    let admits = |key: &str| {
        let head = format!("authorization: Bearer {key}\r\n");
        let reply = crate::cluster::get(&api, "/v1/models", &head);
        let status = reply.split(' ').nth(1).expect("a status").to_owned();
        assert!(["200", "401"].contains(&&*status), "{reply}");
        status == "200"
    };
    let hang_up = |server: &Process| {
        let pid = server.pid().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &pid]).status().expect("kill").success());
    };
    assert!(admits(&old) && !admits(&new));
    fs::write(&file, [&*old_lines, &new_lines].concat()).expect("written");
    hang_up(&server);
    wait_until("the new key is known", || admits(&new));
    assert!(admits(&old), "both are good while clients change over");
    fs::write(&file, &new_lines).expect("written");
    hang_up(&server);
    wait_until("the old key is gone", || !admits(&old));
    fs::write(&file, "[[key]]\nname = 'broken").expect("written");
    hang_up(&server);
    let said = server.complains("the API keys stay as they were");
    assert!(said.contains("keys.toml:"), "{said}");
    assert!(admits(&new));
}
