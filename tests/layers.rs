//! The layers of ARCHITECTURE.md, read from `cargo metadata`: a crate uses crates above it in this
//! table only, and some libraries belong to one crate.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Top to bottom. A crate may depend on any crate before it.
const LAYERS: [&str; 19] = [
    "playhouse-types",
    "playhouse-telemetry",
    "playhouse-layout",
    "playhouse-kvcache",
    "playhouse-scheduler",
    "playhouse-router",
    "playhouse-planner",
    "playhouse-ops",
    "playhouse-collectives",
    "playhouse-model",
    "playhouse-engine",
    "playhouse-wire",
    "playhouse-link",
    "playhouse-cluster",
    "playhouse-rank",
    "playhouse-listener",
    "playhouse-gateway",
    "playhouse-admin",
    "playhouse",
];

/// Edges that the order would allow but an invariant forbids: nothing of the left uses the right.
const FORBIDDEN: [(&[&str], &[&str], &str); 11] = [
    (
        &[
            "playhouse-types",
            "playhouse-layout",
            "playhouse-kvcache",
            "playhouse-scheduler",
            "playhouse-router",
            "playhouse-planner",
        ],
        &["tokio", "rand", "playhouse-telemetry"],
        "A1: pure crates know no runtime, randomness or clock",
    ),
    (
        &["playhouse-scheduler"],
        &["candle-core", "playhouse-ops", "playhouse-model"],
        "A2: the scheduler knows no device or model",
    ),
    (
        &["playhouse-model"],
        &["playhouse-scheduler", "playhouse-kvcache"],
        "A3: the model knows no request",
    ),
    (
        &["playhouse-engine"],
        &["playhouse-scheduler", "playhouse-kvcache", "tokio"],
        "A4: the engine decides nothing",
    ),
    (
        &["playhouse-wire"],
        &["tokio", "quinn", "bytes", "playhouse-telemetry", "playhouse-engine"],
        "A6: wire does no I/O",
    ),
    (
        &["playhouse-link"],
        &["ractor", "playhouse-scheduler", "playhouse-engine", "playhouse-collectives"],
        "A6: link knows peers and bytes, not actors",
    ),
    (
        &["playhouse-rank", "playhouse-listener", "playhouse-gateway", "playhouse-admin"],
        &["ractor"],
        "A7: only cluster knows actors",
    ),
    (
        &["playhouse-listener", "playhouse-gateway", "playhouse-admin"],
        &["playhouse-engine"],
        "A7: only cluster knows actors",
    ),
    (&["playhouse-admin"], &["playhouse-gateway"], "A8: only gateway knows OpenAI JSON"),
    (&["playhouse-cluster", "playhouse-rank"], &["axum", "hyper"], "A8: only the edges know HTTP"),
    (&["playhouse"], &["ractor", "axum"], "A7, A8: the binary wires, it knows no actor or route"),
];

/// `(crate, names it depends on in [dependencies])` of every workspace member.
fn dependencies() -> Vec<(String, Vec<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let normal = |package: &Value| {
        let all = package["dependencies"].as_array().expect("a list").iter();
        all.filter(|dependency| dependency["kind"].is_null()).map(name).collect()
    };
    let packages = metadata["packages"].as_array().expect("a list").iter();
    packages.map(|package| (name(package), normal(package))).collect()
}

#[test]
fn every_crate_is_in_the_table() {
    let mut found: Vec<_> = dependencies().into_iter().map(|(name, _)| name).collect();
    let mut expected = LAYERS.map(str::to_owned).to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn dependencies_point_up_the_table_only() {
    let layer = |name: &str| LAYERS.iter().position(|&layer| layer == name);
    for (package, dependencies) in dependencies() {
        let own = layer(&package).expect("in the table");
        for dependency in &dependencies {
            let Some(other) = layer(dependency) else { continue };
            assert!(other < own, "{package} must not depend on {dependency}");
        }
    }
}

#[test]
fn libraries_stay_where_the_invariants_put_them() {
    for (package, dependencies) in dependencies() {
        for (packages, libraries, invariant) in FORBIDDEN {
            if !packages.contains(&package.as_str()) {
                continue;
            }
            for library in libraries {
                let uses = dependencies.iter().any(|dependency| dependency == library);
                assert!(!uses, "{package} must not depend on {library}. {invariant}");
            }
        }
    }
}

/// Files that a reader opens between the socket and the logits, and back.
const WALK_FILES_MAX: usize = 30;

/// Each file of the walk of a request is named by one before it, the first of a crate by the name of the
/// crate: what is listed is a way through the code.
#[test]
fn the_walk_of_a_request_is_short_and_leads_through_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| {
        let text = fs::read_to_string(root.join(path));
        text.unwrap_or_else(|why| panic!("{path}: {why}"))
    };
    let architecture = read("ARCHITECTURE.md");
    let walk = architecture.split("## The walk of a request").nth(1).expect("the section");
    let list = walk.split("```text").nth(1).and_then(|rest| rest.split("```").next());
    let files: Vec<&str> = list
        .expect("the list of files")
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!((10..=WALK_FILES_MAX).contains(&files.len()), "{} files", files.len());
    // A client names the first, which is given the second as a service.
    let mut known = BTreeSet::from(["playhouse_listener", "playhouse_gateway"].map(str::to_owned));
    let mut crates = BTreeSet::new();
    for file in files {
        let (folder, path) = file.split_once("/src/").expect("CRATE/src/FILE");
        let module = path.trim_end_matches(".rs").rsplit('/').next().expect("a name");
        let is_first = crates.insert(folder);
        let name = if is_first { format!("playhouse_{folder}") } else { module.to_owned() };
        assert!(known.contains(&name), "{file}: no file before it names `{name}`");
        let text = read(&format!("crates/{file}"));
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        known.extend(text.split(|c| !is_word(c)).map(str::to_owned));
    }
}
