//! **CC-1**, **CC-2**: the files of `cluster-configs/`, read whole and planned for the model that the
//! comment of each names, against the files of `tests/golden/cluster-configs`.
//!
//! When a change of the output is meant, run with `REWRITE=1` and review the
//! difference.

use std::fs;
use std::path::Path;

use playhouse_layout::{CrossDomain, ModelShape};
use playhouse_planner::{ClusterConfig, Plan};

const MODELS: [(&str, &str); 7] = [
    ("balanced", "llama-3.1-8b"),
    ("high-throughput", "llama-3.1-8b"),
    ("low-latency", "llama-3.1-70b"),
    ("single-node", "llama-3.1-70b"),
    ("multi-node", "llama-3.1-405b"),
    ("multi-node-moe", "deepseek-v3"),
    ("long-context", "llama-3.1-70b"),
];

fn here(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_file_is_a_preset_and_plans_as_reviewed() {
    let folder = fs::read_dir(here("../../cluster-configs")).expect("cluster-configs");
    let mut files: Vec<_> = folder
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    files.sort_unstable();
    let mut named: Vec<_> = ClusterConfig::presets().map(|name| format!("{name}.toml")).collect();
    named.sort_unstable();
    assert_eq!(files, named, "the files and the presets");
    assert_eq!(MODELS.map(|(name, _)| name).to_vec(), ClusterConfig::presets().collect::<Vec<_>>());
    for (name, model) in MODELS {
        let text = fs::read_to_string(here(&format!("../../cluster-configs/{name}.toml"))).unwrap();
        let config = ClusterConfig::parse(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(ClusterConfig::preset(name).as_ref(), Some(&config));
        let said = text.to_lowercase().replace("\n# ", " ");
        assert!(said.contains(&format!("for {model}")), "{name}: the comment names {model}");
        let shape = fs::read(here(&format!("src/published/{model}.json"))).expect(model);
        let shape = ModelShape::parse(&shape).expect(model);
        let ClusterConfig { parallel, hardware, serving } = &config;
        let plan = Plan::new(parallel, &shape, Some(hardware), serving, CrossDomain::Warn);
        let plan = plan.unwrap_or_else(|broken| panic!("{name}: {broken:?}")).to_string();
        let golden = here(&format!("tests/golden/cluster-configs/{name}.txt"));
        if std::env::var_os("REWRITE").is_some() {
            fs::create_dir_all(golden.parent().expect("a folder")).expect("a folder");
            fs::write(&golden, &plan).expect("a writable golden file");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(plan, expected, "{name} differs from {}", golden.display());
    }
}

/// **CC-1**
#[test]
fn what_a_file_says_wrongly_is_named_with_its_place() {
    let nodes = "[[nodes]]\nname = \"a\"\ndevices = 2\ndevice = \"H100\"\n";
    for (text, expected) in [
        (format!("[parallel]\ntensr = 2\n{nodes}"), "unknown field `tensr`"),
        (format!("[parallel]\ntensor = -2\n{nodes}"), "line 2"),
        (format!("speed = 9\n{nodes}"), "unknown field `speed`"),
        ("[parallel]\ntensor = 2\n".to_owned(), "missing field `nodes`"),
        (nodes.replace("H100", "H1000"), "unknown device `H1000`"),
        (format!("{nodes}{nodes}"), "two nodes are named `a`"),
        (nodes.replace("= 2", "= 4000000000"), "4000000000 devices"),
    ] {
        let error = ClusterConfig::parse(&text).expect_err(&text).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(ClusterConfig::preset("nope"), None);
}
