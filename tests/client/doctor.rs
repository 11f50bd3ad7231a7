use serde_json::{Value, json};

use crate::ports::port;
use crate::server::{Reply, Server};
use crate::{Finished, Folder, run};

fn doctor(args: &[&str]) -> (Finished, Value) {
    let finished = run(&[&["doctor", "--json"], args].concat());
    let json = serde_json::from_str(&finished.stdout).expect("the output is JSON");
    (finished, json)
}

fn check<'a>(json: &'a Value, name: &str) -> &'a Value {
    let checks = json["checks"].as_array().expect("a list of checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} in {json}"))
}

fn free_port() -> String {
    port().to_string()
}

/// D-1, D-2
#[test]
fn every_check_has_a_status_and_the_exit_code_follows_the_worst() {
    let (finished, json) = doctor(&["--port", &free_port()]);
    let names = ["cpu", "memory", "open files", "clock", "environment", "RUST_LOG", "port"];
    let checks = json["checks"].as_array().expect("a list of checks");
    assert_eq!(checks.iter().map(|check| check["name"].clone()).collect::<Vec<_>>(), names);
    for check in checks {
        let fine = check["status"] == "ok";
        assert!(fine || ["warn", "fail"].iter().any(|status| check["status"] == *status));
        assert_eq!(check["hint"].is_null(), fine, "{check}");
    }
    let failed = checks.iter().any(|check| check["status"] == "fail");
    assert_eq!(json["status"] == "fail", failed);
    assert_eq!(finished.code, i32::from(failed));
    assert_eq!(check(&json, "port")["status"], "ok");
}

#[test]
fn who_has_the_port_is_named() {
    let server = Server::start(|_| Reply::Close);
    let port = server.address.port().to_string();
    let (_, json) = doctor(&["--port", &port]);
    let port_check = check(&json, "port");
    assert_eq!(port_check["status"], "warn");
    let expected =
        format!("127.0.0.1:{port} is taken by an OpenAI server with the model demo, version 9.9.9");
    assert_eq!(port_check["detail"], expected);
}

#[test]
fn a_whole_model_folder_is_fit() {
    let folder = Folder::new();
    write_model(&folder);
    let (_, json) = doctor(&["--port", &free_port(), folder.path()]);
    for (name, detail) in [
        ("config", "Qwen3ForCausalLM"),
        ("tokenizer", "288 tokens"),
        ("chat template", "compiles"),
        ("weights", "148.9 KiB"),
    ] {
        let check = check(&json, name);
        assert_eq!((&check["status"], &check["detail"]), (&json!("ok"), &json!(detail)));
    }
}

#[test]
fn what_is_wrong_with_a_model_folder_is_named() {
    for (file, bytes, name, why) in [
        ("config.json", &b"{"[..], "config", "config.json"),
        ("config.json", b"{}", "config", "architectures"),
        ("tokenizer.json", b"[]", "tokenizer", "tokenizer.json"),
        ("chat_template.jinja", b"{% if %}", "chat template", "line 1"),
        ("generation_config.json", br#"{"top_p": 7}"#, "sampling", "top_p"),
        ("model.safetensors", &[255; 8], "weights", "model.safetensors"),
        ("model.safetensors", &[1, 2], "weights", "model.safetensors"),
    ] {
        let folder = Folder::new();
        write_model(&folder);
        folder.write(file, bytes);
        let (finished, json) = doctor(&["--port", &free_port(), folder.path()]);
        let check = check(&json, name);
        assert_eq!((finished.code, &check["status"]), (1, &json!("fail")), "{check}");
        assert!(check["detail"].as_str().is_some_and(|detail| detail.contains(why)), "{check}");
    }
}

#[test]
fn lines_for_people_say_the_same() {
    let finished = run(&["doctor", "--port", &free_port(), "/nowhere"]);
    assert_eq!(finished.code, 1);
    assert!(finished.stdout.contains("fail  model          /nowhere: not a model folder"));
    assert!(finished.stdout.contains("hint: "), "{}", finished.stdout);
}

/// A copy of a reference checkpoint.
fn write_model(folder: &Folder) {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/qwen3-gqa4-f32");
    for entry in std::fs::read_dir(reference).expect("the reference checkpoint") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        folder.write(name, std::fs::read(&path).expect("readable"));
    }
}
