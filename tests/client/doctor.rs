use std::net::TcpListener;

use serde_json::{Value, json};

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
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("bound").port().to_string()
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
        ("tokenizer", "BPE"),
        ("chat template", "in tokenizer_config.json"),
        ("weights", "1 tensors in 1 files, 0.00 GB"),
    ] {
        let check = check(&json, name);
        assert_eq!((&check["status"], &check["detail"]), (&json!("ok"), &json!(detail)));
    }
}

#[test]
fn what_is_wrong_with_a_model_folder_is_named() {
    let index = |file: &str| json!({"weight_map": {"w": file}}).to_string();
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for (file, bytes, name, why) in [
        ("config.json", b"{".to_vec(), "config", "EOF while parsing"),
        ("config.json", b"{}".to_vec(), "config", "names no architecture"),
        ("tokenizer.json", b"[]".to_vec(), "tokenizer", "invalid type: sequence"),
        (
            "model.safetensors",
            safetensors(header, 3),
            "weights",
            "end at byte 4 of the data, which has 3",
        ),
        (
            "model.safetensors",
            vec![255; 8],
            "weights",
            "the header claims 18446744073709551615 bytes",
        ),
        ("model.safetensors", vec![1, 2], "weights", "failed to fill whole buffer"),
        (
            "model.safetensors",
            safetensors(b"{\"w\":1}", 0),
            "weights",
            "tensor w has no data_offsets",
        ),
        (
            "model.safetensors.index.json",
            index("b.safetensors").into(),
            "weights",
            "b.safetensors: No such file",
        ),
        (
            "model.safetensors.index.json",
            index("../x").into(),
            "weights",
            "is not the name of a file",
        ),
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
    assert!(finished.stdout.contains("fail  model          /nowhere is not a folder\n"));
    assert!(finished.stdout.contains("hint: give a folder"), "{}", finished.stdout);
}

fn write_model(folder: &Folder) {
    folder.write("config.json", json!({"architectures": ["Qwen3ForCausalLM"]}).to_string());
    folder.write("tokenizer.json", json!({"model": {"type": "BPE"}}).to_string());
    folder.write("tokenizer_config.json", json!({"chat_template": "x"}).to_string());
    let header = br#"{"__metadata__":{},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    folder.write("model.safetensors", safetensors(header, 4));
}

fn safetensors(header: &[u8], data_bytes: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header, &vec![0; data_bytes]].concat()
}
