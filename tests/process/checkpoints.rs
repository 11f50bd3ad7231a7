//! Checkpoints as people publish them: tokens, ends of turns and templates wherever files name them, and
//! templates that mean harm.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ranks::children;
use crate::server::Server;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference");

const TURNS: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n\
                     {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A copy of a reference checkpoint, whose tokenizer has 284 tokens and then `<|endoftext|>`,
/// `<|im_start|>`, `<|im_end|>` and `<|begin_of_text|>`.
struct Copy(PathBuf);

// === impl Copy ===

impl Copy {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).expect("a folder for the copy");
        for entry in
            fs::read_dir(Path::new(REFERENCE).join("qwen3-gqa4-f32")).expect("the reference")
        {
            let entry = entry.expect("readable");
            fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
        }
        Self(folder)
    }

    /// A copy with this chat template.
    fn with_template(name: &str, template: &str) -> Self {
        let copy = Self::new(name);
        fs::write(copy.0.join("chat_template.jinja"), template).expect("written");
        copy
    }

    /// Changes a file of JSON, which may not exist yet.
    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
        let mut value = serde_json::from_str(&text).expect("JSON");
        change(&mut value);
        fs::write(path, value.to_string()).expect("written");
    }

    fn serve(&self, flags: &[&str]) -> Server {
        let mut arguments = vec![self.0.to_str().expect("a plain path")];
        arguments.extend(["--threads", "1"]);
        arguments.extend(flags);
        Server::start(&arguments)
    }
}

fn chat(content: Value) -> Value {
    json!({ "messages": [{ "role": "user", "content": content }] })
}

fn token_ids(server: &Server, body: &Value) -> Value {
    let response = server.post("/tokenize", body);
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["tokens"].clone()
}

/// The text of a prompt, by its tokens.
fn prompt(server: &Server, body: &Value) -> String {
    let body = json!({ "tokens": token_ids(server, body) });
    let text = server.post("/detokenize", &body).json()["prompt"].clone();
    text.as_str().expect("a text").to_owned()
}

/// The most memory that the server itself has had, in MiB.
fn peak_mib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// Templates that grow a string or a list, nest without end, or run for long. Each does nothing of that for
/// the short conversations by which a server tries a template out.
const HOSTILE: [(&str, &str); 9] = [
    (
        "doubling",
        "{% set n = namespace(s='x') %}{% for i in range(50) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    ),
    (
        "doubled-block",
        "{% for i in range(99) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    ),
    ("width", "{{ '%999999999999d' | format(5) }}"),
    ("batch", "{{ [1] | batch(9999999999, 0) | list | length }}"),
    ("indent", "{{ ('x\n' * 9000000) | indent(90000) | length }}"),
    (
        "lists",
        "{% set n = namespace(l=[1]) %}{% for i in range(50) %}{% set n.l = n.l + n.l %}{% endfor %}{{ n.l | list | length }}",
    ),
    (
        "nesting",
        "{% set n = namespace(l=[]) %}{% for i in range(200000) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l }}",
    ),
    (
        "comparing",
        "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
    ),
    ("loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
];

#[test]
fn a_hostile_template_costs_its_request_and_nothing_else() {
    for (name, bomb) in HOSTILE {
        let template = format!(
            "{{% if messages[0].content == 'now' %}}{{% set n = namespace(s='xxxxxxxx') %}}{bomb}{{% endif %}}{TURNS}"
        );
        let server = Copy::with_template(&format!("hostile-{name}"), &template).serve(&[]);
        let before = peak_mib(&server);
        std::thread::scope(|scope| {
            let bombs: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| server.post("/tokenize", &chat(json!("now")))))
                .collect();
            let mut answers = 0;
            while !bombs.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                assert_eq!(server.get("/health").status, 200, "{name}");
                answers += 1;
            }
            // This one runs for seconds, in which others are answered.
            assert!(name != "comparing" || answers > 10, "only {answers} answers meanwhile");
            for bomb in bombs {
                let response = bomb.join().expect("an answer");
                assert_eq!(response.status, 400, "{name}: {}", response.body);
                let error = response.json()["error"]["message"].clone();
                let error = error.as_str().expect("a message");
                assert!(error.starts_with("chat template failed: "), "{name}: {error}");
            }
        });
        assert_eq!(
            prompt(&server, &chat(json!("Hi"))),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        let grown = peak_mib(&server) - before;
        assert!(grown < 100, "{name}: the server has grown by {grown} MiB");
    }
}

#[test]
fn the_process_of_a_template_ends_with_its_server() {
    let server = Copy::with_template("template-process", TURNS).serve(&[]);
    let processes = children(server.pid());
    assert_eq!(processes.len(), 1, "{processes:?}");
    let own = fs::read(format!("/proc/{}/environ", processes[0])).expect("it lives");
    assert!(own.is_empty(), "nothing of the server's environment");
    server.signal("KILL");
    server.wait();
    while crate::ranks::lives(processes[0]) {
        std::thread::yield_now();
    }
}

#[test]
fn a_template_is_given_by_a_file_or_as_text() {
    let copy = Copy::new("given-template");
    drop(fs::remove_file(copy.0.join("chat_template.jinja")));
    let refusal = copy.serve(&[]).post("/v1/chat/completions", &chat(json!("Hi")));
    assert_eq!(refusal.status, 400);
    assert!(refusal.body.contains("--chat-template"), "{}", refusal.body);
    let file = copy.0.join("given.jinja");
    fs::write(&file, "[{{ messages[0].content }}]").expect("written");
    let file = file.to_str().expect("plain");
    assert_eq!(prompt(&copy.serve(&["--chat-template", file]), &chat(json!("Hi"))), "[Hi]");
    let text = ["--chat-template", "<{{ messages[0].content }}>"];
    assert_eq!(prompt(&copy.serve(&text), &chat(json!("Hi"))), "<Hi>");
}

#[test]
fn completions_are_served_whatever_the_template_is() {
    let named = json!([{ "name": "tool_use", "template": TURNS }]);
    for (name, template, said) in [
        ("broken", json!("{% if %}"), "line 1"),
        ("tool-use", named, "no \\\"default\\\""),
        ("bomb", json!("{{ '%999999999999d' | format(5) }}"), "memory"),
    ] {
        let copy = Copy::new(&format!("template-{name}"));
        drop(fs::remove_file(copy.0.join("chat_template.jinja")));
        copy.edit("tokenizer_config.json", |config| config["chat_template"] = template);
        let server = copy.serve(&[]);
        let body = json!({ "prompt": "Hi", "max_tokens": 2 });
        assert_eq!(server.post("/v1/completions", &body).status, 200, "{name}");
        let refusal = server.post("/v1/chat/completions", &chat(json!("Hi")));
        assert_eq!(refusal.status, 400, "{name}");
        assert!(refusal.body.contains(said), "{name}: {}", refusal.body);
    }
}

#[test]
fn parts_reach_a_template_that_walks_them() {
    let walks = "{% for m in messages %}{% if m.content is string %}S{{ m.content }}{% else %}\
                 {% for part in m.content %}({{ part.text }}){% endfor %}{% endif %}{% endfor %}";
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let server = Copy::with_template("walks-parts", walks).serve(&[]);
    assert_eq!(prompt(&server, &chat(parts.clone())), "(a)(b)");
    assert_eq!(prompt(&server, &chat(json!("a"))), "Sa");
    let server = Copy::with_template("joins-parts", TURNS).serve(&[]);
    assert!(prompt(&server, &chat(parts)).starts_with("<|im_start|>user\na\nb<|im_end|>"));
}

#[test]
fn a_text_ends_at_the_tokens_of_the_generation_config_and_of_the_tokenizer() {
    let copy = Copy::with_template("ends", TURNS);
    copy.edit("config.json", |config| config["eos_token_id"] = json!(284));
    copy.edit("generation_config.json", |config| {
        *config = json!({ "eos_token_id": 284, "max_new_tokens": 3 });
    });
    copy.edit("tokenizer_config.json", |config| config["eos_token"] = json!("<|im_end|>"));
    let server = copy.serve(&[]);
    let answer = |fields: Value| {
        let mut body = chat(json!("Hi"));
        body["temperature"] = json!(0);
        for (name, value) in fields.as_object().expect("fields") {
            body[name] = value.clone();
        }
        server.post("/v1/chat/completions", &body).json()
    };
    for eos in ["284", "286"] {
        let answer = answer(json!({ "logit_bias": { eos: 100 } }));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{eos}: {answer}");
    }
    let usage = |answer: Value| answer["usage"]["completion_tokens"].clone();
    assert_eq!(usage(answer(json!({ "ignore_eos": true }))), 3, "max_new_tokens");
    assert_eq!(usage(answer(json!({ "ignore_eos": true, "max_tokens": 5 }))), 5);
}

#[test]
fn tokens_that_only_files_beside_the_tokenizer_name_are_tokens() {
    let token = |special: bool| json!({ "content": "<|call|>", "special": special });
    let text = json!({ "prompt": "a<|call|>b" });
    let modern = Copy::new("added-tokens-decoder");
    modern.edit("tokenizer_config.json", |config| {
        config["added_tokens_decoder"]["288"] = token(true);
    });
    let older = Copy::new("added-tokens");
    older.edit("tokenizer_config.json", |config| {
        config.as_object_mut().expect("an object").remove("added_tokens_decoder");
    });
    older.edit("added_tokens.json", |tokens| tokens["<|call|>"] = json!(288));
    for copy in [modern, older] {
        let tokens = token_ids(&copy.serve(&[]), &text);
        assert_eq!(tokens.as_array().map(Vec::len), Some(3), "{tokens}");
        assert_eq!(tokens[1], 288, "{tokens}");
    }
}
