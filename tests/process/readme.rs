//! Every command of README.md, run as it stands there: only the port, the path of the binary and
//! the path of the example checkpoint are replaced.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::cluster::Folder;
use crate::server::Server;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The lines of every `sh` block of the README, continuations joined.
fn commands() -> Vec<String> {
    commands_of("README.md")
}

fn commands_of(page: &str) -> Vec<String> {
    let page = fs::read_to_string(Path::new(ROOT).join(page)).expect(page);
    let mut commands = Vec::new();
    for block in page.split("```sh\n").skip(1) {
        let block = block.split("```").next().expect("split yields one part");
        commands.extend(block.replace("\\\n", " ").lines().map(str::to_owned));
    }
    commands
}

fn command_with(word: &str) -> String {
    let found = commands().into_iter().find(|command| command.contains(word));
    found.unwrap_or_else(|| panic!("README.md has no command with {word:?}"))
}

/// Runs a client command of the README against `server`.
fn run(command: &str, server: &Server) -> Output {
    let address = server.url();
    let port = address.rsplit(':').next().expect("an address has a port");
    let command = command
        .replace("http://127.0.0.1:8000", &address)
        .replace("playhouse chat", &format!("playhouse chat --url {address}"))
        .replace("playhouse bench", &format!("playhouse bench --port {port}"))
        .replace("playhouse ", &format!("{} ", env!("CARGO_BIN_EXE_playhouse")));
    let output = Command::new("sh").args(["-c", &command]).output().expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}\n{stderr}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_command_is_known_here() {
    let known = [
        "cargo run",
        "cargo test",
        "curl",
        "serve /models/",
        "serve -tp",
        " plan ",
        " chat ",
        " bench ",
        " doctor",
        // Run in tests/docker.
        "docker/make-secrets",
        "docker compose",
        // Run in tests/client, against a head that needs no model.
        "playhouse status",
        "playhouse top",
    ];
    for command in commands() {
        let tested = known.iter().any(|word| command.contains(word));
        assert!(tested, "no test runs this command of README.md: {command}");
    }
}

#[test]
fn the_first_command_serves_and_the_curl_line_below_it_answers() {
    // `cargo run --release -- serve` is this binary with the argument `serve`.
    assert_eq!(command_with("cargo run"), "cargo run --release -- serve");
    let server = Server::start(&[]);
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: curl is not installed, so the README's curl line was not run");
        return;
    }
    let answer = text(&run(&command_with("curl"), &server));
    assert!(answer.contains("Paris"), "{answer}");
}

#[test]
fn a_checkpoint_in_a_folder_is_served() {
    let command = command_with("serve /models/");
    let folder = Path::new(ROOT).join("tests/reference/qwen2-tied-f32");
    let arguments: Vec<_> = command.split(' ').skip(2).collect();
    let [model, flags @ ..] = &*arguments else { panic!("{command}") };
    assert!(model.starts_with("/models/"));
    let flags: Vec<_> =
        flags.iter().map(|&flag| if flag == "4096" { "64" } else { flag }).collect();
    let mut arguments = vec![folder.to_str().expect("plain")];
    arguments.extend(flags);
    let server = Server::start(&arguments);
    assert!(server.banner.contains("Qwen2ForCausalLM"), "{}", server.banner);
}

#[test]
fn ranks_serve_what_one_serves() {
    let command = command_with("serve -tp");
    let arguments: Vec<_> = command.split(' ').skip(2).collect();
    let server = Server::start(&arguments);
    assert!(server.banner.contains("1 replica of 2 stages of 2 shards"), "{}", server.banner);
    let body = serde_json::json!({ "messages": [
        { "role": "user", "content": "What is the capital of France?" },
    ] });
    let answer = server.post("/v1/chat/completions", &body).body;
    assert!(answer.contains("Paris"), "{answer}");
}

#[test]
fn the_client_commands_work() {
    let server = Server::start(&[]);
    let answer = text(&run(&command_with(" chat "), &server));
    assert!(answer.contains("42"), "{answer}");
    let table = text(&run(&command_with(" bench "), &server));
    assert!(table.contains("Serving Benchmark Result"), "{table}");
    let report = text(&run(&command_with(" doctor"), &server));
    assert!(report.contains("ok"), "{report}");
}

#[test]
fn every_plan_command_of_the_readme_works() {
    let plans: Vec<_> =
        commands().into_iter().filter(|command| command.contains(" plan ")).collect();
    assert!(plans.len() >= 3, "{plans:?}");
    let folder = Folder::new();
    for command in plans {
        assert_prints(&command, &folder.0);
    }
}

/// The blocks write the files that they use.
#[test]
fn every_block_of_commands_about_planning_works() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/planning.md")).expect("the page");
    let blocks: Vec<_> = page.split("```sh\n").skip(1).collect();
    assert!(blocks.len() >= 9, "{}", blocks.len());
    let folder = Folder::new();
    for block in blocks {
        assert_prints(block.split("```").next().expect("split yields one part"), &folder.0);
    }
}

/// Runs a script in `folder`, where `playhouse` is this binary; every command of it must work.
fn assert_prints(script: &str, folder: &Path) {
    let script = format!("playhouse() {{ {} \"$@\"; }}\n{script}", env!("CARGO_BIN_EXE_playhouse"));
    let output =
        Command::new("sh").args(["-euc", &script]).current_dir(folder).output().expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !output.stdout.is_empty(), "{script}\n{errors}");
}

#[test]
fn the_test_command_is_the_one_ci_runs() {
    let ci = fs::read_to_string(Path::new(ROOT).join(".ci/run")).expect(".ci/run");
    let command = command_with("cargo test");
    assert!(ci.lines().any(|line| line == command), ".ci/run does not run `{command}`");
}
